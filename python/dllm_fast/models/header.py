"""The header of a safetensors file, checked against the rules of the format and the size of the file."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from dllm_fast.errors import CheckpointError, shown
from dllm_fast.models.jsonfile import LARGEST, parse

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


# How a file begins that Git has in the place of a large one.
_POINTER = b"version https://git-lfs"


class TensorInfo(NamedTuple):
    """Where a tensor lies, and what it is."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> dict[str, TensorInfo]:
    """What a file of weights holds, by key.

    Raises:
        CheckpointError: the file is no safetensors file, is not as long as it says, or its tensors overlap or leave gaps.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(8)
            if _POINTER.startswith(first) and len(first) == 8:
                raise CheckpointError(
                    f"{path} must hold weights, got a pointer of Git LFS to them; run `git lfs pull` in its folder"
                )
            length = int.from_bytes(first, "little")
            if size < 8 or length > min(size - 8, LARGEST):
                raise CheckpointError(
                    f"{path} must begin with a header of at most {LARGEST:,} bytes, got {length:,} in a file of {size:,}; "
                    "it is truncated or no safetensors file, fetch it again"
                )
            data = file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}; check its permissions") from error
    header = parse(data, f"the header of {path}", unique=True)
    header.pop("__metadata__", None)
    spans: list[tuple[int, int, str]] = []
    tensors = {}
    for key, entry in header.items():
        info, begin = _tensor(path, key, entry)
        tensors[key] = info
        spans.append((begin, begin + info.bytes, key))
    _check_spans(path, spans, size - 8 - length)
    return tensors


def _tensor(path: Path, key: str, entry: Any) -> tuple[TensorInfo, int]:
    """One entry of the header and where its bytes begin."""
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
    info = TensorInfo(path, _DTYPES[code], tuple(shape))
    if max(shape, default=0) > _LARGEST_SIZE or len(shape) > 8 or offsets[1] - offsets[0] != info.bytes:
        raise CheckpointError(
            f"{path}: {shown(key)} of type {code} and shape {shown(shape)} must have {shown(info.bytes)} bytes, "
            f"got data_offsets {shown(offsets)}; the file is broken, fetch it again"
        )
    return info, offsets[0]


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _check_spans(path: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    """The format wants the tensors to cover the data without gap or overlap: nothing is hidden or shared."""
    at, previous = 0, "the header"
    for begin, end, key in sorted(spans):
        if begin != at:
            raise CheckpointError(
                f"{path}: {shown(key)} must begin at byte {at}, behind {shown(previous)}, got {begin}; "
                "tensors overlap or leave a gap, do not use this file"
            )
        at, previous = end, key
    if at != size:
        raise CheckpointError(
            f"{path}: the header describes {at:,} bytes of weights, the file has {size:,}; "
            "it is truncated or not what it says, fetch it again"
        )


def read_tensor(info: TensorInfo, key: str, open_files: dict[Path, Any]) -> torch.Tensor:
    """A tensor in the dtype of its file: a view of the mapped file, no copy in private memory.

    Args:
        info: what the header says of it.
        key: its name in the file.
        open_files: those that are mapped already; a new one is added.

    Raises:
        CheckpointError: the file cannot be read, or has changed.
    """
    try:
        if info.file not in open_files:
            open_files[info.file] = safe_open(info.file, framework="pt", device="cpu")
        tensor: torch.Tensor = open_files[info.file].get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {shown(key)} of {info.file}: {error}; fetch the file again") from error
    if tensor.dtype != info.dtype or tuple(tensor.shape) != info.shape:
        raise CheckpointError(f"{info.file} has changed since it was opened, see {shown(key)}; open the folder again")
    return tensor
