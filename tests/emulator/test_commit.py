"""The commit kernel decides as the Rust sampler does: the same positions, in the same order, for every order and cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
import strategies
from dllm_fast import SamplerConfig, _core

from . import build
from .commit import commit

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

MASK = 99
BLIND = ("random", "left-to-right")
LOOKING = ("confidence", "margin", "entropy", "sampled-confidence")
CUTS = {"threshold", "factor", "entropy_bound"}  # that the kernel knows
STATISTICS = ("probability", "top1", "top2", "entropy")


def statistics(rng, n):
    """Few different values, so that ties are common; also exactly 0 and 1."""
    grid = rng.choice([4, 64, 2**40])
    top1 = rng.integers(0, grid + 1, n) / grid
    return {
        "top1": top1,
        "top2": top1 * rng.integers(0, 3, n) / 2,
        "probability": rng.integers(1, grid + 1, n) / grid,
        "entropy": rng.integers(0, grid + 1, n) / grid * 3,
    }


def kernel_rule(settings):
    """The rule of the kernel for settings of SamplerConfig."""
    cut = next((name for name in CUTS if name in settings), "count")
    name = "factor as published" if cut == "factor" and settings.get("as_published") else cut
    noise = settings.get("order_temperature", 0.0)
    return {
        "order": settings["order"],
        "cut": name,
        "bound": settings.get(cut, 0.0),
        "order_temperature": noise,
        "is_annealed": settings.get("schedule") == "maskgit" and noise > 0,
    }


def run_beside_the_sampler(rng, canvases, settings, *, thread_order, seed):
    """Fills canvases of one length step by step by both, and compares what each step commits."""
    floor = settings.get("min_commit", 1)
    config = SamplerConfig(mask_token_id=MASK, **settings)
    requests = list(range(len(canvases)))
    sampler = _core.Sampler(config, list(canvases), seed=seed, request=requests, score_all=True)
    masks_at_first = [int((canvas == MASK).sum()) for canvas in canvases]
    step = 0
    while (request := sampler.next()) is not None:
        positions = [np.asarray(p) for p in request.positions]
        rows = np.asarray(request.rows)
        n = sum(map(len, positions))
        token, values = rng.integers(0, 50, n), statistics(rng, n)
        before = np.stack([np.asarray(c) for c in sampler.canvases])[rows]
        done = [len(t) for t in sampler.trajectory]
        sampler.feed(prediction=_core.Prediction(token=token, **values))
        sites = np.repeat(rows, [len(p) for p in positions])
        kernel = commit(
            before,
            mask_id=MASK,
            thread_order=thread_order,
            rule=kernel_rule(settings),
            site_start=np.cumsum([0, *map(len, positions)]),
            position=np.concatenate(positions),
            seed=np.full(n, seed, dtype=np.uint64),
            request=sites,
            step=np.full(n, step),
            token=token,
            status=np.zeros(n),
            floors=np.full(len(rows), floor),
            progress=[(step + 1) / masks_at_first[row] for row in rows],
            **values,
        )
        flat = np.concatenate(positions)
        for i, row in enumerate(rows):
            edits = sampler.trajectory[row][done[row] :]
            assert [int(flat[site]) for site in kernel.chosen[i]] == [e.position for e in edits], (step, row)
            np.testing.assert_array_equal(kernel.canvases[i], sampler.canvases[row])
            assert kernel.masks_left[i] == (kernel.canvases[i] == MASK).sum()
        step += 1
    return step


@st.composite
def settings_of_a_commit(draw):
    order = draw(st.sampled_from(LOOKING + BLIND))
    chosen = {"order": order, "min_commit": draw(st.sampled_from([1, 1, 2, 5]))}
    if order in LOOKING:
        chosen |= draw(strategies.cuts.filter(lambda cut: cut.keys() <= CUTS))
        chosen["as_published"] = draw(st.booleans())
    chosen["order_temperature"] = 0.0 if order == "random" else draw(st.sampled_from([0.0, 0.0, 0.3, 5.0]))
    return chosen


sizes = st.tuples(st.integers(1, 4), st.integers(1, 40))


@given(settings_of_a_commit(), strategies.generators, sizes, strategies.seeds, st.integers(0, 5))
def test_every_step_commits_what_the_sampler_commits(settings, rng, size, seed, thread_order):
    canvases = rng.integers(0, 50, size)
    canvases[rng.random(size) < 0.7] = MASK
    run_beside_the_sampler(rng, canvases, settings, thread_order=thread_order, seed=seed)


@given(strategies.generators, st.integers(2, 12), strategies.seeds)
def test_noise_that_fades_out_over_the_steps(rng, length, seed):
    canvases = np.full((2, length), MASK)
    settings = {"order": "confidence", "schedule": "maskgit", "order_temperature": 2.0}
    assert run_beside_the_sampler(rng, canvases, settings, thread_order=2, seed=seed) == length


@pytest.mark.parametrize("cut", [{}, {"threshold": 0.5}, {"factor": 30.0}, {"entropy_bound": 200.0}], ids=str)
def test_as_many_candidates_as_fit(cut):
    rng = np.random.default_rng(0)
    settings = {"order": "margin", "min_commit": 300, **cut}
    run_beside_the_sampler(rng, np.full((1, 1024), MASK), settings, thread_order=3, seed=1)


def test_a_row_without_statistics_commits_nothing():
    canvases = np.array([[MASK, MASK], [MASK, 1]])
    n = 4
    kernel = commit(
        canvases,
        mask_id=MASK,
        rule=kernel_rule({"order": "confidence"}),
        site_start=[0, 2, 4],
        position=[0, 1, 0, 1],
        seed=np.zeros(n),
        request=np.zeros(n),
        step=np.zeros(n),
        token=[5, 6, 7, 8],
        status=[0, 1, 0, 1],  # NaN at a position that is committed already does not matter
        floors=[1, 1],
        progress=[0, 0],
        **{name: np.full(n, 0.5) for name in STATISTICS},
    )
    assert kernel.chosen == [None, [2]]
    assert kernel.canvases.tolist() == [[MASK, MASK], [7, 1]]
    assert kernel.masks_left.tolist() == [2, 0]


def test_the_kernel_knows_the_orders_and_cuts_of_the_settings():
    for order in LOOKING + BLIND:
        dllm_fast.SamplerConfig(order=order)
        assert kernel_rule({"order": order})["order"] == order
