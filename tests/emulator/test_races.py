"""No kernel has a hazard in shared memory, whatever the order of the threads: each runs in a library that watches for them.

This is what compute-sanitizer's racecheck looks for on a GPU, which counts a hazard also where the numbers come out right.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

import strategies
from dllm_fast.kernels import launches

from . import build, test_attention, test_commit, test_fused, test_loop, test_quantise
from .attention import attention
from .launch import EmulatorError, run
from .mask_predict import mask_predict
from .test_emulator import SAMPLES

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

ORDERS = (0, 1, 2)
FILTERS = (
    {},
    {"temperature": 0.7},
    {"temperature": 1.0, "top_k": 3, "top_p": 0.9, "min_p": 0.01},
    {"temperature": 5.0, "top_k": 700},
)


def sample(kernel, *, threads, order=0):
    given, out = np.arange(256, dtype=np.int32), np.zeros(256, dtype=np.int32)
    arguments = (ctypes.c_void_p(given.ctypes.data), ctypes.c_void_p(out.ctypes.data))
    run(launches.Launch("samples", kernel, (2, 1, 1), (threads, 1, 1), arguments), order=order, library=build.watched(SAMPLES))
    return out.tolist()


@pytest.mark.parametrize("order", ORDERS)
def test_what_waits_is_no_hazard(order):
    rising = list(range(256))
    assert sample("mirrored", threads=256, order=order) == rising[::-1]
    assert sample("neighbours", threads=256, order=order) == [i ^ 1 for i in rising]
    assert sample("added", threads=256, order=order) == [sum(rising)] * 256
    assert sample("copies_of_others", threads=32, order=order)[:128] == rising[127::-1]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("kernel", "threads"),
    [
        ("planted_missing_barrier", 256),
        ("planted_missing_syncwarp", 32),
        ("planted_plain_addition", 256),
        ("planted_same_value", 64),
        ("planted_late_wait", 32),
    ],
)
def test_planted_hazards_are_seen(kernel, threads, order):
    with pytest.raises(EmulatorError, match=r"byte \d+ of shared memory without waiting for"):
        sample(kernel, threads=threads, order=order)


@pytest.fixture
def watched(monkeypatch):
    """Kernels run in libraries that watch."""
    monkeypatch.setattr(build, "library", build.watched)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("dtype", strategies.DTYPES)
@pytest.mark.parametrize(("vocabulary", "offset"), [(1, 0), (7, 3), (4096, 0), (4097, 1), (9001, 0)])
def test_mask_prediction(dtype, vocabulary, offset):
    x = np.random.default_rng(0).normal(0, 3, (3, vocabulary + 8))
    x[2, :: max(1, vocabulary // 3)] = 7.0
    rows = strategies.as_dtype(x, dtype)[:, offset : offset + vocabulary]
    for i, settings in enumerate(FILTERS):
        suppress = [vocabulary - 1] if vocabulary > 1 and i % 2 == 0 else ()
        softcap = 30.0 if i == 3 else None
        prediction = mask_predict(rows, current=[0, 0, 0], suppress=suppress, softcap=softcap, order=i, **settings)
        assert prediction.status.tolist() == [0, 0, 0]


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_mask_prediction_of_rows_that_are_not_finite(value):
    rows = np.random.default_rng(0).normal(0, 3, (2, 5000)).astype(np.float32)
    rows[:, [7, 4500]] = value
    for settings in FILTERS:
        mask_predict(rows, current=[0, 0], **settings)


def attention_over_several_steps(depth, dtype, library=None):
    """Every query sees every key, so the barriers of gaps are not there; both stages are filled twice."""
    queries, keys = 70, 256
    rng = np.random.default_rng(0)
    q, k, v = test_attention.tensors(rng, batch=1, heads=1, key_heads=1, queries=queries, keys=keys, depth=depth, dtype=dtype)
    begin, end = np.zeros((1, queries)), np.full((1, queries), keys)
    attention(q, k, v, begin, end, scale=0.1, library=library)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("depth", launches.HEAD_DIMENSIONS)
def test_every_attention(dtype, depth):
    for queries, keys in ((6, 300), (40, 120)):
        test_attention.test_a_gap_in_every_kernel(depth, dtype, queries, keys)
    attention_over_several_steps(depth, dtype)


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        ("        __syncthreads();  // the stage is read", "        // the stage is read"),
        ("async_copy_wait<1>();\n        __syncthreads();", "async_copy_wait<1>();"),
    ],
    ids=["behind a step", "before a step"],
)
def test_a_missing_barrier_of_the_attention_is_seen(text, replacement):
    source = build.KERNELS / "attention.cu"
    code = source.read_text(encoding="utf-8")
    assert code.count(text) == 1
    part = "#define DLLM_ONE 1\n#define DLLM_ONE_BF16_D64 1\n"
    library = build.watched(source, text=part + code.replace(text, replacement))
    with pytest.raises(EmulatorError, match="without waiting for"):
        attention_over_several_steps(64, torch.bfloat16, library)


@pytest.mark.usefixtures("watched")
def test_kernels_of_a_layer():
    rng = np.random.default_rng(0)
    layer = {"batch": 1, "queries": 3, "heads": 3, "key_heads": 2, "depth": 80, "rotated": 64, "norms": True}
    for order, dtype in enumerate(("bfloat16", "float16")):
        test_fused.test_sum_and_norm.hypothesis.inner_test(rng, dtype, (2, 2056), True, order)
        test_fused.qkv(rng, dtype=dtype, wide=order == 1, order=order, **layer)
        test_fused.test_swiglu.hypothesis.inner_test(rng, dtype, 2, 24, order)
    test_quantise.test_the_bits_of_torch.hypothesis.inner_test(rng, 2, 4104, 0, 1)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("cut", [{}, {"threshold": 0.5}, {"factor": 30.0}, {"entropy_bound": 200.0}], ids=str)
def test_commit_and_the_end_of_a_step(cut):
    settings = {"order": "margin", "min_commit": 30, **cut}
    canvases = np.full((2, 300), test_commit.MASK)
    test_commit.run_beside_the_sampler(np.random.default_rng(0), canvases, settings, thread_order=3, seed=1)
    test_loop.end_of_step(**test_loop.PLAIN)
