"""What a step of a run tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dllm_fast import records
from dllm_fast._core import Edit
from dllm_fast.arrays import integer_row
from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown
from dllm_fast.records import Record, rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast._core import Prediction, Request

    Ints = NDArray[np.int64]
    Flags = NDArray[np.bool_]

#: Why a row takes no further part: an end token, no more masks, or somebody who had seen enough.
STOP, LENGTH, CANCELLED = REASONS = ("stop", "length", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the late values of an event are made of. Nothing of it changes when the run goes on.

    Attributes:
        request: what the step was asked.
        predictions: what the model said, for some rows each.
        reason_of: why a row is done, from its index, its canvas and which positions of it are open.
        canvases: the canvases after the step, where the edits do not tell them; None where they do.
        has_drafts: what the model would write is what it finds most probable, whatever was drawn.
        has_guesses: the event tells what the model would write at the masks that are left.
    """

    request: Request
    predictions: Sequence[tuple[Ints, Prediction]]
    reason_of: Callable[[int, Ints, Flags], str]
    canvases: list[Ints] | None
    has_drafts: bool
    has_guesses: bool


class _Late(Record):
    """A record of which some values are made when somebody first asks for them."""

    __slots__ = ("_source",)
    _source: Source

    def __getattr__(self, name: str) -> Any:
        # Comes for what is not there: a value that nobody has asked for.
        if name not in _LATE:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = _LATE[name](self)
        object.__setattr__(self, name, value)
        return value


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class StepEvent(_Late):
    """What a run tells after a step. Lists have one entry for each of `rows`. Later steps change nothing in it.

    Attributes:
        step: forwards before this one.
        rows: indices of the rows that took part, int64.
        edits: what was written in this step, in order.
        positions: where, rising, int64.
        tokens: the tokens that stand there now, int64.
        canvases: the canvases after the step, int64; at open positions what the model sees next: masks, or noise and drafts.
        open_positions: where nothing is written yet, rising, int64; what a canvas shows there is no part of an answer.
        stable_prefix: so many new tokens from the start of a row can no longer change.
        is_done: takes the row no further part?
        finish_reasons: of rows that do not: "stop" behind an end token, "length" without one, "cancelled"; None for the others.
        guess_positions: positions still open for which the model has a guess, int64; None without `guesses=True`.
        guess_tokens: the guesses, int64; None without `guesses=True`.
    """

    step: int
    rows: Ints
    edits: list[list[Edit]]
    positions: list[Ints]
    tokens: list[Ints]
    canvases: list[Ints]
    open_positions: list[Ints]
    stable_prefix: list[int]
    is_done: list[bool]
    finish_reasons: list[str | None]
    guess_positions: list[Ints] | None = None
    guess_tokens: list[Ints] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StepEvent:
        """The event that `to_dict` wrote, equal to the one it was.

        Raises:
            InvalidValueError, InvalidTypeError: names or values that it does not write.
        """
        names = cls.__dataclass_fields__
        found = records.checked(values, cls.__name__, names)

        def guessed(name: str) -> list[Ints] | None:
            return None if found[name] is None else _arrays(found[name], name)

        event = cls(
            step=records.whole(found["step"], "step"),
            rows=integer_row(found["rows"], "rows"),
            edits=[[Edit.from_dict(edit) for edit in rows(edits, "edits")] for edits in rows(found["edits"], "edits")],
            stable_prefix=[records.whole(count, "stable_prefix") for count in rows(found["stable_prefix"], "stable_prefix")],
            is_done=[_flag(value) for value in rows(found["is_done"], "is_done")],
            finish_reasons=[
                None if value is None else reason(value) for value in rows(found["finish_reasons"], "finish_reasons")
            ],
            **{name: _arrays(found[name], name) for name in ("positions", "tokens", "canvases", "open_positions")},
            guess_positions=guessed("guess_positions"),
            guess_tokens=guessed("guess_tokens"),
        )
        lists = {name: getattr(event, name) for name in names if name not in ("step", "rows")}
        counts = {name: len(value) for name, value in lists.items() if value is not None}
        if set(counts.values()) - {len(event.rows)}:
            raise InvalidValueError(
                f"lists of an event must have an entry for each of its {len(event.rows)} rows, "
                f"got {', '.join(f'{count} {name}' for name, count in counts.items())}; pass what to_dict gave"
            )
        return event


def event_after(source: Source, edits: list[list[Edit]], *, stable: list[int], done: list[bool]) -> StepEvent:
    """The event of a step, of which only what cannot be known later is made at once.

    Args:
        source: of the rest.
        edits: what was written in each row of the request.
        stable, done: of each such row.
    """
    event = object.__new__(StepEvent)
    told = {"rows": source.request.rows, "edits": edits, "stable_prefix": stable, "is_done": done, "_source": source}
    for name, value in told.items():
        object.__setattr__(event, name, value)
    return event


