"""Rules that take written tokens back: against the reference sampler, and what each of them promises."""

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
from driving import arguments_of, assert_all_ways_are_one, assert_equals_reference, batches, drive, edits_of, lines, same
from driving import settling as tables
from reference import sampler as reference
from reference import schedule
from strategies import END, MASK, VOCABULARY


def blocks_of(config, canvas, start) -> list[range]:
    """The blocks of a row that hold masks."""
    windows = reference.windows(len(canvas), config.get("block_length"), start)
    return [w for w in windows if (canvas[w.start : w.stop] == MASK).any()]


def plain(config) -> dict:
    return {name: value for name, value in config.items() if not name.startswith("remask")}


@settings(max_examples=4 * settings().max_examples)
@given(strategies.remasking(), batches(), tables)
def test_equals_the_reference_token_for_token(config, batch, model):
    sampler = drive(config, batch[0], model, **arguments_of(batch))
    assert_equals_reference(sampler, config, batch, model)


@given(strategies.remasking(kinds=strategies.REMASKS[:4]), batches(), tables, st.integers(20, 150))
def test_equals_the_reference_over_more_steps_than_masks(config, batch, model, steps):
    """Where much is taken back, and `loop` has all its three stretches."""
    config["steps_per_block"] = steps
    config["remask_eta"] = max(config.get("remask_eta", 0.3), 0.1)
    sampler = drive(config, batch[0], model, **arguments_of(batch))
    assert_equals_reference(sampler, config, batch, model)


@given(strategies.remasking(), batches(), tables)
def test_invariants_of_a_run_that_takes_back(config, batch, model):
    """I1 to I4, I6, I17: only written positions of the block are taken back, each time to be filled anew, within the bound."""
    sampler = drive(config, batch[0], model, **arguments_of(batch))
    excluded = {*config.get("suppress_tokens", ())}
    checked = dllm_fast.SamplerConfig(**config)
    for row, (before, after) in enumerate(zip(batch[0], sampler.canvases, strict=True)):
        masked = before == MASK
        np.testing.assert_array_equal(after[~masked], before[~masked])
        assert not (after == MASK).any()
        windows = reference.windows(len(before), config.get("block_length"), batch[3][row])
        block_of = {p: n for n, window in enumerate(windows) for p in window}
        replayed, last, steps = before.copy(), 0, []
        for edit in sampler.trajectory[row]:
            assert masked[edit.position]
            steps.append(edit.step)
            if edit.kind == "pad":
                replayed[edit.position] = edit.token
                continue
            assert (edit.kind == "commit") == (replayed[edit.position] == MASK)
            assert edit.kind in ("commit", "remask")
            assert (edit.token == MASK) == (edit.kind == "remask") == math.isnan(edit.probability)
            assert edit.token not in excluded or edit.kind == "remask"
            assert block_of[edit.position] >= last, "what is left behind stays"
            last = block_of[edit.position]
            replayed[edit.position] = edit.token
        np.testing.assert_array_equal(replayed, after)
        assert steps == sorted(steps)
        blocks = len(blocks_of(config, before, batch[3][row]))
        most = dllm_fast._core.most_forwards(checked, int(masked.sum()), blocks)
        assert sampler.nfe_per_row[row] <= most


@given(strategies.remasking(), batches(), tables, st.randoms(use_true_random=False))
def test_all_ways_to_answer_are_one(config, batch, model, random):
    assert_all_ways_are_one(config, batch, model, random)


@given(strategies.remasking(kinds=strategies.REMASKS[:3]), batches(), tables)
def test_without_taking_back_it_is_the_reverse_process(config, batch, model):
    """ReMDM at eta 0 has the draws of MDLM: the same tokens in the same steps. (`loop` has times of its own.)"""
    ours = drive(config | {"remask_eta": 0.0}, batch[0], model, **arguments_of(batch))
    theirs = drive(plain(config), batch[0], model, **arguments_of(batch))
    if config.get("stop_at_eos") or config.get("stop"):
        return  # an end token counts later where it may be taken back
    assert ours.nfe_per_row == theirs.nfe_per_row
    for a, b in zip(ours.trajectory, theirs.trajectory, strict=True):
        assert same(edits_of(a), edits_of(b))


