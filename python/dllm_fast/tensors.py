"""What a tensor of torch is, asked without importing torch, or NumPy, for those who have none."""

from __future__ import annotations

import sys
from typing import Any


def is_tensor(value: object) -> bool:
    """Is it a torch tensor? Does not import torch: who holds a tensor has imported it."""
    # Another thread may be importing it: then it has no tensors yet.
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


def is_readable(tensor: Any) -> bool:
    """Has a tensor plain numbers somewhere? No meta, sparse, nested or quantised one has, nor one whose memory was freed."""
    import torch

    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized or tensor.device.type == "meta":
        return False
    count = tensor.numel()
    if tensor.is_contiguous():
        reach = count - 1
    else:
        reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    end = (tensor.storage_offset() + reach + 1) * tensor.element_size()
    try:
        return count == 0 or bool(tensor.untyped_storage().nbytes() >= end)
    except NotImplementedError:  # a wrapper of torch's compiler or of functorch
        return False
