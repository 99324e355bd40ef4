"""Attention of a block of 32 queries over a cache, its two kernels apart, beside torch's."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator

import torch
from torch.nn import functional as F  # noqa: N812

from bench.on_gpu import floors
from bench.on_gpu.stage import Json, SkippedError, Stage, tried
from dllm_fast.kernels.launches import Launch
from dllm_fast.ops import attention as attention_op
from dllm_fast.ops import launcher

_MERGE = r"dllm_attention_\w*combine"


def times(stage: Stage) -> Iterator[Json]:
    """From a graph, with cold caches, beside the time in which keys and values can be read once."""
    for shape in _shapes(stage):
        batch, heads, kv_heads, queries, keys = shape
        case: Json = {"what": f"B{batch} {heads}/{kv_heads} heads, {queries} queries, {keys} keys"}
        q, k, v, begin, end = _tensors(stage, shape)
        depth = q.shape[3]
        run = functools.partial(attention_op.by_kernel, q, k, v, begin, end, depth**-0.5)
        work = floors.attention(batch=batch, heads=heads, kv_heads=kv_heads, queries=queries, keys=keys, head_dim=depth)
        with tried(case, "ours"):
            if not attention_op.is_launched(q, k, v):
                raise SkippedError("the kernel cannot be used here; see `dllm-fast doctor`")
            case["ours"] = stage.milliseconds(stage.graphed(run), kernels=("dllm_attention_",))
            stage.against(case["ours"], work)
            if any(re.match(_MERGE, name) for name in case["ours"].get("launched", ())):
                for name, only in (("the kernel", False), ("the merge", True)):
                    part = functools.partial(run, run=_only(stage, merges=only))
                    case[name] = stage.milliseconds(
                        stage.graphed(part), kernels=(_MERGE,) if only else (r"dllm_attention_\w*rows",)
                    )
        sdpa = functools.partial(F.scaled_dot_product_attention, q, k, v, enable_gqa=heads != kv_heads)
        with tried(case, "torch"):
            case["torch"] = stage.milliseconds(stage.graphed(sdpa))
        with tried(case, "torch with a mask"):
            mask = (torch.arange(keys, device=stage.device) < end[..., None])[:, None]
            case["torch with a mask"] = stage.milliseconds(stage.graphed(functools.partial(sdpa, attn_mask=mask)), samples=5)
        yield case


def flex(stage: Stage) -> Iterator[Json]:
    """FlexAttention, compiled for each shape, which takes most of the time of this section."""
    for shape in _shapes(stage)[:2]:
        case: Json = {"what": f"FlexAttention {shape}"}
        with tried(case, "flex_attention"):
            if stage.dry:
                raise SkippedError("a rehearsal compiles nothing")
            case["flex_attention"] = _flex(stage, *_tensors(stage, shape))
        yield case


def _shapes(stage: Stage) -> list[tuple[int, int, int, int, int]]:
    """Batch, heads, key heads, queries, keys."""
    if stage.dry:
        return [(1, 2, 1, 3, 70), (2, 2, 1, 3, 200)]  # the second has splits
    sizes = ((batch, kv_heads, keys) for keys in (768, 4096, 32_768) for kv_heads in (32, 8) for batch in (1, 8))
    return [(batch, 32, kv_heads, 32, keys) for batch, kv_heads, keys in sizes]


def _tensors(stage: Stage, shape: tuple[int, int, int, int, int]) -> tuple[torch.Tensor, ...]:
    batch, heads, kv_heads, queries, keys = shape
    depth = stage.pick(128, 64)

    def made(*sizes: int) -> torch.Tensor:
        return torch.empty(*sizes, depth, dtype=torch.bfloat16, device=stage.device).normal_()

    begin = torch.zeros(batch, queries, dtype=torch.int32, device=stage.device)
    q, k, v = made(batch, heads, queries), made(batch, kv_heads, keys), made(batch, kv_heads, keys)
    return q, k, v, begin, torch.full_like(begin, keys - 5)


def _only(stage: Stage, *, merges: bool) -> Callable[[Iterable[Launch]], None]:
    """Queues the launches that merge splits, or the others."""

    def run(launches: Iterable[Launch]) -> None:
        launcher.launch([one for one in launches if (re.match(_MERGE, one.kernel) is not None) == merges], stage.device)

    return run


def _flex(stage: Stage, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _begin: torch.Tensor, end: torch.Tensor) -> Json:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def seen(b: torch.Tensor, _h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return j < end[b, i]

    mask = create_block_mask(seen, q.shape[0], None, q.shape[2], k.shape[2], device=str(stage.device))
    compiled = torch.compile(flex_attention, dynamic=False)
    return stage.milliseconds(lambda: compiled(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1]))
