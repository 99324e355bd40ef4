"""What the distance of a query and a key adds to their score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from dllm_fast.networks.layers import Embedding, Linear

if TYPE_CHECKING:
    from torch import Tensor

    from dllm_fast.networks.batch import Batch, Bias


@dataclass(frozen=True, slots=True)
class Buckets:
    """A number for each head and bucket of distances, the same in all layers: T5's (1910.10683), as MPNet has it.

    Attributes:
        count: buckets, half of them for keys on the right.
        farthest: distance from which on all share the last bucket.
    """

    count: int = 32
    farthest: int = 128

    def table(self, width: int, heads: int, eps: float) -> nn.Module:
        """The weights that all layers share."""
        return Embedding(self.count, heads)

    def bias(self, table: Tensor, batch: Batch) -> Bias:
        """What is added to the scores of all layers."""
        away = batch.positions[..., None] - batch.key_positions()[:, None]
        half = self.count // 2
        exact = half // 2
        near, far = away.abs(), math.log(self.farthest / exact)
        wide = exact + (torch.log(near.float() / exact) / far * (half - exact)).long()
        bucket = (away < 0) * half + torch.where(near < exact, near, wide.clamp(max=half - 1))
        added = table[bucket].movedim(-1, 1)
        return lambda _query, _key: added


@dataclass(frozen=True, slots=True, kw_only=True)
class Disentangled:
    """Content is compared with distances, too: DeBERTa (2006.03654).

    Attributes:
        span: distances on either side that are told apart.
        buckets: distances are counted in so many, exact near by and logarithmic up to `farthest`; 0 for all exact.
        farthest: distance from which on all are alike.
        by_key: distances have keys, which queries meet (`c2p`).
        by_query: distances have queries, which keys meet (`p2c`).
        own_projections: these are made by matrices of their own, not by those of the content.
        is_normed: the table of distances is normed.
    """

    span: int
    buckets: int
    farthest: int
    by_key: bool
    by_query: bool
    own_projections: bool
    is_normed: bool

    def table(self, width: int, heads: int, eps: float) -> nn.Module:
        """The weights that all layers share."""
        parts: dict[str, nn.Module] = {"embeddings": Embedding(2 * self.span, width)}
        if self.is_normed:
            parts["LayerNorm"] = nn.LayerNorm(width, eps=eps)
        return nn.ModuleDict(parts)

    def projections(self, width: int) -> nn.ModuleDict:
        """The weights of one layer."""
        kinds = {"key": self.by_key, "query": self.by_query}
        return nn.ModuleDict({kind: Linear(width, width) for kind, there in kinds.items() if there and self.own_projections})

    def rows(self, table: nn.Module) -> Tensor:
        """A vector for each distance, `[2 * span, width]`."""
        parts = cast(nn.ModuleDict, table)
        rows = cast(nn.Embedding, parts["embeddings"]).weight
        return cast("Tensor", parts["LayerNorm"](rows)) if self.is_normed else rows

    def scale(self, depth: int) -> float:
        """Factor on the scores of heads so wide: as many terms are added as there are kinds."""
        return float((depth * (1 + self.by_key + self.by_query)) ** -0.5)

    def places(self, batch: Batch) -> Tensor:
        """For each query and key the row of their distance, `[B, Q, K]`."""
        away = batch.positions[..., None] - batch.key_positions()[:, None]
        if self.buckets:
            half = self.buckets // 2
            near = away.abs().clamp(min=half - 1)
            grown = torch.log(near / half) / torch.log(torch.tensor((self.farthest - 1) / half)) * (half - 1)
            away = torch.where(near <= half, away, ((grown.ceil() + half) * away.sign()).long())
        return (away + self.span).clamp(0, 2 * self.span - 1)

    def bias(self, rows: Tensor, places: Tensor, projections: nn.ModuleDict, heads: int) -> Bias:
        """What is added to the scores of one layer."""

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (heads, -1)).transpose(0, 1).transpose(1, 2)  # type: ignore[no-untyped-call,no-any-return]

        def added(query: Tensor, key: Tensor) -> Tensor:
            batch, _, queries, depth = query.shape
            spread = places[:, None].expand(batch, heads, queries, key.shape[2])
            terms = []
            if self.by_key:
                terms.append((query @ split(projections["key"](rows))).gather(-1, spread))
            if self.by_query:
                met = key @ split(projections["query"](rows))
                terms.append(met.gather(-1, spread.transpose(2, 3)).transpose(2, 3))
            return sum(terms, start=query.new_zeros(())) * self.scale(depth)

        return added


Relative = Buckets | Disentangled
