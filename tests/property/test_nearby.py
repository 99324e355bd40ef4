"""Rules that look at what is around a position (LocalLeap, hierarchical decoding, the certainty prior), and Prophet's stop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm_fast
import strategies
import toys
from dllm_fast.errors import InvalidValueError
from driving import assert_equals_reference, batches, drive, edits_of, first_commit, first_steps, same, tables
from reference import nearby
from strategies import MASK, VOCABULARY

STATISTIC_ORDERS = ("confidence", "margin", "entropy", "sampled-confidence", "certainty-prior")
ORDERS = st.sampled_from(STATISTIC_ORDERS)
DISTANCES = st.sampled_from([0, 1, 2, 4, 99])


def greedy(**settings):
    return {"mask_token_id": MASK, **settings}


@st.composite
def looking_around(draw):
    """Settings of any rule that looks around, beside all that any other has."""
    config = draw(
        strategies.settings(annealed=False, orders=(*STATISTIC_ORDERS, "random"), schedules=strategies.SCHEDULES[:-1])
    )
    cuts = [st.just({}), strategies.neighbours(), st.fixed_dictionaries({"run_threshold": strategies.thresholds})]
    cut = draw(st.one_of(cuts))
    if cut:
        config = {name: value for name, value in config.items() if name not in strategies.CUTS} | cut
    if not cut or draw(st.booleans()):
        config.setdefault("gap_stop", draw(strategies.gap_bars))
    return config


@settings(max_examples=3 * settings().max_examples)
@given(looking_around(), batches(), tables)
def test_equals_the_reference_token_for_token(config, batch, model):
    canvases, seeds, requests, starts = batch
    sampler = drive(config, canvases, model, seed=seeds, request=requests, block_start=starts)
    assert_equals_reference(sampler, config, batch, model)


@given(first_steps(), ORDERS, st.lists(strategies.thresholds, min_size=3, max_size=3), DISTANCES, st.integers(1, 3))
def test_asking_less_of_neighbours_commits_more(statistics, order, thresholds, distance, floor):
    """I11, in each of the three knobs."""
    low, middle, high = sorted(thresholds)

    def commits(threshold, near, distance):
        rule = {"threshold": threshold, "neighbour_threshold": near, "neighbour_distance": distance}
        return first_commit({"order": order, "min_commit": floor, **rule}, statistics)

    base = commits(high, middle, distance)
    assert commits(high, low, distance) >= base
    assert commits(middle, middle, distance) >= commits(high, middle, distance)
    assert commits(high, middle, distance + 1) >= base
    assert len(base) >= min(floor, len(statistics["token"]))


@given(first_steps(), ORDERS, st.lists(strategies.thresholds, min_size=2, max_size=2), strategies.thresholds)
def test_asking_less_of_runs_commits_more(statistics, order, thresholds, other):
    less, more = sorted(thresholds)
    for name, beside in (("threshold", "run_threshold"), ("run_threshold", "threshold")):
        many, few = (first_commit({"order": order, name: t, beside: other}, statistics) for t in (less, more))
        assert many >= few


@given(first_steps(), ORDERS, st.floats(0, 2), st.floats(0, 2))
def test_a_lower_bar_of_the_gap_commits_more(statistics, order, a, b):
    more, less = (first_commit({"order": order, "gap_stop": bar}, statistics) for bar in sorted((a, b)))
    assert more >= less


@given(first_steps(), strategies.thresholds, strategies.thresholds, DISTANCES)
def test_neighbours_by_brute_force(statistics, a, b, distance):
    """The sentence itself, for each position; and the best one, where nobody passes."""
    near, threshold = sorted((a, b))
    c = statistics["top1"]
    anchors = [i for i in range(len(c)) if c[i] >= threshold]
    expected = {
        i for i in range(len(c)) if c[i] >= threshold or (c[i] >= near and any(abs(i - k) <= distance for k in anchors))
    }
    rule = {"threshold": threshold, "neighbour_threshold": near, "neighbour_distance": distance}
    assert first_commit(rule, statistics) == expected | {int(c.argmax())}


@given(st.data(), st.sampled_from([None, 0.3, 0.9, 1.5]), strategies.thresholds)
def test_runs_by_brute_force(data, threshold, least):
    canvas = data.draw(strategies.canvases())
    masks = np.flatnonzero(canvas == MASK)
    c = dict(
        zip(
            masks.tolist(),
            data.draw(st.lists(st.sampled_from([0.1, 0.4, 0.5, 0.95]), min_size=len(masks), max_size=len(masks))),
            strict=True,
        )
    )
    config = dllm_fast.SamplerConfig(**greedy(threshold=threshold, run_threshold=least))
    sampler = dllm_fast.Sampler(config, [canvas])
    if sampler.next() is None:
        return
    sampler.feed(tokens=[0] * len(c), scores=list(c.values()))
    expected = {max(c, key=lambda p: (c[p], -p))}
    for p, sure in c.items():
        run = {q for q in c if all(k in c for k in range(min(p, q), max(p, q)))}
        if sure >= least and p == max(run, key=lambda q: (c[q], -q)):
            expected.add(p)
        if threshold is not None and sure >= threshold:
            expected.add(p)
    assert {edit.position for edit in sampler.trajectory[0]} == expected


@given(strategies.canvases(), tables, ORDERS, st.sampled_from([None, 3]), st.sampled_from([0.2, 0.5, 0.9]))
def test_limits(canvas, model, order, block_length, threshold):
    """I12: what the knobs are at their ends."""
    base = greedy(order=order, block_length=block_length)
    plain = drive({**base, "threshold": threshold}, [canvas], model)
    one_by_one = drive(base, [canvas], model)
    blocks = {p // (block_length or len(canvas)) for p in np.flatnonzero(canvas == MASK)}

    def follows(sampler, other):
        return same(edits_of(sampler.trajectory[0]), edits_of(other.trajectory[0]))

    if order in ("confidence", "sampled-confidence"):  # elsewhere a threshold ends the ranking at the first that fails
        for alone in (
            {"neighbour_distance": 0, "neighbour_threshold": 0.0},
            {"neighbour_threshold": threshold},
            {"run_threshold": 1.5},
        ):
            assert follows(drive({**base, "threshold": threshold, **alone}, [canvas], model), plain)
    for never in (
        {"threshold": 1.5, "neighbour_threshold": 0.0},
        {"run_threshold": 1.5},
        {"gap_stop": math.inf},
    ):
        assert follows(drive({**base, **never}, [canvas], model), one_by_one)
    for always in ({"threshold": 0.0, "neighbour_threshold": 0.0}, {"threshold": 0.0, "run_threshold": 1.0}, {"gap_stop": 0.0}):
        assert drive({**base, **always}, [canvas], model).nfe_per_row == [len(blocks)]


@given(strategies.canvases(), tables, st.sampled_from([0.1, 1.0, 4.0]))
def test_a_narrow_prior_goes_where_more_is_known(canvas, model, sigma):
    """The key of the first position written is the largest, by the product as it is defined."""
    sampler = drive(greedy(order="certainty-prior", prior_sigma=sigma), [canvas], model)
    if not (canvas == MASK).any():
        return
    known = (canvas != MASK).tolist()
    logits = model.alone(canvas).copy()
    keys = {}
    for p in np.flatnonzero(canvas == MASK).tolist():
        (top1,) = dllm_fast.mask_predict(logits[[p]], suppress=[MASK]).top1
        keys[p] = top1 * nearby.density(known, p, sigma)
    assert sampler.trajectory[0][0].position == max(keys, key=lambda p: (keys[p], -p))


def test_density_is_a_share_and_the_middle_of_a_gap_knows_least():
    known = [True, False, False, False, False, False, True]
    around = [nearby.density(known, p, 1.5) for p in range(7)]
    assert all(0 < share < 1 for share in around[1:6])
    assert around[3] == min(around)
    assert around[1] == pytest.approx(around[5])


def test_a_gap_of_the_bar_is_enough():
    """At least, not more than: two tokens that are as probable as each other have no gap, and 0 asks for none."""
    logits = np.full(VOCABULARY, -np.inf)
    logits[:2] = 0.0
    for bar, forwards in ((0.0, 1), (1e-9, 5)):
        assert drive(greedy(gap_stop=bar), [np.full(5, MASK)], toys.Constant(logits)).nfe_per_row == [forwards]


def test_what_is_written_of_the_answer_counts_in_its_gap():
    """The span is counted from the origin of blocks, and a written position of it is asked for, too."""
    config = dllm_fast.SamplerConfig(**greedy(order="left-to-right", gap_stop=1.0, gap_start=1, gap_length=2))
    sampler = dllm_fast.Sampler(config, [[0, MASK, MASK, MASK, MASK, MASK]], block_start=1)

    def answer(gaps):
        request = sampler.next()
        positions = request.positions[0].tolist()
        top1 = np.full(len(positions), 0.5)
        top2 = np.array([0.5 * math.exp(-gaps.get(p, 50.0)) for p in positions])
        sampler.feed(
            prediction=dllm_fast.Prediction(token=[1] * len(positions), probability=top1, top1=top1, top2=top2, entropy=top1)
        )
        return positions

    assert answer({2: 2.9, 3: 3.0}) == [1, 2, 3, 4, 5]  # a fifth of the steps: 3 is asked
    assert answer({2: 1.9, 3: 1.9}) == [2, 3, 4, 5]  # two fifths: 2
    assert answer({2: 0.5, 3: 1.6}) == [2, 3, 4, 5]  # the written one counts; 1.05 of 2
    assert answer({2: 0.5, 3: 1.6}) == [2, 3, 4, 5]  # four fifths: 1 is enough
    assert sampler.next() is None
    assert [edit.step for edit in sampler.trajectory[0]] == [0, 1, 2, 3, 3]


def test_nobody_begins_the_next_step_before_this_one_is_decided():
    for chosen, knows in [({}, True), ({"gap_stop": 2.5}, False)]:
        sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**greedy(**chosen)), [[MASK] * 3])
        sampler.next()
        assert (sampler.pace([0])[1] is not None) is knows


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ({"neighbour_threshold": 0.75}, "neighbour_threshold is for neighbours.*got no threshold; LocalLeap's is 0.9"),
        (
            {"threshold": 0.5, "neighbour_threshold": 0.75},
            "neighbour_threshold must be a number, at most the threshold, got 0.75; 0.75 below",
        ),
        ({"threshold": 0.5, "neighbour_threshold": math.nan}, "neighbour_threshold must be a number, at most the thr.*got NaN"),
        ({"factor": 1.0, "neighbour_threshold": 0.5}, "neighbour_threshold is for neighbours of positions that pass"),
        ({"threshold": 0.9, "neighbour_threshold": 0.5, "run_threshold": 0.4}, "at most one of neighbour_threshold, run_"),
        ({"factor": 1.0, "run_threshold": 0.4}, "run_threshold goes with a threshold or with nothing, got a factor"),
        ({"run_threshold": math.nan}, "run_threshold must be a number, got NaN; 0.4 is dInfer's"),
        ({"neighbour_distance": -1}, "neighbour_distance must be a whole number, at least 0, got -1"),
        ({"gap_stop": -0.5}, "gap_stop must be a number, at least 0, got -0.5; 2.5 is Prophet's"),
        ({"gap_stop": math.nan}, "gap_stop must be a number, at least 0, got NaN"),
        ({"gap_start": 3}, "gap_start is read beside gap_stop alone, got 3 without one; leave it out"),
        ({"gap_stop": 2.5, "gap_start": 3, "block_length": 4}, "the canvas must be one block, got a block_length"),
        ({"gap_stop": 2.5, "order": "ancestral"}, "gap_stop ends a block at once, got it beside order 'ancestral'"),
        ({"gap_stop": 2.5, "schedule": "first-hitting"}, "got it beside order 'ancestral' or schedule 'first-hitting'"),
        ({"gap_length": 0}, "gap_length must be at least 1, got 0; 5 is Prophet's"),
        ({"prior_sigma": 1e-308}, "prior_sigma must be at least 0.001 and at most 1000 positions"),
        ({"prior_sigma": 0.0}, "prior_sigma must be at least 0.001 and at most 1000 positions, got 0; 10 is d2Cache's"),
        ({"prior_sigma": 1001.0}, "prior_sigma must be at least 0.001 and at most 1000 positions, got 1001"),
        ({"prior_sigma": math.nan}, "prior_sigma must be at least 0.001"),
        ({"order": "ancestral", "run_threshold": 0.4}, "order 'ancestral' commits with the schedule's probabilities alone"),
    ],
)
def test_what_cannot_be(chosen, text):
    with pytest.raises(InvalidValueError, match=text):
        dllm_fast.SamplerConfig(**chosen)


@pytest.mark.parametrize("settings", [{"gap_stop": 2.5}, {"order": "certainty-prior"}])
def test_scores_are_no_answer_where_probabilities_are_asked(settings):
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**greedy(**settings)), [[MASK] * 2])
    sampler.next()
    with pytest.raises(dllm_fast.DllmFastError, match="got scores; feed logits or a prediction"):
        sampler.feed(tokens=[1, 1], scores=[0.5, 0.5])
    sampler.feed(np.zeros((2, VOCABULARY), dtype=np.float32))
