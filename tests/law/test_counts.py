"""How many masks are left, when, and in which order they go: the laws of the schedules and of the orders.

Ancestral sampling (MDLM, MD4, Dream's `origin`) commits every mask by itself, so the masks that are left at a time are
binomial; first-hitting (Zheng et al., 2409.02908) draws the times themselves, so the masks alive at t are Binomial(N, t).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from laws import assert_follows, assert_independent, draws
from scipy import stats

import dllm_fast
from dllm_fast import Prediction, Sampler, SamplerConfig

MASK = 9
ROWS = draws(20_000, 500_000)
BATCH = 2_000


def run(masks: int, config: SamplerConfig, *, rows: int = ROWS, seed: int, top1=None):
    """Runs rows of masks to the end. Returns, for each row and position, the forward that committed it, its rank in the
    order of commits, and its time; and the forwards of each row. `top1` are the confidences of the positions."""
    confidence = np.full(masks, 0.5) if top1 is None else np.asarray(top1)
    step, rank, forwards = np.empty((3, rows, masks), dtype=np.int64)
    time = np.empty((rows, masks))
    canvas = np.full(masks, MASK)
    for first in range(0, rows, BATCH):
        some = range(first, min(first + BATCH, rows))
        sampler = Sampler(config, [canvas] * len(some), seed=seed, request=list(some))
        while (request := sampler.next()) is not None:
            c = confidence[np.concatenate(request.positions)]
            tokens = np.zeros(len(c), dtype=np.int64)
            sampler.feed(prediction=Prediction(token=tokens, probability=c, top1=c, top2=1 - c, entropy=1 - c))
        for row, edits in zip(some, sampler.trajectory, strict=True):
            where = [edit.position for edit in edits]
            step[row, where] = [edit.step for edit in edits]
            time[row, where] = [edit.time for edit in edits]
            rank[row, where] = range(masks)
        forwards[some.start : some.stop, 0] = sampler.nfe_per_row
    return step, rank, time, forwards[:, 0]


def binomial(n: int, p: float) -> np.ndarray:
    return stats.binom.pmf(np.arange(n + 1), n, p)


def assert_binomial(left, n: int, p: float, what: str) -> None:
    assert_follows(np.bincount(left, minlength=n + 1), binomial(n, p), what)


# --- ancestral: with 250 masks and 5 steps no step is idle but in 4e-6 of the rows, so forwards are steps of the schedule

SHARES = {  # masks left after step j of S, as a share
    "linear": lambda j, s: 1 - j / s,
    "cosine": lambda j, s: math.cos(math.pi / 2 * (j / s)),
}


@pytest.mark.parametrize("schedule", SHARES)
def test_masks_left_are_binomial(schedule):
    n, s = 250, 5
    rows = draws(2_000, 50_000)
    config = SamplerConfig(mask_token_id=MASK, order="ancestral", schedule=schedule, steps=s)
    step, _, _, forwards = run(n, config, rows=rows, seed=1)
    busy = forwards == s
    assert busy.mean() > 0.9999
    left = SHARES[schedule]
    for j in range(1, s):
        assert_binomial((step[busy] >= j).sum(axis=1), n, left(j, s), f"{schedule} after {j} steps")
    law = -np.diff([left(j, s) for j in range(s)] + [0])
    assert_follows(np.bincount(step[busy].ravel(), minlength=s), law, schedule)


@pytest.mark.parametrize("eps", [1e-3, 0.3])
@pytest.mark.parametrize(("n", "s"), [(16, 16), (7, 4)])
def test_dream_origin_is_binomial_and_keeps_every_forward(eps, n, s):
    config = SamplerConfig(mask_token_id=MASK, order="ancestral", schedule="dream", eps=eps, steps=s)
    step, _, _, forwards = run(n, config, seed=2)
    for j in range(1, s):
        assert_binomial((step >= j).sum(axis=1), n, 1 + (eps - 1) * j / s, f"after {j} of {s} steps, eps {eps}")
    # Its forwards end with the masks, not before: the step of the last commit.
    assert np.array_equal(forwards, step.max(axis=1) + 1)


@pytest.mark.parametrize(("n", "s"), [(16, 16), (5, 40)])
def test_idle_steps_cost_no_forward(n, s):
    """A linear schedule throws each mask into one of S steps, evenly, so the forwards are the occupied ones: their law is
    the classical occupancy law. (Published, with a last forward in any case: 10.66 of 16 for N = S = 16; without 10.30.)"""
    config = SamplerConfig(mask_token_id=MASK, order="ancestral", schedule="linear", steps=s)
    _, _, _, forwards = run(n, config, seed=3)
    law = np.zeros(n + 1)
    law[0] = 1.0  # masks thrown so far: none, no step occupied
    for _ in range(n):
        occupied = np.arange(n + 1)
        law = law * occupied / s + np.roll(law * (s - occupied) / s, 1)
    assert_follows(np.bincount(forwards, minlength=n + 1), law, f"{n} masks, {s} steps")
    assert forwards.mean() == pytest.approx(s * (1 - (1 - 1 / s) ** n), rel=5 * 0.25 / math.sqrt(len(forwards)))


def test_masks_commit_independently():
    """No two positions, near or far, know of each other; nor do two samples of one prompt."""
    config = SamplerConfig(mask_token_id=MASK, order="ancestral", schedule="dream", steps=4)
    step, _, _, _ = run(12, config, seed=4)
    for a, b in [(0, 1), (0, 11), (5, 6), (3, 9)]:
        assert_independent(step[:, a], step[:, b], (4, 4), f"positions {a} and {b}")
    assert_independent(step[:-1:2, 0], step[1::2, 0], (4, 4), "neighbouring samples")


# --- first hitting


def test_masks_alive_are_binomial_in_time():
    n = 10
    config = SamplerConfig(mask_token_id=MASK, order="random", schedule="first-hitting")
    step, _, time, forwards = run(n, config, seed=5)
    assert np.all(forwards == n)
    assert np.all(np.diff(np.take_along_axis(time, step.argsort(axis=1), axis=1), axis=1) < 0)
    for t in (0.05, 0.2, 0.5, 0.7, 0.95):
        assert_binomial((time < t).sum(axis=1), n, t, f"t = {t}")


def test_times_of_the_masks_are_uniform_and_independent():
    """Each mask has a uniform time of its own, wherever it lies: the times come from the order, the places from the scores."""
    config = SamplerConfig(mask_token_id=MASK, order="random", schedule="first-hitting")
    _, _, time, _ = run(6, config, seed=6)
    cells = (time * 10).astype(int)
    for p in range(6):
        assert_follows(np.bincount(cells[:, p], minlength=10), np.full(10, 0.1), f"position {p}")
    for a, b in itertools.combinations(range(6), 2):
        assert_independent(cells[:, a], cells[:, b], (10, 10), f"positions {a} and {b}")
    assert stats.kstest(time.max(axis=1), lambda t: t**6).pvalue > 1e-4


def test_times_begin_again_in_each_block():
    config = SamplerConfig(mask_token_id=MASK, order="random", schedule="first-hitting", block_length=4)
    _, _, time, _ = run(8, config, seed=7)
    for block in (time[:, :4], time[:, 4:]):
        assert_binomial((block < 0.4).sum(axis=1), 4, 0.4, "in a block")
    assert_independent((time[:, 0] * 5).astype(int), (time[:, 4] * 5).astype(int), (5, 5), "blocks")


# --- orders


def permutations(rank: np.ndarray) -> np.ndarray:
    """The number of each row's order among all, in the order of `itertools.permutations`."""
    n = rank.shape[1]
    number = {order: i for i, order in enumerate(itertools.permutations(range(n)))}
    return np.array([number[tuple(order)] for order in rank.argsort(axis=1)])


