"""`torch.ops.dllm_fast.attention`: queries over a cache of keys and values, each query with a range of keys it sees.

Importing this module defines the operation. It has no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812

from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.kernels import launches
from dllm_fast.ops import fallback, launcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    Run = Callable[[Iterable[launches.Launch]], None]

_library = torch.library.Library("dllm_fast", "FRAGMENT")
_library.define("attention(Tensor q, Tensor k, Tensor v, Tensor begin, Tensor end, float scale) -> Tensor")


def attention(q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, scale: float) -> Tensor:
    """Softmax attention of every query over its keys `begin <= j < end`; zeros for a query that sees none.

    Args:
        q: `[B, H, Lq, D]`.
        k, v: `[B, Hk, Lk, D]`, with H a multiple of Hk: neighbouring query heads share a key head.
        begin, end: `[B, Lq]` int32. An `end` beyond Lk counts as Lk.
        scale: factor on the scores.

    Returns:
        `[B, H, Lq, D]` in the dtype of `q`; in memory `[B, Lq, H, D]`, as the next matrix product reads it.

    Raises:
        InvalidValueError, InvalidTypeError: shapes, dtypes or devices that do not fit together.
    """
    result: Tensor = torch.ops.dllm_fast.attention(q, k, v, begin, end, scale)
    return result


def check(q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor) -> None:
    """Refuses what has no meaning, without looking at a value, so without waiting for a device."""
    if q.dim() != 4 or k.dim() != 4 or k.shape != v.shape or (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]):
        raise InvalidValueError(
            "attention takes q [B, H, Lq, D] and k, v [B, Hk, Lk, D], got "
            f"{list(q.shape)}, {list(k.shape)} and {list(v.shape)}; transpose or reshape them"
        )
    if k.shape[1] == 0 or q.shape[1] % k.shape[1] != 0:
        raise InvalidValueError(
            f"query heads must be a multiple of the key heads, got {q.shape[1]} and {k.shape[1]}; check the model's config"
        )
    for name, bound in (("begin", begin), ("end", end)):
        if bound.shape != (q.shape[0], q.shape[2]):
            raise InvalidValueError(
                f"{name} must be [B, Lq] = {[q.shape[0], q.shape[2]]}, got {list(bound.shape)}; give one for each query"
            )
        if bound.dtype != torch.int32:
            raise InvalidTypeError(f"{name} must be int32, got {bound.dtype}; pass {name}.int()")
    if not q.is_floating_point() or k.dtype != q.dtype or v.dtype != q.dtype:
        raise InvalidTypeError(f"q, k and v must share a floating dtype, got {q.dtype}, {k.dtype}, {v.dtype}; convert them")
    if len({x.device for x in (q, k, v, begin, end)}) != 1:
        raise InvalidValueError(f"attention needs one device, got q on {q.device} and k on {k.device}; move them together")


def _in_torch(q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, scale: float) -> Tensor:
    """The meaning, in plain torch, on any device."""
    group = q.shape[1] // k.shape[1]
    places = torch.arange(k.shape[2], dtype=torch.int32, device=q.device)
    is_seen = (places >= begin[:, None, :, None]) & (places < end[:, None, :, None])
    # What no query sees may be anything, also NaN, which a weight of 0 would not take away.
    unseen = ~is_seen.any(dim=2)[:, :, :, None]
    k, v = (x.masked_fill(unseen, 0).repeat_interleave(group, dim=1) for x in (k, v))
    is_blind = ~is_seen.any(dim=3, keepdim=True)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=is_seen | is_blind, scale=scale)
    return mixed.masked_fill(is_blind, 0).transpose(1, 2).contiguous().transpose(1, 2)


def lacks(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """Why the kernel cannot take these as they lie, so that plain torch does; None if it can."""

    def is_aligned(x: Tensor) -> bool:
        return x.stride(3) == 1 and x.data_ptr() % 16 == 0 and all(stride % 8 == 0 for stride in x.stride()[:3])

    why = fallback.of_dtype(q.dtype) or fallback.of_head(q.shape[3])
    return why or (None if all(map(is_aligned, (q, k, v))) else fallback.LAYOUT)


def by_kernel(q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, scale: float, run: Run | None = None) -> Tensor:
    """The kernels of cuda/attention.cu, for tensors that fit and no `begin` below 0; `run` queues launches elsewhere."""
    batch, heads, queries, depth = q.shape
    key_heads, keys = k.shape[1:3]
    begin, end = begin.contiguous(), end.contiguous()
    out = q.new_empty(batch, queries, heads, depth).transpose(1, 2)
    splits, _ = launches.attention_splits(queries=queries, keys=keys, group=heads // key_heads)
    several = splits if splits > 1 else 0
    parts = q.new_empty((several, batch, heads, queries, depth), dtype=torch.float32)
    log_sums = q.new_empty((several, batch, heads, queries), dtype=torch.float32)
    buffers = launches.AttentionBuffers(
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        begin=begin.data_ptr(),
        end=end.data_ptr(),
        out=out.data_ptr(),
        parts=parts.data_ptr(),
        log_sums=log_sums.data_ptr(),
    )
    queue = launches.attention(
        buffers,
        dtype=_name(q.dtype),
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
    if run is None:
        launcher.launch(queue, q.device)
    else:
        run(queue)
    return out


def _strides(x: Tensor) -> launches.Strides:
    return x.stride(0), x.stride(1), x.stride(2)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def is_launched(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Do the kernels answer for these tensors, or plain torch? Says once why not, where something about the model is why."""
    if k.shape[2] == 0 or (torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))):
        return False  # there is nothing to see, or a gradient is wanted, and the kernels have none
    if (why := lacks(q, k, v)) is not None:
        fallback.tell(q.device, why)
        return False
    return launcher.usable(q.device, launches.attention_source(_name(q.dtype), q.shape[3]))


def _implementation(q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, scale: float) -> Tensor:
    check(q, k, v, begin, end)
    if not is_launched(q, k, v):
        return _in_torch(q, k, v, begin, end, scale)
    # What lies before the first key would be read. (The kernel itself looks after ends.)
    return by_kernel(q, k, v, begin.clamp(min=0), end, scale)


def _shape(q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, scale: float) -> Tensor:
    del scale
    check(q, k, v, begin, end)
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)


_library.impl("attention", _implementation, "CPU")
_library.impl("attention", _implementation, "CUDA")
_library.impl("attention", _shape, "Meta")
