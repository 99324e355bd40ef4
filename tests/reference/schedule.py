"""How many masks a step commits."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from reference.arithmetic import SMALLEST_NORMAL, cos_half_pi, exp64, ln


class Step(NamedTuple):
    """A step of a block."""

    index: int  # from 0
    steps: int  # of the block
    masks: int  # the block began with
    left: int  # before this step


def alive(name: str, t: float) -> float:
    """Share of masks alive at a time, `1 - alpha(t)`."""
    return cos_half_pi(1.0 - t) if name == "cosine" else 1.0 - (1.0 - t)


def left_behind(name: str, step: Step) -> int:
    """Masks behind a step where a rule says how many stand: `even` as its counts have it, else what is alive, rounded down."""
    done = step.index + 1
    if done >= step.steps:
        return 0
    if name == "even":
        return step.masks - sum(step.masks // step.steps + (j < step.masks % step.steps) for j in range(done))
    if name == "cosine":
        return min(int(step.masks * alive(name, (step.steps - done) / step.steps)), step.masks)
    return step.masks * (step.steps - done) // step.steps


NAMES = ("even", "linear", "cosine", "dream", "maskgit")


def probability(name: str, step: Step, eps: float = 1e-3, *, as_published: bool = False) -> float:
    """Probability with which each mask is filled in this step of the reverse process; the last step fills all."""
    index, steps, _, _ = step
    if index >= steps - 1:
        return 1.0
    if name == "dream":
        # Neighbours among S + 1 points from 1 to eps.
        t = 1.0 + (eps - 1.0) * index / steps
        s = 1.0 + (eps - 1.0) * (index + 1) / steps
        return 1.0 - s / t
    t = (steps - index) / steps
    s = (steps - index - 1) / steps
    if as_published and name in ("linear", "cosine"):
        return 1.0 - float(single_alive(name, s) / single_alive(name, t))
    if name == "cosine":
        # 1 - alpha with alpha_t = 1 - cos(pi/2 (1 - t))
        return 1.0 - cos_half_pi(1.0 - s) / cos_half_pi(1.0 - t)
    # 1 - alpha with alpha_t = 1 - t; rules without a noise schedule of their own take this one
    return 1.0 - (1.0 - (1.0 - s)) / (1.0 - (1.0 - t))


def single_alive(name: str, t: float) -> np.float32:
    """Share of masks alive at a time, `1 - alpha(t)`, with every operation in float32, as dllm computes it."""
    one, t = np.float32(1), np.float32(t)
    if name == "linear":
        return one - (one - t)
    angle = np.float32(math.pi / 2) * (one - t)
    alpha = one - np.float32(cos_half_pi(float(angle) / (math.pi / 2)))
    return one - alpha


def count(name: str, step: Step, eps: float = 1e-3, *, as_published: bool = False) -> int:
    """Masks that this step commits."""
    index, steps, masks, left = step
    if index >= steps - 1:
        return left
    if name == "even":
        k = masks // steps + (index < masks % steps)
    elif name in ("linear", "cosine"):
        k = round(left * probability(name, step, as_published=as_published))  # halves go to the even neighbour
    elif name == "dream":
        k = int(left * probability(name, step, eps))
    elif name == "maskgit":
        # Masks left follow a cosine; before the last step at least one remains.
        remain = int(masks * cos_half_pi((index + 1) / steps))
        k = left - max(1, min(remain, left - 1))
    elif name == "first-hitting":
        k = 1
    elif name == "cumulative":
        # What an even share owes by now, less what is committed already.
        k = -(-(index + 1) * masks // steps) - (masks - left)
    else:
        raise ValueError(name)
    return max(0, min(k, left))


def counts(name: str, masks: int, steps: int, eps: float = 1e-3, *, as_published: bool = False) -> list[int]:
    """The counts of all steps."""
    left, result = masks, []
    for index in range(steps):
        result.append(count(name, Step(index, steps, masks, left), eps, as_published=as_published))
        left -= result[-1]
    return result


def first_hit(time: float, left: int, u: float) -> float:
    """The time at which the next of `left` masks is filled, when they are all alive at `time` (2409.02908)."""
    return time * exp64(ln(max(u, SMALLEST_NORMAL)) / left)
