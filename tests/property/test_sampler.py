"""`Sampler` against the reference sampler, token for token, and the invariants of every unmasking rule."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm_fast
import strategies
import toys
from driving import (
    assert_equals_reference,
    assert_neighbours_do_not_matter,
    batches,
    drive,
    edits_of,
    first_commit,
    first_steps,
    lines,
    same,
    tables,
)
from reference import sampler as reference
from reference.schedule import counts
from strategies import CUTS, END, MASK, OTHER_END, PLAIN_ORDERS, VOCABULARY

STATISTIC_ORDERS = ("confidence", "margin", "entropy", "sampled-confidence")
GREEDY = st.just(0.0)


@settings(max_examples=4 * settings().max_examples)
@given(strategies.settings(annealed=False), batches(), tables)
def test_equals_the_reference_token_for_token(config, batch, model):
    canvases, seeds, requests, starts = batch
    sampler = drive(config, canvases, model, seed=seeds, request=requests, block_start=starts)
    assert_equals_reference(sampler, config, batch, model)


@given(
    strategies.settings(orders=("confidence", "sampled-confidence"), schedules=["maskgit"]),
    st.sampled_from([0.1, 1.0, 5.0]),
    batches(),
    tables,
)
def test_maskgit_noise_is_on_the_logarithm_and_fades_out(config, temperature, batch, model):
    canvases, seeds, requests, starts = batch
    config["order_temperature"] = temperature
    sampler = drive(config, canvases, model, seed=seeds, request=requests, block_start=starts)
    assert_equals_reference(sampler, config, batch, model)


@given(
    strategies.settings(orders=("random", "left-to-right", "ancestral"), schedules=["linear", "cosine"]),
    batches(),
    tables,
)
def test_as_published_spreads_the_masks_as_float32_does(config, batch, model):
    """Orders that do not look at the model: the other quirk, probabilities as float32 has them, moves none."""
    for name in (*CUTS, "gap_stop", "gap_start", "gap_length"):
        config.pop(name, None)
    canvases, seeds, requests, starts = batch
    config |= {"as_published": True, "steps_per_block": config.get("steps_per_block", 3)}
    sampler = drive(config, canvases, model, seed=seeds, request=requests, block_start=starts)
    for i, canvas in enumerate(canvases):
        expected = reference.run(model.alone, canvas, config, seed=seeds[i], request=requests[i], block_start=starts[i])
        ours, theirs = ([(e.step, e.position, e.token) for e in run] for run in (sampler.trajectory[i], expected.trajectory))
        assert ours == theirs


COUNTED = [name for name in strategies.SCHEDULES if name != "first-hitting"]  # that one takes no number of steps


@given(strategies.settings(schedules=COUNTED), strategies.canvases(), st.integers(1, 4), tables)
def test_total_steps_are_dealt_to_the_blocks_with_masks(config, canvas, each, model):
    config.pop("steps_per_block", None)
    windows = reference.windows(len(canvas), config.get("block_length"), 0)
    blocks = sum(bool((canvas[w.start : w.stop] == MASK).any()) for w in windows)
    per_block = drive({**config, "steps_per_block": each}, [canvas], model)
    total = drive({**config, "steps": each * max(blocks, 1)}, [canvas], model)
    assert same(edits_of(per_block.trajectory[0]), edits_of(total.trajectory[0]))
    for more in range(1, blocks):
        config["steps"] = each * blocks + more
        assert_equals_reference(drive(config, [canvas], model), config, ([canvas], [0], [0], [0]), model)
    if blocks > 1:
        rule = rf"at least.*got {blocks - 1} steps for the {blocks} blocks of row 0; use steps={blocks} or more"
        with pytest.raises(dllm_fast.DllmFastError, match=rule):
            drive({**config, "steps": blocks - 1}, [canvas], model)


@given(strategies.settings(schedules=COUNTED), batches(), st.integers(20, 60), tables)
def test_a_total_of_steps_is_of_each_row_alone(config, batch, steps, model):
    """Rows of any lengths, with any number of blocks: together as alone."""
    canvases, seeds, requests, starts = batch
    config.pop("steps_per_block", None)
    config["steps"] = steps
    together = drive(config, canvases, model, seed=seeds, request=requests, block_start=starts)
    assert_equals_reference(together, config, batch, model)
    for i, canvas in enumerate(canvases):
        alone = drive(config, [canvas], model, seed=seeds[i], request=requests[i], block_start=starts[i])
        assert same(edits_of(alone.trajectory[0]), edits_of(together.trajectory[i]))


@given(strategies.settings(), batches(), tables, st.randoms(use_true_random=False))
def test_all_ways_to_answer_are_one(config, batch, model, random):
    """Logits, `predict`, `mask_predict`; all rows at once, or in parts and in any order; all positions scored or only some."""
    canvases, seeds, requests, starts = batch
    arguments = {"seed": seeds, "request": requests, "block_start": starts}
    base = drive(config, canvases, model, **arguments)
    shift = config.get("shift", False)

    all_scored = drive(config, canvases, model, score_all=True, **arguments)
    in_parts = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), canvases, **arguments)
    while (request := in_parts.next()) is not None:
        parts = list(zip(request.rows.tolist(), request.canvases, request.positions, strict=True))
        random.shuffle(parts)
        for row, canvas, positions in parts:
            in_parts.feed(model.alone(canvas), rows=[row], index=np.maximum(positions - 1, 0) if shift else positions)

    outside = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), canvases, **arguments)
    while (request := outside.next()) is not None:
        sizes = [len(positions) for positions in request.positions]
        prediction = dllm_fast.mask_predict(
            np.concatenate(lines(model, request, shift)),
            **{name: config.get(name) for name in ("top_k", "top_p", "min_p")},
            temperature=config["temperature"],
            suppress=[MASK, *config.get("suppress_tokens", ())],
            seed=np.repeat(np.array(seeds, dtype=np.uint64)[request.rows], sizes).tolist(),
            request=np.repeat(np.array(requests)[request.rows], sizes).tolist(),
            positions=np.concatenate(request.positions),
            step=request.step,
        )
        outside.feed(prediction=prediction)

    for other in (all_scored, in_parts, outside):
        for a, b in zip(base.trajectory, other.trajectory, strict=True):
            assert same(edits_of(a), edits_of(b))


@given(strategies.settings(), batches(), tables, st.randoms(use_true_random=False))
def test_a_row_does_not_depend_on_its_neighbours(config, batch, model, random):
    """I8, I9."""
    assert_neighbours_do_not_matter(config, batch, model, random)


@given(strategies.settings(), batches(), tables)
def test_invariants_of_a_run(config, batch, model):
    """I1 to I7, I17: what may be written, progress, the bound on forwards."""
    canvases, seeds, requests, starts = batch
    sampler = drive(config, canvases, model, seed=seeds, request=requests, block_start=starts)
    excluded = {MASK, *config.get("suppress_tokens", ())}
    spends_idle_steps = config["schedule"] == "dream"
    for i, (before, after) in enumerate(zip(canvases, sampler.canvases, strict=True)):
        masked = before == MASK
        assert len(after) == len(before)
        np.testing.assert_array_equal(after[~masked], before[~masked])
        assert not (after == MASK).any()
        edits = sampler.trajectory[i]
        commits = [e for e in edits if e.kind == "commit"]
        assert {e.kind for e in edits} <= {"commit", "pad"}
        positions = [e.position for e in commits]
        assert len(set(positions)) == len(positions), "a committed position is never committed again"
        assert all(masked[e.position] for e in edits)
        assert not {e.token for e in commits} & excluded
        assert all(0 <= e.probability <= 1 for e in commits)
        replayed = before.copy()
        for e in edits:
            replayed[e.position] = e.token
        np.testing.assert_array_equal(replayed, after)
        if len(commits) == masked.sum():
            assert sorted(positions) == np.flatnonzero(masked).tolist()
        windows = reference.windows(len(before), config.get("block_length"), starts[i])
        block_of = {p: n for n, window in enumerate(windows) for p in window}
        order = [block_of[p] for p in positions]
        assert order == sorted(order), "blocks are filled from left to right"
        nfe = sampler.nfe_per_row[i]
        steps = [e.step for e in edits]
        assert steps == sorted(steps)
        if not spends_idle_steps:
            assert set(steps) == set(range(nfe)), "every forward commits something"
        blocks = {block_of[p] for p in np.flatnonzero(masked)}
        bound = len(blocks) * config.get("steps_per_block", 0) or int(masked.sum())
        assert nfe <= (bound if spends_idle_steps else min(bound, int(masked.sum())))


@given(
    strategies.settings(orders=[o for o in PLAIN_ORDERS if o != "ancestral"], schedules=strategies.SCHEDULES[:5]),
    strategies.canvases(),
    tables,
    st.integers(1, 20),
)
def test_counts_are_those_of_the_schedule(config, canvas, model, steps):
    """I15: after every step exactly the scheduled number of masks remains."""
    for name in (*CUTS, "gap_stop", "gap_start", "gap_length", "min_commit", "block_length", "eos_token_id", "stop_at_eos"):
        config.pop(name, None)
    config["steps_per_block"] = steps
    sampler = drive(config, [canvas], model)
    expected = counts(config["schedule"], int((canvas == MASK).sum()), steps, config.get("eps", 1e-3))
    if config["schedule"] != "dream":
        expected = [k for k in expected if k > 0]
    observed = np.bincount([e.step for e in sampler.trajectory[0]], minlength=sampler.nfe_per_row[0])
    assert observed.tolist() == (expected if (canvas == MASK).any() else [])


@given(first_steps(), st.sampled_from(STATISTIC_ORDERS), strategies.thresholds, strategies.thresholds)
def test_a_smaller_threshold_commits_more(statistics, order, a, b):
    more, less = (first_commit({"order": order, "threshold": t}, statistics) for t in sorted((a, b)))
    assert more >= less


@given(first_steps(), st.sampled_from(STATISTIC_ORDERS), strategies.factors, strategies.factors)
def test_a_larger_factor_commits_more(statistics, order, a, b):
    less, more = (first_commit({"order": order, "factor": f}, statistics) for f in sorted((a, b)))
    assert more >= less


@given(first_steps(), st.sampled_from(STATISTIC_ORDERS), strategies.bounds, strategies.bounds)
def test_a_larger_entropy_bound_commits_more(statistics, order, a, b):
    less, more = (first_commit({"order": order, "entropy_bound": g}, statistics) for g in sorted((a, b)))
    assert more >= less


@given(first_steps(), st.sampled_from(STATISTIC_ORDERS), st.integers(1, 12), st.integers(1, 12))
def test_a_larger_count_commits_more(statistics, order, a, b):
    less, more = (first_commit({"order": order, "min_commit": k}, statistics) for k in sorted((a, b)))
    assert more >= less
    assert len(less) == min(len(statistics["token"]), *sorted((a, b))[:1])


@given(strategies.canvases(), tables, st.sampled_from(STATISTIC_ORDERS), st.sampled_from([None, 3]))
def test_limits_of_the_cuts(canvas, model, order, block_length):
    """I12: the cuts at their ends are one token a forward, and one forward a block."""
    base = {"mask_token_id": MASK, "order": order, "block_length": block_length}
    one_by_one = drive(base, [canvas], model)
    masks = int((canvas == MASK).sum())
    assert one_by_one.nfe_per_row == [masks]
    for config in ({"threshold": 1.5}, {"factor": 0.0}):
        slow = drive({**base, **config}, [canvas], model)
        assert same(edits_of(slow.trajectory[0]), edits_of(one_by_one.trajectory[0]))
    blocks = {p // (block_length or len(canvas)) for p in np.flatnonzero(canvas == MASK)}
    for config in ({"threshold": 0.0}, {"factor": 1e9}, {"entropy_bound": 1e9}, {"min_commit": 99}):
        assert drive({**base, **config}, [canvas], model).nfe_per_row == [len(blocks)]


@given(
    strategies.settings(orders=STATISTIC_ORDERS, schedules=COUNTED, temperatures=GREEDY, annealed=False),
    strategies.canvases(),
    strategies.generators,
)
def test_another_order_of_the_positions_is_another_order_of_the_answer(config, canvas, rng):
    """I10, where nothing ties and nothing looks at neighbours: each step commits the same positions, wherever they stand."""
    for name in ("block_length", "order_temperature", "shift", "gap_start", "gap_length", "eos_token_id", "stop_at_eos"):
        config.pop(name, None)
    for name in ("neighbour_threshold", "neighbour_distance", "run_threshold"):
        config.pop(name, None)
    table, moved = rng.normal(0, 2, (len(canvas), VOCABULARY)), rng.permutation(len(canvas))
    plain = drive(config, [canvas], toys.ByPosition(table))
    other = drive(config, [canvas[moved]], toys.ByPosition(table[moved]))
    edits = [(e.step, e.position, e.token) for e in plain.trajectory[0]]
    assert [(e.step, int(moved[e.position]), e.token) for e in other.trajectory[0]] == edits
    # What is added to all logits of a position is no part of its distribution.
    raised = drive(config, [canvas], toys.ByPosition(np.round(table * 64) / 64 + rng.integers(-9, 9, (len(canvas), 1))))
    level = drive(config, [canvas], toys.ByPosition(np.round(table * 64) / 64))
    assert [(e.step, e.position, e.token) for e in raised.trajectory[0]] == [
        (e.step, e.position, e.token) for e in level.trajectory[0]
    ]


@given(strategies.canvases(), tables, st.sampled_from(PLAIN_ORDERS), strategies.temperatures, strategies.calibrations)
def test_blocks_of_one_are_left_to_right(canvas, model, order, temperature, table):
    """I12, I16: and left to right is greedy (or sampled) decoding, one token after the other."""
    base = {"mask_token_id": MASK, "temperature": temperature}
    more = table if order == "calibrated" else {}
    blocks = drive({**base, **more, "order": order, "block_length": 1}, [canvas], model, seed=4)
    left = drive({**base, "order": "left-to-right"}, [canvas], model, seed=4)
    assert same(edits_of(blocks.trajectory[0]), edits_of(left.trajectory[0]))
    if temperature == 0:
        decoded = canvas.copy()
        for p in np.flatnonzero(canvas == MASK):
            logits = model.alone(decoded)[p].copy()
            logits[MASK] = -np.inf
            decoded[p] = logits.argmax()
        assert left.canvases[0].tolist() == decoded.tolist()


@given(strategies.settings(), batches(), tables)
def test_what_is_finished_stays(config, batch, model):
    """I13: `next` says None for ever, and nothing can be fed."""
    canvases, *_ = batch
    sampler = drive(config, canvases, model)
    before = [edits_of(t) for t in sampler.trajectory]
    assert sampler.next() is None
    assert sampler.next() is None
    with pytest.raises(dllm_fast.DllmFastError):
        sampler.feed(np.zeros((1, VOCABULARY), dtype=np.float32))
    assert all(same(edits_of(t), b) for t, b in zip(sampler.trajectory, before, strict=True))


def test_seeds_and_sample_indices_matter():
    model = toys.Constant(np.zeros(VOCABULARY))
    config = {"mask_token_id": MASK, "temperature": 1.0}
    canvas = np.full(20, MASK)
    variants = drive(config, [canvas] * 5, model, seed=[1, 2, 1, 1, 2**40 + 1], request=[0, 0, 1, 0, 0]).canvases
    assert variants[0].tolist() == variants[3].tolist()
    distinct = {tuple(v.tolist()) for v in variants}
    assert len(distinct) == 4


@pytest.mark.parametrize("schedule", ["linear", "cosine", "dream"])
def test_ancestral_sampling_follows_the_schedule(schedule):
    """I14: the masks left at time s are Binomial(N, 1 - alpha_s). With so many masks no step is ever passed over."""
    rows, masks, steps = 40, 600, 8
    config = {"mask_token_id": MASK, "order": "ancestral", "schedule": schedule, "steps": steps}
    model = toys.Constant(np.zeros(VOCABULARY))
    sampler = drive(config, [np.full(masks, MASK)] * rows, model, seed=11, request=list(range(rows)))
    assert sampler.nfe_per_row == [steps] * rows
    written = np.array([[e.step for e in sorted(t, key=lambda e: e.position)] for t in sampler.trajectory])
    for done in range(1, steps):
        s = (steps - done) / steps
        alive = {"linear": s, "cosine": math.cos(math.pi / 2 * (1 - s)), "dream": 1 + (1e-3 - 1) * done / steps}[schedule]
        left = (written >= done).sum(axis=1)
        variance = masks * alive * (1 - alive)
        assert left.mean() == pytest.approx(masks * alive, abs=4 * math.sqrt(variance / rows))
        assert left.var() == pytest.approx(variance, rel=0.6)
    ends_together = np.corrcoef(written[:, ::2].ravel(), written[:, 1::2].ravel())[0, 1]
    assert abs(ends_together) < 0.05, "neighbours are independent"


def test_first_hitting_times():
    """The first of N masks is hit at t = U^(1/N), the next at t U^(1/(N-1)), ...: as many masks are alive at t as N t."""
    rows, masks = 400, 12
    sampler = drive(
        {"mask_token_id": MASK, "order": "random", "schedule": "first-hitting", "temperature": 1.0},
        [np.full(masks, MASK)] * rows,
        toys.Constant(np.zeros(VOCABULARY)),
        seed=3,
        request=list(range(rows)),
    )
    times = np.array([[e.time for e in trajectory] for trajectory in sampler.trajectory])
    assert sampler.nfe_per_row == [masks] * rows
    assert np.all((times > 0) & (times < 1))
    assert np.all(np.diff(times, axis=1) < 0)
    for t in (0.2, 0.5, 0.8):
        alive = (times < t).sum(axis=1)
        assert alive.mean() == pytest.approx(masks * t, abs=5 * math.sqrt(masks * t * (1 - t) / rows))
        assert alive.var() == pytest.approx(masks * t * (1 - t), rel=0.35)
    firsts = np.bincount([t[0].position for t in sampler.trajectory], minlength=masks)
    assert ((firsts - rows / masks) ** 2 / (rows / masks)).sum() < 40, "chi-square, 11 degrees of freedom"


def test_noise_on_the_order_draws_positions_from_a_softmax():
    """I16: score + T G ranks like drawing without replacement from softmax(score / T)."""
    n, temperature = 4000, 0.3
    scores = np.array([0.9, 0.6, 0.5, 0.2])
    config = dllm_fast.SamplerConfig(mask_token_id=MASK, order_temperature=temperature, steps=2)
    sampler = dllm_fast.Sampler(config, [np.full(4, MASK)] * n, request=list(range(n)), seed=8)
    sampler.next()
    rows = np.tile(scores, n)
    sampler.feed(
        prediction=dllm_fast.Prediction(
            token=np.zeros(4 * n, dtype=np.int64), probability=rows, top1=rows, top2=rows / 2, entropy=1 - rows
        )
    )
    p = np.exp(scores / temperature) / np.exp(scores / temperature).sum()
    first, second = np.array([[e.position for e in t] for t in sampler.trajectory]).T
    pairs = np.array([[p[i] * p[j] / (1 - p[i]) if i != j else 0 for j in range(4)] for i in range(4)]) * n
    observed = np.zeros((4, 4))
    np.add.at(observed, (first, second), 1)
    assert np.all(np.diag(observed) == 0)
    chi_square = ((observed - pairs)[pairs > 0] ** 2 / pairs[pairs > 0]).sum()
    assert chi_square < 35, "11 degrees of freedom: less than one in a thousand"


# --- what is refused

CONFIG = {"mask_token_id": MASK}
CANVAS = [np.array([1, MASK, MASK])]

BAD_SETTINGS = {
    "no mask": ({"mask_token_id": None}, ["mask", "mask_token_id"]),
    "negative temperature": ({"temperature": -1.0}, ["temperature", "at least 0", "-1"]),
    "temperature nan": ({"temperature": math.nan}, ["temperature", "NaN"]),
    "top_p 0": ({"top_p": 0.0}, ["top_p", "(0, 1]", "got 0"]),
    "top_p above 1": ({"top_p": 2.0}, ["top_p", "(0, 1]", "got 2"]),
    "top_k 0": ({"top_k": 0}, ["top_k", "at least 1", "got 0"]),
    "top_k negative": ({"top_k": -2}, ["top_k", "at least 1", "-2"]),
    "min_p above 1": ({"min_p": 1.5}, ["min_p", "[0, 1]", "1.5"]),
    "threshold nan": ({"threshold": math.nan}, ["threshold", "NaN"]),
    "factor negative": ({"factor": -1.0}, ["factor", "at least 0", "-1"]),
    "entropy_bound negative": ({"entropy_bound": -0.1}, ["entropy_bound", "at least 0", "-0.1"]),
    "two cuts": ({"threshold": 0.9, "factor": 1.0}, ["threshold", "factor", "entropy_bound"]),
    "order_temperature negative": ({"order_temperature": -1.0}, ["order_temperature", "at least 0", "-1"]),
    "order unknown": ({"order": "confidense"}, ["order", "confidence", "confidense"]),
    "schedule unknown": ({"schedule": "evn"}, ["schedule", "even", "evn"]),
    "eps 0": ({"schedule": "dream", "eps": 0.0}, ["eps", "(0, 1)", "got 0"]),
    "steps 0": ({"steps": 0}, ["steps", "at least 1", "got 0"]),
    "steps negative": ({"steps": -3}, ["steps", "at least 1", "-3"]),
    "steps_per_block 0": ({"steps_per_block": 0}, ["steps_per_block", "at least 1", "got 0"]),
    "both steps": ({"steps": 4, "steps_per_block": 4}, ["steps", "steps_per_block", "total"]),
    "block_length 0": ({"block_length": 0}, ["block_length", "at least 1", "got 0"]),
    "min_commit 0": ({"min_commit": 0}, ["min_commit", "at least 1", "got 0"]),
    "max_new_tokens 0": ({"max_new_tokens": 0}, ["max_new_tokens", "at least 1", "got 0"]),
    "eos is mask": ({"eos_token_id": MASK}, ["eos_token_id", "mask_token_id", str(MASK)]),
    "stop without eos": ({"stop_at_eos": True}, ["stop_at_eos", "eos_token_id"]),
    "mask negative": ({"mask_token_id": -1}, ["mask_token_id", "-1"]),
    "suppress negative": ({"suppress_tokens": [-1]}, ["suppress_tokens", "-1"]),
}


def explained(caught, words):
    message = str(caught.value)
    missing = [word for word in [*words, "; "] if word not in message]
    assert not missing, f"{missing} not in: {message}"


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_settings_are_refused(case):
    changes, words = BAD_SETTINGS[case]
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        dllm_fast.Sampler(dllm_fast.SamplerConfig(**{**CONFIG, **changes}), CANVAS)
    assert isinstance(caught.value, ValueError)
    explained(caught, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": "hot"}, ["temperature", "hot"]),
        ({"steps": 1.5}, ["steps", "1.5"]),
        ({"order": 3}, ["order", "3"]),
        ({"threshold": [0.9]}, ["threshold", "0.9"]),
        ({"shift": "yes"}, ["shift", "yes"]),
    ],
)
def test_settings_of_the_wrong_type_are_refused(changes, words):
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        dllm_fast.SamplerConfig(**{**CONFIG, **changes})
    assert isinstance(caught.value, TypeError)
    explained(caught, words)


BAD_ARGUMENTS = {
    "negative id": (([np.array([-1, MASK])],), {}, ["canvas", "-1"]),
    "seed negative": ((CANVAS,), {"seed": -1}, ["seed", "-1", "2^64"]),
    "too many seeds": ((CANVAS,), {"seed": [1, 2]}, ["seed", "1 rows", "got 2"]),
    "request negative": ((CANVAS,), {"request": -1}, ["request", "-1"]),
    "more blocks than steps": (
        ([np.full(9, MASK)],),
        {},
        ["steps", "at least", "2 steps for the 3 blocks of row 0", "steps=3"],
    ),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments_are_refused(case):
    arguments, keywords, words = BAD_ARGUMENTS[case]
    config = {**CONFIG, **({"steps": 2, "block_length": 3} if case == "more blocks than steps" else {})}
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), *arguments, **keywords)
    assert isinstance(caught.value, ValueError)
    explained(caught, words)


@pytest.mark.parametrize("canvases", [[np.array([0.5, 1.0])], [[["a"]]], 3, np.array([1, 2])])
def test_canvases_of_the_wrong_type_are_refused(canvases):
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        dllm_fast.Sampler(dllm_fast.SamplerConfig(**CONFIG), canvases)
    assert isinstance(caught.value, TypeError)


def waiting_sampler(**changes):
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**{**CONFIG, **changes}), CANVAS)
    sampler.next()
    return sampler


def logits_with(row, column, value):
    matrix = np.zeros((2, VOCABULARY), dtype=np.float32)
    matrix[row, column] = value
    return matrix


BAD_ANSWERS = {
    "nan": ({"logits": logits_with(1, 4, np.nan)}, ["NaN", "row 0", "position 2", "id 4"]),
    "all -inf": ({"logits": logits_with(0, slice(None), -np.inf)}, ["row 0", "position 1", "-inf"]),
    "too few": ({"logits": logits_with(0, 0, 0)[:1]}, ["one row for each requested position", "got 1 for 2"]),
    "mask beyond": ({"logits": np.zeros((2, 5), dtype=np.float32)}, ["mask_token_id", str(MASK), "5 columns"]),
    "nothing": ({}, ["feed", "exactly one"]),
    "two answers": ({"logits": logits_with(0, 0, 0), "tokens": [1, 1], "scores": [1.0, 1.0]}, ["feed", "exactly one"]),
    "tokens alone": ({"tokens": [1, 1]}, ["feed", "scores"]),
    "score nan": ({"tokens": [1, 1], "scores": [0.0, math.nan]}, ["NaN", "row 0", "position 2"]),
    "the mask": ({"tokens": [1, MASK], "scores": [0.0, 0.0]}, ["mask", f"got {MASK}", "row 0", "position 2"]),
    "negative token": ({"tokens": [1, -4], "scores": [0.0, 0.0]}, ["tokens", "-4"]),
    "other row": ({"logits": logits_with(0, 0, 0), "rows": [1]}, ["rows", "got 1", "next()"]),
    "row twice": ({"logits": np.zeros((4, VOCABULARY), dtype=np.float32), "rows": [0, 0]}, ["rows", "distinct", "got 0"]),
    "index beyond": ({"logits": logits_with(0, 0, 0), "index": [0, 2]}, ["index", "got 2 for 2 rows"]),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_bad_answers_are_refused_and_change_nothing(case):
    answer, words = BAD_ANSWERS[case]
    sampler = waiting_sampler()
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        sampler.feed(**answer)
    assert isinstance(caught.value, ValueError)
    explained(caught, words)
    assert sampler.canvases[0].tolist() == CANVAS[0].tolist()
    assert sampler.trajectory == [[]]
    sampler.feed(logits_with(1, 2, 9.0))
    assert sampler.canvases[0].tolist() == [1, MASK, 2]


def test_scores_cannot_stand_for_entropies():
    sampler = waiting_sampler(entropy_bound=0.1, order="entropy")
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        sampler.feed(tokens=[1, 1], scores=[0.0, 0.0])
    explained(caught, ["entropy_bound", "scores"])


@pytest.mark.parametrize("order", STATISTIC_ORDERS)
def test_infinite_statistics_do_not_stop_the_machine(order):
    """I19: refused or ranked, but never half-written; and a good answer after it is taken."""
    sampler = waiting_sampler(order=order)
    infinite = np.array([math.inf, math.inf])
    statistics = {"probability": infinite, "top1": infinite, "top2": infinite, "entropy": infinite}
    try:
        sampler.feed(prediction=dllm_fast.Prediction(token=[1, 2], **statistics))
    except dllm_fast.DllmFastError as error:
        explained(SimpleNamespace(value=error), ["row 0", "position 1", "inf"])
        assert sampler.trajectory == [[]]
        sampler.feed(tokens=[1, 2], scores=[1.0, 0.0])
    assert sampler.canvases[0].tolist() == [1, 1, MASK]


@pytest.mark.parametrize("schedule", ["even", "maskgit"])
def test_the_largest_noise_on_infinite_scores_is_a_number(schedule):
    """A margin may be infinite, and the noise on it infinite the other way: together they would be none."""
    settings = {"mask_token_id": MASK, "order": "margin", "order_temperature": sys.float_info.max, "schedule": schedule}
    one = {"token": [0] * 8, "probability": [0.5] * 8, "entropy": [0.5] * 8, "top1": [1e308] * 8, "top2": [-1e308] * 8}
    for seed in range(4):
        sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**settings, steps=2), [[MASK] * 8], seed=seed)
        sampler.next()
        sampler.feed(prediction=dllm_fast.Prediction(**one))
        assert len(sampler.trajectory[0]) > 0


def test_your_own_choice():
    """The caller's scores order the positions; the highest goes first, ties to the lower position."""
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**CONFIG, threshold=0.5), [np.array([MASK, 0, MASK, MASK])])
    assert sampler.next().positions[0].tolist() == [0, 2, 3]
    sampler.feed(tokens=[1, 2, 3], scores=[0.5, 0.4, 0.6])
    assert [(e.position, e.token, e.probability) for e in sampler.trajectory[0]] == [(3, 3, 0.6), (0, 1, 0.5)]
    sampler.next()
    sampler.feed(tokens=[5], scores=[-1.0])
    assert sampler.canvases[0].tolist() == [1, 0, 5, 3]
    assert sampler.next() is None


