"""`model.generate(..., custom_generate=dllm_fast.generate)` against `sample`."""

from __future__ import annotations

import copy
import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf
from transformers.generation import GenerationMixin

import dllm_fast
from dllm_fast import DllmFastError
from dllm_fast.integrations.custom_generate import SHARED
from dllm_fast.integrations.generation_config import READ, WITHOUT_EFFECT
from native_models import BLOCKS, ENCODERS, NEW, PROMPTS, model_of

PLAIN = {"custom_generate": dllm_fast.generate, "max_new_tokens": NEW}
# Settings of a generation config that are refused, with a value that is not their default.
REFUSED = {
    "bad_words_ids": [[3, 4]],
    "begin_suppress_tokens": [3],
    "constraints": [object()],
    "diversity_penalty": 0.5,
    "dola_layers": "low",
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.5,
    "epsilon_cutoff": 3e-4,
    "eta_cutoff": 3e-4,
    "exponential_decay_length_penalty": (3, 1.2),
    "force_words_ids": [[3]],
    "forced_bos_token_id": 3,
    "forced_eos_token_id": 3,
    "max_time": 1.0,
    "min_length": 3,
    "no_repeat_ngram_size": 2,
    "num_beam_groups": 2,
    "num_beams": 2,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_logits": True,
    "output_scores": True,
    "penalty_alpha": 0.5,
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 1,
    "remove_invalid_values": True,
    "repetition_penalty": 1.5,
    "sequence_bias": {(3,): 1.0},
    "token_healing": True,
    "top_h": 0.5,
    "typical_p": 0.5,
    "use_mtp": True,
    "watermarking_config": hf.WatermarkingConfig(),
}


def test_generate_of_transformers():
    model = model_of("Qwen2", pad_token_id=0, eos_token_id=None)
    settings = {"block_length": 8, **PLAIN}
    expected = dllm_fast.sample(model, PROMPTS, max_new_tokens=NEW, block_length=8).sequences
    for prompt, sequence in zip(PROMPTS, expected, strict=True):
        found = model.generate(torch.tensor([prompt]), **settings)
        np.testing.assert_array_equal(found[0].numpy(), sequence)
    padded, mask = left_padded()
    found = model.generate(padded, attention_mask=mask, return_dict_in_generate=True, **settings)
    width = padded.shape[1]
    assert found.num_forwards == NEW
    assert found.sequences.shape == (3, width + NEW)
    torch.testing.assert_close(found.sequences[:, :width], padded)
    for row, sequence in zip(found.sequences.numpy(), expected, strict=True):
        np.testing.assert_array_equal(row[width:], sequence[-NEW:])


def left_padded() -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, PROMPTS))
    padded = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    return padded, (padded != 0).long()


def test_generate_pads_behind_the_end():
    model = model_of("Qwen2", pad_token_id=0)
    plain = dllm_fast.sample(model, PROMPTS, max_new_tokens=NEW, block_length=4).sequences
    end = int(plain[1][len(PROMPTS[1]) + 5])
    found = model.generate(torch.tensor([PROMPTS[1]]), block_length=4, eos_token_id=end, **PLAIN)
    new = found[0, len(PROMPTS[1]) :]
    assert int(new[-1]) == end
    assert len(new) <= 6


def test_generate_draws_as_the_generation_config_says():
    model = model_of("Qwen2", pad_token_id=0)
    ids = torch.tensor(PROMPTS[:1])
    draw = {"do_sample": True, "seed": 3, **PLAIN}
    found = model.generate(ids, num_return_sequences=2, temperature=2.0, top_k=0, **draw)
    expected = dllm_fast.sample(model, PROMPTS[0], max_new_tokens=NEW, temperature=2.0, num_samples=2, seed=3).sequences
    np.testing.assert_array_equal(found.numpy(), np.stack(expected))


