"""Lines of logits by the rows that they score: what several matrices hold, taken in the order in which somebody wants it."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm_fast.runners.lines import Lines, ranges


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6))))
def test_ranges_stand_one_behind_the_other(pairs):
    begins, counts = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    assert ranges(begins, counts).tolist() == [n for begin, count in pairs for n in range(begin, begin + count)]


@given(data=st.data(), rows=st.integers(1, 7), matrices=st.integers(1, 3))
def test_lines_are_those_of_their_rows(data, rows, matrices):
    """Whichever matrix a row is in, in whatever order they came, and with or without a line of its own for each."""
    kept, expected = Lines(rows + 2), {}
    which = [data.draw(st.integers(0, matrices - 1)) for _ in range(rows)]
    for number in range(matrices):
        some = np.array(data.draw(st.permutations([row for row in range(rows) if which[row] == number])), dtype=np.int64)
        counts = np.array([data.draw(st.integers(1, 3)) for _ in some], dtype=np.int64)
        total = int(counts.sum())
        logits = torch.arange(total + 3.0)[:, None] + 100 * number
        any_line = st.permutations(range(total + 3))
        lines = np.array(data.draw(any_line)[:total], dtype=np.int64) if data.draw(st.booleans()) else None
        kept.add(some, counts, logits, lines)
        values = logits[: len(logits) if lines is None else None, 0].numpy()
        of_line = values[np.arange(total) if lines is None else lines]
        for row, own in zip(some.tolist(), np.split(of_line, np.cumsum(counts)[:-1]), strict=True) if total else ():
            expected[row] = own.tolist()
    asked = np.array(data.draw(st.lists(st.integers(0, rows - 1), min_size=1, unique=True)), dtype=np.int64)
    taken = kept.take(kept.of(asked))
    assert taken[:, 0].tolist() == [value for row in asked.tolist() for value in expected[row]]
