"""Names that people bring along from elsewhere: each is understood or answered."""

import inspect
import re
from typing import Any

import numpy as np
import pytest
import torch

import dllm_fast
from dllm_fast.settings.aliases import ALIASES, NOTHING, VALUES
from dllm_fast.settings.resolve import ARGUMENTS, NAMES, resolve, unknown
from dllm_fast.settings.translation import answer

# Three lines of a terminal.
LONGEST = 3 * 120

# Calls of others with every argument named, mostly at their defaults; models and prompts left out.
WHOLE_CALLS: dict[str, dict[str, Any]] = {
    "LLaDA": {
        **{"steps": 128, "gen_length": 128, "block_length": 128, "temperature": 0.0, "cfg_scale": 0.0, "mask_id": 126336},
        **{"remasking": "low_confidence", "logits_eos_inf": False, "confidence_eos_eot_inf": False},
    },
    "Fast-dLLM": {
        **{"steps": 128, "gen_length": 128, "block_length": 128, "temperature": 0.0, "remasking": "low_confidence"},
        **{"mask_id": 126336, "threshold": None, "factor": None},
    },
    "Dream": {
        **{"max_new_tokens": 512, "output_history": True, "return_dict_in_generate": True, "steps": 512, "temperature": 0.2},
        **{"top_p": 0.95, "top_k": None, "alg": "entropy", "alg_temp": 0.0, "eps": 1e-3, "num_return_sequences": 1},
    },
    "APD": {
        **{"max_new_tokens": 256, "temperature": 0.2, "top_p": 0.95, "alg": "apd", "max_lookahead": 100},
        **{"apd_mixture_weight": 0.7, "return_dict_in_generate": True},
    },
    "SDAR": {
        **{"mask_id": 151669, "gen_length": 128, "block_length": 8, "denoising_steps": 8, "temperature": 1.0, "top_k": 0},
        **{"top_p": 1.0, "remasking_strategy": "low_confidence_dynamic", "confidence_threshold": 0.85, "eb_threshold": None},
        "stopping_criteria_idx": [151643],
    },
    "dInfer": {
        **{"threshold": 0.9, "low_threshold": 0.6, "cache": "dual", "temperature": 0.0, "early_stop": True, "cont_weight": 0},
        **{"prefix_look": 0, "after_look": 0, "warmup_steps": 0, "enable_torch_compile": False, "mask_id": 156895},
        **{"eos_id": 156892, "parallel_decoding": "threshold", "use_credit": False},
    },
    "dllm": {
        **{"max_new_tokens": 128, "max_length": None, "block_size": 128, "steps": 128, "temperature": 0.0, "cfg_scale": 0.0},
        **{"remasking": "low_confidence", "stochastic_transfer": False, "cfg_keep_tokens": None, "return_dict": True},
        **{"suppress_tokens": None, "begin_suppress_tokens": None, "right_shift_logits": False},
    },
    "Diffusers": {
        **{"messages": None, "use_chat_template": False, "add_generation_prompt": True, "gen_length": 2048},
        **{"num_inference_steps": 32, "temperature": 0.0, "top_p": None, "top_k": None, "sampling_method": "multinomial"},
        **{"threshold": 0.7, "editing_threshold": None, "max_post_steps": 16, "minimal_topk": 1, "eos_early_stop": True},
        **{"eos_token_id": 156892, "mask_token_id": 156895, "generator": None, "output_type": "text", "return_dict": True},
        **{"callback_on_step_end": None, "callback_on_step_end_tensor_inputs": None, "block_length": None},
    },
    "vLLM": {
        **{"n": 1, "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "temperature": 1.0},
        **{"top_p": 1.0, "top_k": -1, "min_p": 0.0, "stop": None, "stop_token_ids": [], "max_tokens": 16, "min_tokens": 0},
        **{"logprobs": None, "prompt_logprobs": None, "detokenize": True, "skip_special_tokens": True, "bad_words": []},
        **{"spaces_between_special_tokens": True, "logits_processors": None, "include_stop_str_in_output": False},
        **{"truncate_prompt_tokens": None, "structured_outputs": None, "logit_bias": None, "allowed_token_ids": None},
    },
}

# What is typed, and the settings that it must become.
UNDERSTOOD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"gen_length": 64}, {"max_new_tokens": 64}),
    ({"max_tokens": 64}, {"max_new_tokens": 64}),
    ({"gen_length": 64, "max_new_tokens": 64}, {"max_new_tokens": 64}),
    ({"diffusion_steps": 8}, {"steps": 8}),
    ({"num_inference_steps": 8}, {"steps_per_block": 8}),
    ({"editing_threshold": 0.5, "max_post_edit_steps": 4}, {"edit_threshold": 0.5, "max_post_steps": 4}),
    ({"editing_threshold": None}, {"edit_threshold": None}),
    ({"parallel_decoding": "joint_threshold"}, {"order": "sampled-confidence", "threshold": 0.9, "edit_threshold": 0.5}),
    ({"parallel_decoding": "joint_threshold", "editing_threshold": 0.9}, {"threshold": 0.9, "edit_threshold": 0.9}),
    ({"dllm_algorithm": "LowConfidence"}, {"order": "sampled-confidence", "threshold": 0.95, "edit_threshold": None}),
    ({"dllm_algorithm": "JointThreshold"}, {"order": "sampled-confidence", "threshold": 0.5, "edit_threshold": 0.0}),
    ({"dllm_algorithm": "JointThreshold", "edit_threshold": 0.3, "threshold": 0.7}, {"edit_threshold": 0.3, "threshold": 0.7}),
    ({"denoising_steps": 8}, {"steps_per_block": 8}),
    ({"block_size": 4}, {"block_length": 4}),
    ({"bd_size": 4}, {"block_length": 4}),
    ({"diffusion_block_length": 4}, {"block_length": 4}),
    ({"diffusion_eps": 0.1, "schedule": "dream"}, {"eps": 0.1}),
    ({"batch_size": 4}, {"max_batch_rows": 4}),
    ({"remasking": "low_confidence"}, {"order": "sampled-confidence"}),
    ({"remasking": "random"}, {"order": "random"}),
    ({"alg": "origin"}, {"order": "ancestral"}),
    ({"alg": "maskgit_plus"}, {"order": "sampled-confidence"}),
    ({"alg": "topk_margin", "alg_temp": 0.1}, {"order": "margin", "order_temperature": 0.1}),
    ({"alg": "entropy", "alg_temp": None}, {"order": "entropy", "order_temperature": 0.0}),
    ({"confidence_threshold": 0.9}, {"threshold": 0.9}),
    ({"minimal_topk": 2}, {"min_commit": 2}),
    ({"mask_id": 5, "eos_id": 6}, {"mask_token_id": 5, "eos_token_id": 6}),
    ({"stopping_criteria_idx": [6, 7]}, {"eos_token_id": (6, 7)}),
    ({"eos_early_stop": True, "eos_id": 6}, {"stop_at_eos": True, "eos_token_id": 6}),
    ({"eos_early_stop": False}, {"stop_at_eos": False}),
    ({"stop_strings": "###"}, {"stop": ("###",)}),
    ({"stop_words": [".", "!"]}, {"stop": (".", "!")}),
    ({"stop_token_ids": [5, 6]}, {"stop": (5, 6)}),
    ({"stop": None, "stop_token_ids": []}, {"stop": ()}),
    ({"stop": ["a"], "stop_strings": ["a"]}, {"stop": ("a",)}),
    ({"min_tokens": 3}, {"min_new_tokens": 3}),
    ({"early_stop": False}, {"stop_at_eos": False}),
    ({"ignore_eos": True}, {"stop_at_eos": False}),
    ({"right_shift_logits": True}, {"shift": True}),
    ({"use_shift": True}, {"shift": True}),
    ({"top_k": 0, "temperature": 0.7}, {"top_k": None}),
    ({"sampling_method": "greedy"}, {"temperature": 0.0}),
    ({"eos": 6}, {"eos_token_id": 6}),
    ({"epsilon": 0.1, "schedule": "dream"}, {"eps": 0.1}),
    ({"alg": "confidence_threshold", "threshold": 0.8}, {"order": "sampled-confidence", "threshold": 0.8}),
    ({"alg": "confidence_threshold"}, {"order": "sampled-confidence", "threshold": 0.9}),
    ({"do_sample": False}, {"temperature": 0.0}),
    ({"do_sample": False, "temperature": None}, {"temperature": 0.0}),
    ({"do_sample": True, "temp": 0.7}, {"temperature": 0.7}),
    ({"ignore_eos": False}, {"stop_at_eos": None}),
    ({"ignore_eos": False, "stop_at_eos": True, "eos_id": 6}, {"stop_at_eos": True}),
    ({"stop_at_eos": True, "ignore_eos": False, "eos_id": 6}, {"stop_at_eos": True}),
    ({"return_dict_in_generate": False}, {}),
    # Numbers of NumPy and torch are Python's own.
    ({"cfg_scale": 1.5}, {"guidance": 1.5}),
    ({"cfg_scale": None}, {"guidance": 0.0}),
    ({"unsupervised_cfg_scale": 0}, {"guidance": 0.0}),
    ({"cfg_scale": 0, "cfg_keep_tokens": [1]}, {"guidance": 0.0}),
    ({"guidance_scale": 2.5}, {"guidance": 1.5}),
    ({"guidance_scale": None}, {"guidance": 0.0}),
    ({"guidance_scale": torch.tensor(1.0)}, {"guidance": 0.0}),
    ({"guidance_scale": 2, "cfg_scale": 1}, {"guidance": 1.0}),
    ({"cfg_scale": np.float32(0), "n": np.int64(1), "use_cache": np.False_}, {"cache": "none"}),
    ({"n": torch.tensor(1), "top_k": np.int64(-1), "ignore_eos": torch.tensor(True)}, {"top_k": None, "stop_at_eos": False}),
    ({"parallel_decoding": "threshold"}, {"order": "sampled-confidence", "threshold": 0.9}),
    ({"parallel_decoding": "threshold", "threshold": 0.7}, {"order": "sampled-confidence", "threshold": 0.7}),
    ({"use_cache": False}, {"cache": "none"}),
    ({"use_cache": True}, {"cache": "auto"}),
    ({"use_cache": "dual"}, {"cache": "dual"}),
    ({"remasking_strategy": "low_confidence_static"}, {"order": "sampled-confidence", "threshold": None}),
    ({"remasking_strategy": "sequential"}, {"order": "left-to-right", "threshold": None}),
    ({"remasking_strategy": "low_confidence_dynamic"}, {"order": "sampled-confidence", "threshold": 0.85}),
    (
        {"remasking_strategy": "low_confidence_dynamic", "confidence_threshold": 0.7, "eb_threshold": 0.35},
        {"order": "sampled-confidence", "threshold": 0.7, "entropy_bound": None},
    ),
    # SDAR's own call names every argument, also those that its strategy does not read.
    (
        {
            **{"gen_length": 64, "block_length": 4, "denoising_steps": 4, "remasking_strategy": "low_confidence_static"},
            **{"confidence_threshold": 0.85, "eb_threshold": None, "stopping_criteria_idx": None},
        },
        {"order": "sampled-confidence", "threshold": None, "steps_per_block": 4, "max_new_tokens": 64},
    ),
]


