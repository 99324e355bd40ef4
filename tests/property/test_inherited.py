"""Fast-dLLM v2's inherited token is what a finished block tells of the next: the most probable one, whatever is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dllm_fast
from dllm_fast.errors import InvalidValueError
from parity.loops.canvas import softmax

RULE = {"mask_token_id": 5, "block_length": 3, "inherit_token": True, "temperature": 1.0, "threshold": 0.9}


def test_it_is_not_drawn_and_all_others_are():
    logits = np.log(np.array([0.3, 0.2, 0.2, 0.2, 0.1, 1e-9], dtype=np.float32))
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**RULE), [[1, 2, 3] + [5] * 9] * 300, seed=list(range(300)))
    while (request := sampler.next()) is not None:
        sampler.feed(np.tile(logits, (sum(map(len, request.positions)), 1)))
    written = np.stack(sampler.canvases)
    for position in (3, 6, 9):
        assert (written[:, position] == 0).all(), "the first of a block"
        assert 50 < (written[:, position + 1] == 0).sum() < 130, "about 90"
    told = softmax(torch.from_numpy(logits[None]), [5])[0, 0]
    edits = [edit for edit in sampler.trajectory[0] if edit.position in (3, 6, 9)]
    assert [edit.probability for edit in edits] == pytest.approx([told] * 3, abs=1e-6)


def test_a_prediction_must_say_which_it_is():
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**RULE), [[1, 2, 3, 5, 5, 5]])
    sampler.next()
    half = np.full(1, 0.5)
    made = dllm_fast.Prediction(token=[1], probability=half, top1=half, top2=half, entropy=half)
    with pytest.raises(InvalidValueError, match=r"inherit_token needs the most probable token of every position, .* got none"):
        sampler.feed(prediction=made)


def test_it_must_be_counted_where_its_frequency_matters():
    counted = dllm_fast.TokenFrequencies([1] * 6)
    config = dllm_fast.SamplerConfig(**RULE, order="calibrated", token_frequencies=counted)
    sampler = dllm_fast.Sampler(config, [[1, 2, 3, 5, 5, 5]])
    sampler.next()
    half = np.full(1, 0.5)
    made = dllm_fast.Prediction(token=[1], probability=half, top1=half, top2=half, entropy=half, argmax=[6])
    with pytest.raises(
        InvalidValueError, match=r"token_frequencies must have a count for each id .* got 6 for a proposed token 6"
    ):
        sampler.feed(prediction=made)
