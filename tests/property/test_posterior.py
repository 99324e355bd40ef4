"""The reverse process over noise that shows tokens: its routes against the posterior by enumeration, and its draws by count."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from dllm_fast.errors import InvalidValueError
from reference import noise

MASK = 2


def config(name, vocabulary, share=None, schedule="linear"):
    mask = MASK if name == "hybrid" else None
    return SimpleNamespace(noise=name, vocabulary=vocabulary, noise_share=share, schedule=schedule, mask_token_id=mask)


def noised(config, t):
    """The matrix q(x_t | x_0), rows by the clean token."""
    clean, mask, uniform = noise.marginal(config, t)
    n = config.vocabulary
    pi = np.zeros(n)
    if config.noise == "hybrid":
        pi[:] = uniform / (n - 1)
        pi[MASK] = mask
    else:
        pi[:] = uniform / n
    return clean * np.eye(n) + np.ones((n, 1)) * pi, clean, pi


def posterior(config, index, steps, token, p):
    """q(x_s | x_t, x_0 ~ p) by Bayes' rule over all tokens: the likelihood of what is seen times the prior."""
    t, s = (steps - index) / steps, (steps - index - 1) / steps
    (_, clean_t, pi_t), (q_s, clean_s, pi_s) = noised(config, t), noised(config, s)
    a = clean_t / clean_s
    one_step = a * np.eye(config.vocabulary) + np.ones((config.vocabulary, 1)) * (pi_t - a * pi_s)
    np.testing.assert_allclose(q_s @ one_step, noised(config, t)[0], atol=1e-13)
    joint = one_step[:, token] * (p @ q_s)
    return joint / joint.sum()


def mixed(config, index, steps, token, p):
    """The same as the mixture of the routes."""
    masses = noise.routes(config, index, steps, token, p[token])
    law = masses["clean"] * p
    law[token] += masses["stay"]
    others = np.ones(config.vocabulary)
    if config.noise == "hybrid":
        others[MASK] = 0
        law[MASK] += masses["mask"]
    law += masses["uniform"] * others / others.sum()
    return law / sum(masses.values())


@given(
    st.sampled_from([("uniform", "linear"), ("uniform", "cosine"), ("hybrid", "linear")]),
    st.integers(3, 6),
    st.sampled_from([0.01, 0.2, 0.7]),
    st.integers(2, 9),
    st.data(),
)
def test_the_routes_are_the_posterior(kind, vocabulary, share, steps, data):
    rule = config(kind[0], vocabulary, share if kind[0] == "hybrid" else None, kind[1])
    index = data.draw(st.integers(0, steps - 2))
    weights = np.array(data.draw(st.lists(st.floats(0, 1), min_size=vocabulary, max_size=vocabulary))) + 1e-3
    if kind[0] == "hybrid":
        weights[MASK] = 0  # never predicted
    p = weights / weights.sum()
    for token in range(vocabulary):
        if index == 0 and kind[0] == "hybrid" and token != MASK:
            continue  # at time 1 everything is the mask
        np.testing.assert_allclose(
            mixed(rule, index, steps, token, p), posterior(rule, index, steps, token, p), atol=1e-12, rtol=0
        )


@pytest.mark.parametrize("name", ["uniform", "hybrid"])
def test_the_process_keeps_its_marginals(name):
    """By enumeration: a position of law q_t goes on to q_s, where the model knows the clean token."""
    rule, steps, truth = config(name, 5), 6, 3
    p = np.eye(5)[truth]
    for index in range(steps - 1):
        law = noised(rule, (steps - index) / steps)[0][truth]
        after = sum(law[token] * mixed(rule, index, steps, token, p) for token in range(5) if law[token] > 0)
        np.testing.assert_allclose(after, noised(rule, (steps - index - 1) / steps)[0][truth], atol=1e-12)


