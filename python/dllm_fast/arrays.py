"""Arrays and tensors of others, as the core reads them. Nothing is copied that can be read where it lies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown
from dllm_fast.tensors import is_readable, is_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Numbers that are copied at most: far more than any canvas has, and little enough to allocate.
MOST_NUMBERS = 2**27
# What to pass for integers that are no tokens.
_PLACES = dict.fromkeys(("positions", "rows", "begin", "end", "index", "since", "places", "moves"), "pass indices")
_NUMBERS = {
    **_PLACES,
    "eligible_after": "pass positions",
    "top_k": "pass the size of the vocabulary for a row that has no cut",
    "counts": "pass for each id how often it occurs",
    "head_counts": "pass the number of ids of each head",
}
_REMEDY = {"float64": "pass logits.float() (NumPy: logits.astype('float32'))", "int64": "pass logits, not token ids"}


def _check_readable(tensor: Any, name: str) -> None:
    if not is_readable(tensor):
        raise InvalidTypeError(
            f"{name} must be a tensor with numbers in memory of its own, got {shown(tensor)}; pass it dense and on a device"
        )


def on_host(tensor: Any, name: str) -> NDArray[Any]:
    """The numbers of a tensor on the host, whatever it is a view of; in the same memory where that can be.

    Raises:
        InvalidTypeError: it has none, or of a dtype that NumPy does not know.
        InvalidValueError: too many.
    """
    _check_readable(tensor, name)
    check_many(tensor.numel(), name)
    try:
        array: NDArray[Any] = tensor.detach().cpu().resolve_conj().resolve_neg().numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InvalidTypeError(
            f"{name} must be a tensor that NumPy can read, got one of {tensor.dtype} ({error}); convert it first"
        ) from error
    return array


def check_many(count: int, name: str) -> None:
    """Refuses more numbers than can be copied.

    Raises:
        InvalidValueError: there are.
    """
    if count > MOST_NUMBERS:
        raise InvalidValueError(f"{name} must hold at most 2^27 numbers, got {count}; pass fewer at a time")


def unmasked(array: Any, name: str) -> Any:
    """The array; one of `numpy.ma` without its mask, which may mask nothing.

    Raises:
        InvalidValueError: it masks something.
    """
    # Who has one has imported it; another thread may be importing it.
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)
    if masked is None or not isinstance(array, masked):
        return array
    if np.ma.is_masked(array):
        raise InvalidValueError(f"{name} must have no masked entries, got {shown(array)}; leave them out (array.compressed())")
    data: NDArray[Any] = array.data
    return data


def as_array(value: Any, name: str) -> NDArray[Any]:
    """What a caller gave as an array of any dtype, bounded."""
    if is_tensor(value):
        return on_host(value, name)
    if isinstance(value, bytes | bytearray | memoryview):
        raise InvalidTypeError(f"{name} must be numbers, got {shown(value)}; pass a list or an array")
    value = unmasked(value, name)
    if isinstance(value, np.ndarray):
        check_many(value.size, name)
        return value
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        check_many(len(value), name)
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError, RuntimeError):  # ragged, or full of what is no number
        return np.asarray([object()])


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
    if is_tensor(logits):
        _check_readable(logits, "logits")
    name = str(logits.dtype).removeprefix("torch.")
    if name not in ("float32", "float16", "bfloat16"):
        remedy = _REMEDY.get(name, "convert them to float32")
        raise InvalidTypeError(f"logits must be float32, float16 or bfloat16, got {name}; {remedy}")
    shape = tuple(logits.shape)
    if len(shape) != 2 or shape[1] == 0:
        raise InvalidValueError(f"logits must have the shape [N, V] with V > 0, got {list(shape)}; reshape them")
    if isinstance(logits, np.ndarray):
        contiguous = logits.flags.c_contiguous and logits.flags.aligned
        array: NDArray[Any] = unmasked(logits, "logits")
    else:
        contiguous = logits.is_contiguous()
        tensor = logits.detach()
        if tensor.device.type != "cpu":
            tensor = tensor.cpu()
        if contiguous:
            import torch

            tensor = tensor.resolve_neg()
            array = (tensor.view(torch.int16) if name == "bfloat16" else tensor).numpy()
    if not contiguous:
        raise InvalidValueError(
            "logits are read in place and must be contiguous, got a strided view; pass logits.contiguous() "
            "(np.ascontiguousarray)"
        )
    return array


def integer_array(value: object, name: str) -> NDArray[np.int64]:
    """Integers from a list, an array or a tensor, as int64: in the same memory where they are that already.

    Raises:
        InvalidTypeError: anything but integers.
        InvalidValueError: masked entries, numbers from 2^63, or too many.
    """
    remedy = _NUMBERS.get(name, "pass token ids")
    array = as_array(value, name)
    if array.size == 0 and array.dtype.kind in "iuf":
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu" or _holds_flags(value):
        raise InvalidTypeError(f"{name} must hold integers, got {shown(value)}; {remedy}")
    if array.dtype == np.uint64 and array.size and int(array.max()) >= 2**63:
        raise InvalidValueError(f"{name} must hold integers below 2^63, got {array.max()}; {remedy}")
    return array.astype(np.int64, copy=False)


def integer_row(value: object, name: str) -> NDArray[np.int64]:
    """Integers as `integer_array` gives them, of one dimension, in memory of their own.

    Raises:
        InvalidTypeError: anything but integers, or another shape.
        InvalidValueError: masked entries, numbers from 2^63, or too many.
    """
    row = integer_array(value, name)
    if row.ndim != 1:
        raise InvalidTypeError(f"{name} must be flat, got shape {list(row.shape)}; pass a list of integers")
    return row.copy()


def number_array(value: object, name: str) -> NDArray[np.float64]:
    """Numbers from a list, an array or a tensor, float64 `[N]`.

    Raises:
        InvalidTypeError: anything but numbers, or another shape.
        InvalidValueError: masked entries, or too many.
    """
    array = as_array(value, name)
    if array.dtype.kind not in "iuf" or array.ndim != 1 or _holds_flags(value):
        raise InvalidTypeError(f"{name} must be numbers [N], got {shown(value)}; pass numpy float64")
    return np.ascontiguousarray(array, dtype=np.float64)


def flag_array(value: object, name: str) -> NDArray[np.bool_]:
    """Flags from a list, an array or a tensor of True and False, bool `[N]`.

    Raises:
        InvalidTypeError: anything but flags, or another shape.
        InvalidValueError: masked entries, or too many.
    """
    array = as_array(value, name)
    if array.size == 0 and array.ndim == 1:
        array = array.astype(np.bool_)
    if array.dtype.kind != "b" or array.ndim != 1:
        raise InvalidTypeError(f"{name} must hold True and False [N], got {shown(value)}; pass numpy bool")
    return np.ascontiguousarray(array)


def _holds_flags(value: object) -> bool:
    """Is True or False in a list? Beside numbers NumPy makes numbers of them."""
    if not isinstance(value, list | tuple):
        return isinstance(value, bool | np.bool_)
    kinds = set(map(type, value))
    return bool(kinds & {bool, np.bool_}) or (bool(kinds & {list, tuple}) and any(map(_holds_flags, value)))
