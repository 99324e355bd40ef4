"""Attention rules against a plain statement of each: which positions see which."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from dllm_fast.networks import visible
from dllm_fast.networks.visible import RULES
from dllm_fast.runners import caches
from dllm_fast.runners.layout import Layout
from dllm_fast.settings.config import CACHES

# Does position p see q? By name, of a canvas whose block [origin, stop) is being filled; of a reordered one p and q are places.
SEES = {
    "full": lambda p, q, size, origin, stop: True,
    "block_causal": lambda p, q, size, origin, stop: q // size <= p // size,
    "causal_context": lambda p, q, size, origin, stop: q < stop if p >= origin else q <= p,
    "causal_reordered": lambda p, q, size, origin, stop: q <= p,
    "encoder_canvas": lambda p, q, size, origin, stop: q < stop if p >= origin else q <= p,
}


@st.composite
def rows(draw):
    """Some canvases, where their prompts end, and the windows that are filled; windows as a sampler makes them."""
    size = draw(st.integers(1, 9))
    found = []
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(1, 40))
        start = draw(st.integers(0, length - 1))
        begin = draw(st.integers(start // size * size, length - 1))
        stop = draw(st.integers(max(begin, start) + 1, length))
        found.append((length, start, begin, stop))
    return size, [np.array(column, dtype=np.int64) for column in zip(*found, strict=True)]


@pytest.mark.parametrize("name", RULES)
@given(rows())
def test_every_position_sees_what_the_rule_says(name, drawn):
    size, (lengths, starts, begins, stops) = drawn
    rule = RULES[name](size)
    origin, stop = rule.origin(begins, starts), rule.stop(stops, lengths)
    positions = np.broadcast_to(np.arange(lengths.max()), (len(lengths), lengths.max()))
    ends = rule.end(positions, origin, stop, lengths)
    for row, length in enumerate(lengths):
        behind = min(length, stop[row])  # positions from there on are padding
        for p in range(behind):
            expected = {q for q in range(length) if SEES[name](p, q, size, origin[row], stop[row])}
            assert set(range(ends[row, p])) == expected, (row, p)
        # Nothing right of the stop is seen from the window, whose positions are all before it.
        assert starts[row] < stops[row] <= stop[row] <= length
        if not rule.reorders:
            assert ends[row, :behind].max() <= stop[row]
        if rule.is_exact:
            # What lies before the block sees nothing of it, so its keys stay.
            assert origin[row] <= max(begins[row], starts[row])
            assert (ends[row, : origin[row]] <= origin[row]).all()


@pytest.mark.parametrize("name", RULES)
@given(size=st.integers(1, 9), length=st.integers(1, 40))
def test_a_whole_canvas_is_filled_in_its_last_block(name, size, length):
    rule = RULES[name](size)
    ends = rule.whole(length)
    origin = (length - 1) // size * size
    seen = [[SEES[name](p, q, size, origin, length) for q in range(length)] for p in range(length)]
    if ends is None:
        assert np.all(seen)
        assert rule.hides_nothing
    else:
        assert np.array_equal(np.arange(length) < ends[:, None], seen)


@given(rows(), st.integers(0, 12))
def test_how_far_back_a_local_layer_looks_from_a_canvas(drawn, reach):
    """A token before the canvas as far as from itself; all of the canvas see all of it, and back as far as its first sees."""
    size, (lengths, starts, begins, stops) = drawn
    rule = RULES["encoder_canvas"](size)
    origin, stop = rule.origin(begins, starts), rule.stop(stops, lengths)
    span = caches.Span(np.zeros_like(stop), stop, origin)
    batch = Layout(rule, span, lengths, None, torch.device("cpu")).batch(
        torch.zeros(len(stop), stop.max(), dtype=torch.int64), None
    )
    (begin, end), mask = batch.ranges(reach), batch.mask(reach)
    for row in range(len(lengths)):
        for p in range(stop[row]):
            nearest = min(p, origin[row])
            expected = {q for q in range(nearest - reach, stop[row] if p >= origin[row] else p + 1) if q >= 0}
            assert set(range(begin[row, p], end[row, p])) == expected
            assert set(np.flatnonzero(mask[row, 0, p].numpy())) == expected


@given(rows=st.integers(1, 4), width=st.integers(1, 12), data=st.data())
def test_known_tokens_are_read_first(rows, width, data):
    is_open = np.array([[data.draw(st.booleans()) for _ in range(width)] for _ in range(rows)])
    lengths = np.array([data.draw(st.integers(1, width)) for _ in range(rows)])
    order = RULES["causal_reordered"]().order(is_open, lengths)
    for row, length in enumerate(lengths):
        places = range(length)
        known = [p for p in places if not is_open[row, p]]
        assert order[row].tolist() == known + [p for p in places if is_open[row, p]] + list(range(length, width))


def test_a_block_that_is_filled_in_parts():
    for name, rule in RULES.items():
        allowed = [block for block in range(1, 13) if rule(12).allows(block)]
        parts = {"block_causal": [1, 2, 3, 4, 6, 12], "encoder_canvas": [12]}
        assert allowed == parts.get(name, [*range(1, 13)])
        assert rule(12).fixed_blocks == (12 if name == "block_causal" else None)


def test_names_stand_once():
    assert get_args(visible.Attention) == tuple(RULES)
    assert RULES.keys() == SEES.keys()
    assert {"auto", *caches.POLICIES} == set(CACHES)
    assert all(found.name == name for table in (RULES, caches.POLICIES) for name, found in table.items())


def test_nobody_else_asks_for_a_name():
    """A rule or a policy is asked what it does, not what it is called; so a new one is a class and a row."""
    root = Path(dllm_fast.__file__).parent
    names = {*RULES, *caches.POLICIES} - {"none"}
    found = []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare | ast.match_case):
                words = {inside.value for inside in ast.walk(node) if isinstance(inside, ast.Constant)} & names
                found += [(path.relative_to(root).as_posix(), word) for word in words]
    assert found == []
