"""The reverse process: MDLM (2406.07524) and first-hitting (2409.02908) against their presets, with most probable tokens."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from parity.compare import assert_same, commit_draws, order_draws, time_draws
from parity.loops import mdlm
from parity.models import cases


@given(st.data(), st.integers(1, 16), st.integers(1, 24), st.booleans())
def test_ancestral_given_the_same_draws(data, length, steps, as_published):
    case = data.draw(cases(length, longest_prompt=0, holes=True))

    def loop(canvas, seed):
        rule = {"mask": case.mask, "steps": steps, "real": np.float32 if as_published else float}
        return mdlm.ancestral(case.model.alone, canvas, uniform=commit_draws(seed), **rule)

    assert_same(case, loop, call=dllm_fast.infill, preset="mdlm", steps=steps, temperature=0, as_published=as_published)


@given(st.data(), st.integers(1, 12))
def test_first_hitting_given_the_same_draws(data, length):
    case = data.draw(cases(length, longest_prompt=0, holes=True))
    times = []

    def loop(canvas, seed):
        uniform, uniform_time = order_draws(seed), time_draws(seed)
        run, hits = mdlm.first_hitting(case.model.alone, canvas, mask=case.mask, uniform=uniform, uniform_time=uniform_time)
        times.append(hits)
        return run

    result = assert_same(case, loop, call=dllm_fast.infill, preset="first-hitting", temperature=0)
    for edits, hits in zip(result.trajectory, times, strict=True):
        np.testing.assert_allclose([edit.time for edit in edits], hits, rtol=1e-12)
