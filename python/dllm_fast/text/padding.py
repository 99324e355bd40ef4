"""Padded ids as the rows that they are: rows of any lengths go in one call, so that padding is never run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast.arrays import as_array, integer_array
from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.tensors import is_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What else a tokenizer writes beside the ids, and what says nothing about how they are to be read.
_BESIDE = ("special_tokens_mask", "length", "offset_mapping", "overflow_to_sample_mapping", "num_truncated_tokens")


def unpadded(ids: object, attention_mask: object, name: str = "input_ids") -> list[NDArray[np.int64]]:
    """Rows of ids without their padding.

    Args:
        ids: `[B, L]`, or one row `[L]`, or a list of rows of any lengths.
        attention_mask: of the same shape; 1 (or True) where a token stands, 0 where there is padding, at either end.
        name: of the ids in errors.

    Raises:
        InvalidValueError: another shape, other values than 0 and 1, zeros between tokens, or nothing but padding.
        InvalidTypeError: neither ids nor a mask.
    """
    rows = flat_rows(ids, name)
    masks = flat_rows(attention_mask, "attention_mask", flags=True)
    shapes = [_shape(rows), _shape(masks)]
    if shapes[0] != shapes[1]:
        raise InvalidValueError(
            f"attention_mask must have the shape {shapes[0]} of {name}, got {shapes[1]}; 1 marks a token, 0 padding"
        )
    found = []
    for i, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        if not np.isin(mask, (0, 1)).all():
            bad = mask[~np.isin(mask, (0, 1))][0]
            raise InvalidValueError(f"attention_mask must hold 0 and 1, got {bad} in row {i}; 1 marks a token, 0 padding")
        real = np.flatnonzero(mask)
        if not real.size:
            raise InvalidValueError(f"attention_mask must leave a token in each row, got none in row {i}; leave the row out")
        if len(real) != real[-1] - real[0] + 1:
            hole = real[0] + int(np.argmin(mask[real[0] :]))
            raise InvalidValueError(
                f"attention_mask must mark padding at the ends of a row, got a 0 between tokens at position {hole} of row {i}; "
                "leave those tokens out of the row"
            )
        found.append(row[real[0] : real[-1] + 1])
    return found


def flat_rows(value: object, name: str, *, flags: bool = False) -> list[NDArray[np.int64]]:
    """One row, or several of any lengths, as arrays of integers.

    Args:
        value: a sequence of integers, or of such sequences; arrays and tensors, too.
        name: in errors.
        flags: booleans, and the floats 0 and 1, are integers, too.

    Raises:
        InvalidTypeError: anything else, or more dimensions.
    """
    if is_tensor(value) or isinstance(value, np.ndarray):
        value = as_array(value, name)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and value and _is_row(value[0]):
        items: list[Any] = list(value)
    elif isinstance(value, np.ndarray) and value.ndim == 2:
        items = list(value)
    else:
        items = [value]
    rows = [integer_array(_plain(item, name) if flags else item, name) for item in items]
    for row in rows:
        if row.ndim != 1:
            raise InvalidTypeError(f"each row of {name} must be flat, got shape {list(row.shape)}; pass a list of rows")
    return rows


def _is_row(value: object) -> bool:
    return isinstance(value, list | tuple) or (
        (isinstance(value, np.ndarray) or is_tensor(value)) and value.ndim > 0  # type: ignore[attr-defined]
    )


def _plain(value: object, name: str) -> object:
    array = as_array(value, name)
    whole = array.dtype.kind == "b" or (array.dtype.kind == "f" and bool((array == np.rint(array)).all()))
    return array.astype(np.int64) if whole else value


def _shape(rows: list[NDArray[np.int64]]) -> list[Any]:
    lengths = [len(row) for row in rows]
    return [len(rows), lengths[0] if len(set(lengths)) == 1 else lengths]


def is_encoding(value: object) -> bool:
    """Is it what a tokenizer of transformers gives: a mapping with the ids and what goes with them?"""
    return isinstance(value, Mapping) and "input_ids" in value


def opened(encoding: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """The ids of such a mapping, and its attention mask or None.

    Raises:
        InvalidValueError: it holds what would be ignored: segments, position ids, labels.
    """
    for key, value in encoding.items():
        if key in ("input_ids", "attention_mask", *_BESIDE):
            continue
        if key == "token_type_ids" and not any(row.any() for row in flat_rows(value, key)):
            continue
        why = "segments other than 0 are not passed on" if key == "token_type_ids" else "it would be ignored"
        raise InvalidValueError(f"a {name} must hold input_ids and attention_mask, got {key}: {why}; leave it out")
    return encoding["input_ids"], encoding.get("attention_mask")


def check_pads(ids: object, pad: int | None, *, shared: bool, name: str) -> None:
    """Refuses rows that seem to be padded: without a mask nobody can say so, and padding is no prompt.

    Args:
        ids: as the caller gave them.
        pad: the tokenizer's padding token.
        shared: is it also another token, such as the end? Then it may be meant, but for rows of one length: if not every one
            of them has exactly one, they were padded.
        name: of the ids in errors.

    Raises:
        InvalidValueError: a row begins or ends with padding.
    """
    if pad is None:
        return
    rows = flat_rows(ids, name)
    is_matrix = (isinstance(ids, np.ndarray) or is_tensor(ids)) and ids.ndim == 2  # type: ignore[attr-defined]
    is_table = (is_matrix or len(rows) > 1) and len({len(row) for row in rows}) == 1
    for end, step in (("end", -1), ("beginning", 1)):
        runs = [int(np.argmin([*(row[::step] == pad), False])) for row in rows]
        if any(runs) and (not shared or (is_table and set(runs) != {1})):
            row, run = next((row, run) for row, run in enumerate(runs) if run)
            raise InvalidValueError(
                f"rows of a {name} must not be padded, got {run} of the padding token {pad} at the {end} of row {row}; "
                "leave it out, or pass attention_mask= (1 where a token stands, a padding token that is meant as well)"
            )
