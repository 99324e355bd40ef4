"""What `generate` of transformers was told, in the words of `sample`; what cannot be honoured is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown
from dllm_fast.settings.aliases import ALIASES
from dllm_fast.settings.resolve import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Settings of a GenerationConfig that are read here or in custom_generate.py.
READ = frozenset(
    {
        "max_length",
        "max_new_tokens",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "eos_token_id",
        "min_new_tokens",
        "stop_strings",
        "suppress_tokens",
        "guidance_scale",
        "bad_words_ids",
        "use_cache",
        "pad_token_id",
        "num_return_sequences",
        "return_dict_in_generate",
    }
)
# Settings that say how and not what, or only tune something that is refused by itself (beams, assistants).
WITHOUT_EFFECT = frozenset(
    {
        "bos_token_id",
        "decoder_start_token_id",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "return_legacy_cache",
        "prefill_chunk_size",
        "compile_config",
        "disable_compile",
        "continuous_batching_config",
        "low_memory",
        "renormalize_logits",
        "early_stopping",
        "length_penalty",
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "assistant_lookbehind",
        "target_lookbehind",
        "assistant_ensemble_weight",
        "speculation_type",
        "max_matching_ngram_size",
        "transformers_version",
    }
)
# Values that switch a setting off, beside its default.
_OFF: dict[str, object] = {"penalty_alpha": 0}
# Where `generate` returns a tensor, what the table says of `sample` is not enough.
_REMEDIES = {
    "output_scores": "return_dict_in_generate=True gives .result, whose trajectory has the probability of each written token",
    "output_logits": "return_dict_in_generate=True gives .result, whose trajectory has the probability of each written token",
}
# What transformers puts together from settings that are read here.
_THEIRS = frozenset(
    {
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
        "SuppressTokensLogitsProcessor",
        "NoBadWordsLogitsProcessor",  # of words of one token
        "UnbatchedClassifierFreeGuidanceLogitsProcessor",  # whose unconditional branch is the last token alone
        "LogitNormalization",  # changes no probability
        "MinNewTokensLengthLogitsProcessor",
        "StopStringCriteria",
        "MaxLengthCriteria",
        "EosTokenCriteria",
    }
)


def told_by(generation_config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the generation config; those that are passed in its place, where `generate` is called directly, go before."""
    kinds = [kind.__name__ for kind in type(generation_config).__mro__]
    if generation_config is not None and not {"GenerationConfig", "SimpleNamespace"} & set(kinds):
        raise InvalidTypeError(
            f"generation_config must be a GenerationConfig, got {shown(generation_config)}; pass that of the model, or settings"
        )
    told = {} if generation_config is None else vars(generation_config)
    return {**told, **{name: value for name, value in given.items() if name in READ}}


def settings_of(generation_config: Any, told: Mapping[str, Any]) -> dict[str, Any]:
    """What has the same meaning in the words of `sample`.

    Names of ours that a generation config does not know by itself are settings, too: `GenerationConfig(steps=64)`.
    """
    drawn = ("temperature", "top_k", "top_p", "min_p") if told.get("do_sample") else ()
    theirs = {*READ, *_defaults(generation_config), "cache"}
    ours = (name for name in (*NAMES, *ALIASES) if name not in theirs)
    names = ("eos_token_id", "suppress_tokens", "guidance_scale", "min_new_tokens", "stop_strings", *drawn, *ours)
    found = {name: told[name] for name in names if told.get(name) is not None}
    if drawn:
        found.setdefault("temperature", 1.0)
    if found.get("top_k") == 0:
        del found["top_k"]  # which is how transformers says that it is off
    if told.get("use_cache") is False:
        found["cache"] = "none"
    if told.get("bad_words_ids"):
        ends = found.get("eos_token_id", ())
        kept = set(ends) if isinstance(ends, list | tuple) else {ends}
        banned = {word[0] for word in told["bad_words_ids"]} - kept  # transformers does not ban the end either
        found["suppress_tokens"] = [*found.get("suppress_tokens", ()), *sorted(banned)]
    return found


def check_config(generation_config: Any, told: Mapping[str, Any]) -> None:
    """Refuses every setting of transformers' own that is not at its default and that nothing here reads."""
    for name, default in _defaults(generation_config).items():
        if name.startswith("_") or name in READ or name in WITHOUT_EFFECT:
            continue
        value = told.get(name)
        off = (default, None, False, _OFF.get(name))
        if not any(value is one or value == one for one in off):
            usual = next((one for one in (_OFF.get(name), default) if one is not None), None)
            remedy = _REMEDIES.get(name) or (ALIASES[name].remedy if name in ALIASES else "leave it out")
            if usual is not None:
                remedy = f"{remedy} (where the model's generation config has it, pass {name}={usual!r})"
            raise InvalidValueError(f"dllm_fast.generate does not honour {name}, got {name}={shown(value)}; {remedy}")
    words = told.get("bad_words_ids") or ()
    if long := next((word for word in words if len(word) > 1), None):
        raise InvalidValueError(
            f"bad_words_ids must be words of one token, got {list(long)}; the tokens are not written from left to right: "
            "leave it out, or use suppress_tokens="
        )


def check_objects(kind: str, things: Iterable[object] | None) -> None:
    """Refuses logits processors and stopping criteria that do not come from settings that are read here."""
    if things is not None and not isinstance(things, list | tuple):
        raise InvalidTypeError(f"{kind} must be a list, got {shown(things)}; leave it out")
    unknown = [type(thing).__name__ for thing in things or () if type(thing).__name__ not in _THEIRS]
    if unknown:
        raise InvalidValueError(
            f"dllm_fast.generate does not call {kind}, got {unknown[0]}; leave it out, or use suppress_tokens=, "
            "stop_at_eos= and the cuts of the distribution (top_k=, top_p=, min_p=)"
        )


def _defaults(generation_config: Any) -> dict[str, Any]:
    """The settings that transformers itself knows, with what they are when nobody sets them."""
    kinds = type(generation_config).__mro__
    kind = next((kind for kind in kinds if kind.__module__.partition(".")[0] == "transformers"), None)
    if kind is None:
        return {}
    fallback: dict[str, Any] = getattr(kind, "_get_default_generation_params", dict)()
    return {name: fallback.get(name, value) for name, value in vars(kind()).items()}
