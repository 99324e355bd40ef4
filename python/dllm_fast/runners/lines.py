"""Lines of logits that one session gives another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.ops import launcher

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def beside(array: NDArray[Any], logits: Tensor) -> Tensor:
    """An array on the device of some logits."""
    return launcher.to_device(torch.from_numpy(array), logits.device)


def as_tensor(matrix: NDArray[Any]) -> Tensor:
    """A matrix of the core's as a tensor in the same memory."""
    found = torch.from_numpy(matrix)
    return found.view(torch.bfloat16) if found.dtype == torch.int16 else found
