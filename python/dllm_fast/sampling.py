"""`sample`, `infill` and `stream`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from dllm_fast import prepare, verifiers
from dllm_fast.calls import check_call
from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown
from dllm_fast.gaps import Lengths
from dllm_fast.modules.hold import Settled
from dllm_fast.open import open_runner
from dllm_fast.orders import is_ranks
from dllm_fast.records import scalar
from dllm_fast.run import Run
from dllm_fast.settings.resolve import resolve, unknown
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
    from dllm_fast.settings.keywords import After, InfillSettings, SamplerSettings

    Model = str | Path | LoadedModel | Callable[[torch.Tensor], Any]
    Gaps = Sequence[tuple[int, int, int]]
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
    negative_prompt: Prompt | None = None,
    seed: int | Sequence[int] | None = 0,
    num_samples: int = 1,
    on_step: OnStep | None = None,
    guesses: bool = False,
    like: Model | None = None,
    eligible_after: After | Sequence[After | None] | None = None,
    verifier: Model | None = None,
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
            an object with `.logits`); None for the embedded one. `dllm_fast.explain(model)` says how it will be run. One that
            takes `shadow=` can be asked again, for `remask="verify"`: of positions `[B, W]` (-1 for padding) it returns, behind
            the logits of the canvas, `[B, L + W, V]`, what it would say there if it saw all but the token that stands there.
        prompt: a string or messages (both need a tokenizer), a sequence of ids, or a list of those of any lengths (lists,
            arrays, tensors; a 2-D tensor is rows); or what a tokenizer of transformers gives.
        preset: a name of `dllm_fast.presets()`.
        config: a `SamplerConfig` instead of a preset.
        tokenizer: from `tokenizers` or transformers; default: the checkpoint's own.
        attention_mask: for padded ids, of their shape: 0 where there is padding, at either end. It is left out, also of the
            result; rows of any lengths need none.
        chat: True gives a string to the chat template as a user's message; by default it is taken as it is. Messages always go
            through the template; where the last is the assistant's, the answer continues it.
        negative_prompt: under `guidance`, what stands in place of the prompt in the forward that it leads away from: one for
            all prompts, or one for each, given as prompts are, of any length. Default: masks, as many as the prompt has tokens.
            Ids may hold masks, where nothing is told.
        seed: from 0 below 2^64, one for all prompts or one for each; None draws one, which `Result.seed` tells.
        num_samples: answers per prompt; they differ where the temperature is above 0 or the order is random, and a warning
            says where nothing is drawn.
        on_step: called with a `StepEvent` after every step. Where it returns False the run ends: rows that are not done are
            cancelled, and the result has what there is. (Anything else that it returns is nothing.)
        guesses: `on_step` is also told what the model would write at the masks that are left; see `stream`.
        like: for a plain function around a model of transformers, one that `dllm_fast.load` opened, or that of a folder or hub
            id: that model. The function is run, on a few tokens first; shift, blocks, ids, end tokens, recommended rule and
            tokenizer are those of the model. Of a function without it nothing is known.
        eligible_after: positions, and for each those that must be written before it, as `{4: [2, 3]}`; one mapping for all
            prompts, or one (or None) for each. They are counted from the first new one (by `infill` from the beginning of the
            canvas), and whoever is waited for lies in the same block or an earlier one.
        verifier: under `verifier_mixture` (preset `apd`), the second model: a causal language model of transformers, any module
            or callable from ids `[B, L]` to logits `[B, L, V]` whose line i depends on ids 0 to i and predicts i + 1; or what
            `dllm_fast.load(folder, attention="causal_context", block_length=1)` makes of a causal Llama or Qwen, or that
            folder or hub id. Both must have one vocabulary; what only one of them has, and no tokenizer, is never written.
        settings: single settings over the preset, as in `SamplerConfig`; the names of LLaDA, Dream, Fast-dLLM, SDAR, dInfer,
            Diffusers, transformers and vLLM are understood (`gen_length`, `remasking`, `num_inference_steps`, ...) or answered
            with what to use instead. A type checker knows our names alone; it takes others as `**theirs`, a `dict[str, Any]`.
            `order` may also be an array of ranks, one for each new position (by `infill` one for each of the canvas, of which
            only the masks count): the lowest is written first, ties from the left. One array for all prompts, or one for each.

    Raises:
        InvalidValueError, InvalidTypeError: before the first forward wherever that is possible.
        Exception: what the model raises, the same object with a note that says which forward it was.
    """
    _check_guesses(guesses, on_step)
    return stream(
        model,
        prompt,
        preset=preset,
        config=config,
        tokenizer=tokenizer,
        attention_mask=attention_mask,
        chat=chat,
        negative_prompt=negative_prompt,
        seed=seed,
        num_samples=num_samples,
        on_step=on_step,
        guesses=guesses,
        like=like,
        eligible_after=eligible_after,
        verifier=verifier,
        **settings,
    ).result()


