"""LLaDA's `generate` (2502.09992) against the presets `llada`, `llada-semi-ar` and `llada-random`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dllm_fast import sample
from dllm_fast.ops.guide import guide_
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


@given(st.data(), lengths(), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from(["confidence", "random"]))
def test_guidance(data, lengths, cfg_scale, order):
    """Confidences of mixed rows are apart by luck alone, so a case in which two nearly meet is none."""
    case = data.draw(cases(lengths["gen_length"]))
    if isinstance(case.model, Table):
        assume(len(case.model.templates) >= lengths["gen_length"])
    preset = "llada-semi-ar" if order == "confidence" else "llada-random"
    settings = {"mask_token_id": case.mask, "stop_at_eos": False, "preset": preset, **lengths}
    result = sample(case.model, case.prompts, seed=case.seeds, cfg_scale=cfg_scale, **settings)
    assert result.config.guidance == cfg_scale
    for row, (prompt, seed) in enumerate(zip(case.prompts, case.seeds, strict=True)):
        canvas = llada.generate(
            case.model.alone,
            prompt,
            mask=case.mask,
            order=order,
            uniform=order_draws(seed),
            cfg_scale=cfg_scale,
            **lengths,
        )
        assume(canvas.is_clear)
        assert [(edit.step, edit.position, edit.token) for edit in result.trajectory[row]] == canvas.edits
        assert result.stats.nfe_per_row[row] == 2 * canvas.forwards


@given(seed=st.integers(0, 2**32 - 1), cfg_scale=st.floats(0.01, 20), dtype=st.sampled_from([torch.bfloat16, torch.float32]))
def test_guidance_as_published_is_rounded_as_its_expression_is(seed, cfg_scale, dtype):
    logits, un_logits = torch.randn(2, 3, 500, generator=torch.Generator().manual_seed(seed)).mul(8).to(dtype)
    published = un_logits + (cfg_scale + 1) * (logits - un_logits)
    lines, scales = torch.arange(3), torch.full((3,), cfg_scale + 1)
    guide_(logits, lines, un_logits, lines, scales, as_published=True)
    assert torch.equal(logits, published)


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
