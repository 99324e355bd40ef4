"""MaskGIT's decoding (2202.04200) against the preset `maskgit`."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from parity.compare import assert_same, gumbels
from parity.loops import maskgit
from parity.models import Case, Table, cases

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


@given(st.integers(0, 2**32 - 1), st.integers(1, 16), steps, st.sampled_from([0.0, 4.0, 10.0, 25.0]))
def test_as_published_ties_where_the_softmax_in_the_dtype_of_the_logits_ties(seed, length, steps, ahead):
    model = Table(np.random.default_rng(seed), 32, length, ahead=ahead, dtype=torch.bfloat16, softmax_decides=True)
    case = Case(model, [[model.mask] * length], [0])

    def loop(canvas, seed, dtype=torch.bfloat16):
        return maskgit.decode(model.alone, canvas, mask=model.mask, steps=steps, dtype=dtype)

    settings = {"call": dllm_fast.infill, "preset": "maskgit", "steps": steps}
    assert_same(case, loop, **settings, as_published=True)
    assert_same(case, lambda *of: loop(*of, dtype=None), **settings)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 12, 16, 18])
def test_counts_of_an_image(steps):
    """256 masks, as for the 16 x 16 tokens of the paper."""
    left = [256, *(math.floor(256 * math.cos(math.pi / 2 * (j + 1) / steps)) for j in range(steps - 1)), 0]
    assert dllm_fast.schedule("maskgit", 256, steps).tolist() == [a - b for a, b in itertools.pairwise(left)]
