"""Answers whose length changes while they are written: the reference, what every step keeps, and what is refused."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
import strategies
import toys
from dllm_fast import _core
from driving import assert_equals_reference, drive, edits_of, lines, replayed, same
from strategies import END, MASK, VOCABULARY

models = st.builds(
    toys.Ending, st.just(VOCABULARY), st.just(END), st.sampled_from([-2.0, 0.0, 1.0, 3.0, 10.0]), seed=st.integers(0, 2**32)
)


@st.composite
def batches(draw):
    found = draw(st.lists(strategies.answers(), min_size=1, max_size=3))
    each = {"min_size": len(found), "max_size": len(found)}
    seeds = draw(st.lists(strategies.seeds, **each))
    requests = draw(st.lists(st.integers(0, 2**32 - 1), **each))
    return found, seeds, requests, draw(st.lists(st.integers(0, 10), **each))


@given(strategies.growing(), batches(), models)
def test_it_is_the_reference(config, batch, model):
    canvases, seeds, requests, starts = batch
    sampler = drive(config, canvases, model, seed=seeds, request=requests, block_start=starts)
    assert_equals_reference(sampler, config, batch, model)


@given(strategies.growing(), strategies.answers(), st.integers(0, 10), models)
def test_what_every_step_keeps(config, canvas, start, model):
    """Given tokens, what was written and its order, the bounds on length and forwards; edits tell everything."""
    settings = dllm_fast.SamplerConfig(**config)
    sampler = dllm_fast.Sampler(settings, [canvas], seed=3, block_start=start)
    own = np.flatnonzero(canvas == MASK)
    before, behind = (canvas[: own[0]], canvas[own[-1] + 1 :]) if own.size else (canvas, canvas[:0])
    seen, stable = canvas.tolist(), []
    while (request := sampler.next()) is not None:
        sampler.feed(np.concatenate(lines(model, request, config.get("shift", False))))
        step = [edit for edit in sampler.trajectory[0] if edit.step == request.steps[0]]
        now = sampler.canvases[0].tolist()
        assert replayed(seen, step) == now
        answer = now[len(before) : len(now) - len(behind)]
        assert now[: len(before)] == before.tolist()
        assert now[len(now) - len(behind) :] == behind.tolist()
        assert min(len(own), max(1, config.get("min_new_tokens", 0))) <= len(answer) <= config["max_new_tokens"]
        if config["length"] == "daedal":
            assert len(now) >= len(seen)
        kinds = {edit.kind for edit in step}
        if "commit" not in kinds:  # nothing is written before the model is sure of an end
            assert kinds == {"insert"}
            assert set(answer) == {MASK}
        # What was written stays, in its order, but for what is filled behind an end.
        if "pad" not in kinds:
            kept = iter(token for token in answer if token != MASK)
            assert all(token in kept for token in seen[len(before) : len(seen) - len(behind)] if token != MASK)
        written = sampler.written([0], [0])[0].tolist()
        assert written[: len(stable)] == stable
        seen, stable = now, written
    assert MASK not in seen
    assert sampler.nfe_per_row[0] <= _core.most_forwards(settings, len(own), min(len(own), 1))


@given(st.lists(st.tuples(strategies.growing(), strategies.answers()), min_size=2, max_size=3), models, st.booleans())
def test_rows_of_other_lengths_do_not_matter(rows, model, score_all):
    """Neither do other rules beside them, nor that every mask is scored."""
    (first, canvas), *others = rows
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**first), [canvas], seed=5, score_all=score_all)
    for config, other in others:
        sampler.add(other, dllm_fast.SamplerConfig(**config), seed=5)
    shifts = [config.get("shift", False) for config, _ in rows]
    while (request := sampler.next()) is not None:
        asked = zip(request.rows.tolist(), request.canvases, request.positions, strict=True)
        sampler.feed(
            np.concatenate(
                [model.alone(seen)[np.maximum(places - 1, 0) if shifts[row] else places] for row, seen, places in asked]
            )
        )
    for row, (config, other) in enumerate(rows):
        alone = drive(config, [other], model, seed=5)
        assert same(edits_of(sampler.trajectory[row]), edits_of(alone.trajectory[0]))


@given(strategies.growing(), strategies.answers(), models)
def test_what_is_finished_stays(config, canvas, model):
    """A canvas without masks is asked nothing."""
    full = drive(config, [canvas], model).canvases[0]
    again = drive(config, [full], model)
    assert again.nfe_per_row == [0]
    assert again.canvases[0].tolist() == full.tolist()


def test_a_length_that_is_right_is_left_alone():
    """An answer of 6 tokens in a canvas of 12 has half of its masks at end tokens."""
    logits = np.full((12, VOCABULARY), -9.0)
    logits[np.arange(12), [1] * 6 + [END] * 6] = 9.0
    model = toys.ByPosition(logits)
    for name in ("daedal", "rho-eos"):
        config = {"mask_token_id": MASK, "length": name, "max_new_tokens": 99, "eos_token_id": END}
        config |= {"eos_check_tokens": 6} if name == "daedal" else {}
        sampler = drive(config | {"threshold": 0.9}, [np.full(12, MASK)], model)
        assert sampler.nfe_per_row == [1]
        assert sampler.canvases[0].tolist() == [1] * 6 + [END] * 6


def test_the_density_changes_the_length_in_64_forwards():
    """Of a model that never sees an end: it would grow for ever, and the bound is far away."""
    config = {"mask_token_id": MASK, "length": "rho-eos", "max_new_tokens": 4000, "eos_token_id": END, "expansion_factor": 1}
    logits = np.zeros(VOCABULARY)
    logits[1] = 9.0
    sampler = drive(config | {"threshold": 0.0}, [np.full(4, MASK)], toys.Constant(logits))
    assert len(sampler.canvases[0]) == 4 + 64 * 8
    assert sampler.nfe_per_row == [65]


@pytest.mark.parametrize("name", ["daedal", "rho-eos"])
def test_a_million_masks_move_what_is_behind_them_once(name):
    """One by one they would move it a million times: minutes, not a second."""
    most, behind = 2**20, 200_000
    rule = {"length": name, "max_new_tokens": most, "expansion_factor": most, "threshold": 0.9}
    config = dllm_fast.SamplerConfig(mask_token_id=MASK, eos_token_id=END, **rule)
    sampler = dllm_fast.Sampler(config, [np.array([1, MASK, *[2] * behind])])
    began = time.process_time()
    sampler.next()
    sampler.feed(np.eye(1, VOCABULARY, 5, dtype=np.float32))
    took = time.process_time() - began
    canvas = sampler.canvases[0]
    assert (canvas[2 : most + 1] == MASK).all()
    assert (canvas[most + 1 :] == 2).all()
    assert len(canvas) == 1 + most + behind
    assert took < 10


GROWING = {"mask_token_id": MASK, "eos_token_id": END, "length": "rho-eos"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"length": "variable"}, "length must be one of fixed, daedal, rho-eos, got 'variable'; fixed is the usual one"),
        ({"length": 3}, "length must be a name, got 3"),
        ({"expansion_factor": 0}, "expansion_factor must be at least 1 and at most 1048576, got 0; 8 is DAEDAL's"),
        ({"expansion_factor": 2**40}, "expansion_factor must be at least 1 and at most 1048576, got 1099511627776"),
        ({"eos_check_tokens": 0}, "eos_check_tokens must be at least 1 and at most 1048576, got 0; 32 is DAEDAL's"),
        ({"eos_confidence_threshold": 1.5}, r"eos_confidence_threshold must lie in \[0, 1\], got 1.5; 0.5 is DAEDAL's"),
        ({"expand_eos_confidence_threshold": -1.0}, r"expand_eos_confidence_threshold must lie in \[0, 1\], got -1"),
        ({"low_confidence_threshold": float("nan")}, r"low_confidence_threshold must lie in \[0, 1\], got NaN"),
        ({"low_density_threshold": 2.0}, r"low_density_threshold must lie in \[0, 1\], got 2"),
        ({"high_density_threshold": 0.3}, "low_density_threshold must be at most high_density_threshold, got 0.4 and 0.3"),
        ({"initial_length": 9}, "initial_length is read under length='daedal' or .* got 9 beside length='fixed'; leave it out"),
        (GROWING | {"initial_length": 0}, "initial_length must be at least .* got 0 for 1 to 2048; 64 is that of both papers"),
        (GROWING | {"initial_length": 9, "max_new_tokens": 8}, "got 9 for 1 to 8; 64 is"),
        (GROWING | {"initial_length": 9, "min_new_tokens": 10}, "got 9 for 10 to 2048; 64 is"),
        (GROWING | {"guidance": 1.0}, "length='rho-eos' changes .* got guidance=1.0 beside it, whose twins would have"),
        (GROWING | {"cache": "prefix"}, "length='rho-eos' changes .* got cache='prefix' beside it; use 'auto' or 'none'"),
        (GROWING | {"steps": 4}, "length 'rho-eos' moves positions .* got steps beside it"),
        (GROWING | {"schedule": "linear"}, "got another schedule than 'even' beside it"),
        (GROWING | {"order": "ancestral"}, "got order 'ancestral' beside it"),
        (GROWING | {"order": "ranks"}, "got an order of the caller's beside it"),
        (GROWING | {"order": "left-to-right", "verify": True}, "got verify beside it"),
        (GROWING | {"threshold": 0.9, "kl_threshold": 0.1}, "got kl_threshold beside it"),
        (GROWING | {"credit": 0.5}, "got credit beside it"),
        (GROWING | {"window_length": 4}, "got window_length beside it"),
        (GROWING | {"gap_stop": 2.5}, "got gap_stop beside it"),
        (GROWING | {"edit_threshold": 0.5}, "got a rule that revises beside it"),
        (GROWING | {"remask": "planner"}, "got a rule that revises beside it"),
        (GROWING | {"temperature": 1.0, "temperature_end": 0.5}, "got temperature_end beside it"),
        (GROWING | {"eos_policy": "suffix"}, "got eos_policy 'suffix' beside it"),
        (GROWING | {"as_published": True}, "got as_published beside it"),
        (
            GROWING | {"noise": "uniform", "mask_token_id": None, "order": "ancestral", "schedule": "linear"},
            "got noise that shows tokens beside it",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, says):
    with pytest.raises(dllm_fast.DllmFastError, match=says):
        dllm_fast.SamplerConfig(**settings)


def test_rows_that_cannot_grow_are_refused():
    config = dllm_fast.SamplerConfig(**GROWING, max_new_tokens=4)
    two_runs = [MASK, 1, MASK]
    with pytest.raises(dllm_fast.DllmFastError, match=r"is for one run of masks, .* got masks of row 0 with given tokens betw"):
        dllm_fast.Sampler(config, [two_runs])
    with pytest.raises(dllm_fast.DllmFastError, match="got 5 masks in row 1 and 4; begin with fewer, or raise max_new_tokens"):
        dllm_fast.Sampler(config, [[1, MASK], [MASK] * 5])
    sampler = dllm_fast.Sampler(config, [[1, MASK]])
    with pytest.raises(dllm_fast.DllmFastError, match=r"length 'rho-eos' moves positions.* got eligible_after for row 0"):
        dllm_fast.Sampler(config, [[1, MASK, MASK]], eligible_after=[{1: [2]}])
    with pytest.raises(dllm_fast.DllmFastError, match=r"needs an end token, whose .* got none for row 0; pass eos_token_id"):
        dllm_fast.Sampler(dllm_fast.SamplerConfig(mask_token_id=MASK, length="rho-eos"), [[1, MASK]])
    unmasked = dllm_fast.SamplerConfig(**GROWING | {"mask_token_id": None})
    with pytest.raises(
        dllm_fast.DllmFastError, match=r"length 'rho-eos' needs a mask token for what it adds, got none for row 0"
    ):
        dllm_fast.Sampler(unmasked, [[1, 2]], open=[[False, True]])
    assert sampler.next() is not None
    with pytest.raises(dllm_fast.DllmFastError, match="length needs the most probable token of every position, got scores"):
        sampler.feed(tokens=[1], scores=[0.5])
