"""Policies of the cache: which positions go through the network, what is kept of them, and whether that is exact.

One class each; a new one is a class and a row of `POLICIES`. An object belongs to one run and knows its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dllm_fast.errors import InvalidValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dllm_fast.networks.visible import AttentionRule

    Ints = NDArray[np.int64]

ANY_NUMBER = 1 << 30
_REORDERED = "needs tokens that keep their places: here they are reordered in every forward"


@dataclass(frozen=True, slots=True)
class Windows:
    """Some rows of a run, and where each is.

    Attributes:
        rows: their numbers.
        begins, stops: of the windows that are filled.
        starts: first position behind the prompt.
        lengths: of the canvases.
    """

    rows: Ints
    begins: Ints
    stops: Ints
    starts: Ints
    lengths: Ints


@dataclass(frozen=True, slots=True)
class Span:
    """What a forward computes of each row.

    Attributes:
        begin, end: the positions `[begin, end)`.
        origin: where its block begins.
        is_full: everything, under an approximate policy.
    """

    begin: Ints
    end: Ints
    origin: Ints
    is_full: NDArray[np.bool_] | None = None


class Policy:
    """What a run asks of its policy. What is written here holds where every forward computes all that the scored positions see.

    Attributes:
        name: as users type it.
        keeps: it needs a cache.
        is_exact: it gives the tokens of `none`.
        carries: features of the last position before the block are kept, because they predict its first token.
    """

    name: ClassVar[str]
    keeps: ClassVar[bool] = False
    is_exact: ClassVar[bool] = True

    def __init__(self, rule: AttentionRule, rows: int, *, shift: bool, refresh_every: int | None = None) -> None:
        self._rule = rule
        self._shift = int(shift)
        self._refresh_every = refresh_every
        self.carries = False
        self._known: tuple[Windows, Span] | None = None  # as long as the rows are where they were
        for _ in range(rows):
            self.add()

    @classmethod
    def obstacle(cls, rule: AttentionRule) -> str | None:
        """Why a model with that attention cannot have it, or None."""
        return None

    def add(self) -> None:
        """A row more."""

    def span(self, at: Windows) -> Span:
        """What the next forward computes."""
        if self._known is None or self._known[0] is not at:
            self._known = at, self._span(at, self._rule.origin(at.begins, at.starts))
        return self._known[1]

    def _span(self, at: Windows, origin: Ints) -> Span:
        return Span(np.zeros_like(origin), self._rule.stop(at.stops, at.lengths), origin)

    def shared(self, at: Windows) -> Ints | None:
        """How many positions of rows that have just come are final, so that rows of one prompt may copy them; None for none."""
        return None

    def copied(self, rows: Ints, counts: Ints) -> None:
        """So many positions of these rows are in the cache."""

    def repeats(self, at: Windows, span: Span) -> int:
        """How many of the next forwards of these rows, as far as they are of the same blocks, compute the same positions?"""
        return ANY_NUMBER

    def after(self, at: Windows, span: Span) -> None:
        """The forward has been made."""


class Uncached(Policy):
    """`none`: no cache."""

    name = "none"


class ExactBlock(Policy):
    """`exact_block`: the block that is being filled, and once more the one before it, whose last tokens were committed by the
    forward before. Keys left of that never change, so this is exact."""

    name = "exact_block"
    keeps = True

    def __init__(self, rule: AttentionRule, rows: int, *, shift: bool, refresh_every: int | None = None) -> None:
        self._fresh = np.zeros(0, dtype=np.int64)  # of each row: positions below are final and in the cache
        super().__init__(rule, rows, shift=shift, refresh_every=refresh_every)
        self.carries = shift

    @classmethod
    def obstacle(cls, rule: AttentionRule) -> str | None:
        if rule.reorders:
            return _REORDERED
        return None if rule.is_exact else "needs a block-causal model: here every key may change with every token"

    def add(self) -> None:
        self._fresh = np.append(self._fresh, 0)

    def _span(self, at: Windows, origin: Ints) -> Span:
        return Span(self._fresh[at.rows], self._rule.stop(at.stops, at.lengths), origin)

    def shared(self, at: Windows) -> Ints | None:
        # Where the predictions are shifted, the last of the blocks is left out: the row itself needs its features once.
        size = self._rule.block_length or 1
        return np.maximum(self._rule.origin(at.begins, at.starts) - self._shift * size, 0)

    def copied(self, rows: Ints, counts: Ints) -> None:
        self._fresh[rows] = counts
        self._known = None

    def repeats(self, at: Windows, span: Span) -> int:
        return ANY_NUMBER if (span.begin == span.origin).all() else 0

    def after(self, at: Windows, span: Span) -> None:
        if not (span.begin == span.origin).all():
            self._fresh[at.rows] = span.origin
            self._known = None


class Prefix(Policy):
    """`prefix`: a full forward at the start of a block and every `refresh_every` forwards, between them the block and what is
    right of it. Approximate: the keys on the left are as they were (Fast-dLLM, 2505.22618)."""

    name = "prefix"
    keeps = True
    is_exact = False

    def __init__(self, rule: AttentionRule, rows: int, *, shift: bool, refresh_every: int | None = None) -> None:
        # Of each row: forwards since the last full one, and the block of that.
        self._age, self._block = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        super().__init__(rule, rows, shift=shift, refresh_every=refresh_every)

    @classmethod
    def obstacle(cls, rule: AttentionRule) -> str | None:
        return _REORDERED if rule.reorders else None

    def add(self) -> None:
        self._age, self._block = np.append(self._age, 0), np.append(self._block, -1)

    def span(self, at: Windows) -> Span:
        origin = np.maximum(at.begins, at.starts)
        is_full = self._block[at.rows] != origin
        if self._refresh_every is not None:
            is_full |= self._age[at.rows] >= self._refresh_every
        begin = np.where(is_full, 0, np.maximum(origin - self._shift, 0))
        return Span(begin, self._end(at, is_full), origin, is_full)

    def _end(self, at: Windows, is_full: NDArray[np.bool_]) -> Ints:
        return self._rule.stop(at.stops, at.lengths)

    def repeats(self, at: Windows, span: Span) -> int:
        assert span.is_full is not None
        if span.is_full.any():
            return 0
        return ANY_NUMBER if self._refresh_every is None else max(self._refresh_every - 1 - int(self._age[at.rows].max()), 0)

    def after(self, at: Windows, span: Span) -> None:
        assert span.is_full is not None
        self._age[at.rows] = np.where(span.is_full, 1, self._age[at.rows] + 1)
        self._block[at.rows] = span.origin


class Dual(Prefix):
    """`dual`: as `prefix`, but only the block between full forwards; the keys on both sides are as they were."""

    name = "dual"

    def _end(self, at: Windows, is_full: NDArray[np.bool_]) -> Ints:
        end = super()._end(at, is_full)
        return np.where(is_full, end, np.minimum(at.stops, end))


POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (Uncached, Prefix, Dual, ExactBlock)}


def resolve(name: str, rule: AttentionRule) -> type[Policy]:
    """The policy of that name; of `auto` the fastest one that gives the tokens of `none`.

    Raises:
        InvalidValueError: the model cannot have it.
    """
    best: type[Policy] = ExactBlock if ExactBlock.obstacle(rule) is None else Uncached
    policy = best if name == "auto" else POLICIES[name]
    if (why := policy.obstacle(rule)) is not None:
        others = [repr(other) for other, one in POLICIES.items() if one.obstacle(rule) is None]
        raise InvalidValueError(f"cache={name!r} {why} (attention {rule.name!r}); use cache={' or '.join(others)}")
    return policy
