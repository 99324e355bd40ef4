"""Models that are exactly right: the true conditional distributions of a uniform choice among known answers.

What goes wrong with them is the sampler's doing alone. Two tasks where a joint answer cannot be drawn one position at a time
without looking: a list in any order (as ParallelBench's "shuffle", 2510.04767), duplicates among it, and a Latin square. Both
are trivial at one token a forward, and provably wrong in parallel: independent draws of k positions repeat what was to be used
once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

# How probable it is that a written token is a slip: next to nothing, so that only canvases without an answer feel it.
SLIP = 1e-6


class Oracle:
    """The posterior of each position when one of `answers` was drawn uniformly and some of it is seen, each token a slip of
    the pen with probability `slip`.

    At a mask: the distribution of its token given everything written. At a written position: given everything *else*, so that
    it says what should stand there. For a canvas that fits an answer this is Bayes' rule among the answers that fit; for one
    that fits none, among the nearest.

    Args:
        answers: `[A, L]`, ids from 0 to V - 1.
        slip: probability of a slip.

    The mask is id V; logits are `[B, L, V + 1]`.
    """

    def __init__(self, answers: NDArray[np.int64], slip: float = SLIP) -> None:
        self.vocabulary = int(answers.max()) + 1
        self.mask = self.vocabulary
        self.answers = answers
        self._slip = slip
        self._hot = np.eye(self.vocabulary, dtype=np.float64)[answers].reshape(len(answers), -1)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        canvas = ids.numpy()
        batch, length = canvas.shape
        seen = np.eye(self.vocabulary + 1, dtype=np.float64)[canvas][..., : self.vocabulary]
        slips = seen.sum((1, 2))[:, None] - seen.reshape(batch, -1) @ self._hot.T
        each = np.log(self._slip / (self.vocabulary - 1)) - np.log1p(-self._slip)
        weights = slips * each
        weights = np.exp(weights - weights.max(1, keepdims=True))
        share = (weights @ self._hot).reshape(batch, length, self.vocabulary)
        # Without its own word: each answer was charged a factor for what stands here, which only depends on its token here.
        share *= np.exp(np.where(seen.any(2, keepdims=True) & (seen == 0), -each, 0.0))
        logits = np.full((batch, length, self.vocabulary + 1), -np.inf)
        with np.errstate(divide="ignore"):
            logits[..., : self.vocabulary] = np.log(share / share.sum(2, keepdims=True))
        return torch.from_numpy(logits.astype(np.float32))

    def check(self, canvas: NDArray[np.int64]) -> bool:
        """Is it one of the answers?"""
        return bool((self.answers == canvas).all(1).any())


class NoisyOracle(Oracle):
    """The same for canvases without masks, on which an unknown share of the tokens is uniform noise: each share of `SHARES` as
    probable as any other, and of each position what it was, with what stands there being evidence like any other.
    """

    SHARES = tuple((i + 0.5) / 10 for i in range(10))

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        canvas = ids.numpy()
        batch, length = canvas.shape
        agree = np.eye(self.vocabulary, dtype=np.float64)[canvas].reshape(batch, -1) @ self._hot.T
        weights = np.zeros((batch, len(self.answers)))
        for share in self.SHARES:
            noise = share / self.vocabulary
            weights += np.exp(agree * np.log(1 - share + noise) + (length - agree) * np.log(noise))
        of = (weights @ self._hot).reshape(batch, length, self.vocabulary)
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(of / of.sum(2, keepdims=True)).astype(np.float32))


def orders(letters: Sequence[int]) -> NDArray[np.int64]:
    """All different orders of a list, duplicates or not."""
    return np.array(sorted(set(itertools.permutations(letters))), dtype=np.int64)


def latin_squares(size: int = 4) -> NDArray[np.int64]:
    """All squares in which no row and no column repeats a token, row by row."""
    rows = list(itertools.permutations(range(size)))
    squares: list[tuple[int, ...]] = [()]
    for _ in range(size):
        squares = [
            (*square, *row) for square in squares for row in rows if all(row[i] not in square[i::size] for i in range(size))
        ]
    return np.array(squares, dtype=np.int64)
