"""EB-Sampler, Ben-Hamu et al., 2505.24857: unmasking with a bound on the entropy."""

from __future__ import annotations

import numpy as np

from parity.loops.canvas import Canvas, best, entropy


def sample(model, tokens, *, mask, bound, order="entropy"):
    """In each forward: sort the masks by an error proxy (`entropy`, `confidence` or `margin`, the surest first) and commit the
    longest prefix whose entropies add up to at most the bound, the largest of them left out; so always at least one.
    Entropies are in nats.

    The copies of this rule in other projects differ: one takes the running maximum over the batch instead of the prefix,
    one sums the entropies in the order of the text, one has bits. This is the paper's.
    """
    canvas = Canvas(model, tokens, mask)
    while masked := canvas.masked():
        p = canvas.predict()
        h = entropy(p)
        top = np.sort(p, axis=-1)
        score = {"entropy": -h, "confidence": top[:, -1], "margin": top[:, -1] - top[:, -2]}[order]
        ranked = best({i: score[i] for i in masked}, len(masked))
        joint = np.cumsum(h[ranked]) - np.maximum.accumulate(h[ranked])
        for i in ranked[: np.count_nonzero(joint <= bound)]:
            canvas.write(i, p[i].argmax())
    return canvas
