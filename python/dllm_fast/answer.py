"""What a run returns, from what the sampler holds at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dllm_fast.errors import DllmFastError
from dllm_fast.events import CANCELLED, LENGTH, STOP
from dllm_fast.result import Result, Stats
from dllm_fast.runners.guides import PAIR
from dllm_fast.text import prompts as text
from dllm_fast.text import stops, tokens

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from dllm_fast._core import Sampler
    from dllm_fast.prepare import Plan
    from dllm_fast.settings.config import SamplerConfig

    Ints = NDArray[np.int64]
    Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Written:
    """What was written in a row.

    Attributes:
        positions: rising, int64; cut behind what ends a row: an end token, or a stop.
        open: every position that was open at the start, int64.
        is_ended: did anything end it?
        answer: those of `positions` before what ended it, int64.
    """

    positions: Ints
    open: Ints
    is_ended: bool
    answer: Ints

    @classmethod
    def between(cls, before: Flags, after: Flags, canvas: Ints, config: SamplerConfig, ending: Ints) -> Written:
        """What stands in a canvas, from the positions that were open at the start and those that are.

        What ended it is told as by `Sampler.endings`.
        """
        was_open = np.flatnonzero(before)
        positions = was_open[~after[was_open]]  # a row that is cancelled has some left
        first, last = ending.tolist()
        if last >= 0:
            return cls(positions[positions <= last], was_open, True, positions[positions < first])
        # A row that was cancelled: it may hold an end token, before which something is open.
        ends = np.flatnonzero(np.isin(canvas[positions], config.eos_token_ids)) if config.stop_at_eos else was_open[:0]
        if ends.size:
            return cls(positions[: ends[0] + 1], was_open, True, positions[: ends[0]])
        return cls(positions, was_open, False, positions)

    def reason(self, *, is_cancelled: bool) -> str:
        """Why the row is finished."""
        return CANCELLED if is_cancelled else STOP if self.is_ended else LENGTH


def grown(before: Flags, length: int) -> Flags:
    """Which positions an answer has, from those that it had at the start: one run of them, where the length has changed."""
    more = length - len(before)
    if more == 0:
        return before
    first = int(before.argmax())
    return np.concatenate([before[:first], np.ones(int(before.sum()) + more, dtype=np.bool_), before[first:][~before[first:]]])


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took.

    Attributes:
        forwards: calls of the model; one of guided rows counts two.
        replayed: those of them that were replayed from CUDA graphs.
        model_s: seconds in them.
        seconds: all in all.
    """

    forwards: int
    replayed: int
    model_s: float
    seconds: float

    def beside(self, other: Stats) -> Cost:
        """Together with that of another run."""
        model_s = other.model_ms / 1e3
        return Cost(
            self.forwards + other.nfe,
            self.replayed + other.replayed,
            self.model_s + model_s,
            self.seconds + model_s + other.sampler_ms / 1e3,
        )


def answer(
    plan: Plan,
    config: SamplerConfig,
    sampler: Sampler,
    cost: Cost,
    *,
    cancelled: Collection[int],
    stopped: Collection[int],
) -> Result:
    """The result of a run.

    Args:
        plan: what it started from.
        config: the settings as they were used, cache and all.
        sampler: which holds the canvases.
        cost: what it took.
        cancelled: rows that were ended before they were done.
        stopped: rows that a text ended.
    """
    sequences = sampler.canvases
    rows = zip(plan.open, sampler.open, sequences, sampler.endings(np.arange(len(sequences))), strict=True)
    written = [
        Written.between(grown(before, len(canvas)), after, canvas, config, ending) for before, after, canvas, ending in rows
    ]
    trajectory = sampler.trajectory
    # Lengths of gaps are tried before the run.
    tried = plan.tried
    spent = cost if tried is None else cost.beside(tried.stats)
    kinds = [edit.kind for edits in trajectory for edit in edits]
    # What was taken back was not written in the end.
    committed = kinds.count("commit") - kinds.count("remask")
    texts, texts_error = _texts(plan, sequences, written, stopped)
    return Result(
        sequences=sequences,
        new_tokens=[after[row.positions] for after, row in zip(sequences, written, strict=True)],
        texts=texts,
        texts_error=texts_error,
        finish_reasons=[row.reason(is_cancelled=i in cancelled) for i, row in enumerate(written)],
        trajectory=trajectory,
        stats=Stats(
            nfe=spent.forwards,
            nfe_per_row=[
                forwards * (1 if guide is None else PAIR) + (0 if tried is None else tried.tries[prompt])
                for forwards, guide, prompt in zip(sampler.nfe_per_row, plan.guides, plan.prompts, strict=True)
            ],
            tokens_per_forward=committed / spent.forwards if spent.forwards else 0.0,
            replayed=spent.replayed,
            model_ms=spent.model_s * 1e3,
            sampler_ms=(spent.seconds - spent.model_s) * 1e3,
        ),
        config=config,
        seed=plan.seed,
        aliases=plan.aliases,
        gap_lengths=None if tried is None else [list(tried.lengths[prompt]) for prompt in plan.prompts],
    )


def _texts(
    plan: Plan, canvases: list[Ints], written: list[Written], stopped: Collection[int]
) -> tuple[list[str] | None, str | None]:
    """The answers, or the whole canvases, without what ended a row and what was filled in behind it.

    Or why there are none: a tokenizer that fails here must not cost the answer.
    """
    if plan.tokenizer is None:
        return None, None
    found = []
    try:
        special = list(tokens.special_ids(plan.tokenizer))
        for number, (canvas, row) in enumerate(zip(canvases, written, strict=True)):
            answer = row.positions if number in stopped else row.answer
            shown = np.setdiff1d(np.arange(len(canvas)), np.setdiff1d(row.open, answer)) if plan.is_infilling else answer
            whole = text.decode(plan.tokenizer, canvas[shown], np.isin(shown, answer), special)
            if number in stopped:
                early = tokens.decode(plan.tokenizer, canvas[answer[: plan.config.min_new_tokens]].tolist())
                whole = stops.cut(whole, plan.stops, len(early))
            found.append(whole)
    except DllmFastError as error:
        return None, str(error)
    return found, None
