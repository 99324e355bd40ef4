"""What a run returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dllm_fast import records
from dllm_fast._core import Edit
from dllm_fast.arrays import integer_row
from dllm_fast.errors import InvalidTypeError, InvalidValueError, shown
from dllm_fast.records import Record, rows
from dllm_fast.settings.config import SamplerConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Stats(Record):
    """What a run cost.

    Attributes:
        nfe: model calls ("number of function evaluations"); rows of equal length share one.
        nfe_per_row: model calls that each row took part in.
        tokens_per_forward: committed tokens of all rows over model calls; 0 where there was no call.
        replayed: model calls that were replayed from CUDA graphs.
        model_ms: milliseconds inside the model.
        sampler_ms: milliseconds in everything else, `on_step` left out.
    """

    nfe: int
    nfe_per_row: list[int]
    tokens_per_forward: float
    replayed: int = 0
    model_ms: float
    sampler_ms: float

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Stats:
        """The costs that `to_dict` wrote.

        Raises:
            InvalidValueError, InvalidTypeError: names or values that it does not write. `replayed` may be missing, as it was
                in older files.
        """
        found = _named(cls, values, optional=("replayed",))
        times = ("tokens_per_forward", "model_ms", "sampler_ms")
        return cls(
            nfe=records.whole(found["nfe"], "nfe"),
            nfe_per_row=[records.whole(forwards, "nfe_per_row") for forwards in rows(found["nfe_per_row"], "nfe_per_row")],
            replayed=records.whole(found.get("replayed", 0), "replayed"),
            **{name: records.number(found[name], name) for name in times},
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Result(Record):
    """Filled canvases and how they came about. It pickles, compares by value, and goes to and from JSON (`to_dict`).

    Rows are prompt-major: sample i of prompt b is row `b * num_samples + i`.

    Attributes:
        sequences: the whole canvas of each row, int64: the prompt without its padding, what was written, and what the tokenizer
            adds at the end of a text.
        new_tokens: what was written in each row, in order of position, int64; cut after the first end token when
            `stop_at_eos`.
        texts: `new_tokens` as text up to the end token that ended the row (for `infill` the whole canvas), or None without a
            tokenizer, and where it failed. Special tokens that were given are left out; what was written is shown, whatever
            it is.
        texts_error: why the tokenizer failed to make text of `new_tokens`, or None. The ids are there all the same.
        trajectory: for each row its edits in order, with `.step`, `.position`, `.token`, `.probability`, `.kind`, `.time`.
        stats: forwards and milliseconds.
        config: every setting as it was used.
        seed: the seed as it was given, one number or one for each prompt; with `seed=None` the one that was drawn.
        aliases: names of peers that the caller typed, to ours, or to a note where there was nothing to set.
    """

    sequences: list[NDArray[np.int64]]
    new_tokens: list[NDArray[np.int64]]
    texts: list[str] | None
    texts_error: str | None = None
    trajectory: list[list[Edit]] = field(repr=False)
    stats: Stats
    config: SamplerConfig
    seed: int | list[int]
    aliases: dict[str, str]

    @property
    def text(self) -> str:
        """The text of a single row.

        Raises:
            InvalidValueError: several rows, no tokenizer to make text with, or one that failed.
        """
        if self.texts_error is not None:
            raise InvalidValueError(
                f"the tokenizer could not make text of the answer: {self.texts_error}; the ids are in new_tokens"
            )
        if self.texts is None:
            raise InvalidValueError(
                "text needs a tokenizer, got none; pass tokenizer= to sample, or decode new_tokens yourself"
            )
        if len(self.texts) != 1:
            raise InvalidValueError(f"text is for a single row, got {len(self.texts)} rows; use texts")
        return self.texts[0]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Result:
        """The result that `to_dict` wrote, equal to the one it was.

        Raises:
            InvalidValueError, InvalidTypeError: names or values that it does not write. `texts_error` may be missing, as it
                was in older files.
        """
        found = _named(cls, values, optional=("texts_error",))
        texts = records.strings(found["texts"], "texts")
        seed, aliases = found["seed"], found["aliases"]
        if not isinstance(aliases, Mapping):
            raise InvalidTypeError(f"aliases must be a dictionary of texts, got {shown(aliases)}; pass what to_dict gave")
        result = cls(
            sequences=_arrays(found["sequences"], "sequences"),
            new_tokens=_arrays(found["new_tokens"], "new_tokens"),
            texts=texts,
            texts_error=records.reason(found.get("texts_error"), "texts_error", texts),
            trajectory=[
                [Edit.from_dict(edit) for edit in rows(edits, "trajectory")]
                for edits in rows(found["trajectory"], "trajectory")
            ],
            stats=Stats.from_dict(found["stats"]),
            config=SamplerConfig.from_dict(found["config"]),
            seed=[records.whole(one, "seed") for one in seed] if isinstance(seed, list) else records.whole(seed, "seed"),
            aliases={records.string(name, "aliases"): records.string(note, "aliases") for name, note in aliases.items()},
        )
        listed = (result.new_tokens, result.trajectory, result.stats.nfe_per_row, result.texts)
        counts = [len(result.sequences), *(len(one) for one in listed if one is not None)]
        if len(set(counts)) > 1:
            raise InvalidValueError(
                "sequences, new_tokens, trajectory, nfe_per_row and texts must have an entry for each row, "
                f"got {', '.join(map(str, counts))}; pass what to_dict gave"
            )
        return result


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class StepEvent(Record):
    """What `on_step` is told after a step. Lists have one entry for each of `rows`.

    Attributes:
        step: forwards before this one.
        rows: indices of the rows that took part, int64.
        positions: positions written in this step, rising, int64.
        tokens: tokens written there, int64.
        guess_positions: positions still masked for which the model has a guess, int64.
        guess_tokens: the guesses, int64.
        canvases: the canvases after the step, int64.
    """

    step: int
    rows: NDArray[np.int64]
    positions: list[NDArray[np.int64]]
    tokens: list[NDArray[np.int64]]
    guess_positions: list[NDArray[np.int64]]
    guess_tokens: list[NDArray[np.int64]]
    canvases: list[NDArray[np.int64]]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StepEvent:
        """The event that `to_dict` wrote, equal to the one it was.

        Raises:
            InvalidValueError, InvalidTypeError: names or values that it does not write.
        """
        found = _named(cls, values)
        listed = ("positions", "tokens", "guess_positions", "guess_tokens", "canvases")
        return cls(
            step=records.whole(found["step"], "step"),
            rows=integer_row(found["rows"], "rows"),
            **{name: _arrays(found[name], name) for name in listed},
        )


def _named(cls: type[Record], values: Mapping[str, Any], optional: Sequence[str] = ()) -> dict[str, Any]:
    names = [item.name for item in dataclasses.fields(cls) if item.name not in optional]  # type: ignore[arg-type]
    return records.checked(values, cls.__name__, names, optional)


def _arrays(value: object, name: str) -> list[NDArray[np.int64]]:
    return [integer_row(row, name) for row in rows(value, name)]
