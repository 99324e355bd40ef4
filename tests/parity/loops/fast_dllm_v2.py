"""Fast-dLLM v2, Wu et al., 2509.26328: blocks in sub-blocks, and a token that a finished block tells of the next one."""

from __future__ import annotations

import numpy as np

from parity.loops.canvas import Canvas, best, softmax


def generate(model, canvas, *, mask, block, part, threshold):
    """Blocks at absolute places. The model sees up to the end of the block. Its sub-blocks are filled from left to right: in
    each forward all that are surer than the threshold, and the surest. Once a block is full it is run once more, and what it
    says of its last position is the next block's first token.

    Deviations: the published loop asks a prompt for that token only where it is longer than a block, and runs the last block
    once more, too. Edits of a step are listed with the surest first. The mask is never proposed.
    """
    length, prompt = len(canvas), [token for token in canvas if token != mask]
    tokens = list(prompt)
    seen = Canvas(model, tokens, mask, shift=True)
    while len(seen.tokens) < length:
        if len(seen.tokens) % block == 0:
            p = softmax(model(seen.tokens.copy()), [mask])[-1]
            seen.forwards += 1
            seen.tokens = np.append(seen.tokens, mask)
            seen.write(len(seen.tokens) - 1, p.argmax())
        start = (len(seen.tokens) - 1) // block * block
        seen.tokens = np.append(seen.tokens, np.full(start + block - len(seen.tokens), mask))
        for begin in range(start, start + block, part):
            while masked := seen.masked(begin, begin + part):
                p = seen.predict()
                token = p.argmax(axis=-1)
                scores = {i: p[i, token[i]] for i in masked}
                order = best(scores, len(masked))
                for i in order:
                    if scores[i] > threshold or i == order[0]:
                        seen.write(i, token[i])
    return seen
