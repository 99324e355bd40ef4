"""Rows of different rules that come, wait for room, are cancelled and finish: each writes what it writes alone."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm_fast
import every_axis
import strategies
import toys
from dllm_fast.errors import InvalidTypeError, InvalidValueError
from driving import drive, edits_of, line, lines, replayed, same, tables
from reference import sampler as reference
from strategies import MASK, VOCABULARY


@dataclass
class Case:
    """A row to be, and what became of it."""

    config: dict[str, Any]
    start: every_axis.Start
    index: int = -1
    is_cancelled: bool = False
    stable: list[int] = field(default_factory=list)

    @property
    def canvas(self):
        return self.start.canvas

    def alone(self, model):
        return drive(self.config, [self.canvas], model, **every_axis.together([self.start]))


@st.composite
def configs(draw):
    """Settings of any rule, quirks of the published loops included."""
    if draw(st.integers(0, 3)):
        return draw(every_axis.settings())
    config = draw(strategies.settings(annealed=True))
    if draw(st.booleans()) and config.get("gap_stop") is None:  # which measures what the quirk rounds
        config["as_published"] = True
    if config["order"] != "ancestral" and config["schedule"] != "first-hitting" and draw(st.booleans()):
        config["edit_threshold"] = draw(st.one_of(st.sampled_from([0.0, 0.1, 0.5, 1.0, math.inf]), st.floats(0, 1)))
        config["max_post_steps"] = draw(st.integers(0, 4))
    return draw(strategies.endings(config)) if draw(st.booleans()) else config


def bound(case: Case) -> int:
    """Forwards of a row at most, as `Rule::most_forwards` documents it: masks or steps, and post-steps of each block."""
    config, masks = case.config, np.flatnonzero(case.start.is_open)
    if "length" in config:  # a token a forward, and forwards of DAEDAL that only add masks
        most = config["max_new_tokens"]
        return most + (config["length"] == "daedal") * -(-most // config.get("expansion_factor", 8))
    windows = reference.windows(len(case.canvas), config.get("block_length"), case.start.block_start)
    blocks = sum(bool(np.isin(masks, window).any()) for window in windows)
    steps = config.get("steps") or config.get("steps_per_block", len(masks)) * blocks
    # What is filled may be taken back, and filled again, as long as there are steps; noise is decided again.
    spends = config["schedule"] in ("dream", "cumulative") or config.get("remask") in strategies.REMASKS[:5]
    spends |= "drafts" in config or (config["order"] == "ancestral" and config.get("noise", "mask") != "mask")
    has_steps = bool({"steps", "steps_per_block"} & {*config})
    filling = steps if spends and has_steps else min(steps, len(masks))
    if case.start.more.get("eligible_after"):
        filling += len(masks)  # a step may find fewer that it may write than it writes
    if config.get("verify"):
        return 2 * filling
    more = config.get("remask_budget", 0) if "remask" in config else config.get("max_post_steps", 0)
    return filling + blocks * more


@st.composite
def cases(draw):
    config = {"mask_token_id": None} | draw(configs())
    return Case(config, draw(every_axis.starts(config)))


class Company:
    """A sampler to which rows come while others run."""

    def __init__(self, cases, model, dice, max_rows, score_all):
        self.cases, self.model, self.dice = cases, model, dice
        # The batch of Dream's published mean is what a sampler is made with: here one row.
        first = cases[0]
        config = dllm_fast.SamplerConfig(**first.config)
        self.sampler = dllm_fast.Sampler(
            config, [first.canvas], **every_axis.together([first.start]), max_rows=max_rows, score_all=score_all
        )
        first.index = 0
        self.max_rows = max_rows
        self.to_come = list(cases[1:])
        self.present = [first]

    def run(self):
        while self.to_come or not all(self.sampler.is_done(case.index) for case in self.present):
            self.happens()
            if (request := self.sampler.next()) is not None:
                assert request.rows.tolist() == sorted(request.rows.tolist())
                assert self.max_rows is None or len(request.rows) <= self.max_rows
                self.answer(request)
        assert self.sampler.next() is None

    def happens(self):
        """Somebody comes, or somebody leaves; stable positions stay."""
        if self.to_come and self.dice.random() < 0.5:
            case = self.to_come.pop(0)
            shared = case.config == self.cases[0].config
            config = None if shared and self.dice.random() < 0.5 else dllm_fast.SamplerConfig(**case.config)
            case.index = self.sampler.add(case.canvas, config, **case.start.where)
            assert case.index == len(self.present)
            self.present.append(case)
        if self.dice.random() < 0.1:
            case = self.dice.choice(self.present)
            case.is_cancelled |= not self.sampler.is_done(case.index)
            before = self.sampler.canvases[case.index].tolist()
            for _ in range(2):
                self.sampler.cancel(case.index)
            assert self.sampler.is_done(case.index)
            assert self.sampler.canvases[case.index].tolist() == before
        for case, stable in zip(self.present, self.sampler.stable([case.index for case in self.present]), strict=True):
            written = self.sampler.written([case.index], [0])[0].tolist()
            assert len(written) == stable
            if "length" not in case.config:
                assert written == self.sampler.canvases[case.index][case.start.is_open][:stable].tolist()
            assert written[: len(case.stable)] == case.stable, "what was stable has changed"
            assert case.config["mask_token_id"] not in written
            case.stable = written

    def answer(self, request):
        """Of the rows that wait, some at a time, in any order; rows of different rules in one answer."""
        logits = {int(row): [] for row in request.rows}
        for place, row in enumerate(request.rows):
            logits[int(row)] = line(self.model, request, place, self.present[row].config.get("shift", False))
        waiting = list(logits)
        self.dice.shuffle(waiting)
        while waiting:
            count = self.dice.randint(1, len(waiting))
            rows, waiting = waiting[:count], waiting[count:]
            answer = np.concatenate([logits[row] for row in rows])
            if self.dice.random() < 0.5:
                self.sampler.feed(answer, rows=rows)
            else:
                self.sampler.feed(prediction=self.sampler.predict(answer, rows=rows), rows=rows)
            if self.dice.random() < 0.2:
                self.happens()
            left = [row for row in waiting if not self.sampler.is_done(row)]
            if len(left) < len(waiting):
                with pytest.raises(InvalidValueError, match="cancelled; leave it out"):
                    self.sampler.feed(np.concatenate([logits[row] for row in waiting]), rows=waiting)
            waiting = left


@settings(max_examples=4 * settings().max_examples)
@given(
    st.lists(cases(), min_size=1, max_size=6),
    tables,
    st.randoms(use_true_random=False),
    st.sampled_from([None, 1, 2, 3]),
    st.booleans(),
)
def test_a_row_does_not_notice_who_comes_and_goes(cases, model, dice, max_rows, score_all):
    for one, other in [(0, 2), (1, 3)]:  # some rows share a rule, not only that of the first
        if other < len(cases) and {*cases[other].start.more} == {*cases[one].start.more} == set():
            cases[other].config = cases[one].config
            if "length" in cases[one].config:  # which is for one run of masks
                cases[other].start = replace(cases[other].start, canvas=cases[one].canvas, is_open=cases[one].start.is_open)
    company = Company(cases, model, dice, max_rows, score_all)
    company.run()
    sampler = company.sampler
    for case in cases:
        alone, i = case.alone(model), case.index
        ours, theirs = edits_of(sampler.trajectory[i]), edits_of(alone.trajectory[0])
        if case.is_cancelled:
            theirs = [edit for edit in theirs if edit[0] < sampler.nfe_per_row[i]]
        else:
            assert sampler.canvases[i].tolist() == alone.canvases[0].tolist()
            assert sampler.nfe_per_row[i] == alone.nfe_per_row[0]
        assert alone.nfe_per_row[0] <= bound(case)
        assert same(ours, theirs), f"row {i}\ntogether {ours}\nalone    {theirs}"
        # What is open where a row was cancelled may show noise.
        told = np.array(replayed(case.canvas, sampler.trajectory[i]), dtype=np.int64)
        assert sampler.canvases[i].tolist() == np.where(sampler.open[i], sampler.canvases[i], told).tolist()
        if not case.is_cancelled:
            more = len(sampler.canvases[i]) - len(case.canvas)
            assert sampler.stable([i]).tolist() == [int(case.start.is_open.sum()) + more]


def greedy(**more):
    return dllm_fast.SamplerConfig(mask_token_id=MASK, **more)


def answered(sampler, request):
    sampler.feed(np.zeros((sum(map(len, request.positions)), VOCABULARY), dtype=np.float32))


def test_a_joined_row_waits_for_the_answer_and_for_room():
    sampler = dllm_fast.Sampler(greedy(), [[MASK] * 2] * 2, max_rows=2)
    request = sampler.next()
    third = sampler.add([MASK])
    assert third == 2
    assert sampler.next().rows.tolist() == request.rows.tolist() == [0, 1], "the request stays what it is"
    answered(sampler, request)
    assert sampler.next().rows.tolist() == [0, 1], "no room yet"
    sampler.cancel(0)
    assert sampler.next().rows.tolist() == [1], "a row that leaves withdraws its question"
    answered(sampler, sampler.next())
    assert [sampler.is_done(row) for row in range(3)] == [True, True, False]
    assert sampler.next().rows.tolist() == [2]
    assert sampler.canvases[0].tolist().count(MASK) == 1


def test_a_step_costs_what_the_rows_cost_that_take_part():
    """Not what those cost that wait for room, or are done."""

    def step(others):
        sampler = dllm_fast.Sampler(greedy(), [], max_rows=1)
        for _ in range(others):
            sampler.cancel(sampler.add([MASK]))
        sampler.add([MASK] * 40)
        for _ in range(others):
            sampler.add([MASK])
        seconds = []
        for _ in range(30):
            begin = time.perf_counter()
            request = sampler.next()
            sampler.feed(tokens=[0] * len(request.positions[0]), scores=[0] * len(request.positions[0]))
            seconds.append(time.perf_counter() - begin)
        return sorted(seconds)[len(seconds) // 2]

    few, many = step(0), step(50_000)
    assert many < 10 * few, f"{few * 1e6:.0f} us alone, {many * 1e6:.0f} us among many"


@pytest.mark.parametrize(
    "other",
    [
        {"mask_token_id": MASK, "remask": "planner", "steps_per_block": 6},
        {"mask_token_id": MASK, "remask": "confidence-drop"},
        {"mask_token_id": MASK, "edit_threshold": 0.1},
        {"noise": "uniform", "vocabulary": VOCABULARY, "drafts": True, "entropy_bound": 0.5, "steps_per_block": 5},
        {"noise": "uniform", "vocabulary": VOCABULARY, "order": "ancestral", "steps_per_block": 5},
    ],
    ids=lambda other: str(other.get("remask", list(other)[-2])),
)
@pytest.mark.parametrize("memory", [{"threshold": 0.5, "kl_threshold": 0.1}, {"credit": 0.7}])
def test_what_one_row_remembers_is_nothing_to_another(other, memory):
    """One answer for both, with what the one wants to know beside the predictions."""
    model, canvas = toys.HashTable(VOCABULARY, seed=3), np.full(8, MASK)
    is_open = {} if "mask_token_id" in other else {"open": np.ones(8, dtype=bool)}
    together = dllm_fast.Sampler(greedy(**memory), [canvas])
    together.add(canvas, dllm_fast.SamplerConfig(**other), **is_open)
    alone = dllm_fast.Sampler(dllm_fast.SamplerConfig(**other), [])
    alone.add(canvas, **is_open)
    for sampler in (together, alone):
        while (request := sampler.next()) is not None:
            sampler.feed(np.concatenate(lines(model, request)))
    assert same(edits_of(together.trajectory[1]), edits_of(alone.trajectory[0]))


def test_rows_that_do_not_exist_and_rows_that_cannot_be():
    sampler = dllm_fast.Sampler(greedy(), [[MASK]])
    for call in (sampler.cancel, sampler.is_done, lambda row: sampler.stable([row])):
        with pytest.raises(InvalidValueError, match="must be one of the sampler's, got 1 of 1 rows; count from 0"):
            call(1)
    with pytest.raises(InvalidValueError, match=r"row must be a whole number, at least 0 .* got -1"):
        sampler.cancel(-1)
    with pytest.raises(InvalidTypeError, match="row must be"):
        sampler.is_done(True)
    with pytest.raises(InvalidValueError, match=r"rows must lie in \[0, 2\^32\), got -1; count from 0"):
        sampler.stable([-1])
    with pytest.raises(InvalidValueError, match="got 1 steps for the 2 blocks of row 1; use steps=2"):
        sampler.add([MASK] * 4, greedy(steps=1, block_length=2))
    with pytest.raises(InvalidValueError, match="a mask token is needed"):
        sampler.add([MASK], dllm_fast.SamplerConfig())
    with pytest.raises(InvalidValueError, match="a canvas must"):
        sampler.add([-1])
    assert sampler.add([MASK]) == 1, "a refused row leaves no trace"


def test_a_row_has_its_own_mask_and_its_own_vocabulary():
    """The mask of one row is a token of another."""
    sampler = dllm_fast.Sampler(greedy(), [[MASK, 1]])
    sampler.add([MASK, 1], dllm_fast.SamplerConfig(mask_token_id=1, suppress_tokens=(0,)))
    request = sampler.next()
    assert [p.tolist() for p in request.positions] == [[0], [1]]
    sampler.feed(np.zeros((2, VOCABULARY), dtype=np.float32))
    assert [c.tolist() for c in sampler.canvases] == [[0, 1], [MASK, 2]]
    sampler.add([MASK], greedy(suppress_tokens=(99,)))
    sampler.next()
    with pytest.raises(InvalidValueError, match="suppress_tokens must be an id of the vocabulary, got 99"):
        sampler.feed(np.zeros((1, VOCABULARY), dtype=np.float32))


def test_rows_of_three_laws_in_turn():
    """Which of several laws is a row's, where laws are shared, and in whatever order and parts rows are answered."""
    logits = np.tile(np.linspace(3, 1, VOCABULARY, dtype=np.float32), (6, 1))
    for rows in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [1, 3, 5], [3, 4, 1]):
        sampler = dllm_fast.Sampler(greedy(), [])
        for row in range(6):  # equal settings, in objects of their own
            sampler.add([MASK], greedy(suppress_tokens=[(), (0,), (0, 1)][row % 3]))
        sampler.next()
        assert sampler.predict(logits[: len(rows)], rows=rows).token.tolist() == [row % 3 for row in rows]


