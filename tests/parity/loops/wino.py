"""WINO, Hong et al., 2507.18578: write freely, ask what is written again from behind masks, take back what is doubted."""

from __future__ import annotations

import numpy as np

from parity.loops.canvas import softmax


def generate(model, prompt, *, mask, gen_length, block_length, threshold=0.6, threshold_back=0.9, excluded=(), is_strict=False):
    """Blocks from left to right, a batch of one at temperature 0. Each forward is over the canvas and, behind it, as many masks
    as a block has positions, at the places of the block (`shadow`). Tokens see the canvas; the masks of the shadow see each
    other and the canvas but for the position of their own.

    Of the masks of the block those above `threshold` are written: the surest, clip(0.7 n, 5, 20) of n masks at most, and the
    surest at least. If more than one was, what stood there before is taken back where the shadow finds it less probable than
    `threshold_back`: the least probable first, one fewer than the forward before wrote at most (29 in the first of a block, in
    which nothing stands).

    Args:
        model: from ids `[1, N]`, positions `[1, N]` and what each sees, bool `[1, 1, N, N]`, to logits `[1, N, V]`.
        excluded: ids that are never written; the published loop leaves the mask itself in, and would write it.
        is_strict: `> threshold`, as in the code; else `>=`.

    Returns:
        The canvas, the number of forwards, and for each of them what was written and what was taken back.
    """
    total = len(prompt) + gen_length
    canvas = np.array([*prompt, *[mask] * gen_length])
    told = []
    for start in range(len(prompt), total, block_length):
        block = np.arange(start, start + block_length)
        ids_behind = np.full(block_length, mask)
        positions = np.concatenate((np.arange(total), block))
        seen = np.ones((total + block_length, total + block_length), dtype=bool)
        seen[:total, total:] = False
        seen[total + np.arange(block_length), block] = False
        last = 30
        while (canvas[block] == mask).any():
            is_open = canvas[block] == mask
            logits = model(np.concatenate((canvas, ids_behind))[None], positions[None], seen[None, None])[0]
            p = softmax(logits, [mask, *excluded])
            front, shadow = p[block], p[total:]
            token, sure = front.argmax(axis=1), np.where(is_open, front.max(axis=1), -np.inf)
            passed = sure > threshold if is_strict else sure >= threshold
            most = min(max(int(is_open.sum() * 0.7), 5), 20)
            order = np.argsort(-sure, kind="stable")
            written = order[: max(min(passed.sum(), most), 1)]
            stands = np.where(is_open, np.inf, shadow[np.arange(block_length), canvas[block]])
            doubted = np.zeros(0, dtype=int)
            if len(written) > 1:
                doubted = np.flatnonzero(stands < threshold_back)
                if len(doubted) >= last:
                    doubted = np.argsort(stands, kind="stable")[: last - 1]
            canvas[block[written]] = token[written]
            canvas[block[doubted]] = mask
            told.append(({*block[written].tolist()}, {*block[doubted].tolist()}))
            last = len(written)
    return canvas, len(told), told