@pytest.mark.parametrize("preset", ["udlm", "gidd"])
def test_what_is_shown_follows_the_posterior(preset):
    """Chi-square over 60,000 positions in each of three steps, for each token that a position showed before."""
    n, vocabulary, steps = 60_000, 5, 4
    published = dllm_fast.presets()[preset]
    rule = config(published.noise, vocabulary, published.noise_share)
    logits = np.log(np.array([0.5, 0.2, 0.1, 0.15, 0.05])).astype(np.float32)
    p = np.exp(logits.astype(float))
    given = {"vocabulary": vocabulary, "steps_per_block": steps, "temperature": 1.0}
    if rule.noise == "hybrid":
        p[MASK] = 0
        given |= {"mask_token_id": MASK, "noise_share": published.noise_share}
    p /= p.sum()
    settings = dllm_fast.SamplerConfig(noise=rule.noise, order="ancestral", schedule="linear", **given)
    canvas = np.full(n, MASK)
    flags = {} if rule.noise == "hybrid" else {"open": [np.ones(n, bool)]}
    sampler = dllm_fast.Sampler(settings, [canvas], seed=11, **flags)
    worst = 0.0
    for index in range(steps - 1):
        before = sampler.next().canvases[0]
        sampler.feed(np.broadcast_to(logits, (n, vocabulary)).copy())
        after = sampler.next().canvases[0]
        for token in np.unique(before):
            expected = posterior(rule, index, steps, int(token), p)
            seen = np.bincount(after[before == token], minlength=vocabulary)
            where = expected > 0
            assert not seen[~where].any()
            total = seen.sum()
            worst = max(worst, ((seen - total * expected)[where] ** 2 / (total * expected[where])).sum())
    # At most four degrees of freedom: one of 15 exceeds 25 in one of 1,300 cases.
    assert worst < 25
    sampler.feed(np.broadcast_to(logits, (n, vocabulary)).copy())
    assert sampler.next() is None
    written = np.bincount(sampler.canvases[0], minlength=vocabulary)
    where = p > 0
    assert ((written - n * p)[where] ** 2 / (n * p[where])).sum() < 25, "the last step writes what is drawn"
    assert sampler.nfe_per_row == [steps]
    assert [edit.kind for edit in sampler.trajectory[0][:3]] == ["commit"] * 3


def test_a_temperature_is_that_of_the_distribution():
    """The probability of the token that stands there is at the temperature, too: at 0 it is 0 or 1."""
    settings = {"noise": "uniform", "order": "ancestral", "vocabulary": 4, "steps_per_block": 50}
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**settings), [np.zeros(400, int)], open=[np.ones(400, bool)], seed=2)
    logits = np.zeros((400, 4), np.float32)
    logits[:, 1] = 1.0
    while (request := sampler.next()) is not None:
        last = request.canvases[0]
        sampler.feed(logits)
    assert (sampler.canvases[0] == 1).all()
    assert (last == 1).mean() > 0.95, "near the end nearly all show what the model is sure of"


def test_what_cannot_be_is_refused_with_the_reason():
    def refused(match, **settings):
        with pytest.raises(InvalidValueError, match=match):
            dllm_fast.SamplerConfig(**settings)

    uniform = {"noise": "uniform", "order": "ancestral"}
    refused("got top_k, top_p or min_p beside it; leave them out", **uniform, top_k=3)
    refused("got a schedule that is none of its own", **uniform, schedule="dream")
    refused("got a schedule that is none of its own", noise="hybrid", order="ancestral", schedule="cosine")
    refused("noise 'hybrid' is that of a reverse process, got order 'confidence'", noise="hybrid")
    refused(r"noise_share must lie in \[0, 1\), got 1", noise="hybrid", order="ancestral", noise_share=1.0)
    refused("noise_share is read under noise='hybrid' alone, got 0.1 beside noise='uniform'", **uniform, noise_share=0.1)
    refused("as_published keeps quirks of loops over masks", **uniform, as_published=True)
    refused("got drafts beside it; set order='entropy' for those", **uniform, drafts=True, steps_per_block=4)
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**uniform, vocabulary=3), [[0]], open=[[True]])
    sampler.next()
    with pytest.raises(InvalidValueError, match="needs the probability of the token that stands there, got scores"):
        sampler.feed(tokens=[1], scores=[0.5])
    one = np.ones(1)
    with pytest.raises(InvalidValueError, match="a prediction needs `current`"):
        sampler.feed(prediction=dllm_fast.Prediction(token=[1], probability=one, top1=one, top2=one, entropy=one, argmax=[1]))
