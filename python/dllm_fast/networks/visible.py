"""Attention rules: which keys a position sees. One class each, asked by everybody; a new one is a class and a row of `RULES`.

A position sees the slots from 0 up to an end of its own. What that is may depend on the block that is being filled, which lies
between `origin` and `stop`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

# What users type; the keys of `RULES`.
Attention = Literal["full", "block_causal", "causal_context", "causal_reordered", "encoder_canvas"]


class AttentionRule:
    """What everybody asks of a rule. What is written here holds where every position sees all.

    Attributes:
        name: as users type it.
        needs_blocks: it has a block length of its own.
        is_exact: keys left of `origin` never change again, so a cache may keep them.
        is_fixed: what a position sees does not depend on the block that is being filled, so whole canvases can be run as ever.
        hides_nothing: a class that sees both ways needs no mask.
        reorders: known tokens are read first and masks last.
        has_canvas: the network reads the block that is being filled otherwise than what lies before it.
        is_autoregressive: read causally to its end, a text is answered by the model's own left-to-right law.
        block_length: of attention by blocks, or None.
    """

    name: ClassVar[Attention]
    needs_blocks: ClassVar[bool] = False
    is_exact: ClassVar[bool] = False
    is_fixed: ClassVar[bool] = True
    hides_nothing: ClassVar[bool] = True
    reorders: ClassVar[bool] = False
    has_canvas: ClassVar[bool] = False
    is_autoregressive: ClassVar[bool] = False

    def __init__(self, block_length: int | None = None) -> None:
        self.block_length = block_length

    @property
    def fixed_blocks(self) -> int | None:
        """The length of blocks that lie at its multiples, whoever fills them; None where they lie behind the prompt."""
        return None

    def allows(self, block: int) -> bool:
        """May a canvas be filled by blocks of that length?"""
        return True

    def origin(self, begins: Ints, starts: Ints) -> Ints:
        """Where the block begins that a row is at.

        Args:
            begins: of the window of each row that is filled.
            starts: first position of each row behind its prompt.
        """
        return np.maximum(begins, starts)

    def stop(self, stops: Ints, lengths: Ints) -> Ints:
        """What the positions of the window can see at most: nothing right of it needs to be computed.

        Args:
            stops: of the windows.
            lengths: of the canvases.
        """
        return lengths

    def end(self, positions: Ints, origin: Ints, stop: Ints, lengths: Ints) -> Ints:
        """The first position that each of `[n, Q]` does not see.

        Args:
            positions: below `stop`; behind it there is padding, of which anything may be said.
            origin, stop: of the block of each row, `[n]`.
            lengths: of the canvases.
        """
        return np.broadcast_to(lengths[:, None], positions.shape)

    def whole(self, length: int) -> Ints | None:
        """The ends of all positions of a canvas whose last block is the one that is being filled; None where all see all."""
        if self.hides_nothing:
            return None
        origin, stop = np.array([self.last_block(length)]), np.array([length])
        ends: Ints = self.end(np.arange(length)[None], origin, stop, stop)[0]
        return ends

    def last_block(self, length: int) -> int:
        """Where the last block of a canvas begins whose blocks are counted from its beginning."""
        size = self.block_length or length
        return max(length - 1, 0) // size * size if size else 0

    def order(self, is_open: NDArray[np.bool_], lengths: Ints) -> Ints:
        """The positions of each row `[n, Q]` in the order in which they are read, padding last.

        Args:
            is_open: which of them nobody knows yet.
            lengths: of the canvases.
        """
        return np.broadcast_to(np.arange(is_open.shape[1]), is_open.shape)


class Full(AttentionRule):
    """Every position sees all."""

    name = "full"


class BlockCausal(AttentionRule):
    """A position sees its block and the blocks before it."""

    name = "block_causal"
    needs_blocks = True
    is_exact = True
    hides_nothing = False

    @property
    def _size(self) -> int:
        assert self.block_length is not None
        return self.block_length

    @property
    def fixed_blocks(self) -> int | None:
        return self.block_length

    def allows(self, block: int) -> bool:
        return self._size % block == 0

    def origin(self, begins: Ints, starts: Ints) -> Ints:
        return begins // self._size * self._size

    def stop(self, stops: Ints, lengths: Ints) -> Ints:
        return np.minimum((stops - 1) // self._size * self._size + self._size, lengths)

    def end(self, positions: Ints, origin: Ints, stop: Ints, lengths: Ints) -> Ints:
        return np.minimum((positions // self._size + 1) * self._size, lengths[:, None])


class CausalContext(AttentionRule):
    """What lies before the block is causal; the block that is being filled sees all of that and all of itself."""

    name: ClassVar[Attention] = "causal_context"
    needs_blocks = True
    is_exact = True
    is_autoregressive: ClassVar[bool] = True
    is_fixed = False
    hides_nothing = False

    def stop(self, stops: Ints, lengths: Ints) -> Ints:
        return stops

    def end(self, positions: Ints, origin: Ints, stop: Ints, lengths: Ints) -> Ints:
        return np.where(positions < origin[:, None], positions + 1, stop[:, None])


class EncoderCanvas(CausalContext):
    """As `causal_context`, by a network that encodes what lies before the block and denoises the block, which is its canvas
    and always whole (DiffusionGemma)."""

    name = "encoder_canvas"
    has_canvas = True
    is_autoregressive = False

    def allows(self, block: int) -> bool:
        return block == self.block_length


class CausalReordered(AttentionRule):
    """Known tokens are read first and masks last, every token at its own position; each sees those before it (WeDLM)."""

    name = "causal_reordered"
    is_fixed = False
    hides_nothing = False
    reorders = True

    def end(self, positions: Ints, origin: Ints, stop: Ints, lengths: Ints) -> Ints:
        """Of places in the order that `order` gives."""
        return positions + 1

    def order(self, is_open: NDArray[np.bool_], lengths: Ints) -> Ints:
        behind = np.arange(is_open.shape[1]) >= lengths[:, None]
        return np.argsort(np.where(behind, 2, is_open), axis=1, kind="stable")


RULES: dict[str, type[AttentionRule]] = {
    rule.name: rule for rule in (Full, BlockCausal, CausalContext, CausalReordered, EncoderCanvas)
}