def test_an_end_token_finishes_the_row():
    """The first end token with no mask before it; what follows becomes the first of the end tokens."""
    config = dllm_fast.SamplerConfig(**CONFIG, eos_token_id=(END, OTHER_END), stop_at_eos=True)
    sampler = dllm_fast.Sampler(config, [np.array([END, MASK, MASK, 5, MASK])])
    sampler.next()
    sampler.feed(tokens=[1, OTHER_END, 2], scores=[0.0, 0.9, 0.5])
    assert sampler.canvases[0].tolist() == [END, MASK, OTHER_END, 5, MASK], "a mask lies before it"
    sampler.next()
    sampler.feed(tokens=[1, 2], scores=[0.9, 0.5])
    assert sampler.canvases[0].tolist() == [END, 1, OTHER_END, 5, END]
    assert [(e.kind, e.position) for e in sampler.trajectory[0]] == [("commit", 2), ("commit", 1), ("pad", 4)]
    assert sampler.next() is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"order": "ancestral", "threshold": 0.9}, "order 'ancestral' commits with the schedule's probabilities alone"),
        (
            {"order": "ancestral", "schedule": "first-hitting"},
            "schedule 'first-hitting' commits one mask at a time, got order 'ancestral'",
        ),
        ({"order": "ancestral", "min_commit": 2}, "got a threshold, factor, entropy_bound, min_commit or order_temperature"),
        ({"schedule": "first-hitting", "steps": 4}, "schedule 'first-hitting' takes one forward for each mask"),
        (
            {"schedule": "first-hitting", "threshold": 0.9},
            "takes one forward for each mask, got threshold beside it",
        ),
        (
            {"schedule": "first-hitting", "min_commit": 3},
            "takes one forward for each mask, got min_commit beside it",
        ),
        (
            {"order": "ancestral", "schedule": "maskgit"},
            "needs the times of a noise schedule, got schedule 'maskgit'",
        ),
        ({"order": "random", "order_temperature": 0.5}, "order 'random' is chance alone, got order_temperature 0.5 beside it"),
        (
            {"schedule": "maskgit", "order": "entropy", "order_temperature": 1.0},
            "needs? .*probability|logarithm of a probability",
        ),
    ],
)
def test_settings_that_would_silently_do_nothing_are_refused(settings, says):
    with pytest.raises(dllm_fast.DllmFastError, match=says):
        dllm_fast.SamplerConfig(**settings)


def test_noise_on_chance_counts_where_something_else_does():
    dllm_fast.SamplerConfig(order="random", order_temperature=0.5, position_penalty=0.1)
    dllm_fast.SamplerConfig(schedule="first-hitting", min_commit=1)


def test_a_request_waits_for_all_its_rows():
    """Rows of one request have as many forwards behind them, so that `step` is true for all of them."""
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(mask_token_id=MASK), [np.array([MASK, MASK])] * 2)
    sampler.next()
    sampler.feed(tokens=[1, 1], scores=[0.5, 0.4], rows=[0])
    assert sampler.next().rows.tolist() == [1]
    sampler.feed(tokens=[1, 1], scores=[0.5, 0.4], rows=[1])
    request = sampler.next()
    assert (request.rows.tolist(), request.step) == ([0, 1], 1)
