"""Every kernel of the attention: dtype x head size x rows of a block x splits, with NaN wherever no query looks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bench.on_gpu import launched
from bench.on_gpu.stage import Json, Stage
from dllm_fast.kernels import launches
from dllm_fast.ops import attention as op

# Heads, key heads, queries, keys: few rows and many, one split and several.
_SHAPES = ((4, 4, 8, 90), (8, 2, 40, 90), (4, 4, 8, 700), (8, 2, 40, 1500))
_TOY_SHAPES = ((2, 2, 3, 70), (4, 2, 20, 70), (2, 1, 2, 200))


@dataclass(frozen=True, slots=True)
class _Case:
    """Queries, keys and values, what each query sees, and what is where none looks."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    begin: torch.Tensor
    end: torch.Tensor


def variants(stage: Stage) -> Json:
    """Against float64 at most twice what torch loses in the same dtype; the same again; zeros for a query that sees nothing."""
    wrong, errors = [], {}
    for dtype in launched.LAYER_DTYPES:
        for depth in launches.HEAD_DIMENSIONS:
            for shape in stage.pick(_SHAPES, _TOY_SHAPES):
                for name, case in _cases(stage, dtype, depth, shape):
                    ours, theirs = _errors(case)
                    errors[name] = [ours, theirs]
                    print(f"{name}: ours {ours:.2e}, torch {theirs:.2e}", flush=True)
                    if not ours <= 2 * theirs + 1e-3:
                        wrong.append(f"{name}: {ours:.2e} against {theirs:.2e} of torch")
    if not stage.dry:
        _large_grid(stage)
    assert not wrong, wrong
    return {"errors": errors}


def _large_grid(stage: Stage) -> None:
    """More heads of the batch than the second number of a grid may be; the last row is the same alone."""
    batch, heads, queries, keys, depth = 2100, 32, 4, 40, 64
    random = torch.Generator(stage.device).manual_seed(0)
    make = {"generator": random, "device": stage.device, "dtype": torch.bfloat16}
    q = torch.randn(batch, heads, queries, depth, **make)
    k, v = (torch.randn(batch, heads, keys, depth, **make) for _ in range(2))
    begin = torch.zeros(batch, queries, dtype=torch.int32, device=stage.device)
    end = torch.full_like(begin, keys)
    with launched.exactly(launched.of_attention(q, k) + launched.of_attention(q[-1:], k[-1:])):
        ours = torch.ops.dllm_fast.attention(q, k, v, begin, end, 0.1)[-1:]
        alone = torch.ops.dllm_fast.attention(q[-1:], k[-1:], v[-1:], begin[-1:], end[-1:], 0.1)
    assert torch.equal(ours, alone), "a row of a large batch differs from the row alone"


def _cases(stage: Stage, dtype: torch.dtype, depth: int, shape: tuple[int, int, int, int]) -> Iterator[tuple[str, _Case]]:
    heads, key_heads, queries, keys = shape
    batch, where = 2, stage.device
    random = torch.Generator(where).manual_seed(depth + keys)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=random, device=where).to(dtype)

    def bounds(low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, (batch, queries), dtype=torch.int32, generator=random, device=where)

    name = f"{str(dtype).removeprefix('torch.')} D{depth} H{heads}/{key_heads} q{queries} k{keys}"
    q = normal(batch, heads, queries, depth)
    # Behind every end.
    k, v = normal(batch, key_heads, keys + 3, depth), normal(batch, key_heads, keys + 3, depth)
    k[:, :, keys:], v[:, :, keys:] = torch.nan, torch.nan
    begin, end = torch.zeros_like(bounds(0, 1)), bounds(1, keys + 1)
    end[0, 0], end[1, 0] = keys, 0
    yield f"{name}, behind the ends", _Case(q, k, v, begin, end)
    # Between two ranges: the first third is seen by even queries, the last by odd ones, and what lies between by none.
    k, v = normal(batch, key_heads, keys, depth), normal(batch, key_heads, keys, depth)
    low, high = keys // 3, keys - keys // 3
    k[:, :, low:high], v[:, :, low:high] = torch.nan, torch.nan
    is_odd = (torch.arange(queries, device=where) % 2 == 1).expand(batch, -1)
    begin = torch.where(is_odd, bounds(high, keys), bounds(0, low))
    end = torch.where(is_odd, keys, low).int()
    yield f"{name}, in the gap", _Case(q, k, v, begin, end)


def _errors(case: _Case) -> tuple[float, float]:
    """Relative errors of the kernels and of torch."""
    q, k, v, begin, end = case.q, case.k, case.v, case.begin, case.end
    scale = q.shape[3] ** -0.5
    assert op.is_launched(q, k, v), "the kernels do not take this"
    with launched.exactly(launched.of_attention(q, k) * 2):
        ours, again = (torch.ops.dllm_fast.attention(q, k, v, begin, end, scale) for _ in range(2))
    assert torch.equal(ours, again) or ours.isnan().any(), "the same call gives something else"
    exact = op._in_torch(q.double(), k.double(), v.double(), begin, end, scale)
    plain = op._in_torch(q, k, v, begin, end, scale)
    is_blind = (end <= begin)[:, None, :, None].expand_as(ours)
    assert not ours[is_blind].any(), "a query that sees nothing must give zeros"
    first, second = (float((x.double() - exact).norm() / exact.norm()) for x in (ours, plain))
    return first, second
