"""What rules remember of a block from one forward to the next: KLASS and CreditDecoding."""

from __future__ import annotations

import numpy as np

from reference.arithmetic import SMALLEST_NORMAL, exp64, ln, ln_1p
from reference.statistics import allowed, statistics

HEAD = 64


def head(stats) -> dict[int, float]:
    """The 64 most probable ids, of equal ones the lower, by rising id; those at -inf are none."""
    ids = sorted(np.flatnonzero(stats.x > -np.inf).tolist(), key=lambda i: (-stats.x[i], i))
    return {i: stats.probability(i) for i in sorted(ids[:HEAD])}


def divergence(before: dict[int, float], now: dict[int, float]) -> float:
    """Kullback-Leibler divergence of a distribution from the one before: over the ids that were in the head then, and all
    others as one cell. An id that has left the head counts with the others."""

    def term(p: float, q: float) -> float:
        return p * (ln(max(p, SMALLEST_NORMAL)) - ln(max(q, SMALLEST_NORMAL))) if p > 0 else 0.0

    sum_, p_inside, q_inside = 0.0, 0.0, 0.0
    for i, q in before.items():
        q_inside += q
        if i in now:
            p_inside += now[i]
            sum_ += term(now[i], q)
    return max(sum_ + term(max(1.0 - p_inside, 0.0), max(1.0 - q_inside, 0.0)), 0.0)


class Memory:
    """Of the masks of a block.

    Attributes:
        heads: by position, the head of the forward before; none before the first.
        rested: in how many forwards up to this one the divergence stayed below the threshold.
        credits: by position, what ids have earned.
    """

    def __init__(self, config):
        self.config = config
        self.heads: dict[int, dict[int, float]] = {}
        self.rested: dict[int, int] = {}
        self.credits: dict[int, dict[int, float]] = {}

    def raised(self, position: int, logits, suppress):
        """The logits of a mask, with credit: all decays, who stands first earns, then its logarithm is added."""
        c = self.config
        if c.credit is None:
            return logits
        stats = statistics(allowed(logits, suppress))
        credits = {i: credit * c.credit_decay for i, credit in self.credits.get(position, {}).items()}
        earned = exp64(c.credit_power * ln(stats.top1))
        credits[stats.argmax] = credits.get(stats.argmax, 0.0) + earned
        self.credits[position] = credits
        x = np.array(logits, dtype=np.float32)
        for i, credit in credits.items():
            x[i] = np.float32(float(x[i]) + c.credit * ln_1p(credit))
        return x

    def look(self, position: int, logits, suppress) -> None:
        """Compares the distribution of a mask with the one before."""
        if self.config.kl_threshold is None:
            return
        now, before = head(statistics(allowed(logits, suppress))), self.heads.get(position)
        is_close = before is not None and divergence(before, now) < self.config.kl_threshold
        self.heads[position] = now
        self.rested[position] = self.rested.get(position, 0) + 1 if is_close else 0

    def steady(self) -> set[int]:
        """Positions whose distribution has come to rest."""
        return {p for p, forwards in self.rested.items() if forwards >= self.config.kl_steps}

    def forget(self, position: int) -> None:
        """Something was written there."""
        for store in (self.heads, self.rested, self.credits):
            store.pop(position, None)