@given(strategies.remasking(kinds=("planner",)), batches(), tables)
def test_exactly_so_many_stand(config, batch, model):
    """I15: behind step j of a block, exactly the masks that the schedule leaves, ties or not; at eta 0 nothing comes back."""
    for name in ("eos_token_id", "stop_at_eos", "stop", "min_new_tokens"):
        config.pop(name, None)
    for row, canvas in enumerate(batch[0]):
        place = {"seed": batch[1][row], "request": batch[2][row], "block_start": batch[3][row]}
        sampler = drive(config, [canvas], model, **place)
        expected, before = [], int((canvas == MASK).sum())
        for window in blocks_of(config, canvas, batch[3][row]):
            masks = int((canvas[window.start : window.stop] == MASK).sum())
            before -= masks
            steps = config.get("steps_per_block", masks)
            for index in range(steps):
                left = schedule.left_behind(config["schedule"], schedule.Step(index, steps, masks, 0))
                expected.append(before + left)
                if left == 0:
                    break
        open_now, found = int((canvas == MASK).sum()), []
        for _, edits in itertools.groupby(sampler.trajectory[0], key=lambda edit: edit.step):
            kinds = [edit.kind for edit in edits]
            open_now += kinds.count("remask") - kinds.count("commit")
            found.append((open_now, kinds))
        # Steps in which nothing changes leave no edits.
        assert [left for left, _ in itertools.groupby(left for left, _ in found)] == [
            left for left, _ in itertools.groupby(expected)
        ]
        assert sampler.nfe_per_row[0] == len(expected)
        never = drive(config | {"remask_eta": 0.0}, [canvas], model, **place)
        assert {edit.kind for edit in never.trajectory[0]} <= {"commit"}


@given(strategies.remasking(kinds=("confidence-drop",)), batches(), tables)
def test_each_forward_gains_one_at_least(config, batch, model):
    sampler = drive(config, batch[0], model, **arguments_of(batch))
    for trajectory in sampler.trajectory:
        for _, edits in itertools.groupby(trajectory, key=lambda edit: edit.step):
            kinds = [edit.kind for edit in edits]
            assert kinds.count("commit") > kinds.count("remask")


