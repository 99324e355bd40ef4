"""Where end tokens may be written: the policies as they are said."""

from __future__ import annotations

import numpy as np


def is_barred(policy: str, canvas, written, position: int, ends) -> bool:
    """Under `suffix`, is no end token proposed at an open position: does another token stand to its right that was written?"""
    right = np.arange(len(canvas)) > position
    return policy == "suffix" and bool((right & written & ~np.isin(canvas, list(ends))).any())


def is_held(policy: str, is_open, position: int, token: int, ends) -> bool:
    """Under `delay`, is a proposal no candidate: an end token with something open to its left?"""
    return policy == "delay" and token in ends and bool(is_open[:position].any())


def kept(policy: str, tokens: dict[int, int], ends) -> list[int]:
    """Of the positions that a step has chosen, with their tokens, those that are written; the others become end tokens.

    Under `suffix` nothing is written behind an end token.
    """
    first = min((position for position, token in tokens.items() if token in ends), default=None)
    if policy != "suffix" or first is None:
        return list(tokens)
    return [position for position in tokens if position <= first]


def penalised(logits, penalty: float | None, ends):
    """The logits with those of end tokens made smaller, in float32."""
    if penalty is None:
        return logits
    found = np.array(logits, dtype=np.float32)
    with np.errstate(over="ignore"):
        penalty = np.float32(penalty)
    for token in ends:
        found[token] = -np.inf if np.isinf(penalty) else found[token] - penalty
    return found