def _carried_out(array: NDArray[Any], edits: Sequence[Edit], of: Callable[[Edit], int]) -> NDArray[Any]:
    """What there is of each position behind some edits, from what there was: `of` says it of those that they concern."""
    for edit in edits:
        if edit.kind == "insert":
            array = np.insert(array, edit.position, of(edit))
        elif edit.kind == "delete":
            array = np.delete(array, edit.position)
        else:
            array[edit.position] = of(edit)
    return array


def _last(event: StepEvent) -> list[tuple[Ints, Ints]]:
    """Where something was written, and what stands there. A position may be written twice: an end token fills what lies behind
    it."""
    found = []
    for length, row in zip(event._source.request.lengths.tolist(), event.edits, strict=True):
        tokens = _carried_out(np.full(length, -1, dtype=np.int64), row, lambda edit: edit.token)
        positions = np.flatnonzero(tokens >= 0)
        found.append((positions, tokens[positions]))
    return found


def _canvases(event: StepEvent) -> list[Ints]:
    if event._source.canvases is not None:
        return [canvas.copy() for canvas in event._source.canvases]
    before = event._source.request.canvases
    return [_carried_out(canvas.copy(), row, lambda edit: edit.token) for canvas, row in zip(before, event.edits, strict=True)]


# What follows is made of canvases of its own: who has those of the event may have written into them.


def _reasons(event: StepEvent) -> list[str | None]:
    if not any(event.is_done):
        return [None] * len(event.is_done)
    rows = zip(event._source.request.rows.tolist(), event.is_done, _canvases(event), _open(event), strict=True)
    return [event._source.reason_of(row, canvas, left) if is_done else None for row, is_done, canvas, left in rows]


def _open(event: StepEvent) -> list[Flags]:
    """Which positions are open after the step."""
    before = event._source.request.open
    opens = ("remask", "insert")
    each = zip(before, event.edits, strict=True)
    return [_carried_out(row.copy(), edits, lambda edit: edit.kind in opens) for row, edits in each]


def _places(event: StepEvent) -> list[Ints]:
    """Where the scored positions stand after the step; -1 where one was taken out."""
    found = [positions.copy() for positions in event._source.request.positions]
    for places, row in zip(found, event.edits, strict=True):
        for edit in row:
            if edit.kind == "insert":
                places[places >= edit.position] += 1
            elif edit.kind == "delete":
                places[places == edit.position] = -1
                places[places > edit.position] -= 1
    return found


def _left(event: StepEvent) -> list[Flags]:
    """Which of the scored positions still are open."""
    return [(places >= 0) & is_open[places] for is_open, places in zip(_open(event), _places(event), strict=True)]


def _guess_positions(event: StepEvent) -> list[Ints] | None:
    if not event._source.has_guesses:
        return None
    return [places[left] for places, left in zip(_places(event), _left(event), strict=True)]


def _guess_tokens(event: StepEvent) -> list[Ints] | None:
    if not event._source.has_guesses:
        return None
    request = event._source.request
    scored = dict(zip(request.rows.tolist(), request.positions, strict=True))
    guesses: dict[int, Ints] = {}
    for group, prediction in event._source.predictions:
        ends = np.cumsum([len(scored[row]) for row in group.tolist()])
        told = prediction.argmax if event._source.has_drafts and prediction.argmax is not None else prediction.token
        guesses.update(zip(group.tolist(), np.split(told, ends[:-1]), strict=True))
    return [guesses[row][left] for row, left in zip(scored, _left(event), strict=True)]


_LATE: dict[str, Callable[[Any], Any]] = {
    "step": lambda event: event._source.request.step,
    "positions": lambda event: [positions for positions, _ in _last(event)],
    "tokens": lambda event: [tokens for _, tokens in _last(event)],
    "canvases": _canvases,
    "open_positions": lambda event: [np.flatnonzero(is_open) for is_open in _open(event)],
    "finish_reasons": _reasons,
    "guess_positions": _guess_positions,
    "guess_tokens": _guess_tokens,
}


def reason(value: object) -> str:
    """Why a row is finished, as `to_dict` wrote it.

    Raises:
        InvalidValueError: none of the reasons.
    """
    if value in REASONS and isinstance(value, str):
        return value
    raise InvalidValueError(f"finish_reasons must be of {', '.join(REASONS)}, got {shown(value)}; pass what to_dict gave")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidTypeError(f"is_done must be True or False, got {shown(value)}; pass what to_dict gave")


def _arrays(value: object, name: str) -> list[Ints]:
    return [integer_row(row, name) for row in rows(value, name)]