def infill(
    model: Model | None,
    canvas: Prompt,
    *,
    gaps: Gaps | Sequence[Gaps] | None = None,
    preset: str | None = None,
    config: SamplerConfig | None = None,
    tokenizer: Any = None,
    attention_mask: Any = None,
    open: Any = None,
    seed: int | Sequence[int] | None = 0,
    num_samples: int = 1,
    on_step: OnStep | None = None,
    guesses: bool = False,
    like: Model | None = None,
    eligible_after: After | Sequence[After | None] | None = None,
    verifier: Model | None = None,
    **settings: Unpack[InfillSettings],
) -> Result:
    """Fills exactly the mask tokens of each canvas and appends nothing. Blocks are counted from position 0.

    Arguments and errors are those of `sample`, without `max_new_tokens` and `chat`. `open`, for models without a mask: True for
    each position that is written, whatever stands there; an array as long as the canvas, or one for each.
    In a text each [MASK] is one mask, however the tokenizer spells its own; a space before it belongs to the token that fills
    it where words carry the space before them. A canvas of ids without masks comes back
    unchanged after zero forwards; text without any is refused.

    A gap whose length nobody knows is written [MASK:3-10] in a text (3 to 10 tokens), or given beside ids as
    `gaps=[(position, least, most)]`, before the token at its position; for several canvases a list of them for each. All
    lengths are tried first, each as a row of its own, and the one is filled that fits best: by the mean log-probability of the
    gap and of up to 8 tokens right of it. `Result.gap_lengths` tells it, and the forwards are counted. Several gaps of a canvas
    are tried in all combinations, at most 256.
    """
    _check_guesses(guesses, on_step)
    return stream(
        model,
        canvas=canvas,
        gaps=gaps,
        preset=preset,
        config=config,
        tokenizer=tokenizer,
        attention_mask=attention_mask,
        open=open,
        seed=seed,
        num_samples=num_samples,
        on_step=on_step,
        guesses=guesses,
        like=like,
        eligible_after=eligible_after,
        verifier=verifier,
        **settings,
    ).result()


