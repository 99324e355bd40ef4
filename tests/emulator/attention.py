"""The attention by the emulated kernels, on torch tensors of the host, and its float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dllm_fast.kernels import launches

from . import build
from .launch import run


def attention(
    q: Any, k: Any, v: Any, begin: Any, end: Any, *, scale: float, order: int = 0, library: Any = None
) -> torch.Tensor:
    """`q` [B, H, Lq, D], `k` and `v` [B, key heads, Lk, D], of 16 bits, strided but along D; `begin` and `end` [B, Lq]."""
    batch, heads, queries, depth = q.shape
    key_heads, keys = k.shape[1:3]
    splits, _ = launches.attention_splits(queries=queries, keys=keys, group=heads // key_heads)
    out = torch.full((batch, heads, queries, depth), torch.nan, dtype=q.dtype)
    parts = torch.full((splits, batch, heads, queries, depth), torch.nan)
    log_sums = torch.full((splits, batch, heads, queries), torch.nan)
    ranges = [np.ascontiguousarray(r, dtype=np.int32) for r in (begin, end)]
    buffers = launches.AttentionBuffers(
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        begin=ranges[0].ctypes.data,
        end=ranges[1].ctypes.data,
        out=out.data_ptr(),
        parts=parts.data_ptr(),
        log_sums=log_sums.data_ptr(),
    )
    for launch in launches.attention(
        buffers,
        dtype=str(q.dtype).removeprefix("torch."),
        batch=batch,
        heads=heads,
        key_heads=key_heads,
        queries=queries,
        keys=keys,
        head_dimension=depth,
        scale=scale,
        q_strides=q.stride()[:3],
        k_strides=k.stride()[:3],
        v_strides=v.stride()[:3],
        out_strides=out.stride()[:3],
    ):
        built = build.library(build.KERNELS / f"{launch.file}.cu") if library is None else library
        run(launch, order=order, library=built)
    return out


def plain(q: Any, k: Any, v: Any, begin: Any, end: Any, *, scale: float) -> torch.Tensor:
    """The same in the dtype of the tensors, operation by operation; rows that see nothing are zeros."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    places = torch.arange(k.shape[2])
    begin, end = (torch.tensor(r.tolist())[:, None, :, None] for r in (begin, end))
    is_seen = (places >= begin) & (places < end)
    # What nobody sees may be anything.
    k, v = (torch.where(is_seen.any(2)[:, :, :, None], x, 0) for x in (k, v))
    scores = (q @ k.transpose(2, 3) * scale).masked_fill(~is_seen, -torch.inf)
    weights = torch.nan_to_num(scores.softmax(-1)).masked_fill(~is_seen, 0)
    return weights @ v
