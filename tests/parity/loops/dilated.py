"""DUS, Luxembourg et al., 2506.19037: positions by falling strides."""

from __future__ import annotations

from parity.loops.canvas import Canvas


def generate(model, prompt, *, mask, gen_length, block_length, base):
    """Blocks from left to right; each in as many forwards as it has levels, whatever the model says of its confidence.

    Deviation: the published loop can take written tokens back whose confidence is low; here all stay.
    """
    canvas = Canvas(model, [*prompt, *[mask] * gen_length], mask)
    for start in range(len(prompt), len(prompt) + gen_length, block_length):
        for level in merged(levels(start, start + block_length - 1, base)):
            token = canvas.predict().argmax(axis=-1)
            for i in sorted(level):
                canvas.write(i, token[i])
    return canvas


def levels(start, end, base):
    """Rounds of positions in [start, end]: every `stride`-th that is not in an earlier round, then what is left."""
    stride, found, seen = (end - start + 1) // base, [], set()
    while stride >= 1:
        if round_ := [i for i in range(start, end + 1) if (i - start) % stride == 0 and i not in seen]:
            found.append(round_)
            seen.update(round_)
        stride //= base
    rest = [i for i in range(start, end + 1) if i not in seen]
    return [*found, rest] if rest else found


def merged(found):
    """The last round joins the one before where it is smaller."""
    if len(found) > 1 and len(found[-1]) < len(found[-2]):
        return [*found[:-2], found[-2] + found[-1]]
    return found
