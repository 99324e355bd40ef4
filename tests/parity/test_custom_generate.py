"""`model.generate(..., custom_generate=dllm_fast.generate)` against `sample`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dllm_fast
from dllm_fast import DllmFastError
from native_models import NEW, PROMPTS, model_of


def test_generate_of_transformers():
    model = model_of("Qwen2", pad_token_id=0, eos_token_id=None)
    settings = {"block_length": 8, "custom_generate": dllm_fast.generate, "max_new_tokens": NEW}
    expected = dllm_fast.sample(model, PROMPTS, max_new_tokens=NEW, block_length=8).sequences
    for prompt, sequence in zip(PROMPTS, expected, strict=True):
        found = model.generate(torch.tensor([prompt]), **settings)
        np.testing.assert_array_equal(found[0].numpy(), sequence)
    width = max(map(len, PROMPTS))
    padded = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    mask = (padded != 0).long()
    found = model.generate(padded, attention_mask=mask, return_dict_in_generate=True, **settings)
    assert found.num_forwards == NEW
    assert found.sequences.shape == (3, width + NEW)
    torch.testing.assert_close(found.sequences[:, :width], padded)
    for row, sequence in zip(found.sequences.numpy(), expected, strict=True):
        np.testing.assert_array_equal(row[width:], sequence[-NEW:])


def test_generate_pads_behind_the_end():
    model = model_of("Qwen2", pad_token_id=0)
    plain = dllm_fast.sample(model, PROMPTS, max_new_tokens=NEW, block_length=4).sequences
    end = int(plain[1][len(PROMPTS[1]) + 5])
    found = model.generate(
        torch.tensor([PROMPTS[1]]), custom_generate=dllm_fast.generate, max_new_tokens=NEW, block_length=4, eos_token_id=end
    )
    new = found[0, len(PROMPTS[1]) :]
    assert int(new[-1]) == end
    assert len(new) <= 6


def test_generate_draws_as_the_generation_config_says():
    model = model_of("Qwen2", pad_token_id=0)
    ids = torch.tensor(PROMPTS[:1])
    draw = {"custom_generate": dllm_fast.generate, "max_new_tokens": NEW, "do_sample": True, "seed": 3}
    found = model.generate(ids, num_return_sequences=2, temperature=2.0, top_k=0, **draw)
    expected = dllm_fast.sample(model, PROMPTS[0], max_new_tokens=NEW, temperature=2.0, num_samples=2, seed=3).sequences
    np.testing.assert_array_equal(found.numpy(), np.stack(expected))


def test_generate_refuses_what_it_cannot_honour():
    model = model_of("Qwen2", pad_token_id=0)
    ids = torch.tensor(PROMPTS[:1])
    plain = {"custom_generate": dllm_fast.generate, "max_new_tokens": 4}
    with pytest.raises(DllmFastError, match="logits processors, got RepetitionPenalty"):
        model.generate(ids, repetition_penalty=1.5, **plain)
    with pytest.raises(DllmFastError, match="beams, got num_beams=2"):
        model.generate(ids, num_beams=2, **plain)
    with pytest.raises(DllmFastError, match="no fixed order, got a list"):
        dllm_fast.generate(model, ids, streamer=[], max_new_tokens=4)