def test_dreams_published_mean_is_that_of_the_rows_it_was_made_with():
    """Joined rows are a batch of their own; in the first batch finished rows count, and cancelled ones do not."""
    config = {"mask_token_id": MASK, "schedule": "dream", "steps": 4, "as_published": True}
    model = toys.HashTable(VOCABULARY, seed=3)
    canvases = [np.full(12, MASK), np.array([MASK] * 3 + [0] * 9), np.full(7, MASK)]
    batch = drive(config, canvases[:2], model)
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), canvases[:2])
    sampler.add(canvases[2])
    while (request := sampler.next()) is not None:
        sampler.feed(np.concatenate(lines(model, request)))
    alone = drive(config, canvases[2:], model)
    for ours, theirs in zip(sampler.trajectory, [*batch.trajectory, *alone.trajectory], strict=True):
        assert same(edits_of(ours), edits_of(theirs))
    assert not same(edits_of(batch.trajectory[0]), edits_of(drive(config, canvases[:1], model).trajectory[0]))
    cancelled = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), canvases[:2])
    cancelled.cancel(1)
    while (request := cancelled.next()) is not None:
        cancelled.feed(np.concatenate(lines(model, request)))
    assert same(edits_of(cancelled.trajectory[0]), edits_of(drive(config, canvases[:1], model).trajectory[0]))


