"""Rules that say which positions a step writes: strides, spacing, sub-blocks, windows, several blocks. Against the reference,
and by what each of them promises."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm_fast
import strategies
import toys
from dllm_fast.errors import InvalidValueError
from driving import assert_equals_reference, batches, drive, edits_of, same, tables
from reference import reach
from strategies import END, MASK, VOCABULARY

RANKED = {"orders": tuple(order for order in strategies.PLAIN_ORDERS if order != "ancestral"), "annealed": False}


def greedy(**more):
    return {"mask_token_id": MASK, "order": "confidence", "schedule": "even", **more}


def steps_of(sampler, row=0):
    """The positions that each forward commits."""
    edits = [e for e in sampler.trajectory[row] if e.kind == "commit"]
    return [[e.position for e in each] for _, each in itertools.groupby(edits, key=lambda e: e.step)]


@settings(max_examples=6 * settings().max_examples)
@given(strategies.placed(), batches(), tables)
def test_equals_the_reference_token_for_token(config, batch, model):
    canvases, seeds, requests, starts = batch
    sampler = drive(config, canvases, model, seed=seeds, request=requests, block_start=starts)
    assert_equals_reference(sampler, config, batch, model)


@given(strategies.placed(), batches(), tables)
def test_whatever_is_scored_the_edits_are_the_same(config, batch, model):
    canvases, seeds, requests, starts = batch
    where = {"seed": seeds, "request": requests, "block_start": starts}
    base, all_scored = drive(config, canvases, model, **where), drive(config, canvases, model, score_all=True, **where)
    for ours, theirs in zip(base.trajectory, all_scored.trajectory, strict=True):
        assert same(edits_of(ours), edits_of(theirs))


# Strides.


@given(st.integers(0, 200), st.integers(2, 7))
def test_levels_partition_the_block_and_keep_apart(length, dilation):
    levels = reach.levels(length, dilation)
    assert sorted(itertools.chain(*levels)) == list(range(length))
    assert len(levels) <= (math.log(length) / math.log(dilation) + 1 + 1e-9 if length else 0)


@pytest.mark.parametrize(("dilation", "power"), [(2, 1), (2, 5), (3, 3), (5, 2), (7, 1)])
def test_a_power_of_the_dilation_takes_its_logarithm_of_forwards(dilation, power):
    length = dilation**power
    config = {"mask_token_id": MASK, "order": "left-to-right", "schedule": "dilated", "dilation": dilation}
    canvas = np.array([1, 2, *[MASK] * 2 * length])
    sampler = drive(config | {"block_length": length}, [canvas], toys.HashTable(VOCABULARY), block_start=2)
    written = steps_of(sampler)
    assert len(written) == 2 * power
    assert _core_bound(config | {"block_length": length}, 2 * length, 2) >= 2 * power
    for index, level in enumerate(written[:power]):
        stride = length // dilation ** (index + 1)
        assert all(b - a >= stride for a, b in itertools.pairwise(level))
    if (dilation, power) == (2, 5):
        assert [len(level) for level in written] == [2, 2, 4, 8, 16] * 2


def _core_bound(config, masks, blocks):
    return dllm_fast._core.most_forwards(dllm_fast.SamplerConfig(**config), masks, blocks)


def test_a_level_without_masks_costs_nothing():
    config = {"mask_token_id": MASK, "order": "left-to-right", "schedule": "dilated"}
    canvas = [1, MASK, 1, MASK, 1, MASK, 1, MASK]  # on stride 1 alone
    assert steps_of(drive(config, [canvas], toys.HashTable(VOCABULARY))) == [[1, 3, 5, 7]]


# Spacing.


@given(strategies.settings(**RANKED, schedules=strategies.SCHEDULES[:-1]), strategies.canvases(), tables, st.integers(2, 6))
def test_what_a_step_writes_stands_apart_but_for_the_floor(config, canvas, model, spacing):
    config = {name: value for name, value in config.items() if not name.startswith("gap_") and name != "min_commit"}
    config.pop("steps_per_block", None)
    if config["schedule"] == "dream":
        config = strategies.changed(config, schedule="even")
    for step in steps_of(drive(config | {"spacing": spacing}, [canvas], model)):
        assert all(b - a >= spacing for a, b in itertools.pairwise(sorted(step)))


@given(strategies.settings(**RANKED, schedules=strategies.SCHEDULES[:-1]), batches(), tables)
def test_spacing_changes_no_count_and_one_changes_nothing(config, batch, model):
    canvases, seeds, requests, starts = batch
    where = {"seed": seeds, "request": requests, "block_start": starts}
    plain = drive(config, canvases, model, **where)
    one = drive(config | {"spacing": 1, "position_penalty": 0.0}, canvases, model, **where)
    for ours, theirs in zip(plain.trajectory, one.trajectory, strict=True):
        assert same(edits_of(ours), edits_of(theirs))
    counted = {name: value for name, value in config.items() if name not in strategies.CUTS and not name.startswith("gap_")}
    counted.pop("stop_at_eos", None)
    plain, apart = (drive(counted | {"spacing": spacing}, canvases, model, **where) for spacing in (1, 4))
    for row in range(len(canvases)):
        assert [len(step) for step in steps_of(plain, row)] == [len(step) for step in steps_of(apart, row)]


# Parts of a block.


@given(strategies.settings(**RANKED, schedules=["even"]), strategies.canvases(), tables, st.integers(1, 4))
def test_sub_blocks_are_filled_from_left_to_right(config, canvas, model, length):
    config = {name: value for name, value in config.items() if not name.startswith("gap_")}
    config |= {"block_length": 3 * length, "sub_block_length": length}
    config.pop("steps_per_block", None)
    sampler = drive(config, [canvas], model)
    parts = [p // length for step in steps_of(sampler) for p in step]
    assert parts == sorted(parts)
    assert all(len({p // length for p in step}) == 1 for step in steps_of(sampler))
    # A part as long as the block is the block.
    whole = drive(config | {"sub_block_length": 3 * length}, [canvas], model)
    del config["sub_block_length"]
    assert same(edits_of(whole.trajectory[0]), edits_of(drive(config, [canvas], model).trajectory[0]))


@given(strategies.canvases(), tables, st.integers(1, 5), st.sampled_from([0.0, 0.5]))
def test_the_first_position_of_a_block_is_written_alone(canvas, model, length, threshold):
    config = greedy(threshold=threshold, block_length=length, inherit_token=True)
    for step in steps_of(drive(config, [canvas], model)):
        assert step == [step[0]] or not any(p % length == 0 and p > 0 for p in step)


# The window.


@given(strategies.settings(**RANKED, schedules=["even"]), strategies.canvases(), tables, st.integers(1, 9))
def test_no_step_writes_beyond_the_window_and_the_stream_only_grows(config, canvas, model, length):
    config = {name: value for name, value in config.items() if not name.startswith("gap_") and name != "steps_per_block"}
    config |= {"window_length": length}
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), [canvas])
    told: list[int] = []
    shift = config.get("shift", False)
    while (request := sampler.next()) is not None:
        (before,), (positions,) = request.canvases, request.positions
        first = int(np.flatnonzero(before == MASK)[0])
        assert positions.max() < first + length or config.get("block_length")
        assert positions.max() - positions.min() < length
        lines = np.maximum(positions - 1, 0) if shift else positions
        sampler.feed(model.alone(before)[lines])
        stable = sampler.canvases[0][canvas == MASK][: sampler.stable([0])[0]].tolist()
        assert stable[: len(told)] == told
        told = stable
    if length == 1:
        commits = [e.position for e in sampler.trajectory[0] if e.kind == "commit"]
        assert commits == sorted(commits)


@given(strategies.canvases(), tables, st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.02, 1.0]))
def test_wedlm_commits_what_is_below_the_bar_or_the_least(canvas, model, bar, penalty):
    """Said once more, by the formula."""
    config = {
        "mask_token_id": MASK,
        "order": "entropy",
        "entropy_threshold": bar,
        "position_penalty": penalty,
        "window_length": 4,
    }
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), [canvas])
    while (request := sampler.next()) is not None:
        positions = request.positions[0]
        prediction = sampler.predict(model.alone(request.canvases[0])[positions])
        sampler.feed(prediction=prediction)
        score = prediction.entropy + penalty * (positions - positions[0])
        expected = positions[score < bar] if (score < bar).any() else positions[[int(np.argmin(score))]]
        assert sorted(steps_of(sampler)[-1]) == expected.tolist()


@pytest.mark.parametrize(("penalty", "entropies", "expected"), [(0.0, [0.5, 0.25, 0.5], [1]), (0.25, [0.25, 0.25, 0.0], [0])])
def test_an_entropy_must_be_below_its_bar(penalty, entropies, expected):
    """What is at it waits; with the penalty for how far it stands from the first, too."""
    config = greedy(order="entropy", entropy_threshold=0.5, position_penalty=penalty)
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), [[MASK] * 3])
    sampler.next()
    half = np.full(3, 0.5)
    sampler.feed(
        prediction=dllm_fast.Prediction(token=[1] * 3, probability=half, top1=half, top2=half, entropy=np.array(entropies))
    )
    assert steps_of(sampler) == [expected]


# Several blocks.


@given(strategies.settings(**RANKED, schedules=["even"]), batches(), tables)
def test_one_block_after_the_other_is_the_rule_with_one_block(config, batch, model):
    canvases, seeds, requests, starts = batch
    where = {"seed": seeds, "request": requests, "block_start": starts}
    config = {name: value for name, value in config.items() if not name.startswith("gap_")}
    config = {"block_length": 3} | config
    for name in ("steps_per_block", "min_commit"):
        config.pop(name, None)
    one = drive(config, canvases, model, **where)
    several = drive(config | {"add_block_at": 1.0, "activate_block_at": 1.0}, canvases, model, **where)
    for ours, theirs in zip(one.trajectory, several.trajectory, strict=True):
        assert same(edits_of(ours), edits_of(theirs))


@given(st.integers(1, 30), st.integers(1, 6), tables, st.sampled_from([0.1, 0.5]), st.sampled_from([0.1, 0.95]))
def test_blocks_join_when_the_last_is_far_enough(masks, length, model, add, activate):
    canvas = np.full(masks, MASK)
    config = greedy(threshold=2.0, block_length=length, add_block_at=add, activate_block_at=activate)
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), [canvas])
    forwards = 0
    while (request := sampler.next()) is not None:
        before, (begin, end) = request.canvases[0], request.windows[0]
        blocks = [before[a : a + length] for a in range(0, masks, length)]
        done = [float((block != MASK).mean()) for block in blocks]
        first, last = begin // length, (end - 1) // length
        assert done[:first] == [1.0] * first
        assert done[first] < 1.0
        assert all(share >= add for share in done[first:last])
        assert last == len(blocks) - 1 or done[last] < add
        sampler.feed(model.alone(before)[request.positions[0]])
        expected = [i for i in range(first, last + 1) if done[i] < 1.0 and (i == 0 or done[i - 1] >= activate)]
        assert [p // length for p in steps_of(sampler)[-1]] == expected, "one in each that must be written in"
        forwards += 1
    assert forwards <= masks


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"schedule": "dilated"}, "which positions a step writes, got order 'confidence' beside it; set order='left-to-right'"),
        ({"schedule": "dilated", "order": "left-to-right", "threshold": 0.9}, "got threshold beside it"),
        ({"schedule": "dilated", "order": "left-to-right", "steps": 4}, "got steps beside it"),
        ({"schedule": "dilated", "order": "left-to-right", "spacing": 2}, "got spacing beside it"),
        ({"schedule": "dilated", "order": "left-to-right", "window_length": 2}, "got window_length beside it"),
        ({"schedule": "dilated", "order": "left-to-right", "edit_threshold": 0.5}, "got a rule that revises beside it"),
        ({"schedule": "dilated", "order": "left-to-right", "credit": 0.7}, "got credit beside it"),
        ({"dilation": 1}, "dilation must be at least 2, got 1"),
        ({"spacing": 0}, "spacing must be at least 1, got 0"),
        ({"spacing": 2, "order": "ancestral"}, "spacing is about a ranking, got order 'ancestral'"),
        ({"position_penalty": 0.1, "schedule": "first-hitting"}, "position_penalty is about a ranking"),
        ({"position_penalty": -1.0}, "position_penalty must be at least 0 and at most 1000000, got -1"),
        ({"position_penalty": math.nan}, "position_penalty must be"),
        ({"entropy_threshold": math.nan}, "entropy_threshold must be a number (nats), got NaN"),
        ({"entropy_threshold": 0.4, "threshold": 0.9}, "at most one of threshold, factor, entropy_bound and entropy_threshold"),
        ({"sub_block_length": 0}, "sub_block_length must be at least 1, got 0"),
        ({"window_length": 0}, "window_length must be at least 1, got 0"),
        ({"window_length": 2, "sub_block_length": 2}, "at most one of sub_block_length (or inherit_token), window_length"),
        (
            {"window_length": 2, "steps": 2},
            "window_length says how far a step reaches, with one token a forward at least, got steps",
        ),
        ({"sub_block_length": 2, "schedule": "cosine"}, "got another schedule than 'even' beside it"),
        ({"inherit_token": True, "order": "ancestral"}, "inherit_token says how far a step reaches"),
        ({"window_length": 2, "gap_stop": 2.5}, "got gap_stop beside it"),
        ({"window_length": 2, "edit_threshold": 0.5}, "got a rule that revises beside it"),
        ({"add_block_at": 0.0}, "add_block_at must be a share above 0, at most 1, got 0"),
        ({"add_block_at": 0.5, "activate_block_at": 1.5}, "activate_block_at must be a share above 0, at most 1, got 1.5"),
        ({"activate_block_at": 0.5}, "activate_block_at is read beside add_block_at alone, got 0.5 without one"),
        ({"add_block_at": 0.5, "min_commit": 2}, "got min_commit beside it"),
    ],
)
def test_what_means_nothing_is_refused(settings, says):
    with pytest.raises(InvalidValueError) as refused:
        dllm_fast.SamplerConfig(**settings)
    assert says in str(refused.value)


#: Settings that say where a step writes, or how much, or that look at what is written.
OTHERS = {
    "a cut": {"threshold": 0.9},
    "steps": {"steps": 4},
    "another schedule": {"schedule": "cosine"},
    "min_commit": {"min_commit": 2},
    "noise on the order": {"order_temperature": 0.5},
    "a penalty": {"position_penalty": 0.1},
    "spacing": {"spacing": 2},
    "a part": {"sub_block_length": 2},
    "a window": {"window_length": 2},
    "several blocks": {"add_block_at": 0.5},
    "a stop": {"gap_stop": 2.5},
    "credit": {"credit": 0.7},
    "klass": {"threshold": 0.9, "kl_threshold": 0.01},
    "editing": {"edit_threshold": 0.5},
    "taking back": {"remask": "low-confidence"},
    "suffix": {"eos_policy": "suffix", "eos_token_id": END},
    "delay": {"eos_policy": "delay", "eos_token_id": END},
    "another temperature": {"temperature": 1.0, "temperature_end": 0.5},
    "noise": {"noise": "uniform"},
    "verify": {"verify": True, "order": "left-to-right"},
}
DILATED = {"schedule": "dilated", "order": "left-to-right"}
DRAFTS = {"noise": "uniform", "drafts": True, "steps_per_block": 4, "entropy_bound": 0.1, "order": "entropy"}
REFUSES = [
    (
        DILATED,
        "a cut; steps; min_commit; noise on the order; a penalty; spacing; a part; a window; several blocks; a stop; credit; "
        "klass; editing; taking back; suffix; delay; verify",
    ),
    (
        DRAFTS,
        "a cut; another schedule; a penalty; spacing; a part; a window; several blocks; a stop; credit; klass; editing; "
        "taking back; suffix; delay; verify",
    ),
    ({"window_length": 2}, "steps; another schedule; a part; several blocks; a stop; editing; taking back; noise; verify"),
    ({"sub_block_length": 2}, "steps; another schedule; a window; several blocks; a stop; editing; taking back; noise; verify"),
    (
        {"add_block_at": 0.5},
        "steps; another schedule; min_commit; a window; a part; a stop; editing; taking back; suffix; delay; noise; verify",
    ),
    (
        {"remask": "low-confidence"},
        "a penalty; spacing; a part; a window; several blocks; credit; klass; editing; suffix; delay; another temperature; "
        "noise; verify",
    ),
    (
        {"order": "ancestral"},
        "a cut; min_commit; noise on the order; a penalty; spacing; a part; a window; a stop; credit; editing",
    ),
    ({"verify": True, "order": "left-to-right"}, "; ".join(OTHERS).replace("; verify", "")),
]


@pytest.mark.parametrize(("rule", "beside"), [(rule, name) for rule, names in REFUSES for name in names.split("; ")])
def test_what_says_the_same_is_refused_beside_it(rule, beside):
    """Each of the two alone is a rule; together they are none, and the text names what is in the way."""
    dllm_fast.SamplerConfig(**rule)
    dllm_fast.SamplerConfig(**OTHERS[beside])
    with pytest.raises(InvalidValueError, match=r"got .*; |at most one of .*; "):
        dllm_fast.SamplerConfig(**rule | OTHERS[beside])


@pytest.mark.parametrize("more", [{"window_length": 2}, {"add_block_at": 0.5, "block_length": 2}, {"sub_block_length": 1}])
def test_positions_that_wait_go_with_blocks_alone(more):
    with pytest.raises(InvalidValueError, match="eligible_after says which positions of a block may be written, got "):
        dllm_fast.Sampler(dllm_fast.SamplerConfig(mask_token_id=MASK, **more), [[MASK] * 4], eligible_after={1: [0]})
    with pytest.raises(InvalidValueError, match="a schedule must say how many masks each step commits, got 'dilated'"):
        dllm_fast.schedule("dilated", 4, 2)
