"""The order that a caller wants of the positions of each row: ranks, and which positions must be written before others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast.arrays import MOST_NUMBERS, as_array, integer_array, number_array
from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown
from dllm_fast.tensors import is_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


def is_ranks(order: object) -> bool:
    """Is it anything but a name? (None is the default name.)"""
    return order is not None and not isinstance(order, str)


def ranks_of(order: object, rows: int) -> list[NDArray[np.float64]]:
    """For each row, its ranks: of an array of one dimension the same for all.

    Raises:
        InvalidTypeError: what holds no numbers, or is neither one array nor one for each row.
        InvalidValueError: another number of rows, or too many numbers.
    """
    is_array = isinstance(order, np.ndarray) or is_tensor(order)
    if not (is_array or isinstance(order, Sequence)) or isinstance(order, str | bytes | bytearray | memoryview):
        raise InvalidTypeError(
            f"order must be an array of ranks, or one for each row, got {shown(order)}; pass a list of numbers"
        )
    given: Any = order
    dimensions = as_array(given, "order").ndim if is_array else 1 + any(hasattr(each, "__len__") for each in given)
    if dimensions == 1:
        return [number_array(given, "order")] * rows
    count = len(given) if dimensions else 0
    if count != rows:
        raise InvalidValueError(
            f"order must be one array of ranks, or one for each of {rows} rows, got {count}; check its length"
        )
    return [number_array(each, "order") for each in given]


def waits_of(eligible_after: object, rows: int) -> list[list[tuple[int, list[int]]]]:
    """For each row, pairs of a position and those before it: of one mapping the same for all.

    Raises:
        InvalidTypeError: neither a mapping nor one (or None) for each row, or positions that are no whole numbers.
        InvalidValueError: another number of rows, negative positions, or too many.
    """
    if isinstance(eligible_after, Mapping):
        return [_pairs(eligible_after)] * rows
    if not isinstance(eligible_after, list | tuple):
        raise InvalidTypeError(
            "eligible_after must map positions to those that are written before them, or be such a mapping for each row, "
            f"got {shown(eligible_after)}; pass {{4: [2, 3]}} to have 4 wait for 2 and 3"
        )
    if len(eligible_after) != rows:
        raise InvalidValueError(
            f"eligible_after must be one mapping, or one for each of {rows} rows, got {len(eligible_after)}; pass None for a "
            "row without any"
        )
    return [[] if each is None else _pairs(each) for each in eligible_after]


def _pairs(after: object) -> list[tuple[int, list[int]]]:
    if not isinstance(after, Mapping):
        raise InvalidTypeError(
            f"eligible_after must map positions to those that are written before them, got {shown(after)}; pass a dictionary"
        )
    positions = _positions(list(after))
    pairs = [(position, _positions(before)) for position, before in zip(positions, after.values(), strict=True)]
    if sum(len(before) for _, before in pairs) > MOST_NUMBERS:
        raise InvalidValueError("eligible_after must hold at most 2^27 positions, got more; leave out what follows from others")
    return pairs


def _positions(given: Any) -> list[int]:
    if not (isinstance(given, Sequence | np.ndarray | range) or is_tensor(given)) or isinstance(given, str | bytes):
        raise InvalidTypeError(f"eligible_after must name positions in lists, got {shown(given)}; pass a list of whole numbers")
    array = integer_array(given, "eligible_after")
    if array.ndim != 1:
        raise InvalidTypeError(f"eligible_after must name positions in flat lists, got {shown(given)}; pass a list for each")
    if array.size and (array.min() < 0 or array.max() >= 2**32):
        wrong = array.min() if array.min() < 0 else array.max()
        raise InvalidValueError(f"eligible_after must name positions of the canvas, got {wrong}; count from 0")
    positions: list[int] = array.tolist()
    return positions


def moved(ranks: NDArray[np.float64], start: int, new: int, length: int) -> NDArray[np.float64]:
    """Ranks of new positions as those of a whole canvas.

    Args:
        ranks: one for each new position.
        start: where those begin.
        new: how many there are.
        length: of the canvas.

    Raises:
        InvalidValueError: another number of ranks.
    """
    if len(ranks) != new:
        raise InvalidValueError(
            f"order must have a rank for each new position, got {len(ranks)} for max_new_tokens={new}; with infill it has one "
            "for each position of the canvas"
        )
    whole = np.zeros(length)
    whole[start : start + new] = ranks
    return whole


def shifted(pairs: list[tuple[int, list[int]]], start: int, new: int) -> list[tuple[int, list[int]]]:
    """Pairs over new positions as pairs over the canvas, where those begin at `start`.

    Raises:
        InvalidValueError: a position that is none of the `new` ones.
    """
    for position, before in pairs:
        if (largest := max([position, *before])) >= new:
            raise InvalidValueError(
                f"eligible_after must name new positions, got {largest} for max_new_tokens={new}; the first is 0"
            )
    return [(position + start, [earlier + start for earlier in before]) for position, before in pairs]
