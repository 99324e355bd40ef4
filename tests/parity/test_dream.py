"""Dream's sampler (2508.15487) against the presets `dream-*`: four orders, the shift and the quirks of the schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from parity.compare import assert_same, commit_draws, gumbels
from parity.loops import dream
from parity.models import Case, Table, cases

PRESETS = {
    "origin": "dream-origin",
    "maskgit_plus": "dream-maskgit-plus",
    "topk_margin": "dream-margin",
    "entropy": "dream-entropy",
}
RANKED = ("maskgit_plus", "topk_margin", "entropy")
algorithms = st.sampled_from(list(PRESETS))
steps = st.integers(1, 20)


@given(
    data=st.data(),
    length=st.integers(1, 16),
    steps=steps,
    alg=algorithms,
    shift=st.booleans(),
    eps=st.sampled_from(["0.001", "0.29"]),
)
def test_new_tokens_after_a_prompt(*, data, length, steps, alg, shift, eps):
    case = data.draw(cases(length))

    def loop(prompt, seed):
        tokens = [*prompt, *[case.mask] * length]
        uniform = commit_draws(seed)
        return dream.sample(
            case.model.alone, tokens, mask=case.mask, steps=steps, alg=alg, eps=eps, shift=shift, uniform=uniform
        )

    assert_same(case, loop, preset=PRESETS[alg], max_new_tokens=length, steps=steps, eps=float(eps), shift=shift)


@given(st.data(), st.integers(2, 16), steps, algorithms)
def test_masks_anywhere(data, length, steps, alg):
    """The published loop fills masks wherever they are, also at position 0, which is predicted by its own row of logits."""
    case = data.draw(cases(length, longest_prompt=0, holes=True))

    def loop(canvas, seed):
        return dream.sample(case.model.alone, canvas, mask=case.mask, steps=steps, alg=alg, uniform=commit_draws(seed))

    assert_same(case, loop, call=dllm_fast.infill, preset=PRESETS[alg], steps=steps, shift=True)


@given(st.data(), st.integers(1, 12), steps, st.sampled_from(RANKED), st.sampled_from([0.1, 0.5, 2.0]))
def test_order_temperature_given_the_same_draws(data, length, steps, alg, alg_temp):
    case = data.draw(cases(length))

    def loop(prompt, seed):
        tokens = [*prompt, *[case.mask] * length]
        return dream.sample(
            case.model.alone, tokens, mask=case.mask, steps=steps, alg=alg, alg_temp=alg_temp, gumbel=gumbels(seed)
        )

    assert_same(case, loop, preset=PRESETS[alg], max_new_tokens=length, steps=steps, shift=True, alg_temp=alg_temp)


@given(st.data(), st.integers(2, 12), steps, st.sampled_from(RANKED))
def test_as_published_counts_the_mean_over_the_batch(data, length, steps, alg):
    """All rows take the same number of masks, that of the mean row, as long as they have so many."""
    case = data.draw(cases(length, longest_prompt=0, holes=True))
    means = dream.mean_masks([canvas.count(case.mask) for canvas in case.prompts], steps)

    def loop(canvas, seed):
        return dream.sample(case.model.alone, canvas, mask=case.mask, steps=steps, alg=alg, masks=means)

    assert_same(case, loop, call=dllm_fast.infill, preset=PRESETS[alg], steps=steps, shift=True, as_published=True)


@pytest.mark.parametrize("alg", ["maskgit_plus", "topk_margin"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 12), steps=steps, ahead=st.sampled_from([0.0, 4.0, 10.0, 25.0]))
def test_as_published_ties_where_the_softmax_in_the_dtype_of_the_logits_ties(*, alg, dtype, seed, length, steps, ahead):
    model = Table(np.random.default_rng(seed), 32, length + 1, ahead=ahead, dtype=dtype, softmax_decides=True)
    case = Case(model, [[3]], [0])

    def loop(prompt, seed):
        tokens = [*prompt, *[case.mask] * length]
        return dream.sample(model.alone, tokens, mask=case.mask, steps=steps, alg=alg, dtype=dtype)

    assert_same(case, loop, preset=PRESETS[alg], max_new_tokens=length, steps=steps, shift=True, as_published=True)


def test_with_as_many_steps_as_masks_the_first_step_is_idle():
    """The quirk of eps: 0.999 of a mask is none. The forward is spent all the same, and the last step takes two."""
    model = Table(np.random.default_rng(0), 16, 8)
    result = dllm_fast.sample(model, [1], preset="dream-entropy", mask_token_id=model.mask, max_new_tokens=6, steps=6)
    assert result.stats.nfe == 6
    assert [edit.step for edit in result.trajectory[0]] == [1, 2, 3, 4, 5, 5]
