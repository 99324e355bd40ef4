"""The preset `diffusion-gemma` beside the loop of transformers, with the same noise and the same uniforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dllm_fast
from parity.loops import diffusion_gemma
from reference import noise, philox

VOCABULARY, LENGTH, PROMPT = 17, 9, [3, 1]


class Model:
    """Logits that depend on the whole canvas, the surer the more of it is as it should be."""

    def __init__(self, seed: int, scale: float):
        generator = torch.Generator().manual_seed(seed)
        self.mix = torch.randn(VOCABULARY, VOCABULARY, generator=generator)
        self.target = torch.randint(VOCABULARY, (LENGTH + len(PROMPT),), generator=generator)
        self.scale = scale

    def __call__(self, ids):
        right = (ids == self.target).float().mean(dim=1)[:, None, None]
        seen = torch.nn.functional.one_hot(ids, VOCABULARY).float()
        around = seen + seen.roll(1, 1) + seen.roll(-1, 1)
        goal = torch.nn.functional.one_hot(self.target, VOCABULARY).float()[None]
        return self.scale * (1.0 + 6.0 * right) * goal + around @ self.mix


@pytest.mark.parametrize("stability", [0, 1, 2])
@pytest.mark.parametrize("scale", [0.2, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(4))
def test_tokens_forwards_and_canvases_are_those_of_the_loop(seed, scale, stability):
    model = Model(seed, scale)
    places = range(len(PROMPT), len(PROMPT) + LENGTH)
    tokens, forwards, seen = diffusion_gemma.denoise(
        model,
        PROMPT,
        steps=48,
        t_min=0.4,
        t_max=0.8,
        bound=0.1,
        stability=stability,
        confidence=0.005,
        noise=lambda step: [noise.shown(seed, 0, p, step, VOCABULARY) for p in places],
        uniform=lambda step: [philox.uniform(seed, 0, p, step, philox.TOKEN) for p in places],
    )
    shown = []
    result = dllm_fast.sample(
        lambda ids: (shown.append(ids[0, len(PROMPT) :].tolist()), model(ids))[1],
        PROMPT,
        preset="diffusion-gemma",
        vocabulary=VOCABULARY,
        max_new_tokens=LENGTH,
        stop_stable=stability,
        seed=seed,
    )
    assert result.sequences[0].tolist() == PROMPT + tokens
    assert result.stats.nfe == forwards <= 48
    assert shown == seen


def test_temperatures_are_rounded_as_in_the_loop():
    """To the bit, in every step: 0.8 in the first, never quite 0.4."""
    config = dllm_fast.presets()["diffusion-gemma"]
    rule = config.to_dict() | {"vocabulary": VOCABULARY, "stop_stable": 99}
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig.from_dict(rule), [[0] * 3], open=[[True] * 3])
    for left in range(48, 0, -1):
        request = sampler.next()
        told = 0.4 + (0.8 - 0.4) * (torch.tensor(left, dtype=torch.int32) / 48)
        assert request.temperatures.tolist() == [told.item()] == [noise.temperature(config, left, 48)]
        sampler.feed(np.zeros((3, VOCABULARY), dtype=np.float32))
    assert sampler.next() is None


def test_the_loop_is_that_of_transformers():
    published = pytest.importorskip("transformers.models.diffusion_gemma.generation_diffusion_gemma")
    generator = torch.Generator().manual_seed(0)
    bound = published.EntropyBoundSamplerConfig(entropy_bound=0.1)
    sampler = published.EntropyBoundSampler(bound, canvas_length=12, vocab_size=VOCABULARY, max_denoising_steps=48)
    warm = published.LinearTemperatureScheduleLogitsProcessor(t_min=0.4, t_max=0.8, max_denoising_steps=48)
    config = dllm_fast.presets()["diffusion-gemma"]
    for left in (48, 47, 31, 2, 1):
        logits = torch.randn(1, 12, VOCABULARY, generator=generator) * torch.rand(1, 12, 1, generator=generator) * 20
        processed = warm(None, logits, torch.tensor(left, dtype=torch.int32))
        np.testing.assert_array_equal(processed.numpy(), logits.numpy() / np.float32(noise.temperature(config, left, 48)))
        zeros = torch.zeros(1, 12, dtype=torch.long)
        taken = sampler.accept_canvas(zeros, zeros + 1, processed, left)[0] == 1
        entropy = torch.distributions.Categorical(logits=processed).entropy()[0]
        assert taken.tolist() == diffusion_gemma.accepted(entropy, 0.1).tolist()
