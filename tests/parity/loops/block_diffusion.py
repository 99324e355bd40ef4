"""Block diffusion with block-causal attention: SDAR (2510.06303) and Fast-dLLM v2 (2509.26328)."""

from __future__ import annotations

from parity.loops.canvas import Canvas, best


def generate(model, prompt, *, mask, gen_length, block_length, choose, part=None, shift=False):
    """Blocks lie at multiples of their length from position 0, so the first may begin with the end of the prompt. The model
    sees the canvas up to the end of the block (its own attention hides the rest). In each forward `choose` says how many of
    the sorted confidences are committed, until the block is full.

    Fast-dLLM v2 fills its blocks in parts, and its logits are shifted by one position.

    Deviations: a short last block is filled as it is (published, the canvas is rounded up); the first token of a block of
    Fast-dLLM v2 is a mask like the others (published, it is committed from the last logits of the block before, at once).

    Args:
        choose: from confidences, the highest first, to a number of at least 1.
        part: positions that are filled before the next of the block; default: the block.
    """
    canvas = Canvas(model, [*prompt, *[mask] * gen_length], mask, shift=shift)
    length = len(canvas.tokens)
    part = part or block_length
    for start in range(len(prompt) // part * part, length, part):
        end = min(start + part, length)
        while masked := canvas.masked(start, end):
            p = canvas.predict()
            token = p.argmax(axis=-1)
            scores = {i: p[i, token[i]] for i in masked}
            order = best(scores, len(masked))
            for i in order[: choose([scores[i] for i in order])]:
                canvas.write(i, token[i])
    return canvas