@pytest.mark.parametrize(("typed", "ours"), UNDERSTOOD)
def test_names_of_peers_are_understood_and_recorded(typed: dict[str, Any], ours: dict[str, Any]) -> None:
    # A strategy of SDAR's is a whole rule, also over a preset with a threshold.
    resolved = resolve("fast-dllm" if "remasking_strategy" in typed else None, None, typed)
    for name, value in ours.items():
        assert getattr(resolved.config, name) == value, name
    assert set(resolved.aliases) == set(typed) & set(ALIASES)
    recorded = {name for said in resolved.aliases.values() for name in said.split(", ") if said != NOTHING}
    assert recorded <= set(NAMES)
    assert resolved.given >= recorded


@pytest.mark.parametrize(
    "typed",
    [
        *({"output_history": False}, {"return_dict_in_generate": True}, {"return_dict": True}, {"output_scores": False}),
        *({"n": 1}, {"num_return_sequences": 1}, {"num_beams": 1}, {"repetition_penalty": 1.0}, {"no_repeat_ngram_size": 0}),
        *({"logits_processor": []}, {"logits_processor": None}, {"stopping_criteria": []}),
        *({"streamer": None}, {"callback_on_step_end": None}, {"generator": None}, {"past_key_values": None}),
        *({"logits_eos_inf": False}, {"confidence_eos_eot_inf": False}, {"stochastic_transfer": False}, {"echo": False}),
        {"penalty_lambda": 0},
    ],
)
def test_what_asks_for_what_is_done_anyway_is_recorded_as_such(typed: dict[str, Any]) -> None:
    resolved = resolve("llada", None, typed)
    assert resolved.aliases == dict.fromkeys(typed, NOTHING)
    assert resolved.config == dllm_fast.presets()["llada"]


