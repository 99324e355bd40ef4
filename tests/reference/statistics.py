"""What is known about a row of logits: argmax, the two largest probabilities, entropy, log-sum-exp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reference.arithmetic import F32, FLOOR, TILE, exp32, exp64, ln, ln_1p, tile_sums


class UnusableRowError(ValueError):
    """A row that holds a NaN, or that allows no id at all."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of a row; probabilities are those of the softmax at temperature 1."""

    x: np.ndarray
    argmax: int
    top1: float
    top2: float
    entropy: float
    logsumexp: float
    z: float

    def probability(self, token: int) -> float:
        """Probability of an id."""
        highest, own = float(self.x[self.argmax]), float(self.x[token])
        if highest == np.inf:
            return 1 / self.z if own == np.inf else 0.0
        return exp64(own - highest) / self.z


def allowed(logits, suppress=()):
    """A row as float32, with suppressed ids at -inf. Refuses rows that cannot be used."""
    x = np.array(logits, dtype=F32)
    x[list(suppress)] = -np.inf
    if np.isnan(x).any():
        raise UnusableRowError(f"NaN at id {np.flatnonzero(np.isnan(x))[0]}")
    if x.max() == -np.inf:
        raise UnusableRowError("nothing but -inf")
    return x


def bounded(x, cap, dtype):
    """`cap * tanh(x / cap)` of float32 values, rounded to the dtype of the logits."""
    with np.errstate(over="ignore", invalid="ignore"):
        e = exp32(np.abs(x) * F32(-2 / cap))
        y = np.copysign(F32(cap) * ((F32(1) - e) / (F32(1) + e)), x)
        if dtype == "float16":
            return y.astype(np.float16).astype(F32)
    if dtype == "bfloat16":
        bits = y.view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return np.where(np.isnan(y), y, rounded.view(F32))
    return y


def distances(x, highest, inverse_temperature=1):
    """`(x - highest) / T` in float32, not below -60."""
    with np.errstate(over="ignore"):
        return np.maximum((x - F32(highest)) * F32(inverse_temperature), FLOOR)


def statistics(x) -> Statistics:
    """Statistics of a row from `allowed`, to the bit."""
    argmax = int(np.argmax(x))  # the first of the largest
    highest = float(x[argmax])
    if highest == np.inf:
        k = int((x == np.inf).sum())
        return Statistics(x, argmax, 1 / k, 1 / k if k > 1 else 0.0, ln(float(k)), np.inf, float(k))

    others = x.copy()
    others[argmax] = -np.inf
    second = float(others.max())

    rest = 0.0  # mass of all ids but the winner, whose own mass is 1
    weighted = 0.0  # their masses times their distances from the winner
    for start in range(0, len(x), TILE):
        tile_max = float(x[start : start + TILE].max())
        if tile_max == -np.inf:
            continue
        # The winner is left out of its own tile; the maximum of the tile stays what it was.
        mass, moment = (float(s) for s in tile_sums(distances(others[start : start + TILE], tile_max)))
        gap = tile_max - highest
        weight = exp64(gap)
        rest += weight * mass
        weighted += weight * (moment + gap * mass)

    z = 1.0 + rest
    return Statistics(
        x=x,
        argmax=argmax,
        top1=1.0 / z,
        top2=exp64(second - highest) / z,
        entropy=max(0.0, ln_1p(rest) - weighted / z),
        logsumexp=highest + ln_1p(rest),
        z=z,
    )


def plain_statistics(x) -> Statistics:
    """The same by the textbook, in float64 with the platform's functions: close, not equal."""
    x = np.asarray(x, dtype=np.float64)
    highest = x.max()
    if highest == np.inf:
        p = (x == np.inf) / (x == np.inf).sum()
        z = float((x == np.inf).sum())
    else:
        weights = np.exp(x - highest)
        z = float(weights.sum())
        p = weights / z
    top2, top1 = np.sort(np.append(p, 0.0))[[-2, -1]]
    positive = p[p > 0]
    return Statistics(
        x=x,
        argmax=int(np.argmax(x)),
        top1=float(top1),
        top2=float(top2),
        entropy=float(-(positive * np.log(positive)).sum()),
        logsumexp=float(highest + np.log(z)),
        z=z,
    )
