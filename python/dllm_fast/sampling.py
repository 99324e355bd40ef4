"""`sample` and `infill`: the loop between a model and the sampler."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast import _core, text
from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.models.adapter import ModelAdapter
from dllm_fast.result import Result, Stats, StepEvent
from dllm_fast.settings import Resolved, resolve

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from dllm_fast.config import SamplerConfig

    Model = Callable[[torch.Tensor], Any]
    Prompt = str | Sequence[Any] | NDArray[np.int64] | torch.Tensor
    OnStep = Callable[[StepEvent], object]

DEFAULT_NEW_TOKENS = 128


def sample(
    model: Model | None,
    prompt: Prompt,
    *,
    preset: str | None = None,
    config: SamplerConfig | None = None,
    tokenizer: Any = None,
    seed: int | Sequence[int] = 0,
    num_samples: int = 1,
    on_step: OnStep | None = None,
    **settings: Any,
) -> Result:
    """Appends `max_new_tokens` masks to each prompt and fills them.

    A row's tokens depend on its prompt, its seed, its sample index and the settings, never on the other rows, its place
    among them or the number of threads (as far as the model's own logits do not).

    Args:
        model: a torch module or any callable that takes ids `[B, L]` (int64 tensor) and returns logits `[B, L, V]` (tensor,
            NumPy array, or an object with `.logits`); None for the embedded one. Rows of different length are never
            padded: rows of equal length share a forward.
        prompt: a string, a list of strings (both need a tokenizer), a sequence of ids, or a list of sequences of any
            lengths (lists, arrays, tensors; a 2-D tensor is rows).
        preset: a name of `dllm_fast.presets()`.
        config: a `SamplerConfig` instead of a preset.
        tokenizer: from `tokenizers` or transformers.
        seed: from 0 below 2^64, one for all prompts or one for each.
        num_samples: answers per prompt; they differ where the temperature is above 0 or the order is random.
        on_step: called with a `StepEvent` after every step.
        settings: single settings over the preset, as in `SamplerConfig`; the names of LLaDA, Dream, Fast-dLLM and
            Diffusers are understood (`gen_length`, `remasking`, `alg`, `num_inference_steps`, ...).

    Raises:
        InvalidValueError, InvalidTypeError: before the first forward wherever that is possible.
        Exception: what the model raises, the same object with a note that says which forward it was.
    """
    return _run(model, prompt, resolve(preset, config, settings), tokenizer, seed, num_samples, on_step, infilling=False)


def infill(
    model: Model | None,
    canvas: Prompt,
    *,
    preset: str | None = None,
    config: SamplerConfig | None = None,
    tokenizer: Any = None,
    seed: int | Sequence[int] = 0,
    num_samples: int = 1,
    on_step: OnStep | None = None,
    **settings: Any,
) -> Result:
    """Fills exactly the mask tokens of each canvas and appends nothing. Blocks are counted from position 0.

    Arguments and errors are those of `sample`, without `max_new_tokens`.
    A canvas without masks comes back unchanged after zero forwards.
    """
    return _run(model, canvas, resolve(preset, config, settings), tokenizer, seed, num_samples, on_step, infilling=True)


def _run(
    model: Model | None,
    prompt: Prompt,
    resolved: Resolved,
    tokenizer: Any,
    seed: int | Sequence[int],
    num_samples: int,
    on_step: OnStep | None,
    *,
    infilling: bool,
) -> Result:
    if model is None:
        model, tokenizer = _embedded(tokenizer)
    adapter = ModelAdapter(model)
    prompts, _ = text.rows(prompt, tokenizer, "canvas" if infilling else "prompt")
    config = _with_ids(resolved.config, adapter, tokenizer)
    _check_ids(prompts, config, adapter, infilling=infilling)
    config = _with_length(config, resolved, prompts, adapter, infilling=infilling)
    seeds, requests = _streams(seed, num_samples, len(prompts))
    canvases = [_canvas(prompt, config, infilling=infilling) for prompt in prompts for _ in range(num_samples)]
    starts = [0 if infilling else len(prompt) for prompt in prompts for _ in range(num_samples)]

    sampler = _core.Sampler(
        config, canvases, seed=seeds, request=requests, block_start=starts, score_all=on_step is not None
    )
    began = time.perf_counter()
    with adapter.inference():
        watching = _drive(sampler, adapter, config, on_step)
    total = time.perf_counter() - began - watching

    sequences = sampler.canvases
    new_tokens = [
        _new_tokens(before, after, config) for before, after in zip(canvases, sequences, strict=True)
    ]
    trajectory = sampler.trajectory
    committed = sum(edit.kind == "commit" for edits in trajectory for edit in edits)
    shown = sequences if infilling else new_tokens
    return Result(
        sequences=sequences,
        new_tokens=new_tokens,
        texts=None if tokenizer is None else [text.decode(tokenizer, ids) for ids in shown],
        trajectory=trajectory,
        stats=Stats(
            nfe=adapter.forwards,
            nfe_per_row=sampler.nfe_per_row,
            tokens_per_forward=committed / adapter.forwards if adapter.forwards else 0.0,
            model_ms=adapter.seconds * 1e3,
            sampler_ms=(total - adapter.seconds) * 1e3,
        ),
        config=config,
        seed=seeds,
        aliases=resolved.aliases,
    )


def _drive(sampler: _core.Sampler, model: ModelAdapter, config: SamplerConfig, on_step: OnStep | None) -> float:
    """Runs the model and the sampler in turn until every row is finished. Returns the seconds spent in `on_step`."""
    watching = 0.0
    while (request := sampler.next()) is not None:
        predictions = []
        for rows, canvases, lines in request.groups(shift=config.shift):
            prediction = sampler.predict(model(canvases), rows=rows, index=lines)
            sampler.feed(prediction=prediction, rows=rows)
            predictions.append((rows, prediction))
        if on_step is not None:
            began = time.perf_counter()
            on_step(_event(request, sampler.canvases, predictions, config))
            watching += time.perf_counter() - began
    return watching


def _event(
    request: _core.Request,
    canvases: list[NDArray[np.int64]],
    predictions: list[tuple[NDArray[np.int64], _core.Prediction]],
    config: SamplerConfig,
) -> StepEvent:
    guesses = {}
    positions_of = dict(zip(request.rows.tolist(), request.positions, strict=True))
    for rows, prediction in predictions:
        ends = np.cumsum([len(positions_of[row]) for row in rows.tolist()])
        guesses.update(zip(rows.tolist(), np.split(prediction.token, ends[:-1]), strict=True))
    after = [canvases[row] for row in request.rows]
    written = [np.flatnonzero(old != new) for old, new in zip(request.canvases, after, strict=True)]
    open_ = [new[positions_of[row]] == config.mask_token_id for row, new in zip(request.rows.tolist(), after, strict=True)]
    return StepEvent(
        step=request.step,
        rows=request.rows,
        positions=written,
        tokens=[new[p] for new, p in zip(after, written, strict=True)],
        guess_positions=[positions_of[row][o] for row, o in zip(request.rows.tolist(), open_, strict=True)],
        guess_tokens=[guesses[row][o] for row, o in zip(request.rows.tolist(), open_, strict=True)],
        canvases=after,
    )


def _embedded(tokenizer: Any) -> tuple[Model, Any]:
    from dllm_fast import demo  # noqa: PLC0415  # only who asks for the embedded model pays for reading it

    model, own = demo.load()
    return model, own if tokenizer is None else tokenizer


def _with_ids(config: SamplerConfig, model: ModelAdapter, tokenizer: Any) -> SamplerConfig:
    """The settings with the mask and the end tokens of the model or the tokenizer, where the caller left them open."""
    mask = config.mask_token_id
    if mask is None:
        found = model.token_id("mask_token_id")
        mask = text.mask_token_id(tokenizer) if found is None else found  # type: ignore[assignment]
    if mask is None:
        raise InvalidValueError(
            "a mask token is needed, got none from the model or the tokenizer; pass mask_token_id= "
            "(LLaDA 126336, Dream 151666, LLaDA2 156895, BERT 103)"
        )
    ends = config.eos_token_id
    if ends is None:
        ends = model.token_id("eos_token_id")
        ends = text.eos_token_id(tokenizer) if ends is None else ends
    return dataclasses.replace(config, mask_token_id=mask, eos_token_id=ends)


def _check_ids(prompts: list[NDArray[np.int64]], config: SamplerConfig, model: ModelAdapter, *, infilling: bool) -> None:
    vocabulary = model.vocabulary
    if vocabulary is not None:
        special = {"mask_token_id": [config.mask_token_id], "eos_token_id": config.eos_token_ids}
        for name, ids in {**special, "suppress_tokens": config.suppress_tokens}.items():
            for token in ids:
                if token is not None and token >= vocabulary:
                    raise InvalidValueError(
                        f"{name} must be an id of the vocabulary, got {token} for {vocabulary} ids; check it against the tokenizer"
                    )
    name = "canvas" if infilling else "prompt"
    for row, ids in enumerate(prompts):
        low, high = ids.min(), ids.max()
        if low < 0 or (vocabulary is not None and high >= vocabulary):
            raise InvalidValueError(
                f"ids of the {name} must lie in [0, {vocabulary or '2^32'}), got {low if low < 0 else high} in row {row}; "
                "use the tokenizer of this model"
            )
        if not infilling and (masks := np.flatnonzero(ids == config.mask_token_id)).size:
            raise InvalidValueError(
                f"a prompt must hold no mask tokens, got one at position {masks[0]} of row {row}; "
                "to fill masks in place use dllm_fast.infill"
            )


def _with_length(
    config: SamplerConfig, resolved: Resolved, prompts: list[NDArray[np.int64]], model: ModelAdapter, *, infilling: bool
) -> SamplerConfig:
    """The settings with the number of new tokens, the block and the end rule decided."""
    longest = max(len(prompt) for prompt in prompts)
    context = model.context
    if infilling:
        if "max_new_tokens" in resolved.given:
            raise InvalidValueError(
                f"infill appends nothing, got max_new_tokens={config.max_new_tokens}; leave it out, or use sample"
            )
        if context is not None and longest > context:
            raise InvalidValueError(f"a canvas must fit the model's context of {context} tokens, got {longest}; shorten it")
        return dataclasses.replace(config, stop_at_eos=bool(config.stop_at_eos))

    new_tokens = config.max_new_tokens
    if new_tokens is None:
        new_tokens = DEFAULT_NEW_TOKENS if context is None else min(DEFAULT_NEW_TOKENS, max(context - longest, 1))
    if context is not None and longest + new_tokens > context:
        raise InvalidValueError(
            f"prompt and new tokens must fit the model's context of {context} tokens, got {longest} + {new_tokens}; "
            "shorten the prompt or lower max_new_tokens"
        )
    block = config.block_length
    if block is not None and "block_length" in resolved.given and new_tokens % block:
        raise InvalidValueError(_block_error(block, new_tokens))
    block = None if block is None else min(block, new_tokens)
    steps = config.steps
    if steps is None and config.steps_per_block is None and config.commits_counts and config.schedule == "even":
        # One token a forward, said in full; a short last block has no such number.
        steps = new_tokens if block is None or new_tokens % block == 0 else None
    stop = config.stop_at_eos
    return dataclasses.replace(
        config,
        max_new_tokens=new_tokens,
        block_length=block,
        steps=steps,
        stop_at_eos=config.eos_token_id is not None if stop is None else stop,
    )


def _block_error(block: int, new_tokens: int) -> str:
    divisors = [d for d in range(1, new_tokens + 1) if new_tokens % d == 0]
    nearest = min(divisors, key=lambda d: (abs(d - block), d))
    lengths = [n for n in (new_tokens // block * block, -(-new_tokens // block) * block) if n]
    return (
        f"block_length must divide max_new_tokens, got {block} and {new_tokens}; use block_length={nearest}, "
        f"or max_new_tokens={' or '.join(map(str, dict.fromkeys(lengths)))}"
    )


def _canvas(prompt: NDArray[np.int64], config: SamplerConfig, *, infilling: bool) -> NDArray[np.int64]:
    if infilling:
        return prompt
    return np.concatenate([prompt, np.full(config.max_new_tokens or 0, config.mask_token_id, dtype=np.int64)])


def _streams(seed: int | Sequence[int], num_samples: int, prompts: int) -> tuple[list[int], list[int]]:
    """Seed and sample index of every row."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, int | np.integer):
        raise InvalidTypeError(f"num_samples must be a whole number, got {num_samples!r}; use 1 for one answer a prompt")
    if num_samples < 1:
        raise InvalidValueError(f"num_samples must be at least 1, got {num_samples}; use 1 for one answer a prompt")
    if isinstance(seed, int | np.integer):
        seeds = [int(seed)] * prompts
    elif isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str):
        seeds = [int(s) for s in seed]
    else:
        raise InvalidTypeError(f"seed must be a whole number, or one for each prompt, got {seed!r}; pass an int")
    if len(seeds) != prompts:
        raise InvalidValueError(f"seed must be one number, or one for each of {prompts} prompts, got {len(seeds)}; check its length")
    for value in seeds:
        if not 0 <= value < 2**64:
            raise InvalidValueError(f"seed must lie in [0, 2^64), got {value}; use a number from 0")
    return [s for s in seeds for _ in range(num_samples)], list(range(num_samples)) * prompts


def _new_tokens(before: NDArray[np.int64], after: NDArray[np.int64], config: SamplerConfig) -> NDArray[np.int64]:
    """What was written, cut after the first end token where that ends the row."""
    written = after[before == config.mask_token_id]
    if config.stop_at_eos:
        ends = np.flatnonzero(np.isin(written, config.eos_token_ids))
        if ends.size:
            return written[: ends[0] + 1]
    return written
