"""Steps as turns of a loop on the device: tokens, statistics and counts are those of steps that wait for the host.

The loop is a function that runs its body until the emulated kernel has set its condition to 0.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dllm_fast
from dllm_fast.errors import DllmFastWarning, InvalidValueError
from e2e.test_steps_begun_ahead import CAPTURED, KERNELS, RULES
from emulator import build
from emulator.operations import emulated
from engines import with_engine

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))


class Looping:
    """What captures nothing, and runs loops."""

    def __init__(self):
        self.turns: list[int] = []
        self.trouble: Exception | None = None

    def __call__(self, body):
        body()
        return body

    def loop(self, body):
        if self.trouble is not None:
            raise self.trouble
        condition = np.zeros(1, dtype=np.uint32)

        def run():
            self.turns.append(0)
            while True:
                body(condition.ctypes.data)
                self.turns[-1] += 1
                if not condition[0]:
                    return

        return run


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    models = {twin.name: dllm_fast.load(twin.save(tmp_path_factory.mktemp(twin.name))) for twin in CAPTURED}
    return lambda twin: models[twin.name]


def run(model, prompts, *, loops, times=1, **given):
    """The last of some runs through an engine, and what they looped."""
    looping = Looping()
    with pytest.MonkeyPatch.context() as patch, emulated([*KERNELS, "loop"]):
        if loops:
            patch.setenv("DLLM_FAST_TRY", "while")
        with_engine(model, looping)
        for _ in range(times):
            result = dllm_fast.sample(model, prompts, **given)
    return result, looping


def same(model, prompts, *, times=2, **given):
    plain, none = run(model, prompts, loops=False, **given)
    looped, looping = run(model, prompts, loops=True, times=times, **given)
    assert none.turns == []
    assert [row.tolist() for row in looped.sequences] == [row.tolist() for row in plain.sequences]
    assert looped.trajectory == plain.trajectory, "to the bit of every probability"
    assert (looped.stats.nfe, looped.stats.nfe_per_row) == (plain.stats.nfe, plain.stats.nfe_per_row)
    return looped, looping.turns


CACHES = [{"cache": "auto"}, {"cache": "dual"}, {"cache": "dual", "refresh_every": 4}, {"cache": "none"}]


@pytest.mark.parametrize("index", range(len(RULES)), ids=lambda index: str(RULES[index]))
def test_loops_change_nothing(opened, index):
    """Two runs of a model in turn: the second has graphs from its first step on. Every rule meets another family and cache."""
    rule = {name: value for name, value in RULES[index].items() if name != "top_p"}
    stops = index % 3 == 0
    # The last of them draws: not with Dream, whose own top-p takes the emulator long.
    twin, cache = CAPTURED[-1 - index % len(CAPTURED)], CACHES[index // 2 % len(CACHES)]
    if "refresh_every" in cache and twin.attention != "full":
        cache = {"cache": "auto"}
    given = {"max_new_tokens": 16, "seed": index, **cache, **rule}
    given |= {"stop_at_eos": stops, "eos_token_id": list(range(5)) if stops else None}
    same(opened(twin), [[1, 2, 3], [4]], **given)


def llada(opened):
    return opened(next(twin for twin in CAPTURED if twin.name == "llada"))


def test_a_block_is_one_loop(opened):
    given = {"preset": "llada", "max_new_tokens": 16, "block_length": 8, "cache": "none", "stop_at_eos": False}
    result, turns = same(llada(opened), [[1, 2, 3]], **given)
    assert result.stats.nfe == 16
    # Two runs of two blocks. In the first of all the shape is new: one step is eager, and one is captured.
    assert turns == [6, 7, 7, 7]


def test_steps_that_somebody_watches_are_made_one_by_one(opened):
    seen = []
    given = {"preset": "llada", "max_new_tokens": 16, "block_length": 8, "cache": "none", "stop_at_eos": False}
    _, looping = run(llada(opened), [[1, 2, 3]], loops=True, times=2, on_step=seen.append, **given)
    assert len(seen) == 32
    assert looping.turns == []


def test_a_loop_ends_where_keys_are_computed_anew(opened):
    given = {"preset": "llada", "max_new_tokens": 16, "block_length": 16, "stop_at_eos": False}
    result, turns = same(llada(opened), [[1, 2, 3]], cache="dual", refresh_every=6, **given)
    assert result.stats.nfe == 16
    assert turns
    assert max(turns) <= 4


def test_a_row_that_ends_ends_the_loop(opened):
    model = llada(opened)
    given = {"preset": "llada", "max_new_tokens": 48, "block_length": 16, "cache": "none"}
    plain, _ = run(model, [[1, 2, 3]], loops=False, **given, stop_at_eos=False)
    second = [edit for edit in plain.trajectory[0] if 16 <= edit.step < 32]
    first = next(edit for edit in second if edit.position == 3 + 16)
    result, turns = same(model, [[1, 2, 3]], **given, stop_at_eos=True, eos_token_id=first.token)
    assert result.stats.nfe < plain.stats.nfe
    assert turns
    assert sum(turns) < 2 * result.stats.nfe, "two runs, and no turn was made for nothing"


def test_a_loop_that_cannot_be_built_is_said_once_and_steps_go_on(opened):
    model, given = llada(opened), {"preset": "llada", "max_new_tokens": 16, "block_length": 8, "stop_at_eos": False}
    plain, _ = run(model, [[1, 2, 3]], loops=False, **given)
    looping = Looping()
    looping.trouble = RuntimeError("cuGraphInstantiate must succeed\nmore")
    with pytest.MonkeyPatch.context() as patch, emulated([*KERNELS, "loop"]):
        patch.setenv("DLLM_FAST_TRY", "while")
        with_engine(model, looping)
        with pytest.warns(DllmFastWarning, match="one by one, not as a loop on the device: .*must succeed$"):
            result = dllm_fast.sample(model, [[1, 2, 3]], **given)
        again = dllm_fast.sample(model, [[1, 2, 3]], **given)
    assert result.trajectory == again.trajectory == plain.trajectory
    assert "RuntimeError" in (model.engine.traceback or "")
    assert ("loops on the device", "RuntimeError: cuGraphInstantiate must succeed") in dllm_fast.explain(model).refused


def test_a_nan_in_a_turn_names_the_step_that_asked(opened):
    model = llada(opened)
    network, calls = model.network, []
    logits = network.logits

    def broken(features):
        calls.append(len(features))
        made = logits(features).clone()
        if len(calls) == 14:
            made[:, 3] = torch.nan
        return made

    given = {"preset": "llada", "max_new_tokens": 16, "block_length": 8, "cache": "none", "stop_at_eos": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "logits", broken)
        with pytest.raises(InvalidValueError, match=r"the logits of row 0, position \d+, must not hold NaN.*at id 3"):
            run(model, [[1, 2, 3]], loops=True, **given)
    assert len(calls) == 14, "the loop ends there"
