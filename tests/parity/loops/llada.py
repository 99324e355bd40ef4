"""LLaDA, Nie et al., 2502.09992: `generate`."""

from __future__ import annotations

from parity.loops.canvas import Canvas, best, even


def generate(
    model, prompt, *, mask, gen_length, steps, block_length, order="confidence", uniform=None, excluded=(), dtype=None
):
    """Blocks from left to right, an equal share of the steps for each; every step commits its quota, best first.

    The score of a position is the probability of its most probable token (`low_confidence`), or a uniform number (`random`).
    Published options that are covered: `logits_eos_inf` is an excluded id. The softmax is published in the dtype of the
    logits, hence `dtype`.

    Deviations: the prompt holds no masks (published, they take part in the quota of the first block, which is then left with
    masks of its own); a step whose quota is 0 is passed over (published, it costs a forward that changes nothing).

    Args:
        uniform: for the random order, a function of position and forward.
    """
    canvas = Canvas(model, [*prompt, *[mask] * gen_length], mask, excluded)
    blocks = gen_length // block_length
    for block in range(blocks):
        start = len(prompt) + block * block_length
        end = start + block_length
        for quota in even(block_length, steps // blocks):
            if quota == 0:
                continue
            p = canvas.predict(dtype)
            token = p.argmax(axis=-1)
            if order == "confidence":
                scores = {i: p[i, token[i]] for i in canvas.masked(start, end)}
            else:
                scores = {i: uniform(i, canvas.forwards - 1) for i in canvas.masked(start, end)}
            for i in best(scores, quota):
                canvas.write(i, token[i])
    return canvas
