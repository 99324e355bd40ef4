"""Lengths of gaps: every combination is tried, and the one is taken that fits best, as it is written."""

from __future__ import annotations

import itertools

import numpy as np

RIGHT = 8


def filled(canvas, gaps, lengths, mask):
    """A canvas with masks in its gaps, and the positions of each gap."""
    ids, places = list(canvas), []
    shift = 0
    for (position, _, _), length in zip(gaps, lengths, strict=True):
        start = position + shift
        ids[start:start] = [mask] * length
        places.append(range(start, start + length))
        shift += length
    return np.array(ids), places


def score(model, canvas, gaps, lengths, *, mask, ends, suppressed) -> float:
    """Mean of the logarithms of probabilities over the gaps and what is right of them, all shown as masks."""
    whole, places = filled(canvas, gaps, lengths, mask)
    shown, right = whole.copy(), {}
    for place in places:
        for position in range(place.stop, min(place.stop + RIGHT, len(whole))):
            if whole[position] == mask:
                break
            right[position] = whole[position]
            shown[position] = mask
    logits = np.array(model(shown), dtype=np.float64)
    logits[:, mask] = -np.inf
    logarithms = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    inside = [position for place in places for position in place]
    allowed = np.setdiff1d(np.arange(logits.shape[1]), [*ends, *suppressed, mask])
    found = [logarithms[position, allowed].max() for position in inside]
    found += [logarithms[position, token] for position, token in right.items() if position not in inside]
    return float(np.mean(found))


def scores(model, canvas, gaps, **of) -> dict:
    """Of every combination of lengths, the shorter ones first."""
    each = itertools.product(*(range(least, most + 1) for _, least, most in gaps))
    return {lengths: score(model, canvas, gaps, lengths, **of) for lengths in each}
