"""LLaDA, Nie et al., 2502.09992: `generate`."""

from __future__ import annotations

import numpy as np

from parity.loops.canvas import Canvas, best, even


def generate(
    model,
    prompt,
    *,
    mask,
    gen_length,
    steps,
    block_length,
    order="confidence",
    uniform=None,
    excluded=(),
    dtype=None,
    cfg_scale=0.0,
):
    """Blocks from left to right, an equal share of the steps for each; every step commits its quota, best first.

    The score of a position is the probability of its most probable token (`low_confidence`), or a uniform number (`random`).
    Published options that are covered: `logits_eos_inf` is an excluded id. The softmax is published in the dtype of the
    logits, hence `dtype`.

    Under `cfg_scale` the logits are `u + (cfg_scale + 1) * (c - u)`, in the dtype of the model; u are those of a canvas in
    which all that was no mask at the start is one. Both canvases are a batch of one call. (Published, that call reads an
    attention mask that was never set, unless the caller passes one.)

    Deviations: the prompt holds no masks (published, they take part in the quota of the first block, which is then left with
    masks of its own); a step whose quota is 0 is passed over (published, it costs a forward that changes nothing).

    Args:
        uniform: for the random order, a function of position and forward.
    """
    tokens = np.array([*prompt, *[mask] * gen_length])
    prompt_index = tokens != mask

    def guided(x):
        logits, un_logits = model(x), model(np.where(prompt_index, mask, x))
        return un_logits + (cfg_scale + 1) * (logits - un_logits)

    canvas = Canvas(guided if cfg_scale > 0.0 else model, tokens, mask, excluded)
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
