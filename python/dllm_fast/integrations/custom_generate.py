"""`sample` for those who call generate: `model.generate(ids, custom_generate=dllm_fast.generate, max_new_tokens=64)`."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast import records
from dllm_fast.arrays import check_many
from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown
from dllm_fast.integrations.generation_config import READ, check_config, check_objects, settings_of, told_by
from dllm_fast.settings.config import SamplerConfig
from dllm_fast.settings.resolve import NAMES
from dllm_fast.tensors import is_readable, is_tensor
from dllm_fast.text.padding import flat_rows, unpadded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch

    from dllm_fast.events import StepEvent
    from dllm_fast.result import Result

# Our name there, where our own would meet one of theirs: transformers hands its cache of keys and values on as `cache`.
RENAMED = {"cache": "cache_policy"}
# Names of ours that a GenerationConfig has, too, with the same meaning. Every other meeting is a fault; a test looks for it.
SHARED = frozenset({"temperature", "top_k", "top_p", "min_p", "eos_token_id", "suppress_tokens", "min_new_tokens"})
# What sample calls them: our names here. The length comes with the generation config.
_NAMES = {RENAMED.get(name, name): name for name in NAMES if name != "max_new_tokens"}
# Arguments of a forward that transformers makes and that say nothing about the answer.
_BOOKKEEPING = frozenset({"use_cache", "logits_to_keep", "num_logits_to_keep", "cache_position"})
_CACHES = ("cache", "past_key_values", "cache_params")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What `generate` returns under `return_dict_in_generate=True`.

    Attributes:
        sequences: prompts and new tokens, `[B, L]`, padded behind the end token.
        num_forwards: calls of the model.
        tokens_per_forward: new tokens of all rows over calls.
        result: what `sample` returned.
    """

    sequences: torch.Tensor
    num_forwards: int
    tokens_per_forward: float
    result: Result


def generate(  # noqa: PLR0917, the positions are transformers' own
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Iterable[object] | None = None,
    stopping_criteria: Iterable[object] | None = None,
    generation_config: Any = None,
    synced_gpus: bool = False,
    streamer: object = None,
    *,
    preset: str | None = None,
    config: SamplerConfig | None = None,
    negative_prompt: Any = None,
    seed: int | Sequence[int] | None = 0,
    on_step: Callable[[StepEvent], object] | None = None,
    guesses: bool = False,
    verifier: Any = None,
    **given: Any,
) -> torch.Tensor | Generated:
    """Runs `dllm_fast.sample` with the arguments that `generate` of transformers hands to a `custom_generate` callable.

    The settings are those of `sample`, each a named argument of the signature, for transformers passes on no others; only
    `cache` is called `cache_policy`, because transformers hands its own cache on under that name. Lengths, `do_sample`,
    `num_return_sequences`, `pad_token_id`, `use_cache` and `return_dict_in_generate` come with the generation config, and so
    do end tokens, temperature and cuts of the distribution (with `do_sample`) where they are not named.

    Args:
        model, input_ids: the model, and prompts `[B, L]`.
        given: settings. Of the arguments for a forward, `attention_mask` is read: 0 where a prompt is padding. Prompts are run
            without their padding and returned with it.
        on_step, guesses: as in `sample`.
        negative_prompt: as in `sample`, in place of which `negative_prompt_ids` may be given to `model.generate`. With neither,
            `guidance_scale` leads away from the prompt in masks; in transformers from its last token.
        verifier: as in `sample`.
        seed: as in `sample`; rows of `num_return_sequences` are its samples.

    Returns:
        Prompts and new tokens `[B * num_return_sequences, L + new]`, padded behind the end token; or `Generated`.

    Raises:
        InvalidValueError: what cannot be honoured (logits processors, stopping criteria, streamers, assistants, filled caches,
            settings of the generation config that nothing here reads), and whatever `sample` refuses.
    """
    from dllm_fast.sampling import sample

    given = {name: value for name, value in given.items() if value is not None}
    settings = {_NAMES[name]: given.pop(name) for name in [*given] if name in _NAMES}
    told = told_by(generation_config, given)
    check_config(generation_config, told)
    check_objects("logits processors", logits_processor)
    check_objects("stopping criteria", stopping_criteria)
    negative_prompt = _withheld(streamer, negative_prompt)
    if not isinstance(synced_gpus, bool | None):
        raise InvalidTypeError(f"synced_gpus must be True or False, got {shown(synced_gpus)}; leave it out")
    if (padding := told.get("pad_token_id")) is not None:
        records.count(padding, "pad_token_id", least=-1, remedy="leave it out for the end token")
    prompts = _prompts(input_ids, given.pop("attention_mask", None), given.pop("position_ids", None))
    rest = _settings_among({name: value for name, value in given.items() if name not in READ})
    num_samples = _num_samples(prompts, told, given)
    if config is None:
        settings = settings_of(generation_config, told) | settings
    elif told.get("guidance_scale") is not None:
        settings = {"guidance_scale": told["guidance_scale"]} | settings
    top_k = records.scalar(settings.get("top_k"))
    if isinstance(top_k, int) and not isinstance(top_k, bool) and top_k == 0:
        del settings["top_k"]  # which is how transformers says that it is off
    padding = _padding(told)
    result = sample(
        model,
        prompts[::num_samples],
        preset=preset,
        config=config,
        negative_prompt=negative_prompt,
        seed=seed,
        num_samples=num_samples,
        on_step=on_step,
        guesses=guesses,
        verifier=verifier,
        **_length(input_ids, told),
        **settings,
        **rest,
    )
    sequences = _sequences(input_ids, result, padding)
    if not told.get("return_dict_in_generate"):
        return sequences
    return Generated(
        sequences=sequences,
        num_forwards=result.stats.nfe,
        tokens_per_forward=result.stats.tokens_per_forward,
        result=result,
    )


