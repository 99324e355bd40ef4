"""The elementwise kernels against the layers of the decoder: equal where every operation is rounded once, else against float64
with torch in the same dtype as the measure of what may be lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

import strategies
from dllm_fast.kernels import launches
from dllm_fast.networks.decoder import RMSNorm
from dllm_fast.networks.rotary import rotate

from . import build
from .launch import run

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

EPS = 1e-6
orders = st.integers(0, 5)


dtypes = st.sampled_from(["bfloat16", "float16"])


def normal(rng, dtype, *shape, scale=1.0):
    return torch.from_numpy(rng.normal(0, scale, shape)).to(getattr(torch, dtype))


def rms_norm(x, weight, eps=EPS):
    norm = RMSNorm(len(weight), eps)
    norm.weight.data = weight
    return norm(x).detach()


def exact_norm(x, weight, eps=EPS):
    x = x.double()
    return weight.double() * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def assert_loses_little(ours, torchs, exact):
    assert not ours.isnan().any()
    assert (ours.double() - exact).norm() <= 2 * (torchs.double() - exact).norm() + 1e-30


widths = st.integers(1, 70).map(lambda n: 8 * n) | st.sampled_from([2048, 4096, 6144, 6152, 8200])


@given(strategies.generators, dtypes, st.tuples(st.integers(1, 3), widths), st.booleans(), orders)
def test_sum_and_norm(rng, dtype, shape, adds, order):
    rows, width = shape
    scale = 10.0 ** rng.integers(-3, 4)
    stream, delta = normal(rng, dtype, rows, width, scale=scale), normal(rng, dtype, rows, width)
    weight = normal(rng, dtype, width)
    out, summed = torch.full_like(stream, torch.nan), stream.clone()
    launch = launches.fused_add_norm(
        dtype=dtype,
        stream=summed.data_ptr(),
        delta=delta.data_ptr() if adds else 0,
        weight=weight.data_ptr(),
        stream_out=summed.data_ptr(),  # in place
        out=out.data_ptr(),
        rows=rows,
        width=width,
        eps=EPS,
    )
    run(launch, order=order)
    expected = stream + delta if adds else stream
    assert torch.equal(summed, expected)
    assert_loses_little(out, rms_norm(expected, weight), exact_norm(expected, weight))


def qkv(rng, *, dtype, batch, queries, heads, key_heads, depth, rotated, norms, wide, order, library=None):
    """Runs the kernel; returns what went in, the queries `[B, H, Lq, D]`, and the caches with their slots."""
    projected = normal(rng, dtype, batch, queries, heads + 2 * key_heads, depth)
    weights = [normal(rng, dtype, depth) for _ in range(2)] if norms else None
    half = torch.from_numpy(rng.uniform(0, 6.3, (batch, 1, queries, rotated // 2))).float()
    angles = torch.cat((half.cos(), half.sin()), -1)
    length = queries + 5
    slots = torch.stack([torch.from_numpy(rng.permutation(length)[:queries]) for _ in range(batch)]).int()
    slots[0, 0] = rng.choice([-1, length, 2**31 - 1])  # no slot: a token that is not kept
    q = torch.full((batch, queries, heads, depth), torch.nan, dtype=projected.dtype)
    keys = torch.full((batch, length, key_heads, depth), -7.0, dtype=projected.dtype).transpose(1, 2)
    values = torch.full((batch, key_heads, length, depth), -7.0, dtype=projected.dtype)
    buffers = launches.QkvBuffers(
        projected=projected.data_ptr(),
        q_weight=weights[0].data_ptr() if weights else 0,
        k_weight=weights[1].data_ptr() if weights else 0,
        angles=angles.data_ptr(),
        slots=slots.data_ptr(),
        q=q.data_ptr(),
        slot_count=length,
        keys=keys.data_ptr(),
        keys_strides=keys.stride()[:3],
        values=values.data_ptr(),
        values_strides=values.stride()[:3],
    )
    launch = launches.fused_qkv(
        buffers,
        dtype=dtype,
        batch=batch,
        queries=queries,
        heads=heads,
        key_heads=key_heads,
        head_dimension=depth,
        rotated=rotated,
        eps=EPS,
        rotates_in_float32=wide,
    )
    run(launch, order=order, library=library)
    parts = projected.transpose(1, 2).split((heads, key_heads, key_heads), dim=1)
    return parts, weights, angles.chunk(2, -1), slots, q.transpose(1, 2), keys, values


def kept(cache, slots):
    """What a cache holds for the tokens, and whether all other slots are as they were."""
    b = torch.arange(len(slots))[:, None].expand_as(slots)
    is_kept = (slots >= 0) & (slots < cache.shape[2])
    held = cache[b, :, slots.clamp(0, cache.shape[2] - 1)].transpose(1, 2)
    untouched = torch.ones(len(slots), cache.shape[2], dtype=torch.bool)
    untouched[b[is_kept], slots[is_kept].long()] = False
    assert (cache.transpose(1, 2)[untouched] == -7).all()
    return held, is_kept[:, None, :, None]


@st.composite
def layers(draw):
    depth = draw(st.sampled_from([8, 72, *launches.HEAD_DIMENSIONS]))
    return {
        "dtype": draw(dtypes),
        "batch": draw(st.integers(1, 2)),
        "queries": draw(st.integers(1, 5)),
        "heads": draw(st.integers(1, 5)),
        "key_heads": draw(st.integers(1, 2)),
        "depth": depth,
        "rotated": draw(st.sampled_from([depth, depth // 2, 2, depth - 2])),
        "wide": draw(st.booleans()),
        "order": draw(orders),
    }


@given(strategies.generators, layers())
def test_rotated_queries_and_keys_equal_torch(rng, layer):
    (query, key, value), _, angles, slots, q, keys, values = qkv(rng, norms=False, **layer)
    if not layer["wide"]:
        angles = tuple(angle.to(q.dtype) for angle in angles)
    assert torch.equal(q, rotate(query, *angles))
    for cache, expected in ((keys, rotate(key, *angles)), (values, value)):
        held, is_kept = kept(cache, slots)
        assert torch.equal(torch.where(is_kept, held, 0), torch.where(is_kept, expected, 0))


@given(strategies.generators, layers())
def test_normed_queries_and_keys(rng, layer):
    (query, key, _), weights, angles, slots, q, keys, _ = qkv(rng, norms=True, **layer)
    rounded_angles = angles if layer["wide"] else tuple(angle.to(q.dtype) for angle in angles)
    held, is_kept = kept(keys, slots)
    for ours, given_, weight in ((q, query, weights[0]), (held, key, weights[1])):
        torchs = rotate(rms_norm(given_, weight), *rounded_angles)
        exact = rotate(exact_norm(given_, weight), *(angle.double() for angle in angles))
        mask = is_kept if ours is held else torch.ones(())
        assert_loses_little(*(torch.where(mask.bool(), x, 0) for x in (ours, torchs, exact)))


@pytest.mark.parametrize(
    ("bug", "rotated", "text", "replacement"),
    [
        ("partners are read before they are written", 36, "        __syncwarp();\n", ""),
        (
            "partners are taken from the wrong side",
            32,
            "is_first ? lane + half / 8 : lane - half / 8",
            "is_first ? lane - half / 8 : lane + half / 8",
        ),
    ],
)
def test_planted_bugs_are_seen(bug, rotated, text, replacement):
    source = build.KERNELS / "fused.cu"
    code = source.read_text(encoding="utf-8")
    assert code.count(text) == 1
    library = build.library(source, text="#define DLLM_ONE 1\n#define DLLM_ONE_BF16 1\n" + code.replace(text, replacement))
    layer = {"dtype": "bfloat16", "batch": 1, "queries": 1, "heads": 2, "key_heads": 1, "depth": 64, "rotated": rotated}
    layer |= {"norms": False, "wide": True}
    turned = [
        qkv(np.random.default_rng(0), order=order, library=one, **layer)[4] for order in range(4) for one in (None, library)
    ]
    assert any(not torch.equal(right, wrong) for right, wrong in zip(turned[::2], turned[1::2], strict=True)), bug


@given(strategies.generators, dtypes, st.integers(1, 4), st.integers(1, 80).map(lambda n: 8 * n), orders)
def test_swiglu(rng, dtype, rows, inner, order):
    gate_up = normal(rng, dtype, rows, 2 * inner, scale=4.0)
    gate_up[0, :2] = torch.tensor([torch.inf, -300.0])
    gate_up[0, inner] = 1.0
    out = torch.full((rows, inner), torch.nan, dtype=gate_up.dtype)
    launch = launches.fused_swiglu(dtype=dtype, gate_up=gate_up.data_ptr(), out=out.data_ptr(), rows=rows, inner=inner)
    run(launch, order=order)
    gate, up = gate_up.chunk(2, dim=-1)
    torchs = F.silu(gate) * up
    assert out[0, 0] == torch.inf
    finite = torch.isfinite(torchs)
    exact = F.silu(gate.double()) * up.double()
    assert_loses_little(out[finite], torchs[finite], exact[finite])
