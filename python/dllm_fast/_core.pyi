from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias, final, overload

import numpy as np
import torch
from numpy.typing import NDArray

from dllm_fast.settings.keywords import After, Ranks

__all__ = [
    "Edit",
    "Lock",
    "Prediction",
    "Request",
    "Sampler",
    "TokenFrequencies",
    "Twin",
    "__version__",
    "asks_current",
    "check_config",
    "mask_predict",
    "most_forwards",
    "names",
    "row_laws",
    "schedule",
    "set_threads",
    "sudoku_puzzles",
]

__version__: str

# How many each row commits at least, int32, and the share of its block's steps that are done then, float64.
_Pace: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float64]]

# One for all rows, or one for each: a list, an array or a tensor.
_Number: TypeAlias = float | Sequence[float] | NDArray[Any] | torch.Tensor
_Count: TypeAlias = int | Sequence[int] | NDArray[Any] | torch.Tensor

def asks_current(config: object) -> bool:
    """Does the rule of a `SamplerConfig` need the probability of written tokens beside what is proposed?"""

def check_config(object: object) -> None:
    """Checks every setting of a `SamplerConfig` that does not depend on a canvas.

    Raises:
        InvalidValueError: a value out of its range, or settings that exclude each other.
        InvalidTypeError: a value of the wrong type.
    """

def most_forwards(object: object, masks: int, blocks: int) -> int:
    """The most forwards that a row of these settings takes, whatever the model says.

    Args:
        object: a `SamplerConfig`.
        masks: of the row when it begins, at most 2^24.
        blocks: that hold masks, at most `masks`.

    Raises:
        InvalidValueError: a number out of its range.
        InvalidTypeError: a value of the wrong type.
    """

def mask_predict(
    logits: Any,
    *,
    temperature: _Number,
    top_k: _Count | None,
    top_p: _Number | None,
    min_p: _Number | None,
    softcap: float | None,
    suppress: NDArray[np.int64],
    current: NDArray[np.int64] | None,
    seed: int | Sequence[int],
    request: int | Sequence[int],
    positions: NDArray[np.int64] | None,
    step: int | Sequence[int],
) -> Prediction:
    """See `dllm_fast.mask_predict`, which documents the arguments."""

def names() -> dict[str, list[str]]:
    """All names of each kind: "order", "cut", "schedule", "eos_policy", "length", "remask", and "kind" (of an `Edit`).

    The place of a name is its number wherever numbers stand for names.
    """

def row_laws(
    rows: int,
    *,
    temperature: _Number,
    top_k: _Count | None,
    top_p: _Number | None,
    min_p: _Number | None,
) -> tuple[list[tuple[float, int | None, float | None, float | None]], NDArray[np.int32]]:
    """The laws of some rows, checked, from what `dllm_fast.mask_predict` takes.

    Returns:
        Those that differ, each (temperature, top_k, top_p, min_p), and for each row which of these.

    Raises:
        InvalidValueError: a value out of its range, or another number of them than of rows.
        InvalidTypeError: a value of the wrong type.
    """

def schedule(name: str, masks: int, steps: int, eps: float, as_published: bool) -> list[int]:
    """See `dllm_fast.schedule`, which documents the arguments."""

def set_threads(threads: int | None = None) -> None:
    """Sets the number of threads from now on.

    Args:
        threads: of our own, from 1 to 1,024; None takes RAYON_NUM_THREADS, or else the threads of torch, or else one per core.
    """

