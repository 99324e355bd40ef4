"""What ends a row besides end tokens: stops and the least number of tokens, against the reference and by their rules."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm_fast
import strategies
from dllm_fast.errors import InvalidTypeError, InvalidValueError
from driving import assert_equals_reference, batches, drive, edits_of, same
from driving import finite_tables as tables
from reference import stops as reference
from strategies import END, MASK

# Every token has some mass everywhere, so that there is something to propose where end tokens are not.
rules = st.one_of(strategies.settings(annealed=False), strategies.editing()).flatmap(strategies.endings)


@settings(max_examples=4 * settings().max_examples)
@given(rules, batches(), tables)
def test_equals_the_reference_token_for_token(config, batch, model):
    canvases, seeds, requests, starts = batch
    sampler = drive(config, canvases, model, seed=seeds, request=requests, block_start=starts)
    assert_equals_reference(sampler, config, batch, model)


@settings(max_examples=2 * settings().max_examples)
@given(rules, batches(), tables)
def test_what_ended_a_row_is_where_it_says(config, batch, model):
    """Nothing ends it before; what follows is padding; no end token stands too early; the rest is that of no stop at all."""
    canvases, seeds, requests, starts = batch
    config = {name: value for name, value in config.items() if not name.startswith("eos_p")}
    where = {"seed": seeds, "request": requests, "block_start": starts}
    sampler = drive(config, canvases, model, **where)
    endless = drive(
        {name: config[name] for name in config if name != "stop"} | {"stop_at_eos": False}, canvases, model, **where
    )
    ends = np.atleast_1d(config.get("eos_token_id", ())).tolist()
    stops, least = config.get("stop", ()), config.get("min_new_tokens", 0)
    single = [stop for stop in stops if isinstance(stop, int)]
    for i, (before, after, (first, last)) in enumerate(
        zip(canvases, sampler.canvases, sampler.endings(range(len(canvases))).tolist(), strict=True)
    ):
        given_ = before != MASK
        named = ends if config.get("stop_at_eos") else ()
        found = reference.ending(after, given_, after == MASK, ends=named, stops=stops, least=least)
        if last < 0:
            assert found is None
            assert "pad" not in [edit.kind for edit in sampler.trajectory[i]]
            continue
        assert (found == (first, last)) or (np.array_equal(after[first : last + 1], after[found[0] : found[1] + 1]))
        assert (~given_[:first]).sum() >= least
        fill = ends[0] if ends else after[last]
        assert (after[last + 1 :][~given_[last + 1 :]] == fill).all()
        begin = reference.begin(given_, least)
        assert not {edit.token for edit in sampler.trajectory[i] if edit.position < begin} & {*ends, *single}
        # Up to the forward in which it ended it is the run that nothing ends; editing may go on behind its block.
        ours = [edit for edit in edits_of(sampler.trajectory[i]) if edit[4] != "pad"]
        theirs = [edit for edit in edits_of(endless.trajectory[i]) if edit[4] != "pad"][: len(ours)]
        assert single != [] or same(ours, theirs)


def greedy(**more):
    return dllm_fast.SamplerConfig(mask_token_id=MASK, **more)


def fed(config, canvas, tokens, **where):
    """A row that commits these tokens from left to right, one a forward."""
    sampler = dllm_fast.Sampler(config, [canvas], **where)
    for token in tokens:
        request = sampler.next()
        if request is None:
            break
        count = len(request.positions[0])
        sampler.feed(tokens=[token] * count, scores=np.linspace(1, 0, count))
    return sampler


def test_a_caller_ends_a_row_where_it_is_final():
    sampler = fed(greedy(eos_token_id=END), [0, *[MASK] * 4], [1, 2])
    with pytest.raises(InvalidValueError, match="got position 0 of row 0: nothing was written there; ask stable"):
        sampler.end(0, 0)
    with pytest.raises(InvalidValueError, match="got position 3 of row 0: nothing was written there"):
        sampler.end(0, 3)
    with pytest.raises(InvalidValueError, match="must be one of the sampler's, got 1 of 1 rows"):
        sampler.end(1, 0)
    assert sampler.next() is not None
    assert sampler.written([0], [1])[0].tolist() == [2]
    sampler.end(0, 1)
    assert sampler.next() is None
    assert sampler.is_done(0)
    assert sampler.canvases[0].tolist() == [0, 1, END, END, END]
    assert [(edit.step, edit.kind) for edit in sampler.trajectory[0]][2:] == [(1, "pad")] * 3
    assert sampler.endings([0]).tolist() == [[1, 1]]
    with pytest.raises(InvalidValueError, match="position 2 of row 0: it ended before"):
        sampler.end(0, 2)
    sampler.end(0, 1)  # twice is once
    assert sampler.nfe_per_row == [2]


@pytest.mark.parametrize("stops", [[(1, 2), 2], [2, (1, 2)], [(1, 2)]])
def test_of_two_stops_that_end_together_the_longer_counts(stops):
    sampler = fed(greedy(order="left-to-right", stop=stops, eos_token_id=2, stop_at_eos=True), [0, *[MASK] * 4], [1, 2, 5])
    assert sampler.endings([0]).tolist() == [[1, 2]]
    assert sampler.canvases[0].tolist() == [0, 1, 2, 2, 2]


def test_a_row_that_is_cancelled_or_may_change_is_not_ended():
    sampler = fed(greedy(), [MASK] * 3, [1])
    sampler.cancel(0)
    with pytest.raises(InvalidValueError, match="it was cancelled"):
        sampler.end(0, 0)
    sampler = fed(greedy(edit_threshold=0.5), [MASK] * 3, [1])
    with pytest.raises(InvalidValueError, match="what stands there, or before it, may still change"):
        sampler.end(0, 0)
    sampler = fed(greedy(order="left-to-right"), [MASK] * 3, [1, 2])
    sampler.end(0, 1)
    assert sampler.canvases[0].tolist() == [1, 2, 2], "without an end token the last one is repeated"


def test_an_answer_with_an_end_that_comes_too_early_is_refused():
    sampler = dllm_fast.Sampler(greedy(eos_token_id=END, min_new_tokens=2), [[0, *[MASK] * 3]])
    sampler.next()
    with pytest.raises(InvalidValueError, match=rf"min_new_tokens, .*, got {END} for row 0, position 2; choose another id"):
        sampler.feed(tokens=[1, END, END], scores=[1, 0, 0])
    sampler.feed(tokens=[1, 2, END], scores=[1, 0, 0])
    assert sampler.canvases[0].tolist()[1] == 1


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"stop": [()]}, InvalidValueError, "stop must be tokens, at least one in each"),
        ({"stop": [(1, 2, MASK)]}, InvalidValueError, f"neither the mask nor suppressed, got {MASK}"),
        ({"stop": 5, "suppress_tokens": [5]}, InvalidValueError, "neither the mask nor suppressed, got 5"),
        ({"stop": [(5,) * 600, (6,) * 600]}, InvalidValueError, "at most 1024 ids in all, got 1200"),
        ({"stop": [True]}, InvalidTypeError, "stop must be token ids here, or tuples of them, got True"),
        ({"stop": 1.5}, InvalidTypeError, "stop must be token ids here, or tuples of them, got"),
        ({"stop": -5}, InvalidTypeError, "stop must be token ids here"),
        ({"stop": {"a": 1}}, InvalidTypeError, "stop must be token ids"),
        ({"stop": b"ab"}, InvalidTypeError, "stop must be token ids"),
        ({"stop": [[[5]]]}, InvalidTypeError, "stop must be token ids here"),
        ({"stop": ""}, InvalidValueError, "a stop must be a text of 1 to 4096 characters, got 0"),
        ({"stop": ["a"] * 1025}, InvalidValueError, "at most 1024 texts or ids, got 1025"),
        ({"min_new_tokens": -1}, InvalidValueError, "min_new_tokens must be a whole number, at least 0, got -1"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, InvalidValueError, "at most max_new_tokens, got 5 and 4; lower the one"),
    ],
)
def test_what_is_refused(settings, error, says):
    with pytest.raises(error, match=says.replace("(", r"\(").replace(")", r"\)")):
        greedy(**settings)


@pytest.mark.parametrize("stop", [5, "a", (5, "a"), [5, "a"], [(5, 6), "ab"], [[5, 6]], {5}, np.array([5, 6]), np.int64(5)])
def test_stops_survive_json(stop):
    config = greedy(stop=stop)
    assert dllm_fast.SamplerConfig.from_dict(config.to_dict()) == config
    assert all(isinstance(one, int | str | tuple) for one in config.stop)
    if config.stop_texts:
        with pytest.raises(InvalidTypeError, match="give sample a tokenizer for texts"):
            dllm_fast.Sampler(config, [[MASK]])


def test_many_stops_cost_what_ends_with_a_token():
    """Each was compared at every written position in every step: 500 of them took ninety times as long as one."""

    def seconds(stops):
        began = time.process_time()
        fed(greedy(order="left-to-right", stop=stops), np.full(4000, MASK), [1] * 4000)
        return time.process_time() - began

    few, many = seconds([(2, 3)]), seconds([(2, 10 + i) for i in range(500)])
    assert many < 30 * few
