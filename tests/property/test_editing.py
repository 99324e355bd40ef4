"""Token editing against the reference sampler, and what every rule promises of a row while it runs."""

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
from driving import arguments_of, assert_all_ways_are_one, assert_equals_reference, batches, drive, edits_of, lines, same
from driving import settling as tables
from reference import sampler as reference
from strategies import END, MASK, VOCABULARY

# Where neither draws nor noise depend on the number of the forward.
STEADY = {"temperatures": st.just(0.0), "orders": ("confidence", "margin", "entropy", "sampled-confidence", "left-to-right")}


def without_editing(config) -> dict:
    return {name: value for name, value in config.items() if name not in ("edit_threshold", "max_post_steps")}


@settings(max_examples=4 * settings().max_examples)
@given(strategies.editing(), batches(), tables)
def test_equals_the_reference_token_for_token(config, batch, model):
    """So every edit is one that the reference makes, for its reason, in its order."""
    sampler = drive(config, batch[0], model, **arguments_of(batch))
    assert_equals_reference(sampler, config, batch, model)


@given(strategies.editing(), batches(), tables)
def test_invariants_of_a_run_that_edits(config, batch, model):
    """I1, I3, I4, I6, I17: what may be written, and the bound on forwards."""
    sampler = drive(config, batch[0], model, **arguments_of(batch))
    excluded = {MASK, *config.get("suppress_tokens", ())}
    for row, (before, after) in enumerate(zip(batch[0], sampler.canvases, strict=True)):
        masked = before == MASK
        np.testing.assert_array_equal(after[~masked], before[~masked])
        assert not (after == MASK).any()
        windows = reference.windows(len(before), config.get("block_length"), batch[3][row])
        block_of = {p: n for n, window in enumerate(windows) for p in window}
        replayed, last = before.copy(), 0
        for edit in sampler.trajectory[row]:
            assert masked[edit.position]
            if edit.kind == "commit":
                assert replayed[edit.position] == MASK
            elif edit.kind == "edit":
                assert replayed[edit.position] not in (MASK, edit.token)
                assert edit.probability > config["edit_threshold"]
            if edit.kind != "pad":
                assert edit.token not in excluded
                assert block_of[edit.position] >= last, "what is left behind stays"
                last = block_of[edit.position]
            replayed[edit.position] = edit.token
        np.testing.assert_array_equal(replayed, after)
        steps = [edit.step for edit in sampler.trajectory[row]]
        assert steps == sorted(steps)

        opened = [n for n, window in enumerate(windows) if masked[window.start : window.stop].any()]
        spends_idle_steps = config["schedule"] == "dream"
        bound = len(opened) * config.get("steps_per_block", 0) or int(masked.sum())
        fills = bound if spends_idle_steps else min(bound, int(masked.sum()))
        assert sampler.nfe_per_row[row] <= fills + len(opened) * config["max_post_steps"]


@given(strategies.editing(), batches(), tables, st.sampled_from([1.0, 1.5, math.inf]))
def test_nothing_is_surer_than_one(config, batch, model, threshold):
    """A threshold of 1 or more is the rule without editing; with no post-steps also where draws depend on the forward."""
    config |= {"edit_threshold": threshold, "max_post_steps": 0}
    if threshold == math.inf:
        config["edit_threshold"] = 2.0
    edited = drive(config, batch[0], model, **arguments_of(batch))
    plain = drive(without_editing(config), batch[0], model, **arguments_of(batch))
    for a, b in zip(edited.canvases, plain.canvases, strict=True):
        assert a.tolist() == b.tolist()
    if not config.get("stop_at_eos"):
        # With it, a row is asked for the rest of its block, too.
        assert edited.nfe_per_row == plain.nfe_per_row
        assert all(same(edits_of(a), edits_of(b)) for a, b in zip(edited.trajectory, plain.trajectory, strict=True))


@given(strategies.editing(**STEADY), batches(), tables)
def test_nothing_is_surer_than_one_with_post_steps(config, batch, model):
    """Each block is asked once more, in vain."""
    config |= {"edit_threshold": 1.0, "order_temperature": 0.0}
    edited = drive(config, batch[0], model, **arguments_of(batch))
    plain = drive(without_editing(config), batch[0], model, **arguments_of(batch))
    for a, b in zip(edited.canvases, plain.canvases, strict=True):
        assert a.tolist() == b.tolist()
    if not config.get("stop_at_eos"):
        for row, canvas in enumerate(batch[0]):
            windows = reference.windows(len(canvas), config.get("block_length"), batch[3][row])
            blocks = sum(bool((canvas[w.start : w.stop] == MASK).any()) for w in windows)
            vain = blocks * min(1, config["max_post_steps"])
            assert edited.nfe_per_row[row] == plain.nfe_per_row[row] + vain


class Turning(toys.Toy):
    """Proposes at each position the other one of two tokens than stands there."""

    vocabulary = VOCABULARY

    def row(self, canvas):
        logits = np.zeros((len(canvas), VOCABULARY))
        logits[np.arange(len(canvas)), np.where(np.asarray(canvas) == 1, 2, 1)] = 9.0
        return logits


