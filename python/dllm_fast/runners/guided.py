"""Guidance, around a session of any runner: each guided row has a twin beside it in the same forward.

The session inside knows nothing of it. It has rows of its own, a row and its twin one behind the other, with caches, slots and
places of their own; what it says of both becomes the logits of the row.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dllm_fast.arrays import logits_matrix
from dllm_fast.errors import InvalidValueError
from dllm_fast.ops import guide
from dllm_fast.ops.mask_predict import AwaitedPrediction
from dllm_fast.runners.forwards import Forwards
from dllm_fast.runners.guides import PAIR
from dllm_fast.runners.lines import as_tensor, beside

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast._core import Request
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


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the run: its number inside, that of its twin, and how it is guided."""

    own: int
    twin: int | None
    guide: Guide | None


@dataclass(frozen=True, slots=True)
class _Forward:
    """A forward of the session inside, and which of its rows it scores."""

    rows: list[int]
    call: Callable[[], Scored]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request asks of the session inside: positions of each row, and of each row that has one its twin."""

    counts: dict[int, int]
    twins: dict[int, int]


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
        self._mask = task.mask_token_id
        self._rows: list[_Row] = []
        self._count = 0
        lengths: list[int] = []
        starts: list[int] = []
        prompts: list[int] = []
        for length, start, prompt, guided in zip(task.lengths, task.starts, task.prompts, guides, strict=True):
            self._rows.append(self._numbered(guided))
            moves = (0,) if guided is None else (0, guided.moves)
            lengths += [length + by for by in moves]
            starts += [start + by for by in moves]
            prompts += [PAIR * prompt + side for side in range(len(moves))]
        _check_rows(runner, self._count, len(self._rows))
        inside = dataclasses.replace(task, lengths=lengths, starts=starts, prompts=prompts, predictor=None)
        self._session = runner.begin(inside)

    def _numbered(self, guided: Guide | None) -> _Row:
        own = self._count
        self._count += 1 if guided is None else PAIR
        return _Row(own, None if guided is None else own + 1, guided)

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
        self._rows.append(self._numbered(guide))
        for side, by in enumerate((0,) if guide is None else (0, guide.moves)):
            number = None if prompt is None else PAIR * prompt + side
            self._session.add(length=length + by, start=start + by, prompt=number)
        return len(self._rows) - 1

    def parts(self, request: Request) -> list[Part]:
        rows, canvases = request.rows.tolist(), request.canvases
        asked = _Asked({}, {})
        places: list[int] = []
        numbers: list[int] = []
        shown: list[Ints | None] = []
        moves: list[int] = []
        for place, (row, positions) in enumerate(zip(rows, request.positions, strict=True)):
            known = self._rows[row]
            asked.counts[known.own] = len(positions)
            places.append(place)
            numbers.append(known.own)
            shown.append(None)
            moves.append(0)
            if known.guide is not None and known.twin is not None:
                asked.counts[known.twin] = len(positions)
                asked.twins[known.own] = known.twin
                places.append(place)
                numbers.append(known.twin)
                shown.append(known.guide.twin(canvases[place], self._mask))
                moves.append(known.guide.moves)
        inside = self._session.parts(request.with_rows(places, numbers, shown, moves))
        forwards = [_Forward(part.tolist(), forward) for part, forward in inside]
        return [
            (np.array(group, dtype=np.int64), functools.partial(self._scored, some, group, asked))
            for some, group in self._together(forwards, rows)
        ]

    def _together(self, forwards: list[_Forward], rows: list[int]) -> list[tuple[list[_Forward], list[int]]]:
        """Forwards that are needed for the same rows, and those rows: a twin of another length may be in one of its own."""
        place_of = {number: place for place, forward in enumerate(forwards) for number in forward.rows}
        first = list(range(len(forwards)))  # of each, the first that goes with it
        for known in map(self._rows.__getitem__, rows):
            if known.twin is not None:
                a, b = first[place_of[known.own]], first[place_of[known.twin]]
                first = [min(a, b) if group in (a, b) else group for group in first]
        return [
            (
                [forward for forward, group in zip(forwards, first, strict=True) if group == number],
                [row for row in rows if first[place_of[self._rows[row].own]] == number],
            )
            for number in sorted(set(first))
        ]

    def _scored(self, forwards: list[_Forward], rows: list[int], asked: _Asked) -> Scored:
        found: dict[int, _Lines] = {}
        for forward in forwards:
            logits, lines = self._run(forward, asked)
            ends = np.cumsum([asked.counts[number] for number in forward.rows])
            # Without lines they were made for this, and may be written to.
            is_own = lines is None or isinstance(logits, np.ndarray)
            if isinstance(logits, np.ndarray):
                # Only what is scored, which is nobody's then.
                matrix = logits_matrix(logits)[slice(None) if lines is None else lines]
                logits, lines = as_tensor(matrix.copy() if lines is None else matrix), None
            lines = np.arange(int(ends[-1])) if lines is None else lines
            for number, of_row in zip(forward.rows, np.split(lines, ends[:-1]), strict=True):
                found[number] = _Lines(logits, of_row, is_own)
        return _mixed([self._rows[row] for row in rows], found)

    def _run(self, forward: _Forward, asked: _Asked) -> tuple[Tensor | NDArray[Any], Ints | None]:
        """What a forward gives. One that holds a row and its twin counts two."""
        within, numbers = self._session.forwards, set(forward.rows)
        is_pair = any(asked.twins.get(number) in numbers for number in numbers)
        before = within.count, within.replayed, within.seconds
        try:
            logits, lines = forward.call()
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


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of a matrix that score a row; `is_own`: the matrix may be written to."""

    logits: Tensor
    lines: Ints
    is_own: bool


