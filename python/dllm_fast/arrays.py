"""Arrays and tensors of others, as the core reads them. Nothing is copied that can be read where it lies."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REMEDY = {"float64": "pass logits.float() (NumPy: logits.astype('float32'))", "int64": "pass logits, not token ids"}


def is_tensor(value: object) -> bool:
    """Is it a torch tensor? Does not import torch: who holds a tensor has imported it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def logits_matrix(logits: Any) -> NDArray[Any]:
    """Logits `[N, V]` as a NumPy array in the same memory: float32 or float16 as such, bfloat16 as its bits in int16.

    Raises:
        InvalidTypeError: neither a torch tensor nor a NumPy array, or of another dtype.
        InvalidValueError: not two-dimensional, empty along V, or not contiguous.
    """
    if not isinstance(logits, np.ndarray) and not is_tensor(logits):
        raise InvalidTypeError(
            f"logits must be a torch tensor or a NumPy array, got {type(logits).__name__}; convert them first"
        )
    name = str(logits.dtype).removeprefix("torch.")
    if name not in ("float32", "float16", "bfloat16"):
        remedy = _REMEDY.get(name, "convert them to float32")
        raise InvalidTypeError(f"logits must be float32, float16 or bfloat16, got {name}; {remedy}")
    shape = tuple(logits.shape)
    if len(shape) != 2 or shape[1] == 0:
        raise InvalidValueError(f"logits must have the shape [N, V] with V > 0, got {list(shape)}; reshape them")
    if isinstance(logits, np.ndarray):
        contiguous = logits.flags.c_contiguous
        array = logits
    else:
        contiguous = logits.is_contiguous()
        tensor = logits.detach()
        if tensor.device.type != "cpu":
            tensor = tensor.cpu()
        if contiguous:
            import torch

            array = (tensor.view(torch.int16) if name == "bfloat16" else tensor).numpy()
    if not contiguous:
        raise InvalidValueError(
            "logits are read in place and must be contiguous, got a strided view; pass logits.contiguous() "
            "(np.ascontiguousarray)"
        )
    return array


def integer_array(value: object, name: str) -> NDArray[np.int64]:
    """Integers from a list, an array or a tensor, as int64.

    Raises:
        InvalidTypeError: anything but integers.
    """
    if is_tensor(value):
        value = value.detach().cpu().numpy()  # type: ignore[attr-defined]
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray([object()])
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu" or _holds_flags(value):
        raise InvalidTypeError(f"{name} must hold integers, got {shown(value)}; pass token ids")
    return array.astype(np.int64)


def _holds_flags(value: object) -> bool:
    """Is True or False in a list? Beside numbers NumPy makes numbers of them."""
    if not isinstance(value, list | tuple):
        return isinstance(value, bool | np.bool_)
    kinds = set(map(type, value))
    return bool(kinds & {bool, np.bool_}) or (bool(kinds & {list, tuple}) and any(map(_holds_flags, value)))
