"""Models that are exactly right: the true conditional distributions of a uniform choice among known answers.

What goes wrong with them is the sampler's doing alone. Two tasks where a joint answer cannot be drawn one position at a time
without looking: a list in any order (as ParallelBench's "shuffle", 2510.04767), duplicates among it, and a Latin square. Both
are trivial at one token a forward, and provably wrong in parallel: independent draws of k positions repeat what was to be used
once.
"""

from __future__ import annotations

import itertools
import math
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

    def __call__(self, ids: torch.Tensor, shadow: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of every position, and behind them those of the positions `shadow` `[B, W]`, each from behind a mask: which is
        what a written position is told anyway (`shadow=` of `dllm_fast`)."""
        logits = torch.from_numpy(self._logits(ids.numpy()))
        if shadow is None:
            return logits
        again = shadow.clamp(min=0)[..., None].expand(-1, -1, logits.shape[2])
        return torch.cat((logits, logits.gather(1, again)), 1)

    def _logits(self, canvas: NDArray[np.int64]) -> NDArray[np.float32]:
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
        return logits.astype(np.float32)

    def causal(self, canvas: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits `[L, V + 1]` of each position of a canvas given what stands to its left, all of which is written."""
        slips = np.cumsum(self.answers != canvas, axis=1) - (self.answers != canvas)
        weights = np.power(self._slip / (self.vocabulary - 1) / (1 - self._slip), slips - slips.min(0))
        logits = np.full((len(canvas), self.vocabulary + 1), -np.inf, dtype=np.float32)
        for position in range(len(canvas)):
            share = np.bincount(self.answers[:, position], weights[:, position], self.vocabulary)
            with np.errstate(divide="ignore"):
                logits[position, : self.vocabulary] = np.log(share / share.sum())
        return logits

    def check(self, canvas: NDArray[np.int64]) -> bool:
        """Is it one of the answers?"""
        return bool((self.answers == canvas).all(1).any())


class NoisyOracle(Oracle):
    """The same for canvases of noise: how far they are on the way from noise to an answer is unknown, each time of `TIMES` as
    probable as any other.

    Args:
        answers: as for `Oracle`.
        share: of wrong tokens in the middle of the way, between masks (GIDD's noise, `noise_share`); None: wrong tokens alone
            (UDLM's noise), and there is no mask: logits are `[B, L, V]`.
        own: what stands at a position is evidence for it, as for a model that was trained to tell the clean token. Without, it
            is left out, as at the optimum of a model whose distribution is put in the place of the clean token in the posterior
            of a step (UDLM, GIDD): the posterior weighs what stands there itself.
    """

    TIMES = tuple((i + 0.5) / 10 for i in range(10))

    def __init__(self, answers: NDArray[np.int64], share: float | None = None, *, own: bool = True) -> None:
        super().__init__(answers)
        self.share = share
        self.own = own

    def marginal(self, time: float) -> tuple[float, float, float]:
        """Shares of right tokens, masks and tokens drawn from the vocabulary."""
        if self.share is None:
            return 1 - time, 0.0, time
        drawn = 2 * self.share / (1 - self.share) * math.sqrt(time * (1 - time))
        return (1 - time) / (1 + drawn), time / (1 + drawn), drawn / (1 + drawn)

    def _logits(self, canvas: NDArray[np.int64]) -> NDArray[np.float32]:
        batch, length = canvas.shape
        seen = np.eye(self.vocabulary + 1, dtype=np.float64)[canvas][..., : self.vocabulary]
        tokens = seen.sum((1, 2))[:, None]
        agree = seen.reshape(batch, -1) @ self._hot.T
        of = np.zeros((batch, length, self.vocabulary))
        for clean, mask, drawn in map(self.marginal, self.TIMES):
            wrong = drawn / self.vocabulary
            weights = mask ** (length - tokens) * (clean + wrong) ** agree * wrong ** (tokens - agree)
            share = (weights @ self._hot).reshape(of.shape)
            of += share if self.own else share / np.where(seen.any(2, keepdims=True), seen * clean + wrong, mask)
        logits = np.full((batch, length, self.vocabulary + (self.share is not None)), -np.inf)
        with np.errstate(divide="ignore"):
            logits[..., : self.vocabulary] = np.log(of / of.sum(2, keepdims=True))
        return logits.astype(np.float32)


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
