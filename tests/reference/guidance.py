"""Guidance: a row is asked twice, once without its prompt, and decided from what leads away from that."""

from __future__ import annotations

import numpy as np

from reference.arithmetic import F32


def rounded(x, dtype):
    """float32 values as a dtype has them, as float32 again."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(F32)
    if dtype == "bfloat16":
        bits = x.view(np.uint32)
        whole = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return np.where(np.isnan(x), x, whole.view(F32))
    return x


def mixed(c, u, weight, dtype="float32", *, as_published=False):
    """`u + (w + 1) * (c - u)` of logits as float32, each operation rounded, then to the dtype of the logits.

    Infinities have their limits: where both are equal it is that, and where the difference is infinite it is the difference.
    As published, each operation is rounded to that dtype.
    """
    c, u, scale = np.asarray(c, dtype=F32), np.asarray(u, dtype=F32), F32(weight + 1)
    between = (lambda x: rounded(x, dtype)) if as_published else (lambda x: x)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = between(c - u)
        found = u + between(scale * difference)
    found = np.where(np.isinf(difference), difference, found)
    return rounded(np.where(c == u, c, found), dtype)


class Guided:
    """A model as guidance has it: what `alone` says of a canvas is what a row is decided from.

    Args:
        model: that is asked twice.
        canvas: what the row starts from.
        weight: w.
        mask: the mask.
        start: first position behind the prompt; None for a canvas that is filled in place.
        negative: what stands in place of the prompt in the second question; default: masks.
    """

    def __init__(self, model, canvas, weight, mask, *, start=None, negative=None):
        self.model, self.weight, self.mask = model, weight, mask
        self.start, self.negative = start, negative
        canvas = np.asarray(canvas)
        # What is given: the prompt; of a canvas that is filled in place every position but its masks.
        self.given = np.arange(len(canvas)) < start if start is not None else canvas != mask

    def alone(self, canvas):
        canvas = np.asarray(canvas)
        if self.negative is None:
            return mixed(self.model.alone(canvas), self.model.alone(np.where(self.given, self.mask, canvas)), self.weight)
        # Position p of the row is position p + moves of the other; what stands before the last token of the prompt
        # predicts nothing.
        other = self.model.alone(np.concatenate((self.negative, canvas[self.start :])))
        own = self.model.alone(canvas)
        moves = len(self.negative) - self.start
        lines = np.arange(self.start - 1, len(canvas))
        own[lines] = mixed(own[lines], other[lines + moves], self.weight)
        return own