@pytest.mark.parametrize("whose", WHOLE_CALLS)
def test_whole_calls_of_others_are_understood(whose: str) -> None:
    call = WHOLE_CALLS[whose]
    resolved = resolve(None, None, call)
    assert set(resolved.aliases) == set(call) & set(ALIASES)
    for name, value in call.items():
        if name in NAMES and value not in (None, 0, -1):
            assert getattr(resolved.config, name) == value
    assert resolved.config.top_k is None


@pytest.mark.parametrize("name", ["output_history", "return_trace"])
def test_what_is_always_kept_is_recorded_with_its_place(name: str) -> None:
    assert resolve(None, None, {name: True}).aliases == {name: "result.trajectory"}


# A name and a value that cannot be understood, and the name that the answer must hold.
ANSWERED: list[tuple[str, Any, str]] = [
    ("stopping_criteria", [print], "stop_at_eos="),
    ("n", 4, "num_samples="),
    ("num_return_sequences", 4, "num_samples="),
    ("best_of", 4, "num_samples="),
    ("max_length", 200, "max_new_tokens="),
    ("min_length", 20, "min_new_tokens="),
    ("callback", print, "on_step="),
    ("callback_on_step_end", print, "on_step="),
    ("streamer", object(), "dllm_fast.stream(...), or use on_step="),
    ("stream", True, "dllm_fast.stream(...), or use on_step="),
    ("timeout", 3.0, "returns False"),
    ("use_tqdm", True, "on_step="),
    ("cfg_keep_tokens", [3], "negative_prompt="),
    ("negative_prompt_ids", [3], "negative_prompt="),
    ("verifier_model", print, "verifier="),
    ("kv_window", 16, "cache="),
    ("generator", object(), "seed="),
    ("random_seed", 3, "seed="),
    ("manual_seed", 3, "seed="),
    ("return_dict_in_generate", "no", "result.sequences"),
    ("num_generations", 2, "num_samples="),
    ("num_outputs", 2, "num_samples="),
    ("random_state", 3, "seed="),
    ("system", "Be brief", '"role": "system"'),
    ("max_time", 3.0, "on_step="),
    ("max_steps", 8, "steps="),
    ("cfg_weight", 2.0, "guidance="),
    ("penalty_alpha", 0.6, "leave it out"),
    ("prompt_lookup_num_tokens", 3, "leave it out"),
    ("use_bd", True, "block_length="),
    ("use_float64", True, "as_published=True"),
    ("decoder", object(), "order="),
    ("iterator_factory", object(), "block_length="),
    ("cache_factory", object(), "cache="),
    ("threshold_decay", 0.5, "threshold="),
    ("logits_processor", [print], "like="),
    ("generation_logits_hook_func", print, "changes its logits"),
    ("generation_tokens_hook_func", print, "Sampler"),
    ("repetition_penalty", 1.2, "leave it out"),
    ("no_repeat_ngram_size", 3, "leave it out"),
    ("bad_words_ids", [[3]], "suppress_tokens="),
    ("begin_suppress_tokens", [3], "suppress_tokens="),
    ("logit_bias", {3: -100}, "suppress_tokens="),
    ("frequency_penalty", 0.5, "leave it out"),
    ("presence_penalty", 0.5, "leave it out"),
    ("pad_token_id", 0, "leave it out"),
    ("num_beams", 4, "num_samples="),
    ("length_penalty", 2.0, "num_samples="),
    ("early_stopping", True, "num_samples="),
    ("dtype", "bfloat16", "dllm_fast.load(folder, dtype=...)"),
    ("torch_dtype", "bfloat16", "dllm_fast.load(folder, dtype=...)"),
    ("device", "cuda", "dllm_fast.load(folder, device=...)"),
    ("attention", "full", "dllm_fast.load(folder, attention=...)"),
    ("trust_remote_code", True, "no code"),
    ("past_key_values", object(), "cache="),
    ("dual_cache", True, "cache='dual'"),
    ("cache_update_iter", 4, "refresh_every="),
    ("logprobs", 5, "result.trajectory"),
    ("top_logprobs", 5, "result.trajectory"),
    ("output_scores", True, "result.trajectory"),
    ("echo", True, "result.sequences"),
    ("messages", [{}], "second argument"),
    ("text", "hi", "second argument"),
    ("prompts", ["hi"], "second argument"),
    ("inputs", [1, 2], "second argument"),
    ("use_chat_template", True, "chat="),
    ("add_generation_prompt", False, "chat="),
    ("remasking_strategy", "entropy_bounded", "entropy_bound="),
    ("eb_threshold", 0.35, "entropy_bound="),
    ("gamma", 0.1, "entropy_bound="),
    ("remasking", "confidence", "order="),
    ("alg", "confidence", "order="),
    ("parallel_decoding", "hierarchy", "threshold="),
    ("low_threshold", 0.4, "threshold="),
    ("cont_weight", 0.3, "refresh_every="),
    ("allowed_token_ids", [3], "suppress_tokens="),
    ("diffusion_algorithm", 4, "order="),
    ("stochastic_transfer", True, "order='ancestral'"),
    ("penalty_lambda", 3.0, "not implemented"),
    ("dllm_algorithm", "JointThresholdInDel", "preset="),
    ("stability_threshold", 1, "use stop_stable="),
    ("logits_eos_inf", True, "suppress_tokens="),
    ("confidence_eos_eot_inf", True, "eos_policy="),
    ("do_sample", True, "temperature="),
    ("mask_token", "[MASK]", "mask_token_id="),
    ("structured_outputs", {"json": {}}, "not implemented"),
    ("generation_config", object(), "config="),
    ("output_type", "latent", "result.texts"),
    ("sampling_params", object(), "config="),
    ("use_cache", 3, "cache="),
    # True and False are no numbers, and numbers are neither.
    ("n", True, "num_samples="),
    ("use_cache", 0, "cache="),
    ("do_sample", 0, "temperature="),
]


