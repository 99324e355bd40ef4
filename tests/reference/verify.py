"""Drafts that the same model verifies: what is written is its own left-to-right answer."""

from __future__ import annotations

import numpy as np


def greedy(causal, canvas, mask, *, banned=()):
    """The autoregressive answer: each open position holds the most probable token given what is before it.

    Args:
        causal: from a canvas to logits `[L, V]`, of which row p - 1 depends on positions below p and predicts position p.
        canvas: tokens; masks are what is written.
        banned: tokens that are never written, beside the mask.
    """
    canvas = np.array(canvas)
    for p in np.flatnonzero(canvas == mask):
        canvas[p] = _best(causal(canvas)[p - 1], [mask, *banned])
    return canvas


def run(model, causal, canvas, mask, *, block_length=None, start=0, banned=()):
    """The rule: draft what is open in the block, look at it causally, write what agrees and the first token that does not.

    A block of one open position is not drafted. Returns the canvas and what was written: (forward, position, token).
    """
    canvas, edits, forward = np.array(canvas), [], 0
    while (open_ := np.flatnonzero(canvas == mask)).size:
        length = block_length or len(canvas)
        first = start + (open_[0] - start) // length * length if block_length else 0
        inside = open_[open_ < first + length]
        shown = canvas.copy()
        if len(inside) > 1:
            logits = model(canvas)
            shown[inside] = [_best(logits[p], [mask, *banned]) for p in inside]
            forward += 1
        logits = causal(shown)
        for p in inside:
            canvas[p] = _best(logits[p - 1], [mask, *banned])
            edits.append((forward, int(p), int(canvas[p])))
            if canvas[p] != shown[p]:
                break
        forward += 1
    return canvas, edits, forward


def _best(logits, banned) -> int:
    logits = np.array(logits)
    logits[list(banned)] = -np.inf
    return int(logits.argmax())