@given(strategies.remasking(kinds=("verify",)), batches(), tables)
def test_what_is_taken_back_is_less_than_was_written_before(config, batch, model):
    """WINO: a forward writes clip(0.7 n, 5, 20) of n open positions at most; where it is more than one, what stood there before
    is taken back, fewer than the forward before it wrote. So a block takes no more forwards than it had masks (the authors'
    own bound is 29 more)."""
    for name in ("eos_token_id", "stop_at_eos", "stop"):
        config.pop(name, None)
    bar = config.get("remask_threshold", 0.9)
    sampler = drive(config, batch[0], model, **arguments_of(batch))
    for row, canvas in enumerate(batch[0]):
        edits = sampler.trajectory[row]
        for window in blocks_of(config, canvas, batch[3][row]):
            own = [edit for edit in edits if edit.position in window]
            masks = int((canvas[window.start : window.stop] == MASK).sum())
            steps = [[*group] for _, group in itertools.groupby(own, key=lambda edit: edit.step)]
            left, before, standing = masks, 0, set()
            for step in steps:
                written = [edit.position for edit in step if edit.kind == "commit"]
                lost = [edit.position for edit in step if edit.kind == "remask"]
                assert 1 <= len(written) <= max(min(max(7 * left // 10, 5), 20), config.get("min_commit", 1))
                assert {*lost} <= standing
                assert len(lost) <= (max(before - 1, 0) if len(written) > 1 and bar > 0 else 0)
                standing = (standing | {*written}) - {*lost}
                left, before = left - len(written) + len(lost), len(written)
            assert left == 0
            assert len(steps) <= masks
            assert steps[-1][-1].step - steps[0][0].step + 1 == len(steps), "each of its forwards writes"


def test_what_a_forward_asks_again():
    """Nothing in the first forward of a block, then what it wrote. A bar of 0 takes nothing back, one above 1 all it may."""
    model = toys.HashTable(VOCABULARY, seed=4, grid=1.0)
    canvas = np.array([1, 2, *[MASK] * 20])
    rule = {"mask_token_id": MASK, "remask": "verify", "threshold": 0.0, "block_length": 10}
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**rule), [canvas], block_start=[2])
    asked, counts = [], []
    while (request := sampler.next()) is not None:
        asked.append(bool(request.shadow[0]))
        counts.append(len(request.positions[0]))
        assert request.with_canvases(request.canvases).shadow.tolist() == request.shadow.tolist()
        assert request.with_rows([0], [5]).shadow.tolist() == request.shadow.tolist()
        sampler.feed(lines(model, request)[0])
    assert asked[0] is False
    assert asked.count(False) == 2, "once a block"
    assert set(counts) == {10}, "the whole block is scored"
    kinds = [[*group] for _, group in itertools.groupby(sampler.trajectory[0], key=lambda edit: edit.step)]
    first = [[edit.kind for edit in step] for step in kinds[:2]]
    assert first[0] == ["commit"] * 7
    assert first[1].count("commit") == 3
    for bar, most in ((0.0, 0), (1.5, 6)):
        run = drive(rule | {"remask_threshold": bar}, [canvas], model, block_start=[2])
        second = [edit.kind for edit in run.trajectory[0] if edit.step == 1]
        assert second.count("remask") == most


@pytest.mark.parametrize(("current", "lost"), [(0.5, 0), (np.nextafter(0.5, 0), 5)])
def test_what_is_as_probable_as_the_bar_stays(current, lost):
    """WINO takes back what is below it: of 6 that are written, 5 at most with the next 3."""
    config = dllm_fast.SamplerConfig(mask_token_id=MASK, remask="verify", threshold=0.5, remask_threshold=0.5)
    sampler = dllm_fast.Sampler(config, [[MASK] * 9])
    for _ in range(2):
        positions = (request := sampler.next()).positions[0]
        one = np.ones(len(positions))
        stands = np.where(request.open[0][positions], np.nan, current)
        sampler.feed(
            prediction=dllm_fast.Prediction(
                token=0 * positions, probability=one, top1=one, top2=0 * one, entropy=0 * one, current=stands
            )
        )
    assert [edit.kind for edit in sampler.trajectory[0]].count("remask") == lost


@given(strategies.remasking(kinds=("low-confidence",), temperatures=st.just(0.0)), batches(), tables)
def test_a_budget_is_kept(config, batch, model):
    """Each block costs what it costs without, and its budget at most; with none it is the rule without."""
    for name in ("order_temperature", "stop_at_eos", "stop"):
        config.pop(name, None)
    canvas, start = batch[0][0], batch[3][0]
    place = {"seed": batch[1][0], "request": batch[2][0], "block_start": start}
    none = drive(config | {"remask_budget": 0}, [canvas], model, **place)
    theirs = drive(plain(config), [canvas], model, **place)
    assert same(edits_of(none.trajectory[0]), edits_of(theirs.trajectory[0]))
    ours = drive(config, [canvas], model, **place)
    blocks = blocks_of(config, canvas, start)
    spent = sum(1 for edit in ours.trajectory[0] if edit.kind == "remask")
    assert spent <= 3 * config["remask_budget"] * len(blocks)
    if len(blocks) == 1:
        assert ours.nfe_per_row[0] <= none.nfe_per_row[0] + config["remask_budget"]


def test_a_budget_of_one_opens_one():
    config = {"mask_token_id": MASK, "remask": "low-confidence", "remask_budget": 1}
    sampler = drive(config, [np.full(4, MASK)], toys.HashTable(VOCABULARY, seed=1))
    assert [e.kind for e in sampler.trajectory[0]].count("remask") == 1
    assert sampler.nfe_per_row == [5]


def test_neighbours_are_opened_with_the_least_sure():
    """Six positions, of which the fourth is least sure; its block ends behind the fifth."""
    config = dllm_fast.SamplerConfig(
        mask_token_id=MASK, remask="low-confidence", remask_budget=9, threshold=0.0, block_length=5
    )
    sampler = dllm_fast.Sampler(config, [[MASK] * 6])
    assert sampler.next().positions[0].tolist() == [0, 1, 2, 3, 4]
    assert sampler.stable([0]).tolist() == [0]
    sampler.feed(tokens=[1] * 5, scores=[0.9, 0.8, 0.7, 0.1, 0.6])
    assert not sampler.is_done(0)
    assert sampler.next().positions[0].tolist() == [2, 3, 4]
    assert sampler.stable([0]).tolist() == [0]
    sampler.feed(tokens=[2] * 3, scores=[0.9, 0.2, 0.9])
    # The fourth is still the least sure, but was looked at before.
    assert sampler.next().positions[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("remask", ["planner", "confidence-drop", "verify"])
def test_what_stands_needs_its_probability(remask):
    """Scores are no answer, nor are statistics without `current`; refused by name, and nothing has changed."""
    rule = {"remask": remask}
    rule |= {"planner": {"steps_per_block": 4}, "verify": {"threshold": 0.99}}.get(remask, {})
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(mask_token_id=MASK, **rule), [[MASK] * 5])
    sampler.next()
    with pytest.raises(dllm_fast.DllmFastError, match="the probability of the tokens that stand there, got scores"):
        sampler.feed(tokens=[1] * 5, scores=[0.5] * 5)
    logits = toys.HashTable(VOCABULARY, seed=3).alone(np.full(5, MASK))
    assert sampler.current([0]) is None
    sampler.feed(logits)
    request = sampler.next()
    written = sampler.canvases[0] != MASK
    asked = request.positions[0]
    expected = np.where(written[asked], sampler.canvases[0][asked], -1)
    assert sampler.current([0]).tolist() == expected.tolist()
    prediction = sampler.predict(logits[asked])
    assert np.isnan(prediction.current).tolist() == (~written[asked]).tolist()
    fields = {name: getattr(prediction, name) for name in ("token", "probability", "top1", "top2", "entropy")}
    before = sampler.canvases[0].tolist()
    with pytest.raises(InvalidValueError, match="needs `current`, the probability of the token that stands there"):
        sampler.feed(prediction=dllm_fast.Prediction(**fields))
    assert sampler.canvases[0].tolist() == before
    sampler.feed(prediction=prediction)


@given(strategies.remasking(), batches(), tables)
def test_what_is_stable_stays(config, batch, model):
    """After every forward: as many as the reference counts, never fewer than before, and none changes; done rows are done."""
    canvases, seeds, requests, starts = batch
    rows = list(range(len(canvases)))
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), canvases, **arguments_of(batch))
    seen = [[(0, canvas.copy())] for canvas in canvases]
    while (request := sampler.next()) is not None:
        assert not any(sampler.is_done(row) for row in request.rows.tolist())
        sampler.feed(np.concatenate(lines(model, request, config.get("shift", False))))
        counts, now = sampler.stable(rows).tolist(), sampler.canvases
        for row in request.rows.tolist():
            seen[row].append((counts[row], now[row].copy()))
            assert sampler.is_done(row) == (counts[row] == (canvases[row] == MASK).sum())
    for row, canvas in enumerate(canvases):
        expected = reference.run(model.alone, canvas, config, seed=seeds[row], request=requests[row], block_start=starts[row])
        counts = [count for count, _ in seen[row]]
        assert counts[1:] == expected.stable
        assert all(a <= b for a, b in itertools.pairwise(counts))
        new, last = np.flatnonzero(canvas == MASK), sampler.canvases[row]
        for count, then in seen[row]:
            np.testing.assert_array_equal(then[new[:count]], last[new[:count]])


