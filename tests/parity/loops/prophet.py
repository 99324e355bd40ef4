"""Prophet, Li et al., 2508.19982: LLaDA's loop, ended where the answer is sure."""

from __future__ import annotations

import numpy as np

from parity.loops.canvas import Canvas, best


def generate(model, prompt, *, mask, gen_length, steps, bars, answer_start=None, answer_length=5):
    """Evenly many commits a step over one block. Before them, the gap between the two largest logits is averaged over the
    answer, written positions of it included; where it is at least the first, second or third of `bars` (in the first third of
    the steps, the second, the rest), everything left is written at once and the loop ends.

    Args:
        bars: 7.5, 5.0, 2.5 in the published code.
        answer_start: first position of the answer, counted from the end of the prompt. Without one, all masks are the answer;
            the published loop then never stops.

    Deviation: the logit of the mask does not count. (It does there, where the answer may then be sure to be a mask.) And there
    is one block; the published loop, which may have several, leaves all of them at the stop, by predictions that were made for
    the block alone.
    """
    canvas = Canvas(model, [*prompt, *[mask] * gen_length], mask)
    counts = [gen_length // steps + (j < gen_length % steps) for j in range(steps)]
    for j, count in enumerate(counts):
        masked = canvas.masked()
        if not masked:
            break
        p = canvas.predict()
        token = p.argmax(axis=-1)
        scores = {i: p[i, token[i]] for i in masked}
        if answer_start is None:
            answer = masked
        else:
            first = len(prompt) + answer_start
            answer = range(first, min(first + answer_length, len(canvas.tokens)))
        top = np.sort(p, axis=-1)
        gaps = [np.log(top[i, -1]) - np.log(max(top[i, -2], np.finfo(float).tiny)) for i in answer]
        progress = (j + 1) / steps
        bar = bars[0] if progress < 0.33 else bars[1] if progress < 0.67 else bars[2]
        is_sure = bool(gaps) and np.mean(gaps) >= bar
        for i in best(scores, len(masked) if is_sure else count):
            canvas.write(i, token[i])
    return canvas
