"""What a run returns."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from dllm_fast import records
from dllm_fast._core import Edit
from dllm_fast.arrays import integer_row
from dllm_fast.errors import InvalidIndexError, InvalidTypeError, InvalidValueError, cut, shown
from dllm_fast.events import LENGTH, STOP, reason
from dllm_fast.records import Record, rows
from dllm_fast.settings.config import SamplerConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What a notebook shows of a result: rows, and characters of each.
_ROWS, _CHARACTERS = 20, 2000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Stats(Record):
    """What a run cost.

    Attributes:
        nfe: model calls ("number of function evaluations"); rows share them. One with guidance counts two.
        nfe_per_row: model calls that each row took part in, counted alike. Each length that was tried for its gaps
            is one, though they share a call.
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
class Row(Record):
    """A row of a result: what the lists of `Result` have for it.

    Attributes:
        sequence: the whole canvas, int64.
        new_tokens: what was written, in order of position, int64.
        finish_reason: "stop", "length" or "cancelled".
        trajectory: its edits in order.
        nfe: model calls that it took part in.
    """

    sequence: NDArray[np.int64]
    new_tokens: NDArray[np.int64]
    finish_reason: str
    trajectory: list[Edit] = field(repr=False)
    nfe: int
    _text: str | None
    _no_text: str | None = field(repr=False)

    @property
    def text(self) -> str:
        """The answer as text.

        Raises:
            InvalidValueError: no tokenizer to make text with, or one that failed.
        """
        if self._text is None:
            raise InvalidValueError(_no_text(self._no_text))
        return self._text

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain values, `text` as None where there is none."""
        found = records.fields(self)
        del found["_no_text"]
        return found | {"text": found.pop("_text")}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Result(Record):
    """Filled canvases and how they came about. It pickles, compares by value, and goes to and from JSON (`to_dict`).

    Its rows are also there one by one: `len(result)`, `for row in result`, `result[-1].text`, `result[2:4]`.

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
        finish_reasons: why each row took no further part: "stop" behind an end token (where `stop_at_eos`), "length" without
            one, "cancelled".
        trajectory: for each row its edits in order, with `.step`, `.position`, `.token`, `.probability`, `.kind`, `.time`.
        stats: forwards and milliseconds.
        config: every setting as it was used.
        seed: the seed as it was given, one number or one for each prompt; with `seed=None` the one that was drawn.
        aliases: names of peers that the caller typed, to ours, or to a note where there was nothing to set.
        gap_lengths: for each row the lengths that its gaps got, or None where there were no gaps. The forwards in which they
            were tried are counted in `stats`.
    """

    sequences: list[NDArray[np.int64]]
    new_tokens: list[NDArray[np.int64]]
    texts: list[str] | None
    texts_error: str | None = None
    finish_reasons: list[str]
    trajectory: list[list[Edit]] = field(repr=False)
    stats: Stats
    config: SamplerConfig
    seed: int | list[int]
    aliases: dict[str, str]
    gap_lengths: list[list[int]] | None = None

    @property
    def text(self) -> str:
        """The text of a single row.

        Raises:
            InvalidValueError: several rows, no tokenizer to make text with, or one that failed.
        """
        if self.texts is None:
            raise InvalidValueError(_no_text(self.texts_error))
        if len(self.texts) != 1:
            raise InvalidValueError(f"text is for a single row, got {len(self.texts)} rows; use texts")
        return self.texts[0]

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self) -> Iterator[Row]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, row: int) -> Row: ...
    @overload
    def __getitem__(self, row: slice) -> list[Row]: ...
    def __getitem__(self, row: int | slice) -> Row | list[Row]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        place = records.scalar(row)
        if isinstance(place, bool) or not isinstance(place, int):
            raise InvalidTypeError(f"a row must be a whole number or a slice, got {shown(row)}; rows are counted from 0")
        if not -len(self) <= place < len(self):
            raise InvalidIndexError(f"a row must be one of {len(self)}, got {shown(place)}; rows are counted from 0")
        return Row(
            sequence=self.sequences[place],
            new_tokens=self.new_tokens[place],
            finish_reason=self.finish_reasons[place],
            trajectory=self.trajectory[place],
            nfe=self.stats.nfe_per_row[place],
            _text=None if self.texts is None else self.texts[place],
            _no_text=self.texts_error,
        )

    def _repr_html_(self) -> str:
        """A table for notebooks: of each row the reason and its text, or its ids."""
        lines = [
            f"<tr><td>{number}</td><td>{html.escape(self.finish_reasons[number])}</td>"
            f'<td style="text-align: left; white-space: pre-wrap">{html.escape(self._shown(number))}</td></tr>'
            for number in range(min(len(self), _ROWS))
        ]
        what = "new tokens" if self.texts is None else "text"
        more = f", the first {_ROWS} of {len(self)} rows" if len(self) > _ROWS else ""
        stats = f"{self.stats.nfe} forwards, {self.stats.tokens_per_forward:.2f} tokens per forward{more}"
        head = f"<tr><th>row</th><th>end</th><th>{what}</th></tr>"
        return f"<table><caption>{stats}</caption><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>"

    def _shown(self, row: int) -> str:
        text = " ".join(map(str, self.new_tokens[row][:_CHARACTERS].tolist())) if self.texts is None else self.texts[row]
        return cut(text, _CHARACTERS)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Result:
        """The result that `to_dict` wrote, equal to the one it was.

        Raises:
            InvalidValueError, InvalidTypeError: names or values that it does not write. `texts_error` and `finish_reasons` may
                be missing, as they were in older files.
        """
        found = _named(cls, values, optional=("texts_error", "finish_reasons", "gap_lengths"))
        texts = records.strings(found["texts"], "texts")
        seed, aliases = found["seed"], found["aliases"]
        if not isinstance(aliases, Mapping):
            raise InvalidTypeError(f"aliases must be a dictionary of texts, got {shown(aliases)}; pass what to_dict gave")
        config = SamplerConfig.from_dict(found["config"])
        gaps = found.get("gap_lengths")
        new_tokens = _arrays(found["new_tokens"], "new_tokens")
        reasons = found.get("finish_reasons", [_reason_of(row, config) for row in new_tokens])
        result = cls(
            sequences=_arrays(found["sequences"], "sequences"),
            new_tokens=new_tokens,
            finish_reasons=[reason(value) for value in rows(reasons, "finish_reasons")],
            texts=texts,
            texts_error=records.reason(found.get("texts_error"), "texts_error", texts),
            trajectory=[
                [Edit.from_dict(edit) for edit in rows(edits, "trajectory")]
                for edits in rows(found["trajectory"], "trajectory")
            ],
            stats=Stats.from_dict(found["stats"]),
            config=config,
            seed=[records.whole(one, "seed") for one in seed] if isinstance(seed, list) else records.whole(seed, "seed"),
            aliases={records.string(name, "aliases"): records.string(note, "aliases") for name, note in aliases.items()},
            gap_lengths=None
            if gaps is None
            else [[records.whole(one, "gap_lengths") for one in rows(row, "gap_lengths")] for row in rows(gaps, "gap_lengths")],
        )
        listed = (
            result.gap_lengths,
            result.new_tokens,
            result.trajectory,
            result.stats.nfe_per_row,
            result.texts,
            result.finish_reasons,
        )
        counts = [len(result.sequences), *(len(one) for one in listed if one is not None)]
        if len(set(counts)) > 1:
            raise InvalidValueError(
                "sequences, new_tokens, trajectory, nfe_per_row, texts and finish_reasons must have an entry for each row, "
                f"got {', '.join(map(str, counts))}; pass what to_dict gave"
            )
        return result


def _no_text(error: str | None) -> str:
    """Why there is no text."""
    if error is not None:
        return f"the tokenizer could not make text of the answer: {error}; the ids are in new_tokens"
    return "text needs a tokenizer, got none; pass tokenizer= to sample, or decode new_tokens yourself"


def _reason_of(new_tokens: NDArray[np.int64], config: SamplerConfig) -> str:
    """Of a finished row: its tokens end with the end token that ended it."""
    is_ended = config.stop_at_eos and len(new_tokens) and int(new_tokens[-1]) in config.eos_token_ids
    return STOP if is_ended else LENGTH


def _named(cls: type[Record], values: Mapping[str, Any], optional: Sequence[str] = ()) -> dict[str, Any]:
    names = [item.name for item in dataclasses.fields(cls) if item.name not in optional]  # type: ignore[arg-type]
    return records.checked(values, cls.__name__, names, optional)


def _arrays(value: object, name: str) -> list[NDArray[np.int64]]:
    return [integer_row(row, name) for row in rows(value, name)]
