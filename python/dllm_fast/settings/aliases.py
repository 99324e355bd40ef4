"""What others call things: a table of names of settings that people bring along, and what each stands for here.

`translation.py` reads it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from dllm_fast.errors import InvalidValueError

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
        idle_beside: a setting, under whatever name, and those of its values beside which this one changes nothing, but for
            the values that are listed.
        ambiguous: those of their values that mean one thing here and another there, to what to say instead.
        more: what is added to their number to make it ours.
    """

    meaning: str
    ours: str | None = None
    values: Mapping[object, Mapping[str, object] | str] = field(default_factory=dict)
    remedy: str = ""
    defaults: Mapping[object, Mapping[str, object]] = field(default_factory=dict)
    idle_beside: tuple[str, Container[object]] | None = None
    ambiguous: Mapping[object, str] = field(default_factory=dict)
    more: float = 0.0


class _Above:
    """The numbers above a bound."""

    def __init__(self, bound: float) -> None:
        self._bound = bound

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and value > self._bound


def _same(ours: str, meaning: str) -> Alias:
    """The setting under another name."""
    return Alias(meaning, ours)


def _answer(meaning: str, remedy: str, *nothing: object, beside: tuple[str, Container[object]] | None = None) -> Alias:
    """A name without a setting; None and `nothing` ask for what is done anyway."""
    return Alias(meaning, None, dict.fromkeys((None, *nothing), NOTHING), remedy, idle_beside=beside)


_COUNTS: Mapping[str, object] = {"threshold": None, "factor": None, "entropy_bound": None}
_OWN_ORDERS = "our own names go with order="
# What they call confidence is that of the drawn token.
_DRAWN: Mapping[str, object] = {"order": "sampled-confidence"}
_ORDERS: Mapping[object, Mapping[str, object]] = {
    "low_confidence": {"order": "sampled-confidence"},
    "random": {"order": "random"},
    "origin": {"order": "ancestral"},
    "maskgit_plus": {"order": "sampled-confidence"},
    "topk_margin": {"order": "margin"},
    "entropy": {"order": "entropy"},
}
# Fast-dLLM's own, for Dream.
_THRESHOLD: Mapping[object, Mapping[str, object]] = {"confidence_threshold": {"order": "sampled-confidence"}}
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
_STREAM = "iterate over dllm_fast.stream(...), or use on_step=: tokens come in any order, and stable_prefix says how many stay"
_WATCH = "use on_step=, a function that is called with a StepEvent after every step"
_LOGITS = "pass a function that calls the model and changes its logits, with like= the model, or use suppress_tokens="
_SUPPRESS = "suppress_tokens= takes ids that are never written"
_GUIDANCE = "use guidance=, the w of u + (w + 1)(c - u)"
_STABILITY = (
    "use stop_stable=, the steps before whose most probable tokens must be those of this one (preset='diffusion-gemma')"
)
# The trap of token editing: what 0 is. It is nobody's to guess, so each says it by our name.
_ZERO = (
    "LLaDA2.1 and SGLang replace whatever differs, which is edit_threshold=0 here (as in preset='llada2.1-speed'), and "
    "Diffusers edits nothing, which is edit_threshold=None"
)
_NO_PENALTY = "leave it out: penalties are not implemented, as tokens are written in any order"
_NO_BEAMS = "leave it out: there are no beams; num_samples= gives several answers"
_NO_GRAMMAR = "leave it out: constrained answers are not implemented yet"
_END = "use stop= for texts and ids that end an answer, eos_token_id= with stop_at_eos= for end tokens"
_LONG = "use min_new_tokens=, which does not count the prompt"
_LOAD = "it belongs to the model: dllm_fast.load(folder, {}=...), and sample takes what load returns"
_PROMPT = "the prompt is the second argument of sample: a text, messages, ids, or a list of them"
_CHAT = "use chat=True (a text becomes a user's message) or chat=False (it is taken as it is)"
_KEPT = "use result.trajectory (each token with its probability), or dllm_fast.distributions for the best at each mask"
DEFAULTS = {"order": "left-to-right"}
_CACHE = "use cache='prefix' or 'dual' with refresh_every=, or leave it at 'auto'"
_GENERATE = "leave it out: it belongs to generate of transformers and to models that write from left to right"
_INTERNAL = "leave it out: nothing here reads it"
_STEPS = "use steps= for the total or steps_per_block= for each block"
_ALWAYS = "leave it out: a Result is always returned, and result.sequences has the ids"
_NO_CUT = "leave it out: the cuts of the distribution are top_k=, top_p= and min_p="
_NO_LIMIT = "leave it out: there is no time limit, steps= bounds the work, and an on_step= that returns False ends it"
_SYSTEM = 'pass messages as the prompt, the first of them {"role": "system", "content": ...}'
_POLICY = "use preset=, a name of dllm_fast.presets(), or order= with threshold=, factor= or entropy_bound="

