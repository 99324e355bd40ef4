"""Fast-dLLM (2505.22618) against the presets `fast-dllm` and `fast-dllm-factor`."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import dllm_fast
from parity.compare import assert_same
from parity.loops import fast_dllm
from parity.models import Table, cases


@st.composite
def lengths(draw) -> dict:
    block_length = draw(st.integers(1, 8))
    return {"gen_length": block_length * draw(st.integers(1, 3)), "block_length": block_length}


def between(draw, case) -> float:
    """A threshold that no confidence of a table meets exactly."""
    if not isinstance(case.model, Table):
        return draw(st.floats(0.05, 1))
    c = [1.0, *case.model.confidences().tolist(), 0.0]
    i = draw(st.integers(0, len(c) - 2))
    return (c[i] + c[i + 1]) / 2


@given(st.data(), lengths())
def test_threshold(data, lengths):
    case = data.draw(cases(lengths["gen_length"]))
    tau = data.draw(st.sampled_from(["between", -0.5, 0.0, 1.5]))
    tau = between(data.draw, case) if tau == "between" else tau

    def loop(prompt, seed):
        choose = fast_dllm.threshold(tau)
        return fast_dllm.generate(case.model.alone, prompt, mask=case.mask, choose=choose, **lengths)

    for as_published in (False, True):
        assert_same(case, loop, preset="fast-dllm", threshold=tau, as_published=as_published, **lengths)


@given(st.data(), lengths(), st.floats(0.05, 6))
def test_factor_as_the_rule_says(data, lengths, factor):
    case = data.draw(cases(lengths["gen_length"]))
    if isinstance(case.model, Table):
        assume(no_equality(case.model, factor, lengths["block_length"]))

    def loop(prompt, seed):
        choose = fast_dllm.factor(factor)
        return fast_dllm.generate(case.model.alone, prompt, mask=case.mask, choose=choose, **lengths)

    assert_same(case, loop, preset="fast-dllm-factor", factor=factor, **lengths)


@given(st.data(), lengths(), st.floats(0.05, 6))
def test_factor_as_published(data, lengths, factor):
    case = data.draw(cases(lengths["gen_length"]))
    if isinstance(case.model, Table):
        assume(no_equality(case.model, factor, lengths["block_length"]))

    def loop(prompt, seed):
        choose = fast_dllm.factor_as_published(factor)
        return fast_dllm.generate(case.model.alone, prompt, mask=case.mask, choose=choose, **lengths)

    assert_same(case, loop, preset="fast-dllm-factor", factor=factor, as_published=True, **lengths)


def no_equality(model: Table, factor: float, longest: int) -> bool:
    """Is every bound of the rule missed by more than any rounding?"""
    return all(abs((n + 1) * (1 - c) - factor) > 1e-5 for c in model.confidences() for n in range(1, longest + 1))


@pytest.mark.parametrize(
    ("confidences", "factor", "by_rule", "published"),
    [
        ([0.9, 0.8, 0.1], 1.0, 2, 3),  # only the last fails
        ([0.9, 0.8, 0.1, 0.05], 1.0, 2, 2),
        ([0.9, 0.85, 0.8], 1.0, 3, 3),
        ([0.1, 0.05], 1.0, 1, 2),  # neither is sure, and both are committed
        ([0.1], 1.0, 1, 1),
    ],
)
def test_the_published_factor_takes_the_last_one_along(confidences, factor, by_rule, published):
    assert fast_dllm.factor(factor)(confidences) == by_rule
    assert fast_dllm.factor_as_published(factor)(confidences) == published
    for as_published, expected in ((False, by_rule), (True, published)):
        config = dllm_fast.SamplerConfig(mask_token_id=0, factor=factor, as_published=as_published)
        sampler = dllm_fast.Sampler(config, [[0] * len(confidences)])
        sampler.next()
        sampler.feed(tokens=[1] * len(confidences), scores=confidences)
        assert len(sampler.trajectory[0]) == expected
