"""Block refinement, as LLaDA2's pipeline in diffusers has it, without the editing of committed tokens."""

from __future__ import annotations

from parity.loops.canvas import Canvas, best, even


def refine(model, prompt, *, mask, gen_length, block_length, steps, threshold):
    """Blocks are counted from the start of the prompt, whose last one may end inside a block, and the canvas is filled up to
    a whole block. The model sees a canvas up to the end of the current block. A step commits every mask that is surer than the
    threshold if those are at least its quota, and else its quota, best first. Quotas share out the length of the block, not
    its masks, so a block that begins with prompt is done early. There are at most as many steps a block as new tokens.

    Deviations: a block is left when it is full (published, after one forward more); end tokens are the caller's business.
    """
    length = -(-(len(prompt) + gen_length) // block_length) * block_length
    # The model is asked with `end` as it stands in the loop below.
    canvas = Canvas(lambda tokens: model(tokens[:end]), [*prompt, *[mask] * (length - len(prompt))], mask)
    for end in range((len(prompt) // block_length + 1) * block_length, length + 1, block_length):
        for quota in even(block_length, min(steps, gen_length)):
            masked = canvas.masked(end - block_length, end)
            if not masked:
                break
            p = canvas.predict()
            token = p.argmax(axis=-1)
            scores = {i: p[i, token[i]] for i in masked}
            sure = sum(c > threshold for c in scores.values())
            for i in best(scores, max(sure, quota)):
                canvas.write(i, token[i])
    return canvas
