"""Guidance of the reverse process over noise: posteriors are led, against enumeration, by count, and as published (UDLM)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_posterior import posterior

import dllm_fast
import strategies
from dllm_fast.errors import InvalidValueError
from reference import lead, philox
from reference.draw import predict
from strategies import MASK, VOCABULARY

weights = st.sampled_from([0.25, 1.0, 3.0])


def config(name, vocabulary, *, share=None, schedule="linear", temperature=1.0, suppress=(), mask=2):
    return SimpleNamespace(
        noise=name,
        vocabulary=vocabulary,
        noise_share=share,
        schedule=schedule,
        mask_token_id=mask if name == "hybrid" else None,
        temperature=temperature,
        suppress_tokens=suppress,
    )


def published(x, seen, alpha_s, alpha_t):
    """UDLM's posterior of a position that shows `seen`, from the distribution `x`, as its code has it."""
    size, shows = len(x), np.eye(len(x))[seen]
    step = alpha_t / alpha_s
    mass = alpha_t * size * x * shows + (step - alpha_t) * shows + (alpha_s - alpha_t) * x + (1 - step) * (1 - alpha_s) / size
    return mass / (alpha_t * size * x[seen] + (1 - alpha_t))


def softmax(x):
    x = np.exp(x - x.max())
    return x / x.sum()


def law(rule, index, steps, c, u, weight, seen):  # noqa: PLR0917
    """What a position that shows `seen` shows next, by our definition."""
    marginal = softmax(lead.led(rule, index, steps, c, u, weight).astype(float))
    ways = lead.routes(rule, index, steps, seen, marginal[seen])
    found = ways["draw"] * marginal
    found[seen] += ways["stay"]
    return found / found.sum()


@given(strategies.generators, st.integers(2, 6), st.integers(2, 8), weights, st.data())
def test_the_law_is_the_published_one(rng, vocabulary, steps, weight, data):
    """log q = g log q_c + (1 - g) log q_u, normalised, with g = w + 1: over all tokens of small vocabularies."""
    index = data.draw(st.integers(0, steps - 2))
    alpha_t, alpha_s = index / steps, (index + 1) / steps
    c, u = rng.normal(0, 2, (2, vocabulary)).astype(np.float32)
    for seen in range(vocabulary):
        with_, without = (np.log(published(softmax(x.astype(float)), seen, alpha_s, alpha_t)) for x in (c, u))
        expected = softmax((weight + 1) * with_ - weight * without)
        found = law(config("uniform", vocabulary), index, steps, c, u, weight, seen)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


@given(strategies.generators, st.integers(3, 6), st.sampled_from([0.01, 0.2, 0.7]), st.integers(2, 8), weights, st.data())
def test_hybrid_noise_is_led_by_the_same_rule(rng, vocabulary, share, steps, weight, data):  # noqa: PLR0917
    """Bayes' rule for both branches by enumeration (`test_posterior.py`), combined."""
    rule = config("hybrid", vocabulary, share=share)
    index = data.draw(st.integers(0, steps - 2))
    c, u = rng.normal(0, 2, (2, vocabulary)).astype(np.float32)
    for seen in range(vocabulary):
        if index == 0 and seen != 2:
            continue  # at time 1 everything is the mask
        branches = []
        for logits in (c, u):
            x = logits.astype(float)
            x[2] = -np.inf
            branches.append(np.log(np.maximum(posterior(rule, index, steps, seen, softmax(x)), 1e-300)))
        expected = softmax((weight + 1) * branches[0] - weight * branches[1])
        found = law(rule, index, steps, c, u, weight, seen)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)


