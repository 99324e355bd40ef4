"""Drafts of one model that another one, which reads causally, agrees with: APD (2506.00413)."""

from __future__ import annotations

import numpy as np

from reference import philox
from reference.arithmetic import F32, ln
from reference.draw import inverse, kept
from reference.statistics import allowed, statistics


def noise(seed: int, request: int, position: int, token: int) -> float:
    """Gumbel noise of a token at a position: no step is in it, so every look at the position has the same."""
    return -ln(-ln(philox.open_uniform(seed, request, position, token, philox.GUMBEL)))


def draw(x, temperature: float, place, *, top_k=None, top_p=None, min_p=None) -> int:
    """The token with the largest `(x - max) / T + noise` of those that the filters keep; `x` as from `allowed`."""
    if temperature == 0:
        return int(np.argmax(x))
    highest = float(x.max())
    if highest == np.inf:
        keys = {i: noise(*place, i) for i in np.flatnonzero(x == np.inf).tolist()}
    else:
        keep = kept(x, inverse(temperature), top_k=top_k, top_p=top_p, min_p=min_p) & (x > -np.inf)
        keys = {i: (float(x[i]) - highest) / temperature + noise(*place, i) for i in np.flatnonzero(keep).tolist()}
    return max(keys, key=lambda i: (keys[i], -i))


def mixed(own, other, weight: float):
    """`weight * d + (1 - weight) * a` in float32; what one of them rules out is out."""
    d, a = np.asarray(own, dtype=F32), np.asarray(other, dtype=F32)
    if weight == 0:
        return a
    with np.errstate(invalid="ignore"):
        return np.where((d == -np.inf) | (a == -np.inf), F32(-np.inf), F32(weight) * d + F32(1 - weight) * a)


def run(
    model,
    causal,
    canvas,
    mask,
    *,
    weight,
    temperature=0.0,
    window_length=None,
    block_length=None,
    start=0,
    banned=(),
    seed=0,
    request=0,
    **filters,
):
    """The rule: draft what may be written, let the other model read it, write as long as the mixture says the same.

    Args:
        model, causal: from a canvas to logits `[L, V]`; row p - 1 of the second depends on positions below p and predicts p.
        canvas: tokens; masks are what is written.
        weight: share of `model`; 1 asks the other one nothing.
        window_length: positions from the first open one on that may be written, of its block.
        banned: tokens that are never written, beside the mask.

    Returns:
        The canvas, what was written (forward, position, token, probability), and the number of forwards.
    """
    canvas, edits, forward = np.array(canvas), [], 0
    out = [mask, *banned]
    place = lambda p: (seed, request, int(p))  # noqa: E731
    while (open_ := np.flatnonzero(canvas == mask)).size:
        end = len(canvas)
        if block_length:
            end = min(end, start + (open_[0] - start) // block_length * block_length + block_length)
        if window_length:
            end = min(end, open_[0] + window_length)
        inside = open_[open_ < end]
        logits, shown = model(canvas), canvas.copy()
        rows = {p: allowed(logits[p], out) for p in inside}
        for p in inside:
            shown[p] = draw(rows[p], temperature, place(p), **filters)
        forward += 1
        agreed = len(inside)
        if weight < 1:
            others = causal(shown)
            for i, p in enumerate(inside[1:], 1):
                both = allowed(mixed(logits[p], others[p - 1], weight), out)
                if draw(both, temperature, place(p), **filters) != shown[p]:
                    agreed = i
                    break
            forward += 1
        for p in inside[:agreed]:
            canvas[p] = shown[p]
            edits.append((forward - 1, int(p), int(shown[p]), statistics(rows[p]).probability(int(shown[p]))))
    return canvas, edits, forward


def ancestral(causal, canvas, mask, *, temperature=0.0, banned=(), seed=0, request=0, **filters):
    """The autoregressive answer of a model, drawn with the same noise: one token after the other."""
    canvas = np.array(canvas)
    for p in np.flatnonzero(canvas == mask):
        x = allowed(causal(canvas)[p - 1], [mask, *banned])
        canvas[p] = draw(x, temperature, (seed, request, int(p)), **filters)
    return canvas
