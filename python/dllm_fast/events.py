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

#: Why a row takes no further part: an end token, no more masks, or somebody who had seen enough.
STOP, LENGTH, CANCELLED = REASONS = ("stop", "length", "cancelled")


class _Late(Record):
    """A record of which some values are made when somebody first asks for them."""

    __slots__ = ("_make",)
    _make: Mapping[str, Callable[[], Any]]

    def __getattr__(self, name: str) -> Any:
        # Comes for what is not there: a value that nobody has asked for.
        make = None if name == "_make" else self._make.get(name)
        if make is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = make()
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
        canvases: the canvases after the step, int64.
        stable_prefix: so many new tokens from the start of a row can no longer change.
        is_done: takes the row no further part?
        finish_reasons: of rows that do not: "stop" behind an end token, "length" without one, "cancelled"; None for the others.
        guess_positions: positions still masked for which the model has a guess, int64; None without `guesses=True`.
        guess_tokens: the guesses, int64; None without `guesses=True`.
    """

    step: int
    rows: Ints
    edits: list[list[Edit]]
    positions: list[Ints]
    tokens: list[Ints]
    canvases: list[Ints]
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
            **{name: _arrays(found[name], name) for name in ("positions", "tokens", "canvases")},
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


def event_after(
    request: Request,
    predictions: Sequence[tuple[Ints, Prediction]],
    edits: list[list[Edit]],
    *,
    stable: list[int],
    done: list[bool],
    reason_of: Callable[[int, Ints], str],
    mask: int,
    guesses: bool,
) -> StepEvent:
    """The event of a step, of which only what cannot be known later is made at once.

    Args:
        request: what the step was asked.
        predictions: what the model said, for some rows each.
        edits: what was written in each row of the request.
        stable, done: of each such row.
        reason_of: why a row is done, from its index and its canvas.
        mask: id of the mask.
        guesses: tell what the model would write at the masks that are left.
    """
    event = object.__new__(StepEvent)
    told = {"step": request.step, "rows": request.rows, "edits": edits, "stable_prefix": stable, "is_done": done}
    for name, value in told.items():
        object.__setattr__(event, name, value)

    def written() -> list[dict[int, int]]:
        # A position may be written twice in a step: an end token fills what lies behind it.
        last = [{edit.position: edit.token for edit in row} for row in edits]
        return [dict(sorted(row.items())) for row in last]

    def canvases() -> list[Ints]:
        after = request.canvases
        for canvas, row in zip(after, edits, strict=True):
            for edit in row:
                canvas[edit.position] = edit.token
        return after

    def reasons() -> list[str | None]:
        numbered = zip(event.rows.tolist(), done, event.canvases if any(done) else edits, strict=True)
        return [reason_of(row, canvas) if is_done else None for row, is_done, canvas in numbered]  # type: ignore[arg-type]

    def guessed() -> tuple[list[Ints], list[Ints]]:
        of_row: dict[int, Ints] = {}
        scored = request.positions
        places = {row: place for place, row in enumerate(event.rows.tolist())}
        for group, prediction in predictions:
            ends = np.cumsum([len(scored[places[row]]) for row in group.tolist()])
            of_row.update(zip(group.tolist(), np.split(prediction.token, ends[:-1]), strict=True))
        masked = [canvas[where] == mask for canvas, where in zip(event.canvases, scored, strict=True)]
        return (
            [where[is_masked] for where, is_masked in zip(scored, masked, strict=True)],
            [of_row[row][is_masked] for row, is_masked in zip(places, masked, strict=True)],
        )

    make: dict[str, Callable[[], Any]] = {
        "positions": lambda: [np.array(list(row), dtype=np.int64) for row in written()],
        "tokens": lambda: [np.array(list(row.values()), dtype=np.int64) for row in written()],
        "canvases": canvases,
        "finish_reasons": reasons,
        "guess_positions": lambda: guessed()[0] if guesses else None,
        "guess_tokens": lambda: guessed()[1] if guesses else None,
    }
    object.__setattr__(event, "_make", make)
    return event


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