def test_events_replay_what_is_taken_back():
    """A run that is watched tells every edit once, in order, and tokens per forward count what stands in the end."""
    model, canvas = toys.HashTable(VOCABULARY, seed=1), np.array([1, 2, *[MASK] * 30, 3])
    for preset in ("remdm-cap", "p2", "saber", "revise-low-confidence"):
        settings_ = {"remask_eta": 0.3} if preset == "remdm-cap" else {}
        told = []
        result = dllm_fast.infill(model, canvas, preset=preset, mask_token_id=MASK, seed=3, on_step=told.append, **settings_)
        edits = [edit for event in told for row in event.edits for edit in row]
        assert edits_of(edits) != []
        assert same(edits_of(edits), edits_of(result.trajectory[0]))
        assert any(edit.kind == "remask" for edit in edits), preset
        shown = told[0].canvases[0].copy()
        for event in told[1:]:
            for edit in event.edits[0]:
                shown[edit.position] = edit.token
            np.testing.assert_array_equal(shown, event.canvases[0])
        np.testing.assert_array_equal(shown, result.sequences[0])
        assert [event.is_done[0] for event in told] == [False] * (len(told) - 1) + [True]
        assert result.finish_reasons == ["length"]
        assert result.stats.tokens_per_forward == pytest.approx(len(result.new_tokens[0]) / result.stats.nfe)
        assert dllm_fast.Result.from_dict(result.to_dict()) == result


