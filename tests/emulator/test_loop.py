"""The end of a step in a loop on the device: what is kept, and when the loop goes on, against a plain restatement."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from dllm_fast.kernels import launches

from . import build
from .launch import run

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

MASK = 9
orders = st.integers(0, 3)


def end_of_step(*, sites, tokens, committed, ends, least, done, most, words=5, order=0):
    """Runs both kernels. `sites`: how many each row has; `tokens`: of all of them. Gives state, condition and log."""
    start = np.concatenate(([0], np.cumsum(sites))).astype(np.int32)
    total = int(start[-1])
    cell = (np.arange(total) * 3 % max(3 * total, 1)).astype(np.int32)  # cells lie apart
    cells = np.full(3 * total + 1, -5, dtype=np.int64)
    cells[cell] = tokens
    masks = np.array([(np.asarray(tokens[a:b]) == MASK).sum() for a, b in itertools.pairwise(start)], dtype=np.int32)
    outcome = np.arange(100, 100 + words, dtype=np.uint64)
    log = np.full(words * (most + 1), 7, dtype=np.uint64)
    state, condition = np.array([done, most], dtype=np.int32), np.array([77], dtype=np.uint32)
    arrays = {
        "site_start": start,
        "cell": cell,
        "cells": cells,
        "committed": np.array(committed, dtype=np.int32),
        "masks_left": masks,
        "ends": np.array([*ends, 0], dtype=np.int64),
        "state": state,
        "outcome": outcome,
        "log": log,
    }
    buffers = launches.LoopBuffers(**{name: array.ctypes.data for name, array in arrays.items()})
    sizes = {"words": words, "rows": len(sites), "mask_id": MASK, "end_count": len(ends), "least": least}
    for launch in launches.loop(buffers, handle=condition.ctypes.data, **sizes):
        run(launch, order=order)
    expected = np.full_like(log, 7)
    expected[done * words : (done + 1) * words] = outcome
    np.testing.assert_array_equal(log, expected)
    return state.tolist(), int(condition[0])


def goes_on(*, sites, tokens, committed, ends, least, done, most):
    begin, left = 0, 0
    for count, made in zip(sites, committed, strict=True):
        row = tokens[begin : begin + count]
        begin += count
        if not count:
            continue
        masks = [i for i, token in enumerate(row) if token == MASK]
        ended = [i for i, token in enumerate(row) if token in ends]
        left += len(masks)
        if made < 0 or not masks or (ended and ended[0] < masks[0]):
            return False
    return left > least and done + 1 < most


@st.composite
def steps(draw):
    sites = draw(st.lists(st.integers(0, 40), min_size=1, max_size=20))
    done = draw(st.integers(0, 4))
    return {
        "sites": sites,
        "tokens": draw(st.lists(st.sampled_from([MASK] * 6 + [1, 2, 3]), min_size=sum(sites), max_size=sum(sites))),
        "committed": draw(st.lists(st.sampled_from([0, 1, 1, 3] * 5 + [-1]), min_size=len(sites), max_size=len(sites))),
        "ends": draw(st.sampled_from([[], [3], [2, 3]])),
        "least": draw(st.sampled_from([0, 0, 16, 64])),
        "done": done,
        "most": draw(st.integers(done + 1, 6)),
    }


@given(steps(), orders)
def test_the_loop_goes_on_as_long_as_the_next_step_is_one_of_its_kind(step, order):
    state, condition = end_of_step(**step, order=order)
    assert state == [step["done"] + 1, step["most"]]
    assert condition == goes_on(**step)


PLAIN = {
    "sites": [3, 0, 2],
    "tokens": [1, MASK, MASK, MASK, 1],
    "committed": [1, 0, 1],
    "ends": [3],
    "least": 2,
    "done": 0,
    "most": 4,
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 1),
        ({"least": 3}, 0),
        ({"done": 3}, 0),
        ({"committed": [1, 0, -1]}, 0),
        ({"committed": [1, -1, 1]}, 1),  # of a row that has no sites
        ({"tokens": [1, MASK, MASK, 1, 1], "least": 0}, 0),
        ({"tokens": [3, MASK, MASK, MASK, 1]}, 0),
        ({"tokens": [MASK, 3, MASK, MASK, 3]}, 1),
        ({"tokens": [3, MASK, MASK, MASK, 1], "ends": []}, 1),
    ],
)
def test_why_a_loop_ends(change, expected):
    assert goes_on(**PLAIN | change) == expected
    assert end_of_step(**PLAIN | change)[1] == expected


@given(strategies.generators, st.integers(1, 2000))
def test_outcomes_of_any_size_are_kept(rng, words):
    done = int(rng.integers(0, 3))
    end_of_step(**PLAIN | {"done": done, "most": 4}, words=words)
