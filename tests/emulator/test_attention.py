"""The attention kernel against float64, with plain torch in bfloat16 as the measure of what may be lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import strategies
from dllm_fast import launches

from . import build
from .attention import attention, plain

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))


def tensors(rng, *, batch, heads, key_heads, queries, keys, depth):
    """Queries, keys and values; keys and values are a stretch of slots of a larger cache, and the slots around hold NaN."""
    q = torch.from_numpy(rng.normal(size=(batch, queries, heads, depth))).bfloat16().transpose(1, 2)
    around = torch.full((2, batch, keys + 11, key_heads, depth), torch.nan, dtype=torch.bfloat16)
    around[:, :, 3 : 3 + keys] = torch.from_numpy(rng.normal(size=(2, batch, keys, key_heads, depth))).bfloat16()
    k, v = around[:, :, 3 : 3 + keys].transpose(2, 3)
    return q, k, v


def ranges(rng, batch, queries, keys, kind):
    shape = (batch, queries)
    if kind == "all":
        return np.zeros(shape, int), np.full(shape, keys)
    if kind == "block-causal":
        end = np.minimum(keys, (np.arange(queries) // 4 + 1) * 4 + keys // 2)
        return np.zeros(shape, int), np.broadcast_to(end, shape)
    if kind == "padded":
        begin = np.broadcast_to(rng.integers(0, keys, batch)[:, None], shape)
        return begin, np.broadcast_to(rng.integers(begin[:, 0], keys + 1)[:, None], shape)
    begin = rng.integers(0, keys, shape)  # any, also empty, also a single key
    return begin, np.minimum(keys, begin + rng.integers(0, keys + 1, shape) * (rng.random(shape) < 0.8))


def assert_is_accurate(q, k, v, begin, end, *, order=0):
    scale = q.shape[3] ** -0.5
    ours = attention(q, k, v, begin, end, scale=scale, order=order)
    exact = plain(q.double(), k.double(), v.double(), begin, end, scale=scale)
    torchs = plain(q, k, v, begin, end, scale=scale)
    assert not ours.isnan().any()
    size = exact.norm() + 1e-30
    assert (ours.double() - exact).norm() / size <= 2 * (torchs.double() - exact).norm() / size
    is_empty = torch.from_numpy(np.ascontiguousarray(begin >= end))
    assert (ours.transpose(1, 2)[is_empty] == 0).all()


@st.composite
def shapes(draw):
    key_heads = draw(st.sampled_from([1, 2]))
    return {
        "batch": draw(st.integers(1, 2)),
        "heads": key_heads * draw(st.sampled_from([1, 2, 3, 7])),
        "key_heads": key_heads,
        "queries": draw(st.sampled_from([1, 4, 5, 8, 31, 32, 33])),
        "keys": draw(st.one_of(st.sampled_from([1, 63, 64, 65, 128, 129]), st.integers(1, 300))),
        "depth": draw(st.sampled_from([64, 128, 256])),
    }


@settings(max_examples=20)
@given(shapes(), strategies.generators, st.sampled_from(["all", "block-causal", "padded", "any"]), st.integers(0, 5))
def test_it_loses_no_more_than_twice_what_torch_loses(shape, rng, kind, order):
    q, k, v = tensors(rng, **shape)
    begin, end = ranges(rng, shape["batch"], shape["queries"], shape["keys"], kind)
    assert_is_accurate(q, k, v, begin, end, order=order)


@pytest.mark.parametrize("depth", [64, 128, 256])
@pytest.mark.parametrize(("queries", "group"), [(4, 8), (32, 1), (40, 2)])
def test_every_kernel_over_several_splits(depth, queries, group):
    rng = np.random.default_rng(0)
    shape = {"batch": 1, "heads": group, "key_heads": 1, "queries": queries, "keys": 500, "depth": depth}
    assert launches.attention_splits(queries=queries, keys=500, group=group)[0] > 1
    begin, end = ranges(rng, 1, queries, 500, "block-causal")
    assert_is_accurate(*tensors(rng, **shape), begin, end, order=2)


def test_a_row_depends_on_nothing_but_itself():
    """Neither on the batch, nor on the other heads, nor on what the other queries of its block see."""
    rng = np.random.default_rng(1)
    q, k, v = tensors(rng, batch=3, heads=4, key_heads=2, queries=8, keys=300, depth=64)
    begin, end = ranges(rng, 3, 8, 300, "any")
    scale = 0.125
    together = attention(q, k, v, begin, end, scale=scale)
    for b in range(3):
        alone = attention(q[b : b + 1], k[b : b + 1], v[b : b + 1], begin[b : b + 1], end[b : b + 1], scale=scale)
        assert torch.equal(alone[0], together[b])
    begin[:, 1:] = 0
    end[:, 1:] = 300
    assert torch.equal(attention(q, k, v, begin, end, scale=scale)[:, :, 0], together[:, :, 0])


def test_the_order_of_the_threads_changes_nothing():
    """Over many steps of one split, so that the stages of the ring are filled again and again."""
    rng = np.random.default_rng(5)
    q, k, v = tensors(rng, batch=1, heads=4, key_heads=1, queries=64, keys=500, depth=64)
    begin, end = ranges(rng, 1, 64, 500, "block-causal")
    assert launches.attention_splits(queries=64, keys=500, group=4)[0] == 1
    assert_is_accurate(q, k, v, begin, end)
    outs = [attention(q, k, v, begin, end, scale=0.125, order=order) for order in range(6)]
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_a_single_key_gives_its_value():
    rng = np.random.default_rng(2)
    q, k, v = tensors(rng, batch=1, heads=2, key_heads=1, queries=3, keys=200, depth=64)
    out = attention(q, k, v, np.array([[0, 70, 199]]), np.array([[1, 71, 200]]), scale=1.0)
    assert torch.equal(out, v[:, :, [0, 70, 199]].expand(1, 2, 3, 64))


def test_large_scores_neither_overflow_nor_vanish():
    rng = np.random.default_rng(3)
    q, k, v = tensors(rng, batch=1, heads=1, key_heads=1, queries=4, keys=130, depth=64)
    begin, end = ranges(rng, 1, 4, 130, "all")
    assert_is_accurate(q * 100, k, v, begin, end)
    assert_is_accurate(q * 0, k, v, begin, end)


@pytest.mark.parametrize(
    ("planted", "text", "replacement"),
    [
        ("a wait that is one group short", "async_copy_wait<1>();", "async_copy_wait<2>();"),
        (
            "no barrier before a stage is overwritten",
            "        __syncthreads();  // the stage is read",
            "        // the stage is read",
        ),
    ],
)
def test_planted_bugs_are_seen(planted, text, replacement):
    source = build.KERNELS / "attention.cu"
    code = source.read_text(encoding="utf-8")
    assert code.count(text) == 1
    library = build.library(source, text=code.replace(text, replacement))
    rng = np.random.default_rng(4)
    q, k, v = tensors(rng, batch=1, heads=4, key_heads=1, queries=64, keys=700, depth=64)
    begin, end = ranges(rng, 1, 64, 700, "all")
    right = attention(q, k, v, begin, end, scale=0.125)
    wrong = [attention(q, k, v, begin, end, scale=0.125, order=order, library=library) for order in range(4)]
    assert any(not torch.equal(out, right) for out in wrong), planted
