"""`sample` and `infill`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from dllm_fast import prepare
from dllm_fast.errors import InvalidTypeError
from dllm_fast.modules.hold import Settled
from dllm_fast.open import open_runner
from dllm_fast.run import Run
from dllm_fast.settings.resolve import resolve
from dllm_fast.text import prompts as text
from dllm_fast.text import tokens

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from dllm_fast.loading.model import LoadedModel
    from dllm_fast.result import Result
    from dllm_fast.run import OnStep
    from dllm_fast.settings.config import SamplerConfig
    from dllm_fast.settings.keywords import InfillSettings, SamplerSettings
    from dllm_fast.settings.resolve import Resolved

    Model = str | Path | LoadedModel | Callable[[torch.Tensor], Any]
    Prompt = str | Mapping[str, Any] | Sequence[Any] | NDArray[np.int64] | torch.Tensor


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
            with what to use instead. A type checker knows our names alone; it takes others as `**theirs`, a `dict[str, Any]`.

    Raises:
        InvalidValueError, InvalidTypeError: before the first forward wherever that is possible.
        Exception: what the model raises, the same object with a note that says which forward it was.
    """
    rule = functools.partial(resolve, preset, config, settings)
    read = functools.partial(text.prompts, prompt, name="prompt", attention_mask=attention_mask, chat=chat)
    with Settled(), Settled():
        run = _begun(model, read, rule, tokenizer, like, streams=(seed, num_samples), on_step=on_step, infilling=False)
        return run.result()


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
        run = _begun(model, read, rule, tokenizer, like, streams=(seed, num_samples), on_step=on_step, infilling=True)
        return run.result()


def _begun(
    model: Model | None,
    read: Callable[..., list[text.Prompt]],
    rule: Callable[..., Resolved],
    tokenizer: Any,
    like: Model | None,
    *,
    streams: tuple[int | Sequence[int] | None, int],
    on_step: OnStep | None,
    infilling: bool,
) -> Run:
    if on_step is not None and not callable(on_step):
        raise InvalidTypeError(f"on_step must be callable, got {type(on_step).__name__}; pass a function of one event")
    rule()  # what is wrong by itself is refused before a checkpoint is opened
    runner, tokenizer = open_runner(model, tokens.unlimited(tokenizer), like)
    seed, num_samples = streams
    plan = prepare.plan(runner, tokenizer, rule(runner.info), read, seed=seed, num_samples=num_samples, is_infilling=infilling)
    return Run(plan, on_step=on_step)
