"""Products of rows with the matrices of their experts in 8 bits: those of grouped.py, quantised as quantise.py says.

On a GPU it is `torch._scaled_grouped_mm`, which takes the ends of the experts as a tensor. Every expert's rows begin at a
multiple of 16 here, and so do their scales: then no version of torch, and no instruction that reads 16 bytes, can object to
how many rows an expert has. Rows between them are zeros that nobody reads. On a CPU one expert is multiplied after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

from dllm_fast.networks.grouped import Sorted
from dllm_fast.ops.quantise import E4M3, emulated_product, quantised

if TYPE_CHECKING:
    from torch import Tensor

_ROOM = 16  # rows of an expert are rounded up to it


def products(x: Tensor, stack: Tensor, scale: Tensor, rows: Sorted) -> Tensor:
    """As `grouped.products`, with `stack` in E4M3 and `scale` `[experts, M]` of its rows."""
    numbers, row_scale = quantised(x)
    multiply = scaled if x.is_cuda else emulated
    return multiply(numbers, row_scale, stack, scale, rows, x.dtype)


def scaled(  # noqa: PLR0917, the operands in the order of the product
    numbers: Tensor, row_scale: Tensor, stack: Tensor, scale: Tensor, rows: Sorted, dtype: torch.dtype
) -> Tensor:
    """In one kernel, nothing read on the host."""
    begins = F.pad(rows.ends[:-1], (1, 0))
    room = (rows.ends - begins + _ROOM - 1) // _ROOM * _ROOM
    ends = room.cumsum(0, dtype=torch.int32)
    places = torch.arange(len(numbers), device=numbers.device) + (ends - room - begins)[rows.experts]
    # The most that rounding up can take: nearly a whole room for each expert that has a row.
    most = len(numbers) + (_ROOM - 1) * min(len(stack), len(numbers))
    spread = torch.zeros(most, numbers.shape[1], dtype=torch.uint8, device=numbers.device)
    spread[places] = numbers.view(torch.uint8)
    scales = row_scale.new_ones(most).index_copy_(0, places, row_scale[:, 0])
    said = torch._scaled_grouped_mm(
        spread.view(E4M3), stack.transpose(-2, -1), scales, scale, offs=ends, out_dtype=dtype, use_fast_accum=False
    )
    return said[places]


def emulated(  # noqa: PLR0917
    numbers: Tensor, row_scale: Tensor, stack: Tensor, scale: Tensor, rows: Sorted, dtype: torch.dtype
) -> Tensor:
    """By plain operations, one expert after the other."""
    ends = rows.ends.tolist()
    spans = [(e, begin, end) for e, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)) if begin < end]
    return torch.cat([emulated_product(numbers[a:b], row_scale[a:b], stack[e], scale[e], None, dtype) for e, a, b in spans])


def refusal(device: torch.device) -> str | None:
    """Why experts are not multiplied in 8 bits on a device; None where they are."""
    if device.type != "cuda":
        return None
    if torch.cuda.get_device_capability(device)[0] not in (9, 10):
        return "torch multiplies them in 8 bits on GPUs of compute capability 9 and 10 alone"
    return _tried(device)


def _tried(device: torch.device) -> str | None:
    """What torch says to a small product, or that it is wrong."""
    # Experts with no row, with one, and with more than a room.
    chosen = torch.tensor([[e] for e in (1, 3, 4, *[2] * 17)], device=device)
    rows = Sorted.by_expert(chosen, 6)
    numbers, row_scale = quantised(torch.linspace(-1, 1, 20 * 64, device=device).view(20, 64))
    stack, scale = quantised(torch.linspace(1, -2, 6 * 32 * 64, device=device).view(6 * 32, 64))
    operands = numbers, row_scale, stack.view(6, 32, 64), scale.view(6, 32), rows, torch.bfloat16
    try:
        said = scaled(*operands)
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        return f"torch says: {error}".partition("\n")[0][:200]
    is_right = torch.allclose(said.float(), emulated(*operands).float(), rtol=2**-7, atol=1e-3)
    return None if is_right else "torch gives a wrong product"
