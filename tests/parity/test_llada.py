"""LLaDA's `generate` (2502.09992) against the presets `llada`, `llada-semi-ar` and `llada-random`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parity.compare import assert_same, order_draws
from parity.loops import llada
from parity.models import Case, Table, cases

EOS = 1


@st.composite
def lengths(draw) -> dict:
    """Blocks of a length, and steps that they share evenly, also more than a block has masks."""
    block_length = draw(st.integers(1, 8))
    blocks = draw(st.integers(1, 3))
    steps = blocks * draw(st.integers(1, block_length + 2))
    return {"gen_length": blocks * block_length, "block_length": block_length, "steps": steps}


@given(st.data(), lengths(), st.sampled_from([(), (EOS,)]))
def test_low_confidence(data, lengths, excluded):
    case = data.draw(cases(lengths["gen_length"], excluded=excluded))

    def loop(prompt, seed):
        return llada.generate(case.model.alone, prompt, mask=case.mask, excluded=excluded, **lengths)

    result = assert_same(case, loop, preset="llada-semi-ar", suppress_tokens=excluded, remasking="low_confidence", **lengths)
    if excluded:
        assert not np.isin(excluded, np.concatenate(result.new_tokens)).any()


@given(st.data(), lengths(), st.sampled_from([(), (EOS,)]))
def test_random_given_the_same_draws(data, lengths, excluded):
    case = data.draw(cases(lengths["gen_length"], excluded=excluded))

    def loop(prompt, seed):
        return llada.generate(
            case.model.alone,
            prompt,
            mask=case.mask,
            excluded=excluded,
            order="random",
            uniform=order_draws(seed),
            **lengths,
        )

    assert_same(case, loop, preset="llada-random", suppress_tokens=excluded, **lengths)


@given(st.data(), st.integers(1, 12))
def test_the_presets_alone_commit_one_token_a_forward(data, length):
    """The published defaults: one block, as many steps as tokens."""
    case = data.draw(cases(length))

    def loop(prompt, seed, order="confidence"):
        uniform = order_draws(seed)
        return llada.generate(
            case.model.alone,
            prompt,
            mask=case.mask,
            gen_length=length,
            steps=length,
            block_length=length,
            order=order,
            uniform=uniform,
        )

    assert_same(case, loop, preset="llada", max_new_tokens=length)
    assert_same(case, loop, preset="llada-semi-ar", max_new_tokens=length)  # 32 positions a block are more than there are
    assert_same(case, lambda *of: loop(*of, order="random"), preset="llada-random", max_new_tokens=length)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@given(st.integers(0, 2**32 - 1), lengths(), st.sampled_from([0.0, 4.0, 10.0, 25.0]))
def test_as_published_ties_where_the_softmax_in_the_dtype_of_the_logits_ties(dtype, seed, lengths, ahead):
    """`as_published` orders by probabilities rounded to the dtype of the logits; by default sure positions stay apart."""
    rng = np.random.default_rng(seed)
    model = Table(rng, 32, lengths["gen_length"], ahead=ahead, dtype=dtype, softmax_decides=True)
    case = Case(model, [[0, 5], [7]], [0, 0])

    def loop(prompt, seed, dtype=dtype):
        return llada.generate(model.alone, prompt, mask=case.mask, dtype=dtype, **lengths)

    assert_same(case, loop, preset="llada", as_published=True, **lengths)
    assert_same(case, lambda *of: loop(*of, dtype=None), preset="llada", **lengths)
