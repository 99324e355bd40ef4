"""Products of rows with the matrices of their experts, the rows sorted by expert.

How many rows an expert has is known to the device alone. Three ways lead to the products:

- grouped: `torch.nn.functional.grouped_mm`, which takes the ends of the experts as a tensor. On a GPU of compute capability 9
  or 10 it reads nothing on the host, for bfloat16; for all others torch's own fallback reads the ends, so it is used on a CPU
  only, where it is a loop in C++ with the same bits as ours.
- padded: every expert gets room for all tokens, and all are multiplied. Nothing is read on the host, and while tokens are few
  the time goes into reading the matrices, of which a step needs most anyhow. On the other GPUs, up to `_PADDED_TOKENS`.
- a loop over the experts that have rows, which reads their ends. Everywhere else.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

# Room for so many tokens at each of 256 experts 2,048 wide is 0.13 GB, and reading the matrices still takes longest.
_PADDED_TOKENS = 128
_ALIGNMENT_BYTES = 16  # of the matrices that grouped_mm takes, and of their rows


@dataclass(frozen=True, slots=True)
class Sorted:
    """Pairs of a token and an expert, sorted by expert; pairs of one expert in the order of their tokens.

    Attributes:
        pairs: places of the pairs in `[N, chosen]`, as one row.
        experts: of each.
        ends: int32, behind the last pair of each expert.
        tokens: N, which is the most that an expert can have.
    """

    pairs: Tensor
    experts: Tensor
    ends: Tensor
    tokens: int

    @classmethod
    def by_expert(cls, chosen: Tensor, count: int) -> Sorted:
        """Of the experts `[N, chosen]` of all tokens, which are different for each token."""
        experts, pairs = chosen.flatten().sort(stable=True)
        ends = torch.searchsorted(experts, torch.arange(count, device=chosen.device), right=True, out_int32=True)
        return cls(pairs, experts, ends, len(chosen))


def products(x: Tensor, stack: Tensor, rows: Sorted) -> Tensor:
    """Rows `[P, K]` in the order of `rows`, each times the transpose of its expert's matrix in `[experts, M, K]`: `[P, M]`."""
    most = tokens_without_host(stack)
    if most is None:
        return grouped(x, stack, rows)
    return padded(x, stack, rows) if rows.tokens <= most else looped(x, stack, rows)


def tokens_without_host(stack: Tensor) -> int | None:
    """For how many tokens the products read no value on the host; None for any number. Never depends on the tokens."""
    steps = (stack.shape[-1] * stack.element_size(), stack.data_ptr())
    is_aligned = stack.is_contiguous() and all(step % _ALIGNMENT_BYTES == 0 for step in steps)
    on_cpu, on_cuda = stack.device.type == "cpu", stack.is_cuda
    if is_aligned and (on_cpu or (on_cuda and _is_native(stack))) and _is_taken(stack.device, stack.dtype):
        return None
    return _PADDED_TOKENS if on_cuda else 0


def grouped(x: Tensor, stack: Tensor, rows: Sorted) -> Tensor:
    return _operation()(x, stack.transpose(-2, -1), offs=rows.ends)  # type: ignore[no-any-return]


def padded(x: Tensor, stack: Tensor, rows: Sorted) -> Tensor:
    begins = F.pad(rows.ends[:-1], (1, 0))
    places = torch.arange(len(x), device=x.device) - begins[rows.experts]
    room = x.new_zeros(len(stack), rows.tokens, x.shape[-1])
    room[rows.experts, places] = x
    return room.bmm(stack.transpose(-2, -1))[rows.experts, places]


def looped(x: Tensor, stack: Tensor, rows: Sorted) -> Tensor:
    ends = rows.ends.tolist()
    spans = [(e, begin, end) for e, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)) if begin < end]
    none = x.new_empty(0, stack.shape[1])
    return torch.cat([none, *(F.linear(x[begin:end], stack[e]) for e, begin, end in spans)])


def _operation() -> Any:
    """torch's grouped product: public since 2.10, private since 2.8; None before."""
    return getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def _is_native(stack: Tensor) -> bool:
    """Whether the grouped product on this GPU is one kernel. Elsewhere torch loops, with the ends copied to the host."""
    return stack.dtype == torch.bfloat16 and torch.cuda.get_device_capability(stack.device)[0] in (9, 10)


@functools.cache
def _is_taken(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this torch has the grouped product on a device at all: tried once, on one row of one expert."""
    if _operation() is None:
        return False
    one = torch.zeros(1, 16, 16, dtype=dtype, device=device)
    try:
        _operation()(one[0, :1], one, offs=torch.ones(1, dtype=torch.int32, device=device))
    except (RuntimeError, TypeError):
        return False
    return True