def test_a_request_about_other_tokens():
    sampler = dllm_fast.Sampler(greedy(), [[1, MASK, 2], [MASK, MASK]])
    request = sampler.next()
    derived = request.with_canvases([[0, MASK, 0], np.array([5, MASK])])
    assert [c.tolist() for c in derived.canvases] == [[0, MASK, 0], [5, MASK]]
    for name in ("rows", "positions", "windows", "step", "lengths"):
        np.testing.assert_equal(getattr(derived, name), getattr(request, name))
    assert derived.batch([0, 0], [3, 2])[0].tolist() == [[0, MASK, 0], [5, MASK, 0]]
    assert [c.tolist() for c in request.canvases] == [[1, MASK, 2], [MASK, MASK]], "the request itself stays"
    for name in ("canvases", "positions", "open", "proposed"):
        assert getattr(request, name) is getattr(request, name), "made once"
    assert request.counts.tolist() == [len(positions) for positions in request.positions]
    rule = "canvases must be one for each row of the request, as long as its own, got"
    with pytest.raises(InvalidValueError, match=f"{rule} 1 canvases for 2 rows"):
        request.with_canvases([[0, 0, 0]])
    with pytest.raises(InvalidValueError, match=f"{rule} 3 tokens for the 2 of row 1"):
        request.with_canvases([[0, 0, 0], [0, 0, 0]])
    with pytest.raises(InvalidTypeError, match="a list of int64 arrays"):
        request.with_canvases(3)