def _signature() -> inspect.Signature:
    """The signature of `generate` with all settings by name; transformers reads it to know what it may pass on."""
    own = inspect.signature(generate)
    *named, given = own.parameters.values()
    kinds = {field.name: field.type for field in dataclasses.fields(SamplerConfig)}
    settings = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kinds[ours])
        for name, ours in _NAMES.items()
    ]
    return own.replace(parameters=[*named, *settings, given])


vars(generate)["__signature__"] = _signature()


def _withheld(streamer: object, negative_prompt: Any) -> Any:
    """The negative prompt. Refuses a streamer and an assistant.

    `model.generate` hands on none of the three, so they are looked for in its frame.
    """
    frame = inspect.currentframe()
    caller = frame.f_back.f_back if frame is not None and frame.f_back is not None else None
    theirs = caller.f_locals if caller is not None and caller.f_code.co_name == "generate" else {}
    streamer = streamer if streamer is not None else theirs.get("streamer")
    if streamer is not None:
        raise InvalidValueError(
            f"dllm_fast.generate writes tokens in no fixed order, got a {type(streamer).__name__}; use on_step= instead"
        )
    assistant = theirs.get("assistant_model")
    if assistant is not None:
        raise InvalidValueError(f"dllm_fast.generate has no assistants, got a {type(assistant).__name__}; leave it out")
    ids = theirs.get("negative_prompt_ids")
    if ids is None:
        return negative_prompt
    if negative_prompt is not None:
        raise InvalidValueError(
            f"negative_prompt and negative_prompt_ids are the same, got both, {shown(negative_prompt)} the first; keep one"
        )
    real = theirs.get("negative_prompt_attention_mask")
    return _prompts(ids, real, None, name="negative_prompt_ids")


