"""A run whose predictions come from the emulated kernels writes the tokens that the core's predictions would."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import dllm_fast
from dllm_fast import _core
from dllm_fast.errors import InvalidValueError
from toys import HashTable, presets_of_any_model

from . import build
from .mask_predict import mask_predict

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

MASK, VOCABULARY, SEED = 41, 300, 9
DRAWS = {
    "greedy": {"temperature": 0.0},
    "warm": {"temperature": 1.0},
    "filtered": {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.01},
}


def by_core(sampler, request, matrix, index):
    return sampler.predict(matrix, rows=request.rows, index=index)


def by_kernels(config):
    def predict(sampler, request, matrix, index):
        counts = [len(positions) for positions in request.positions]
        forwards = np.array(sampler.nfe_per_row)[request.rows]
        current = sampler.current(request.rows)
        kernel = mask_predict(
            matrix,
            index=index,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
            suppress=[MASK, *config.suppress_tokens],
            seed=SEED,
            request=np.repeat(request.rows, counts),
            positions=np.concatenate(request.positions),
            step=np.repeat(forwards, counts),
            current=None if current is None else np.maximum(current, 0),
        )
        assert not kernel.status.any()
        fields = {name: getattr(kernel, name) for name in ("token", "probability", "top1", "top2", "entropy")}
        if current is not None:
            fields["current"] = np.where(current < 0, np.nan, kernel.current)
        return _core.Prediction(**fields)

    return predict


def run(config, canvases, model, predict):
    sampler = _core.Sampler(config, canvases, seed=SEED, request=list(range(len(canvases))))
    while (request := sampler.next()) is not None:
        for rows, group, index in request.groups(shift=config.shift):
            assert len(rows) == len(request.rows), "canvases of one length"
            matrix = model(torch.from_numpy(group)).flatten(0, 1).bfloat16()
            sampler.feed(prediction=predict(sampler, request, matrix, index))
    return sampler.canvases


# What rules with a memory want is more than the kernels tell: the core predicts for them (`runners/predictor.py`).
PREDICTED = [name for name, rule in presets_of_any_model().items() if not rule.remembers]


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("preset", PREDICTED)
def test_every_preset_gives_the_same_tokens(preset, draw):
    given = dict(DRAWS[draw])
    if draw == "greedy":
        given["temperature"] = dllm_fast.presets()[preset].temperature
    config = dataclasses.replace(dllm_fast.presets()[preset], mask_token_id=MASK, suppress_tokens=(3, 250), **given)
    rng = np.random.default_rng(0)
    canvases = rng.integers(0, VOCABULARY, (2, 7))
    canvases[:, 3:] = MASK
    model = HashTable(VOCABULARY)
    core = run(config, list(canvases), model, by_core)
    if config.inherit_token and config.temperature > 0:  # writes the most probable token, which the kernels do not tell
        with pytest.raises(InvalidValueError, match="needs the most probable token"):
            run(config, list(canvases), model, by_kernels(config))
        return
    kernels = run(config, list(canvases), model, by_kernels(config))
    for a, b in zip(core, kernels, strict=True):
        assert (a != MASK).all()
        np.testing.assert_array_equal(a, b)
