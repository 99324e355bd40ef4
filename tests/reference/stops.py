"""Where a row ends before its last position: the rule as it is written, by looking at every place."""

from __future__ import annotations

import numpy as np


def begin(given: np.ndarray, least: int) -> int:
    """The first position before which `least` stand that were not given; behind the last one where there are fewer."""
    own = np.flatnonzero(~given)
    return int(own[least]) if least < len(own) else len(given)


def ending(canvas, given, is_open, *, ends, stops, least: int) -> tuple[int, int] | None:
    """Positions of the first and the last token of what ends a row.

    Args:
        canvas: its tokens.
        given: which of them came with the canvas.
        is_open: where nothing was written.
        ends: tokens that end it.
        stops: sequences of tokens that end it.
        least: tokens before what ends it.
    """
    sequences = [(token,) for token in ends] + [tuple(np.atleast_1d(stop)) for stop in stops]
    early = begin(given, least)
    found = []
    for sequence in sequences:
        for first in range(early, len(canvas) - len(sequence) + 1):
            last = first + len(sequence) - 1
            is_written = not given[first : last + 1].any()
            is_final = not is_open[: last + 1].any()
            if is_written and is_final and tuple(canvas[first : last + 1]) == sequence:
                found.append((last, first))
    if not found:
        return None
    last, first = min(found)
    return first, last
