"""What positions turn by, looked up: one lookup a forward in place of a dozen small kernels.

A table has a line for each position, the cosines of its angles and then the sines, computed once from the position alone. It
grows by doubling with the canvases that are asked for; models with equal settings share it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

from dllm_fast.ops.shared import Shared

if TYPE_CHECKING:
    from torch import Tensor

    from dllm_fast.networks.batch import Batch
    from dllm_fast.networks.rotary import Rotary

    # Cosine and sine, `[B, 1, Q, width / 2]` each.
    Pair = tuple[Tensor, Tensor]

_LEAST_LINES = 256
# A model has one to three.
_TABLES = Shared(most=32)


def look_up(rotary: Rotary, batch: Batch, *, dtype: torch.dtype = torch.float32, via: torch.dtype | None = None) -> Tensor:
    """Cosines and then sines of the queries of a batch, `[B, Q, rotary.width]`, rounded to `via` and then to `dtype`."""
    via = dtype if via is None else via
    make = functools.partial(_angles, rotary, _lines(batch.below), batch.ids.device, via, dtype)
    table = _TABLES.get((rotary, via, dtype), batch.ids.device, make, least=batch.below)
    return F.embedding(batch.positions, table)


def pair(rotary: Rotary, batch: Batch, *, dtype: torch.dtype = torch.float32, via: torch.dtype | None = None) -> Pair:
    """As `look_up`, as `rotate` and `rotate_pairs` take it."""
    return halves(look_up(rotary, batch, dtype=dtype, via=via))


def halves(angles: Tensor) -> Pair:
    """Cosine and sine `[B, 1, Q, width / 2]` of `[B, Q, width]`."""
    cos, sin = angles[:, None].chunk(2, dim=-1)
    return cos, sin


def growth(rate: float, span: int, batch: Batch, dtype: torch.dtype) -> Tensor:
    """`1 + rate * ln(1 + p // span)` of the positions p of a batch, `[B, 1, Q, 1]`."""
    make = functools.partial(_growth, rate, span, _lines(batch.below), batch.ids.device, dtype)
    table = _TABLES.get(("growth", rate, span, dtype), batch.ids.device, make, least=batch.below)
    return F.embedding(batch.positions, table)[:, None]


class Turns:
    """What a forward turns its queries and keys by, looked up once for all layers, and only in the form that they take."""

    def __init__(self, rotary: Rotary, batch: Batch, dtype: torch.dtype, growth: Tensor | None = None) -> None:
        """`growth` is a factor on the queries, or None."""
        self._rotary, self._batch, self._dtype = rotary, batch, dtype
        self.growth = growth

    @functools.cached_property
    def rounded(self) -> Pair:
        """In the dtype in which torch rotates."""
        return pair(self._rotary, self._batch, dtype=self._dtype)

    @functools.cached_property
    def exact(self) -> Tensor:
        """In float32, as `fused.qkv` takes them."""
        return look_up(self._rotary, self._batch)


def _lines(below: int) -> int:
    """Lines of a table that holds so many positions."""
    return max(1 << max(below - 1, 0).bit_length(), _LEAST_LINES)


def _angles(rotary: Rotary, lines: int, device: torch.device, via: torch.dtype, dtype: torch.dtype) -> Tensor:
    turned = torch.arange(lines, device=device)[:, None].float() * rotary.frequencies(device)
    both = torch.cat((turned.cos() * rotary.magnitude, turned.sin() * rotary.magnitude), dim=-1)
    return both.to(via).to(dtype)


def _growth(rate: float, span: int, lines: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    spans = (torch.arange(lines, device=device) // span).float()
    return (1 + rate * torch.log1p(spans))[:, None].to(dtype)