def sudoku_puzzles(
    n: int,
    seed: int,
    min_givens: int = 26,
    max_givens: int = 50,
    *,
    held_out: bool = True,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Puzzles for the demo models and their solutions, uint8 `[n, 81]` both; an empty cell is 0."""

@final
class Lock:
    """A lock of one thread at a time, which an interrupt cannot leave locked."""

    def __new__(cls) -> Lock: ...
    def held(self) -> AbstractContextManager[None]:
        """What holds the lock for the block of a `with`."""

@final
class TokenFrequencies:
    """How often each token of a vocabulary occurs in some text, for the order `calibrated` (PC-Sampler, 2508.13021).

    Equal where all counts are; it pickles, and JSON can keep it.

    Args:
        counts: for each id how often it occurs, whole numbers `[V]`; or a mapping of ids to that, without those that never do.
        vocabulary: V, the number of ids in the model's logits; needed beside a mapping.

    Raises:
        InvalidValueError: ids outside of the vocabulary, a negative count, no token at all.
        InvalidTypeError: no whole numbers.
    """

    def __new__(
        cls, counts: Mapping[int, int] | Collection[int] | NDArray[Any] | torch.Tensor, vocabulary: int | None = None
    ) -> TokenFrequencies: ...
    @staticmethod
    def of(tokens: Collection[int] | NDArray[Any] | torch.Tensor, vocabulary: int) -> TokenFrequencies:
        """Those of a text.

        Args:
            tokens: its ids.
            vocabulary: the number of ids in the model's logits.

        Raises:
            InvalidValueError: ids outside of the vocabulary, or none at all.
            InvalidTypeError: no ids.
        """
    @staticmethod
    def from_dict(values: object) -> TokenFrequencies:
        """The table that `to_dict` wrote.

        Raises:
            InvalidValueError: other names, or what `TokenFrequencies` refuses.
            InvalidTypeError: no dictionary, or what `TokenFrequencies` refuses.
        """
    def to_dict(self) -> dict[str, list[int]]:
        """The counts of all ids, as `json.dumps` takes them."""
    @property
    def counts(self) -> NDArray[np.int64]:
        """For each id how often it occurs, `[V]`."""
    @property
    def tokens(self) -> int:
        """How many tokens were counted."""
    def __len__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs__(self) -> tuple[NDArray[np.int64]]: ...

@final
class Edit:
    """One change of a canvas: a value that unpacks in the order of its arguments, sorts, pickles, and that JSON can keep.

    Args:
        step: forward of the row, from 0, that led to it.
        position: from the start of the canvas.
        token: what stands there now.
        probability: of the token, or the caller's own score; nan for padding.
        kind: `commit`, `edit`, `remask`, `renoise` or `pad`.
        time: of the reverse process, from 1 to 0; nan where the schedule has none.

    Raises:
        InvalidValueError: an unknown kind, or a number that does not fit.
        InvalidTypeError: a value of the wrong type.
    """

    __match_args__ = ("step", "position", "token", "probability", "kind", "time")
    def __new__(
        cls, *, step: int, position: int, token: int, probability: float, kind: str, time: float | None = None
    ) -> Edit: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, place: int, /) -> int | float | str: ...
    @overload
    def __getitem__(self, place: slice, /) -> tuple[int | float | str, ...]: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __lt__(self, other: Edit, /) -> bool: ...
    def __le__(self, other: Edit, /) -> bool: ...
    def __gt__(self, other: Edit, /) -> bool: ...
    def __ge__(self, other: Edit, /) -> bool: ...
    def to_dict(self) -> dict[str, int | float | str | None]:
        """Every field, as `json.dumps` takes it: None for nan, "inf" and "-inf" for the infinities."""
    @classmethod
    def from_dict(cls, values: object) -> Edit:
        """The edit that `to_dict` wrote.

        Raises:
            InvalidValueError: a name that is no field, or what `Edit` refuses.
            InvalidTypeError: no dictionary, or what `Edit` refuses.
        """
    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    @property
    def step(self) -> int:
        """Forward of the row, from 0."""
    @property
    def position(self) -> int:
        """Position from the start of the canvas."""
    @property
    def token(self) -> int:
        """Token that stands there now."""
    @property
    def probability(self) -> float:
        """Probability of the token, or the caller's own score; nan for padding."""
    @property
    def kind(self) -> str:
        """One of `commit`, `edit`, `remask`, `renoise` and `pad`."""
    @property
    def time(self) -> float:
        """Time of the reverse process, from 1 to 0; nan where the schedule has none."""

@final
class Prediction:
    """Proposals and statistics, one entry a position: what `mask_predict` returns and `Sampler.feed` takes.

    Args:
        token: `[N]` proposed tokens.
        probability: `[N]`, of those tokens.
        top1, top2: `[N]`, the two largest probabilities.
        entropy: `[N]`, in nats.
        logsumexp: `[N]`, logarithms of the sums of exponentials.
        current: `[N]`, probabilities of the current tokens; a rule that asks for them needs them where something is written.
        argmax: `[N]`, the most probable tokens; rules with drafts need them.
        head_ids, head_probabilities: `[M]`, the 64 most probable ids of each distribution (of equal ones the lower), rising,
            one position's behind the other's; `kl_threshold` needs them at masks.
        head_counts: `[N]`, how many of those each position has; 0 where they are not needed.
        leader, leader_probability: `[N]`, the most probable id before credit, NaN where it is not needed; `credit` needs them
            at masks.

    Raises:
        InvalidValueError: arrays of different lengths, heads that do not rise or are no probabilities.
        InvalidTypeError: what is no array of numbers.
    """

    def __new__(
        cls,
        *,
        token: NDArray[np.int64] | Sequence[int],
        probability: NDArray[np.float64],
        top1: NDArray[np.float64],
        top2: NDArray[np.float64],
        entropy: NDArray[np.float64],
        logsumexp: NDArray[np.float64] | None = None,
        current: NDArray[np.float64] | None = None,
        argmax: NDArray[np.int64] | Sequence[int] | None = None,
        head_ids: NDArray[np.int64] | None = None,
        head_probabilities: NDArray[np.float64] | None = None,
        head_counts: NDArray[np.int64] | None = None,
        leader: NDArray[np.int64] | None = None,
        leader_probability: NDArray[np.float64] | None = None,
    ) -> Prediction: ...
    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]: ...
    @property
    def token(self) -> NDArray[np.int64]:
        """Proposed tokens."""
    @property
    def probability(self) -> NDArray[np.float64]:
        """Their probabilities."""
    @property
    def top1(self) -> NDArray[np.float64]:
        """Largest probabilities."""
    @property
    def top2(self) -> NDArray[np.float64]:
        """Second largest probabilities."""
    @property
    def entropy(self) -> NDArray[np.float64]:
        """Entropies in nats."""
    @property
    def logsumexp(self) -> NDArray[np.float64] | None:
        """Logarithms of the sums of exponentials."""
    @property
    def current(self) -> NDArray[np.float64] | None:
        """Probabilities of the current tokens, where those were given."""
    @property
    def argmax(self) -> NDArray[np.int64] | None:
        """The most probable tokens, where those are known."""
    @property
    def head_ids(self) -> NDArray[np.int64] | None:
        """Ids of the heads of the distributions, where those were asked for, one head behind the other; each rises."""
    @property
    def head_probabilities(self) -> NDArray[np.float64] | None:
        """Their probabilities."""
    @property
    def head_counts(self) -> NDArray[np.int64] | None:
        """Ids of the head of each position."""
    @property
    def leader(self) -> NDArray[np.int64] | None:
        """The most probable ids before credit, where those were asked for."""
    @property
    def leader_probability(self) -> NDArray[np.float64] | None:
        """Their probabilities, NaN where a position was not asked for."""
    def rounded(self, dtype: str) -> Prediction:
        """The same with probabilities as a softmax in a dtype gives them, so that sure positions tie.

        Args:
            dtype: `float32`, `bfloat16` or `float16`.

        Raises:
            InvalidValueError: another dtype.
        """
    def __len__(self) -> int: ...

