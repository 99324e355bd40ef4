"""What all loops share: a canvas that remembers what was written, probabilities, and the best of some scores."""

from __future__ import annotations

import numpy as np
import torch

# Nearer than this, confidences may be ranked either way by those who round differently.
_NEAR = 1e-9


class Canvas:
    """Tokens being filled.

    Attributes:
        tokens: int64 `[L]`.
        forwards: questions to the model so far.
        edits: what was written, in order: (forward, position, token).
        is_clear: no two positions had confidences that are nearly, but not quite, the same.
    """

    def __init__(self, model, tokens, mask: int, excluded=(), shift: bool = False):
        self.model, self.mask, self.shift = model, mask, shift
        self.excluded = sorted({mask, *excluded})
        self.tokens = np.array(tokens, dtype=np.int64)
        self.forwards = 0
        self.is_clear = True
        self.edits: list[tuple[int, int, int]] = []

    def masked(self, start: int = 0, end: int | None = None) -> list[int]:
        """Positions in [start, end) that are still masks."""
        return [start + int(i) for i in np.flatnonzero(self.tokens[start:end] == self.mask)]

    def predict(self, dtype: torch.dtype | None = None) -> np.ndarray:
        """Probabilities `[L, V]` of a forward: the softmax in `dtype`, or in float64."""
        logits = self.model(self.tokens.copy())
        if self.shift:
            # The logits of a position predict its right neighbour; the first position has nobody to its left.
            logits = logits[[0, *range(len(logits) - 1)]]
        self.forwards += 1
        p = softmax(logits, self.excluded, dtype)
        # A model of blocks may be shown, and predict, less than the whole canvas.
        between = np.diff(np.unique(p[self.masked(0, len(p))].max(axis=-1)))
        self.is_clear &= not between.size or between.min() > _NEAR
        return p

    def write(self, position: int, token) -> None:
        """Replaces a mask. To be called after the forward that led to it."""
        assert self.tokens[position] == self.mask
        assert token != self.mask
        self._put(position, token)

    def rewrite(self, position: int, token) -> None:
        """Replaces a token that was written before. To be called after the forward that led to it."""
        assert self.tokens[position] not in (self.mask, token)
        assert token != self.mask
        self._put(position, token)

    def _put(self, position: int, token) -> None:
        self.tokens[position] = token
        self.edits.append((self.forwards - 1, int(position), int(token)))


def softmax(logits: torch.Tensor, excluded, dtype: torch.dtype | None = None) -> np.ndarray:
    """Probabilities of rows of logits as float64, without the excluded ids.

    In float64 the sum is taken over the sorted terms, so that rows that hold the same numbers in different places have the
    same confidence to the last bit: planted ties are ties. With a dtype it is torch's softmax in that dtype.
    """
    logits = logits.clone()
    logits[:, list(excluded)] = -torch.inf
    if dtype is not None:
        return torch.softmax(logits.to(dtype), -1).double().numpy()
    x = logits.double().numpy()
    terms = np.exp(x - x.max(axis=-1, keepdims=True))
    return terms / np.sort(terms, axis=-1).sum(axis=-1, keepdims=True)


def entropy(p: np.ndarray) -> np.ndarray:
    """Entropies `[L]` in nats, summed in sorted order for the same reason."""
    terms = np.zeros_like(p)
    np.log(p, out=terms, where=p > 0)
    return -np.sort(p * terms, axis=-1).sum(axis=-1)


def best(scores: dict[int, float], count: int) -> list[int]:
    """The `count` positions of highest score, the best first; ties go to the lower position."""
    return sorted(scores, key=lambda p: (-scores[p], p))[:count]


def even(masks: int, steps: int) -> list[int]:
    """Equal quotas that add up to `masks`, the remainder spread over the first steps."""
    return [masks // steps + (step < masks % steps) for step in range(steps)]
