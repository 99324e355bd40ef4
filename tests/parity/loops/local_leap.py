"""LocalLeap, Kong et al., 2510.07081: a lower threshold around positions that are sure."""

from __future__ import annotations

import numpy as np

from parity.loops.canvas import Canvas, best


def generate(model, prompt, *, mask, gen_length, block_length, threshold, relaxed, radius):
    """Blocks from left to right. In each forward the masks of the block that are at least `threshold` sure are anchors; a mask
    is committed if it is at least `threshold` sure, or at least `relaxed` with an anchor at most `radius` positions away; and
    the surest one always is.

    An anchor is a mask of this very forward: what was written before is none. So the code, and Algorithm 1 of the paper.

    Deviation: the prompt holds no masks. (The published loop counts masks of the prompt among the eligible ones.)
    """
    canvas = Canvas(model, [*prompt, *[mask] * gen_length], mask)
    for start in range(len(prompt), len(prompt) + gen_length, block_length):
        while masked := canvas.masked(start, start + block_length):
            p = canvas.predict()
            token = p.argmax(axis=-1)
            scores = {i: p[i, token[i]] for i in masked}
            anchors = np.array([i for i in masked if scores[i] >= threshold])
            order = best(scores, len(masked))
            for i in order:
                is_near = anchors.size > 0 and np.abs(anchors - i).min() <= radius
                if i == order[0] or scores[i] >= (relaxed if is_near else threshold):
                    canvas.write(i, token[i])
    return canvas
