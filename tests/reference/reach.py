"""Which masks a step may write, where that is not the whole block; and what it leaves out because it stands too near."""

from __future__ import annotations


def eligible(config, masks: list[int], block: range) -> list[int]:
    """Of the masks of a block, which rise, those that may be written now."""
    first = masks[0]
    if config.inherit_token and first == block.start > 0:
        return [first]
    if config.sub_block_length is not None:
        part = (first - block.start) // config.sub_block_length
        return [p for p in masks if (p - block.start) // config.sub_block_length == part]
    if config.window_length is not None:
        return [p for p in masks if p < first + config.window_length]
    return masks


def levels(length: int, dilation: int) -> list[list[int]]:
    """The positions of a block in the order of a dilated schedule: on falling strides, and what lies on none."""
    found: list[list[int]] = []
    left = set(range(length))
    stride = length // dilation
    while stride >= 1:
        level = sorted(left & set(range(0, length, stride)))
        found += [level] if level else []
        left -= set(level)
        stride //= dilation
    found += [sorted(left)] if left else []
    if len(found) > 1 and len(found[-1]) < len(found[-2]):
        last = found.pop()
        found[-1] = sorted(found[-1] + last)
    return found


def done(row, block: range) -> float:
    """Share of what is to be written in a block that is written."""
    masks, written = len(row.masked(block)), len(row.written(block))
    return written / (masks + written) if masks else 1.0


def live(row, blocks: list[range]) -> list[range]:
    """The blocks that may be written in: each joins once the last is done so far."""
    found: list[range] = []
    for block in blocks:
        if found and done(row, found[-1]) < row.config.add_block_at:
            break
        found.append(block)
    return found


def forced(row, blocks: list[range], picks: list[int], keys) -> list[int]:
    """The best mask of each block that must be written in and is not; a block must, once the one before it is done so far."""
    bar = 1.0 if row.config.activate_block_at is None else row.config.activate_block_at
    before, found = 1.0, []
    for block in live(row, blocks):
        if before >= bar and not set(picks) & set(block) and row.masked(block):
            found.append(min(row.masked(block), key=lambda p: (-keys[p], p)))
        before = done(row, block)
    return found


def thin(picks: list[int], order: list[int], floor: int, spacing: int) -> list[int]:
    """Of the picks those that stand apart, then others that do while fewer than the floor are there; then the best that do not.

    Args:
        picks: what the cut gave, best first.
        order: all positions, best first.
        floor: so many at least.
        spacing: positions between two at least.
    """
    walk = picks + [p for p in order if p not in picks]
    taken: list[int] = []
    for i, p in enumerate(walk):
        if i >= len(picks) and len(taken) >= floor:
            break
        if all(abs(p - q) >= spacing for q in taken):
            taken.append(p)
    lacking = max(min(floor, len(walk)) - len(taken), 0)
    taken += [p for p in walk if p not in taken][:lacking]
    return [p for p in walk if p in taken]
