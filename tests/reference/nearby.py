"""What neighbours decide: anchors, runs of masks, how much around a position is known; and the gap that stops a block."""

from __future__ import annotations

import math

from reference.arithmetic import SMALLEST_NORMAL, exp64, ln


def near_an_anchor(confidences: dict[int, float], threshold: float, near: float, distance: int) -> set[int]:
    """LocalLeap: positions that pass the threshold, the anchors, and those around them that pass a lower one."""
    anchors = [p for p in confidences if confidences[p] >= threshold]

    def least(position: int) -> float:
        return near if any(abs(position - anchor) <= distance for anchor in anchors) else threshold

    return {p for p in confidences if confidences[p] >= least(p)}


def best_of_runs(keys: dict[int, float], confidences: dict[int, float], threshold: float | None, least: float) -> set[int]:
    """Hierarchical decoding: the best of each run of neighbouring positions, if it is sure enough, and all that pass the
    threshold."""
    passing = {p for p in confidences if threshold is not None and confidences[p] >= threshold}
    run: list[int] = []
    for p in sorted(confidences):
        run.append(p)
        if p + 1 not in confidences:
            best = max(run, key=lambda position: (keys[position], -position))
            if confidences[best] >= least:
                passing.add(best)
            run = []
    return passing


def density(is_known: list[bool], position: int, sigma: float) -> float:
    """d2Cache's certainty prior: the share of known positions around one, weighed by a Gaussian. Before the canvas all is
    known; behind it, if its last position is."""

    def known(p: int) -> bool:
        if p < 0:
            return True
        return is_known[p] if p < len(is_known) else is_known[-1]

    sum_, total = 0.0, 0.0
    for d in range(math.ceil(6.0 * sigma) + 1):
        weight = exp64(-float(d * d) / (2.0 * sigma * sigma))
        for p in {position} if d == 0 else (position - d, position + d):
            total += weight
            if known(p):
                sum_ += weight
    return sum_ / total


def gap(proposal) -> float:
    """How far the two largest logits are apart."""
    return ln(max(proposal.top1, SMALLEST_NORMAL)) - ln(max(proposal.top2, SMALLEST_NORMAL))


def is_sure(gaps: list[float], bar: float, progress: float) -> bool:
    """Prophet: is the mean gap of the answer large enough, at this share of the steps?"""
    if not gaps:
        return False
    sum_ = 0.0
    for one in gaps:
        sum_ += one
    return sum_ / len(gaps) >= (3.0 if progress < 0.33 else 2.0 if progress < 0.67 else 1.0) * bar
