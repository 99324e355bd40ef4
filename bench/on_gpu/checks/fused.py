"""The kernels of cuda/fused.cu against the same in torch: exact where nothing is rounded twice, else within bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.on_gpu import launched
from bench.on_gpu.stage import Json, Stage
from dllm_fast.networks.rotary import rotate
from dllm_fast.ops import fused as op

# Half a unit in the last place of bfloat16 is 2^-9 of a number: sums of squares in another order may round a few the other way.
_ROUNDING = 4e-3


class _Comparison:
    """Relative errors by name, and those that are too large."""

    def __init__(self) -> None:
        self.errors: dict[str, float] = {}
        self.wrong: list[str] = []

    def __call__(self, name: str, ours: torch.Tensor, theirs: torch.Tensor, most: float) -> None:
        error = float((ours.double() - theirs.double()).norm() / theirs.double().norm())
        self.errors[name] = error
        print(f"{name}: {error:.2e}", flush=True)
        if not error <= most:  # a NaN is wrong, too
            self.wrong.append(f"{name}: {error:.2e} is more than {most:.0e}")


def fused(stage: Stage) -> Json:
    """Norm with and without a sum, SwiGLU, and heads turned and put into slots."""
    compare = _Comparison()
    for dtype in launched.LAYER_DTYPES:
        _in_dtype(compare, stage, dtype)
    assert not compare.wrong, compare.wrong
    return {"errors": compare.errors}


def _in_dtype(compare: _Comparison, stage: Stage, dtype: torch.dtype) -> None:
    random = torch.Generator(stage.device).manual_seed(0)
    kind = str(dtype).removeprefix("torch.")

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, device=stage.device).to(dtype)

    for rows, width in stage.pick(((1, 64), (33, 4096), (7, 2056), (2048, 4096)), ((1, 64), (3, 520))):
        name = f"{rows} x {width} {kind}"
        _norms(compare, name, normal(rows, width), normal(rows, width), normal(width))
        gate_up = normal(rows, 2 * width)
        with launched.exactly([launched.fused("swiglu", dtype)]):
            ours = op.swiglu(gate_up)
        with launched.nothing():
            compare(f"swiglu {name}", ours, op.swiglu(gate_up), _ROUNDING)
    for heads, key_heads, depth, has_norms, is_wide in stage.pick(
        (
            (32, 8, 128, True, True),
            (4, 4, 64, False, True),
            (2, 1, 256, True, False),
            (3, 3, 80, False, False),
            (4, 2, 96, True, True),
            (4, 2, 192, True, False),
        ),
        ((4, 2, 128, True, True), (2, 2, 64, False, False)),
    ):
        _heads(compare, stage, normal, heads, key_heads, depth, has_norms=has_norms, is_wide=is_wide)


def _norms(compare: _Comparison, shape: str, stream: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor) -> None:
    with launched.exactly([launched.fused("add_norm", stream.dtype)] * 2):
        ours = op.add_norm(stream, delta, weight, 1e-5)
        ours_alone = op.add_norm(stream, None, weight, 1e-5)
    with launched.nothing():
        theirs = op.add_norm(stream, delta, weight, 1e-5)
        theirs_alone = op.add_norm(stream, None, weight, 1e-5)
    compare(f"sum {shape}", ours[0], theirs[0], 0.0)
    compare(f"norm of the sum {shape}", ours[1], theirs[1], _ROUNDING)
    compare(f"norm alone {shape}", ours_alone[1], theirs_alone[1], _ROUNDING)


def _heads(  # noqa: PLR0917
    compare: _Comparison,
    stage: Stage,
    normal: Callable[..., torch.Tensor],
    heads: int,
    key_heads: int,
    depth: int,
    *,
    has_norms: bool,
    is_wide: bool,
) -> None:
    """Keys and values of 16 queries of 2 rows into some of 40 slots; the others stay as they were."""
    batch, queries, slot_count, untouched = 2, 16, 40, -7.0
    projected = normal(batch, queries, (heads + 2 * key_heads) * depth)
    dtype = projected.dtype
    kind = str(dtype).removeprefix("torch.")
    name = f"H{heads}/{key_heads} D{depth}{' norms' * has_norms}{' wide' * is_wide} {kind}"
    weights = (normal(depth).abs() + 0.5, normal(depth).abs() + 0.5) if has_norms else None
    random = torch.Generator().manual_seed(depth)
    turns = (torch.rand(batch, 1, queries, depth // 2, generator=random) * 6).to(stage.device)
    cosines, sines = turns.cos(), turns.sin()
    slots = torch.stack([torch.randperm(slot_count, generator=random)[:queries] for _ in range(batch)]).int().to(stage.device)
    keys, values = torch.full((2, batch, key_heads, slot_count, depth), untouched, device=stage.device).to(dtype)
    layout = op.Heads(queries=heads, keys=key_heads, depth=depth, norms=weights, eps=1e-6, is_wide=is_wide)
    assert op.takes_qkv(projected, layout)
    with launched.exactly([launched.fused("qkv", dtype)]):
        q = op.qkv(projected, layout, torch.cat((cosines, sines), -1)[:, 0].contiguous(), slots, keys, values)

    plain_q, plain_k, plain_v = projected.unflatten(-1, (-1, depth)).transpose(1, 2).split((heads, key_heads, key_heads), 1)
    with launched.nothing():
        if weights is not None:
            plain_q, plain_k = (op.add_norm(x, None, w, 1e-6)[1] for x, w in zip((plain_q, plain_k), weights, strict=True))
        turn = (cosines, sines) if is_wide else (cosines.to(dtype), sines.to(dtype))
        plain_q, plain_k = rotate(plain_q, *turn), rotate(plain_k, *turn)
    row = torch.arange(batch, device=stage.device)[:, None]
    compare(f"queries {name}", q, plain_q, _ROUNDING)
    compare(f"keys {name}", keys[row, :, slots.long()].transpose(1, 2), plain_k, _ROUNDING)
    compare(f"values {name}", values[row, :, slots.long()].transpose(1, 2), plain_v, 0.0)
    is_free = torch.ones(batch, slot_count, dtype=torch.bool, device=stage.device)
    is_free[row, slots.long()] = False
    for cache in (keys, values):
        assert (cache.transpose(1, 2)[is_free] == untouched).all(), f"{name}: a slot of another was written to"
