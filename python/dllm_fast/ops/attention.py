"""`torch.ops.dllm_fast.attention`: attention in which each query sees a range of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

from dllm_fast import launches
from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.ops import launcher

if TYPE_CHECKING:
    from torch import Tensor

#: Of the heads that the kernel takes.
HEAD_DIMENSIONS = (64, 128, 256)
_ALIGNMENT = 16
_GRID_LIMIT = 65535


def attention(  # noqa: PLR0917, the positions are those of the operation
    q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, scale: float
) -> Tensor:
    """Attention of queries that see the keys `[begin, end)`; one that sees none gets zeros.

    Args:
        q: `[B, H, Lq, D]`.
        k, v: `[B, key heads, Lk, D]`; query head h reads key head `h // (H / key heads)`.
        begin, end: `[B, Lq]` int32. Ends beyond Lk count as Lk, beginnings below 0 as 0.
        scale: factor on the scores.

    Returns:
        `[B, H, Lq, D]`, contiguous. The kernel takes bfloat16 with D of 64, 128 or 256; anything else goes through torch.

    Raises:
        InvalidTypeError, InvalidValueError: before anything is launched.
    """
    _check(q, k, v, begin, end)
    if not q.numel():
        return torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if k.shape[2] == 0:
        return torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    if takes(q) and launcher.usable(q.device, "attention"):
        # Ranges that lead outside would be read outside.
        return by_kernel(q, k, v, begin.clamp(min=0), end.clamp(max=k.shape[2]), scale)
    return by_torch(q, k, v, begin, end, scale)


def takes(q: Tensor) -> bool:
    """Has the kernel a form for such queries?"""
    return q.dtype == torch.bfloat16 and q.shape[3] in HEAD_DIMENSIONS


def by_kernel(  # noqa: PLR0917, the positions are those of the operation
    q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, scale: float
) -> Tensor:
    """The kernel, for ranges inside [0, Lk). Keys and values are read where they lie, so a view of a cache costs nothing."""
    batch, heads, queries, depth = q.shape
    key_heads, keys = k.shape[1:3]
    for name, x in (("q", q), ("k", k), ("v", v)):
        _check_place(name, x)
    begin, end = begin.contiguous(), end.contiguous()
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    splits, _ = launches.attention_splits(queries=queries, keys=keys, group=heads // key_heads)
    parts = log_sums = None
    if splits > 1:
        parts = torch.empty((splits, batch, heads, queries, depth), dtype=torch.float32, device=q.device)
        log_sums = torch.empty((splits, batch, heads, queries), dtype=torch.float32, device=q.device)
    buffers = launches.AttentionBuffers(
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        begin=begin.data_ptr(),
        end=end.data_ptr(),
        out=out.data_ptr(),
        parts=0 if parts is None else parts.data_ptr(),
        log_sums=0 if log_sums is None else log_sums.data_ptr(),
    )
    queue = launches.attention(
        buffers,
        batch=batch,
        heads=heads,
        key_heads=key_heads,
        queries=queries,
        keys=keys,
        head_dimension=depth,
        scale=scale,
        q_strides=_strides(q),
        k_strides=_strides(k),
        v_strides=_strides(v),
        out_strides=_strides(out),
    )
    launcher.launch(queue, q.device)
    return out


def by_torch(  # noqa: PLR0917, the positions are those of the operation
    q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, scale: float
) -> Tensor:
    """The same in plain torch, for any device and floating dtype."""
    keys = torch.arange(k.shape[2], device=q.device)
    is_seen = (keys >= begin[..., None]) & (keys < end[..., None])
    # What nobody sees may be anything, and 0 * nan is nan.
    is_read = is_seen.any(dim=1)[:, None, :, None]
    k, v = torch.where(is_read, k, 0), torch.where(is_read, v, 0)
    grouped = q.shape[1] != k.shape[1]
    # A row that sees nothing may look at anything, for its answer is thrown away.
    is_blind = ~is_seen.any(dim=2, keepdim=True)
    mask = (is_seen | is_blind)[:, None]
    mixed = F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=grouped)
    return torch.where(is_blind[:, None], 0, mixed).contiguous()


def _meta(  # noqa: PLR0917, the positions are those of the operation
    q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, scale: float
) -> Tensor:
    del scale
    _check(q, k, v, begin, end)
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _check(q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor) -> None:
    shapes = [list(x.shape) for x in (q, k, v, begin, end)]
    if any(x.dim() != 4 for x in (q, k, v)):
        raise InvalidValueError(
            f"q, k and v must have the shape [B, H, L, D], got {shapes[0]}, {shapes[1]}, {shapes[2]}; reshape"
        )
    batch, heads, queries, depth = q.shape
    if k.shape != v.shape or k.shape[0] != batch or k.shape[3] != depth:
        raise InvalidValueError(
            f"k and v must have one shape [B, key heads, keys, D] with the B and D of q, got {shapes[1]} and {shapes[2]} for q "
            f"{shapes[0]}; check them"
        )
    if k.shape[1] == 0 or heads % k.shape[1]:
        raise InvalidValueError(
            f"the heads of q must be a multiple of those of k, got {heads} and {k.shape[1]}; check the layout"
        )
    if tuple(begin.shape) != (batch, queries) or begin.shape != end.shape:
        raise InvalidValueError(
            f"begin and end must have the shape [B, Lq] = {[batch, queries]}, got {shapes[3]} and {shapes[4]}; use expand"
        )
    if begin.dtype != torch.int32 or end.dtype != torch.int32:
        raise InvalidTypeError(f"begin and end must be int32, got {begin.dtype} and {end.dtype}; convert with .int()")
    if not q.dtype.is_floating_point or not q.dtype == k.dtype == v.dtype:
        raise InvalidTypeError(f"q, k and v must have one floating dtype, got {q.dtype}, {k.dtype} and {v.dtype}; convert them")
    devices = {x.device for x in (q, k, v, begin, end)}
    if len(devices) != 1:
        raise InvalidValueError(f"all tensors must be on one device, got {', '.join(sorted(map(str, devices)))}; move them")


def _check_place(name: str, x: Tensor) -> None:
    if x.stride(3) != 1:
        raise InvalidValueError(
            f"{name} must be contiguous along its last dimension, got the stride {x.stride(3)}; pass {name}.contiguous()"
        )
    step = _ALIGNMENT // x.element_size()
    if x.data_ptr() % _ALIGNMENT or any(s % step for s, n in zip(x.stride(), x.shape[:3], strict=False) if n > 1):
        raise InvalidValueError(
            f"{name} must begin at, and have strides of, multiples of {_ALIGNMENT} bytes, got the strides {x.stride()} at "
            f"{x.data_ptr():#x}; pass {name}.clone(memory_format=torch.contiguous_format)"
        )
    if x.shape[0] * x.shape[1] > _GRID_LIMIT:
        raise InvalidValueError(
            f"{name} may have {_GRID_LIMIT} batch rows times heads, got {list(x.shape)}; use a smaller batch"
        )


def _strides(x: Tensor) -> tuple[int, int, int]:
    batch, head, row, _ = x.stride()
    return batch, head, row


_library = torch.library.Library("dllm_fast", "DEF")  # type: ignore[no-untyped-call]
_SCHEMA = "attention(Tensor q, Tensor k, Tensor v, Tensor begin, Tensor end, float scale) -> Tensor"
_library.define(_SCHEMA)  # type: ignore[no-untyped-call]
for _key, _implementation in (("CPU", attention), ("CUDA", attention), ("Meta", _meta)):
    _library.impl("attention", _implementation, _key)  # type: ignore[no-untyped-call]