def plackett_luce(weights) -> np.ndarray:
    """Drawing without replacement in proportion to the weights: the probability of each order."""
    law = []
    for order in itertools.permutations(range(len(weights))):
        w = np.asarray(weights)[list(order)]
        law.append(np.prod(w / w[::-1].cumsum()[::-1]))
    return np.array(law)


@pytest.mark.parametrize("settings", [{"order": "random"}, {"order": "random", "schedule": "first-hitting"}])
def test_random_order_is_uniform(settings):
    _, rank, _, _ = run(5, SamplerConfig(mask_token_id=MASK, **settings), seed=8)
    assert_follows(np.bincount(permutations(rank), minlength=120), np.full(120, 1 / 120))


def test_one_draw_of_several_positions_is_uniform():
    """Several at once: the order within the step as well."""
    _, rank, _, _ = run(5, SamplerConfig(mask_token_id=MASK, order="random", steps=2), seed=9)
    assert_follows(np.bincount(permutations(rank), minlength=120), np.full(120, 1 / 120))


CONFIDENCES = np.array([0.9, 0.5, 0.3, 0.7])


@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("steps", [4, 1])
def test_gumbel_noise_draws_positions_without_replacement(temperature, steps):
    """Dream's `alg_temp`: in proportion to softmax(score / temperature), one by one or several at once."""
    config = SamplerConfig(mask_token_id=MASK, order_temperature=temperature, steps=steps)
    _, rank, _, _ = run(4, config, seed=10, top1=CONFIDENCES)
    law = plackett_luce(np.exp(CONFIDENCES / temperature))
    assert_follows(np.bincount(permutations(rank), minlength=24), law, f"{temperature}, {steps} steps")


def test_maskgit_noise_is_on_the_logarithm_and_fades():
    """Published: log c + T (1 - r) Gumbel, r the share of the steps that are done after this one: 1/2 in the first of two,
    so positions are drawn in proportion to c^(2/T)."""
    config = SamplerConfig(mask_token_id=MASK, schedule="maskgit", order="sampled-confidence", order_temperature=3.0, steps=2)
    step, _, _, _ = run(4, config, seed=11, top1=CONFIDENCES)
    counts = dllm_fast.schedule("maskgit", 4, 2)
    assert counts.tolist() == [2, 2]
    law = plackett_luce(CONFIDENCES ** (2 / 3))
    first = {}
    for order, p in zip(itertools.permutations(range(4)), law, strict=True):
        chosen = frozenset(order[:2])
        first[chosen] = first.get(chosen, 0) + p
    numbers = {chosen: i for i, chosen in enumerate(first)}
    found = [numbers[frozenset(np.flatnonzero(row == 0).tolist())] for row in step]
    assert_follows(np.bincount(found, minlength=len(first)), np.array(list(first.values())), "first step")
