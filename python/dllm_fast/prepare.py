"""From what the caller gives to the plan of a run: special tokens, lengths, canvases, random streams.

Everything that can be refused is refused here, before the first forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast.calls import check_call
from dllm_fast.errors import InvalidValueError
from dllm_fast.lengths import check_growing, check_size, is_absolute, with_blocks, with_length
from dllm_fast.open_positions import open_of, opened
from dllm_fast.orders import moved, ranks_of, shifted, waits_of
from dllm_fast.runners.guides import PAIR, guides, negatives_of
from dllm_fast.seeds import check_samples, plain_seed, streams
from dllm_fast.settings.config import changed
from dllm_fast.special_ids import check_ids, check_ids_in, with_ids, with_suppressed
from dllm_fast.verifiers import second

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast.result import Stats
    from dllm_fast.runners.guides import Guide
    from dllm_fast.runners.runner import Runner
    from dllm_fast.runners.verified import Second
    from dllm_fast.settings.config import SamplerConfig
    from dllm_fast.settings.resolve import Resolved
    from dllm_fast.text.prompts import Prompt
    from dllm_fast.verifiers import Verifier


@dataclass(frozen=True, slots=True)
class Tried:
    """How the lengths of gaps were chosen.

    Attributes:
        lengths: of the gaps of each canvas.
        scores: of the lengths of each canvas, the mean of logarithms of probabilities; 0 where there was nothing to choose.
        tries: combinations that were tried for each canvas, each a row of its own.
        stats: of all of them.
    """

    lengths: list[list[int]]
    scores: list[float]
    tries: list[int]
    stats: Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that a run starts from. Lists have an entry for each row, prompt-major.

    Attributes:
        tokenizer: for the texts of the answer, or None.
        config: the settings as they are used, each with its source.
        rule: the settings that decide: with everything that is suppressed.
        special: tokens that the tokenizer says are special, suppressed beside those of the settings.
        canvases: what is filled, int64.
        open: which positions of each are written, bool.
        starts: first position that `sample` appended; 0 for `infill`.
        block_starts: from where blocks are counted: `starts`, but the beginning of the canvas for a block-causal model.
        ranks: of each position of a canvas, where the caller gave an order.
        waits: pairs of a position and those that must be written before it, where the caller gave some.
        prompts: number of the prompt.
        guides: how it is guided, or None.
        seeds, requests: the random stream.
        seed: as it was given, or drawn.
        aliases: names of peers that the caller typed.
        is_infilling: nothing was appended.
        tried: the lengths of gaps, and what it took to choose them, where there are some.
        second: the model that verifies, where one does.
    """

    tokenizer: Any
    config: SamplerConfig
    rule: SamplerConfig
    special: tuple[int, ...]
    canvases: list[NDArray[np.int64]]
    open: list[NDArray[np.bool_]]
    starts: list[int]
    block_starts: list[int]
    ranks: list[NDArray[np.float64]] | None
    waits: list[dict[int, list[int]]] | None
    prompts: list[int]
    guides: list[Guide | None]
    seeds: list[int]
    requests: list[int]
    seed: int | list[int]
    aliases: dict[str, str]
    is_infilling: bool
    tried: Tried | None = None
    second: Second | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return self.config.stop_texts

    @property
    def longest(self) -> list[int]:
        """Positions that each canvas may come to have."""
        first, most = self.config.initial_length, self.config.max_new_tokens
        more = 0 if first is None or most is None else most - first
        return [len(canvas) + more for canvas in self.canvases]

    @property
    def max_rows(self) -> int | None:
        """Rows of the run in a forward at most, beside their twins."""
        most = self.config.max_batch_rows
        return most if most is None or not any(self.guides) else most // PAIR