@pytest.mark.parametrize(("name", "value", "remedy"), ANSWERED)
def test_a_name_without_a_counterpart_is_answered_with_the_nearest(name: str, value: Any, remedy: str) -> None:
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        resolve(None, None, {name: value})
    text = str(caught.value)
    assert re.match(rf"{name} (is not a setting|must be one of .*), got ", text)
    assert remedy in text.partition(", got ")[2].partition("; ")[2]


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, np.float32(0), torch.tensor(0.0)])
def test_an_editing_threshold_of_zero_is_for_the_caller_to_say(zero: Any) -> None:
    """LLaDA2.1 and SGLang edit whatever differs, Diffusers nothing: the same number, so it is converted by nobody."""
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        resolve(None, None, {"editing_threshold": zero})
    text = str(caught.value)
    assert all(part in text for part in ("edit_threshold=0 ", "edit_threshold=None", "'llada2.1-speed'", "Diffusers", "SGLang"))
    assert len(text) <= LONGEST
    assert resolve(None, None, {"edit_threshold": 0}).config.edit_threshold == 0


@pytest.mark.parametrize("mode", ["quality", "speed", "conservative"])
def test_modes_of_llada2_1_by_their_own_name(mode: str) -> None:
    with pytest.raises(dllm_fast.DllmFastError, match=f"did you mean 'llada2.1-{mode}'"):
        resolve(mode, None, {})


