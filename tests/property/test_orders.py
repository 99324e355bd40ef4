"""A row's own order: ranks, and positions that wait for others, beside every rule; against the reference and by themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm_fast
import strategies
import toys
from dllm_fast.errors import InvalidTypeError, InvalidValueError
from driving import drive, edits_of, lines, same, tables
from reference import sampler as reference
from strategies import MASK, VOCABULARY

# The reverse process itself lets any mask be the next.
ORDERED = tuple(order for order in strategies.ORDERS if order != "ancestral")
ranks = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3))


@st.composite
def rows(draw):
    """Settings, a canvas, where its blocks begin, and its own order under them."""
    canvas = draw(strategies.canvases())
    config = draw(strategies.settings(orders=ORDERED, schedules=strategies.SCHEDULES[:-1], annealed=False))
    for name in ("gap_stop", "gap_start", "gap_length"):
        config.pop(name, None)  # they end a block at once
    start = draw(st.integers(0, 10))
    order = draw(st.lists(ranks, min_size=len(canvas), max_size=len(canvas))) if config["order"] == "ranks" else None
    masks = np.flatnonzero(canvas == MASK).tolist()
    windows = reference.windows(len(canvas), config.get("block_length"), start)
    block = {p: i for i, window in enumerate(windows) for p in window}
    # Any order of the masks that goes from block to block has no cycles: whoever waits, waits for some before him in it.
    line = sorted(draw(st.permutations(masks)), key=block.__getitem__)
    after = {}
    for i, position in enumerate(line):
        if i and draw(st.booleans()):
            after[position] = draw(st.lists(st.sampled_from(line[:i]), max_size=3))
    return config, canvas, start, order, after


def rank_rows(case):
    return {} if case[3] is None else {"order": [case[3]]}


@settings(max_examples=3 * settings().max_examples)
@given(rows(), tables, strategies.seeds, st.booleans())
def test_equals_the_reference_token_for_token(case, model, seed, score_all):
    config, canvas, start, order, after = case
    where = {"seed": seed, "block_start": start}
    sampler = drive(config, [canvas], model, eligible_after=after, score_all=score_all, **where, **rank_rows(case))
    expected = reference.run(model.alone, canvas, config, order=order, eligible_after=after, **where)
    ours, theirs = edits_of(sampler.trajectory[0]), edits_of(expected.trajectory)
    assert same(ours, theirs), f"\nours      {ours}\nreference {theirs}"
    assert sampler.nfe_per_row == [expected.nfe]
    # Whoever is waited for is written in an earlier forward.
    written = {position: step for step, position, *_, kind, _ in ours if kind == "commit"}
    for position, before in after.items():
        assert all(written[earlier] < written[position] for earlier in before if position in written)
    # Each forward commits something, but for those that Dream's schedule spends on nothing.
    most = len(written) + (config.get("steps_per_block", 0) * len(canvas) if config["schedule"] == "dream" else 0)
    assert sampler.nfe_per_row[0] <= most


@given(rows(), tables)
def test_one_array_of_ranks_is_for_all_rows_and_a_row_may_have_its_own(case, model):
    config, canvas, start, order, after = case
    if order is None:
        config, order = strategies.changed(config, order="ranks"), list(range(len(canvas)))
    where = {"block_start": start}
    one = drive(config, [canvas] * 2, model, order=np.array(order), eligible_after=after, **where)
    each = drive(config, [canvas] * 2, model, order=[order, order], eligible_after=[after, after], **where)
    joined = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), [])
    row = joined.add(canvas, order=order, eligible_after=after, **where)
    assert row == 0
    while (request := joined.next()) is not None:
        joined.feed(np.concatenate(lines(model, request, config.get("shift", False))))
    for ours in (*one.trajectory, *each.trajectory, *joined.trajectory):
        assert same(edits_of(ours), edits_of(one.trajectory[0]))


@given(strategies.settings(orders=("left-to-right",), annealed=False), strategies.canvases(), tables)
def test_rising_ranks_are_left_to_right(config, canvas, model):
    config.pop("order_temperature", None)  # it is added to ranks, whatever those are
    plain = drive(config, [canvas], model)
    ranked = drive(config | {"order": "ranks"}, [canvas], model, order=np.arange(len(canvas)))
    assert same(edits_of(plain.trajectory[0]), edits_of(ranked.trajectory[0]))
    ranked = drive(config | {"order": "ranks"}, [canvas], model, order=np.zeros(len(canvas)))
    assert same(edits_of(plain.trajectory[0]), edits_of(ranked.trajectory[0])), "ties go to the lower position"


@given(strategies.settings(orders=ORDERED, schedules=strategies.SCHEDULES[:-1], annealed=False), strategies.canvases(), tables)
def test_a_chain_is_left_to_right_whatever_the_rule(config, canvas, model):
    for name in ("gap_stop", "gap_start", "gap_length"):
        config.pop(name, None)  # they end a block at once
    if config["order"] == "ranks":
        config["order"] = "confidence"
    masks = np.flatnonzero(canvas == MASK).tolist()
    chain = {later: [earlier] for earlier, later in itertools.pairwise(masks)}
    sampler = drive(config, [canvas], model, eligible_after=chain)
    commits = [e.position for e in sampler.trajectory[0] if e.kind == "commit"]
    assert commits == masks[: len(commits)]


def greedy(**more):
    return dllm_fast.SamplerConfig(mask_token_id=MASK, **more)


CANVAS = [1, MASK, MASK, MASK]


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"order": [1, 2, 3]}, InvalidValueError, "got 3 for the 4 of row 0; give one also to what is given"),
        ({"order": [1, 2, 3, np.nan]}, InvalidValueError, "finite ranks, got NaN at canvas position 3 of row 0"),
        ({"order": [1, 2, 3, np.inf]}, InvalidValueError, "finite ranks, got inf at canvas position 3"),
        ({"order": [[1, 2, 3, 4]] * 2}, InvalidValueError, "one for each of 1 rows, got 2; check its length"),
        ({"order": "confidence"}, InvalidTypeError, "order must be an array of ranks, or one for each row, got 'confidence'"),
        ({"order": 3}, InvalidTypeError, "order must be an array of ranks, or one for each row, got 3"),
        ({"order": [1, True, 2, 3]}, InvalidTypeError, "order must be numbers"),
        ({"eligible_after": {4: []}}, InvalidValueError, "got 4 for the 4 of row 0"),
        ({"eligible_after": {1: [7]}}, InvalidValueError, "got 7 for the 4 of row 0"),
        ({"eligible_after": {1: [0]}}, InvalidValueError, "got canvas position 0 of row 0, which was given"),
        ({"eligible_after": {0: [1]}}, InvalidValueError, "got canvas position 0 of row 0, which was given"),
        ({"eligible_after": {2: [2]}}, InvalidValueError, "wait for itself, got canvas position 2 of row 0"),
        ({"eligible_after": {1: [2], 2: [3], 3: [1]}}, InvalidValueError, "no cycle, got one through canvas position 1"),
        ({"eligible_after": {1: [-1]}}, InvalidValueError, "got -1; count from 0"),
        ({"eligible_after": {1: 2}}, InvalidTypeError, "must name positions in lists, got 2"),
        ({"eligible_after": {1: [0.5]}}, InvalidTypeError, "eligible_after must hold integers"),
        ({"eligible_after": [[1, 2]]}, InvalidTypeError, "must map positions"),
        ({"eligible_after": [{}, {}]}, InvalidValueError, "for each of 1 rows, got 2; pass None"),
        ({"eligible_after": 3}, InvalidTypeError, "must map positions"),
    ],
)
def test_what_no_order_can_be_is_refused_before_anything(arguments, kind, says):
    config = greedy(order="ranks") if "order" in arguments else greedy()
    with pytest.raises(kind) as refused:
        dllm_fast.Sampler(config, [CANVAS], **arguments)
    assert says in str(refused.value)
    sampler = dllm_fast.Sampler(config, [])
    if not any(isinstance(value, list) and len(value) == 2 for value in arguments.values()):
        with pytest.raises(kind):
            sampler.add(CANVAS, **arguments)
    assert sampler.next() is None, "a refused row leaves no trace"


def test_orders_that_do_not_go_together():
    for config, arguments, says in [
        (greedy(order="ranks"), {}, "order 'ranks' needs a rank for each position, got none for row 0"),
        (greedy(), {"order": [1, 2, 3, 4]}, "got some for row 0 with the order 'confidence'; leave them out"),
        (greedy(block_length=2), {"eligible_after": {1: [2]}}, "a later block, got 1 after 2 in row 0"),
        (greedy(order="ancestral"), {"eligible_after": {2: [1]}}, "order 'ancestral' commits every position by itself"),
        (greedy(schedule="first-hitting"), {"eligible_after": {2: [1]}}, "schedule 'first-hitting' may commit any mask next"),
        (greedy(gap_stop=2.5), {"eligible_after": {2: [1]}}, "gap_stop ends a block at once, got eligible_after"),
    ]:
        with pytest.raises(InvalidValueError) as refused:
            dllm_fast.Sampler(config, [CANVAS], **arguments)
        assert says in str(refused.value)
    with pytest.raises(InvalidValueError, match="order_temperature under the maskgit schedule"):
        greedy(order="ranks", schedule="maskgit", order_temperature=1.0)


def order_of(result, row=0):
    return [edit.position for edit in result.trajectory[row] if edit.kind == "commit"]


def test_sample_and_infill_take_them():
    model = toys.HashTable(VOCABULARY)
    common = {"mask_token_id": MASK}
    result = dllm_fast.sample(model, [[1, 2], [1]], max_new_tokens=3, order=[2, 0, 1], **common)
    assert [order_of(result, row) for row in (0, 1)] == [[3, 4, 2], [2, 3, 1]], "ranks are of the new positions"
    assert (result.config.order, result.config.sources["order"]) == ("ranks", "caller")
    result = dllm_fast.sample(model, [[1, 2], [1]], max_new_tokens=3, order=np.array([[2, 0, 1], [0, 1, 2]]), **common)
    assert [order_of(result, row) for row in (0, 1)] == [[3, 4, 2], [1, 2, 3]]
    result = dllm_fast.infill(model, [5, MASK, 1, MASK], order=[0, 2, 0, 1], **common)
    assert order_of(result) == [3, 1]
    result = dllm_fast.sample(
        model, [1, 2], max_new_tokens=3, eligible_after={0: [1], 1: [2]}, num_samples=2, temperature=1, **common
    )
    assert [order_of(result, row) for row in (0, 1)] == [[4, 3, 2]] * 2
    result = dllm_fast.infill(model, [[MASK, MASK], [MASK, MASK]], eligible_after=[{0: [1]}, None], **common)
    assert order_of(result) == [1, 0]
    with dllm_fast.stream(model, canvas=[MASK, MASK], eligible_after={0: [1]}, preset="fast-dllm", **common) as run:
        assert [edit.position for event in run for edit in event.edits[0]] == [1, 0]
    with pytest.raises(InvalidValueError, match=r"a rank for each new position, got 2 for max_new_tokens=3"):
        dllm_fast.sample(model, [1, 2], max_new_tokens=3, order=[0, 1], **common)
    with pytest.raises(InvalidValueError, match=r"must name new positions, got 3 for max_new_tokens=3"):
        dllm_fast.sample(model, [1, 2], max_new_tokens=3, eligible_after={3: [1]}, **common)
    with pytest.raises(InvalidTypeError, match="order must be a name"):
        dllm_fast.SamplerConfig(order=[1, 2])
