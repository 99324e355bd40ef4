"""Ids with a meaning: the mask, the end tokens, what is never written; and whether ids are the model's at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast.errors import InvalidValueError
from dllm_fast.families.model_info import for_call
from dllm_fast.settings.config import told
from dllm_fast.text import tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast.runners.runner import Runner
    from dllm_fast.settings.config import SamplerConfig
    from dllm_fast.text.prompts import Prompt


def with_ids(config: SamplerConfig, model: Runner, tokenizer: Any) -> SamplerConfig:
    """The settings with the mask, the end tokens and, for noise, the size of the vocabulary, where the caller left them open.

    Raises:
        InvalidValueError: no mask for a rule of masks, a mask beside noise, or a vocabulary that nobody knows.
    """
    mask, ends, sources = config.mask_token_id, config.eos_token_id, dict(config.sources)
    vocabulary, has_noise = config.vocabulary, config.noise != "mask"
    if mask is None:
        mask, sources["mask_token_id"] = for_call("mask_token_id", model, tokenizer)
    if has_noise:
        if mask is None and config.noise == "hybrid":
            raise InvalidValueError(
                "noise='hybrid' shows masks among other tokens, got none from the model or the tokenizer; pass mask_token_id="
            )
        if mask is not None and config.noise != "hybrid":
            raise InvalidValueError(
                f"noise={config.noise!r} is for models that never saw a mask, got one with the mask {mask} "
                f"({sources['mask_token_id']}); leave noise out, or choose a preset for models with masks"
            )
        if vocabulary is None:
            vocabulary, sources["vocabulary"] = model.vocabulary, "model"
        if vocabulary is None:
            raise InvalidValueError(
                "noise is drawn from the vocabulary, got a model that does not say how many ids it has; pass vocabulary="
            )
        if model.vocabulary is not None and vocabulary > model.vocabulary:
            raise InvalidValueError(
                f"vocabulary must be at most that of the model, got {vocabulary} for {model.vocabulary} ids; leave it out"
            )
    elif mask is None:
        raise InvalidValueError(
            "a mask token is needed, got none from the model or the tokenizer; pass mask_token_id= "
            "(LLaDA 126336, Dream 151666, LLaDA2 156895, BERT 103), or noise='uniform' for a model of uniform noise"
        )
    if ends is None:
        ends, source = for_call("eos_token_id", model, tokenizer)
        sources["eos_token_id"] = "default" if ends is None else source
    return told(config, mask_token_id=mask, vocabulary=vocabulary, eos_token_id=ends, sources=sources)


def with_suppressed(config: SamplerConfig, model: Runner, tokenizer: Any) -> tuple[SamplerConfig, tuple[int, ...]]:
    """The settings with names of tokens as ids, and the special tokens of the tokenizer that are suppressed besides.

    Those are not written into the settings, which stay short and fit any tokenizer; `sources` names them.

    Raises:
        InvalidValueError: a name without a tokenizer, or one that it does not know.
    """
    given = tokens.ids_of(config.suppress_tokens, tokenizer, "suppress_tokens")
    special: tuple[int, ...] = ()
    if not (config.as_published if config.allow_special is None else config.allow_special):
        ends = model.token_id("eos_token_id")
        written = {config.mask_token_id, *config.eos_token_ids, *((ends,) if isinstance(ends, int) else ends or ())}
        for stop in config.stop:  # who names one wants it written
            written |= {tokens.token_id(tokenizer, stop)} if isinstance(stop, str) else {*np.atleast_1d(stop).tolist()}
        special = tokens.not_written(tokenizer, {*written, *given}, model.vocabulary)
    sources = dict(config.sources)
    if special:
        by_tokenizer = f"tokenizer: {tokens.shown(tokenizer, special)} (special; allow_special=True lets them be written)"
        sources["suppress_tokens"] = f"{sources['suppress_tokens']}; {by_tokenizer}" if given else by_tokenizer
    return told(config, suppress_tokens=given, sources=sources), special


def check_ids(
    prompts: list[Prompt], config: SamplerConfig, model: Runner, special: tuple[int, ...] = (), *, infilling: bool
) -> None:
    """Refuses ids outside the vocabulary, as far as that is known, nothing that may be written, and masks in a prompt."""
    vocabulary = model.vocabulary
    if vocabulary is not None:
        masks = () if config.mask_token_id is None else (config.mask_token_id,)
        suppressed = [token for token in config.suppress_tokens if isinstance(token, int)]
        stops = [token for one in config.stop if not isinstance(one, str) for token in np.atleast_1d(one).tolist()]
        ends = config.eos_token_ids
        settings = {"mask_token_id": masks, "eos_token_id": ends, "suppress_tokens": suppressed, "stop": stops}
        for setting, ids_of_it in settings.items():
            if outside := [token for token in ids_of_it if token >= vocabulary]:
                raise InvalidValueError(
                    f"{setting} must be an id of the vocabulary, got {outside[0]} for {vocabulary} ids; "
                    "check it against the tokenizer"
                )
        table = config.token_frequencies
        if table is not None and len(table) != vocabulary:
            raise InvalidValueError(
                f"token_frequencies must have a count for each of the {vocabulary} ids of the vocabulary, got {len(table)}; "
                f"count with TokenFrequencies.of(ids, {vocabulary})"
            )
        may_be_barred = config.min_new_tokens or config.eos_policy in {"suffix", "penalise"}
        early = {*ends, *(one for one in config.stop if isinstance(one, int))} if may_be_barred else ()
        if len({*suppressed, *masks, *special, *early}) >= vocabulary:
            raise InvalidValueError(
                f"suppress_tokens must leave a token that may be written, got {len(set(suppressed))} of {vocabulary} ids "
                f"beside the mask{' and what ends an answer' if early else ''}; suppress fewer"
            )
    name = "canvas" if infilling else "prompt"
    for row, prompt in enumerate(prompts):
        ids = np.concatenate([prompt.ids, prompt.tail])
        check_ids_in(ids, model, name, row)
        if not infilling and (found := np.flatnonzero(ids == config.mask_token_id)).size:
            raise InvalidValueError(
                f"a prompt must hold no mask tokens, got one at position {found[0]} of row {row}; "
                "to fill masks in place use dllm_fast.infill"
            )


def check_ids_in(ids: NDArray[np.int64], model: Runner, name: str, row: int) -> None:
    low, high = ids.min(), ids.max()
    if low < 0 or (model.vocabulary is not None and high >= model.vocabulary):
        raise InvalidValueError(
            f"ids of the {name} must lie in [0, {model.vocabulary or '2^32'}), "
            f"got {low if low < 0 else high} in row {row}; use the tokenizer of this model"
        )
