"""The preset `block-refinement` beside the scheduler of Diffusers without a mask, with the same noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dllm_fast
from reference import noise

VOCABULARY, LENGTH, PROMPT = 17, 12, [3, 1]


def model_of(seed: int, scale: float):
    """Logits that depend on the whole canvas."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(VOCABULARY, VOCABULARY, generator=generator)
    target = torch.randint(VOCABULARY, (64,), generator=generator)

    def model(ids):
        seen = torch.nn.functional.one_hot(ids, VOCABULARY).float()
        goal = torch.nn.functional.one_hot(target[: ids.shape[1]], VOCABULARY).float()[None]
        right = (ids == target[: ids.shape[1]]).float().mean(dim=1)[:, None, None]
        return scale * (1 + 5 * right) * goal + 0.6 * (seen.roll(1, 1) + seen.roll(-1, 1)) @ mix

    return model


def refine(model, *, steps: int, threshold: float, show):
    """The loop, in our own words: in step j at least ceil((j + 1) B / S) of the block are committed by then, the surest first,
    and whatever is surer than the threshold; the others show fresh noise. It ends when all are committed."""
    canvas, committed = torch.tensor(show(0)), torch.zeros(LENGTH, dtype=torch.bool)
    for step in range(steps):
        logits = model(torch.cat([torch.tensor(PROMPT), canvas])[None])[0, len(PROMPT) :]
        confidence, token = torch.softmax(logits, dim=-1).max(dim=-1)
        owed = max(-(-(step + 1) * LENGTH // steps) - int(committed.sum()), 0)
        order = confidence.masked_fill(committed, -1.0).argsort(descending=True)
        taken = ~committed & (confidence > threshold)
        taken[order[:owed]] = True
        canvas = torch.where(taken, token, canvas)
        committed |= taken
        if committed.all():
            return canvas.tolist(), step + 1
        canvas = torch.where(committed, canvas, torch.tensor(show(step + 1)))
    raise AssertionError("the last quota is the whole block")


@pytest.mark.parametrize("steps", [1, 5, 12, 20])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_tokens_and_forwards_are_those_of_the_loop(seed, scale, steps):
    model = model_of(seed, scale)
    places = range(len(PROMPT), len(PROMPT) + LENGTH)
    tokens, forwards = refine(
        model, steps=steps, threshold=0.95, show=lambda step: [noise.shown(seed, 0, p, step, VOCABULARY) for p in places]
    )
    result = dllm_fast.sample(
        model, PROMPT, preset="block-refinement", vocabulary=VOCABULARY, max_new_tokens=LENGTH, steps_per_block=steps, seed=seed
    )
    assert result.sequences[0].tolist() == PROMPT + tokens
    assert result.stats.nfe == forwards <= steps


def test_the_loop_is_that_of_diffusers():
    published = pytest.importorskip("diffusers.schedulers.scheduling_block_refinement")
    scheduler = published.BlockRefinementScheduler(block_length=LENGTH, num_inference_steps=5, threshold=0.95)
    scheduler.set_timesteps(5)
    for seed in range(4):
        model, canvas = model_of(seed, 1.0), torch.arange(LENGTH)[None] % VOCABULARY
        shown, counts = [canvas[0].tolist()], []
        for step in range(5):
            logits = model(torch.cat([torch.tensor([PROMPT]), canvas], dim=1))[:, len(PROMPT) :]
            made = scheduler.step(logits, step, canvas, generator=torch.Generator().manual_seed(step))
            canvas = made.prev_sample
            shown.append(canvas[0].tolist())
            counts.append(int(made.transfer_index.sum()))
        # What is not committed is noise; the loop is given the same.
        tokens, forwards = refine(model, steps=5, threshold=0.95, show=shown.__getitem__)
        assert tokens == canvas[0].tolist()
        assert forwards == int(np.flatnonzero(np.cumsum(counts) == LENGTH)[0]) + 1
