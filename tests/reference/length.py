"""Answers whose length changes while they are written (DAEDAL, 2508.00819; rho-EOS, 2601.22527)."""

from __future__ import annotations

import itertools
import math

import numpy as np

from reference import memory, select
from reference.schedule import Step

#: Forwards in which the density of end tokens may change the length.
ADJUSTED = 64


def fill(row, start: int) -> None:
    """Fills a row whose answer, the positions that were not given, has the length that the model asks for."""
    c = row.config
    row.memory, row.temperature, row.drafts = memory.Memory(c), c.temperature, {}
    while row.masked(everywhere(row)):
        row.window = block(row, start)
        masked, answer = row.masked(everywhere(row)), own(row)
        proposals = row.propose(answer if c.length == "daedal" else masked)
        ends = [p for p in proposals if proposals[p].argmax in row.enders]
        eligible = row.masked(row.window)
        if c.length == "daedal" and is_short(row, proposals, ends):
            insert(row, answer[-1] + 1, min(c.expansion_factor, room(row)))
            row.conclude(is_finished=False)
            continue
        for p in row.best(eligible, proposals, 1 if c.min_commit is None else min(c.min_commit, len(eligible)), step(eligible)):
            row.write(p, proposals[p].token, proposals[p].probability, "commit")
        row.pad()
        if row.ending() is None:
            if c.length == "daedal":
                split(row, proposals, ends)
            elif row.nfe < ADJUSTED:
                adjust(row, ends, masked)
        row.conclude(is_finished=False)


def step(eligible: list[int]) -> Step:
    """Of no schedule."""
    return Step(0, 1, len(eligible), len(eligible))


def everywhere(row) -> range:
    return range(len(row.canvas))


def own(row) -> list[int]:
    """The positions of the answer, which lie side by side."""
    return np.flatnonzero(~row.given).tolist()


def block(row, start: int) -> range:
    """The block of the first mask, counted from `start`."""
    size, length = row.config.block_length, len(row.canvas)
    if size is None:
        return range(length)
    first = row.masked(range(length))[0]
    begin = start + (first - start) // size * size
    return range(max(begin, 0), min(begin + size, length))


def room(row) -> int:
    """How many masks may still be added."""
    return row.config.max_new_tokens - len(own(row))


def sureness(row, proposals, ends: list[int]) -> float:
    """Mean probability of the last end tokens that the model would write; one that is missing counts nothing."""
    total = 0.0
    for p in sorted(ends, reverse=True)[: row.config.eos_check_tokens]:
        total += proposals[p].top1
    return total / row.config.eos_check_tokens


def is_short(row, proposals, ends: list[int]) -> bool:
    """Nothing is written yet, there is room for more, and the model is not sure of the end."""
    is_fresh = all(row.open[p] for p in own(row))
    return is_fresh and room(row) > 0 and sureness(row, proposals, ends) < row.config.eos_confidence_threshold


def split(row, proposals, ends: list[int]) -> None:
    """Puts several masks in place of the least confident one of the block, if it is unsure enough."""
    c = row.config
    if room(row) == 0 or sureness(row, proposals, ends) >= c.expand_eos_confidence_threshold:
        return
    confidence = {p: select.confidence(c.order, proposals[p]) for p in row.masked(row.window)}
    unsure = [p for p in confidence if confidence[p] < c.low_confidence_threshold]
    if unsure:
        insert(row, min(unsure, key=lambda p: (confidence[p], p)) + 1, min(c.expansion_factor - 1, room(row)))


def adjust(row, ends: list[int], masked: list[int]) -> None:
    """Adds masks at the end where too few masks would become end tokens, takes some away where too many would."""
    c, answer = row.config, own(row)
    by = change(len(ends) / len(masked), c.expansion_factor, c.low_density_threshold, c.high_density_threshold)
    if by > 0:
        insert(row, answer[-1] + 1, min(by, room(row)))
    # What was written stays, what would become another token, and one end; and the density does not fall below the band.
    last = len(list(itertools.takewhile(lambda p: row.open[p] and p in ends, reversed(answer))))
    taken = min(-by, last, len(ends) - 1)
    while taken > 0 and len(ends) - taken < c.low_density_threshold * (len(masked) - taken):
        taken -= 1
    for p in list(reversed(answer))[: max(taken, 0)]:
        row.trajectory.append(row.edit(p, c.mask_token_id, math.nan, "delete"))
        row.canvas, row.open, row.given = (np.delete(array, p) for array in (row.canvas, row.open, row.given))


def change(density: float, factor: int, low: float, high: float) -> int:
    """Masks to add, or below 0 to take away: twice as many with each tenth by which the density is outside of its band."""
    gap = low - density if density < low else density - high
    if gap <= 0:
        return 0
    tenths = max(math.ceil(gap / 0.1 - 1e-9), 1)
    return factor * min(8, 2 ** (tenths - 1)) * (1 if density < low else -1)


def insert(row, position: int, count: int) -> None:
    """Puts masks in; what stands there moves right."""
    for p in range(position, position + count):
        row.trajectory.append(row.edit(p, row.config.mask_token_id, math.nan, "insert"))
        row.canvas = np.insert(row.canvas, p, row.config.mask_token_id)
        row.open, row.given = np.insert(row.open, p, values=True), np.insert(row.given, p, values=False)
