"""Saber, Zhao et al., 2510.18165: the loop of `generate_with_saber` at temperature 0, and the rule that it means."""

from __future__ import annotations

import numpy as np


def top(scores, count: int, *, is_last: bool = False) -> list[int]:
    """The `count` largest; among equals the first or the last, since `topk` promises neither."""
    places = np.arange(len(scores))
    return np.lexsort((-places if is_last else places, -np.asarray(scores, dtype=np.float64)))[:count].tolist()


def published(softmax_of, prompt, blocks: int, block_length: int, mask: int, *, n: int = 2, is_last: bool = False):
    """As published; what differs from the rule:

    - Where fewer than `n` masks are left, the `n` best are taken all the same, and those without a mask are all equally bad:
      one of the prompt (it is written as it was, and counts in the mean), one written before (it is replaced), or one beyond
      the block (it is written before its time). Which one is a matter of `topk`: the first of them, or the last.
    - A fall is one against the forward before, of the token that is likeliest now; what was written just now, and what stands
      in blocks before, may be taken back.
    - What was taken back still counts in the mean.

    Returns:
        The canvas, and the forwards.
    """
    canvas = np.array([*prompt, *[mask] * (blocks * block_length)])
    answer = np.arange(len(canvas)) >= len(prompt)
    is_done = np.zeros(len(canvas), dtype=bool)
    first, last = np.full(len(canvas), -np.inf), np.zeros(len(canvas))
    forwards = 0
    for block in range(blocks):
        end = len(prompt) + (block + 1) * block_length
        for _ in range(1024):
            p = softmax_of(canvas)
            forwards += 1
            tokens = np.where(answer, p.argmax(axis=1), canvas)
            # At the prompt it is the likeliest token's, too.
            likeliest = np.where(np.arange(len(canvas)) < end, p.max(axis=1), -np.inf)
            now = np.where(answer, likeliest, -np.inf)
            with np.errstate(invalid="ignore"):
                change = now - last
            change[~np.isfinite(change)] = np.inf
            last, ready = now, np.where(is_done, -np.inf, now)
            known = first[:end][first[:end] > -np.inf]
            picks = np.flatnonzero(ready > (known.mean() if known.size else 1.0)).tolist()
            if len(picks) < n:
                picks = top(ready, n, is_last=is_last)
            count = max(n, len(picks))
            canvas[picks], is_done[picks], first[picks] = tokens[picks], True, likeliest[picks]
            if is_done[answer].all():
                return canvas, forwards
            if (canvas[:end] != mask).all():
                break
            change[(canvas == mask) | ~answer | (np.arange(len(canvas)) >= end)] = np.inf
            lost = top(-change, min(max(n // 2, -(-count // 8)), count - 1))
            canvas[lost], is_done[lost] = mask, False
    return canvas, forwards


def intended(softmax_of, prompt, blocks: int, block_length: int, mask: int, *, n: int = 2):
    """As meant: within the block, at most the masks that are left; of the tokens that stood before this forward those are taken
    back whose own probability fell most since they were written; the mean is that of what stands.

    Returns:
        The canvas, and the forwards.
    """
    canvas = np.array([*prompt, *[mask] * (blocks * block_length)])
    first, forwards = np.full(len(canvas), np.nan), 0
    for start in range(len(prompt), len(canvas), block_length):
        block = np.arange(start, start + block_length)
        while (canvas[block] == mask).any():
            p = softmax_of(canvas)
            forwards += 1
            masked, written = block[canvas[block] == mask], block[canvas[block] != mask]
            likeliest = p[masked].max(axis=1)
            known = first[~np.isnan(first)]
            sure = int((likeliest > known.mean()).sum()) if known.size else 0
            count = max(min(n, len(masked)), sure)
            falls = first[written] - p[written, canvas[written]]
            picks = masked[top(likeliest, count)]
            canvas[picks], first[picks] = p[picks].argmax(axis=1), p[picks].max(axis=1)
            if count < len(masked):
                lost = written[top(falls, min(max(n // 2, -(-count // 8)), count - 1))]
                canvas[lost], first[lost] = mask, np.nan
    return canvas, forwards
