"""What `Sampler` tells those who draw and commit elsewhere: the sites of the waiting step, and the pace of it and the next."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
import strategies
from driving import finite_tables as tables

LOOKING = ("confidence", "margin", "entropy", "sampled-confidence")


def sampler_of(config, canvases, **given):
    return dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), canvases, **given)


def answer(sampler, request, model, config):
    """Feeds the logits of a request."""
    shift = config.get("shift", False)
    lines = [
        model.alone(canvas)[np.maximum(positions - 1, 0) if shift else positions]
        for canvas, positions in zip(request.canvases, request.positions, strict=True)
    ]
    sampler.feed(np.concatenate(lines))


@given(strategies.settings(), strategies.batches, tables, st.lists(strategies.seeds, min_size=8, max_size=8))
def test_sites_are_the_requested_positions(config, canvases, model, seeds):
    requests = list(range(5, 5 + len(canvases)))
    sampler = sampler_of(config, canvases, seed=seeds[: len(canvases)], request=requests)
    while (request := sampler.next()) is not None:
        rows = request.rows[::-1]
        seed, sample, position, step, counts = sampler.sites(rows)
        positions = request.positions[::-1]
        assert counts.tolist() == [len(p) for p in positions]
        assert position.tolist() == np.concatenate(positions).tolist()
        row = np.repeat(rows, counts)
        assert seed.tolist() == [seeds[r] for r in row]
        assert sample.tolist() == [requests[r] for r in row]
        assert step.tolist() == [sampler.nfe_per_row[r] for r in row]
        answer(sampler, request, model, config)


@given(strategies.settings(orders=LOOKING), strategies.batches, tables)
def test_the_next_step_is_as_it_was_foretold(config, canvases, model):
    """Where only counts decide and nothing ends early, what is foretold comes; else it does if the block goes on."""
    sampler = sampler_of(config, canvases)
    is_counted = all(config.get(cut) is None for cut in (*strategies.CUTS, "gap_stop"))
    is_sure = is_counted and not config.get("stop_at_eos") and not config.get("as_published")
    foretold, before = None, None
    while (request := sampler.next()) is not None:
        (floors, progress), then = sampler.pace(request.rows)
        goes_on = before is not None and np.array_equal(before.rows, request.rows)
        goes_on = goes_on and np.array_equal(before.windows, request.windows)
        if foretold is not None and not config.get("as_published"):
            assert goes_on or not is_sure
            if goes_on and is_counted:
                np.testing.assert_array_equal(foretold[0], floors)
                np.testing.assert_array_equal(foretold[1], progress)
        done = [len(sampler.trajectory[r]) for r in request.rows]
        answer(sampler, request, model, config)
        for row, floor, had in zip(request.rows, floors, done, strict=True):
            made = [edit for edit in sampler.trajectory[row][had:] if edit.kind == "commit"]
            assert len(made) >= floor
            assert len(made) == floor or not is_counted
        foretold, before = then, request


def test_only_waiting_rows_have_an_outlook():
    sampler = sampler_of({"mask_token_id": 9}, [[9, 9], [1, 2]])
    with pytest.raises(dllm_fast.DllmFastError, match=r"call next\(\) first"):
        sampler.sites([0])
    sampler.next()
    assert sampler.sites([0])[2].tolist() == [0, 1]
    for ask in (sampler.sites, sampler.pace):
        with pytest.raises(dllm_fast.DllmFastError, match="rows must be distinct rows of the last request, got 1"):
            ask([1])


def test_thresholds_foretell_a_step_where_many_masks_are_left():
    sampler = sampler_of({"mask_token_id": 9, "threshold": 0.9}, [[9] * 12])
    expected = [False, True, True, True, True, True, True, True, False, False, False, False]
    seen = []
    while (request := sampler.next()) is not None:
        seen.append(sampler.pace([0])[1] is not None)
        positions = request.positions[0]
        sampler.feed(tokens=np.zeros(len(positions), dtype=np.int64), scores=-positions.astype(np.float64))
    assert seen == expected
