"""The logits of two models, made one (APD, Israel et al., 2506.00413)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Logits that are widened at a time: what they take beside the matrices is bounded.
_PIECE = 2**22


def mix(logits: Tensor, others: Tensor, other_lines: Tensor, weight: float) -> Tensor:
    """`weight * d + (1 - weight) * a`, float32 `[n, V]`.

    In float32: both weights and each of the three operations are rounded by themselves. What either model rules out (-inf) is
    -inf, and so is a token that only `logits` have; one that only `others` have is left out. A weight of 0 gives a as it is.

    Args:
        logits: `[n, V]`, those that are d.
        others: `[M, W]`, on the same device.
        other_lines: `[n]` those of them that are a.
        weight: from 0 to 1.
    """
    width = min(logits.shape[1], others.shape[1])
    mixed = torch.full(logits.shape, -torch.inf, dtype=torch.float32, device=logits.device)
    own, other = (torch.tensor(share, dtype=torch.float32).item() for share in (weight, 1.0 - weight))
    step = max(_PIECE // max(width, 1), 1)
    for start in range(0, len(logits), step):
        piece = slice(start, start + step)
        a = others.index_select(0, other_lines[piece])[:, :width].float()
        if weight > 0:
            d = logits[piece, :width].float()
            is_out = (d == -torch.inf) | (a == -torch.inf)
            a = a.mul(other).add_(d.mul(own)).masked_fill_(is_out, -torch.inf)
        mixed[piece, :width] = a
    return mixed