def test_generate_reads_guidance_in_their_words():
    """Theirs is 1 more than ours, and a negative prompt comes with its padding."""
    model = model_of("Qwen2", pad_token_id=0, eos_token_id=None)
    padded, mask = left_padded()
    settings = {"block_length": 8, **PLAIN}
    negative = torch.tensor([[0, 3, 4], [5, 6, 7], [0, 0, 8]])
    found = [
        model.generate(padded, attention_mask=mask, guidance_scale=2.5, **settings),
        model.generate(padded, attention_mask=mask, guidance=1.5, negative_prompt=[[3, 4], [5, 6, 7], [8]], **settings),
        model.generate(
            padded,
            attention_mask=mask,
            guidance_scale=2.5,
            negative_prompt_ids=negative,
            negative_prompt_attention_mask=(negative != 0).long(),
            **settings,
        ),
    ]
    expected = [
        dllm_fast.sample(model, PROMPTS, max_new_tokens=NEW, block_length=8, guidance=1.5, negative_prompt=given).sequences
        for given in (None, [[3, 4], [5, 6, 7], [8]])
    ]
    for rows, sequences in zip(found, (expected[0], expected[1], expected[1]), strict=True):
        for row, sequence in zip(rows.numpy(), sequences, strict=True):
            np.testing.assert_array_equal(row[padded.shape[1] :], sequence[-NEW:])
    config = dllm_fast.SamplerConfig(block_length=8)
    plain = model.generate(padded, attention_mask=mask, guidance_scale=2.5, config=config, **PLAIN)
    torch.testing.assert_close(plain, found[0])
    with pytest.raises(DllmFastError, match="negative_prompt and negative_prompt_ids are the same, got both"):
        model.generate(padded, guidance_scale=2.5, negative_prompt_ids=negative, negative_prompt=[3], **settings)


def test_generate_takes_the_policy_of_the_cache_under_a_name_of_its_own():
    model = model_of("Qwen2", pad_token_id=0)
    ids = torch.tensor(PROMPTS[:1])
    for policy in ("none", "prefix", "dual"):
        found = model.generate(ids, cache_policy=policy, block_length=4, return_dict_in_generate=True, **PLAIN)
        assert found.result.config.cache == policy
        expected = dllm_fast.sample(model, PROMPTS[:1], max_new_tokens=NEW, cache=policy, block_length=4).sequences
        np.testing.assert_array_equal(found.sequences.numpy(), np.stack(expected))
    direct = dllm_fast.generate(model, ids, max_new_tokens=NEW, cache="dual", block_length=4, return_dict_in_generate=True)
    assert direct.result.config.cache == "dual"
    off = model.generate(ids, use_cache=False, return_dict_in_generate=True, **PLAIN)
    assert off.result.config.cache == "none"


def test_a_cache_of_theirs_is_only_passed_over_while_it_is_empty():
    model = model_of("Qwen2", pad_token_id=0)
    ids = torch.tensor(PROMPTS[:1])
    expected = model.generate(ids, **PLAIN)
    for name in ("cache", "past_key_values"):
        found = dllm_fast.generate(model, ids, max_new_tokens=NEW, **{name: hf.DynamicCache()})
        torch.testing.assert_close(found, expected)
        filled = hf.DynamicCache()
        filled.update(torch.zeros(1, 2, 3, 16), torch.zeros(1, 2, 3, 16), 0)
        with pytest.raises(DllmFastError, match=f"empty cache, got {name} that holds tokens; pass the whole prompt"):
            dllm_fast.generate(model, ids, max_new_tokens=NEW, **{name: filled})
        with pytest.raises(DllmFastError, match=f"got {name} that holds"):
            dllm_fast.generate(model, ids, max_new_tokens=NEW, **{name: ((torch.zeros(1, 2, 3, 16),) * 2,)})