@final
class Request:
    """What must be scored before the next step; `Sampler.next` makes it.

    Lists of arrays are made when they are first asked for, and are the same for everybody who asks: copy what you write into.
    """

    @property
    def rows(self) -> NDArray[np.int64]:
        """Indices `[n]` of the rows that take part."""
    @property
    def canvases(self) -> list[NDArray[np.int64]]:
        """The tokens `[L]` of each such row."""
    @property
    def positions(self) -> list[NDArray[np.int64]]:
        """The positions to score, an array for each such row."""
    @property
    def counts(self) -> NDArray[np.int64]:
        """How many they are `[n]` of each such row."""
    @property
    def open(self) -> list[NDArray[np.bool_]]:
        """Which positions `[L]` nothing was written at, an array for each such row. What shows there means nothing."""
    @property
    def temperatures(self) -> NDArray[np.float64]:
        """The temperature `[n]` at which the tokens of each such row are drawn in this step."""
    @property
    def steps(self) -> NDArray[np.int64]:
        """Forwards `[n]` that each such row has behind it."""
    @property
    def block_steps(self) -> NDArray[np.int64]:
        """Forwards `[n]` of the block that each such row is filling, before this one: 0 in the first."""
    @property
    def causal(self) -> NDArray[np.bool_]:
        """Which rows `[n]` want a causal look: every position sees what is before it and itself, and the line before a position
        predicts it."""
    @property
    def proposed(self) -> list[NDArray[np.int64]]:
        """What the requested positions of each such row show in it; empty where they show what stands there."""
    @property
    def shadow(self) -> NDArray[np.bool_]:
        """Which rows `[n]` ask what is written at their requested positions from behind a shadow: a mask at each of those
        positions, beside what stands there, that sees all but the token of its own position and is seen by such masks alone."""
    @property
    def step(self) -> int:
        """Forwards that the first of these rows has behind it; rows that wait for room, or join later, have fewer."""
    @property
    def windows(self) -> NDArray[np.int64]:
        """The block that each such row is filling, `[n, 2]`: first position and the one behind the last."""
    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length `[n]` of the canvas of each such row."""
    def batch(
        self,
        begin: NDArray[np.int64] | Sequence[int],
        end: NDArray[np.int64] | Sequence[int],
        *,
        shift: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """One ragged batch of parts of the canvases.

        Args:
            begin, end: `[n]` first position of each row, and the one behind the last.
            shift: the line before a position predicts it.

        Returns:
            The tokens `[n, Q]`, filled up with 0, and for each requested position the line of the features `[n * Q, H]` that
            predicts it. A line before `begin` is named `n * Q + i`, i the place of its row.

        Raises:
            InvalidValueError: parts that do not lie in the canvases, or do not hold the requested positions.
        """
    def groups(self, *, shift: bool = False) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """Rows of equal length, which can share a forward.

        Args:
            shift: the line before a position predicts it.

        Returns:
            For each length: the rows, their canvases `[b, L]`, and for each requested position the line of the logits
            `[b * L, V]` that predicts it.
        """
    def with_canvases(self, canvases: Sequence[NDArray[np.int64] | Sequence[int]]) -> Request:
        """The same request about other tokens, for a second forward about the same positions, as guidance needs one.

        Args:
            canvases: tokens for each row, as many as its canvas has.

        Returns:
            A request with these canvases; rows, positions, windows and step are the same.

        Raises:
            InvalidValueError: another number of canvases, or a canvas of another length.
        """
    def with_rows(
        self,
        places: NDArray[np.int64] | Sequence[int],
        rows: NDArray[np.int64] | Sequence[int],
        twins: Sequence[Twin | None] | None = None,
    ) -> Request:
        """A request of other rows, each like one of these: for a row beside another one, as guidance needs it.

        Args:
            places: `[m]` which of these rows each is like.
            rows: `[m]` their numbers.
            twins: of each, what its canvas shows, and where all that is asked (positions, and the block) moves along; None for
                the canvas of the row that it is like.

        Raises:
            InvalidValueError: not as many of each, no such place, or a canvas that does not hold what is asked.
            InvalidTypeError: something else than a twin.
        """
    def shadow_of(self, rows: NDArray[np.int64] | Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """The shadow of some rows.

        Args:
            rows: `[n]` their numbers.

        Returns:
            The positions of each, `[n, S]`, rising, then -1; and for each position requested of these rows, in order, its place
            in the shadow of its row where that is what answers for it, else -1. None where none of them asks from behind one.

        Raises:
            InvalidValueError: a row that is not of this request.
        """

@final
class Twin:
    """The canvas of a row, but for its prompt: what guidance leads away from.

    Args:
        hidden, mask: positions that show a mask, and its id;
        prompt, start: or the tokens that stand in place of the first `start` ones.

    Raises:
        InvalidValueError: neither of the two, or both.
        InvalidTypeError: a value of the wrong type.
    """

    def __new__(
        cls,
        *,
        hidden: NDArray[np.int64] | Sequence[int] | None = None,
        mask: int | None = None,
        prompt: NDArray[np.int64] | Sequence[int] | None = None,
        start: int | None = None,
    ) -> Twin: ...
    @property
    def moves(self) -> int:
        """How much further right the answer stands in it."""
    def canvas(self, canvas: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
        """What the twin of a canvas shows.

        Args:
            canvas: `[L]` of the row.

        Raises:
            InvalidValueError: a canvas that does not hold the prompt.
        """

@final
class Sampler:
    """Fills the masks of canvases step by step; the caller owns the model.

    The loop is `while (request := sampler.next()) is not None: sampler.feed(logits)`, the logits being those of
    `request.positions`, in order. What a row writes is a function of its canvas, its settings, its seed and the answers, and
    depends neither on other rows nor on when it came; but `as_published` takes Dream's counts from the mean over the rows the
    sampler was made with (but for cancelled ones), as the published loop does. Canvases and edits of all its rows stay until
    the sampler goes, some 5 bytes a position and 40 an edit: who serves for long begins another sampler now and then.

    Args:
        config: a `SamplerConfig`.
        canvases: one array of tokens for each row, of any lengths; masks are what is written.
        seed: one for all rows or one for each, from 0 below 2^64; default 0.
        request: index of the sample for its prompt, one or one for each row; default 0.
        block_start: position from which blocks are counted, one or one for each row; default 0.
        open: which positions are written, a bool array for each row: for settings without a mask token.
        order: where the settings say `order="ranks"`: a rank for each position of the canvas, the lowest written first and ties
            from the left; one array for all rows, or one for each. Of given positions nobody asks.
        eligible_after: positions of the canvas, and for each those that must be written before it, as `{4: [2, 3]}`; one
            mapping for all rows, or one (or None) for each. Whoever is waited for lies in the same block or an earlier one.
        score_all: ask for every open position of a block, also where the rule chooses without looking; the edits are the same.
        max_rows: rows in a request at most; one that is done makes room for the next.

    Raises:
        InvalidValueError: settings, ids or lengths that do not fit.
        InvalidTypeError: a value of the wrong type.
    """

    def __new__(
        cls,
        config: object,
        canvases: Sequence[NDArray[np.int64] | Sequence[int]],
        *,
        seed: int | Sequence[int] | None = None,
        request: int | Sequence[int] | None = None,
        block_start: int | Sequence[int] | None = None,
        open: Sequence[NDArray[np.bool_] | Sequence[bool]] | None = None,
        order: Ranks | None = None,
        eligible_after: After | Sequence[After | None] | None = None,
        score_all: bool = False,
        max_rows: int | None = None,
    ) -> Sampler: ...
    def add(
        self,
        canvas: NDArray[np.int64] | Sequence[int],
        config: object = None,
        *,
        seed: int | None = None,
        request: int | None = None,
        block_start: int | None = None,
        open: NDArray[np.bool_] | Sequence[bool] | None = None,
        order: Ranks | None = None,
        eligible_after: After | None = None,
    ) -> int:
        """One more row, also while others wait for answers; it takes part from the next request on, as soon as there is room.

        Args:
            canvas: its tokens; masks are what is written.
            config: its own `SamplerConfig`; default: that of the sampler.
            seed: from 0 below 2^64; default 0.
            request: index of the sample for its prompt; default 0.
            block_start: position from which its blocks are counted; default 0.
            open: which positions are written: for settings without a mask token.
            order, eligible_after: as the sampler takes them for one row.

        Returns:
            The row's index: the number of rows so far.

        Raises:
            InvalidValueError: settings, ids or lengths that do not fit.
            InvalidTypeError: a value of the wrong type.
        """
    def config(self, row: int) -> Any:
        """The settings of a row, as they were given.

        Raises:
            InvalidValueError: no such row.
            InvalidTypeError: no whole number.
        """
    def cancel(self, row: int) -> None:
        """The row takes no further part; its canvas stays as it is, and an answer it waits for is not wanted any more.

        A row that is done stays as it is.

        Raises:
            InvalidValueError: there is no such row.
        """
    def is_done(self, row: int) -> bool:
        """Is the row finished, or cancelled?

        Raises:
            InvalidValueError: there is no such row.
        """
    def stable(self, rows: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
        """How far each of these canvases will stay as it is.

        Returns:
            `[n]` how many positions, from the start of the canvas, were written and can no longer change under the row's rule;
            given ones are not counted.

        Raises:
            InvalidValueError: there is no such row.
        """
    def end(self, row: int, position: int) -> None:
        """Ends a row at a position that was written and can no longer change, and the row is finished.

        What follows it is filled with the first end token; where none is known, with the token that stands there.

        Raises:
            InvalidValueError: there is no such row, it was cancelled, it ended before, or the position may still change.
        """
    def endings(self, rows: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
        """What ended each of these rows before its last position: an end token, a stop, or `end`.

        Returns:
            `[n, 2]` the positions of its first and its last token; -1 where nothing did.

        Raises:
            InvalidValueError: there is no such row.
        """
    def written(
        self, rows: NDArray[np.int64] | Sequence[int], since: NDArray[np.int64] | Sequence[int]
    ) -> list[NDArray[np.int64]]:
        """For each of `rows`, the tokens at the positions that `stable` counts, from the `since`-th on.

        Raises:
            InvalidValueError: a row that is none of the sampler's, or not one number for each row.
        """
    def next(self) -> Request | None:
        """What must be scored next, or None when every row is done. Asking again before the answer asks for the same."""
    def sites(
        self, rows: NDArray[np.int64] | Sequence[int]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]]:
        """What a draw at each requested position of `rows` depends on, in order.

        Returns:
            Arrays `[N]` of seeds, requests, positions and steps, and the number of positions of each row.
        """
    def current(self, rows: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64] | None:
        """The token at each requested position of `rows` whose probability is wanted beside what is proposed, in order.

        Returns:
            Ids `[N]`, -1 where none is wanted; None where that is so everywhere.
        """
    def pace(self, rows: NDArray[np.int64] | Sequence[int]) -> tuple[_Pace, _Pace | None]:
        """How many tokens the waiting step of each of `rows` commits at least, and the share of its block's steps done then.

        Returns:
            That, and the same for the step after it, or None unless that is as good as sure to come for all of them.
        """
    def predict(
        self,
        logits: Any,
        *,
        rows: NDArray[np.int64] | Sequence[int] | None = None,
        index: NDArray[np.int64] | Sequence[int] | None = None,
        unguided: Any = None,
    ) -> Prediction:
        """Statistics and drawn tokens for the requested positions of `rows`. Changes nothing.

        Args:
            logits: `[N, V]`, float32, float16 or bfloat16, read in place.
            rows: default: all that wait.
            index: the line of the logits for each position; without it they follow each other.
            unguided: `[n, V]`, those without the prompt, one line for each position in order; for guidance of a reverse process
                over noise alone, whose prediction is what a next token of the canvas is drawn from.

        Raises:
            InvalidValueError: a NaN, a line that allows no id, or sizes or rows that do not fit the request.
        """
    def feed(
        self,
        logits: Any = None,
        *,
        prediction: Prediction | None = None,
        tokens: NDArray[np.int64] | Sequence[int] | None = None,
        scores: NDArray[np.float64] | Sequence[float] | None = None,
        rows: NDArray[np.int64] | Sequence[int] | None = None,
        index: NDArray[np.int64] | Sequence[int] | None = None,
    ) -> None:
        """Answers the last request, whole or in parts. A refused answer changes nothing.

        Args:
            logits: `[N, V]`, as `predict` takes them; or instead of them
            prediction: of `predict` or `mask_predict`; or
            tokens, scores: `[N]`, of the caller's own choice; a score stands for probability and confidence.
            rows: those that are answered; default: all that wait.
            index: the line of the logits for each position.

        Raises:
            InvalidValueError: a NaN, a line that allows no id, no answer or several, or one that does not fit the request.
        """
    @property
    def canvases(self) -> list[NDArray[np.int64]]:
        """The canvases of all rows as they stand."""
    @property
    def open(self) -> list[NDArray[np.bool_]]:
        """Which positions of each canvas are open as they stand."""
    @property
    def trajectory(self) -> list[list[Edit]]:
        """For each row, its edits so far, in order."""
    def edits(self, rows: NDArray[np.int64] | Sequence[int], since: NDArray[np.int64] | Sequence[int]) -> list[list[Edit]]:
        """For each of `rows`, its edits from the `since`-th on, in order.

        Raises:
            InvalidValueError: a row that is none of the sampler's, or not one number for each row.
        """
    @property
    def nfe_per_row(self) -> list[int]:
        """Forwards that each row has taken part in."""
