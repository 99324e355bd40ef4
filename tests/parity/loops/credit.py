"""CreditDecoding, Wang et al., 2510.06133, as dInfer has it."""

from __future__ import annotations

import numpy as np
import torch

from parity.loops.canvas import Canvas, best, softmax


def generate(model, prompt, *, mask, gen_length, block_length, threshold, alpha, gamma, beta):
    """Blocks from left to right, with a credit for each position and id of the block, zero at first. In each forward all credit
    is multiplied by `beta`; at each mask the most probable id earns its probability to the power `gamma`; and `alpha` times the
    logarithm of one plus its credit is added to each logit. Then Fast-dLLM's threshold.

    Deviation: in float64, where the code has float32; the logit of the mask does not count (there a position whose best id is
    the mask is passed over, and where all are, the loop stands still); positions within 1e-5 of the surest one are not
    committed along with it. And the code clears credit only once no mask is left anywhere, so a prompt that ended early leaves
    its credit to the next one.
    """
    canvas = Canvas(model, [*prompt, *[mask] * gen_length], mask)
    for start in range(len(prompt), len(prompt) + gen_length, block_length):
        credit: dict[int, np.ndarray] = {}
        while masked := canvas.masked(start, start + block_length):
            logits = canvas.model(canvas.tokens.copy()).double()
            canvas.forwards += 1
            p = softmax(logits, [mask])
            for i in masked:
                earned = credit.setdefault(i, np.zeros(p.shape[1]))
                earned *= beta
                earned[p[i].argmax()] += p[i].max() ** gamma
                logits[i] += alpha * torch.from_numpy(np.log1p(earned))
            p = softmax(logits, [mask])
            token = p.argmax(axis=-1)
            scores = {i: p[i, token[i]] for i in masked}
            for n, i in enumerate(best(scores, len(masked))):
                if n == 0 or scores[i] >= threshold:
                    canvas.write(i, token[i])
    return canvas
