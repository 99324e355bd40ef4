"""Positions that a rule wants asked a second time, from behind a mask that sees all but the token that stands there.

A rule that verifies what it has written (WINO) asks so. Such a mask is a query more: nothing else in the forward sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast._core import Request

    Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shadow:
    """What of a forward is asked again.

    Attributes:
        positions: of each row, `[n, S]`, rising, then -1: all that its block has open or written, for masks of a shadow see
            each other.
        read: for each requested position of all rows, in order, its place in the shadow of its row where that is what answers
            for it, else -1.
    """

    positions: Ints
    read: Ints

    @classmethod
    def of(cls, request: Request, rows: Ints) -> Shadow | None:
        """The shadow of some rows of a request, by their numbers; None where none of them has one."""
        found = request.shadow_of(rows)
        return None if found is None else cls(*found)

    @property
    def width(self) -> int:
        """Masks behind each row."""
        return int(self.positions.shape[1])

    def lines(self, lines: Ints, width: int) -> Ints:
        """The same lines of rows `width` wide, once each row has its shadow behind it."""
        row = lines // width
        place = np.where(self.read < 0, lines % width, width + self.read)
        return row * (width + self.width) + place

    def with_masks(self, ids: Ints, mask: int) -> Ints:
        """Tokens `[n, Q]`, and the masks behind them."""
        return np.concatenate((ids, np.full(self.positions.shape, mask, dtype=np.int64)), axis=1)
