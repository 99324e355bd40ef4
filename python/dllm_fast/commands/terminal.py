"""A Sudoku grid in a terminal while it is being filled: redrawn in place on a TTY, a line a step elsewhere."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TextIO

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast.events import StepEvent

    Ints = NDArray[np.int64]

_GIVEN, _FRESH, _COMMITTED, _GUESS, _RESET = "\x1b[1m", "\x1b[1;32m", "\x1b[36m", "\x1b[2m", "\x1b[0m"
# Long enough to see what a step wrote, short enough to watch one cell a step.
_CELL_S, _FRAME_S = 0.05, 0.4
_LINES = 14


class GridView:
    """Draws the canvas after every step.

    Args:
        canvas: the puzzle, int64 `[81]`.
        mask: id of a blank.
        out: where to draw.

    Attributes:
        shows_guesses: what the model would write is shown in the blanks.
    """

    def __init__(self, canvas: NDArray[np.int64], mask: int, out: TextIO) -> None:
        self._given = canvas != mask
        self._out = out
        self._colour = out.isatty() and "NO_COLOR" not in os.environ
        self._animate = out.isatty() and os.environ.get("TERM") != "dumb"
        self.shows_guesses = self._animate and self._colour

    def begin(self, canvas: NDArray[np.int64]) -> None:
        """Draws what there is before the first step."""
        if self._animate:
            self._draw(canvas, np.flatnonzero(~self._given), {}, {}, "step 0")

    def __call__(self, event: StepEvent) -> None:
        written = dict(zip(event.positions[0].tolist(), event.tokens[0].tolist(), strict=True))
        total = int((~self._given).sum())
        left = event.open_positions[0]
        done = total - len(left)
        if self._animate:
            places, tokens = event.guess_positions, event.guess_tokens
            told = () if places is None or tokens is None else zip(places[0].tolist(), tokens[0].tolist(), strict=True)
            guess: dict[int, int] = dict(told)
            self._out.write(f"\x1b[{_LINES}A")
            self._draw(event.canvases[0], left, written, guess, f"step {event.step + 1}   filled {done}/{total}")
            time.sleep(min(_CELL_S * len(written), _FRAME_S))
        else:
            cells = "  ".join(f"r{p // 9 + 1}c{p % 9 + 1}={t}" for p, t in written.items())
            self._out.write(f"step {event.step + 1:>3}  filled {done:>2}/{total}  {cells}\n")
        self._out.flush()

    def _draw(self, canvas: Ints, left: Ints, fresh: dict[int, int], guess: dict[int, int], status: str) -> None:
        lines, blanks = [], set(left.tolist())
        for row in range(9):
            if row % 3 == 0:
                lines.append("+-------+-------+-------+")
            cells = [self._cell(row * 9 + column, canvas, blanks, fresh, guess) for column in range(9)]
            lines.append("| " + " | ".join(" ".join(cells[i : i + 3]) for i in (0, 3, 6)) + " |")
        lines += ["+-------+-------+-------+", status]
        self._out.write("".join(f"{line}\x1b[K\n" for line in lines))

    def _cell(self, p: int, canvas: Ints, blanks: set[int], fresh: dict[int, int], guess: dict[int, int]) -> str:
        if p in blanks:
            return self._paint(_GUESS, str(guess[p])) if self._colour and p in guess else "."
        style = _GIVEN if self._given[p] else _FRESH if p in fresh else _COMMITTED
        return self._paint(style, str(canvas[p]))

    def _paint(self, style: str, text: str) -> str:
        return f"{style}{text}{_RESET}" if self._colour else text
