"""Which eligible positions a step commits: an order, and the cut that ends its prefix."""

from __future__ import annotations

from reference import nearby, philox
from reference.arithmetic import SMALLEST_NORMAL, ln


def score(order: str, proposal, position: int, place) -> float:
    """The score of a position, the higher the sooner. `place` = (seed, request, position, step)."""
    match order:
        case "confidence" | "certainty-prior":  # that one is still to be multiplied by the density
            return proposal.top1
        case "margin":
            return proposal.top1 - proposal.top2
        case "entropy":
            return -proposal.entropy
        case "sampled-confidence" | "calibrated":  # that one is still to be calibrated
            return proposal.probability
        case "left-to-right":
            return -float(position)
        case "random":
            return philox.uniform(*place, philox.ORDER)
    raise ValueError(order)


def gumbel(place) -> float:
    """Gumbel noise of a position."""
    return -ln(-ln(philox.open_uniform(*place, philox.ORDER)))


def noisy(score: float, temperature: float, place) -> float:
    """The key of a position: drawing by it is drawing without replacement from softmax(score / temperature)."""
    return score + temperature * gumbel(place) if temperature > 0 else score


def annealed(score: float, temperature: float, progress: float, place) -> float:
    """The key under the `maskgit` schedule: noise on the log-probability, which fades out over the steps."""
    if temperature == 0:
        return score
    return ln(max(score, SMALLEST_NORMAL)) + temperature * (1.0 - progress) * gumbel(place)


def confidence(order: str, proposal) -> float:
    """What thresholds and factors test."""
    return proposal.probability if order in ("sampled-confidence", "calibrated") else proposal.top1


def ranked(keys: dict[int, float]) -> list[int]:
    """Positions, the highest key first; ties go to the lower position."""
    return sorted(keys, key=lambda position: (-keys[position], position))


def passing(
    order: list[int], confidences, entropies, *, threshold=None, factor=None, entropy_bound=None, entropy_threshold=None
) -> int:
    """Length of the longest prefix of `order` that passes the cut. With no cut, nothing passes: the floor decides."""

    def passes(n: int) -> bool:
        c = confidences[order[n - 1]]
        if threshold is not None:
            return c >= threshold
        if factor is not None:
            return (n + 1) * (1.0 - c) < factor
        if entropy_threshold is not None:
            return entropies[order[n - 1]] < entropy_threshold
        if entropy_bound is not None:
            total = 0.0
            for position in order[:n]:
                total += entropies[position]
            return total - max(entropies[position] for position in order[:n]) <= entropy_bound
        return False

    n = 0
    while n < len(order) and passes(n + 1):
        n += 1
    return n


def select(
    keys,
    confidences,
    entropies,
    floor: int,
    *,
    neighbour_threshold=None,
    neighbour_distance=4,
    run_threshold=None,
    steady: set[int] | None = None,
    **cut,
) -> list[int]:
    """The positions that are committed, best first: the prefix that passes, at least `floor`, at most everything.

    Some cuts ask each position by itself: then the best `floor`, and behind them all others that pass. Where `steady` positions
    are asked for, those of them that pass the threshold, and where they are fewer than `floor` the best of the others.
    """
    order = ranked(keys)
    if steady is not None:
        passes = {p for p in order if p in steady and confidences[p] >= cut["threshold"]}
        return sorted(order, key=lambda p: p not in passes)[: max(floor, len(passes))]
    if neighbour_threshold is not None:
        passes = nearby.near_an_anchor(confidences, cut["threshold"], neighbour_threshold, neighbour_distance)
    elif run_threshold is not None:
        passes = nearby.best_of_runs(keys, confidences, cut["threshold"], run_threshold)
    else:
        return order[: min(len(order), max(floor, passing(order, confidences, entropies, **cut)))]
    return order[:floor] + [p for p in order[floor:] if p in passes]
