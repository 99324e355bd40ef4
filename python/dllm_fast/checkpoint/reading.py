"""Numbers of a file of weights, read to where they stay.

They are read, not mapped: of a mapped file that somebody makes shorter, the next touch ends the process (SIGBUS), while a
read that comes too short is an error. Between two reads the file must be the one whose header was checked.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import torch

from dllm_fast.checkpoint import regular
from dllm_fast.checkpoint.memory import allocated
from dllm_fast.errors import CheckpointError, shown

if TYPE_CHECKING:
    from torch import Tensor

    from dllm_fast.checkpoint.header import TensorInfo

# Numbers in memory beside the weights while they are converted, moved or compared: they stay in a cache of the processor.
PIECE = 2**20


class Weights:
    """Files of weights, each opened once for as long as the tensors that are read next lie in it.

    At any time one file is open at most, however many shards there are.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._file: regular.File | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file = None
        self._open.close()

    def tensor(self, info: TensorInfo) -> Tensor:
        """A whole tensor in memory of its own, in the dtype of its file.

        Raises:
            CheckpointError: the file cannot be read, or has changed.
        """
        file = self._of(info)
        with allocated(f"{shown(info.key)} of {info.file}", info.bytes):
            tensor = torch.empty(info.shape, dtype=info.dtype, device="cpu")
            _fill(file, info.begin, tensor)
            return tensor

    def pieces(self, info: TensorInfo, unit: int = 1) -> Iterator[tuple[int, Tensor]]:
        """The numbers of a tensor in order, a few at a time: where they begin, and the piece, which is good until the next.

        Args:
            unit: each piece has a multiple of so many numbers, such as those of a row.

        Raises:
            CheckpointError: the file cannot be read, or has changed.
        """
        count = math.prod(info.shape)
        step = _step(unit)
        file = self._of(info)
        buffer = torch.empty(min(step, count), dtype=info.dtype, device="cpu")
        for begin in range(0, count, step):
            piece = buffer[: min(step, count - begin)]
            _fill(file, info.begin + begin * info.dtype.itemsize, piece)
            yield begin, piece

    def copy(self, info: TensorInfo, target: Tensor) -> None:
        """Copies a tensor to where it stays, contiguous memory of any dtype and device, without another whole copy of it.

        Raises:
            CheckpointError: the file cannot be read, or has changed.
        """
        if target.device.type == "cpu" and target.dtype == info.dtype:
            _fill(self._of(info), info.begin, target)
            return
        flat = target.view(-1)
        for begin, piece in self.pieces(info):
            flat[begin : begin + len(piece)].copy_(piece)

    def _of(self, info: TensorInfo) -> regular.File:
        """The file of a tensor, if it is still the one that was checked."""
        if self._file is None or self._file.path != info.file:
            self._file = None
            self._open.close()
            self._file = self._open.enter_context(regular.opened(info.file))
        if self._file.stamp_now() != info.stamp:
            raise CheckpointError(
                f"{info.file} has changed since it was opened, see {shown(info.key)}; open the folder again when nobody "
                "writes into it"
            )
        return self._file


def read_tensor(info: TensorInfo) -> Tensor:
    """One whole tensor, as `Weights.tensor`.

    Raises:
        CheckpointError: the file cannot be read, or has changed.
    """
    with Weights() as weights:
        return weights.tensor(info)


def pieces(info: TensorInfo, unit: int = 1) -> Iterator[tuple[int, Tensor]]:
    """The pieces of one tensor, as `Weights.pieces`; several may be read at the same time.

    Raises:
        CheckpointError: the file cannot be read, or has changed.
    """
    with Weights() as weights:
        yield from weights.pieces(info, unit)


def copy(info: TensorInfo, target: Tensor) -> None:
    """Copies one tensor, as `Weights.copy`.

    Raises:
        CheckpointError: the file cannot be read, or has changed.
    """
    with Weights() as weights:
        weights.copy(info, target)


def cut(tensor: Tensor, unit: int = 1) -> Iterator[tuple[int, Tensor]]:
    """A tensor in the same pieces as `pieces` has."""
    flat, step = tensor.reshape(-1), _step(unit)
    for begin in range(0, len(flat), step):
        yield begin, flat[begin : begin + step]


def _step(unit: int) -> int:
    unit = max(1, unit)
    return unit * max(1, PIECE // unit)


def _fill(file: regular.File, begin: int, target: Tensor) -> None:
    """Fills a contiguous tensor in the host's memory."""
    if not target.numel():
        return
    numbers = target.detach().view(-1).view(torch.uint8).numpy()
    file.fill(numbers.data, begin)
    if sys.byteorder == "big" and target.dtype.itemsize > 1:  # the format's order is the other one
        numbers.view(f"u{target.dtype.itemsize}").byteswap(inplace=True)