def stream(
    model: Model | None,
    prompt: Prompt | None = None,
    *,
    canvas: Prompt | None = None,
    gaps: Gaps | Sequence[Gaps] | None = None,
    preset: str | None = None,
    config: SamplerConfig | None = None,
    tokenizer: Any = None,
    attention_mask: Any = None,
    open: Any = None,
    chat: bool | None = None,
    negative_prompt: Prompt | None = None,
    seed: int | Sequence[int] | None = 0,
    num_samples: int = 1,
    on_step: OnStep | None = None,
    guesses: bool = False,
    like: Model | None = None,
    eligible_after: After | Sequence[After | None] | None = None,
    verifier: Model | None = None,
    **settings: Unpack[SamplerSettings],
) -> Run:
    """Begins what `sample` (of a prompt) or `infill` (of a canvas) does, to be carried out step by step.

        with dllm_fast.stream(model, prompt) as run:
            for event in run:
                print(event.stable_prefix)
        result = run.result()

    Args:
        model, prompt, canvas, preset, config, tokenizer, attention_mask, open, chat, negative_prompt, seed, num_samples,
            on_step, like, eligible_after, verifier, gaps, settings: as `sample` and `infill` take them; a prompt or a canvas.
        guesses: events also tell what the model would write at the masks that are left in the block. All of them are scored in
            every step then, also where the rule looks at fewer, which takes longer; no token is another.

    Returns:
        A `Run`: no forward was made yet, but for those that try the lengths of gaps, and nothing of the model is changed before
        its first step.

    Raises:
        InvalidValueError, InvalidTypeError: everything that `sample` and `infill` refuse before their first forward.
    """
    if (prompt is None) == (canvas is None):
        found = "NoneType for both" if prompt is None else "both"
        raise InvalidTypeError(
            f"either a prompt or a canvas is needed, got {found}; pass prompt= to append to it, or canvas= to fill its masks"
        )
    if canvas is not None and chat is not None:
        raise InvalidValueError(unknown("chat", chat))
    if canvas is not None and negative_prompt is not None:
        raise InvalidValueError(
            f"negative_prompt stands in place of a prompt, got {shown(negative_prompt)} beside a canvas, whose given tokens "
            "guidance shows as masks; leave it out"
        )
    if canvas is None and open is not None:
        raise InvalidValueError(
            f"open says which positions of a canvas are written, got {shown(open)} beside a prompt; leave it out"
        )
    if canvas is None and gaps is not None:
        raise InvalidValueError(f"gaps are those of a canvas, got {shown(gaps)} beside a prompt; leave them out, or use infill")
    if on_step is not None and not callable(on_step):
        raise InvalidTypeError(f"on_step must be callable, got {type(on_step).__name__}; pass a function of one event")
    wants_guesses = _flag(guesses)
    given, name = (prompt, "prompt") if canvas is None else (canvas, "canvas")
    read = functools.partial(text.prompts, given, name=name, attention_mask=attention_mask, chat=chat)
    # Ids and messages are what they are, whatever becomes of a text.
    templated = chat if text.is_text(negative_prompt) else None
    negative = functools.partial(text.prompts, negative_prompt, name="negative_prompt", chat=templated)
    lacking = () if canvas is None else ("chat", "max_new_tokens")
    ranks = settings.get("order")
    if not is_ranks(ranks):
        ranks = None
    else:
        settings["order"] = "ranks"
    rule = functools.partial(resolve, preset, config, settings, lacking=lacking)
    with Settled(), Settled():
        # What is wrong by itself is refused before a checkpoint is opened.
        check_call(
            rule(),
            seed=seed,
            num_samples=num_samples,
            is_infilling=canvas is not None,
            has_ranks=ranks is not None,
            has_negative=negative_prompt is not None,
            verifier=verifier,
        )
        runner, tokenizer = open_runner(model, tokens.unlimited(tokenizer), like)
        other = verifiers.open_verifier(verifier)
        lengths = Lengths(read, gaps, is_ordered=ranks is not None or eligible_after is not None)
        planned = functools.partial(
            prepare.plan,
            runner,
            tokenizer,
            rule(runner.info),
            lengths,
            seed=seed,
            num_samples=num_samples,
            is_infilling=canvas is not None,
            ranks=ranks,
            eligible_after=eligible_after,
            verifier=other,
            negative=None if negative_prompt is None else negative,
            open_=open,
        )
        plan = planned()
        if lengths.are_gaps:
            tried = lengths.choose(runner, plan)
            plan = dataclasses.replace(planned(), tried=tried)
        return Run(plan, runner, on_step=on_step, guesses=wants_guesses)


def _flag(guesses: object) -> bool:
    value = scalar(guesses)
    if isinstance(value, bool):
        return value
    raise InvalidTypeError(f"guesses must be True or False, got {shown(guesses)}; leave it out")


def _check_guesses(guesses: bool, on_step: OnStep | None) -> None:
    """Refuses guesses that nobody is told."""
    if on_step is None and _flag(guesses):
        raise InvalidValueError("guesses are told to on_step, got guesses=True without it; pass on_step=, or leave it out")
