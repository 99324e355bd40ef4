"""Angles from a table are those that were computed from the positions of each forward."""

from __future__ import annotations

import pytest
import torch

from dllm_fast.networks import angles
from dllm_fast.networks.batch import Batch
from dllm_fast.networks.rotary import Rotary, rotate

KINDS = [
    Rotary(width=128, theta=1e4),
    Rotary(width=6, theta=1e4),
    Rotary(width=64, theta=5e5, kind="llama3", factor=8.0, original=8192),
    Rotary(width=32, theta=1e6, kind="yarn", factor=4.0, original=32768, high=32.0, magnitude=1.1386),
]


def batch(positions) -> Batch:
    return Batch(ids=torch.zeros_like(positions), positions=positions)


def computed(rotary, positions):
    """What every forward computed before there was a table."""
    turned = positions[:, None, :, None].float() * rotary.frequencies(positions.device)
    both = torch.cat((turned, turned), dim=-1)
    return both.cos() * rotary.magnitude, both.sin() * rotary.magnitude


def turned_whole(x, cos, sin):
    """What a head was turned by when both halves had their own copy of the angles."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    made = angles.Shared(most=32)
    monkeypatch.setattr(angles, "_TABLES", made)
    return made


@pytest.mark.parametrize("rotary", KINDS, ids=lambda rotary: f"{rotary.kind}-{rotary.width}")
def test_every_position_has_the_same_bits_whatever_else_is_asked_for(rotary):
    for length in (1, 3, 100, 257, 1000, 5000):  # the table grows four times
        positions = torch.stack((torch.arange(length), torch.arange(length).flip(0)))
        cos, sin = angles.pair(rotary, batch(positions))
        for half, whole in zip((cos, sin), computed(rotary, positions), strict=True):
            assert torch.equal(torch.cat((half, half), dim=-1), whole)
    single = torch.tensor([[4711]])
    given = Batch(ids=torch.zeros_like(single).expand(1, 1), positions=single)
    given.cache = type("Slots", (), {"spare": 4999})()
    assert torch.equal(
        angles.look_up(rotary, given)[0, 0, : rotary.width // 2], computed(rotary, single)[0][0, 0, 0, : rotary.width // 2]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_turns_as_by_copied_angles(dtype):
    rotary = KINDS[0]
    x = torch.randn(2, 3, 40, 128, generator=torch.Generator().manual_seed(1)).to(dtype)
    positions = torch.arange(40).expand(2, 40)
    ours = rotate(x, *angles.pair(rotary, batch(positions), dtype=dtype))
    assert torch.equal(ours, turned_whole(x, *(angle.to(dtype) for angle in computed(rotary, positions))))


def test_rounding_is_part_of_the_table():
    rotary, positions = KINDS[0], torch.arange(50)[None]
    cos, _ = angles.pair(rotary, batch(positions), via=torch.bfloat16)
    assert cos.dtype == torch.float32
    assert torch.equal(torch.cat((cos, cos), dim=-1), computed(rotary, positions)[0].bfloat16().float())


def test_growth_is_that_of_each_forward():
    positions = torch.tensor([[0, 5, 63, 64, 65, *range(70, 200)]])
    given = Batch(ids=torch.zeros(1, 200, dtype=torch.int64), positions=positions)
    for dtype in (torch.float32, torch.bfloat16):
        expected = (1 + 0.3 * torch.log1p((positions // 64).float()))[:, None, :, None].to(dtype)
        assert torch.equal(angles.growth(0.3, 64, given, dtype), expected)


def test_tables_are_half_wide_shared_and_grow_by_doubling(tables):
    small = angles.look_up(KINDS[0], batch(torch.arange(10)[None]))
    assert small.shape == (1, 10, 128)
    (table,) = tables._made.values()
    assert table.shape == (256, 128)
    angles.look_up(Rotary(width=128, theta=1e4), batch(torch.arange(256)[None]))
    assert next(iter(tables._made.values())) is table, "an equal setting has the same table"
    angles.look_up(KINDS[0], batch(torch.arange(600)[None]))
    (longer,) = tables._made.values()
    assert longer.shape == (1024, 128)
    assert torch.equal(longer[:256], table)


def test_a_table_made_in_a_run_can_be_trained_with():
    with torch.inference_mode():
        angles.look_up(KINDS[0], batch(torch.arange(10)[None]))
    x = torch.ones(1, 1, 10, 128, requires_grad=True)
    rotate(x, *angles.pair(KINDS[0], batch(torch.arange(10)[None]))).sum().backward()
    assert x.grad is not None