def _settings_among(given: dict[str, Any]) -> dict[str, Any]:
    """What is left for `sample` to understand or to refuse, without the arguments that transformers makes for a forward."""
    if "num_samples" in given:
        raise InvalidValueError(
            f"num_samples is called num_return_sequences here, got {given['num_samples']}; call dllm_fast.sample with it"
        )
    for name in ("inputs_embeds", "encoder_outputs"):
        if name in given:
            raise InvalidValueError(f"dllm_fast.generate takes prompts as tokens, got {name}; pass input_ids")
    for name in _CACHES:
        cache = given.pop(name, None)
        if isinstance(cache, str):
            given["cache"] = cache  # ours, where generate is called directly
        elif cache is not None and _filled(cache):
            raise InvalidValueError(
                f"dllm_fast.generate begins with an empty cache, got {name} that holds tokens; pass the whole prompt, "
                "and the policy as cache_policy="
            )
    segments = given.pop("token_type_ids", None)
    if segments is not None and any(row.any() for row in flat_rows(segments, "token_type_ids")):
        raise InvalidValueError("token_type_ids must all be 0, got others; dllm_fast knows one segment, leave them out")
    return {name: value for name, value in given.items() if name not in _BOOKKEEPING}


def _filled(cache: Any) -> bool:
    """True where a cache holds tokens, or cannot be asked."""
    return int(cache.get_seq_length()) > 0 if hasattr(cache, "get_seq_length") else True


def _num_samples(prompts: list[Any], told: dict[str, Any], given: dict[str, Any]) -> int:
    """Samples of a prompt, whose copies transformers has put beside each other."""
    count = told.get("num_return_sequences")
    count = 1 if count is None else records.count(count, "num_return_sequences", remedy="leave it out for one answer a prompt")
    groups = [prompts[start : start + count] for start in range(0, len(prompts), count)]
    repeated = all(len(group) == count and all(np.array_equal(row, group[0]) for row in group) for group in groups)
    if not repeated or (count > 1 and "num_return_sequences" in given):
        raise InvalidValueError(
            f"num_return_sequences={count} needs each prompt {count} times, as model.generate repeats it, "
            f"got {len(prompts)} rows; call dllm_fast.sample with num_samples={count}"
        )
    return count


def _length(input_ids: torch.Tensor, told: dict[str, Any]) -> dict[str, Any]:
    """How many tokens to write."""
    new_tokens, longest = told.get("max_new_tokens"), told.get("max_length")
    if new_tokens is None and longest is not None:
        new_tokens = longest - input_ids.shape[1]
    return {} if new_tokens is None else {"max_new_tokens": new_tokens}


def _prompts(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    *,
    name: str = "input_ids",
) -> list[Any]:
    """Rows without their padding."""
    if not is_tensor(input_ids) or not is_readable(input_ids) or input_ids.ndim != 2:
        raise InvalidTypeError(f"{name} must be a tensor [B, L], got {type(input_ids).__name__}; pass one row a prompt")
    check_many(input_ids.numel(), name)
    real = input_ids.new_ones(input_ids.shape) if attention_mask is None else attention_mask
    rows = unpadded(input_ids, real, name)
    if position_ids is not None:
        kept = np.array(flat_rows(real, "attention_mask", flags=True)).astype(bool)
        places = flat_rows(position_ids, "position_ids")  # one row of them stands for all
        if {len(row) for row in places} != {kept.shape[1]} or len(places) not in (1, len(kept)):
            raise InvalidValueError(
                f"position_ids must have the shape {list(kept.shape)} of input_ids, got {shown(position_ids)}; leave them out"
            )
        if not ((np.array(places) == kept.cumsum(1) - 1) | ~kept).all():
            raise InvalidValueError("position_ids must count each prompt's tokens from 0, got others; leave them out")
    return rows


def _padding(told: dict[str, Any]) -> int | None:
    """What rows are padded with; read before anything is run, so that a wrong one costs no answer.

    Raises:
        InvalidTypeError: no whole number.
    """
    value = records.scalar(told.get("pad_token_id"))
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise InvalidTypeError(f"pad_token_id must be the id of a token, got {shown(value)}; pass one, or leave it out")
    return value


def _sequences(input_ids: torch.Tensor, result: Result, padding: int | None) -> torch.Tensor:
    import torch

    if padding is None:
        padding = next(iter(result.config.eos_token_ids), 0)
    new = [torch.from_numpy(tokens) for tokens in result.new_tokens]
    written = torch.nn.utils.rnn.pad_sequence(new, batch_first=True, padding_value=padding)
    return torch.cat((input_ids, written.to(input_ids)), dim=1)