#: Their name to what it is here. Steps are converted by name, never by guess: Diffusers counts them per block, LLaDA the total.
ALIASES: dict[str, Alias] = {
    # How much is written, in how many forwards.
    "gen_length": _same("max_new_tokens", f"{_TOKENS} (LLaDA, SDAR, Diffusers)"),
    "gen_len": _same("max_new_tokens", _TOKENS),
    "max_tokens": _same("max_new_tokens", f"{_TOKENS} (vLLM)"),
    "n_predict": _same("max_new_tokens", f"{_TOKENS} (llama.cpp)"),
    "initial_gen_length": _same("initial_length", "masks that an answer begins with (DAEDAL)"),
    "max_gen_length": _same("max_new_tokens", f"{_TOKENS} at most (DAEDAL)"),
    "low_conf_threshold": _same("low_confidence_threshold", "a mask below it becomes several (DAEDAL)"),
    "high_conf_threshold": _same("threshold", "commit above it (DAEDAL)"),
    "max_length": _answer("prompt and answer together", "use max_new_tokens=, which does not count the prompt"),
    "min_length": _answer("least tokens, prompt included", _LONG, 0),
    "min_tokens": _same("min_new_tokens", "tokens before the end at least (vLLM)"),
    "diffusion_steps": _same("steps", "forwards in total (llama.cpp)"),
    "num_inference_steps": _same("steps_per_block", f"{_IN_BLOCK} (Diffusers)"),
    "denoising_steps": _same("steps_per_block", f"{_IN_BLOCK} (SDAR)"),
    "max_denoising_steps": _same("steps_per_block", f"{_IN_BLOCK} (DiffusionGemma)"),
    "num_steps": _answer("forwards", _STEPS),
    "sampling_steps": _answer("forwards", _STEPS),
    "max_steps": _answer("forwards at most", _STEPS),
    "max_time": _answer("seconds at most", _NO_LIMIT),
    "timeout": _answer("seconds at most", _NO_LIMIT),
    "block_size": _same("block_length", f"{_BLOCK} (dllm)"),
    "bd_size": _same("block_length", f"{_BLOCK} (Fast-dLLM v2)"),
    "canvas_length": _same("block_length", f"{_BLOCK} (DiffusionGemma)"),
    "diffusion_block_length": _same("block_length", f"{_BLOCK} (llama.cpp)"),
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
    "alg": Alias(
        "what is kept (Dream, Fast-dLLM)",
        "order",
        {**_ORDERS, **_THRESHOLD, "apd": DEFAULTS, "leftright": DEFAULTS},
        _OWN_ORDERS,
        defaults={"confidence_threshold": {"threshold": 0.9}, "apd": {"verifier_mixture": 0.7}},
    ),
    "alg_temp": _same("order_temperature", "noise on the ranking (Dream)"),
    "diffusion_algorithm": _answer("what is kept, by number (llama.cpp)", "use order=: its numbers changed their meaning"),
    "diffusion_alg_temp": _same("order_temperature", "noise on the ranking (llama.cpp)"),
    "diffusion_eps": _same("eps", "last time of the schedule (llama.cpp)"),
    "diffusion_visual": _answer("show the steps (llama.cpp)", _WATCH, False),
    "small_block_size": _same("sub_block_length", "parts of a block (Fast-dLLM v2)"),
    "block_add_threshold": _same("add_block_at", "share after which the next block joins (D2F, d3LLM)"),
    "decoded_token_threshold": _same("activate_block_at", "share after which the next block must be written in (D2F, d3LLM)"),
    "skip_threshold": _same("threshold", "commit above it (D2F)"),
    "wedlm_window_size": _same("window_length", "slots of the window (WeDLM)"),
    "wedlm_entropy_threshold": _same("entropy_threshold", "commit below it (WeDLM)"),
    "wedlm_pos_penalty_factor": _same("position_penalty", "for distance from the first mask (WeDLM)"),
    "apd_mixture_weight": _same("verifier_mixture", "share of the diffusion model (APD)"),
    "max_lookahead": _same("window_length", "how far is drafted (APD)"),
    "kv_window": _answer("how far keys and values are computed anew (APD)", _CACHE),
    "verifier_model": _answer("the model that verifies (APD)", "use verifier=, an argument of sample"),
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
        {"threshold": _DRAWN, "joint_threshold": _DRAWN},
        _POLICY,
        defaults={"threshold": {"threshold": 0.9}, "joint_threshold": {"threshold": 0.9, "edit_threshold": 0.5}},
    ),
    **dict.fromkeys(
        ("cont_weight", "prefix_look", "after_look", "warmup_steps"),
        _answer("of its smoothing and its caches (dInfer)", "leave it out: cache= and refresh_every= say what is kept", 0),
    ),
    "enable_torch_compile": _answer("compile the model (dInfer)", "leave it out, or compile the model yourself", False),
    "use_bd": _answer(
        "blocks one after the other (dInfer)", "leave it out: the model says what it sees, block_length= what is filled", False
    ),
    "use_float64": _answer("precision (dInfer)", "leave it out: as_published=True keeps what published loops compute", False),
    "decoder": _answer("the rule (dInfer)", _POLICY),
    "iterator_factory": _answer("the blocks (dInfer)", "leave it out: block_length= says what is finished first"),
    "cache_factory": _answer("which keys and values are kept (dInfer)", _CACHE),
    "threshold_decay": _answer("a threshold that falls (dInfer)", "leave it out: threshold= is the same in every step"),
    "use_credit": _answer("credit of earlier steps (dInfer)", "leave it out: credit is not implemented", False),
    "sampler": _answer("the rule", _POLICY),
    "strategy": _answer("the rule", _POLICY),
    "algorithm": _answer("the rule", _POLICY),
    "dllm_algorithm": Alias(
        "the rule (SGLang)",
        "order",
        {None: NOTHING, "LowConfidence": _DRAWN, "JointThreshold": _DRAWN},
        _POLICY,
        defaults={"LowConfidence": {"threshold": 0.95}, "JointThreshold": {"threshold": 0.5, "edit_threshold": 0.0}},
    ),
    "stochastic_transfer": _answer("counts drawn at random (dllm)", "use order='ancestral', the nearest here", False),
    "editing_threshold": Alias("replace a token above it (LLaDA2.1, Diffusers)", "edit_threshold", ambiguous={0: _ZERO}),
    "threshold_back": _same("remask_threshold", "take back a token below it (WINO)"),
    "max_post_edit_steps": _same("max_post_steps", "forwards that only edit (SGLang)"),
    "penalty_lambda": _answer("of the token to the left; 0 is none (SGLang)", _NO_PENALTY, 0),
    "stability_threshold": _answer("steps without change (DiffusionGemma)", _STABILITY),
    "stability_steps": _answer("steps without change (mlx-vlm)", _STABILITY),
    # What tokens are drawn from.
    "do_sample": Alias(
        "draw or take the best",
        None,
        {None: NOTHING, False: {"temperature": 0.0}},
        "use temperature=, which draws above 0",
        idle_beside=("temperature", _Above(0)),
    ),
    "sampling_method": Alias(
        "draw or take the best (Diffusers)",
        "temperature",
        {"greedy": {"temperature": 0.0}, "auto": NOTHING, "multinomial": NOTHING, None: NOTHING},
        "or say temperature=, of which 0 is greedy",
    ),
    "cfg_scale": _same("guidance", "guidance; 0 is none (LLaDA, dllm)"),
    "unsupervised_cfg_scale": _same("guidance", "guidance; 0 is none"),
    **dict.fromkeys(
        ("cfg", "cfg_weight", "guidance_weight", "classifier_free_guidance"),
        _answer("guidance; 0 is none", f"{_GUIDANCE}, or guidance_scale=, of which 1 is none", 0),
    ),
    "cfg_keep_tokens": _answer(
        "tokens kept under guidance (dllm)",
        "use negative_prompt=, ids of the prompt with masks in place of all others",
        (),
        beside=("cfg_scale", (None, 0)),
    ),
    "guidance_scale": Alias("guidance; 1 is none (transformers, Diffusers)", "guidance", {1: {"guidance": 0.0}}, more=-1.0),
    "negative_prompt_ids": _answer("what guidance leads away from", "use negative_prompt=, which takes ids, too"),
    "repetition_penalty": _answer("1 is none", _NO_PENALTY, 1),
    "frequency_penalty": _answer("0 is none", _NO_PENALTY, 0),
    "presence_penalty": _answer("0 is none", _NO_PENALTY, 0),
    "no_repeat_ngram_size": _answer("0 is none", _NO_PENALTY, 0),
    "penalty_alpha": _answer("contrastive search; 0 is none", _NO_PENALTY, 0),
    "encoder_repetition_penalty": _answer("1 is none", _NO_PENALTY, 1),
    "encoder_no_repeat_ngram_size": _answer("0 is none", _NO_PENALTY, 0),
    "exponential_decay_length_penalty": _answer("ends sooner or later", "use min_new_tokens= and max_new_tokens="),
    "typical_p": _answer("a cut of the distribution; 1 is none", _NO_CUT, 1),
    "epsilon_cutoff": _answer("a cut of the distribution; 0 is none", _NO_CUT, 0),
    "eta_cutoff": _answer("a cut of the distribution; 0 is none", _NO_CUT, 0),
    "top_h": _answer("a cut of the distribution", _NO_CUT),
    "sequence_bias": _answer("added to logits", _LOGITS, ()),
    "watermarking_config": _answer("marks the answer", "leave it out: there are no watermarks"),
    "bad_words_ids": _answer("phrases that are not written", f"use {_SUPPRESS}", ()),
    "bad_words": _answer("phrases that are not written (vLLM)", f"use {_SUPPRESS}", ()),
    "allowed_token_ids": _answer("the only tokens (vLLM)", f"use {_SUPPRESS}: all others", ()),
    "logit_bias": _answer("added to logits", _LOGITS, ()),
    "begin_suppress_tokens": _answer("not the first token (dllm)", f"{_SUPPRESS}, at every position", ()),
    "logits_eos_inf": _answer(
        "no end token, but others that end an answer (LLaDA)",
        "use suppress_tokens= with its id, or eos_policy='penalise' with eos_penalty=inf, which is for all end tokens",
        False,
    ),
    "confidence_eos_eot_inf": _answer(
        "end tokens last (LLaDA)", "use eos_policy='delay': an end token waits until nothing to its left is open", False
    ),
    "logits_processor": _answer("changes logits", _LOGITS, ()),
    "logits_processors": _answer("changes logits (vLLM)", _LOGITS, ()),
    "logits_hook": _answer("changes logits", _LOGITS),
    "generation_logits_hook_func": _answer("changes logits (Dream)", _LOGITS),
    "generation_tokens_hook_func": _answer("sees or changes the canvas (Dream)", f"{_WATCH}, or Sampler"),
    "right_shift_logits": _same("shift", "row i - 1 predicts position i (dllm)"),
    "use_shift": _same("shift", "row i - 1 predicts position i (dInfer)"),
    "epsilon": _same("eps", "last time of the schedule"),
    # Where a row ends.
    "mask_id": _same("mask_token_id", "the mask (LLaDA, SDAR, dInfer)"),
    "mask": _answer("the mask", "use mask_token_id= for its id, attention_mask= for padding"),
    "mask_token": _answer("the mask as a text", "pass its id as mask_token_id="),
    "eos_id": _same("eos_token_id", "the end token (LLaDA2, dInfer)"),
    "eos": _same("eos_token_id", "the end token"),
    "eos_token": _answer("the end token as a text", "pass its id as eos_token_id="),
    "eos_token_ids": _same("eos_token_id", "the end tokens"),
    "stopping_criteria_idx": _same("eos_token_id", "the end tokens (SDAR)"),
    "eos_early_stop": _same("stop_at_eos", "finish at an end token (LLaDA2, Diffusers)"),
    "early_stop": _same("stop_at_eos", "finish at an end token (dInfer)"),
    "ignore_eos": Alias(
        "write on behind an end token (vLLM)",
        "stop_at_eos",
        {True: {"stop_at_eos": False}, False: {"stop_at_eos": None}},
        "or say stop_at_eos=",
    ),
    **dict.fromkeys(
        ("stop_strings", "stop_words", "stop_sequences", "stop_tokens", "stop_token", "until"),
        _same("stop", "texts that end an answer"),
    ),
    **dict.fromkeys(
        ("stop_token_ids", "stop_token_id"),
        _same("stop", "ids that end an answer, beside the end tokens (vLLM)"),
    ),
    "stopping_criteria": _answer("functions that end an answer", _END, ()),
    "pad_token_id": _answer("fills short rows", "leave it out: rows keep their own length"),
    "bos_token_id": _answer("the first token", "leave it out: the tokenizer adds it, and ids are taken as they are"),
    # Beams.
    "num_beams": _answer("1 is none", _NO_BEAMS, 1),
    "length_penalty": _answer("of beams", _NO_BEAMS, 1),
    "early_stopping": _answer("of beams", _NO_BEAMS, False),
    "best_of": _answer("answers to choose from", f"{_ANSWERS}, and choose", 1),
    **dict.fromkeys(
        ("n", "num_return_sequences", "num_generations", "num_outputs", "num_completions", "n_samples"),
        _answer("answers to a prompt", _ANSWERS, 1),
    ),
    # Seeds, watching, what is returned.
    "generator": _answer("a random generator", _SEED),
    "random_seed": _answer("a seed", _SEED),
    "random_state": _answer("a seed", _SEED),
    "manual_seed": _answer("a seed", _SEED),
    "callback": _answer("called after a step", _WATCH),
    "callback_on_step_end": _answer("called after a step (Diffusers)", _WATCH),
    "callback_on_step_end_tensor_inputs": _answer("what it is given", _WATCH, (), beside=("callback_on_step_end", (None,))),
    "streamer": _answer("is sent tokens in order", _STREAM),
    "stream": _answer("tokens as they come", _STREAM, False),
    "use_tqdm": _answer("a progress bar (vLLM)", _WATCH, False),
    "progress_bar": _answer("a progress bar", _WATCH, False),
    "return_dict_in_generate": _answer("an object, not a tensor", _ALWAYS, True, False),
    "return_dict": _answer("an object, not a tensor", _ALWAYS, True, False),
    "output_history": Alias("keep the steps (Dream)", None, {None: NOTHING, False: NOTHING, True: "result.trajectory"}, _KEPT),
    "return_trace": Alias("keep the steps", None, {None: NOTHING, False: NOTHING, True: "result.trajectory"}, _KEPT),
    "output_scores": _answer("keep the scores", _KEPT, False),
    "output_logits": _answer("keep the logits", _KEPT, False),
    "output_attentions": _answer("keep the attention", "call the model itself on the answer", False),
    "output_hidden_states": _answer("keep the hidden states", "call the model itself on the answer", False),
    "logprobs": _answer("of the tokens; with vLLM 0 is the drawn one", _KEPT, False),
    "top_logprobs": _answer("of the best tokens", _KEPT, 0),
    "prompt_logprobs": _answer("of the prompt (vLLM)", "leave it out: the prompt is not scored", 0),
    "output_type": _answer("text or ids (Diffusers)", "use result.texts or result.new_tokens", "text", "seq"),
    "echo": _answer("the prompt before the answer", "use result.sequences, which has the prompt and the answer", False),
    **dict.fromkeys(
        ("skip_special_tokens", "detokenize", "spaces_between_special_tokens"),
        _answer("of decoding", "leave it out, or decode result.new_tokens with the tokenizer", True),
    ),
    "include_stop_str_in_output": _answer("of decoding (vLLM)", "leave it out: its tokens are in result.new_tokens", False),
    "truncate_prompt_tokens": _answer("cut the prompt (vLLM)", "cut the prompt before, so that it is known what is left"),
    # Prompts.
    "messages": _answer("a conversation", _PROMPT),
    "text": _answer("the prompt", _PROMPT),
    "prompts": _answer("the prompts", _PROMPT),
    "inputs": _answer("the prompts", _PROMPT),
    "input_ids": _answer("the prompts", _PROMPT),
    "prompt_token_ids": _answer("the prompts (vLLM)", _PROMPT),
    "system": _answer("the system message", _SYSTEM),
    "system_prompt": _answer("the system message", _SYSTEM),
    "inputs_embeds": _answer("the prompts as vectors", _PROMPT),
    "use_chat_template": _answer("a text is a user's message (Diffusers)", _CHAT, False),
    "apply_chat_template": _answer("a text is a user's message", _CHAT, False),
    "chat_template": _answer("the template", f"the tokenizer's own is taken; {_CHAT}"),
    "add_generation_prompt": _answer("the template's start of an answer", f"the template adds it; {_CHAT}", True),
    "constraints": _answer("words at positions (LLaDA's demo)", "use infill, which keeps every token that is not a mask", ()),
    "force_words_ids": _answer("words that must be written", _NO_GRAMMAR),
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
    **{
        name: _answer("an argument of load", _LOAD.format(name))
        for name in ("attention", "family", "revision", "adapter", "quantise")
    },
    "model_path": _answer("the model", "the model is the first argument of sample"),
    # Of generate of transformers.
    **dict.fromkeys(
        ("prompt_lookup_num_tokens", "assistant_early_exit", "forced_bos_token_id", "forced_eos_token_id", "dola_layers"),
        _answer("(transformers)", _GENERATE),
    ),
    **dict.fromkeys(("use_mtp", "remove_invalid_values", "token_healing"), _answer("(transformers)", _GENERATE, False)),
    "num_beam_groups": _answer("of beams", _NO_BEAMS, 1),
    "diversity_penalty": _answer("of beams", _NO_BEAMS, 0),
    **dict.fromkeys(
        (
            *("cache_config", "max_cache_len", "renormalize_logits", "decoder_start_token_id", "is_assistant"),
            *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "speculation_type"),
            *("max_matching_ngram_size", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight"),
            *("compile_config", "disable_compile", "continuous_batching_config", "low_memory", "prefill_chunk_size"),
            *("transformers_version", "return_legacy_cache"),
        ),
        _answer("(transformers)", _INTERNAL, False),
    ),
    "trust_remote_code": _answer("run code of the folder", "leave it out: no code of a folder is ever run", False),
}

# Values of others for settings that have our name, to our value.
VALUES: Mapping[str, Mapping[str, str]] = {
    "order": {
        **{
            theirs: str(meant["order"])
            for theirs, meant in {**_ORDERS, **_SDAR, **_THRESHOLD}.items()
            if isinstance(theirs, str)
        },
        **dict.fromkeys(("top_k_margin", "prob_margin"), "margin"),
        **dict.fromkeys(("ar", "autoregressive", "l2r"), "left-to-right"),
    },
    "schedule": {"uniform": "even", "constant": "even", "loglinear": "linear"},
    "cache": {"dual_cache": "dual", "prefix_cache": "prefix", "block_cache": "exact_block", "off": "none"},
}


def check_value(name: str, value: object) -> None:
    """Answers a value that others use.

    Raises:
        InvalidValueError: it is one, and not ours, too.
    """
    ours = VALUES[name].get(value.casefold().replace("-", "_")) if isinstance(value, str) else None
    if ours is not None and ours != value:
        raise InvalidValueError(f"{name} has names of its own, got {value!r}; use {name}={ours!r}")
