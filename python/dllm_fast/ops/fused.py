"""The elementwise work between the matrix products of a decoder layer, each piece one launch where the kernels can run.

Both ways round to the dtype of the model at the same places. The kernels have no gradient, so training goes through torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

from dllm_fast.kernels import launches
from dllm_fast.ops import fallback, launcher

if TYPE_CHECKING:
    from torch import Tensor


def add_norm(stream: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`stream + delta` (`stream` itself without a delta), and its root mean square norm (1910.07467).

    The norm is computed in float32 and goes back to the dtype of the stream before the weight.
    """
    if not _is_launched(stream, weight, *(() if delta is None else (delta,))):
        summed = stream if delta is None else stream + delta
        wide = summed.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        return summed, weight * wide.to(stream.dtype)
    summed = stream if delta is None else torch.empty_like(stream)
    normed = torch.empty_like(stream)
    width = stream.shape[-1]
    launch = launches.fused_add_norm(
        dtype=_name(stream.dtype),
        stream=stream.data_ptr(),
        delta=0 if delta is None else delta.data_ptr(),
        weight=weight.data_ptr(),
        stream_out=summed.data_ptr(),
        out=normed.data_ptr(),
        rows=stream.numel() // width,
        width=width,
        eps=eps,
    )
    launcher.launch([launch], stream.device)
    return summed, normed


def swiglu(gate_up: Tensor) -> Tensor:
    """`silu(gate) * up` (2002.05202) for the halves of the last dimension."""
    inner = gate_up.shape[-1] // 2
    if not _is_launched(gate_up, width=inner):
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
    out = torch.empty((*gate_up.shape[:-1], inner), dtype=gate_up.dtype, device=gate_up.device)
    rows = gate_up.numel() // gate_up.shape[-1]
    launch = launches.fused_swiglu(
        dtype=_name(gate_up.dtype), gate_up=gate_up.data_ptr(), out=out.data_ptr(), rows=rows, inner=inner
    )
    launcher.launch([launch], gate_up.device)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """How the heads of a projection are laid out and turned.

    Attributes:
        queries, keys: number of query heads, and of key heads (as many value heads follow).
        depth: numbers of a head.
        norms: weights of the norms of query and key heads, or None.
        eps: of these norms.
        is_wide: turns are rounded once, after a sum in float32, and not after each product.
    """

    queries: int
    keys: int
    depth: int
    norms: tuple[Tensor, Tensor] | None
    eps: float
    is_wide: bool


def takes_qkv(projected: Tensor, heads: Heads) -> bool:
    """Can the kernel split this projection `[B, Q, (query heads + 2 key heads) * depth]`?"""
    norms = () if heads.norms is None else heads.norms
    return _is_launched(projected, *norms, depth=heads.depth)


def qkv(projected: Tensor, heads: Heads, angles: Tensor, slots: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Norm and rotation of query and key heads; keys and values go into their slots, queries come back.

    Args:
        projected: `[B, Q, (query heads + 2 key heads) * depth]`, for which `takes_qkv` holds.
        heads: of it.
        angles: cosines, then sines, float32 `[B, Q, rotated]`, contiguous.
        slots: where keys and values go, int32 `[B, Q]`; those of a slot that there is not are dropped.
        keys, values: `[B, key heads, slots, depth]`, written into.

    Returns:
        Queries `[B, query heads, Q, depth]`, in memory `[B, Q, query heads, depth]`.
    """
    batch, queries, _ = projected.shape
    # Ours all of them, so this is only said.
    assert all(x.data_ptr() % 16 == 0 and x.stride(-1) == 1 for x in (angles, keys, values))
    assert all(stride % launches.NEIGHBOURS == 0 for x in (keys, values) for stride in x.stride()[:3])
    q = torch.empty((batch, queries, heads.queries, heads.depth), dtype=projected.dtype, device=projected.device)
    buffers = launches.QkvBuffers(
        projected=projected.data_ptr(),
        q_weight=0 if heads.norms is None else heads.norms[0].data_ptr(),
        k_weight=0 if heads.norms is None else heads.norms[1].data_ptr(),
        angles=angles.data_ptr(),
        slots=slots.data_ptr(),
        q=q.data_ptr(),
        slot_count=keys.shape[2],
        keys=keys.data_ptr(),
        keys_strides=(keys.stride(0), keys.stride(1), keys.stride(2)),
        values=values.data_ptr(),
        values_strides=(values.stride(0), values.stride(1), values.stride(2)),
    )
    launch = launches.fused_qkv(
        buffers,
        dtype=_name(projected.dtype),
        batch=batch,
        queries=queries,
        heads=heads.queries,
        key_heads=heads.keys,
        head_dimension=heads.depth,
        rotated=angles.shape[-1],
        eps=heads.eps,
        rotates_in_float32=heads.is_wide,
    )
    launcher.launch([launch], projected.device)
    return q.transpose(1, 2)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_launched(*tensors: Tensor, width: int | None = None, depth: int | None = None) -> bool:
    """Can the kernels read these (rows in parts of `width`, heads of `depth`) where they lie, and is no gradient wanted?"""
    first = tensors[0]
    if first.numel() == 0 or (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
        return False
    if (why := _lacks(tensors, width, depth)) is not None:
        fallback.tell(first.device, why)
        return False
    # Heads that lie with gaps are those of a model that something else, told by itself, keeps from `qkv`.
    lies_right = all(x.is_contiguous() and x.data_ptr() % 16 == 0 and x.dtype == first.dtype for x in tensors)
    return lies_right and launcher.usable(first.device, launches.fused_source(_name(first.dtype)))


def _lacks(tensors: tuple[Tensor, ...], width: int | None, depth: int | None) -> str | None:
    for x in tensors:
        if (why := fallback.of_dtype(x.dtype)) is not None:
            return why
    if depth is not None and (why := fallback.of_width("heads", depth, most=launches.MOST_OF_HEAD)) is not None:
        return why
    return fallback.of_width("rows", tensors[0].shape[-1] if width is None else width)