# --- token editing


def flipping(tokens):
    """Sure of the next of these tokens, whatever stands there: never content."""
    cycle = dict(zip(tokens, [*tokens[1:], tokens[0]], strict=True))

    def answer(request):
        return np.concatenate(
            [
                [cycle.get(int(canvas[p]), tokens[0]) for p in positions]
                for canvas, positions in zip(request.canvases, request.positions, strict=True)
            ]
        )

    return answer


def edited(config, canvas, answer, score=0.9, **where):
    sampler = dllm_fast.Sampler(config, [canvas], **where)
    stable = []
    while (request := sampler.next()) is not None:
        tokens = answer(request)
        sampler.feed(tokens=tokens, scores=np.full(len(tokens), score))
        stable.append(int(sampler.stable([0])[0]))
    return sampler, stable


@pytest.mark.parametrize("most", [0, 1, 5])
def test_a_cycle_of_two_tokens_ends_with_the_post_steps(most):
    """Threshold 0 lets any other token pass; what ends it is the bound."""
    config = greedy(edit_threshold=0, max_post_steps=most, threshold=0.5, block_length=2)
    sampler, stable = edited(config, [1, *[MASK] * 4], flipping([2, 3]), block_start=1)
    assert sampler.nfe_per_row == [2 * (1 + most)]
    assert sampler.canvases[0].tolist() == [1, *[[2, 3][most % 2]] * 4]
    kinds = [edit.kind for edit in sampler.trajectory[0]]
    assert kinds == 2 * (["commit"] * 2 + ["edit"] * 2 * most)
    assert stable == [0] * most + [2] + [2] * most + [4]


