"""Rows in 8 bits by the kernel: the bits of the same in torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import strategies
from dllm_fast.kernels import launches
from dllm_fast.networks.quantise import Fp8Linear, store
from dllm_fast.ops.quantise import E4M3, quantised

from . import build
from .launch import run
from .operations import emulated

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

widths = st.integers(1, 40).map(lambda n: 8 * n) | st.just(2056)


def kernel(rows: torch.Tensor, order: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    numbers, scale = torch.full(rows.shape, 0x7F, dtype=torch.uint8), torch.full((len(rows), 1), torch.nan)
    launch = launches.quantise_rows(
        rows=rows.data_ptr(), numbers=numbers.data_ptr(), scales=scale.data_ptr(), count=len(rows), width=rows.shape[1]
    )
    run(launch, order=order)
    return numbers, scale


@given(strategies.generators, st.integers(1, 2), widths, st.integers(-12, 12), st.integers(0, 5))
def test_the_bits_of_torch(rng, count, width, exponent, order):
    rows = torch.from_numpy(rng.normal(0, 10.0**exponent, (count, width)) * rng.lognormal(0, 3, (count, width))).bfloat16()
    rows[:, 0] = 0
    numbers, scale = kernel(rows, order)
    wanted, its = quantised(rows)
    assert torch.equal(scale, its)
    assert torch.equal(numbers, wanted.view(torch.uint8))


def test_every_number_and_every_tie():
    """With 448 in the row the scale is 1. Numbers of the format, those in the middle of two, and their neighbours."""
    codes = torch.arange(0, 0x7F, dtype=torch.uint8).view(E4M3).float()
    middle = (codes[1:] + codes[:-1]) / 2
    near = torch.cat((middle * (1 - 2**-7), middle * (1 + 2**-7)))
    values = torch.cat((codes, middle, near, torch.tensor([448.0]))).bfloat16()
    rows = torch.zeros(2, -(-len(values) // 8) * 8, dtype=torch.bfloat16)
    rows[0, : len(values)], rows[1, : len(values)] = values, -values
    numbers, scale = kernel(rows)
    assert scale.eq(1).all()
    assert torch.equal(numbers, rows.float().to(E4M3).view(torch.uint8))


def test_rows_of_nothing_and_rows_that_are_no_numbers():
    rows = torch.zeros(4, 16, dtype=torch.bfloat16)
    rows[1, 3], rows[2, 3], rows[3, 3] = 1e-40, torch.inf, torch.nan
    numbers, scale = kernel(rows)
    wanted, its = quantised(rows)
    assert torch.equal(scale[:3], its[:3])
    assert scale[3].isnan()
    assert torch.equal(numbers[:2], wanted[:2].view(torch.uint8))
    assert numbers.view(E4M3).float()[2:, 3].isnan().all()


def test_a_layer_takes_the_kernel_where_it_can():
    layer = Fp8Linear(48, 32, bias=True)
    generator = torch.Generator().manual_seed(0)
    store(torch.randn(32, 48, generator=generator), layer.weight.data, layer.scale)
    layer.bias.data = torch.randn(32, generator=generator).bfloat16()
    layer.requires_grad_(False)
    x = torch.randn(3, 5, 48, generator=generator).bfloat16()
    plain = layer(x)
    with emulated() as launched:
        assert torch.equal(layer(x), plain)
        assert launched == ["dllm_quantise_rows"]
        layer(x.float())
        layer(x.transpose(0, 1))
        layer(x[:0])
    assert launched == ["dllm_quantise_rows"] * 2, "a transposed one is copied; float32 and nothing are torch's"
