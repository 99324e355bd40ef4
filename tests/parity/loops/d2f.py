"""D2F, Wang et al., 2508.09192, and d3LLM, 2601.07568: several blocks at once, each in a state of its own."""

from __future__ import annotations

import itertools

from parity.loops.canvas import Canvas, best, entropy


def generate(model, prompt, *, mask, gen_length, block_length, add, complete, skip=None, entropy_threshold=None):
    """A block is added once the last one is `add` done, and is complete once the one before it is `complete` done. In each
    forward all that are surer than `skip` (or of less entropy than the threshold) are committed, in every complete block at
    least the best.

    Deviations: the model sees the whole canvas. Edits of a step are listed with the best first, then what was forced. d3LLM
    forces a token only in the first of the complete blocks that have masks; here, as in D2F, in each.
    """
    canvas = Canvas(model, [*prompt, *[mask] * gen_length], mask)
    begins = list(range(len(prompt), len(prompt) + gen_length, block_length))
    states = [{"start": begins.pop(0), "left": block_length, "is_complete": True}]

    def progress(state):
        return 1 - state["left"] / block_length

    while any(state["left"] for state in states) or begins:
        for before, state in itertools.pairwise(states):
            state["is_complete"] |= progress(before) >= complete
        if begins and progress(states[-1]) >= add:
            is_complete = progress(states[-1]) >= complete
            states.append({"start": begins.pop(0), "left": block_length, "is_complete": is_complete})
        p = canvas.predict()
        token, h = p.argmax(axis=-1), entropy(p)
        live = [i for state in states for i in canvas.masked(state["start"], state["start"] + block_length)]
        scores = {i: p[i, token[i]] if entropy_threshold is None else -h[i] for i in live}
        bar = skip if entropy_threshold is None else -entropy_threshold
        chosen = [i for i in best(scores, len(live)) if scores[i] > bar]
        for state in states:
            inside = [i for i in live if state["start"] <= i < state["start"] + block_length]
            if state["is_complete"] and inside and not set(inside) & set(chosen):
                chosen += best({i: scores[i] for i in inside}, 1)
        for i in chosen:
            canvas.write(i, token[i])
        for state in states:
            state["left"] = len(canvas.masked(state["start"], state["start"] + block_length))
    return canvas
