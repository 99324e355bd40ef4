"""Guidance of a reverse process over noise: its posteriors are led, not its predictions.

A branch makes the posterior l(v) m(v) of token v: how likely v becomes what stands there, times the marginal m = clean p +
noise. Led, l m_c^g m_u^(1 - g) with g = w + 1: the likelihood is common to both.
"""

from __future__ import annotations

import math

import numpy as np

from reference import noise
from reference.arithmetic import F32, ln, ln_1p
from reference.statistics import allowed, statistics

INF = math.inf


def log(x: float) -> float:
    return ln(x) if x > 0 else -INF


def led(config, index: int, steps: int, with_prompt, without, weight: float) -> np.ndarray:  # noqa: PLR0917
    """The logarithm of the led marginals after a step, over that of one token of the noise, as float32 logits."""
    clean, mask, uniform = noise.marginal(config, (steps - index - 1) / steps)
    is_hybrid = config.noise == "hybrid"
    each = uniform / (config.vocabulary - is_hybrid)
    offset = ln(each) if each > 0 else 0.0
    suppress = {*config.suppress_tokens, *([config.mask_token_id] if is_hybrid else [])}

    def branch(logits):
        x = np.asarray(logits, dtype=F32)
        if config.temperature > 0:
            x = x / F32(config.temperature)
        x = allowed(x, sorted(suppress))
        found = statistics(x)

        def part(token: int, share: float) -> float:
            is_it = token == found.argmax
            if share > 0:
                p = found.probability(token) if config.temperature > 0 else float(is_it)
                ratio = clean * p / share
                return ratio if ratio < 1e-9 else ln_1p(ratio)
            if x[token] == -INF or (config.temperature == 0 and not is_it):
                return -INF
            if config.temperature == 0:
                return log(clean)
            if max(x) == INF:
                return log(clean) + log(found.probability(token))
            return log(clean) + (float(x[token]) - found.logsumexp)

        return part

    one, other = branch(with_prompt), branch(without)
    values = []
    for token in range(len(with_prompt)):
        share = mask if is_hybrid and token == config.mask_token_id else each if token < config.vocabulary else 0.0
        c, u = one(token, share), other(token, share)
        base = (
            (log(share) - offset if share == mask and is_hybrid and token == config.mask_token_id else 0.0)
            if share
            else -offset
        )
        if c == -INF:
            values.append(-INF)
        elif u == -INF:
            values.append(INF)
        else:
            values.append(base + ((weight + 1) * c + (1 - (weight + 1)) * u))
    return np.array(values, dtype=np.float64).astype(F32)


def routes(config, index: int, steps: int, token: int, current: float) -> dict[str, float]:
    """Masses of the ways on: it stays `token`, whose led marginal is `current`, or a token is drawn from the led marginals."""
    plain = noise.routes(config, index, steps, token, 0.0)
    clean_t, _, _ = noise.marginal(config, (steps - index) / steps)
    clean_s, _, _ = noise.marginal(config, (steps - index - 1) / steps)
    rest = plain["clean"] / clean_s
    return {"stay": clean_t / clean_s * current, "draw": rest}