@pytest.mark.parametrize("name", ALIASES)
def test_every_name_of_the_table_is_within_reach(name: str) -> None:
    """Whatever is listed resolves; whatever is not is refused, where the name has no setting, with the row's own words."""
    alias = ALIASES[name]
    assert name not in NAMES
    assert alias.ours is None or alias.ours in NAMES
    for key in alias.values:
        value = [] if key == () else key
        assert set(resolve(None, None, {name: value, "eos_token_id": 1}).aliases) == {name}
    if not alias.remedy:
        assert alias.ours is not None, "nothing else would be done with it"
        assert resolve(None, None, {name: None}).aliases == {name: alias.ours}
        return
    with pytest.raises(dllm_fast.DllmFastError, match=name) as caught:
        resolve(None, None, {name: "a value that nobody has ever heard of " * 9})
    assert str(caught.value).endswith(alias.remedy)
    assert len(str(caught.value)) <= LONGEST


def test_no_name_of_the_table_is_an_argument_of_sample() -> None:
    """It would be bound there, and the row never read."""
    taken = inspect.signature(dllm_fast.sample).parameters
    assert not set(taken) & set(ALIASES)
    named = [name for name, parameter in taken.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    assert sorted(ARGUMENTS) == sorted(named), "what is misspelled finds all of them"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("treshold", "'threshold'"),
        ("confidence_treshold", "'confidence_threshold'"),
        ("max-new-tokens", "'max_new_tokens'"),
        ("temperatur", "'temperature'"),
        ("block", "'block_length'"),
        ("kv_cache", "'cache'"),
        ("eos_tokens_id", "'eos_token_id'"),
        ("num_sample", "'num_samples'"),
        ("onstep", "'on_step'"),
    ],
)
def test_an_unknown_name_gets_the_nearest_few_and_no_list(name: str, nearest: str) -> None:
    with pytest.raises(dllm_fast.DllmFastError, match=f"^{name} is not a setting, got 1; did you mean ") as caught:
        resolve(None, None, {name: 1})
    question = str(caught.value).partition("?")[0]
    assert nearest in question
    assert question.count("'") <= 6
    assert str(caught.value).endswith("? help(dllm_fast.SamplerConfig) describes all of them")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gama", "if 'gamma' is meant, use entropy_bound=, in nats"),
        ("repetition_penlty", "if 'repetition_penalty' is meant, leave it out"),
        ("num_return_sequence", "if 'num_return_sequences' is meant, use num_samples="),
    ],
)
def test_no_suggestion_is_refused_next(name: str, says: str) -> None:
    with pytest.raises(dllm_fast.DllmFastError, match=f"^{name} is not a setting, got 1; {says}"):
        resolve(None, None, {name: 1})


