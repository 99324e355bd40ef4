"""Canvases of uniform noise: the core against the reference, and what holds for every rule on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
import strategies
from dllm_fast import _core
from dllm_fast.errors import InvalidValueError
from driving import edits_of, lines, same
from driving import finite_tables as tables
from reference import noise
from reference import sampler as reference
from strategies import MASK, VOCABULARY

plain = (
    st.one_of(strategies.settings(), strategies.settings().flatmap(strategies.endings), strategies.remembering())
    .map(lambda rule: {**rule, "mask_token_id": None, "noise": "uniform", "vocabulary": VOCABULARY} | {"shift": False})
    .filter(lambda rule: rule["order"] != "ancestral" and rule["schedule"] != "first-hitting")
)
owed = plain.map(
    lambda rule: rule | {"schedule": "cumulative", "order_temperature": 0.0, "steps_per_block": rule.get("steps_per_block", 5)}
)
rules = st.one_of(strategies.drafting(), plain, strategies.posteriors(), owed)
canvases = st.lists(strategies.canvases(), min_size=1, max_size=3)


def drive(config, rows, model, seed, **arguments):
    """Runs a `Sampler` to its end; also what was shown in every forward of each row."""
    is_open = [row == MASK for row in rows]
    flags = {} if "mask_token_id" in config and config["mask_token_id"] is not None else {"open": is_open}
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), rows, seed=seed, **flags, **arguments)
    shown = [[] for _ in rows]
    while (request := sampler.next()) is not None:
        for row, canvas, left in zip(request.rows.tolist(), request.canvases, request.open, strict=True):
            shown[row].append((canvas.copy(), left.copy()))
        sampler.feed(np.concatenate(lines(model, request, config.get("shift", False))))
    return sampler, shown


@given(rules, canvases, tables, st.integers(0, 2**64 - 1), st.integers(0, 9))
def test_rows_equal_the_reference(config, rows, model, seed, start):
    sampler, shown = drive(config, rows, model, seed, block_start=start)
    most = _core.most_forwards(dllm_fast.SamplerConfig(**config), 14, 14)
    for i, row in enumerate(rows):
        is_open = row == MASK
        expected = reference.run(model.alone, row, config, seed=seed, block_start=start, open=is_open)
        assert same(edits_of(sampler.trajectory[i]), edits_of(expected.trajectory))
        assert sampler.canvases[i].tolist() == expected.canvas.tolist()
        assert sampler.nfe_per_row[i] == expected.nfe <= most
        assert not sampler.open[i].any()
        assert (sampler.canvases[i][~is_open] == row[~is_open]).all(), "given tokens stay"
        written = sampler.canvases[i][is_open]
        assert not np.isin(written, config.get("suppress_tokens", ())).any() or "eos_token_id" in config
        assert all((canvas[~is_open] == row[~is_open]).all() for canvas, _ in shown[i])


@given(strategies.drafting(), strategies.canvases().filter(lambda row: (row == MASK).any()), tables, st.integers(0, 99))
def test_drafts_are_written_once_and_all_at_once(config, row, model, seed):
    sampler, shown = drive(config, [row], model, seed)
    edits = [edit for edit in sampler.trajectory[0] if edit.kind == "commit"]
    for step in {edit.step for edit in edits}:
        before, left = shown[0][step]
        places = [edit.position for edit in edits if edit.step == step]
        assert left[places].all()
        # The most probable tokens of that forward, whatever was drawn.
        logits = model.alone(before)
        for edit in edits:
            if edit.step == step:
                line = logits[max(edit.position - 1, 0) if config.get("shift") else edit.position].copy()
                line[list(config.get("suppress_tokens", ()))] = -np.inf
                assert edit.token == int(np.argmax(line))
    steps = config["steps_per_block"]
    length = config.get("block_length", 14)
    assert sampler.nfe_per_row[0] <= steps * (len(row) // length + 2)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 9), st.sampled_from([1, 2, 11, 2**20, 2**32 - 1]))
def test_the_first_noise_is_that_of_the_reference(seed, request, position, vocabulary):
    config = dllm_fast.SamplerConfig(noise="uniform", vocabulary=vocabulary)
    canvas = np.zeros(10, dtype=np.int64)
    is_open = np.arange(10) == position
    sampler = dllm_fast.Sampler(config, [canvas], seed=seed, request=request, open=[is_open])
    asked = sampler.next()
    assert asked.canvases[0][position] == noise.shown(seed, request, position, 0, vocabulary)


def test_noise_is_uniform():
    # 20,000 positions over 7 tokens: chi-square with six degrees of freedom stays below 22.5 in 999 of 1,000 cases.
    sampler = dllm_fast.Sampler(
        dllm_fast.SamplerConfig(noise="uniform", vocabulary=7), [np.zeros(20_000, int)], seed=4, open=[np.ones(20_000, bool)]
    )
    counts = np.bincount(sampler.next().canvases[0], minlength=7)
    assert ((counts - 20_000 / 7) ** 2 / (20_000 / 7)).sum() < 22.5


@given(strategies.drafting(), canvases, tables, st.integers(0, 99))
def test_finished_rows_are_frozen_and_rows_do_not_meet(config, rows, model, seed):
    together, _ = drive(config, rows, model, seed)
    for i, row in enumerate(rows):
        alone, _ = drive(config, [row], model, seed)
        assert repr(together.trajectory[i]) == repr(alone.trajectory[0])


BOUND = {"noise": "uniform", "vocabulary": 9, "drafts": True, "order": "entropy", "steps_per_block": 5, "temperature": 1.0}


@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.01, 0.1, 0.3, 1.0]), min_size=1, max_size=12), st.sampled_from([0.0, 0.1, 0.5, 2.0])
)
def test_what_is_shown_is_nested_in_the_bound(entropies, bound):
    """A larger bound shows what a smaller one does and maybe more; what has no entropy is always shown."""
    n = len(entropies)

    def drafts(bound):
        config = dllm_fast.SamplerConfig(**BOUND, entropy_bound=bound)
        sampler = dllm_fast.Sampler(config, [np.zeros(n, int)], open=[np.ones(n, bool)])
        sampler.next()
        half = np.full(n, 0.5)
        # Token 100 is none of the noise.
        sampler.feed(
            prediction=dllm_fast.Prediction(
                token=np.full(n, 100), probability=half, top1=half, top2=half, entropy=np.array(entropies), argmax=np.arange(n)
            )
        )
        return sampler.next().canvases[0] == 100

    small, large = drafts(bound), drafts(2 * bound)
    assert (small <= large).all()
    assert small[np.array(entropies) == 0].all()
    assert small.any()


@pytest.mark.parametrize(
    ("stable", "doubt", "forwards"),
    [(0, 0.009, 1), (1, 0.009, 2), (2, 0.009, 3), (9, 0.009, 5), (0, 0.01, 5), (0, 0.5, 5)],  # a mean of 0.005 is not below it
)
def test_a_block_is_finished_when_it_is_stable_and_sure(stable, doubt, forwards):
    config = dllm_fast.SamplerConfig(**BOUND, entropy_bound=0.1, stop_stable=stable)
    sampler = dllm_fast.Sampler(config, [[0, 0]], open=[[True, True]])
    half = np.full(2, 0.5)
    while sampler.next() is not None:
        sampler.feed(
            prediction=dllm_fast.Prediction(
                token=[3, 4], probability=half, top1=half, top2=half, entropy=np.array([0.0, doubt]), argmax=[1, 2]
            )
        )
    assert sampler.nfe_per_row == [forwards]
    assert sampler.canvases[0].tolist() == [1, 2], "the most probable tokens, not those that were drawn"


def test_what_cannot_be_is_refused_with_the_reason():
    def refused(match, **settings):
        with pytest.raises(InvalidValueError, match=match):
            dllm_fast.SamplerConfig(**settings)

    refused("noise must be one of mask, uniform, hybrid, got 'uniformly'; did you mean 'uniform'", noise="uniformly")
    refused("noise 'uniform' is for models that never saw a mask, got mask_token_id=3", noise="uniform", mask_token_id=3)
    refused("vocabulary must be at least 1", noise="uniform", vocabulary=0)
    refused("drafts are shown until their block is finished, got noise 'mask'", drafts=True)
    uniform = {"noise": "uniform", "drafts": True}
    refused("got no number of steps; set steps_per_block", **uniform)
    refused("got no threshold, factor or entropy_bound", **uniform, steps_per_block=4)
    cut = {**uniform, "steps_per_block": 4, "entropy_bound": 0.1}
    refused("got edit_threshold beside them", **cut, edit_threshold=0.5)
    refused("got gap_stop, which ends a block", **cut, gap_stop=1.0)
    refused(
        "drafts are of distributions at another temperature in each step, got kl_threshold or credit beside them",
        **cut,
        credit=0.7,
    )
    for remask in ("planner", "confidence-drop", "low-confidence"):
        refused(f"remask '{remask}' fills .* got noise that shows tokens beside it", noise="uniform", remask=remask)
    with pytest.raises(
        InvalidValueError, match="drafts of a block are written together, got eligible_after beside them for row 0"
    ):
        dllm_fast.Sampler(dllm_fast.SamplerConfig(**cut, vocabulary=3), [[0, 0]], open=[[True, True]], eligible_after={1: [0]})
    refused("got a schedule, which says how many a step commits", **cut, schedule="linear")
    refused("schedule 'cumulative' spends forwards that may commit nothing, got it over masks", schedule="cumulative")
    refused("stop_entropy must be at least 0", stop_entropy=-1.0)
    refused("temperature must be at least 0.001 and at most 1000000 where the temperature changes, got 0", temperature_end=0.4)
    refused("temperature_end must be at least 0.001", temperature=1.0, temperature_end=0.0)
    # In float32 they would be infinite on the way.
    refused("temperature_end must be at least 0.001 and at most 1000000", temperature=1.0, temperature_end=1e39)
    refused("temperature must be at least 0.001 and at most 1000000", temperature=1e39, temperature_end=1.0)
    # The logits are divided by it before anything else: by infinity an infinite one were no number, by 0 any of them.
    for none in (1e39, 1e-46):
        refused("temperature must be 0, or at least 0.001 and at most 1000000, for drafts", **cut, temperature=none)
        posterior = {"noise": "uniform", "order": "ancestral", "schedule": "linear"}
        refused("temperature must be 0, or at least 0.001 .* and order 'ancestral' over noise", **posterior, temperature=none)
    with pytest.raises(
        InvalidValueError, match="needs the number of token ids that it is drawn from, got none; pass vocabulary="
    ):
        dllm_fast.Sampler(dllm_fast.SamplerConfig(**cut), [[0]], open=[[True]])
    hybrid = dllm_fast.SamplerConfig(noise="hybrid", noise_share=0.2, order="ancestral", schedule="linear", vocabulary=3)
    with pytest.raises(InvalidValueError, match="shows masks among other tokens, got no mask; pass mask_token_id="):
        dllm_fast.Sampler(hybrid, [[0]], open=[[True]])
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(**cut, vocabulary=3), [[0]], open=[[True]])
    sampler.next()
    with pytest.raises(InvalidValueError, match="drafts need the statistics of every position, got scores"):
        sampler.feed(tokens=[1], scores=[0.5])
    one = np.ones(1)
    with pytest.raises(InvalidValueError, match=r"the most probable token of every position.* got none for row 0, position 0"):
        sampler.feed(prediction=dllm_fast.Prediction(token=[1], probability=one, top1=one, top2=one, entropy=one))