def test_generate_reads_settings_that_mean_the_same():
    model = model_of("Qwen2", pad_token_id=0)
    ids = torch.tensor(PROMPTS[:1])
    plain = model.generate(ids, **PLAIN)
    banned = int(plain[0, -1])
    expected = dllm_fast.sample(model, PROMPTS[:1], max_new_tokens=NEW, suppress_tokens=[banned]).sequences[0]
    assert banned not in expected[len(PROMPTS[0]) :]
    for same in ({"suppress_tokens": [banned]}, {"bad_words_ids": [[banned]]}):
        np.testing.assert_array_equal(model.generate(ids, **same, **PLAIN)[0].numpy(), expected)
    told = copy.deepcopy(model.generation_config)
    told.max_new_tokens, told.steps, told.block_length, told.custom = NEW, 4, 4, "a checkpoint's own"
    found = model.generate(ids, generation_config=told, custom_generate=dllm_fast.generate, return_dict_in_generate=True)
    assert (found.result.config.steps, found.result.config.block_length, found.num_forwards) == (4, 4, 4)
    loose = SimpleNamespace(max_new_tokens=NEW, eos_token_id=None, gen_length=None)
    torch.testing.assert_close(dllm_fast.generate(model, ids, generation_config=loose), plain)
    assert dllm_fast.generate(model, ids, max_length=len(PROMPTS[0]) + 4).shape == (1, len(PROMPTS[0]) + 4)


@pytest.mark.parametrize("name", REFUSED)
def test_generate_refuses_what_it_does_not_honour(name):
    if not hasattr(hf.GenerationConfig(), name):
        pytest.skip(f"transformers {hf.__version__} has no {name}")
    model = model_of("Qwen2", pad_token_id=0)
    told = copy.deepcopy(model.generation_config)
    setattr(told, name, REFUSED[name])
    words = "words of one token" if name == "bad_words_ids" else f"does not honour {name}, got {name}="
    calls = []
    model.forward = calls.append
    with pytest.raises(DllmFastError, match=words):
        dllm_fast.generate(model, torch.tensor(PROMPTS[:1]), generation_config=told, max_new_tokens=4)
    assert not calls


def test_every_setting_of_a_generation_config_is_read_refused_or_without_effect():
    known = {name for name in vars(hf.GenerationConfig()) if not name.startswith("_")}
    open_questions = known - READ - WITHOUT_EFFECT - REFUSED.keys()
    assert not open_questions, "new in transformers: say in generation_config.py what they mean here"
    assert not READ & WITHOUT_EFFECT


def test_generate_refuses_what_it_cannot_honour():
    model = model_of("Qwen2", pad_token_id=0)
    ids = torch.tensor(PROMPTS[:1])
    with pytest.raises(DllmFastError, match=r"repetition_penalty=1\.5; leave it out: .* pass repetition_penalty=1\.0\)"):
        model.generate(ids, repetition_penalty=1.5, **PLAIN)
    with pytest.raises(DllmFastError, match="num_beams=2; leave it out"):
        model.generate(ids, num_beams=2, **PLAIN)
    with pytest.raises(DllmFastError, match="output_scores=True; return_dict_in_generate"):
        model.generate(ids, output_scores=True, **PLAIN)
    with pytest.raises(DllmFastError, match="logits processors, got RepetitionPenalty"):
        model.generate(ids, logits_processor=[hf.RepetitionPenaltyLogitsProcessor(1.5)], **PLAIN)
    with pytest.raises(DllmFastError, match="stopping criteria, got MaxTime"):
        model.generate(ids, stopping_criteria=[hf.MaxTimeCriteria(1.0)], **PLAIN)
    with pytest.raises(DllmFastError, match="segment, leave them out"):
        dllm_fast.generate(model, ids, token_type_ids=torch.ones_like(ids), max_new_tokens=4)
    with pytest.raises(DllmFastError, match="count each prompt's tokens from 0"):
        model.generate(ids, position_ids=torch.arange(len(PROMPTS[0]))[None] + 5, **PLAIN)
    with pytest.raises(DllmFastError, match="input_ids must be a tensor"):
        dllm_fast.generate(model, PROMPTS[0], max_new_tokens=4)
    with pytest.raises(DllmFastError, match="block_lenght is not a setting"):
        dllm_fast.generate(model, ids, block_lenght=4, max_new_tokens=4)
    with pytest.raises(DllmFastError, match=r"penalty_alpha is not a setting, got 0\.6; leave it out: penalties"):
        dllm_fast.generate(model, ids, penalty_alpha=0.6, max_new_tokens=4)
    with pytest.raises(DllmFastError, match="num_samples is called num_return_sequences"):
        dllm_fast.generate(model, ids, num_samples=2, max_new_tokens=4)
    with pytest.raises(DllmFastError, match="output_scores is not a setting"):
        dllm_fast.generate(model, ids, output_scores=True, max_new_tokens=4)
    with pytest.raises(DllmFastError, match=r"got 1 rows; call dllm_fast\.sample with num_samples=2"):
        dllm_fast.generate(model, ids, num_return_sequences=2, max_new_tokens=4)


