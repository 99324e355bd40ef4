"""Two models in one run: one drafts, the other one reads the drafts causally, and both decide how many of them are written.

A session around that of the model. Each step of a row asks twice: the first request is the model's, whose logits are kept until
the second one, in which the verifier reads what was drafted; what that gives is the mixture of both (APD, 2506.00413).
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast.arrays import logits_matrix
from dllm_fast.errors import InvalidValueError
from dllm_fast.ops.guide import Pair
from dllm_fast.ops.mask_predict import AwaitedPrediction
from dllm_fast.ops.mix import mix
from dllm_fast.runners.forwards import Forwards
from dllm_fast.runners.lines import Lines, as_tensor, beside

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast._core import Request
    from dllm_fast.modules.hold import Hold
    from dllm_fast.runners.runner import Part, Runner, Scored, Session, Task

    Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """The model that verifies, and how much it counts.

    Attributes:
        runner: how it is run.
        weight: share of the model that drafts, from 0 to 1.
        may_differ: the two may have logits of more or fewer ids, which nobody writes.
    """

    runner: Runner
    weight: float
    may_differ: bool = False


def begin(runner: Runner, task: Task, second: Second) -> VerifiedSession:
    """The run of two models.

    Raises:
        InvalidValueError: one of them cannot do what the task says.
    """
    # What a forward predicts within itself would leave no logits to be mixed.
    drafting = runner.begin(dataclasses.replace(task, predictor=None))
    verifying = dataclasses.replace(task, predictor=None, verifies=True, cache="auto", refresh_every=None, shift=False)
    return VerifiedSession(drafting, second.runner.begin(verifying), second, rows=len(task.lengths))


class VerifiedSession:
    """A run whose rows are drafted by one session and verified by another. Both know all rows, by the same numbers."""

    def __init__(self, drafting: Session, verifying: Session, second: Second, *, rows: int) -> None:
        self.forwards = Forwards()
        self._drafting, self._verifying = drafting, verifying
        self._second = second
        self._rows = rows
        self._kept = Lines(rows)  # of rows whose drafts wait to be verified
        self._waiting = 0

    @property
    def policy(self) -> str:
        return self._drafting.policy

    @property
    def is_watched(self) -> bool:
        return self._drafting.is_watched

    @is_watched.setter
    def is_watched(self, value: bool) -> None:
        self._drafting.is_watched = self._verifying.is_watched = value

    def hold(self, hold: Hold) -> None:
        self._drafting.hold(hold)
        self._verifying.hold(hold)

    def end(self) -> str | None:
        self._verifying.end()
        return self._drafting.end()

    def add(self, *, length: int, start: int = 0, prompt: int | None = None) -> int:
        self._rows += 1
        self._verifying.add(length=length, start=start, prompt=prompt)
        return self._drafting.add(length=length, start=start, prompt=prompt)

    def parts(self, request: Request) -> list[Part]:
        looks = request.causal
        counts = np.zeros(self._rows, dtype=np.int64)
        counts[request.rows] = request.counts
        self._waiting = int(looks.sum())
        if not self._waiting:
            self._kept = Lines(self._rows)
        parts: list[Part] = []
        for places, session, scored in (
            (np.flatnonzero(~looks), self._drafting, self._drafted),
            (np.flatnonzero(looks), self._verifying, self._verified),
        ):
            if len(places):
                inside = session.parts(request.with_rows(places, request.rows[places]))
                parts += [(rows, functools.partial(scored, forward, rows, counts[rows])) for rows, forward in inside]
        return parts

    def _drafted(self, forward: Callable[[], Scored], rows: Ints, counts: Ints) -> Scored:
        logits, lines = self._run(forward)
        if self._second.weight < 1:
            matrix = as_tensor(logits_matrix(logits)) if isinstance(logits, np.ndarray) else logits
            scored = np.arange(counts.sum()) if lines is None else lines
            # The forward's own memory may be another forward's next.
            self._kept.add(rows, counts, matrix.index_select(0, beside(scored, matrix)), None)
        return logits, lines

    def _verified(self, forward: Callable[[], Scored], rows: Ints, counts: Ints) -> Scored:
        try:
            found, lines = self._run(forward)
        except Exception as error:
            error.add_note("dllm_fast: that was the verifier's")
            raise
        others = as_tensor(logits_matrix(found)) if isinstance(found, np.ndarray) else found
        logits = self._kept.take(self._kept.of(rows))
        self._waiting -= len(rows)
        if not self._waiting:
            self._kept = Lines(self._rows)
        if others.shape[1] != logits.shape[1] and not self._second.may_differ:
            raise InvalidValueError(
                f"a verifier must know the tokens of the model, got logits with {others.shape[1]} columns for "
                f"{logits.shape[1]}; use one with the same vocabulary"
            )
        at = np.arange(len(logits)) if lines is None else lines
        if others.device != logits.device:
            others, at = others.index_select(0, beside(at, others)).to(logits.device), np.arange(len(at))
        return mix(logits, others, beside(at, logits), self._second.weight), None

    def _run(self, forward: Callable[[], Scored]) -> tuple[Tensor | NDArray[Any], Ints | None]:
        """What a forward of either gives; both count."""
        try:
            logits, lines = forward()
        finally:
            both = self._drafting.forwards, self._verifying.forwards
            self.forwards.count = sum(one.count for one in both)
            self.forwards.replayed = sum(one.replayed for one in both)
            self.forwards.seconds = sum(one.seconds for one in both)
        assert not isinstance(logits, AwaitedPrediction | Pair)
        return logits, lines
