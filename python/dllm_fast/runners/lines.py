"""Lines of logits that one session gives another, all rows of a step at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dllm_fast.ops import launcher

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Ints = NDArray[np.int64]


def beside(array: NDArray[Any], logits: Tensor) -> Tensor:
    """An array on the device of some logits."""
    return launcher.to_device(torch.from_numpy(array), logits.device)


def as_tensor(matrix: NDArray[Any]) -> Tensor:
    """A matrix of the core's as a tensor in the same memory."""
    found = torch.from_numpy(matrix)
    return found.view(torch.bfloat16) if found.dtype == torch.int16 else found


def ranges(begins: Ints, counts: Ints) -> Ints:
    """The numbers from each begin on, so many of them, one range behind the other."""
    ends = np.cumsum(counts)
    return np.arange(counts.sum()) + np.repeat(begins - ends + counts, counts)


class Lines:
    """Lines of one matrix or several, by the number of the row that they score.

    Attributes:
        matrices: `[N, V]` each.
        counts: lines of each row, int64; 0 of one that has not come.
        matrix, line: of each line in the order in which they came, int64: which matrix, and where in it.
    """

    def __init__(self, rows: int) -> None:
        """`rows` is above the number of every row that will come."""
        self.matrices: list[Tensor] = []
        self.counts = np.zeros(rows, dtype=np.int64)
        self.matrix = self.line = np.zeros(0, dtype=np.int64)
        self._begins = np.zeros(rows, dtype=np.int64)

    def add(self, rows: Ints, counts: Ints, matrix: Tensor, lines: Ints | None) -> None:
        """A matrix, and its lines for some rows, as many as `counts` says of each; None where they are all of it, in order."""
        lines = np.arange(counts.sum()) if lines is None else lines
        self.counts[rows] = counts
        self._begins[rows] = len(self.line) + np.cumsum(counts) - counts
        self.matrix = np.append(self.matrix, np.full(len(lines), len(self.matrices)))
        self.line = np.append(self.line, lines)
        self.matrices.append(matrix)

    def of(self, rows: Ints) -> Ints:
        """Which lines score these rows, as they came."""
        return ranges(self._begins[rows], self.counts[rows])

    def take(self, which: Ints) -> Tensor:
        """These lines, as a matrix of their own."""
        matrix, line = self.matrix[which], self.line[which]
        if len(self.matrices) == 1:
            return self.matrices[0].index_select(0, beside(line, self.matrices[0]))
        known = [(self.matrices[number], line[matrix == number]) for number in np.unique(matrix).tolist()]
        parts: list[Tensor] = [one.index_select(0, beside(some, one)) for one, some in known]
        if not parts:  # a step that only spends its forward
            return self.matrices[0][:0]
        if len(parts) == 1:
            return parts[0]
        whole, order = torch.cat(parts), np.argsort(matrix, kind="stable")
        return whole.index_select(0, beside(np.argsort(order), whole))
