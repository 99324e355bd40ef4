"""Guidance: logits with and without the prompt, made one (classifier-free guidance; LLaDA, 2502.09992)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pair:
    """The logits of some rows with and without their prompts: the core leads the posteriors of the one away from the other.

    Attributes:
        own: `[n, V]`.
        unguided: `[n, V]` of the same positions in the same order.
    """

    own: Tensor
    unguided: Tensor

    @property
    def shape(self) -> torch.Size:
        """That of either."""
        return self.own.shape


# Logits that are widened at a time: what they take beside the matrix is bounded.
_PIECE = 2**22
#: What can be mixed; the core takes no others.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def guide_(
    logits: Tensor, lines: Tensor, others: Tensor, other_lines: Tensor, scales: Tensor, *, as_published: bool = False
) -> None:
    """Writes `u + scale * (c - u)` in place of `c`.

    In float32: each of the three operations is rounded by itself, and what comes out is rounded once to the dtype of the
    logits. Infinities have their limits: where `c = u` it is `c`, and where `c - u` is infinite it is that.

    Args:
        logits: `[N, V]`, written to.
        lines: `[n]` those that are c, each once.
        others: `[M, V]` of the same dtype, which may be the same matrix.
        other_lines: `[n]` those that are u, none of which is among `lines` where the matrices are the same.
        scales: `[n]` float32, a weight plus 1.
        as_published: round each operation to the dtype of the logits, as LLaDA's loop does.
    """
    step = max(_PIECE // max(logits.shape[1], 1), 1)
    for start in range(0, len(lines), step):
        piece = slice(start, start + step)
        at = lines[piece]
        mixed, other = logits.index_select(0, at), others.index_select(0, other_lines[piece])
        if not as_published:
            mixed, other = mixed.float(), other.float()
        equal = mixed == other
        mixed.sub_(other).masked_fill_(equal, 0)
        other.masked_fill_(mixed.isinf(), 0)
        mixed.mul_(scales[piece, None]).add_(other)
        logits.index_copy_(0, at, mixed.to(logits.dtype))
