"""WINO's published loop, restated plainly over the family's own class with a mask of four dimensions, beside ours."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

import dllm_fast
from families import MASK, TWINS
from parity.loops import wino

PROMPTS = [[3, 4, 5], [9], [7, 7, 1, 250, 8, 2, 14]]
# The models are never sure: these let several pass, and doubt some.
SETTINGS = [(0.004, 0.006), (0.005, 0.02), (0.0, 0.9), (0.03, 0.0), (0.9, 0.9)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """LLaDA's tiny twin as `load` opens it, and the stock class as the loop calls it."""
    twin = next(twin for twin in TWINS if twin.name == "llada")
    stock = twin.model()

    def logits(ids, positions, seen):
        ids, positions, seen = map(torch.from_numpy, (ids, positions, seen))
        with torch.inference_mode():
            return stock(ids, position_ids=positions, attention_mask=seen, use_cache=False).logits

    return dllm_fast.load(twin.save(tmp_path_factory.mktemp("llada"))), logits


def by_forward(trajectory):
    """What each forward wrote, and took back."""
    return [
        tuple({e.position for e in edits if e.kind == kind} for kind in ("commit", "remask"))
        for edits in ([*edits] for _, edits in itertools.groupby(trajectory, key=lambda edit: edit.step))
    ]


@pytest.mark.parametrize(("threshold", "back"), SETTINGS)
def test_the_published_loop_token_for_token(pair, threshold, back):
    model, logits = pair
    ours = functools.partial(
        dllm_fast.sample, model, preset="wino", max_new_tokens=32, threshold=threshold, threshold_back=back, stop_at_eos=False
    )
    excluded = [token for token in ours(PROMPTS[0]).config.suppress_tokens if token != MASK]
    takes_back = 0
    for block in (8, 32):
        result = ours(PROMPTS, block_length=block)
        for row, prompt in enumerate(PROMPTS):
            canvas, forwards, told = wino.generate(
                logits,
                prompt,
                mask=MASK,
                gen_length=32,
                block_length=block,
                threshold=threshold,
                threshold_back=back,
                excluded=excluded,
            )
            assert result.sequences[row].tolist() == canvas.tolist()
            assert result.stats.nfe_per_row[row] == forwards
            assert by_forward(result.trajectory[row]) == told
            takes_back += sum(len(lost) for _, lost in told)
            assert forwards <= 32, "no more than there are masks; the authors' own bound is 29 more for each block"
    assert (takes_back > 0) == (threshold < 0.01)


def test_what_is_published_is_strict(pair):
    """`> threshold` there, `>=` here: another rule where a probability is the threshold itself, and nowhere else."""
    _, logits = pair
    length, block = 16, 8
    loop = functools.partial(wino.generate, gen_length=length, block_length=block, threshold_back=0.9)

    def two(ids, positions, seen):
        made = torch.full((*ids.shape, 4), -torch.inf)
        made[..., :2] = 0.0  # two tokens, as probable as each other
        return made

    once = loop(two, [0], mask=3, threshold=0.5)[1]
    strict = loop(two, [0], mask=3, threshold=0.5, is_strict=True)[1]
    assert strict > once
    for prompt in PROMPTS:
        same = [
            loop(logits, prompt, mask=MASK, threshold=0.004, is_strict=is_strict)[0].tolist() for is_strict in (False, True)
        ]
        assert same[0] == same[1]