@pytest.mark.parametrize("name", ALIASES)
def test_what_is_suggested_for_a_misspelled_name_is_taken(name: str) -> None:
    """A letter is doubled; whatever the answer asks ("did you mean") is a name that has a setting."""
    typed = name[:2] + name[1:]
    if typed in ALIASES or typed in NAMES or typed in ARGUMENTS:
        return
    said = unknown(typed, 1).partition("?")[0]
    for near in re.findall(r"'(\w+)'", said) if "did you mean" in said else ():
        assert near in NAMES or near in ARGUMENTS or ALIASES[near].ours is not None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("chat", "chat is an argument of sample and not a setting, got True; leave it out"),
        ("chatt", "chatt is not a setting, got True; if 'chat' is meant, leave it out"),
        ("gen_lengths", "gen_lengths is not a setting, got True; if 'gen_length' is meant, leave it out"),
    ],
)
def test_infill_suggests_nothing_that_only_sample_takes(name: str, says: str) -> None:
    with pytest.raises(dllm_fast.DllmFastError, match=f"^{says}"):
        dllm_fast.infill(lambda ids: ids, [[1]], **{name: True})


@pytest.mark.parametrize("name", ALIASES)
def test_what_to_do_about_a_name_can_be_said_without_its_value(name: str) -> None:
    assert answer(name)
    assert set(re.findall(r"use (\w+)=$", answer(name))) <= {*NAMES, *ARGUMENTS}