def plan(
    runner: Runner,
    tokenizer: Any,
    resolved: Resolved,
    read: Callable[..., list[Prompt]],
    *,
    seed: int | Sequence[int] | None,
    num_samples: int,
    is_infilling: bool,
    ranks: object = None,
    eligible_after: object = None,
    negative: Callable[..., list[Prompt]] | None = None,
    open_: object = None,
    verifier: Verifier | None = None,
) -> Plan:
    """What a run starts from.

    Args:
        runner: how the model is run.
        tokenizer: of the caller or the checkpoint, or None.
        resolved: the settings as far as they are known without prompts.
        read: makes prompts of what the caller gave, once the tokenizer and, to fill in, the mask are known.
        seed, num_samples: as `sample` takes them.
        is_infilling: fill the masks that are there and append nothing.
        ranks, eligible_after: what the caller wants of the order of the positions, or None.
        negative: as `read`, of what guidance leads away from; None for the prompt in masks.
        open_: which positions of each canvas are written, where no mask says it.
        verifier: the second model, or None.

    Raises:
        InvalidValueError, InvalidTypeError: what cannot work.
    """
    check_call(
        resolved,
        seed=seed,
        num_samples=num_samples,
        is_infilling=is_infilling,
        has_ranks=ranks is not None,
        has_negative=negative is not None,
        verifier=verifier,
    )
    if resolved.config.stop_texts and tokenizer is None:
        raise InvalidValueError(
            f"a stop of text needs a tokenizer, got {resolved.config.stop_texts[0][:40]!r} and none; pass tokenizer=, or token "
            "ids"
        )
    check_growing(resolved.config, runner)
    told = with_ids(resolved.config, runner, tokenizer)
    named, special = with_suppressed(told, runner, tokenizer)
    prompts = read(tokenizer=tokenizer, mask=named.mask_token_id if is_infilling else None)
    blocked = with_blocks(named, resolved, runner)
    check_ids(prompts, blocked, runner, special, infilling=is_infilling)
    negatives = None if negative is None else _negatives(negative(tokenizer=tokenizer), len(prompts), runner)
    config = with_length(blocked, resolved, prompts, runner, infilling=is_infilling, negatives=negatives)
    flags = opened(open_, prompts, blocked, infilling=is_infilling)
    plain = plain_seed(seed)
    seeds, requests = streams(plain, num_samples, len(prompts))
    each = len(seeds) // len(prompts)
    check_samples(each, config)
    check_size(prompts, config, each, infilling=is_infilling, negatives=negatives)
    of_rows = [number for number in range(len(prompts)) for _ in range(each)]
    starts = [0 if is_infilling else len(prompts[number].ids) for number in of_rows]
    canvases = [canvas_of(prompts[number], config, infilling=is_infilling) for number in of_rows]
    ranked, waits = row_orders(ranks, eligible_after, prompts, config, infilling=is_infilling)
    is_open = [
        open_of(canvas, prompts[number], config, flags[number]) for canvas, number in zip(canvases, of_rows, strict=True)
    ]
    if config.verify and any(positions[0] for positions in is_open):
        raise InvalidValueError(
            "verify goes on from what is given, got a canvas whose first token is open; set verify to False, or give it"
        )
    other, unknown = second(verifier, config, runner, tokenizer, canvases)
    return Plan(
        tokenizer=tokenizer,
        config=config,
        rule=changed(
            config,
            suppress_tokens=(*config.suppress_tokens, *special, *unknown),
            stop=tuple(one for one in config.stop if not isinstance(one, str)),
        ),
        special=special,
        canvases=canvases,
        open=is_open,
        starts=starts,
        block_starts=[0] * len(starts) if is_absolute(runner) else starts,
        ranks=None if ranked is None else [ranked[number] for number in of_rows],
        waits=None if waits is None else [waits[number] for number in of_rows],
        prompts=of_rows,
        guides=guides(config, is_open, starts, None if negatives is None else [negatives[number] for number in of_rows]),
        seeds=seeds,
        requests=requests,
        seed=plain,
        aliases=resolved.aliases,
        is_infilling=is_infilling,
        second=other,
    )


def _negatives(given: list[Prompt], prompts: int, model: Runner) -> list[Prompt]:
    """The negative prompt of each prompt. It may hold masks, where nothing is told.

    Raises:
        InvalidValueError: not one for each prompt, or ids outside the vocabulary.
    """
    for row, prompt in enumerate(given):
        check_ids_in(prompt.ids, model, "negative_prompt", row)
    return negatives_of(given, prompts)


def canvas_of(prompt: Prompt, config: SamplerConfig, *, infilling: bool) -> NDArray[np.int64]:
    """The canvas that is filled: the prompt, its masks and what closes a text, or what `infill` was given."""
    if infilling:
        return prompt.ids.copy()  # they may be the caller's, who may write into them while the model runs
    shown = 0 if config.mask_token_id is None else config.mask_token_id  # noise covers it
    count = (config.max_new_tokens if config.length == "fixed" else config.initial_length) or 0
    return np.concatenate([prompt.ids, np.full(count, shown, dtype=np.int64), prompt.tail])


def row_orders(
    ranks: object, eligible_after: object, prompts: list[Prompt], config: SamplerConfig, *, infilling: bool
) -> tuple[list[NDArray[np.float64]] | None, list[dict[int, list[int]]] | None]:
    """For each prompt the ranks of its canvas, and positions of it that wait for others; None where the caller gave none."""
    new = config.max_new_tokens or 0
    ranked = None if ranks is None else ranks_of(ranks, len(prompts))
    waits = None if eligible_after is None else waits_of(eligible_after, len(prompts))
    if not infilling:
        places = [(len(prompt.ids), len(prompt.ids) + new + len(prompt.tail)) for prompt in prompts]
        if ranked is not None:
            ranked = [moved(row, start, new, length) for row, (start, length) in zip(ranked, places, strict=True)]
        if waits is not None:
            waits = [shifted(row, start, new) for row, (start, _) in zip(waits, places, strict=True)]
    return ranked, None if waits is None else [dict(row) for row in waits]
