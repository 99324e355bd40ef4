"""Fast-dLLM, Wu et al., 2505.22618: confidence-aware parallel decoding, without its caches."""

from __future__ import annotations

from parity.loops.canvas import Canvas, best


def generate(model, prompt, *, mask, gen_length, block_length, choose, dtype=None):
    """Blocks from left to right; in each forward `choose` says how many of the sorted confidences of the block are committed,
    until the block is full. Confidences are published in float64.

    Deviation: as for LLaDA, the prompt holds no masks.

    Args:
        choose: from confidences, the highest first, to a number of at least 1.
    """
    canvas = Canvas(model, [*prompt, *[mask] * gen_length], mask)
    for start in range(len(prompt), len(prompt) + gen_length, block_length):
        while masked := canvas.masked(start, start + block_length):
            p = canvas.predict(dtype)
            token = p.argmax(axis=-1)
            scores = {i: p[i, token[i]] for i in masked}
            order = best(scores, len(masked))
            for i in order[: choose([scores[i] for i in order])]:
                canvas.write(i, token[i])
    return canvas


def threshold(tau: float):
    """All that are at least `tau` sure, and always the best."""
    return lambda c: max(1, sum(x >= tau for x in c))


def factor(f: float):
    """The largest n for which (n + 1)(1 - c_n) < f, and always the best."""
    return lambda c: max((n for n in range(1, len(c) + 1) if (n + 1) * (1 - c[n - 1]) < f), default=1)


def factor_as_published(f: float):
    """What the published function does: it looks for the first confidence that fails, the best excepted, and commits those
    before it; but a search that stops at the last one counts as if that had passed too. So two masks are always committed
    together, whatever their confidences."""

    def choose(c):
        failing = [n for n in range(1, len(c)) if c[n] < 1 - f / (n + 2)]
        stop = failing[0] if failing else len(c) - 1
        return stop + 1 if stop in {0, len(c) - 1} else stop

    return choose
