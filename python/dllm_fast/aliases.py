"""What others call things: names of settings that people bring along, and what each stands for here.

Every name is understood, so that it becomes a setting of ours, or answered by an error that says what to use instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dllm_fast.errors import InvalidValueError, shown

#: What is recorded for a value that asks for what is done anyway.
NOTHING = "(changes nothing)"


@dataclass(frozen=True, slots=True)
class Alias:
    """One name of the table.

    Attributes:
        meaning: what it says where it comes from.
        ours: the setting that it stands for, with the same values unless `values` lists them.
        values: their value to settings of ours, or to a note where nothing has to be set. The key () is an empty list.
        remedy: what to do about any other value; empty where `ours` takes all of them.
        defaults: their value to settings that come with it unless the caller names them.
        idle_beside: another name, and those of its values beside which this one changes nothing.
    """

    meaning: str
    ours: str | None = None
    values: Mapping[object, Mapping[str, object] | str] = field(default_factory=dict)
    remedy: str = ""
    defaults: Mapping[object, Mapping[str, object]] = field(default_factory=dict)
    idle_beside: tuple[str, tuple[object, ...]] | None = None


def translate(name: str, value: object, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Settings of ours for a name of the table beside the others that the caller gave, and what to record.

    Raises:
        InvalidValueError: a value that has no counterpart here.
    """
    alias = ALIASES[name]
    if alias.idle_beside is not None:
        other, values = alias.idle_beside
        if other in settings and _key(settings[other]) in values:
            return {}, NOTHING
    key = _key(value)
    if key in alias.values:
        meant = alias.values[key]
        if isinstance(meant, str):
            return {}, meant
        found = dict(meant)
        named = {ALIASES[typed].ours if typed in ALIASES else typed for typed in settings}
        found |= {ours: ready for ours, ready in alias.defaults.get(key, {}).items() if ours not in named}
        return found, ", ".join(ours for ours, given in found.items() if given is not None)
    if alias.ours is not None and not alias.remedy:
        return {alias.ours: value}, alias.ours
    if alias.ours is not None:
        known = ", ".join(str(known) for known in alias.values)
        raise InvalidValueError(f"{name} must be one of {known}, got {shown(value)}; {alias.remedy}")
    raise InvalidValueError(f"{name} is not a setting, got {shown(value)}; {alias.remedy}")


def markdown() -> str:
    """The table of names as Markdown."""
    lines = ["| name | there | here |", "| --- | --- | --- |"]
    for name, alias in sorted(ALIASES.items()):
        here = [f"`{alias.ours}`"] if alias.ours is not None and not alias.values else []
        for value, meant in alias.values.items():
            said = meant if isinstance(meant, str) else ", ".join(f"`{ours}={given!r}`" for ours, given in meant.items())
            here.append(f"`{[] if value == () else value!r}`: {said}")
        lines.append(f"| `{name}` | {alias.meaning} | {'; '.join([*here, alias.remedy] if alias.remedy else here)} |")
    return "\n".join(lines)