def test_what_is_above_the_threshold_only():
    for threshold, score, edits in [(0.9, 0.9, False), (0.89, 0.9, True), (1.0, 1.0, False), (math.inf, 1.0, False)]:
        config = greedy(edit_threshold=threshold, threshold=0.5)
        sampler, _ = edited(config, [MASK] * 3, flipping([2, 3]), score)
        assert any(edit.kind == "edit" for edit in sampler.trajectory[0]) is edits
        assert sampler.nfe_per_row == [17 if edits else 2]


def test_an_end_token_counts_when_its_block_is_finished():
    config = greedy(edit_threshold=0.5, max_post_steps=3, eos_token_id=8, stop_at_eos=True, block_length=2)

    def answer(request):  # an end is written at first, and edited away once its block is full
        full = MASK not in request.canvases[0][:2].tolist()
        return [4 if full else 8 for _ in request.positions[0]]

    sampler, _ = edited(config, [MASK] * 4, answer)
    first = [(e.step, e.position, e.token, e.kind) for e in sampler.trajectory[0] if e.position < 2]
    assert first == [(0, 0, 8, "commit"), (1, 1, 8, "commit"), (2, 0, 4, "edit"), (2, 1, 4, "edit")]
    assert sampler.canvases[0].tolist() == [4] * 4
    stays, stable = edited(config, [MASK] * 4, lambda request: [8 for _ in request.positions[0]])
    assert stays.canvases[0].tolist() == [8] * 4
    assert [edit.kind for edit in stays.trajectory[0]] == ["commit", "commit", "pad", "pad"]
    assert stable == [0, 0, 4]


