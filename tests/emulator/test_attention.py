"""The attention kernels against float64, with plain torch in their dtype as the measure of what may be lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import strategies
from dllm_fast.kernels import launches

from . import build
from .attention import attention, plain
from .launch import EmulatorError

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))


DTYPES = (torch.bfloat16, torch.float16)


def tensors(rng, *, batch, heads, key_heads, queries, keys, depth, dtype=torch.bfloat16):
    """Queries, keys and values; keys and values are a stretch of slots of a larger cache, and the slots around hold NaN."""
    q = torch.from_numpy(rng.normal(size=(batch, queries, heads, depth))).to(dtype).transpose(1, 2)
    around = torch.full((2, batch, keys + 11, key_heads, depth), torch.nan, dtype=dtype)
    around[:, :, 3 : 3 + keys] = torch.from_numpy(rng.normal(size=(2, batch, keys, key_heads, depth))).to(dtype)
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
        "depth": draw(st.sampled_from(launches.HEAD_DIMENSIONS)),
        "dtype": draw(st.sampled_from(DTYPES)),
    }


@settings(max_examples=30)
@given(shapes(), strategies.generators, st.sampled_from(["all", "block-causal", "padded", "any"]), st.integers(0, 5))
def test_it_loses_no_more_than_twice_what_torch_loses(shape, rng, kind, order):
    q, k, v = tensors(rng, **shape)
    begin, end = ranges(rng, shape["batch"], shape["queries"], shape["keys"], kind)
    assert_is_accurate(q, k, v, begin, end, order=order)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", launches.HEAD_DIMENSIONS)
@pytest.mark.parametrize(("queries", "group"), [(4, 8), (40, 2)])
def test_every_kernel_over_several_splits(depth, dtype, queries, group):
    rng = np.random.default_rng(0)
    shape = {"batch": 1, "heads": group, "key_heads": 1, "queries": queries, "keys": 500, "depth": depth, "dtype": dtype}
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


def gaps(rng, shape):
    """A stretch of keys for each query, some empty, and none that touches another: what lies between is seen by nobody."""
    lines = []
    for _ in range(shape["batch"]):
        queries = shape["queries"]
        edges = np.sort(rng.choice(shape["keys"] + 1, 2 * queries, replace=2 * queries > shape["keys"]))
        lines.append(rng.permutation(edges.reshape(queries, 2)))
    return np.array(lines)[:, :, 0], np.array(lines)[:, :, 1]


@settings(max_examples=30)
@given(shapes(), strategies.generators, st.integers(0, 5))
def test_what_lies_between_ranges_is_not_touched(shape, rng, order):
    """A NaN that no query sees changes no bit of any."""
    q, k, v = tensors(rng, **shape)
    begin, end = gaps(rng, shape)
    scale = shape["depth"] ** -0.5
    clean = attention(q, k, v, begin, end, scale=scale, order=order)
    places = np.arange(shape["keys"])
    is_seen = (begin[:, :, None] <= places) & (places < end[:, :, None])
    unseen = torch.from_numpy(~is_seen.any(axis=1))[:, None, :, None]
    k, v = k.masked_fill(unseen, torch.nan), v.masked_fill(unseen, torch.nan)
    assert torch.equal(attention(q, k, v, begin, end, scale=scale, order=order), clean)
    assert_is_accurate(q, k, v, begin, end, order=order)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", launches.HEAD_DIMENSIONS)
@pytest.mark.parametrize("queries", [6, 40])
@pytest.mark.parametrize("keys", [120, 700])
def test_a_gap_in_every_kernel(depth, dtype, queries, keys):
    """One split and several, 32 rows and 64: two ranges with NaN before, between and behind, also across steps and splits."""
    rng = np.random.default_rng(queries)
    q, k, v = tensors(rng, batch=1, heads=1, key_heads=1, queries=queries, keys=keys, depth=depth, dtype=dtype)
    is_late = np.arange(queries) % 3 == 0
    begin, end = np.where(is_late, keys - 30, 7)[None], np.where(is_late, keys - 1, 40)[None]
    for x in (k, v):
        x[:, :, :7] = x[:, :, 40 : keys - 30] = x[:, :, keys - 1 :] = torch.nan
    assert_is_accurate(q, k, v, begin, end)


def test_float16_takes_what_overflows_in_it_on_the_way():
    """Scores of up to 2^40 and a mean of the largest values; a key of weight 0 beside."""
    q = torch.full((1, 1, 1, 64), 60000.0).half()
    k = torch.tensor([60000.0, 60000.0, -60000.0]).half()[:, None].expand(1, 1, 3, 64).contiguous()
    v = torch.tensor([65504.0, 65504.0, -1.0]).half()[:, None].expand(1, 1, 3, 64).contiguous()
    out = attention(q, k, v, np.array([[0]]), np.array([[3]]), scale=1.0)
    assert (out == 65504.0).all()


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


def planted(depth, text, replacement):
    """The kernels of one head size with a bug."""
    source = build.KERNELS / "attention.cu"
    code = source.read_text(encoding="utf-8")
    assert code.count(text) == 1
    part = f"#define DLLM_ONE 1\n#define DLLM_ONE_BF16_D{depth} 1\n"
    return build.library(source, text=part + code.replace(text, replacement))


@pytest.mark.parametrize(
    ("bug", "text", "replacement"),
    [
        ("a wait that is one group short", "async_copy_wait<1>();", "async_copy_wait<2>();"),
        (
            "no barrier before a stage is overwritten",
            "        __syncthreads();  // the stage is read",
            "        // the stage is read",
        ),
    ],
)
def test_planted_bugs_are_seen(bug, text, replacement):
    library = planted(64, text, replacement)
    rng = np.random.default_rng(4)
    q, k, v = tensors(rng, batch=1, heads=4, key_heads=1, queries=64, keys=700, depth=64)
    begin, end = ranges(rng, 1, 64, 700, "all")
    right = attention(q, k, v, begin, end, scale=0.125)
    wrong = [attention(q, k, v, begin, end, scale=0.125, order=order, library=library) for order in range(4)]
    assert any(not torch.equal(out, right) for out in wrong), bug


@pytest.mark.parametrize(
    ("bug", "text", "replacement"),
    [
        ("keys between ranges are read", "seen &= by_block;", ""),
        (
            "no barrier between who says what its rows see and who reads that",
            "            __syncthreads();\n            uint64_t by",
            "            uint64_t by",
        ),
        ("one warp speaks for all", "w < THREADS / WARP", "w < 1"),
    ],
)
def test_planted_bugs_between_ranges_are_seen(bug, text, replacement):
    library = planted(64, text, replacement)
    q, k, v = tensors(np.random.default_rng(4), batch=1, heads=1, key_heads=1, queries=64, keys=120, depth=64)
    is_late = np.arange(64) >= 32
    begin, end = np.where(is_late, 100, 3)[None], np.where(is_late, 110, 20)[None]
    k[:, :, 20:100], v[:, :, 20:100] = torch.nan, torch.nan
    right = attention(q, k, v, begin, end, scale=0.125)
    assert not right.isnan().any()
    wrong = [attention(q, k, v, begin, end, scale=0.125, order=order, library=library) for order in range(4)]
    assert any(not torch.equal(out, right) for out in wrong), bug


@pytest.mark.parametrize("depth", [80, 96])
def test_rows_that_meet_in_the_same_banks_are_seen(depth):
    library = planted(depth, "(chunk ^ ((row >> SHIFT) & (W - 1)))", "chunk")
    q, k, v = tensors(np.random.default_rng(4), batch=1, heads=1, key_heads=1, queries=1, keys=1, depth=depth)
    with pytest.raises(EmulatorError, match="same banks"):
        attention(q, k, v, np.array([[0]]), np.array([[1]]), scale=1.0, library=library)
