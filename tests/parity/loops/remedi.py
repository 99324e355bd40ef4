"""RemeDi, Huang et al., 2509.23653: the loop of `generate_block_diffusion`, and the rule that it means.

The published `main()` passes `reward_fn` and `viz`, which that function does not take: it ends in a TypeError before the first
forward, so the loop is restated from the function alone. Its end tokens are looked for behind the loop only.
"""

from __future__ import annotations

import numpy as np


def counts(length: int, steps: int, *, is_published: bool) -> list[int]:
    """How many tokens stand after each step. What is left over goes to the last steps as published; to the first ones here,
    as with every other rule of even counts."""
    share, more = divmod(length, steps)
    gets_more = range(steps - more, steps) if is_published else range(more)
    return np.cumsum([share + (step in gets_more) for step in range(steps)]).tolist()


def published(logits_of, blocks: int, block_length: int, steps: int, mask: int):
    """As published: a position ranks by the raw logit of its token, and the mask is a token like any other.

    The model returns `confidences`, from a head that was trained to rank; nothing reads them.
    """
    canvas = np.full(blocks * block_length, mask)
    for start in range(0, len(canvas), block_length):
        block = slice(start, start + block_length)
        for standing in counts(block_length, steps, is_published=True):
            logits = logits_of(canvas)[block]
            tokens = np.where(canvas[block] == mask, logits.argmax(axis=1), canvas[block])
            scores = logits[np.arange(block_length), tokens]
            best = np.argsort(-scores, kind="stable")[:standing]
            canvas[block] = mask
            canvas[start + best] = tokens[best]
    return canvas


def intended(logits_of, blocks: int, block_length: int, steps: int, mask: int):
    """As meant: a position ranks by the probability of its token, and the mask is never proposed."""
    canvas = np.full(blocks * block_length, mask)
    for start in range(0, len(canvas), block_length):
        block = slice(start, start + block_length)
        for standing in counts(block_length, steps, is_published=False):
            logits = np.array(logits_of(canvas)[block], dtype=np.float64)
            logits[:, mask] = -np.inf
            e = np.exp(logits - logits.max(axis=1, keepdims=True))
            p = e / e.sum(axis=1, keepdims=True)
            tokens = np.where(canvas[block] == mask, p.argmax(axis=1), canvas[block])
            best = np.argsort(-p[np.arange(block_length), tokens], kind="stable")[:standing]
            canvas[block] = mask
            canvas[start + best] = tokens[best]
    return canvas