@given(st.integers(1, 9), st.integers(0, 20), st.sampled_from([None, 1, 3]), st.sampled_from([0.0, 0.5]))
def test_a_cycle_is_cut_by_the_cap(masks, most, block_length, threshold):
    config = {"mask_token_id": MASK, "threshold": 0.9, "edit_threshold": threshold, "max_post_steps": most}
    sampler = drive({**config, "block_length": block_length}, [np.full(masks, MASK)], Turning())
    blocks = math.ceil(masks / (block_length or masks))
    assert sampler.nfe_per_row == [blocks * (1 + most)]
    kinds = [edit.kind for edit in sampler.trajectory[0]]
    assert (kinds.count("commit"), kinds.count("edit")) == (masks, masks * most)
    assert sampler.canvases[0].tolist() == [1 + most % 2] * masks


any_rule = st.one_of(strategies.settings(annealed=False), strategies.editing())


@given(any_rule, batches(), tables)
def test_what_is_stable_stays(config, batch, model):
    """For every rule, after every forward: as many as the reference counts, never fewer than before, and none changes."""
    canvases, seeds, requests, starts = batch
    rows = range(len(canvases))
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), canvases, **arguments_of(batch))
    seen = [[(0, canvas.copy())] for canvas in canvases]
    while (request := sampler.next()) is not None:
        sampler.feed(np.concatenate(lines(model, request, config.get("shift", False))))
        counts, now = sampler.stable(list(rows)).tolist(), sampler.canvases
        for row in request.rows.tolist():
            seen[row].append((counts[row], now[row].copy()))
    for row, canvas in enumerate(canvases):
        expected = reference.run(model.alone, canvas, config, seed=seeds[row], request=requests[row], block_start=starts[row])
        counts = [count for count, _ in seen[row]]
        assert counts[1:] == expected.stable
        assert all(a <= b for a, b in itertools.pairwise(counts))
        new = np.flatnonzero(canvas == MASK)
        last = sampler.canvases[row]
        for count, then in seen[row]:
            np.testing.assert_array_equal(then[new[:count]], last[new[:count]])
        assert sampler.is_done(row)
        assert sampler.stable([row]).tolist() == [len(new)]


@given(strategies.editing(), batches(), tables, st.randoms(use_true_random=False))
def test_all_ways_to_answer_are_one(config, batch, model, random):
    assert_all_ways_are_one(config, batch, model, random)


def test_an_end_token_may_be_edited_away():
    """It ends nothing while its block is open; in a finished block it ends the row."""

    class Model(toys.Toy):
        vocabulary = VOCABULARY

        def row(self, canvas):
            logits = np.zeros((len(canvas), VOCABULARY))
            is_first = (np.asarray(canvas[:2]) == MASK).any()
            logits[:2, END if is_first else 1] = 9.0
            logits[2:, END] = 9.0
            return logits

    config = {"mask_token_id": MASK, "threshold": 0.9, "block_length": 2, "eos_token_id": END, "stop_at_eos": True}
    canvas = np.full(8, MASK)
    plain = drive(config, [canvas], Model())
    edited = drive({**config, "edit_threshold": 0.5}, [canvas], Model())
    assert plain.canvases[0].tolist() == [END] * 8
    assert edited.canvases[0].tolist() == [1, 1, *[END] * 6]
    assert [e.kind for e in edited.trajectory[0]] == ["commit"] * 2 + ["edit"] * 2 + ["commit"] * 2 + ["pad"] * 4
    assert edited.nfe_per_row == [3 + 2]


@pytest.mark.parametrize("answer", ["mask", "suppressed"])
def test_edits_never_write_what_is_excluded(answer):
    """Refused like a commit, whole: nothing has changed."""
    config = dllm_fast.SamplerConfig(mask_token_id=MASK, threshold=0.9, edit_threshold=0.0, suppress_tokens=(5,))
    sampler = dllm_fast.Sampler(config, [np.full(2, MASK)])
    sampler.next()
    sampler.feed(tokens=[1, 1], scores=[1.0, 0.5])
    assert sampler.next().positions[0].tolist() == [0, 1], "what was written is asked for again"
    with pytest.raises(dllm_fast.DllmFastError):
        sampler.feed(tokens=[MASK if answer == "mask" else 5, 1], scores=[1.0, 1.0])
    assert sampler.canvases[0].tolist() == [1, MASK]
    sampler.feed(tokens=[2, 1], scores=[1.0, 1.0])
    assert sampler.canvases[0].tolist() == [2, 1]


@given(st.floats(0, 1), st.sampled_from(["at", "above"]))
def test_an_edit_needs_more_than_its_threshold(threshold, where):
    config = dllm_fast.SamplerConfig(mask_token_id=MASK, edit_threshold=threshold, max_post_steps=1)
    sampler = dllm_fast.Sampler(config, [[MASK]])
    for token, probability in ((1, 1.0), (2, threshold if where == "at" else np.nextafter(threshold, 2))):
        assert sampler.next().positions[0].tolist() == [0]
        one = np.array([probability])
        sampler.feed(prediction=dllm_fast.Prediction(token=[token], probability=one, top1=one, top2=0 * one, entropy=0 * one))
    assert sampler.next() is None
    assert sampler.canvases[0].tolist() == [1 if where == "at" else 2]
    assert sampler.nfe_per_row == [2]