def _key(value: object) -> object:
    """A value as the table spells it; one that cannot be in the table becomes a key that is not."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return () if isinstance(value, list | tuple | dict | set) and not value else ...


def _same(ours: str, meaning: str) -> Alias:
    """The setting under another name."""
    return Alias(meaning, ours)


def _answer(meaning: str, remedy: str, *nothing: object, beside: tuple[str, tuple[object, ...]] | None = None) -> Alias:
    """A name without a setting; None and `nothing` ask for what is done anyway."""
    return Alias(meaning, None, dict.fromkeys((None, *nothing), NOTHING), remedy, idle_beside=beside)


_COUNTS: Mapping[str, object] = {"threshold": None, "factor": None, "entropy_bound": None}
_OWN_ORDERS = "our own names go with order="
# What they call confidence is that of the drawn token.
_ORDERS: Mapping[object, Mapping[str, object]] = {
    "low_confidence": {"order": "sampled-confidence"},
    "random": {"order": "random"},
    "origin": {"order": "ancestral"},
    "maskgit_plus": {"order": "sampled-confidence"},
    "topk_margin": {"order": "margin"},
    "entropy": {"order": "entropy"},
}
# SDAR's strategies. Its code for "entropy_bounded" reads a variable that it never sets, so there is no law to map.
_SDAR: Mapping[object, Mapping[str, object]] = {
    "low_confidence_static": {"order": "sampled-confidence", **_COUNTS},
    "low_confidence_dynamic": {"order": "sampled-confidence"},
    "sequential": {"order": "left-to-right", **_COUNTS},
}
_WITHOUT_THRESHOLD = ("remasking_strategy", ("low_confidence_static", "sequential"))
_WITHOUT_BOUND = ("remasking_strategy", tuple(_SDAR))

_TOKENS, _IN_BLOCK, _BLOCK = "tokens to write", "forwards in a block", "length of a block"
_ANSWERS, _SEED = "use num_samples=", "use seed=, a whole number"
_WATCH = "use on_step=, a function that is called with a StepEvent after every step"
_LOGITS = "pass a function that calls the model and changes its logits, with like= the model, or use suppress_tokens="
_SUPPRESS = "suppress_tokens= takes ids that are never written"
_NO_GUIDANCE = "leave it out: classifier-free guidance is not implemented yet"
_NO_EDITS = "leave it out: editing of committed tokens is not implemented yet"
_NO_PENALTY = "leave it out: penalties are not implemented, as tokens are written in any order"
_NO_BEAMS = "leave it out: there are no beams; num_samples= gives several answers"
_NO_GRAMMAR = "leave it out: constrained answers are not implemented yet"
_END = "rows end at token ids: use eos_token_id= (one or several) and stop_at_eos="
_LONG = "there is no least length: stop_at_eos=False writes all max_new_tokens, suppress_tokens= takes end tokens"
_LOAD = "it belongs to the model: dllm_fast.load(folder, {}=...), and sample takes what load returns"
_PROMPT = "the prompt is the second argument of sample: a text, messages, ids, or a list of them"
_CHAT = "use chat=True (a text becomes a user's message) or chat=False (it is taken as it is)"
_KEPT = "use result.trajectory (each token with its probability), or dllm_fast.distributions for the best at each mask"
_CACHE = "use cache='prefix' or 'dual' with refresh_every=, or leave it at 'auto'"
_POLICY = "use preset=, a name of dllm_fast.presets(), or order= with threshold=, factor= or entropy_bound="

#: Their name to what it is here. Steps are converted by name, never by guess: Diffusers counts them per block, LLaDA the total.
ALIASES: dict[str, Alias] = {
    # How much is written, in how many forwards.
    "gen_length": _same("max_new_tokens", f"{_TOKENS} (LLaDA, SDAR, Diffusers)"),
    "gen_len": _same("max_new_tokens", _TOKENS),
    "max_tokens": _same("max_new_tokens", f"{_TOKENS} (vLLM)"),
    "n_predict": _same("max_new_tokens", f"{_TOKENS} (llama.cpp)"),
    "max_length": _answer("prompt and answer together", "use max_new_tokens=, which does not count the prompt"),
    "min_length": _answer("least tokens, prompt included", _LONG, 0),
    "min_new_tokens": _answer("least tokens", _LONG, 0),
    "min_tokens": _answer("least tokens (vLLM)", _LONG, 0),
    "diffusion_steps": _same("steps", "forwards in total (llama.cpp)"),
    "num_inference_steps": _same("steps_per_block", f"{_IN_BLOCK} (Diffusers)"),
    "denoising_steps": _same("steps_per_block", f"{_IN_BLOCK} (SDAR)"),
    "max_denoising_steps": _same("steps_per_block", f"{_IN_BLOCK} (DiffusionGemma)"),
    "num_steps": _answer("forwards", "use steps= for the total or steps_per_block= for each block"),
    "sampling_steps": _answer("forwards", "use steps= for the total or steps_per_block= for each block"),
    "block_size": _same("block_length", f"{_BLOCK} (dllm)"),
    "bd_size": _same("block_length", f"{_BLOCK} (Fast-dLLM v2)"),
    "canvas_length": _same("block_length", f"{_BLOCK} (DiffusionGemma)"),
    "diffusion_block_length": _same("block_length", f"{_BLOCK} (llama.cpp)"),
    "small_block_size": _answer("blocks within blocks (Fast-dLLM v2)", "use block_length= for what is finished first"),
    "batch_size": _same("max_batch_rows", "rows in a forward"),
    "max_num_seqs": _same("max_batch_rows", "rows in a forward (vLLM)"),
    "max_running_requests": _same("max_batch_rows", "rows in a forward (SGLang)"),
    # Which tokens are committed.
    "remasking": Alias("what is kept (LLaDA, Fast-dLLM, dInfer)", "order", _ORDERS, _OWN_ORDERS),
    "remasking_strategy": Alias(
        "what is kept (SDAR)",
        "order",
        {**_ORDERS, **_SDAR},
        "our own names go with order= (for entropy_bounded, see entropy_bound=)",
        defaults={"low_confidence_dynamic": {"threshold": 0.85}},
    ),
    "alg": Alias("what is kept (Dream)", "order", _ORDERS, _OWN_ORDERS),
    "alg_temp": _same("order_temperature", "noise on the ranking (Dream)"),
    "diffusion_algorithm": _answer("what is kept, by number (llama.cpp)", "use order=: its numbers changed their meaning"),
    "diffusion_alg_temp": _same("order_temperature", "noise on the ranking (llama.cpp)"),
    "diffusion_eps": _same("eps", "last time of the schedule (llama.cpp)"),
    "diffusion_visual": _answer("show the steps (llama.cpp)", _WATCH, False),
    "temp": _same("temperature", "of the draw (llama.cpp)"),
    "confidence_threshold": Alias("commit above it (SDAR)", "threshold", idle_beside=_WITHOUT_THRESHOLD),
    "eb_threshold": _answer(
        "bound on the sum of entropies (SDAR)",
        "use entropy_bound=, which leaves the largest entropy out of the sum",
        beside=_WITHOUT_BOUND,
    ),
    "gamma": _answer("bound on the sum of entropies (EB-Sampler)", "use entropy_bound=, in nats"),
    "low_threshold": _answer(
        "of the hierarchy decoder (dInfer)",
        "leave it out: use threshold= or factor=",
        beside=("parallel_decoding", ("threshold",)),
    ),
    "min_threshold": _answer("least confidence (mlx-vlm)", "use threshold= and min_commit="),
    "minimal_topk": _same("min_commit", "least tokens in a step (LLaDA2, Diffusers)"),
    "num_to_transfer": _same("min_commit", "least tokens in a step (LLaDA2.1)"),
    "expected_tpf": _answer("tokens per forward to plan for (dInfer)", "leave it out: threshold= or steps= decide"),
    "maximum_unroll": _answer("steps without waiting (dInfer)", "leave it out: steps on a GPU are begun ahead by themselves"),
    "parallel_decoding": Alias(
        "the decoder (dInfer)",
        "order",
        {"threshold": {"order": "sampled-confidence"}},
        _POLICY,
        defaults={"threshold": {"threshold": 0.9}},
    ),
    **dict.fromkeys(
        ("cont_weight", "prefix_look", "after_look", "warmup_steps"),
        _answer("of its smoothing and its caches (dInfer)", "leave it out: cache= and refresh_every= say what is kept", 0),
    ),
    "enable_torch_compile": _answer("compile the model (dInfer)", "leave it out, or compile the model yourself", False),
    "use_credit": _answer("credit of earlier steps (dInfer)", "leave it out: credit is not implemented", False),
    "sampler": _answer("the rule", _POLICY),
    "strategy": _answer("the rule", _POLICY),
    "algorithm": _answer("the rule", _POLICY),
    "dllm_algorithm": _answer("the rule (SGLang)", _POLICY),
    "stochastic_transfer": _answer("counts drawn at random (dllm)", "use order='ancestral', the nearest here", False),
    "editing_threshold": _answer("rewrite above it (LLaDA2.1)", _NO_EDITS),
    "edit_threshold": _answer("rewrite above it", _NO_EDITS),
    "max_post_steps": _answer("steps of rewriting (LLaDA2.1)", _NO_EDITS, 0, beside=("editing_threshold", (None,))),
    "stability_threshold": _answer("steps without change (DiffusionGemma)", _NO_EDITS),
    "stability_steps": _answer("steps without change (mlx-vlm)", _NO_EDITS),
    # What tokens are drawn from.
    "do_sample": _answer("draw or take the best", "leave it out: temperature=0 is greedy and any other draws"),
    "sampling_method": Alias(
        "draw or take the best (Diffusers)",
        "temperature",
        {"greedy": {"temperature": 0.0}, "auto": NOTHING, "multinomial": NOTHING, None: NOTHING},
        "or say temperature=, of which 0 is greedy",
    ),
    "cfg_scale": _answer("guidance (LLaDA); 0 is none", _NO_GUIDANCE, 0),
    "unsupervised_cfg_scale": _answer("guidance; 0 is none", _NO_GUIDANCE, 0),
    "cfg_keep_tokens": _answer("tokens kept under guidance (dllm)", _NO_GUIDANCE, (), beside=("cfg_scale", (None, 0))),
    "guidance_scale": _answer("guidance; 1 is none", _NO_GUIDANCE, 1),
    "negative_prompt": _answer("what guidance leads away from", _NO_GUIDANCE),
    "negative_prompt_ids": _answer("what guidance leads away from", _NO_GUIDANCE),
    "repetition_penalty": _answer("1 is none", _NO_PENALTY, 1),
    "frequency_penalty": _answer("0 is none", _NO_PENALTY, 0),
    "presence_penalty": _answer("0 is none", _NO_PENALTY, 0),
    "no_repeat_ngram_size": _answer("0 is none", _NO_PENALTY, 0),
    "bad_words_ids": _answer("phrases that are not written", f"use {_SUPPRESS}", ()),
    "bad_words": _answer("phrases that are not written (vLLM)", f"use {_SUPPRESS}", ()),
    "allowed_token_ids": _answer("the only tokens (vLLM)", f"use {_SUPPRESS}: all others", ()),
    "logit_bias": _answer("added to logits", _LOGITS, ()),
    "begin_suppress_tokens": _answer("not the first token (dllm)", f"{_SUPPRESS}, at every position", ()),
    "logits_eos_inf": _answer("no end tokens (LLaDA)", "use suppress_tokens= with the ids of the end tokens", False),
    "confidence_eos_eot_inf": _answer("end tokens last (LLaDA)", "use suppress_tokens=, which is near", False),
    "logits_processor": _answer("changes logits", _LOGITS, ()),
    "logits_processors": _answer("changes logits (vLLM)", _LOGITS, ()),
    "logits_hook": _answer("changes logits", _LOGITS),
    "generation_logits_hook_func": _answer("changes logits (Dream)", _LOGITS),
    "generation_tokens_hook_func": _answer("sees or changes the canvas (Dream)", f"{_WATCH}, or Sampler"),
    "right_shift_logits": _same("shift", "row i - 1 predicts position i (dllm)"),
    "use_shift": _same("shift", "row i - 1 predicts position i (dInfer)"),
    # Where a row ends.
    "mask_id": _same("mask_token_id", "the mask (LLaDA, SDAR, dInfer)"),
    "mask_token": _answer("the mask as a text", "pass its id as mask_token_id="),
    "eos_id": _same("eos_token_id", "the end token (LLaDA2, dInfer)"),
    "eos_token_ids": _same("eos_token_id", "the end tokens"),
    "stopping_criteria_idx": _same("eos_token_id", "the end tokens (SDAR)"),
    "stop_token_ids": _answer("end tokens beside the model's (vLLM)", "use eos_token_id=, with the model's own", ()),
    "eos_early_stop": _same("stop_at_eos", "finish at an end token (LLaDA2, Diffusers)"),
    "early_stop": _same("stop_at_eos", "finish at an end token (dInfer)"),
    "ignore_eos": Alias(
        "write on behind an end token (vLLM)",
        "stop_at_eos",
        {True: {"stop_at_eos": False}, False: {"stop_at_eos": True}},
        "or say stop_at_eos=",
    ),
    "stop": _answer("texts that end an answer", _END, ()),
    "stop_strings": _answer("texts that end an answer", _END, ()),
    "stopping_criteria": _answer("functions that end an answer", _END, ()),
    "pad_token_id": _answer("fills short rows", "leave it out: rows keep their own length"),
    "bos_token_id": _answer("the first token", "leave it out: the tokenizer adds it, and ids are taken as they are"),
    # Beams.
    "num_beams": _answer("1 is none", _NO_BEAMS, 1),
    "length_penalty": _answer("of beams", _NO_BEAMS, 1),
    "early_stopping": _answer("of beams", _NO_BEAMS, False),
    "best_of": _answer("answers to choose from", f"{_ANSWERS}, and choose", 1),
    "n": _answer("answers to a prompt", _ANSWERS, 1),
    "num_return_sequences": _answer("answers to a prompt", _ANSWERS, 1),
    # Seeds, watching, what is returned.
    "generator": _answer("a random generator", _SEED),
    "random_seed": _answer("a seed", _SEED),
    "manual_seed": _answer("a seed", _SEED),
    "callback": _answer("called after a step", _WATCH),
    "callback_on_step_end": _answer("called after a step (Diffusers)", _WATCH),
    "callback_on_step_end_tensor_inputs": _answer("what it is given", _WATCH, (), beside=("callback_on_step_end", (None,))),
    "streamer": _answer("is sent tokens in order", f"{_WATCH}: tokens come in any order"),
    "stream": _answer("tokens as they come", f"{_WATCH}: tokens come in any order", False),
    "use_tqdm": _answer("a progress bar (vLLM)", _WATCH, False),
    "progress_bar": _answer("a progress bar", _WATCH, False),
    "return_dict_in_generate": _answer("an object, not a tensor", "use result.sequences: a Result is always returned", True),
    "return_dict": _answer("an object, not a tensor", "use result.sequences: a Result is always returned", True),
    "output_history": Alias("keep the steps (Dream)", None, {None: NOTHING, False: NOTHING, True: "result.trajectory"}, _KEPT),
    "return_trace": Alias("keep the steps", None, {None: NOTHING, False: NOTHING, True: "result.trajectory"}, _KEPT),
    "output_scores": _answer("keep the scores", _KEPT, False),
    "output_logits": _answer("keep the logits", _KEPT, False),
    "logprobs": _answer("of the tokens", _KEPT, 0),
    "top_logprobs": _answer("of the best tokens", _KEPT, 0),
    "prompt_logprobs": _answer("of the prompt (vLLM)", "leave it out: the prompt is not scored", 0),
    "output_type": _answer("text or ids (Diffusers)", "use result.texts or result.new_tokens", "text", "seq"),
    "echo": _answer("the prompt before the answer", "use result.sequences, which has the prompt and the answer", False),
    **dict.fromkeys(
        ("skip_special_tokens", "detokenize", "spaces_between_special_tokens"),
        _answer("of decoding", "leave it out, or decode result.new_tokens with the tokenizer", True),
    ),
    "include_stop_str_in_output": _answer("of decoding (vLLM)", "leave it out: the end token is in result.new_tokens", False),
    "truncate_prompt_tokens": _answer("cut the prompt (vLLM)", "cut the prompt before, so that it is known what is left"),
    # Prompts.
    "messages": _answer("a conversation", _PROMPT),
    "text": _answer("the prompt", _PROMPT),
    "prompts": _answer("the prompts", _PROMPT),
    "inputs": _answer("the prompts", _PROMPT),
    "input_ids": _answer("the prompts", _PROMPT),
    "prompt_token_ids": _answer("the prompts (vLLM)", _PROMPT),
    "inputs_embeds": _answer("the prompts as vectors", _PROMPT),
    "use_chat_template": _answer("a text is a user's message (Diffusers)", _CHAT, False),
    "apply_chat_template": _answer("a text is a user's message", _CHAT, False),
    "chat_template": _answer("the template", f"the tokenizer's own is taken; {_CHAT}"),
    "add_generation_prompt": _answer("the template's start of an answer", f"the template adds it; {_CHAT}", True),
    "constraints": _answer("words at positions (LLaDA's demo)", "use infill, which keeps every token that is not a mask", ()),
    "structured_outputs": _answer("a grammar (vLLM)", _NO_GRAMMAR),
    "json_schema": _answer("a schema (SGLang)", _NO_GRAMMAR),
    "guided_json": _answer("a schema (vLLM)", _NO_GRAMMAR),
    "response_format": _answer("a schema", _NO_GRAMMAR),
    "regex": _answer("an expression", _NO_GRAMMAR),
    # Settings as a whole.
    "generation_config": _answer("settings", "pass settings by name, or config=SamplerConfig(...)"),
    "sampling_params": _answer("settings (vLLM)", "pass settings by name, or config=SamplerConfig(...)"),
    # The model, its keys and values.
    "use_cache": Alias(
        "keep keys and values",
        "cache",
        {
            False: {"cache": "none"},
            True: {"cache": "auto"},
            "prefix": {"cache": "prefix"},
            "dual": {"cache": "dual"},
            None: NOTHING,
        },
        "our own names go with cache=",
    ),
    "cache_type": _same("cache", "which keys and values are kept (dInfer)"),
    "dual_cache": _answer("keep both sides (Fast-dLLM)", "use cache='dual' for True and cache='prefix' for False"),
    "use_block_cache": _answer("keep the block's other parts (Fast-dLLM v2)", _CACHE, False),
    "cache_update_iter": _answer("forwards between full ones (dInfer)", _CACHE),
    "cache_update_freq": _answer("forwards between full ones (dInfer)", _CACHE),
    "cache_implementation": _answer("which cache", _CACHE),
    "past_key_values": _answer("keys and values", "leave it out: they are kept inside, and cache= says which"),
    "dtype": _answer("of the weights", _LOAD.format("dtype")),
    "torch_dtype": _answer("of the weights", _LOAD.format("dtype")),
    "device": _answer("where the model runs", _LOAD.format("device")),
    "device_map": _answer("where the model runs", _LOAD.format("device")),
    **{name: _answer("an argument of load", _LOAD.format(name)) for name in ("attention", "family", "revision", "adapter")},
    "trust_remote_code": _answer("run code of the folder", "leave it out: no code of a folder is ever run", False),
}