@given(
    strategies.posteriors(),
    strategies.generators,
    st.sampled_from(["float32", "bfloat16"]),
    st.sampled_from(["normal", "coarse", "sharp", "infinite"]),
    weights,
)
def test_the_core_does_what_the_reference_says(settings, rng, dtype, kind, weight):
    """Every forward of a row of six positions: what is predicted, what is shown next, what is written."""
    for name in ("block_length", "shift", "eos_token_id", "stop_at_eos"):
        settings.pop(name, None)
    steps = settings.setdefault("steps_per_block", 3)
    rule = config(
        settings["noise"],
        VOCABULARY,
        share=settings.get("noise_share"),
        schedule=settings["schedule"],
        temperature=settings["temperature"],
        suppress=settings.get("suppress_tokens", ()),
        mask=MASK,
    )
    length, seed = 6, int(rng.integers(2**32))
    flags = {} if rule.noise == "hybrid" else {"open": [np.ones(length, bool)]}
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**settings, guidance=weight), [[MASK] * length], seed=seed, **flags)
    for index in range(steps):
        request = sampler.next()
        both = [
            strategies.as_dtype(np.stack([strategies.row(rng, kind, VOCABULARY) for _ in range(length)]), dtype) for _ in "cu"
        ]
        made = sampler.predict(both[0], unguided=both[1])
        shown = []
        for p, seen in enumerate(request.canvases[0].tolist()):
            x = lead.led(rule, index, steps, both[0][p].float().numpy(), both[1][p].float().numpy(), weight)
            expected = predict(x, temperature=1.0, current=seen, seed=seed, position=p, step=index)
            assert (made.token[p], made.probability[p], made.current[p]) == (
                expected.token,
                expected.probability,
                expected.current,
            )
            if index + 1 < steps:
                ways = lead.routes(rule, index, steps, seen, expected.current)
                u = philox.uniform(seed, 0, p, index, philox.COMMIT)
                stays = u * (ways["stay"] + ways["draw"]) < ways["stay"] or ways["draw"] == 0
                shown.append(seen if stays else expected.token)
            else:
                shown.append(expected.token)
        sampler.feed(prediction=made)
        assert (sampler.next() is None) == (index + 1 == steps)
        assert sampler.canvases[0].tolist() == shown
    assert MASK not in sampler.canvases[0] or rule.noise == "uniform"
    assert not {*sampler.canvases[0].tolist()} & {*rule.suppress_tokens}


def test_what_is_shown_follows_the_led_posterior():
    """Chi-square over 60,000 positions in each of three steps, for each token that a position showed before."""
    n, vocabulary, steps, weight = 60_000, 5, 4, 1.5
    c, u = np.log(np.array([[0.5, 0.2, 0.1, 0.15, 0.05], [0.1, 0.3, 0.2, 0.2, 0.2]])).astype(np.float32)
    settings = dllm_fast.SamplerConfig(
        noise="uniform",
        order="ancestral",
        schedule="linear",
        vocabulary=vocabulary,
        steps_per_block=steps,
        temperature=1.0,
        guidance=weight,
    )
    sampler = dllm_fast.Sampler(settings, [np.zeros(n, np.int64)], seed=11, open=[np.ones(n, bool)])
    both = [np.broadcast_to(x, (n, vocabulary)).copy() for x in (c, u)]
    worst = 0.0
    for index in range(steps - 1):
        before = sampler.next().canvases[0]
        sampler.feed(prediction=sampler.predict(both[0], unguided=both[1]))
        after = sampler.next().canvases[0]
        alpha_t, alpha_s = index / steps, (index + 1) / steps
        for seen in range(vocabulary):
            with_, without = (np.log(published(np.exp(x.astype(float)), seen, alpha_s, alpha_t)) for x in (c, u))
            expected = softmax((weight + 1) * with_ - weight * without)
            counted = np.bincount(after[before == seen], minlength=vocabulary)
            worst = max(worst, ((counted - counted.sum() * expected) ** 2 / (counted.sum() * expected)).sum())
    assert worst < 25  # of four degrees of freedom: one of 15 exceeds it in one of 1,300 cases
    sampler.feed(prediction=sampler.predict(both[0], unguided=both[1]))
    written = np.bincount(sampler.canvases[0], minlength=vocabulary)
    expected = n * softmax((weight + 1) * c.astype(float) - weight * u.astype(float))
    assert ((written - expected) ** 2 / expected).sum() < 25, "the last step writes what guided predictions say"


