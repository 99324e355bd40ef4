"""What an open position shows to the model, and rules whose picks are only shown until their block is finished."""

from __future__ import annotations

import math

import numpy as np

from reference import philox
from reference.arithmetic import cos_half_pi


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


def marginal(config, t: float) -> tuple[float, float, float]:
    """What a position is at time t (from 1 to 0): shares of the clean token, the mask and the other noise."""
    if config.noise == "hybrid":
        share = 0.2 if config.noise_share is None else config.noise_share
        uniform = 2.0 * share / (1.0 - share) * math.sqrt(t * (1.0 - t))
        return (1.0 - t) / (1.0 + uniform), t / (1.0 + uniform), uniform / (1.0 + uniform)
    noisy = cos_half_pi(1.0 - t) if config.schedule == "cosine" else t
    return 1.0 - noisy, 0.0, noisy


def routes(config, index: int, steps: int, token: int, current: float) -> dict[str, float]:
    """Masses of the ways on from a position that shows `token`, whose probability is `current`, in a step from t to s.

    They add up to the posterior with the model's distribution in the place of the clean token (`test_posterior.py`).
    """
    clean_t, mask_t, uniform_t = marginal(config, (steps - index) / steps)
    clean_s, mask_s, uniform_s = marginal(config, (steps - index - 1) / steps)
    others = config.vocabulary - (config.noise == "hybrid")
    is_mask = config.noise == "hybrid" and token == config.mask_token_id
    noise_t = mask_t if is_mask else uniform_t / others
    noise_s = mask_s if is_mask else uniform_s / others
    a = clean_t / clean_s
    rest = max(noise_t - a * noise_s, 0.0)
    return {
        "stay": a * (clean_s * current + noise_s),
        "mask": rest * mask_s,
        "uniform": rest * uniform_s,
        "clean": rest * clean_s,
    }


def go_on(config, stream, step, position: int, token: int, proposal, *, nfe: int, is_greedy: bool) -> int:  # noqa: PLR0917
    """What a position shows next in the reverse process."""
    current = float(token == proposal.token) if is_greedy else proposal.current
    masses = routes(config, step.index, step.steps, token, current)
    target = philox.uniform(*stream, position, nfe, philox.COMMIT) * (
        masses["stay"] + masses["mask"] + masses["uniform"] + masses["clean"]
    )
    if target < masses["stay"] or masses["clean"] == 0:
        return token
    if target < masses["stay"] + masses["mask"]:
        return config.mask_token_id
    if target < masses["stay"] + masses["mask"] + masses["uniform"]:
        return another(config, stream, position, nfe + 1)
    return proposal.token


def another(config, stream, position: int, step: int) -> int:
    """A token of the noise, which is never the mask."""
    if config.noise == "uniform":
        return shown(*stream, position, step, config.vocabulary)
    token = shown(*stream, position, step, config.vocabulary - 1)
    return token + (token >= config.mask_token_id)
