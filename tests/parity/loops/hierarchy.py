"""dInfer, Ma et al., 2510.08666: hierarchical decoding."""

from __future__ import annotations

from parity.loops.canvas import Canvas, best


def generate(model, prompt, *, mask, gen_length, block_length, threshold, low_threshold, all_ties=False):
    """Blocks from left to right. In each forward are committed: the surest of each run of masks if it is surer than
    `low_threshold`, all that are surer than `threshold`, and the surest of the block.

    The published class takes one row at a time, and with `all_ties` every position of a run that is as sure as its surest.

    Deviation: edits of a step are listed with the surest first.
    """
    canvas = Canvas(model, [*prompt, *[mask] * gen_length], mask)
    for start in range(len(prompt), len(prompt) + gen_length, block_length):
        while masked := canvas.masked(start, start + block_length):
            p = canvas.predict()
            token = p.argmax(axis=-1)
            scores = {i: p[i, token[i]] for i in masked}
            order = best(scores, len(masked))
            chosen = {order[0]}
            for run in runs(masked):
                highest = max(scores[i] for i in run)
                surest = [i for i in run if scores[i] == highest]
                chosen |= {i for i in surest[: None if all_ties else 1] if scores[i] > low_threshold}
            if threshold is not None:
                chosen |= {i for i in masked if scores[i] > threshold}
            for i in order:
                if i in chosen:
                    canvas.write(i, token[i])
    return canvas


def runs(positions):
    """Rising positions as maximal runs of neighbours."""
    found = []
    for p in positions:
        if found and found[-1][-1] == p - 1:
            found[-1].append(p)
        else:
            found.append([p])
    return found
