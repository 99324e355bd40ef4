"""d2Cache, Jiang et al., 2509.23094: confidence times how much around a position is known."""

from __future__ import annotations

import numpy as np

from parity.loops.canvas import Canvas, best


def generate(model, prompt, *, mask, gen_length, block_length, sigma):
    """Blocks from left to right, one token a forward: the position whose confidence times density is the largest.

    The density is a Gaussian average of what is known. The published function looks at generated positions alone and takes all
    that is left of them, the prompt, for known; of what is right of them, so many positions again, it takes the last one's.

    Deviation: the published code averages by a Fourier transform in float32.
    """
    canvas = Canvas(model, [*prompt, *[mask] * gen_length], mask)
    for start in range(len(prompt), len(prompt) + gen_length, block_length):
        while masked := canvas.masked(start, start + block_length):
            p = canvas.predict()
            token = p.argmax(axis=-1)
            known = [t != mask for t in canvas.tokens[len(prompt) :]]
            around = density(np.array(known, dtype=float), sigma)
            (i,) = best({i: p[i, token[i]] * around[i - len(prompt)] for i in masked}, 1)
            canvas.write(i, token[i])
    return canvas


def density(known, sigma):
    """For each position, the Gaussian average of what is known, over its surroundings of sixty standard deviations."""
    reach = int(60 * sigma)
    extended = np.concatenate([np.ones(reach), known, np.full(reach, known[-1])])
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return np.convolve(extended, weights, mode="valid") / weights.sum()
