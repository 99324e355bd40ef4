"""The header of a safetensors file, checked against the rules of the format and the size of the file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from dllm_fast.checkpoint import regular
from dllm_fast.checkpoint.jsonfile import HEADER, parse
from dllm_fast.errors import CheckpointError, shown

if TYPE_CHECKING:
    from pathlib import Path

# Integers and booleans occur as buffers that nobody reads (the positions of BERT); weights are floating-point numbers.
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}
_LARGEST_SIZE = 2**40  # of one dimension; their product is held against the file
_MOST_DIMENSIONS = 8
# The largest mixtures of experts that are published have 140,000; their longest key has 100 characters.
MOST_TENSORS = 262_144
_LONGEST_KEY = 512


# How a file begins that Git has in the place of a large one.
_POINTER = b"version https://git-lfs"


class TensorInfo(NamedTuple):
    """Where a tensor lies, and what it is.

    Attributes:
        file: that holds it.
        dtype, shape: what it is.
        key: its name in the file.
        begin: its first byte in the file.
        stamp: by which the file is known again.
    """

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    key: str
    begin: int
    stamp: regular.Stamp

    @property
    def bytes(self) -> int:
        """Size of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> dict[str, TensorInfo]:
    """What a file of weights holds, by key.

    Raises:
        CheckpointError: the file is no safetensors file, is not as long as it says, or its tensors overlap or leave gaps.
    """
    with regular.opened(path) as file:
        size, stamp = file.size, file.stamp
        first = file.read(8)
        if _POINTER.startswith(first) and len(first) == 8:
            raise CheckpointError(
                f"{path} must hold weights, got a pointer of Git LFS to them; run `git lfs pull` in its folder"
            )
        length = int.from_bytes(first, "little")
        if size < 8 or length > min(size - 8, HEADER.bytes):
            raise CheckpointError(
                f"{path} must begin with a header of at most {HEADER.bytes:,} bytes, got {length:,} in a file of {size:,}; "
                "it is truncated or no safetensors file, fetch it again"
            )
        data = file.read(length)
    header = parse(data, f"the header of {path}", HEADER, unique=True)
    header.pop("__metadata__", None)
    check_count(path, len(header))
    spans: list[tuple[int, int, str]] = []
    tensors = {}
    for key, entry in header.items():
        if len(key) > _LONGEST_KEY:
            raise CheckpointError(
                f"{path}: a key must not be longer than {_LONGEST_KEY} characters, got {shown(key)} of {len(key):,}; "
                "do not use this file"
            )
        info = _tensor(path, key, entry, 8 + length, stamp)
        tensors[key] = info
        spans.append((info.begin, info.begin + info.bytes, key))
    _check_spans(path, spans, 8 + length, size)
    return tensors


def check_count(place: Path, count: int) -> None:
    """Refuses more tensors than any model has.

    Raises:
        CheckpointError: more than `MOST_TENSORS`.
    """
    if count > MOST_TENSORS:
        raise CheckpointError(
            f"{place} must not hold more than {MOST_TENSORS:,} tensors, got {count:,}; stack what belongs together"
        )


def _tensor(path: Path, key: str, entry: Any, behind: int, stamp: regular.Stamp) -> TensorInfo:
    """One entry of the header, whose bytes are counted from behind the header."""
    entry = entry if isinstance(entry, dict) else {}
    code, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(code, str) or not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(
            f"{path}: {shown(key)} must have dtype, shape and data_offsets, got {shown(entry)}; fetch it again"
        )
    if code not in _DTYPES:
        raise CheckpointError(
            f"{path}: {shown(key)} must be of one of the types {', '.join(_DTYPES)}, got {shown(code)}; "
            "quantised checkpoints are not supported, use the float16, bfloat16 or float32 one"
        )
    if max(shape, default=0) > _LARGEST_SIZE or len(shape) > _MOST_DIMENSIONS:
        raise CheckpointError(
            f"{path}: {shown(key)} must have at most {_MOST_DIMENSIONS} dimensions of sizes up to {_LARGEST_SIZE:,}, got the "
            f"shape {shown(shape)}; the file is broken, fetch it again"
        )
    info = TensorInfo(path, _DTYPES[code], tuple(shape), key, behind + offsets[0], stamp)
    if offsets[1] - offsets[0] != info.bytes:
        raise CheckpointError(
            f"{path}: {shown(key)} of type {code} and shape {shown(shape)} must have {shown(info.bytes)} bytes, "
            f"got data_offsets {shown(offsets)}; the file is broken, fetch it again"
        )
    return info


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _check_spans(path: Path, spans: list[tuple[int, int, str]], header: int, size: int) -> None:
    """The format wants the tensors to cover the data without gap or overlap: nothing is hidden or shared."""
    at, previous = header, "the header"
    for begin, end, key in sorted(spans):
        if begin != at:
            raise CheckpointError(
                f"{path}: {shown(key)} must begin at byte {at - header}, behind {shown(previous)}, got {begin - header}; "
                "tensors overlap or leave a gap, do not use this file"
            )
        at, previous = end, key
    if at != size:
        raise CheckpointError(
            f"{path}: the header describes {at - header:,} bytes of weights, the file has {size - header:,}; "
            "it is truncated or not what it says, fetch it again"
        )