def test_generate_refuses_what_transformers_does_not_hand_on():
    model = model_of("Qwen2", pad_token_id=0)
    ids = torch.tensor(PROMPTS[:1])
    streamer = SimpleNamespace(put=lambda _: None, end=lambda: None)
    with pytest.raises(DllmFastError, match="no fixed order, got a SimpleNamespace; use on_step"):
        model.generate(ids, streamer=streamer, **PLAIN)
    with pytest.raises(DllmFastError, match="no fixed order, got a list"):
        dllm_fast.generate(model, ids, streamer=[], max_new_tokens=4)
    with pytest.raises(DllmFastError, match="no assistants, got a Qwen2"):
        model.generate(ids, assistant_model=model_of("Qwen2", pad_token_id=0), **PLAIN)


def ours() -> set[str]:
    """Names that `generate` takes by name only, which is what transformers compares its own with."""
    parameters = inspect.signature(dllm_fast.generate).parameters.values()
    return {one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}


def test_the_signature_names_every_setting():
    settings = set(inspect.signature(dllm_fast.SamplerConfig).parameters) - {"sources", "max_new_tokens", "cache"}
    assert ours() == settings | {
        "cache_policy",
        "preset",
        "config",
        "negative_prompt",
        "verifier",
        "seed",
        "on_step",
        "guesses",
    }
    first = [name for name in inspect.signature(GenerationMixin._sample).parameters if name != "self"]
    mine = list(inspect.signature(dllm_fast.generate).parameters)
    assert mine[: len(first)] == ["model", *first[:-1]]


def test_no_name_of_ours_meets_another_meaning_in_generate_or_its_config():
    assert ours() & set(inspect.signature(GenerationMixin.generate).parameters) == set()
    assert ours() & set(vars(hf.GenerationConfig())) == SHARED


@pytest.mark.parametrize("name", [*BLOCKS, *ENCODERS, "Gemma3", "Mistral", "GPT2", "T5"])
def test_no_name_of_ours_is_an_argument_of_a_forward(name):
    kinds = ("ForCausalLM", "ForMaskedLM", "LMHeadModel", "ForConditionalGeneration")
    classes = [getattr(hf, name + kind) for kind in kinds if hasattr(hf, name + kind)]
    if not classes:
        pytest.skip(f"transformers {hf.__version__} has no {name}")
    for one in classes:
        assert ours() & set(inspect.signature(one.forward).parameters) == set(), one
        if hasattr(one, "prepare_inputs_for_generation"):
            assert ours() & set(inspect.signature(one.prepare_inputs_for_generation).parameters) == set(), one


def test_no_name_of_ours_is_among_what_transformers_hands_on():
    seen = {}

    def spy(model, input_ids, logits_processor, stopping_criteria, generation_config, **given):
        seen.update(given)
        return input_ids

    padded, mask = left_padded()
    model_of("Qwen2", pad_token_id=0).generate(padded, attention_mask=mask, custom_generate=spy, max_new_tokens=4)
    assert "attention_mask" in seen
    assert ours() & seen.keys() == set()
