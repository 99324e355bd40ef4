"""Operations with a CUDA kernel and a meaning in plain torch, one a module. Importing this defines `torch.ops.dllm_fast`."""

from __future__ import annotations

from dllm_fast.ops import attention

__all__ = ["attention"]
