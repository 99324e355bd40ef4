"""MaskGIT's decoding (2202.04200) against the preset `maskgit`."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from parity.compare import assert_same, gumbels
from parity.loops import maskgit
from parity.models import cases

steps = st.integers(1, 20)


@given(st.data(), st.integers(1, 20), steps)
def test_counts_and_tokens(data, length, steps):
    case = data.draw(cases(length, longest_prompt=0, holes=True))

    def loop(canvas, seed):
        return maskgit.decode(case.model.alone, canvas, mask=case.mask, steps=steps)

    assert_same(case, loop, call=dllm_fast.infill, preset="maskgit", steps=steps)


@given(st.data(), st.integers(1, 16), steps, st.sampled_from([0.5, 4.5]))
def test_choice_temperature_given_the_same_draws(data, length, steps, temperature):
    case = data.draw(cases(length))

    def loop(prompt, seed):
        tokens = [*prompt, *[case.mask] * length]
        return maskgit.decode(
            case.model.alone, tokens, mask=case.mask, steps=steps, choice_temperature=temperature, gumbel=gumbels(seed)
        )

    assert_same(case, loop, preset="maskgit", max_new_tokens=length, steps=steps, order_temperature=temperature)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 12, 16, 18])
def test_counts_of_an_image(steps):
    """256 masks, as for the 16 x 16 tokens of the paper."""
    left = [256, *(math.floor(256 * math.cos(math.pi / 2 * (j + 1) / steps)) for j in range(steps - 1)), 0]
    assert dllm_fast.schedule("maskgit", 256, steps).tolist() == [a - b for a, b in itertools.pairwise(left)]
