"""Steps that begin before the host has read the one before: the tokens are those of steps that wait for it.

The commit of the emulated kernel writes what the next replay reads, so a wrong decision would show as a begun step that
nobody wants, or as other tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
import engines
from dllm_fast.errors import InvalidValueError
from dllm_fast.runners import step_graph
from dllm_fast.runners.graphs import Engine
from emulator import build
from emulator.operations import emulated
from families import MASK, TWINS

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

KERNELS = ["mask_predict", "mask_filter", "commit"]
CAPTURED = [twin for twin in TWINS if twin.name in {"llada", "dream", "sdar", "fast-dllm-v2"}]


@dataclass
class Count:
    """Steps that were begun, asked for, and begun for nothing."""

    begun: int = 0
    used: int = 0

    @property
    def wasted(self) -> int:
        return self.begun - self.used


@pytest.fixture
def count(monkeypatch):
    counted = Count()
    go_on, lines_of = Engine._go_on, step_graph.Begun.lines_of

    def counting_go_on(engine, *args):
        go_on(engine, *args)
        counted.begun += engine._begun is not None

    def counting_lines_of(begun, *args):
        lines = lines_of(begun, *args)
        counted.used += lines is not None
        return lines

    monkeypatch.setattr(Engine, "_go_on", counting_go_on)
    monkeypatch.setattr(step_graph.Begun, "lines_of", counting_lines_of)
    return counted


def with_engine(model):
    engines.with_engine(model)
    return model


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    models = {twin.name: dllm_fast.load(twin.save(tmp_path_factory.mktemp(twin.name))) for twin in CAPTURED}
    return lambda twin: models[twin.name]


def tokens(result):
    return [row.tolist() for row in result.sequences]


def same_tokens(model, prompts, **given):
    model.engine = None
    eager = dllm_fast.sample(model, prompts, **given)
    with emulated(KERNELS):
        ahead = dllm_fast.sample(with_engine(model), prompts, **given)
    assert tokens(ahead) == tokens(eager)
    assert ahead.stats.nfe_per_row == eager.stats.nfe_per_row
    return ahead


RULES = [
    {"preset": "llada"},
    {"preset": "llada", "steps_per_block": 5},
    {"preset": "llada", "steps": 11},
    {"order": "confidence", "schedule": "linear", "steps": 9, "as_published": True},
    {"preset": "dream-entropy"},
    {"preset": "dream-origin"},
    {"preset": "fast-dllm", "threshold": 0.03},
    {"preset": "fast-dllm-factor", "factor": 0.9},
    {"preset": "fast-dllm-factor", "factor": 0.9, "as_published": True},
    {"preset": "entropy-bound", "entropy_bound": 4.0},
    {"preset": "maskgit", "steps_per_block": 3},
    {"order": "margin", "min_commit": 2},
    {"order": "random", "threshold": 0.05},
    {"order": "sampled-confidence", "temperature": 1.0, "top_p": 0.9, "order_temperature": 0.5},
]


@given(
    twin=st.sampled_from(CAPTURED),
    prompts=st.lists(st.lists(st.integers(0, MASK - 1), min_size=1, max_size=6), min_size=1, max_size=3),
    rule=st.sampled_from(RULES),
    cache=st.sampled_from(["auto", "dual", "prefix", "none"]),
    seed=st.integers(0, 100),
    stops=st.booleans(),
    rows=st.sampled_from([None, 2]),
)
def test_tokens_are_those_of_steps_that_wait(*, opened, twin, prompts, rule, cache, seed, stops, rows):
    given = {"max_new_tokens": 12, "seed": seed, "cache": cache, "max_batch_rows": rows, **rule}
    # Small vocabularies end by chance soon, and then a step was begun for nothing.
    given |= {"stop_at_eos": stops, "eos_token_id": list(range(5)) if stops else None}
    same_tokens(opened(twin), prompts, **given)


@pytest.mark.parametrize("cache", ["dual", "prefix", "none"])
def test_counted_steps_are_begun_and_none_in_vain(cache, opened, count):
    """A shape is filled in twice, eagerly and to be captured; of the other steps of a block only the first is, and the one
    behind it where that fills the cache."""
    model = opened(next(twin for twin in CAPTURED if twin.name == "llada"))
    given = {"preset": "llada", "max_new_tokens": 16, "block_length": 8, "cache": cache, "stop_at_eos": False}
    ahead = same_tokens(model, [[1, 2, 3]], **given)
    assert ahead.stats.nfe == 16
    assert model.engine.captured, "steps were begun from eager ones, and none was ever captured"
    assert count.wasted == 0
    assert count.used == (13 if cache == "none" else 11)


def test_a_row_that_ends_in_the_middle_of_a_block_wastes_one_step(opened, count):
    model = opened(next(twin for twin in CAPTURED if twin.name == "llada"))
    given = {"preset": "llada", "max_new_tokens": 48, "block_length": 16, "cache": "none"}
    plain = same_tokens(model, [[1, 2, 3]], **given, stop_at_eos=False)
    assert count.wasted == 0
    # What the second block holds first is made the end, once it is the only thing before its place.
    second = [edit for edit in plain.trajectory[0] if 16 <= edit.step < 32]
    first = next(edit for edit in second if edit.position == 3 + 16)
    count.begun = count.used = 0
    ended = same_tokens(model, [[1, 2, 3]], **given, stop_at_eos=True, eos_token_id=first.token)
    assert ended.stats.nfe < plain.stats.nfe
    assert count.used > 0
    assert count.wasted == int(ended.stats.nfe % 16 > 0)


def test_logits_that_hold_a_nan_name_the_step_that_asked(opened):
    twin = next(twin for twin in CAPTURED if twin.name == "llada")
    model = opened(twin)
    network, calls = model.network, []
    logits = network.logits

    def broken(features):
        calls.append(len(features))
        made = logits(features).clone()
        if len(calls) == 8:
            made[:, 3] = torch.nan
        return made

    given = {"preset": "llada", "max_new_tokens": 8, "cache": "dual", "stop_at_eos": False}
    with pytest.MonkeyPatch.context() as patch, emulated(KERNELS):
        patch.setattr(network, "logits", broken)
        with pytest.raises(InvalidValueError, match=r"the logits of row 0, position \d+, must not hold NaN.*at id 3"):
            dllm_fast.sample(with_engine(model), [[1, 2, 3]], **given)
    assert not any(keys.any() for keys in model.engine._cache.keys), "nothing of the failed run stays"
    assert model.engine.acquire("me"), "and the engine is free again"
    model.engine.release("me")
    model.engine = None
    assert len(calls) >= 8