def test_given_tokens_are_neither_scored_nor_edited():
    sampler = dllm_fast.Sampler(greedy(edit_threshold=0), [[1, MASK, 2, MASK]])
    asked = []
    while (request := sampler.next()) is not None:
        asked.append(request.positions[0].tolist())
        sampler.feed(tokens=[3] * len(asked[-1]), scores=[0.5] * len(asked[-1]))
    assert asked == [[1, 3]] * 3
    assert sampler.canvases[0].tolist() == [1, 3, 2, 3]


@given(
    strategies.editing(orders=("confidence", "margin", "entropy", "left-to-right"), temperatures=st.just(0.0)),
    strategies.canvases(),
    tables,
    st.sampled_from([1.0, 1.5, math.inf]),
)
def test_a_threshold_of_one_edits_nothing(config, canvas, model, threshold):
    """Where nothing is drawn: what is drawn depends on the number of the forward, and each block takes one more of them.

    Where an end token counts, its block is filled first.
    """
    config.pop("order_temperature", None)
    edited = drive({**config, "edit_threshold": threshold}, [canvas], model)
    plain = drive(strategies.changed(config, edit_threshold=None), [canvas], model)
    assert edited.canvases[0].tolist() == plain.canvases[0].tolist()
    if not config.get("stop_at_eos"):
        ours, theirs = (edits_of(sampler.trajectory[0]) for sampler in (edited, plain))
        assert same([edit[1:] for edit in ours], [edit[1:] for edit in theirs])
        windows = reference.windows(len(canvas), config.get("block_length"), 0)
        blocks = sum(bool((canvas[w.start : w.stop] == MASK).any()) for w in windows)
        assert edited.nfe_per_row[0] == plain.nfe_per_row[0] + min(1, config["max_post_steps"]) * blocks


def test_nobody_begins_the_next_step_before_this_one_is_decided():
    for config, knows in [(greedy(), True), (greedy(edit_threshold=0.5), False)]:
        sampler = dllm_fast.Sampler(config, [[MASK] * 3])
        sampler.next()
        assert (sampler.pace([0])[1] is not None) is knows


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"edit_threshold": -0.5},
            "edit_threshold must be a number, at least 0, got -0.5; None turns editing off, 0 replaces every",
        ),
        (
            {"edit_threshold": math.nan},
            "edit_threshold must be a number, at least 0, got NaN; .* in SGLang .in Diffusers 0 turns",
        ),
        ({"max_post_steps": 2**20 + 1}, "max_post_steps must be at most 1048576, got 1048577; 16 is LLaDA2.1's"),
        ({"max_post_steps": -1}, "max_post_steps must be a whole number, at least 0, got -1"),
        ({"edit_threshold": 0.5, "order": "ancestral"}, "order 'ancestral' writes each mask once.* edit_threshold to None"),
        ({"edit_threshold": 0.5, "schedule": "first-hitting"}, "schedule 'first-hitting' writes each mask once"),
    ],
)
def test_settings_of_editing_that_cannot_be(settings, text):
    with pytest.raises(InvalidValueError, match=text):
        greedy(**settings)
    assert greedy(max_post_steps=None).max_post_steps == 16


