"""What only a GPU can show: the equalities of the kernels, and models on it. Skipped, with the reason, where there is none.

Each test names the kernels that it launches, so that none passes because torch or the core has done the work.
`bench/on_gpu/first.py` runs these beside its own checks.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

import dllm_fast
from bench.on_gpu import correctness, launched
from bench.on_gpu.stage import Stage
from dllm_fast import kernels
from dllm_fast.errors import InvalidValueError
from dllm_fast.ops import launcher
from dllm_fast.runners import caches
from dllm_fast.runners.graphs import Engine
from families import MASK, TWINS

_PROBLEM = kernels.problem()
pytestmark = [
    pytest.mark.skipif(_PROBLEM is not None, reason=": ".join(_PROBLEM or ())),
    # The models are small ones in float32, of which torch does more than of others; that is told.
    pytest.mark.filterwarnings("ignore:dllm_fast leaves part of this model to torch"),
]


@pytest.fixture
def stage(tmp_path):
    return Stage(device=torch.device("cuda"), dry=False, quick=True, deadline=time.perf_counter() + 600, out=tmp_path)


@pytest.mark.parametrize("check", ["mask_prediction", "commit", "attention", "draws", "sampling"])
def test_the_kernels_are_right(check, stage):
    found = getattr(correctness, check)(stage)
    assert found["passed"], found


@pytest.mark.parametrize("cache", ["auto", "dual"])
@pytest.mark.parametrize("name", ["llada", "sdar"])
def test_a_model_on_the_gpu_runs_from_graphs(name, cache, tmp_path):
    folder = next(twin for twin in TWINS if twin.name == name).save(tmp_path)
    given = {"max_new_tokens": 24, "preset": "llada", "cache": cache, "stop_at_eos": False}
    on_gpu = dllm_fast.load(folder, device="cuda")
    kernels_of_a_step = {"dllm_mask_predict_tiles_f32", "dllm_mask_predict_rows_f32", "dllm_commit"}
    with launcher.counted() as counter:
        ours = dllm_fast.sample(on_gpu, [[1, 2, 3], [4]], **given)
    assert counter.keys() == kernels_of_a_step
    assert on_gpu.engine is not None
    assert on_gpu.engine.traceback is None
    assert on_gpu.engine.trouble is None
    assert on_gpu.engine.captured
    for row in ours.new_tokens:
        assert len(row) == 24
        assert MASK not in row
    again = dllm_fast.sample(on_gpu, [[1, 2, 3], [4]], **given)
    assert all(np.array_equal(a, b) for a, b in zip(ours.sequences, again.sequences, strict=True))


def test_steps_begun_ahead_give_the_tokens_of_steps_that_wait(tmp_path, monkeypatch):
    """The same graphs on the same weights, so the logits are the same bits."""
    model = dllm_fast.load(next(twin for twin in TWINS if twin.name == "llada").save(tmp_path), device="cuda")
    given = {"max_new_tokens": 32, "block_length": 16, "preset": "llada", "cache": "dual", "stop_at_eos": False, "seed": 1}
    begun: list[object] = []
    go_on = Engine._go_on
    monkeypatch.setattr(Engine, "_go_on", lambda engine, *args: begun.append(args) or go_on(engine, *args))
    with launcher.counted() as counter:
        ahead = [dllm_fast.sample(model, [[1, 2, 3]], temperature=0.7, **given) for _ in range(3)]
    assert begun
    assert counter["dllm_commit"] >= sum(result.stats.nfe for result in ahead)
    assert model.engine.captured, model.engine.traceback
    monkeypatch.setattr(caches.Dual, "repeats", lambda *_: 0)
    waiting = dllm_fast.sample(model, [[1, 2, 3]], temperature=0.7, **given)
    for result in ahead:
        assert np.array_equal(result.sequences[0], waiting.sequences[0])
        assert result.stats.nfe == waiting.stats.nfe


@pytest.mark.parametrize("name", ["Bert", "Llama", "Qwen3"])
def test_a_model_in_memory_runs_from_graphs(name):
    native_models = pytest.importorskip(
        "native_models", reason="its classes are those of transformers: pip install transformers"
    )
    model = native_models.model_of(name).to("cuda")
    given = {"max_new_tokens": native_models.NEW, "block_length": 8, "stop_at_eos": False}
    first = dllm_fast.sample(model, native_models.PROMPTS, **given)
    again = dllm_fast.sample(model, native_models.PROMPTS, **given)
    assert again.stats.replayed == again.stats.nfe, dllm_fast.explain(model)
    assert all(np.array_equal(a, b) for a, b in zip(first.sequences, again.sequences, strict=True))
    torch.rand(1, device="cuda")  # the generator is not left as in a capture


def test_a_block_as_a_loop_on_the_device_gives_the_same(tmp_path, monkeypatch):
    given = {"max_new_tokens": 32, "block_length": 16, "preset": "llada", "cache": "dual", "stop_at_eos": False, "seed": 1}
    folder = next(twin for twin in TWINS if twin.name == "llada").save(tmp_path)
    model = dllm_fast.load(folder, device="cuda")
    plain = [dllm_fast.sample(model, [[1, 2, 3]], temperature=0.7, **given) for _ in range(2)][-1]
    monkeypatch.setenv("DLLM_FAST_TRY", "while")
    looping = dllm_fast.load(folder, device="cuda")
    looped = [dllm_fast.sample(looping, [[1, 2, 3]], temperature=0.7, **given) for _ in range(2)][-1]
    assert looping.engine is not None
    assert looping.engine.loop_trouble is None, looping.engine.traceback
    assert any(graph.turn is not None for graph in looping.engine._graphs.values())
    assert looped.trajectory == plain.trajectory
    assert looped.stats.nfe == plain.stats.nfe


def test_mask_predict_does_not_wait():
    logits = torch.randn(8, 5000, device="cuda")
    dllm_fast.mask_predict(logits)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with launched.exactly(launched.of_mask_prediction(logits, temperature=0.7)):
            prediction = dllm_fast.mask_predict(logits, temperature=0.7, seed=3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert prediction.token.device == logits.device


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7}, {"temperature": 1.0, "top_k": 3}, {"softcap": 30.0}], ids=str)
def test_a_nan_is_found(settings, dtype):
    logits = torch.zeros(2, 5001, device="cuda", dtype=dtype)
    logits[1, 4500] = torch.nan
    with launched.exactly(launched.of_mask_prediction(logits, **settings)):
        prediction = dllm_fast.mask_predict(logits, **settings)
    with pytest.raises(InvalidValueError, match="row 1 must not hold NaN, got one at id 4500"):
        prediction.cpu()
