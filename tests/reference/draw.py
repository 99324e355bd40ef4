"""From a row of logits to a token: temperature, top-k, top-p, min-p, and one uniform number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reference import philox
from reference.arithmetic import TILE, exp32, exp64, ln, tile_sums
from reference.statistics import allowed, distances, statistics

_FIXED_POINT = 2.0**40


def inverse(temperature: float) -> np.float32:
    """1/T as float32, kept positive and finite so that its product with a distance is always a number."""
    limits = np.finfo(np.float32)
    return np.float32(min(max(1.0 / temperature, float(limits.tiny)), float(limits.max)))


def fixed_point(e):
    """Weights as integers, so that their sum does not depend on the order of the additions."""
    return np.rint(e.astype(np.float64) * _FIXED_POINT).astype(np.int64)


def kept(x, inverse_temperature, *, top_k=None, top_p=None, min_p=None):
    """Which ids the filters keep. Each cuts the order "logit falling, id rising" and keeps what lies before its cut."""
    order = np.argsort(-x, kind="stable")
    d = distances(x, x.max(), inverse_temperature)[order]
    length = len(x)
    if top_k is not None:
        length = min(length, top_k)
    if top_p is not None:
        sums = np.cumsum(fixed_point(exp32(d[:length])))
        enough = sums.astype(np.float64) >= top_p * float(sums[-1])
        length = int(np.argmax(enough)) + 1  # the shortest prefix with enough mass
    if min_p is not None and min_p > 0:
        length = min(length, int((d >= np.float32(ln(min_p))).sum()))
    keep = np.zeros(len(x), dtype=bool)
    keep[order[:length]] = True
    return keep


def draw(x, u, temperature, *, top_k=None, top_p=None, min_p=None) -> int:
    """The id that the uniform `u` stands for, in a row from `allowed`."""
    if temperature == 0:
        return int(np.argmax(x))
    if x.max() == np.inf:
        infinite = np.flatnonzero(x == np.inf)
        return int(infinite[int(u * len(infinite))])

    inverse_temperature = inverse(temperature)
    x = np.where(kept(x, inverse_temperature, top_k=top_k, top_p=top_p, min_p=min_p), x, -np.inf).astype(np.float32)
    highest = float(x.max())

    starts = [s for s in range(0, len(x), TILE) if x[s : s + TILE].max() > -np.inf]
    tiles = [distances(x[s : s + TILE], x[s : s + TILE].max(), inverse_temperature) for s in starts]
    masses = []
    for start, d in zip(starts, tiles, strict=True):
        gap = float(x[start : start + TILE].max()) - highest
        masses.append(exp64(gap * float(inverse_temperature)) * float(tile_sums(d)[0]))

    total = 0.0
    for mass in masses:
        total += mass
    # The first tile whose running sum exceeds the target; the last one with mass if rounding leaves none.
    target = u * total
    last = max(i for i, mass in enumerate(masses) if mass > 0)
    chosen, before = 0, 0.0
    while chosen < last and before + masses[chosen] <= target:
        before += masses[chosen]
        chosen += 1

    weights = fixed_point(exp32(tiles[chosen]))
    sums = np.cumsum(weights)
    inside = (target - before) / masses[chosen]
    threshold = min(int(inside * float(sums[-1])), int(sums[-1]) - 1)
    return starts[chosen] + int(np.argmax(sums > threshold))


@dataclass(frozen=True)
class Prediction:
    """What `dllm_fast.mask_predict` says about a row."""

    token: int
    probability: float
    top1: float
    top2: float
    entropy: float
    logsumexp: float
    current: float | None
    argmax: int


def predict(
    logits,
    *,
    temperature=0.0,
    is_tempered=False,
    top_k=None,
    top_p=None,
    min_p=None,
    suppress=(),
    current=None,
    seed=0,
    request=0,
    position=0,
    step=0,
) -> Prediction:
    """Token and statistics of one row. Filters and temperature decide the token and nothing else.

    Where a rule `is_tempered`, the statistics are those at the temperature, too: it divides every logit first, in float32.
    """
    if is_tempered and temperature > 0:
        with np.errstate(over="ignore"):
            logits = np.asarray(logits, dtype=np.float32) / np.float32(temperature)
        temperature = 1.0
    x = allowed(logits, suppress)
    stats = statistics(x)
    u = philox.uniform(seed, request, position, step, philox.TOKEN)
    token = draw(x, u, temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return Prediction(
        token=token,
        probability=stats.probability(token),
        top1=stats.top1,
        top2=stats.top2,
        entropy=stats.entropy,
        logsumexp=stats.logsumexp,
        current=None if current is None else stats.probability(current),
        argmax=stats.argmax,
    )
