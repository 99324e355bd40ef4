"""EB-Sampler (2505.24857) against the preset `entropy-bound`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from parity.compare import assert_same
from parity.loops import entropy_bound
from parity.models import cases

bounds = st.one_of(st.sampled_from([0.0, 0.1, 1e6]), st.floats(0.01, 12))


@given(st.data(), st.integers(1, 16), st.sampled_from(["entropy", "confidence", "margin"]), bounds)
def test_entropy_bound(data, length, order, bound):
    case = data.draw(cases(length, longest_prompt=0, holes=True))

    def loop(canvas, seed):
        return entropy_bound.sample(case.model.alone, canvas, mask=case.mask, bound=bound, order=order)

    assert_same(case, loop, call=dllm_fast.infill, preset="entropy-bound", order=order, entropy_bound=bound)
