"""Guidance, around a session of any runner: each guided row has a twin beside it in the same forward.

The session inside knows nothing of it. It has rows of its own, a row and its twin one behind the other, with caches, slots and
places of their own; what it says of both becomes the logits of the row.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast.arrays import logits_matrix
from dllm_fast.errors import InvalidValueError
from dllm_fast.ops import guide
from dllm_fast.ops.mask_predict import AwaitedPrediction
from dllm_fast.runners.forwards import Forwards
from dllm_fast.runners.guides import PAIR
from dllm_fast.runners.lines import Lines, as_tensor, beside, ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast._core import Request, Twin
    from dllm_fast.modules.hold import Hold
    from dllm_fast.runners.guides import Guide
    from dllm_fast.runners.runner import Part, Runner, Scored, Session, Task

    Ints = NDArray[np.int64]


def begin(runner: Runner, task: Task, guides: Sequence[Guide | None]) -> Session:
    """The run of a model, some of whose rows are guided; the runner's own where none is.

    Raises:
        InvalidValueError: the model cannot do what the task says, or takes no other number of rows than the caller's.
    """
    return GuidedSession(runner, task, guides) if any(guides) else runner.begin(task)


class GuidedSession:
    """A run whose rows may be guided, each by a weight of its own, beside others that are not.

    Steps are not predicted within a forward: what it gives is half of what decides. So none is begun ahead, and none is a turn
    of a loop on the device; graphs of forwards are replayed.

    Args:
        runner: of the model.
        task: what the run will ask; `max_rows` counts twins, too.
        guides: of each row, or None.

    Raises:
        InvalidValueError: as `begin`.
    """

    def __init__(self, runner: Runner, task: Task, guides: Sequence[Guide | None]) -> None:
        self.forwards = Forwards()
        self._guides = list(guides)
        # Of each row: has it a twin, what is its number inside (that of the twin is the next one), how is it mixed?
        self._is_guided = np.array([guide is not None for guide in guides], dtype=np.bool_)
        self._own = np.cumsum(1 + self._is_guided) - (1 + self._is_guided)
        self._scales = np.array([_scale(guide) for guide in guides], dtype=np.float32)
        self._rounds = np.array([guide is not None and guide.as_published for guide in guides], dtype=np.bool_)
        self._leads = np.array([guide is not None and guide.leads_posteriors for guide in guides], dtype=np.bool_)
        self._count = len(guides) + int(self._is_guided.sum())
        self._is_first = np.zeros(self._count, dtype=np.bool_)  # of each number inside: is it that of a row with a twin?
        self._is_first[self._own] = self._is_guided
        self._last: tuple[bytes, _Beside] | None = None
        lengths: list[int] = []
        starts: list[int] = []
        prompts: list[int] = []
        for length, start, prompt, guide_of in zip(task.lengths, task.starts, task.prompts, guides, strict=True):
            moves = _moves(guide_of)
            lengths += [length + by for by in moves]
            starts += [start + by for by in moves]
            prompts += [PAIR * prompt + side for side in range(len(moves))]
        _check_rows(runner, self._count, len(guides))
        inside = dataclasses.replace(task, lengths=lengths, starts=starts, prompts=prompts, predictor=None)
        self._session = runner.begin(inside)

    @property
    def policy(self) -> str:
        return self._session.policy

    @property
    def is_watched(self) -> bool:
        return self._session.is_watched

    @is_watched.setter
    def is_watched(self, value: bool) -> None:
        self._session.is_watched = value

    def hold(self, hold: Hold) -> None:
        self._session.hold(hold)

    def end(self) -> str | None:
        return self._session.end()

    def add(self, *, length: int, start: int = 0, prompt: int | None = None, guide: Guide | None = None) -> int:
        moves = _moves(guide)
        self._guides.append(guide)
        self._is_guided = np.append(self._is_guided, guide is not None)
        self._own = np.append(self._own, self._count)
        self._scales = np.append(self._scales, np.float32(_scale(guide)))
        self._rounds = np.append(self._rounds, guide is not None and guide.as_published)
        self._leads = np.append(self._leads, guide is not None and guide.leads_posteriors)
        self._is_first = np.append(self._is_first, [guide is not None, False][: len(moves)])
        self._count += len(moves)
        for side, by in enumerate(moves):
            number = None if prompt is None else PAIR * prompt + side
            self._session.add(length=length + by, start=start + by, prompt=number)
        return len(self._guides) - 1

    def parts(self, request: Request) -> list[Part]:
        rows, beside_them = request.rows, self._beside(request.rows)
        counts = np.zeros(self._count, dtype=np.int64)
        counts[beside_them.numbers] = request.counts[beside_them.places]
        inside = self._session.parts(request.with_rows(beside_them.places, beside_them.numbers, beside_them.twins))
        return [
            (of_group, functools.partial(self._scored, [inside[i] for i in forwards], of_group, counts))
            for forwards, of_group in self._together(inside, rows)
        ]

    def _beside(self, rows: Ints) -> _Beside:
        """Rows and their twins, as a request of the session inside names them: most often those of the step before."""
        key = rows.tobytes()
        if self._last is None or self._last[0] != key:
            sides = 1 + self._is_guided[rows]
            places, numbers = np.repeat(np.arange(len(rows)), sides), ranges(self._own[rows], sides)
            is_twin = self._own[rows[places]] < numbers
            guides = (self._guides[row] if is_one else None for row, is_one in zip(rows[places].tolist(), is_twin, strict=True))
            twins = [None if guide is None else guide.twin for guide in guides]
            self._last = key, _Beside(places, numbers, twins)
        return self._last[1]

    def _together(self, inside: list[Part], rows: Ints) -> list[tuple[list[int], Ints]]:
        """Forwards that are needed for the same rows, and those rows: a twin of another length may be in one of its own."""
        if len(inside) == 1:
            return [([0], rows)]
        forward_of = np.zeros(self._count, dtype=np.int64)
        for i, (numbers, _) in enumerate(inside):
            forward_of[numbers] = i
        own, twin = forward_of[self._own[rows]], forward_of[self._own[rows] + self._is_guided[rows]]
        first = np.arange(len(inside))  # of each, the first that goes with it
        for one, other in np.unique(np.stack((own, twin)), axis=1).T.tolist():
            both = first[[one, other]]
            first[np.isin(first, both)] = both.min()
        return [(np.flatnonzero(first == group).tolist(), rows[first[own] == group]) for group in np.unique(first).tolist()]

    def _scored(self, inside: list[Part], rows: Ints, counts: Ints) -> Scored:
        found, is_own = Lines(self._count), []
        for numbers, forward in inside:
            logits, lines = self._run(numbers, forward)
            # Without lines they were made for this, and may be written to.
            is_own.append(lines is None or isinstance(logits, np.ndarray))
            if isinstance(logits, np.ndarray):
                # Only what is scored, which is nobody's then.
                matrix = logits_matrix(logits)
                logits, lines = as_tensor(matrix.copy() if lines is None else matrix[lines]), None
            found.add(numbers, counts[numbers], logits, lines)
        return self._mixed(rows, found, is_own)

    def _run(self, numbers: Ints, forward: Callable[[], Scored]) -> tuple[Tensor | NDArray[Any], Ints | None]:
        """What a forward gives. One that holds a row and its twin counts two."""
        within = self._session.forwards
        is_there = np.zeros(self._count, dtype=np.bool_)
        is_there[numbers] = True
        is_pair = bool(is_there[numbers[self._is_first[numbers]] + 1].any())
        before = within.count, within.replayed, within.seconds
        try:
            logits, lines = forward()
        except Exception as error:
            error.add_note(
                f"dllm_fast: under guidance the rows of a forward, here {len(numbers)}, are the run's and their twins"
            )
            raise
        finally:
            times = PAIR if is_pair else 1
            self.forwards.count += times * (within.count - before[0])
            self.forwards.replayed += times * (within.replayed - before[1])
            self.forwards.seconds += within.seconds - before[2]
        assert not isinstance(logits, AwaitedPrediction | guide.Pair)
        return logits, lines

    def _mixed(self, rows: Ints, found: Lines, is_own: list[bool]) -> Scored:
        """The logits of some rows, in order, as they are decided from. `is_own`: may a matrix be written to?"""
        widths = {matrix.shape[1] for matrix in found.matrices}
        if len(widths) > 1:
            raise InvalidValueError(
                f"a row and its twin must have logits of the same tokens, got {sorted(widths)} columns; return one for every id"
            )
        numbers, is_guided = self._own[rows], self._is_guided[rows]
        own = found.of(numbers)
        if self._leads[rows].any():
            return guide.Pair(found.take(own), found.take(found.of(numbers + is_guided))), None
        if not len(own):
            return found.take(own), None
        first = int(found.matrix[own[0]])
        logits, lines = found.matrices[first], found.line[own]
        is_taken = not is_own[first] or bool((found.matrix[own] != first).any())
        if is_taken:
            # Of the caller, who may keep it, or of several forwards.
            logits, lines = found.take(own), np.arange(len(own))
        if is_guided.any() and logits.dtype in guide.DTYPES:  # the core has the words for others
            counts = found.counts[numbers]
            written, twins = lines[np.repeat(is_guided, counts)], found.of(numbers[is_guided] + 1)
            guided_rows, counts = rows[is_guided], counts[is_guided]
            scales, rounds = (np.repeat(of[guided_rows], counts) for of in (self._scales, self._rounds))
            # Twins of one matrix at a time, and of one way to round: most often there is one.
            for (i, matrix), as_published in itertools.product(enumerate(found.matrices), (False, True)):
                some = (found.matrix[twins] == i) & (rounds == as_published)
                if not some.any():
                    continue
                guide.guide_(
                    logits,
                    beside(written[some], logits),
                    matrix,
                    beside(found.line[twins[some]], logits),
                    beside(scales[some], logits),
                    as_published=as_published,
                )
        return logits, None if is_taken else lines


@dataclass(frozen=True, slots=True)
class _Beside:
    """Rows and their twins: the place of each in the request, its number inside, and its twin where it is one."""

    places: Ints
    numbers: Ints
    twins: list[Twin | None]


def _moves(guide: Guide | None) -> tuple[int, ...]:
    """How much further right the answer stands in a row, and in its twin if it has one."""
    return (0,) if guide is None else (0, guide.twin.moves)


def _scale(guide: Guide | None) -> float:
    return 0.0 if guide is None else guide.weight + 1


def _check_rows(runner: Runner, rows: int, given: int) -> None:
    """Refuses a model that was made for a number of rows."""
    only = getattr(runner, "rows", None)
    if only is not None and only != rows:
        raise InvalidValueError(
            f"guidance takes a model that can be given other batches, got {getattr(runner, 'name', 'one')} for {only} rows, "
            f"and {given} with their twins are {rows}; export it with a batch of any size, or leave guidance out"
        )