@pytest.mark.parametrize(("name", "theirs", "ours"), [(name, *pair) for name in VALUES for pair in VALUES[name].items()])
def test_a_value_of_others_under_our_name_is_answered_with_ours(name: str, theirs: str, ours: str) -> None:
    getattr(resolve(None, None, {name: ours}).config, name)  # is one
    if theirs == ours:
        return
    with pytest.raises(dllm_fast.DllmFastError, match=f"^{name} has names of its own, got '{theirs}'; use {name}='{ours}'$"):
        resolve(None, None, {name: theirs})
    with pytest.raises(dllm_fast.DllmFastError, match=f"use {name}='{ours}'$"):
        dllm_fast.SamplerConfig(**{name: theirs})


def test_every_setting_of_transformers_is_in_the_table() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = {name for name in vars(transformers.GenerationConfig()) if not name.startswith("_")}
    assert theirs - {*NAMES, *ALIASES, *ARGUMENTS} == set()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gen_length", "gen_length is not a setting here, got 1; use max_new_tokens=$"),
        ("remasking", "remasking is not a setting here, got 1; use order=$"),
        ("n", r"n is not a setting here, got 1; use num_samples= \(of sample\)$"),
        ("chat", "chat is an argument of sample and not a setting, got 1; leave it out, or call sample with it$"),
        ("seedd", "seedd is not a setting, got 1; if 'seed' is meant, leave it out: it is an argument of sample$"),
        ("temprature", "temprature is not a setting, got 1; did you mean 'temperature'?"),
    ],
)
def test_a_config_answers_names_that_are_no_settings(name: str, says: str) -> None:
    with pytest.raises(dllm_fast.DllmFastError, match=f"^{says}") as caught:
        dllm_fast.SamplerConfig(**{name: 1})
    assert isinstance(caught.value, TypeError)


def test_a_config_takes_names_only() -> None:
    with pytest.raises(dllm_fast.DllmFastError, match=r"^settings are given by name, got 3; write SamplerConfig\(steps=8\)$"):
        dllm_fast.SamplerConfig(3)  # type: ignore[misc]
    assert list(inspect.signature(dllm_fast.SamplerConfig).parameters) == [*NAMES, "sources"]


def test_a_name_like_no_other_is_not_guessed_at() -> None:
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        resolve(None, None, {"xyzzy": 1})
    assert str(caught.value) == "xyzzy is not a setting, got 1; help(dllm_fast.SamplerConfig) describes all of them"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"gen_length": 3, "max_new_tokens": 4}, "gen_length and max_new_tokens both say max_new_tokens .* got 3 and 4"),
        (
            {"remasking_strategy": "sequential", "threshold": 0.9},
            "remasking_strategy and threshold both say threshold and must agree, got 'sequential' and 0.9; keep one of them",
        ),
        ({"do_sample": False, "temperature": 0.7}, "do_sample and temperature both say temperature .* got False and 0.7"),
        ({"ignore_eos": False, "stop_at_eos": False}, "ignore_eos and stop_at_eos both say stop_at_eos and must agree"),
        ({"do_sample": True, "temperature": 0}, "do_sample is not a setting, got True; use temperature=, which draws above 0"),
        ({"use_cache": True, "cache": "none"}, "use_cache and cache both say cache and must agree, got True and 'none'"),
        ({"steps": 8, "num_inference_steps": 4}, "steps is the total .* num_inference_steps the number in each block"),
        ({"steps": 8, "steps_per_block": 4}, "steps is the total .* give one of them"),
    ],
)
def test_two_names_that_disagree_are_an_error(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(dllm_fast.DllmFastError, match=says):
        resolve(None, None, settings)
