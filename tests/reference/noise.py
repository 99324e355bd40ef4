"""What an open position shows to the model, and rules whose picks are only shown until their block is finished."""

from __future__ import annotations

import numpy as np

from reference import philox


def shown(seed: int, request: int, position: int, step: int, vocabulary: int) -> int:
    """The token of uniform noise at a position in a forward of its row: floor(u * V), without rounding."""
    return philox.bits53(seed, request, position, step, philox.NOISE) * vocabulary >> 53


def temperature(config, left: int, steps: int) -> float:
    """The temperature of a step with `left` of `steps` to go, itself included; in float32, as transformers computes it."""
    if config.temperature_end is None:
        return config.temperature
    share = np.float32(left) / np.float32(steps)
    return float(np.float32(config.temperature_end) + np.float32(config.temperature - config.temperature_end) * share)


def is_finished(config, argmax: list[list[int]], entropies: list[float], *, is_last: bool) -> bool:
    """Is a block of drafts finished?

    Args:
        config: `stop_stable` and `stop_entropy`.
        argmax: the most probable tokens of the block, after each of its steps so far.
        entropies: of its positions, in this step.
        is_last: this is the last of its steps.
    """
    now, before = argmax[-1], argmax[-1 - config.stop_stable : -1]
    is_stable = len(before) == config.stop_stable and all(tokens == now for tokens in before)
    total = 0.0
    for entropy in entropies:
        total += entropy
    return is_last or (is_stable and total / len(entropies) < config.stop_entropy)
