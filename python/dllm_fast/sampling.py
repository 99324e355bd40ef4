"""`sample` and `infill`: the loop between a model and the sampler."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from dllm_fast import _core, prepare
from dllm_fast.errors import DllmFastError, InvalidTypeError
from dllm_fast.modules.hold import Settled
from dllm_fast.open import open_runner
from dllm_fast.result import Result, Stats, StepEvent
from dllm_fast.runners.predictor import Predictor
from dllm_fast.runners.runner import Task
from dllm_fast.settings.resolve import resolve
from dllm_fast.text import prompts as text
from dllm_fast.text import tokens

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from dllm_fast.loading.model import LoadedModel
    from dllm_fast.runners.runner import Runner
    from dllm_fast.settings.config import SamplerConfig
    from dllm_fast.settings.keywords import InfillSettings, SamplerSettings
    from dllm_fast.settings.resolve import Resolved

    Model = str | Path | LoadedModel | Callable[[torch.Tensor], Any]
    Prompt = str | Mapping[str, Any] | Sequence[Any] | NDArray[np.int64] | torch.Tensor
    OnStep = Callable[[StepEvent], object]


def sample(
    model: Model | None,
    prompt: Prompt,
    *,
    preset: str | None = None,
    config: SamplerConfig | None = None,
    tokenizer: Any = None,
    attention_mask: Any = None,
    chat: bool | None = None,
    seed: int | Sequence[int] | None = 0,
    num_samples: int = 1,
    on_step: OnStep | None = None,
    like: Model | None = None,
    **settings: Unpack[SamplerSettings],
) -> Result:
    """Appends `max_new_tokens` masks to each prompt and fills them.

    What a tokenizer adds at the end of a text (`[SEP]`, `</s>`) stands behind the masks. Ids are taken as they are.
    Which tokens are padding or special is known from a tokenizer alone: a model in memory without `tokenizer=` may write any
    token but the mask, also that of its own `config.pad_token_id`, and ids for it are not looked at for padding.

    A row's tokens depend on its prompt, its seed, its sample index and the settings, never on the other rows, its place
    among them or the number of threads (as far as the model's own logits do not).

    Args:
        model: a folder or hub id in Hugging Face format, what `dllm_fast.load` made of one, a transformers model, or any torch
            module or callable that takes ids `[B, L]` (int64 tensor) and returns logits `[B, L, V]` (tensor, NumPy array, or
            an object with `.logits`); None for the embedded one. `dllm_fast.explain(model)` says how it will be run.
        prompt: a string or messages (both need a tokenizer), a sequence of ids, or a list of those of any lengths (lists,
            arrays, tensors; a 2-D tensor is rows); or what a tokenizer of transformers gives.
        preset: a name of `dllm_fast.presets()`.
        config: a `SamplerConfig` instead of a preset.
        tokenizer: from `tokenizers` or transformers; default: the checkpoint's own.
        attention_mask: for padded ids, of their shape: 0 where there is padding, at either end. It is left out, also of the
            result; rows of any lengths need none.
        chat: True gives a string to the chat template as a user's message; by default it is taken as it is. Messages always go
            through the template; where the last is the assistant's, the answer continues it.
        seed: from 0 below 2^64, one for all prompts or one for each; None draws one, which `Result.seed` tells.
        num_samples: answers per prompt; they differ where the temperature is above 0 or the order is random, and a warning
            says where nothing is drawn.
        on_step: called with a `StepEvent` after every step.
        like: for a plain function around a model of transformers, one that `dllm_fast.load` opened, or that of a folder or hub
            id: that model. The function is run, on a few tokens first; shift, blocks, ids, end tokens, recommended rule and
            tokenizer are those of the model. Of a function without it nothing is known.
        settings: single settings over the preset, as in `SamplerConfig`; the names of LLaDA, Dream, Fast-dLLM, SDAR, dInfer,
            Diffusers, transformers and vLLM are understood (`gen_length`, `remasking`, `num_inference_steps`, ...) or answered
            with what to use instead.

    Raises:
        InvalidValueError, InvalidTypeError: before the first forward wherever that is possible.
        Exception: what the model raises, the same object with a note that says which forward it was.
    """
    rule = functools.partial(resolve, preset, config, settings)
    read = functools.partial(text.prompts, prompt, name="prompt", attention_mask=attention_mask, chat=chat)
    with Settled(), Settled():
        return _run(model, read, rule, tokenizer, like, streams=(seed, num_samples), on_step=on_step, infilling=False)


def infill(
    model: Model | None,
    canvas: Prompt,
    *,
    preset: str | None = None,
    config: SamplerConfig | None = None,
    tokenizer: Any = None,
    attention_mask: Any = None,
    seed: int | Sequence[int] | None = 0,
    num_samples: int = 1,
    on_step: OnStep | None = None,
    like: Model | None = None,
    **settings: Unpack[InfillSettings],
) -> Result:
    """Fills exactly the mask tokens of each canvas and appends nothing. Blocks are counted from position 0.

    Arguments and errors are those of `sample`, without `max_new_tokens` and `chat`.
    In a text each [MASK] is one mask, however the tokenizer spells its own; a space before it belongs to the token that fills
    it where words carry the space before them. A canvas of ids without masks comes back
    unchanged after zero forwards; text without any is refused.
    """
    rule = functools.partial(resolve, preset, config, settings, lacking=("chat", "max_new_tokens"))
    read = functools.partial(text.prompts, canvas, name="canvas", attention_mask=attention_mask)
    with Settled(), Settled():
        return _run(model, read, rule, tokenizer, like, streams=(seed, num_samples), on_step=on_step, infilling=True)


def _run(
    model: Model | None,
    read: Callable[..., list[text.Prompt]],
    rule: Callable[..., Resolved],
    tokenizer: Any,
    like: Model | None,
    *,
    streams: tuple[int | Sequence[int] | None, int],
    on_step: OnStep | None,
    infilling: bool,
    predict: Callable[[SamplerConfig, tuple[int, ...], Any, int | None], Predictor] | None = None,
) -> Result:
    if on_step is not None and not callable(on_step):
        raise InvalidTypeError(f"on_step must be callable, got {type(on_step).__name__}; pass a function of one event")
    rule()  # what is wrong by itself is refused before a checkpoint is opened
    runner, tokenizer = open_runner(model, tokens.unlimited(tokenizer), like)
    resolved = rule(runner.info)
    config = prepare.with_ids(resolved.config, runner, tokenizer)
    config, special = prepare.with_suppressed(config, runner, tokenizer)
    prompts = read(tokenizer=tokenizer, mask=config.mask_token_id if infilling else None)
    config = prepare.with_blocks(config, resolved, runner)
    prepare.check_ids(prompts, config, runner, special, infilling=infilling)
    config = prepare.with_length(config, resolved, prompts, runner, infilling=infilling)
    seed = prepare.plain_seed(streams[0])
    seeds, requests = prepare.streams(seed, streams[1], len(prompts))
    num_samples = len(seeds) // len(prompts)
    prepare.check_samples(num_samples, config)
    prepare.check_size(prompts, config, num_samples, infilling=infilling)
    canvases = [prepare.canvas_of(prompt, config, infilling=infilling) for prompt in prompts for _ in range(num_samples)]
    starts = [0 if infilling else len(prompt.ids) for prompt in prompts for _ in range(num_samples)]
    assert config.mask_token_id is not None
    used = dataclasses.replace(config, suppress_tokens=(*config.suppress_tokens, *special))
    predictor = Predictor(used, special) if predict is None else predict(used, special, tokenizer, runner.vocabulary)
    policy = runner.begin(
        Task(
            lengths=[len(canvas) for canvas in canvases],
            starts=starts,
            prompts=[prompt for prompt in range(len(prompts)) for _ in range(num_samples)],
            mask_token_id=config.mask_token_id,
            eos_token_ids=config.eos_token_ids,
            cache=config.cache,
            refresh_every=config.refresh_every,
            max_rows=config.max_batch_rows,
            predictor=predictor,
            is_watched=on_step is not None,
        )
    )
    config = dataclasses.replace(config, cache=policy)

    # The blocks of a block-causal model lie at multiples of their length, those of a rule behind the prompt.
    absolute = runner.info is not None and runner.info.attention == "block_causal"
    sampler = _core.Sampler(
        used,
        canvases,
        seed=seeds,
        request=requests,
        block_start=0 if absolute else starts,
        score_all=on_step is not None,
        max_rows=config.max_batch_rows,
    )
    predictor.attach(sampler)
    began = time.perf_counter()
    with runner.inference():
        watching = _drive(sampler, runner, predictor, config, on_step)
    total = time.perf_counter() - began - watching

    sequences = sampler.canvases
    written = [_written(before, after, config) for before, after in zip(canvases, sequences, strict=True)]
    trajectory = sampler.trajectory
    committed = sum(edit.kind == "commit" for edits in trajectory for edit in edits)
    texts, texts_error = _texts(tokenizer, sequences, written, infilling=infilling)
    return Result(
        sequences=sequences,
        new_tokens=[after[row.positions] for after, row in zip(sequences, written, strict=True)],
        texts=texts,
        texts_error=texts_error,
        trajectory=trajectory,
        stats=Stats(
            nfe=runner.forwards,
            nfe_per_row=sampler.nfe_per_row,
            tokens_per_forward=committed / runner.forwards if runner.forwards else 0.0,
            replayed=runner.replayed,
            model_ms=runner.seconds * 1e3,
            sampler_ms=(total - runner.seconds) * 1e3,
        ),
        config=config,
        seed=seed,
        aliases=resolved.aliases,
    )


def _drive(sampler: _core.Sampler, model: Runner, predict: Predictor, config: SamplerConfig, on_step: OnStep | None) -> float:
    """Runs the model and the sampler in turn until every row is finished. Returns the seconds spent in `on_step`."""
    watching = 0.0
    while (request := sampler.next()) is not None:
        predictions = []
        for rows, forward in model.parts(request, shift=config.shift):
            logits, lines = forward()
            prediction = predict(logits, rows, lines)
            sampler.feed(prediction=prediction, rows=rows)
            predictions.append((rows, prediction))
            # They would live on while the next forward makes new ones.
            del logits
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
    guesses: dict[int, NDArray[np.int64]] = {}
    rows = request.rows.tolist()
    scored = dict(zip(rows, request.positions, strict=True))
    for group, prediction in predictions:
        ends = np.cumsum([len(scored[row]) for row in group.tolist()])
        guesses.update(zip(group.tolist(), np.split(prediction.token, ends[:-1]), strict=True))
    written = {row: np.flatnonzero(old != canvases[row]) for row, old in zip(rows, request.canvases, strict=True)}
    masked = {row: canvases[row][scored[row]] == config.mask_token_id for row in rows}
    return StepEvent(
        step=request.step,
        rows=request.rows,
        positions=[written[row] for row in rows],
        tokens=[canvases[row][written[row]] for row in rows],
        guess_positions=[scored[row][masked[row]] for row in rows],
        guess_tokens=[guesses[row][masked[row]] for row in rows],
        canvases=[canvases[row] for row in rows],
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Written:
    """What was written in a row.

    Attributes:
        positions: rising, int64; cut behind the end token where that ended the row.
        masks: every position that was a mask, int64.
        is_ended: is the last of `positions` the end token that ended the row?
    """

    positions: NDArray[np.int64]
    masks: NDArray[np.int64]
    is_ended: bool


def _written(before: NDArray[np.int64], after: NDArray[np.int64], config: SamplerConfig) -> _Written:
    masks = np.flatnonzero(before == config.mask_token_id)
    ends = np.flatnonzero(np.isin(after[masks], config.eos_token_ids)) if config.stop_at_eos else masks[:0]
    return _Written(masks[: ends[0] + 1] if ends.size else masks, masks, bool(ends.size))


def _texts(
    tokenizer: Any, canvases: list[NDArray[np.int64]], written: list[_Written], *, infilling: bool
) -> tuple[list[str] | None, str | None]:
    """The answers, or the whole canvases, without the end token that ended a row and what was filled in behind it.

    Or why there are none: a tokenizer that fails here must not cost the answer.
    """
    if tokenizer is None:
        return None, None
    found = []
    try:
        special = list(tokens.special_ids(tokenizer))
        for canvas, row in zip(canvases, written, strict=True):
            answer = row.positions[:-1] if row.is_ended else row.positions
            shown = np.setdiff1d(np.arange(len(canvas)), np.setdiff1d(row.masks, answer)) if infilling else answer
            found.append(text.decode(tokenizer, canvas[shown], np.isin(shown, answer), special))
    except DllmFastError as error:
        return None, str(error)
    return found, None
