"""`sample` for those who call generate: `model.generate(ids, custom_generate=dllm_fast.generate, max_new_tokens=64)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.settings import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch

    from dllm_fast.config import SamplerConfig
    from dllm_fast.result import Result, StepEvent

# What transformers puts together from settings that we read ourselves.
_OURS = frozenset(
    {
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
        "SuppressTokensLogitsProcessor",
        "MaxLengthCriteria",
        "EosTokenCriteria",
    }
)


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
    seed: int | Sequence[int] = 0,
    on_step: Callable[[StepEvent], object] | None = None,
    steps: int | None = None,
    steps_per_block: int | None = None,
    block_length: int | None = None,
    schedule: str | None = None,
    eps: float | None = None,
    order: str | None = None,
    order_temperature: float | None = None,
    threshold: float | None = None,
    factor: float | None = None,
    entropy_bound: float | None = None,
    min_commit: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    mask_token_id: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    stop_at_eos: bool | None = None,
    suppress_tokens: Sequence[int] | None = None,
    shift: bool | None = None,
    as_published: bool | None = None,
    cache: str | None = None,
    refresh_every: int | None = None,
    max_batch_rows: int | None = None,
    **model_kwargs: Any,
) -> torch.Tensor | Generated:
    """Runs `dllm_fast.sample` with the arguments that `generate` of transformers hands to a `custom_generate` callable.

    The settings are those of `sample`, each a named argument, for transformers passes on no others. `max_new_tokens`,
    `max_length`, `do_sample`, `num_return_sequences`, `pad_token_id` and `return_dict_in_generate` come with the generation
    config, and so do end tokens, temperature and cuts of the distribution (with `do_sample`) where they are not named.

    Args:
        model, input_ids: the model, and prompts `[B, L]`.
        model_kwargs: of these only `attention_mask` is read: 0 where a prompt is padding. Prompts are run without their
            padding and returned with it.
        seed: as in `sample`; rows of `num_return_sequences` are its samples.

    Returns:
        Prompts and new tokens `[B * num_return_sequences, L + new]`, padded behind the end token; or `Generated`.

    Raises:
        InvalidValueError: what cannot be honoured (logits processors, stopping criteria, streamers, beams), and whatever
            `sample` refuses.
    """
    settings = {name: value for name, value in locals().items() if name in NAMES and value is not None}
    from dllm_fast.sampling import sample

    _check(model_kwargs, streamer, logits_processor, stopping_criteria, generation_config)
    settings |= _lengths(input_ids, generation_config, model_kwargs)
    if config is None:
        settings = _sampling(generation_config) | settings
    if settings.get("top_k") == 0:
        del settings["top_k"]  # which is how transformers says that it is off
    num_samples = getattr(generation_config, "num_return_sequences", None) or 1
    prompts = _prompts(input_ids, model_kwargs.get("attention_mask"))[::num_samples]
    result = sample(
        model, prompts, preset=preset, config=config, seed=seed, num_samples=num_samples, on_step=on_step, **settings
    )
    sequences = _sequences(input_ids, result, generation_config)
    if not getattr(generation_config, "return_dict_in_generate", False):
        return sequences
    return Generated(
        sequences=sequences,
        num_forwards=result.stats.nfe,
        tokens_per_forward=result.stats.tokens_per_forward,
        result=result,
    )


def _check(
    model_kwargs: dict[str, Any],
    streamer: object,
    logits_processor: Iterable[object] | None,
    stopping_criteria: Iterable[object] | None,
    generation_config: Any,
) -> None:
    if model_kwargs.get("inputs_embeds") is not None:
        raise InvalidValueError("dllm_fast.generate takes prompts as tokens, got inputs_embeds; pass input_ids")
    if streamer is not None:
        raise InvalidValueError(
            f"dllm_fast.generate writes tokens in no fixed order, got a {type(streamer).__name__}; use on_step= instead"
        )
    beams = getattr(generation_config, "num_beams", None) or 1
    if beams > 1:
        raise InvalidValueError(f"dllm_fast.generate has no beams, got num_beams={beams}; leave it out")
    for kind, things in (("logits processors", logits_processor), ("stopping criteria", stopping_criteria)):
        unknown = [type(thing).__name__ for thing in things or () if type(thing).__name__ not in _OURS]
        if unknown:
            raise InvalidValueError(
                f"dllm_fast.generate does not call {kind}, got {unknown[0]}; leave it out, or use suppress_tokens=, "
                "stop_at_eos= and the cuts of the distribution (top_k=, top_p=, min_p=)"
            )


def _lengths(input_ids: torch.Tensor, generation_config: Any, model_kwargs: dict[str, Any]) -> dict[str, int]:
    """How many tokens to write. They come with the generation config, or directly where `generate` is called directly."""
    new_tokens = model_kwargs.get("max_new_tokens", getattr(generation_config, "max_new_tokens", None))
    longest = getattr(generation_config, "max_length", None)
    if new_tokens is None and longest is not None:
        new_tokens = longest - input_ids.shape[1]
    return {} if new_tokens is None else {"max_new_tokens": new_tokens}


def _sampling(generation_config: Any) -> dict[str, Any]:
    """Settings of a generation config that have the same meaning here."""
    names = ["eos_token_id", "suppress_tokens"]
    if getattr(generation_config, "do_sample", False):
        names += ["temperature", "top_k", "top_p", "min_p"]
    found = {name: getattr(generation_config, name, None) for name in names}
    if "temperature" in found and found["temperature"] is None:
        found["temperature"] = 1.0
    return {name: value for name, value in found.items() if value is not None}


def _prompts(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[Any]:
    if getattr(input_ids, "ndim", 0) != 2:
        raise InvalidTypeError(f"input_ids must be a tensor [B, L], got {type(input_ids).__name__}; pass one row a prompt")
    if attention_mask is None:
        return list(input_ids.cpu())
    if attention_mask.shape != input_ids.shape:
        raise InvalidValueError(
            f"attention_mask must have the shape {list(input_ids.shape)} of input_ids, got {list(attention_mask.shape)}; "
            "1 marks a token, 0 padding"
        )
    return [row[real] for row, real in zip(input_ids.cpu(), attention_mask.cpu().bool(), strict=True)]


def _sequences(input_ids: torch.Tensor, result: Result, generation_config: Any) -> torch.Tensor:
    import torch

    padding = getattr(generation_config, "pad_token_id", None)
    if padding is None:
        padding = next(iter(result.config.eos_token_ids), 0)
    new = [torch.from_numpy(tokens) for tokens in result.new_tokens]
    written = torch.nn.utils.rnn.pad_sequence(new, batch_first=True, padding_value=int(padding))
    return torch.cat((input_ids, written.to(input_ids)), dim=1)
