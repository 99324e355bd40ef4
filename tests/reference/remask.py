"""Rules that take written tokens back: what each step of them does to a row of `reference.sampler`."""

from __future__ import annotations

import math

from reference import philox, schedule, wino
from reference.arithmetic import SMALLEST_NORMAL, exp64, ln
from reference.schedule import Step

ANCESTRAL = ("cap", "rescale", "confidence", "loop")
NAMES = (*ANCESTRAL, "planner", "confidence-drop", "low-confidence", "verify")
ETAS = {"cap": 0.008, "rescale": 0.015, "confidence": 1.0, "loop": 0.02, "planner": 1.0}
# ReMDM-loop: between these two times the share of clean positions stands still at the third number.
T_ON, T_OFF, ALPHA_ON = 0.55, 0.05, 0.9


def eta(config) -> float:
    return ETAS[config.remask] if config.remask_eta is None else config.remask_eta


def fill(row, window, steps: int) -> None:
    """Fills a block under one of these rules."""
    name = row.config.remask
    if name in ANCESTRAL:
        resample(row, window, steps)
    elif name == "planner":
        plan(row, window, steps)
    elif name == "verify":
        wino.fill(row, window)
    else:
        refill(row, window, steps)


# --- ReMDM (Wang et al., 2503.00307)


def chances(config, step: Step) -> tuple[float, float]:
    """Probabilities with which a step fills a mask, and takes a written position back."""
    if step.index >= step.steps - 1:
        return 1.0, 0.0
    t, s = ((step.steps - j) / step.steps for j in (step.index, step.index + 1))
    name, most_eta = config.remask, eta(config)

    def alive(time: float) -> float:
        if name != "loop":
            return schedule.alive(config.schedule, time)
        if time > T_ON:
            return 1.0 - (1.0 - time) * ALPHA_ON / (1.0 - T_ON)
        return 1.0 - ALPHA_ON if time > T_OFF else time * (1.0 - ALPHA_ON) / T_OFF

    clean = 1.0 - alive(t)
    largest = min(alive(s) / clean, 1.0) if clean > 0 else 1.0
    if name == "loop":
        back = min(largest, most_eta) if T_OFF < t <= T_ON else 0.0
        plain = 1.0 - alive(s) / alive(t)
    else:
        back = min(largest, most_eta) if name == "cap" else most_eta * largest
        plain = schedule.probability(config.schedule, step)
    more = 0.0 if name == "confidence" else back * clean / alive(t)
    return plain + more, back


def shares(confidences: list[float]) -> list[float]:
    """The softmax of how unsure each position was."""
    weights = [exp64(min(confidences) - c) for c in confidences]
    total = 0.0
    for weight in weights:
        total += weight
    return [weight / total for weight in weights]


def resample(row, window, steps: int) -> None:
    """Each mask is filled, and each written position taken back, by a draw of its own. Steps that fill nothing cost nothing."""
    masks, is_open, quiet = len(row.masked(window)), False, 0
    for index in range(steps):
        eligible, written = row.masked(window), row.written(window)
        to_fill, back = chances(row.config, Step(index, steps, masks, len(eligible)))
        picks = [p for p in eligible if row.uniform(p, row.scheduled, philox.COMMIT) < to_fill]
        dealt = shares([row.confidence[p] for p in written]) if row.config.remask == "confidence" and written else None
        lost = [
            p
            for i, p in enumerate(written)
            if row.uniform(p, row.scheduled, philox.REMASK) < back * (1.0 if dealt is None else dealt[i])
        ]
        if picks:
            if is_open:
                row.conclude(is_finished=False)
            row.ask(picks, lambda _, picks=picks: picks)
            is_open = True
        row.take_back(lost)
        row.scheduled += 1
        quiet = 0 if picks or lost else quiet + 1
    row.scheduled -= quiet  # the block was over with what happened last
    row.conclude(is_finished=True)


# --- P2 (Peng et al., 2502.03540), RemeDi (Huang et al., 2509.23653)


def plan(row, window, steps: int) -> None:
    """What is proposed and what is written is ranked together: the best stand, what is written beside them is taken back."""
    masks = len(row.masked(window))
    for index in range(steps):
        eligible, written = row.masked(window), row.written(window)
        if not eligible:
            break
        standing = masks - schedule.left_behind(row.config.schedule, Step(index, steps, masks, len(eligible)))
        best: list[int] = []

        def choose(proposals, eligible=eligible, written=written, standing=standing, best=best):
            keys = {p: proposed(row.config, proposals[p]) for p in eligible}
            keys |= {p: stands(row.config, proposals[p]) for p in written}
            best += sorted(keys, key=lambda p: (-keys[p], p))[:standing]
            return [p for p in best if p in eligible]

        row.ask([*eligible, *written], choose)
        row.take_back([p for p in written if p not in best])
        row.conclude(is_finished=not row.masked(window))
        row.scheduled += 1


def log(probability: float) -> float:
    return ln(max(probability, SMALLEST_NORMAL))


def proposed(config, proposal) -> float:
    """Rank of what is proposed at a mask."""
    if config.order == "entropy":
        return -proposal.entropy
    return log(proposal.top1 if config.order == "confidence" else proposal.probability)


def stands(config, proposal) -> float:
    """Rank of what is written."""
    scale = eta(config)
    if scale == 0:
        return math.inf
    return (-proposal.entropy if config.order == "entropy" else log(proposal.current)) * scale


# --- Saber (Zhao et al., 2510.18165), and the corrector of full blocks


def refill(row, window, steps: int) -> None:
    """Filled as the same rule without taking back fills it; then, or meanwhile, some of it is opened again."""
    masks, index, spent, is_redone = len(row.masked(window)), 0, 0, False
    tried: set[int] = set()
    while eligible := row.masked(window):
        step = Step(index, steps, masks, len(eligible))
        forwards = row.nfe
        if row.config.remask == "confidence-drop":
            row.dropping_step(eligible, step)
        elif row.ranked(eligible, step):
            spent += is_redone
            chosen = []
            if not row.masked(window):
                budget = 8 if row.config.remask_budget is None else row.config.remask_budget
                chosen = least_sure(row, window, tried, budget - spent)
            row.take_back(chosen)
            if chosen:
                masks = steps = len(chosen)
                index, is_redone = -1, True
            row.conclude(is_finished=not row.masked(window))
        assert row.nfe <= forwards + 1
        index += 1
        row.scheduled += 1


def least_sure(row, window, tried: set[int], most: int) -> list[int]:
    """The written position that was least sure when it was written, and its neighbours: at most so many, no centre twice."""
    fresh = [p for p in row.written(window) if p not in tried]
    if not fresh or most == 0:
        return []
    centre = min(fresh, key=lambda p: (row.confidence[p], p))
    tried.add(centre)
    return sorted([p for p in (centre, centre - 1, centre + 1) if p in row.written(window)][:most])


def dropped(row, proposals, written, commits: int) -> list[int]:
    """Of what was written before, what fell most since it was written: fewer than are written now, most first."""
    least = 2 if row.config.min_commit is None else row.config.min_commit
    count = max(0, min(max(least // 2, -(-commits // 8)), commits - 1))
    falls = {p: row.confidence[p] - proposals[p].current for p in written}
    return sorted(falls, key=lambda p: (-falls[p], p))[:count]
