"""Rows of one step with settings of their own: what the device predicts for each is what the core does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from dllm_fast import SamplerConfig, _core
from dllm_fast.errors import InvalidValueError
from dllm_fast.ops import commit
from dllm_fast.ops import mask_predict as device
from dllm_fast.runners.predictor import Predictor
from dllm_fast.runners.shapes import Inputs, Shape
from emulator import build
from emulator.operations import emulated
from engines import info

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

MASK, VOCABULARY = 9, 4200
FIELDS = ("token", "probability", "top1", "top2", "entropy")
GREEDY = SamplerConfig(mask_token_id=MASK, order="entropy", threshold=0.9)
OTHERS = (
    SamplerConfig(mask_token_id=MASK, temperature=0.7, suppress_tokens=(3, 4100)),
    SamplerConfig(mask_token_id=MASK, temperature=1.0, top_k=50, top_p=0.9),
    SamplerConfig(mask_token_id=MASK, as_published=True),  # whose probabilities are rounded
    SamplerConfig(mask_token_id=MASK, temperature=0.7, suppress_tokens=(3, 4100)),  # equal to one before
)
INFO = info(VOCABULARY, mask_token_id=MASK)


def made():
    sampler = _core.Sampler(GREEDY, [[1, MASK, MASK, MASK]], seed=5)
    for i, config in enumerate(OTHERS):
        assert sampler.add([2, *[MASK] * (i + 2)], config, seed=i) == i + 1
    return sampler, Predictor(sampler, GREEDY)


def logits(n, seed):
    return (torch.randn(n, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3).bfloat16()


def same(ours, core):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(ours, name), getattr(core, name), err_msg=name)


def test_each_row_has_the_settings_that_it_came_with():
    sampler, _ = made()
    assert [sampler.config(row) for row in range(5)] == [GREEDY, *OTHERS]
    assert sampler.config(1) is OTHERS[0]


def test_rows_of_other_settings_are_predicted_as_the_core_predicts_them():
    sampler, predictor = made()
    steps = 0
    while (request := sampler.next()) is not None:
        rows = np.asarray(request.rows)
        scored = logits(sum(map(len, request.positions)), steps)
        with emulated() as launched:
            ours = predictor(scored, rows, None)
        assert launched
        same(ours, sampler.predict(scored, rows=rows))
        sampler.feed(prediction=ours)
        steps += 1
    assert steps > 2
    assert not any((canvas == MASK).any() for canvas in sampler.canvases)


def test_laws_of_a_step_lie_beside_its_sites():
    """As in the buffers of a graph: what is captured is a kind of launches, and the laws are read anew each time."""
    sampler, predictor = made()
    for steps in range(2):
        sampler.next()
        rows = np.array([0, 1, 2, 4])
        with emulated():
            scoring = predictor.embedded(rows, VOCABULARY, INFO)
            assert scoring is not None
            sites = scoring.sites()
            n = len(sites)
            inputs = np.zeros((4, 8), dtype=np.int64)
            step = Inputs(ids=inputs, positions=inputs, end=inputs, slots=None, keys=8, lines=np.arange(n))
            shape = Shape.around(step, None, scoring.laws.kind)
            packed = torch.from_numpy(shape.pack_scoring(scoring, sites, step))
            assert len(packed) == device.packed_bytes(shape.scored, shape.rows)
            scored = logits(shape.scored, steps)
            outcome = device.empty_results(shape.scored, packed.device)
            device.queue(scored, packed, outcome, shape.scored, shape.kind)
        ours = device.results(outcome, n, has_current=False, room=shape.scored)
        same(ours, sampler.predict(scored[:n], rows=rows))
        sampler.feed(scored[:n], rows=rows)
        sampler.feed(logits(sum(map(len, sampler.next().positions)), 9))


def test_rules_and_rounding_of_some_are_the_hosts_business():
    sampler, predictor = made()
    sampler.next()
    with emulated():
        assert predictor.embedded(np.arange(5), VOCABULARY, INFO) is None, "one rounds"
        assert predictor.embedded(np.array([0, 1]), VOCABULARY, INFO).rule is None, "of two rules"
        ours = predictor.embedded(np.array([1, 4]), VOCABULARY, INFO)
    assert isinstance(ours.rule, commit.Rule), "of one"
    assert not ours.laws.kind.is_mixed, "whose rows draw alike"


def test_ids_beyond_the_vocabulary_are_the_cores_to_name():
    sampler, predictor = made()
    sampler.next()
    narrow = logits(3, 0)[:, :4100].contiguous()
    with emulated() as launched:
        predictor(narrow, np.array([0]), None)
        assert launched
        assert predictor.embedded(np.array([1]), 4100, INFO) is None
        predictor(narrow, np.array([0]), None)  # whose law has no such id, whatever those of other rows have
        with pytest.raises(InvalidValueError, match="suppress_tokens must be an id of the vocabulary, got 4100"):
            predictor(narrow[:2], np.array([1]), None)


def test_a_graph_is_made_for_what_is_launched_and_not_for_a_temperature():
    kinds = []
    for temperature in (0.3, 0.7, 1.0, 0.0):
        config = dataclasses.replace(GREEDY, temperature=temperature)
        sampler = _core.Sampler(config, [[1, MASK]])
        sampler.next()
        with emulated():
            kinds.append(Predictor(sampler, config).embedded(np.array([0]), VOCABULARY, INFO).laws.kind)
    assert kinds[0] == kinds[1] != kinds[2] == kinds[3]
