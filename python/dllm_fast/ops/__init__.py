"""The kernels as operations on torch tensors. Importing this registers `torch.ops.dllm_fast.*`."""

from __future__ import annotations

from dllm_fast.ops import attention

__all__ = ["attention"]