@pytest.mark.parametrize(
    ("settings_", "text"),
    [
        ({"remask": "planners"}, "remask must be one of cap, rescale, .*, low-confidence, verify, got 'planners'"),
        ({"remask": "cap"}, "remask 'cap' belongs to the reverse process, got order 'confidence'; use order 'ancestral'"),
        ({"remask": "cap", "order": "ancestral", "schedule": "dream"}, "remask 'cap' needs the times .*, got schedule 'dream'"),
        ({"remask": "loop", "order": "ancestral", "schedule": "cosine"}, "of its own for 'loop'.*, got schedule 'cosine'"),
        ({"remask": "cap", "order": "ancestral", "as_published": True}, "remask 'cap' is the rule as it is meant, got as_pub"),
        ({"remask": "planner", "order": "ancestral"}, "ranks positions, got order 'ancestral', which ranks none"),
        ({"remask": "planner", "order": "random"}, "remask 'planner' compares what is written .* got order 'random'; use conf"),
        ({"remask": "planner", "threshold": 0.9}, "remask 'planner' keeps exactly as many .* got a cut, min_commit"),
        ({"remask": "planner", "schedule": "maskgit"}, "remask 'planner' counts what stands, got schedule 'maskgit'"),
        ({"remask": "confidence-drop", "order": "margin"}, "remask 'confidence-drop' compares confidences .* order 'margin'"),
        (
            {"remask": "verify"},
            r"remask 'verify' takes back of what a cut lets through, got none; set a threshold \(0.6 is WINO",
        ),
        (
            {"remask": "verify", "threshold": 0.6, "steps": 4},
            "'verify' says how many .* got steps, a schedule or gap_stop besi",
        ),
        (
            {"remask": "verify", "threshold": 0.6, "schedule": "cosine"},
            "'verify' says how many .* got steps, a schedule or gap",
        ),
        ({"remask": "verify", "threshold": 0.6, "gap_stop": 2.5}, "'verify' says how many .* got steps, a schedule or gap_sto"),
        ({"remask": "verify", "threshold": 0.6, "kl_threshold": 0.1}, "'verify' fills its block by .* got kl_threshold beside"),
        ({"remask": "verify", "threshold": 0.6, "order": "ancestral"}, "'ancestral' commits with the schedule's probabilities"),
        ({"remask": "verify", "threshold": 0.6, "as_published": True}, "'verify' is the rule as it is meant, got as_published"),
        ({"remask": "verify", "verify": True, "order": "left-to-right"}, "got a rule that revises, gap_stop or credit beside"),
        (
            {"remask": "verify", "threshold": 0.6, "remask_threshold": math.nan},
            "remask_threshold must be a number, got NaN; 0.9 is",
        ),
        (
            {"remask_threshold": 0.5},
            "remask_threshold is read under remask='verify' alone, got 0.5 beside remask=None; leave it out",
        ),
        (
            {"remask": "verify", "threshold": 0.6, "remask_eta": 0.5},
            "remask_eta is read under remask='planner' or .* got 0.5 beside remask='verify'",
        ),
        ({"remask": "confidence-drop", "factor": 1.0}, "remask 'confidence-drop' has a bar of its own, .* another cut"),
        (
            {"remask": "planner", "edit_threshold": 0.5},
            "edit_threshold replaces written tokens and remask takes them back, got bo",
        ),
        (
            {"remask": "low-confidence", "schedule": "first-hitting"},
            "'first-hitting' writes each mask once.* got remask beside",
        ),
        ({"remask": "cap", "order": "ancestral", "remask_eta": 1.5}, r"remask_eta must lie in \[0, 1\], got 1.5; it is a prob"),
        ({"remask": "planner", "remask_eta": -1.0}, "remask_eta must be at least 0 and finite, got -1"),
        ({"remask_eta": 0.5}, "remask_eta is read under remask='planner' or .* got 0.5 beside remask=None; leave it out"),
        ({"remask": "planner", "remask_budget": 3}, "remask_budget is read under remask='low-confidence' alone, got 3 beside"),
        ({"remask": "low-confidence", "remask_budget": 2**20 + 1}, "remask_budget must be at most 1048576, got 1048577"),
    ],
)
def test_settings_that_cannot_be(settings_, text):
    with pytest.raises(InvalidValueError, match=text):
        dllm_fast.SamplerConfig(mask_token_id=MASK, **settings_)


def test_an_end_token_counts_once_it_cannot_be_taken_back():
    class Model(toys.Toy):
        vocabulary = VOCABULARY

        def row(self, canvas):
            logits = np.zeros((len(canvas), VOCABULARY))
            logits[:, 1] = 9.0
            # Sure of an end while everything is open, of something else afterwards.
            is_first = (np.asarray(canvas) == MASK).all()
            logits[0, END if is_first else 2] = 5.0 + 9.0 * (not is_first) + 5.0 * is_first
            return logits

    config = {"mask_token_id": MASK, "eos_token_id": END, "stop_at_eos": True, "threshold": 0.5}
    stays = drive(config, [np.full(4, MASK)], Model())
    assert stays.canvases[0].tolist() == [END] * 4
    redone = drive(config | {"remask": "low-confidence", "remask_budget": 4}, [np.full(4, MASK)], Model())
    assert redone.canvases[0].tolist() == [2, 1, 1, 1]
