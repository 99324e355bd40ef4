"""`torch.ops.dllm_fast.attention` on a CPU: its meaning, what it refuses, and the way to its kernels, run by the emulator."""

from __future__ import annotations

import pytest
import torch

from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.ops.attention import attention, by_kernel, lacks
from emulator import build
from emulator.attention import plain
from emulator.launch import run


def inputs(*, batch=2, heads=4, key_heads=2, queries=5, keys=70, depth=64, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(batch, heads, queries, depth, generator=generator).to(dtype)
    k, v = torch.randn(2, batch, key_heads, keys, depth, generator=generator).to(dtype)
    begin = torch.randint(0, keys, (batch, queries), generator=generator).int()
    end = torch.randint(0, keys + 9, (batch, queries), generator=generator).int()
    begin[0, 0], end[0, 0] = 9, 9
    return q, k, v, begin, end


def test_it_is_softmax_attention_over_ranges():
    q, k, v, begin, end = inputs()
    out = attention(q, k, v, begin, end, 0.125)
    exact = plain(q.double(), k.double(), v.double(), begin, end, scale=0.125)
    assert torch.allclose(out.double(), exact, rtol=1e-5, atol=1e-6)
    assert (out[0, :, 0] == 0).all()


def test_what_nobody_sees_may_be_nan():
    q, k, v, _, _ = inputs()
    k[:, :, 40:], v[:, :, 40:] = torch.nan, torch.inf
    begin, end = torch.zeros(2, 5, dtype=torch.int32), torch.full((2, 5), 40, dtype=torch.int32)
    expected = attention(q, k[:, :, :40], v[:, :, :40], begin, end, 0.125)
    assert torch.allclose(attention(q, k, v, begin, end, 0.125), expected, atol=1e-6)


def test_torch_can_trace_it():
    given = (*inputs(), 0.125)
    torch.library.opcheck(torch.ops.dllm_fast.attention.default, given, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))
@pytest.mark.parametrize(("keys", "dtype", "depth"), [(70, torch.bfloat16, 64), (500, torch.float16, 80)])
def test_the_way_to_the_kernels(keys, dtype, depth):
    q, k, v, begin, end = inputs(keys=keys, dtype=dtype, depth=depth)
    assert lacks(q, k, v) is None
    out = by_kernel(q, k, v, begin, end, 0.125, lambda given: [run(launch) for launch in given])
    exact = plain(q.double(), k.double(), v.double(), begin, end.clamp(max=keys), scale=0.125)
    assert (out.double() - exact).norm() < 0.01 * exact.norm()
    assert out.stride() == torch.ops.dllm_fast.attention(*(x.to("meta") for x in (q, k, v, begin, end)), 0.125).stride()


def test_what_does_not_fit_the_kernel_is_left_to_torch_for_a_reason():
    q, k, v, *_ = inputs(dtype=torch.bfloat16)
    assert "take bfloat16 and float16, got float32" in lacks(q.float(), k.float(), v.float())
    assert "take heads of 64, 80, 96, 128, 192 and 256 numbers, got 72" in lacks(*inputs(depth=72, dtype=torch.bfloat16)[:3])
    assert "multiples of 16 bytes" in lacks(q.transpose(2, 3).contiguous().transpose(2, 3), k, v)
    shifted = torch.empty(k.numel() + 1, dtype=k.dtype)[1:].view(k.shape)
    assert "multiples of 16 bytes" in lacks(q, shifted, v)


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"queries": 0}, {"heads": 0}])
def test_nothing_to_do(sizes):
    sizes = {"batch": 2, "queries": 5, "heads": 4} | sizes
    q = torch.zeros(sizes["batch"], sizes["heads"], sizes["queries"], 64)
    k, v = torch.zeros(2, sizes["batch"], 2, 7, 64)
    ranges = torch.zeros(sizes["batch"], sizes["queries"], dtype=torch.int32)
    assert attention(q, k, v, ranges, ranges, 1.0).shape == q.shape
    assert by_kernel(q.bfloat16(), k.bfloat16(), v.bfloat16(), ranges, ranges, 1.0, list).shape == q.shape


def test_what_has_no_meaning_is_refused():
    q, k, v, begin, end = inputs()
    for bad, words in (
        ((q, k[:, :, :, :32], v, begin, end), r"\[B, Hk, Lk, D\]"),
        ((q[:, :3], k, v, begin, end), "multiple of the key heads, got 3 and 2"),
        ((q, k, v, begin[:, :4], end), r"begin must be \[B, Lq\] = \[2, 5\], got \[2, 4\]"),
        ((q, k, v, begin, end[:1]), r"end must be"),
    ):
        with pytest.raises(InvalidValueError, match=words):
            attention(*bad, 0.125)
    for bad, words in (
        ((q, k, v, begin.long(), end), r"begin must be int32, got torch.int64"),
        ((q, k.half(), v.half(), begin, end), "share a floating dtype"),
    ):
        with pytest.raises(InvalidTypeError, match=words):
            attention(*bad, 0.125)
