"""MaskGIT, Chang et al., 2202.04200: parallel decoding with a cosine schedule."""

from __future__ import annotations

import math

import numpy as np

from parity.loops.canvas import Canvas, best


def decode(model, tokens, *, mask, steps, gumbel=None, choice_temperature=0, dtype=None):
    """After step j of S the share cos(pi/2 (j + 1)/S) of the masks is left, rounded down, and until the last step at least
    one mask. Few tokens are committed at first and many in the end.

    Positions are ranked by the logarithm of the confidence, plus Gumbel noise that fades as 1 - (j + 1)/S.

    Deviations: tokens are the most probable ones (published, they are drawn); what the final step proposes is committed
    (published, it is the result, and the canvas keeps a mask); a step that could commit nothing is passed over; ties at the
    cut do not add to the count. The cosine is float64: published, float32, where cos(pi/3) falls short of a half, so that
    half of an even number of masks may come out as one less.

    Args:
        dtype: of the softmax; None for float64.
        gumbel: for a choice temperature above 0, a function of position and forward.
    """
    canvas = Canvas(model, tokens, mask)
    masks = len(canvas.masked())
    for step in range(steps):
        masked = canvas.masked()
        ratio = (step + 1) / steps
        left = max(1, min(math.floor(masks * math.cos(math.pi / 2 * ratio)), len(masked) - 1)) if step < steps - 1 else 0
        if not masked or len(masked) == left:
            continue
        p = canvas.predict(dtype)
        token = p.argmax(axis=-1)
        scores = {i: np.log(p[i, token[i]]) for i in masked}
        if choice_temperature:
            noise = {i: gumbel(i, canvas.forwards - 1) for i in masked}
            scores = {i: scores[i] + choice_temperature * (1 - ratio) * noise[i] for i in masked}
        for i in best(scores, len(masked) - left):
            canvas.write(i, token[i])
    return canvas