class Denoiser(torch.nn.Module):
    """Position p is token p + 1, the surer the more the first token says so."""

    def forward(self, ids):
        target = (torch.arange(ids.shape[1]) + 1) % 12
        return (0.5 * ids[:, :1, None]) * torch.nn.functional.one_hot(target, 12).float()[None]


def test_sample_asks_both_branches_in_one_forward():
    model, given_ = Denoiser(), {"preset": "udlm", "vocabulary": 12, "max_new_tokens": 5, "steps": 4, "seed": 3}
    for preset in ("udlm",):
        guided = dllm_fast.sample(model, [[9], [4, 4]], **given_, guidance=1.0, negative_prompt=[1])
        assert guided.stats.nfe_per_row == [8, 8]
        config_ = dllm_fast.presets()[preset]
        for row, prompt in enumerate([[9], [4, 4]]):
            canvas = np.array([*prompt, *[0] * 5])
            is_open = np.arange(len(canvas)) >= len(prompt)
            settings = dllm_fast.SamplerConfig.from_dict(
                config_.to_dict() | {"vocabulary": 12, "steps": 4, "guidance": 1.0, "eos_token_id": None}
            )
            sampler = dllm_fast.Sampler(settings, [canvas], seed=3, open=[is_open], block_start=len(prompt))
            while (request := sampler.next()) is not None:
                shown, positions = request.canvases[0], request.positions[0]
                own = model(torch.tensor(shown)[None])[0][positions]
                twin = model(torch.tensor([1, *shown[len(prompt) :].tolist()])[None])[0][positions - len(prompt) + 1]
                sampler.feed(prediction=sampler.predict(own, unguided=twin))
            assert guided.sequences[row].tolist() == sampler.canvases[0].tolist()
    plain = dllm_fast.sample(model, [[9], [4, 4]], **given_)
    off = dllm_fast.sample(model, [[9], [4, 4]], **given_, guidance=0.0)
    assert [row.tolist() for row in plain.sequences] == [row.tolist() for row in off.sequences]
    assert plain.stats.nfe_per_row == off.stats.nfe_per_row == [4, 4]


def test_masks_stand_for_the_prompt_of_a_hybrid():
    """GIDD has a mask, so nobody has to say what stands in place of the prompt."""
    model = Denoiser()
    found = dllm_fast.sample(
        model, [9], preset="gidd", mask_token_id=11, max_new_tokens=5, steps=4, guidance=2.0, vocabulary=12, seed=1
    )
    assert found.stats.nfe_per_row == [8]
    assert 11 not in found.new_tokens[0]


def test_what_is_refused():
    settings = {"noise": "uniform", "order": "ancestral", "schedule": "linear", "vocabulary": 3, "temperature": 1.0}
    line = np.zeros((1, 3), np.float32)
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**settings, guidance=1.0), [[0]], open=[[True]])
    sampler.next()
    for ask in (sampler.predict, sampler.feed):
        with pytest.raises(InvalidValueError, match="takes logits with and without the prompt, got those with it alone"):
            ask(line)
    with pytest.raises(InvalidValueError, match="unguided must have a line of 3 logits for each of 1 positions, got 6 numbers"):
        sampler.predict(line, unguided=np.zeros((2, 3), np.float32))
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**settings), [[0]], open=[[True]])
    sampler.next()
    with pytest.raises(InvalidValueError, match="unguided logits are for guidance of a reverse process over noise"):
        sampler.predict(line, unguided=line)
    with pytest.raises(InvalidValueError, match="pass negative_prompt="):
        dllm_fast.sample(Denoiser(), [1], preset="udlm", vocabulary=12, max_new_tokens=2, guidance=1.0)
