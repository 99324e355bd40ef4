"""WeDLM, 2512.22737: a window of masks that slides over what is written."""

from __future__ import annotations

from parity.loops.canvas import Canvas, entropy


def generate(model, prompt, *, mask, gen_length, window_size, entropy_threshold, pos_penalty_factor):
    """A window of slots, written or masked. In each forward the masks whose entropy, with a penalty for their distance to the
    first, is below the threshold are committed, or else the least of them; then the leading written slots leave the window,
    and as many masks join at its end.

    Deviations: the published engine shows the model the prefix and the window, reordered; here it sees the whole canvas.
    Edits of a step are listed with the least first.
    """
    canvas = Canvas(model, [*prompt, *[mask] * gen_length], mask)
    end = len(prompt) + gen_length
    window = list(range(len(prompt), min(len(prompt) + window_size, end)))
    emitted: list[int] = []
    while window:
        masks = [i for i in window if canvas.tokens[i] == mask]
        p = canvas.predict()
        token, h = p.argmax(axis=-1), entropy(p)
        penalised = {i: h[i] + (i - masks[0]) * pos_penalty_factor for i in masks}
        chosen = [i for i in masks if penalised[i] < entropy_threshold]
        chosen = chosen or [min(masks, key=lambda i: (penalised[i], i))]
        for i in sorted(chosen, key=lambda i: (penalised[i], i)):
            canvas.write(i, token[i])
        while window and canvas.tokens[window[0]] != mask:
            emitted.append(window.pop(0))
            refill = window[-1] + 1 if window else emitted[-1] + 1
            if refill < end and len(window) < window_size:
                window.append(refill)
        assert len(window) <= window_size
    assert emitted == list(range(len(prompt), end))
    return canvas