def _mixed(rows: list[_Row], found: dict[int, _Lines]) -> Scored:
    """The logits of some rows, in order, as they are decided from."""
    own = [found[row.own] for row in rows]
    widths = {one.logits.shape[1] for one in found.values()}
    if len(widths) > 1:
        raise InvalidValueError(
            f"a row and its twin must have logits of the same tokens, got {sorted(widths)} columns; return one for every id"
        )
    if any(row.guide is not None and row.guide.leads_posteriors for row in rows):
        twins = [found[row.own if row.twin is None else row.twin] for row in rows]
        return guide.Pair(_gathered(own), _gathered(twins)), None
    logits = own[0].logits
    lines: Ints | None = np.concatenate([one.lines for one in own])
    if not all(one.is_own and one.logits is logits for one in own):
        # Of the caller, who may keep it, or of several forwards.
        logits, lines = _gathered(own), None
    ends = np.cumsum([len(one.lines) for one in own])
    own_lines = np.split(np.arange(ends[-1]) if lines is None else lines, ends[:-1])
    # Twins of one matrix at a time, and of one way to round: most often there is one.
    of_matrix: dict[tuple[int, bool], list[tuple[Ints, _Lines, np.float32]]] = {}
    for row, written in zip(rows, own_lines, strict=True):
        if row.twin is not None and row.guide is not None:
            twin = found[row.twin]
            key = id(twin.logits), row.guide.as_published
            of_matrix.setdefault(key, []).append((written, twin, np.float32(row.guide.weight + 1)))
    for (_, as_published), pairs in of_matrix.items():
        if logits.dtype not in guide.DTYPES:
            break  # the core has the words for it
        guide.guide_(
            logits,
            beside(np.concatenate([written for written, _, _ in pairs]), logits),
            pairs[0][1].logits,
            beside(np.concatenate([twin.lines for _, twin, _ in pairs]), logits),
            beside(np.concatenate([np.full(len(written), scale) for written, _, scale in pairs]), logits),
            as_published=as_published,
        )
    return logits, lines


def _gathered(rows: list[_Lines]) -> Tensor:
    return torch.cat([one.logits.index_select(0, beside(one.lines, one.logits)) for one in rows])


def _check_rows(runner: Runner, rows: int, given: int) -> None:
    """Refuses a model that was made for a number of rows."""
    only = getattr(runner, "rows", None)
    if only is not None and only != rows:
        raise InvalidValueError(
            f"guidance takes a model that can be given other batches, got {getattr(runner, 'name', 'one')} for {only} rows, "
            f"and {given} with their twins are {rows}; export it with a batch of any size, or leave guidance out"
        )
