"""LocalLeap (2510.07081), dInfer's hierarchy (2510.08666), Prophet (2508.19982) and d2Cache's prior (2509.23094)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import dllm_fast
from parity.compare import assert_same
from parity.loops import certainty_prior, hierarchy, local_leap, prophet
from parity.models import Table, cases
from parity.test_fast_dllm import between, lengths
from reference import nearby


@given(st.data(), lengths(), st.integers(0, 6))
def test_local_leap(data, lengths, radius):
    case = data.draw(cases(lengths["gen_length"]))
    relaxed, threshold = sorted((between(data.draw, case), between(data.draw, case)))

    def loop(prompt, seed):
        rule = {"threshold": threshold, "relaxed": relaxed, "radius": radius}
        return local_leap.generate(case.model.alone, prompt, mask=case.mask, **rule, **lengths)

    ours = {"threshold": threshold, "neighbour_threshold": relaxed, "neighbour_distance": radius}
    for as_published in (False, True):
        assert_same(case, loop, preset="local-leap", as_published=as_published, **ours, **lengths)


@given(st.data(), lengths(), st.booleans())
def test_hierarchy(data, lengths, has_threshold):
    case = data.draw(cases(lengths["gen_length"]))
    low, threshold = between(data.draw, case), between(data.draw, case) if has_threshold else None

    def loop(prompt, seed):
        rule = {"threshold": threshold, "low_threshold": low}
        return hierarchy.generate(case.model.alone, prompt, mask=case.mask, **rule, **lengths)

    assert_same(case, loop, preset="hierarchy", threshold=threshold, run_threshold=low, **lengths)


def test_the_published_hierarchy_commits_all_of_a_tie():
    """Two equally sure neighbours: the rule commits one, the published class both; the rule holds with `as_published`, too."""
    template = np.array([[2.0, 0.0, 0.0]])

    def model(tokens):
        return np.repeat(template, len(tokens), axis=0)

    def edits(all_ties):
        rule = {"gen_length": 4, "block_length": 4, "threshold": None, "low_threshold": 0.4, "all_ties": all_ties}
        return hierarchy.generate(lambda tokens: torch.from_numpy(model(tokens)), [0], mask=2, **rule).forwards

    assert (edits(all_ties=False), edits(all_ties=True)) == (4, 1)
    for as_published in (False, True):
        rule = {"threshold": None, "run_threshold": 0.4, "mask_token_id": 2, "as_published": as_published}
        config = dllm_fast.SamplerConfig(order="sampled-confidence", **rule)
        sampler = dllm_fast.Sampler(config, [[0, 2, 2, 2, 2]])
        while (request := sampler.next()) is not None:
            sampler.feed(model(request.positions[0]).astype(np.float32))
        assert sampler.nfe_per_row == [4]


@given(st.data(), st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.0, 0.3, 1.0, 2.5]), st.booleans())
def test_prophet(data, gen_length, steps, bar, has_answer):
    case = data.draw(cases(gen_length))
    steps = min(steps, gen_length)
    if isinstance(case.model, Table):
        # A mean that is as near to the bar as a rounding decides nothing.
        bar += 1e-3
    answer = {"answer_start": data.draw(st.integers(0, gen_length)), "answer_length": data.draw(st.integers(1, 5))}
    answer = answer if has_answer else {}
    bars = (3 * bar, 2 * bar, bar)

    def loop(prompt, seed):
        rule = {"gen_length": gen_length, "steps": steps, "bars": bars, **answer}
        return prophet.generate(case.model.alone, prompt, mask=case.mask, **rule)

    ours = {name.replace("answer", "gap"): value for name, value in answer.items()}
    assert_same(case, loop, preset="prophet", gap_stop=bar, max_new_tokens=gen_length, steps=steps, **ours)


@given(st.data(), lengths(), st.sampled_from([0.5, 1.0, 4.0, 10.0]))
def test_certainty_prior(data, lengths, sigma):
    case = data.draw(cases(lengths["gen_length"]))
    # Products of different confidences and densities may be equal up to rounding by accident.
    assume(not isinstance(case.model, Table) or len(case.model.templates) == 1)

    def loop(prompt, seed):
        return certainty_prior.generate(case.model.alone, prompt, mask=case.mask, sigma=sigma, **lengths)

    assert_same(case, loop, preset="certainty-prior", prior_sigma=sigma, **lengths)


@pytest.mark.parametrize("sigma", [0.5, 3.0, 10.0])
def test_the_density_is_the_published_one(sigma):
    """Ours ends at six standard deviations, theirs at three lengths of the canvas."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        known = rng.random(int(rng.integers(1, 200))) < 0.5
        theirs = certainty_prior.density(known.astype(float), sigma)
        ours = [nearby.density(known.tolist(), p, sigma) for p in range(len(known))]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-8)
