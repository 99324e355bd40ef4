"""Is a function of which nothing is known causal? Seen from the forwards that a run makes anyway."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Columns of the logits that are compared, and predictions that must have been able to change.
_COLUMNS, _ENOUGH = 8, 4
# Forwards that are looked at: by then a causal function has shown itself, and a long run pays nothing more.
_MOST_LOOKS = 32
_NEARLY_ALL = 0.9
_ROUNDING = 1e-6


@lru_cache(maxsize=8)
def _columns(vocabulary: int) -> NDArray[np.int64]:
    """Which columns are compared."""
    return np.unique(np.linspace(0, vocabulary - 1, _COLUMNS).astype(np.int64))


class Watch:
    """Compares each forward with the one before it.

    A prediction of a mask depends on what was written to its right, or it does not. A function in which none ever does, while
    nearly all heed what was written to their left, is causal. (An oracle of Sudoku heeds little on either side.)
    """

    def __init__(self) -> None:
        # Of each shape: canvases, which positions were open, and some columns of the logits.
        self._last: dict[tuple[int, ...], tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float32]]] = {}
        self._is_decided = False
        self._looks = 0
        self._chances = 0
        self._behind = self._moved_behind = 0

    def look(self, canvases: NDArray[np.int64], is_open: NDArray[np.bool_], logits: torch.Tensor | NDArray[Any]) -> None:
        """Takes canvases `[B, L]`, which of their positions are open, and their logits `[B * L, V]`."""
        if not self.is_looking:
            return
        self._looks += 1
        columns = _columns(logits.shape[1])
        chosen = (
            logits[:, torch.from_numpy(columns).to(logits.device)] if isinstance(logits, torch.Tensor) else logits[:, columns]
        )
        host = chosen.float().cpu().numpy() if isinstance(chosen, torch.Tensor) else chosen.astype(np.float32)
        rows = host.reshape(*canvases.shape, -1)
        before, self._last[canvases.shape] = self._last.get(canvases.shape), (canvases.copy(), is_open, rows)
        if before is None:
            return
        written = canvases != before[0]
        if not before[1][written].all():
            return  # other rows of the same length
        behind = np.cumsum(written, axis=1) > 0
        ahead = np.cumsum(written[:, ::-1], axis=1)[:, ::-1] > 0
        largest = float(np.abs(rows[np.isfinite(rows)]).max(initial=0.0))
        with np.errstate(invalid="ignore"):  # of infinities, which are equal or not
            moved = ~((rows == before[2]) | (np.abs(rows - before[2]) <= _ROUNDING * largest)).all(axis=2)
        could_change = is_open & ahead & ~behind
        self._chances += int(could_change.sum())
        followers = behind & ~written
        self._behind += int(followers.sum())
        self._moved_behind += int((moved & followers).sum())
        self._is_decided = bool((moved & could_change).any())

    @property
    def is_looking(self) -> bool:
        """Does it want to see more?"""
        return not self._is_decided and self._looks < _MOST_LOOKS

    @property
    def looks_causal(self) -> bool:
        """Has no prediction ever heeded what is to its right?"""
        heeds_left = self._behind > 0 and self._moved_behind >= _NEARLY_ALL * self._behind
        return not self._is_decided and heeds_left and self._chances >= _ENOUGH
