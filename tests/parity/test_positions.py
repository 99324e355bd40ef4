"""Rules that say where a step writes, against their published loops: DUS, WeDLM, Fast-dLLM v2, D2F and d3LLM."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from parity.compare import assert_same
from parity.loops import d2f, dilated, fast_dllm_v2, wedlm
from parity.models import Case, Table, cases
from parity.test_fast_dllm import between, lengths


@given(st.data(), lengths(), st.integers(2, 4))
def test_dus(data, lengths, base):
    case = data.draw(cases(lengths["gen_length"]))

    def loop(prompt, seed):
        return dilated.generate(case.model.alone, prompt, mask=case.mask, base=base, **lengths)

    assert_same(case, loop, preset="dus", dilation=base, **lengths)


@given(st.data(), st.integers(1, 20), st.integers(1, 16), st.floats(0, 3), st.sampled_from([0.0, 0.02, 0.37]))
def test_wedlm(data, gen_length, window, bar, penalty):
    case = data.draw(cases(gen_length))

    def loop(prompt, seed):
        rule = {"window_size": window, "entropy_threshold": bar, "pos_penalty_factor": penalty}
        return wedlm.generate(case.model.alone, prompt, mask=case.mask, gen_length=gen_length, **rule)

    ours = {"window_length": window, "entropy_threshold": bar, "position_penalty": penalty}
    assert_same(case, loop, preset="wedlm", max_new_tokens=gen_length, **ours)


@given(st.data(), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_fast_dllm_v2(data, part, parts, blocks, ties):
    block = part * parts
    length = block * (blocks + 1)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    model = Table(rng, 33, 3 if ties else length, block=block)
    prompt = data.draw(st.lists(st.integers(0, model.mask - 1), min_size=1, max_size=block))
    canvas = [*prompt, *[model.mask] * (length - len(prompt))]
    case = Case(model, [canvas], [0])
    tau = data.draw(st.sampled_from(["between", 0.0, 1.5]))
    tau = between(data.draw, case) if tau == "between" else tau

    def loop(canvas, seed):
        return fast_dllm_v2.generate(model.alone, canvas, mask=model.mask, block=block, part=part, threshold=tau)

    ours = {"threshold": tau, "block_length": block, "sub_block_length": part, "shift": True}
    assert_same(case, loop, call=dllm_fast.infill, preset="fast-dllm-v2", **ours)


shares = st.sampled_from([0.1, 0.5, 0.9, 1.0])


@given(st.data(), lengths(), shares, shares)
def test_d2f(data, lengths, add, complete):
    case = data.draw(cases(lengths["gen_length"]))
    skip = between(data.draw, case)

    def loop(prompt, seed):
        rule = {"add": add, "complete": complete, "skip": skip}
        return d2f.generate(case.model.alone, prompt, mask=case.mask, **rule, **lengths)

    assert_same(case, loop, preset="d2f", add_block_at=add, activate_block_at=complete, threshold=skip, **lengths)


@given(st.data(), lengths(), shares, shares, st.floats(0, 3))
def test_d3llm(data, lengths, add, complete, bar):
    case = data.draw(cases(lengths["gen_length"]))

    def loop(prompt, seed):
        rule = {"add": add, "complete": complete, "entropy_threshold": bar}
        return d2f.generate(case.model.alone, prompt, mask=case.mask, **rule, **lengths)

    ours = {"order": "entropy", "add_block_at": add, "activate_block_at": complete, "entropy_threshold": bar}
    assert_same(case, loop, preset="d2f", **ours, **lengths)
