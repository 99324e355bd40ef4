"""KLASS, Kim et al., 2511.05664: commit what is sure and has stopped to change."""

from __future__ import annotations

import numpy as np

from parity.loops.canvas import Canvas, best


def generate(model, prompt, *, mask, gen_length, block_length, steps, conf_threshold, kl_threshold, history, forgets=True):
    """Blocks from left to right, `steps` forwards each at most. In each forward are committed the masks of the block that are
    at least `conf_threshold` sure and whose last `history` divergences from the forward before are below `kl_threshold`; where
    there are none, the surest, as many as an even schedule says.

    As published, divergences are kept for all positions of the canvas from the first forward on (`forgets=False`), so that a
    position of a later block may pass in the second forward of its block. The rule, as we have it, begins anew with a block.

    Deviation: `>= conf_threshold`, where the code has `>`; the first divergence, from a distribution that is all zero, is
    infinite here and some 27 nats there. The published loop takes one prompt. Where it commits fewer than the schedule, because
    few were ready, nothing makes up for it: it ends with masks. Above temperature 0 it takes the softmax of noise that is
    exponentiated already, and its `entropy` prefers what is unsure: no law to restate.
    """
    canvas = Canvas(model, [*prompt, *[mask] * gen_length], mask)
    past = np.full((history, len(canvas.tokens)), np.inf)
    before = None
    for start in range(len(prompt), len(prompt) + gen_length, block_length):
        counts = [block_length // steps + (j < block_length % steps) for j in range(steps)]
        if forgets:
            past[:], before = np.inf, None
        for j in range(steps):
            masked = canvas.masked(start, start + block_length)
            if not masked:
                break
            p = canvas.predict()
            token = p.argmax(axis=-1)
            divergence = np.full(len(p), np.inf)
            if before is not None:
                divergence = (p * (np.log(p + 1e-12) - np.log(before + 1e-12))).sum(axis=-1)
            past, before = np.vstack([past[1:], divergence]), p
            is_stable = (past < kl_threshold).all(axis=0) & (j >= history - 1)
            scores = {i: p[i, token[i]] for i in masked}
            order = best(scores, len(masked))
            ready = [i for i in order if is_stable[i] and scores[i] >= conf_threshold]
            for i in ready or order[: counts[j]]:
                canvas.write(i, token[i])
    return canvas
