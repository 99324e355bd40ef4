"""What is launched stays within the limits of the hardware, however large the arrays are."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import fields

import pytest

from dllm_fast.kernels import launches
from dllm_fast.kernels.laws import Law, kind_for

# Blocks along each side of a grid, threads of a block, and the dynamic shared memory of a block that also the smaller
# architectures have (sm_86, sm_89, sm_120: 99 KB).
GRID, THREADS, SHARED_BYTES = (2**31 - 1, 65_535, 65_535), 1024, 99 * 1024
NO_STRIDES = (0, 0, 0)


def no_buffers(kind):
    return kind(**{field.name: NO_STRIDES if field.name.endswith("strides") else 0 for field in fields(kind)})


def mask_predict():
    for dtype, sites, law in itertools.product(launches.SUFFIXES, (1, 2**20), (Law(), Law(temperature=1.0, top_k=5))):
        buffers, kind = no_buffers(launches.MaskPredictBuffers), kind_for([law], 2**20)
        yield from launches.mask_predict(buffers, dtype=dtype, sites=sites, vocabulary=2**20, stride=2**20, kind=kind)


def commit():
    yield launches.commit(
        no_buffers(launches.CommitBuffers), sites=2**24, rows=2**24, mask_id=0, order="confidence", cut="count"
    )


def attention():
    shapes = (
        {"batch": 2**20, "heads": 128, "key_heads": 128, "queries": 4, "keys": 768},  # many rows of a model without groups
        {"batch": 2, "heads": 256, "key_heads": 1, "queries": 2**20, "keys": 2**20},  # a long canvas, one head of keys
        {"batch": 1, "heads": 64, "key_heads": 64, "queries": 1, "keys": 2**30},  # many keys of few queries
        {"batch": 2**16, "heads": 1, "key_heads": 1, "queries": 1, "keys": 1},
    )
    strides = {f"{name}_strides": NO_STRIDES for name in ("q", "k", "v", "out")}
    for dtype, depth, shape in itertools.product(launches.LAYER_SUFFIXES, launches.HEAD_DIMENSIONS, shapes):
        buffers = no_buffers(launches.AttentionBuffers)
        yield from launches.attention(buffers, dtype=dtype, head_dimension=depth, scale=1.0, **shape, **strides)


def fused_add_norm():
    names = ("stream", "delta", "weight", "stream_out", "out")
    yield launches.fused_add_norm(dtype="float16", **dict.fromkeys(names, 0), rows=2**24, width=2**16, eps=0.0)


def fused_qkv():
    for shape in (
        {"batch": 2**20, "queries": 2**8, "heads": 512, "key_heads": 512},
        {"batch": 1, "queries": 1, "heads": 2**17, "key_heads": 2**14},
    ):
        layer = {"head_dimension": 256, "rotated": 256, "eps": 0.0, "rotates_in_float32": True}
        yield launches.fused_qkv(no_buffers(launches.QkvBuffers), dtype="float16", **shape, **layer)


def fused_swiglu():
    yield launches.fused_swiglu(dtype="float16", gate_up=0, out=0, rows=2**24, inner=2**17)


def loop():
    buffers = no_buffers(launches.LoopBuffers)
    yield from launches.loop(buffers, handle=0, words=2**30, rows=2**24, mask_id=0, end_count=64, least=0)


def quantise_rows():
    yield launches.quantise_rows(rows=0, numbers=0, scales=0, count=2**24, width=2**17)


HUGE = (mask_predict, commit, attention, fused_add_norm, fused_qkv, fused_swiglu, loop, quantise_rows)


@pytest.mark.parametrize("huge", HUGE, ids=lambda huge: huge.__name__)
def test_no_grid_is_beyond_the_hardware(huge):
    for launch in huge():
        assert all(1 <= size <= limit for size, limit in zip(launch.grid, GRID, strict=True)), launch
        assert launch.block[0] * launch.block[1] * launch.block[2] <= THREADS, launch
        assert launch.shared_bytes <= SHARED_BYTES, launch


def test_every_function_that_launches_is_held_to_that():
    found = inspect.getmembers(launches, inspect.isfunction)
    launching = {name for name, function in found if "Launch" in str(function.__annotations__.get("return"))}
    assert launching == {huge.__name__ for huge in HUGE}


def test_the_splits_of_the_keys_depend_on_neither_batch_nor_heads_and_are_few():
    for queries, keys, group in itertools.product((1, 32, 4096), (1, 64, 768, 2**20, 2**30), (1, 8)):
        splits, keys_per_split = launches.attention_splits(queries=queries, keys=keys, group=group)
        assert 1 <= splits <= launches.MAX_SPLITS
        assert keys_per_split % 64 == 0
        assert (splits - 1) * keys_per_split < keys <= splits * keys_per_split
