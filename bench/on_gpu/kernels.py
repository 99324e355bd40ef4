"""How long do the kernels take, beside what torch offers?"""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from bench.on_gpu.stage import Json, SkippedError, Stage, copy_bandwidth, tried
from dllm_fast.ops import attention as attention_op
from dllm_fast.ops import launcher
from dllm_fast.ops import mask_predict as device


def _eager(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The statistics as one writes them in torch: float32 probabilities, the two largest, entropy, log-sum-exp."""
    wide = logits.float()
    total = wide.logsumexp(dim=1)
    p = torch.exp(wide - total[:, None])
    top, ids = p.topk(2, dim=1)
    entropy = total - (p * wide).sum(dim=1)
    return ids[:, 0], top[:, 0], top[:, 1], entropy, total


def _float64_chain(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What LLaDA's published loop computes of every row: Gumbel noise and softmax in float64."""
    wide = logits.to(torch.float64)
    noise = (-torch.log(torch.rand_like(wide))) ** 1.0
    ids = (wide.exp() / noise).argmax(dim=1)
    p = F.softmax(logits.to(torch.float64), dim=1).gather(1, ids[:, None])
    return ids, p


def mask_prediction(stage: Stage) -> Json:
    """Mask prediction by rows and vocabulary, from a graph with cold caches, and the share of copy bandwidth."""
    bandwidth = copy_bandwidth(stage)
    rows = stage.pick((1, 32, 256, 2048), (1, 3))
    vocabularies = stage.pick((32_000, 126_464, 157_184, 262_144), (300,))
    compiled = None if stage.dry else torch.compile(_eager, dynamic=True)
    cases = [
        _prediction_case(stage, n, vocabulary, compiled, bandwidth)
        for vocabulary in vocabularies
        for n in (rows[1:3] if stage.quick else rows)
        if stage.has(8, f"mask prediction {n} x {vocabulary}")
    ]
    return {"copy_bytes_per_s": bandwidth, "caches": "cold: 512 MB are written between samples", "cases": cases}


def _prediction_case(stage: Stage, n: int, vocabulary: int, compiled: Any, bandwidth: float | None) -> Json:
    logits = torch.randn(n, vocabulary, device=stage.device).bfloat16()
    case: Json = {"rows": n, "vocabulary": vocabulary}
    sites = device.pack_sites(n, seed=1, request=0, position=np.arange(n), step=0, line=np.arange(n))
    there = launcher.to_device(torch.from_numpy(sites), stage.device)
    packed = device.empty_results(n, stage.device)
    draws = {
        "greedy": device.Draw(),
        "drawn": device.Draw(temperature=1.0),
        "top_p": device.Draw(temperature=1.0, top_p=0.9),
    }
    for name, draw in draws.items():
        with tried(case, name):
            if not device.takes(logits):
                raise SkippedError("the kernels cannot be used here; see `dllm-fast doctor`")
            form = stage.graphed(functools.partial(device.queue, logits, there, packed, n, draw))
            case[name] = stage.milliseconds(form)
            if bandwidth and "ms" in case[name]:
                case[name]["share_of_copy"] = 2 * n * vocabulary / (case[name]["ms"] * 1e-3) / bandwidth
    with tried(case, "eager launches"):
        case["eager launches"] = stage.milliseconds(lambda: device.queue(logits, there, packed, n, draws["greedy"]))
    with tried(case, "torch"):
        case["torch"] = stage.milliseconds(lambda: _eager(logits), samples=5)
    with tried(case, "torch.compile"):
        if compiled is None:
            raise SkippedError("a rehearsal compiles nothing")
        case["torch.compile"] = stage.milliseconds(lambda: compiled(logits), samples=10)
    with tried(case, "float64 chain"):
        case["float64 chain"] = stage.milliseconds(lambda: _float64_chain(logits), samples=3)
    return case


def attention(stage: Stage) -> Json:
    """Attention of a block of queries over a cache, beside SDPA with a mask and FlexAttention."""
    shapes = stage.pick(
        [(1, 32, 32, 32, 768), (8, 32, 32, 32, 768), (32, 32, 32, 32, 768), (1, 28, 4, 32, 4096), (8, 28, 4, 32, 32_768)],
        [(1, 2, 1, 3, 70)],
    )
    cases = [
        _attention_case(stage, shape)
        for shape in (shapes[:2] if stage.quick else shapes)
        if stage.has(15, f"attention {shape}")
    ]
    return {"cases": cases}


def _attention_case(stage: Stage, shape: tuple[int, int, int, int, int]) -> Json:
    batch, heads, key_heads, queries, keys = shape
    depth = stage.pick(128, 64)
    case: Json = {"batch": batch, "heads": heads, "key_heads": key_heads, "queries": queries, "keys": keys}
    q = torch.randn(batch, heads, queries, depth, device=stage.device).bfloat16()
    k, v = torch.randn(2, batch, key_heads, keys, depth, device=stage.device).bfloat16()
    begin = torch.zeros(batch, queries, dtype=torch.int32, device=stage.device)
    end = torch.full_like(begin, keys - 5)
    scale = depth**-0.5
    mask = (torch.arange(keys, device=stage.device) < end[..., None])[:, None]
    sdpa = functools.partial(F.scaled_dot_product_attention, q, k, v, scale=scale, enable_gqa=heads != key_heads)
    with tried(case, "ours"):
        if not attention_op.is_launched(q, k, v):
            raise SkippedError("the kernel cannot be used here; see `dllm-fast doctor`")
        case["ours"] = stage.milliseconds(stage.graphed(lambda: attention_op.by_kernel(q, k, v, begin, end, scale)))
        if "ms" in case["ours"]:
            case["ours"]["bytes_per_s"] = 2 * (2 * k.numel() + 2 * q.numel()) / (case["ours"]["ms"] * 1e-3)
    with tried(case, "sdpa with a mask"):
        case["sdpa with a mask"] = stage.milliseconds(stage.graphed(functools.partial(sdpa, attn_mask=mask)))
    with tried(case, "sdpa without a mask"):
        case["sdpa without a mask"] = stage.milliseconds(stage.graphed(sdpa))
    with tried(case, "flex_attention"):
        case["flex_attention"] = _flex(stage, q, k, v, end, grouped=heads != key_heads)
    return case


def _flex(stage: Stage, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, end: torch.Tensor, *, grouped: bool) -> Json:
    if stage.dry:
        raise SkippedError("a rehearsal compiles nothing")
    if not stage.has(40, "FlexAttention"):
        raise SkippedError("no time was left")
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def seen(b: torch.Tensor, _h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return j < end[b, i]

    mask = create_block_mask(seen, q.shape[0], None, q.shape[2], k.shape[2], device=str(stage.device))
    compiled = torch.compile(flex_attention, dynamic=False)
    return stage.milliseconds(lambda: compiled(q, k, v, block_mask=mask, enable_gqa=grouped))


def launches(stage: Stage) -> Json:
    """What one launch costs the host: CuPy, the operation, and a graph."""
    q = torch.randn(1, 2, 3, 64, device=stage.device).bfloat16()
    ranges = torch.zeros(1, 3, dtype=torch.int32, device=stage.device)
    found: Json = {}
    forms = {
        "attention by_kernel": lambda: attention_op.by_kernel(q, q, q, ranges, ranges, 1.0),
        "torch.ops.dllm_fast.attention": lambda: torch.ops.dllm_fast.attention(q, q, q, ranges, ranges, 1.0),
        "torch add": lambda: q + q,
    }
    for name, form in forms.items():
        with tried(found, name):
            form()
            if stage.dry:
                found[name] = {"ran": True}
                continue
            stage.synchronize()
            began = time.perf_counter()
            for _ in range(200):
                form()
            queued = time.perf_counter() - began
            stage.synchronize()
            found[name] = {"host_us": queued / 200 * 1e6}
    return found
