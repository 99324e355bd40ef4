"""PC-Sampler, Huang et al., 2508.13021: confidence against how frequent a token is anywhere, and against its place."""

from __future__ import annotations

import numpy as np

from parity.loops.canvas import Canvas, best, even

# Two scores that differ by less may be ranked either way by those who round differently.
_NEAR = 1e-11


def frequencies(counts, vocabulary: int, dtype=np.float64) -> np.ndarray:
    """The published table: a share for each id that was counted, and that of one token for all others."""
    total = sum(counts.values())
    table = np.full(vocabulary, 1 / total, dtype)
    for token, count in counts.items():
        table[token] = count / total
    return table


def scores(p, tokens, table, *, decay: float, cap: float, dtype=np.float64) -> np.ndarray:
    """Of the positions of a block, in order; `p` are the probabilities of the tokens."""
    information = np.minimum(-p.astype(dtype) * np.log(table[tokens] + dtype(1e-9)), dtype(cap))
    return np.exp(dtype(-decay) * np.arange(len(p), dtype=dtype)) * information


def generate(model, prompt, *, mask, gen_length, block_length, steps, table, decay, cap):
    """LLaDA's loop with another score: in each step the best of the block, as many as an even share says.

    Deviations: the published scores are float32 (see `test_float32_has_no_order_far_from_the_start`); the published loop does
    not suppress the mask; its steps are dealt to all blocks alike.
    """
    canvas = Canvas(model, [*prompt, *[mask] * gen_length], mask)
    for start in range(len(prompt), len(prompt) + gen_length, block_length):
        end = start + block_length
        for count in even(block_length, steps):
            if count == 0:
                continue
            p = canvas.predict()
            token = p.argmax(axis=-1)
            drawn = p[np.arange(start, end), token[start:end]]
            found = scores(drawn, token[start:end], table, decay=decay, cap=cap)
            masked = canvas.masked(start, end)
            apart = np.diff(np.unique(found[[i - start for i in masked]]))
            canvas.is_clear &= not apart.size or (apart.min() > _NEAR * found.max())
            for i in best({i: found[i - start] for i in masked}, count):
                canvas.write(i, token[i])
    return canvas