def test_more_post_steps_than_draws_can_count():
    config = greedy(edit_threshold=0.5, max_post_steps=2**20, block_length=1)
    with pytest.raises(
        InvalidValueError, match=r"fewer than 2\^31 in all, got 1048576 for each of the 2048 blocks of row 0; lower max_"
    ):
        dllm_fast.Sampler(config, [[MASK] * 2048])
    assert dllm_fast.Sampler(config, [[MASK] * 2047]).next() is not None


@given(strategies.settings(), strategies.canvases(), st.integers(0, 2**32), st.integers(0, 10))
def test_flags_say_what_is_open_where_no_mask_does(rule, canvas, seed, shown):
    # Whatever stands at the open positions: the model answers the same, and the answer is.
    table = toys.HashTable(VOCABULARY, seed=seed, grid=1.0)
    is_open = canvas == MASK
    by_mask = dllm_fast.Sampler(dllm_fast.SamplerConfig(**rule), [canvas], seed=3)
    unmasked = dllm_fast.SamplerConfig(
        **(rule | {"mask_token_id": None, "suppress_tokens": (*rule.get("suppress_tokens", ()), MASK)})
    )
    by_flags = dllm_fast.Sampler(unmasked, [np.where(is_open, shown, canvas)], seed=3, open=[is_open])
    while (request := by_mask.next()) is not None:
        other = by_flags.next()
        assert [p.tolist() for p in request.positions] == [p.tolist() for p in other.positions]
        assert [flags.tolist() for flags in request.open] == [flags.tolist() for flags in other.open]
        assert (request.open[0] == (request.canvases[0] == MASK)).all()
        logits = table.row(request.canvases[0])[request.positions[0]].astype(np.float32)
        by_mask.feed(logits)
        by_flags.feed(logits)
    assert by_flags.next() is None
    assert repr(by_mask.trajectory) == repr(by_flags.trajectory)
    assert by_mask.canvases[0].tolist() == by_flags.canvases[0].tolist()
    assert not by_flags.open[0].any()


def test_what_is_open_is_said_once():
    open_ = [[True, False]]
    with pytest.raises(InvalidValueError, match=r"got open= beside mask_token_id=7 for row 0; pass one of them"):
        dllm_fast.Sampler(dllm_fast.SamplerConfig(mask_token_id=MASK), [[MASK, 1]], open=open_)
    with pytest.raises(InvalidValueError, match="a flag for each of the 3 positions of row 0, got 2"):
        dllm_fast.Sampler(dllm_fast.SamplerConfig(), [[1, 1, 1]], open=open_)
    with pytest.raises(InvalidValueError, match="open must be one array for each of 2 rows, got 1"):
        dllm_fast.Sampler(dllm_fast.SamplerConfig(), [[1, 1], [1]], open=open_)
    for bad in (True, [[1, 0]], [True, False], [["yes", "no"]]):
        with pytest.raises(InvalidTypeError, match="open must"):
            dllm_fast.Sampler(dllm_fast.SamplerConfig(), [[1, 1]], open=bad)
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(), [[1, 1]], open=open_)
    assert sampler.add([5, 6], open=[False, True]) == 1
    with pytest.raises(InvalidValueError, match="a mask token is needed, got none for row 2"):
        sampler.add([5, 6])
