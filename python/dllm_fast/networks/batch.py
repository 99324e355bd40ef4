"""What one forward computes: some positions of several rows, and which keys each of them sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

from dllm_fast.ops import attention, fallback, fused

if TYPE_CHECKING:
    from torch import Tensor

    from dllm_fast.networks.slots import SlotCache
    from dllm_fast.ops.fused import Heads

    # Of queries [B, heads, Q, D] and the keys [B, heads, K, D] that they meet, what is added to their scores [B, heads, Q, K].
    Bias = Callable[[Tensor, Tensor], Tensor]

# From so many queries on, where every query sees every key, torch has the faster kernels.
_MANY_QUERIES = 256


@runtime_checkable
class Network(Protocol):
    """A transformer in two halves, so that the second is run only on the positions that will be scored.

    Attributes:
        layers, kv_heads, head_dim: the shape of its keys and values, for `SlotCache`.
        vocabulary: columns of its logits.
        context: longest canvas, or None.
    """

    layers: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int | None

    def hidden(self, batch: Batch) -> Tensor:
        """Features `[B, Q, H]` of the queries of a batch, as the head takes them. Attention goes through `batch.attend`."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `[N, V]` of features `[N, H]`, with everything that the model does after its head."""
        ...


@runtime_checkable
class Conditioned(Network, Protocol):
    """A network that is shown what it predicted a step before (self-conditioning, 2208.04202), as `Batch.soft`."""

    def soft(self, logits: Tensor, temperature: Tensor) -> Tensor:
        """Features `[N, H]` of predictions: the token table, weighted by the probabilities of logits `[N, V]`, each line of
        which is divided by its temperature `[N]` first."""
        ...


@dataclass(slots=True, kw_only=True)
class Batch:
    """Q queries of each of B rows. A query has a position and sees a range of key slots, from 0 to its own end.

    Without a cache the keys are those of the queries themselves, and slot j is query j. With one, every query writes its
    key and value into its slot and sees what stands in the cache. Rows with fewer than Q queries are padded with
    queries of slot `cache.spare` (or behind the end of the row) that nobody reads.

    The last S queries of each row may be its shadow: masks at positions where something stands, which see what a token there
    sees, but for that very token, and see each other. Nobody else sees them, and they have no slots.

    Attributes:
        ids: tokens, int64 `[B, Q]`.
        positions: places in the text, from 0 and below the number of slots, int64 `[B, Q]`: what rotary and learned positions
            are made of.
        end: a query sees the slots `[0, end)`, int64 `[B, Q]`, at least 1; None where all see all.
        cache: keys and values that outlive the forward, or None.
        slots: where the queries write, int64 `[B, Q]`, or a slice of length Q for all rows; needed with a cache.
        keys: number of slots that anybody sees; needed with a cache.
        origin: where the canvas that is being filled begins, int64 `[B, 1]`, for a model that reads it otherwise than what lies
            before it (`AttentionRule.has_canvas`); else None.
        soft: what the step before predicted at each query of the canvas, as features `[B, Q, H]`, 0 where there was none
            (`Conditioned`); None where there was none anywhere.
        shadow: positions of the shadow, int64 `[B, S]`, -1 for padding; None for no shadow.
    """

    ids: Tensor
    positions: Tensor
    end: Tensor | None = None
    cache: SlotCache | None = None
    slots: Tensor | slice | None = None
    keys: int | None = None
    origin: Tensor | None = None
    soft: Tensor | None = None
    shadow: Tensor | None = None
    _slots: Tensor | None = field(default=None, repr=False)
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict, repr=False)
    _ranges: dict[int | None, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def with_ids(self, ids: Tensor, soft: Tensor | None = None) -> Batch:
        """The same queries of other tokens."""
        return Batch(
            ids=ids,
            positions=self.positions,
            end=self.end,
            cache=self.cache,
            slots=self.slots,
            keys=self.keys,
            origin=self.origin,
            soft=soft,
            shadow=self.shadow,
            _slots=self._slots,
            _ranges=self._ranges,
        )

    @property
    def own(self) -> int:
        """Queries of a row that are no shadow: the first ones."""
        return self.ids.shape[1] - (0 if self.shadow is None else self.shadow.shape[1])

    @property
    def key_count(self) -> int:
        """Number of slots that anybody sees; slot j stands for position j."""
        return self.own if self.keys is None else self.keys

    def key_positions(self) -> Tensor:
        """The positions of the keys that queries meet, `[1 or B, K]`: of the slots, and behind them of the shadow."""
        slots = torch.arange(self.key_count, device=self.ids.device)[None]
        if self.shadow is None:
            return slots
        return torch.cat((slots.expand(len(self.shadow), -1), self.shadow.clamp(min=0)), dim=1)

    @property
    def below(self) -> int:
        """Positions lie below this: every one has a slot. Known without asking the device."""
        return self.ids.shape[1] if self.cache is None else self.cache.spare + 1

    def row_ids(self) -> Tensor:
        """The tokens of whole rows by slot, `[B, key_count]`: those of the queries, and what the cache saw of the others."""
        ids = self.ids[:, : self.own]
        if self.cache is None:
            return ids
        assert self.slots is not None
        return self.cache.note(self.slots, ids, self.key_count)

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        reach: int | None = None,
        scale: float | None = None,
        bias: Bias | None = None,
    ) -> Tensor:
        """Attention of queries `[B, heads, Q, D]`; keys and values `[B, kv_heads, Q, D]`, each shared by a group of heads.

        Args:
            layer: number of the layer, from 0.
            reach: a query sees only keys at most so many positions away (local attention); None for all. Of a canvas all see as
                far back as its first, and all of it.
            scale: factor on the scores; None for `1 / sqrt(D)`.
            bias: what is added to the scaled scores.

        Returns:
            `[B, heads, Q, D]`.
        """
        key, value = self._known(layer, key, value)
        if bias is None:
            return self._mix(query, key, value, reach, scale)
        fallback.tell(query.device, fallback.BIAS)
        added, seen = bias(query, key), self.mask(reach)
        added = added if seen is None else added.masked_fill(~seen, -torch.inf)
        return F.scaled_dot_product_attention(query, key, value, added.to(query.dtype), scale=scale)

    def attend_projected(self, layer: int, projected: Tensor, heads: Heads, angles: Tensor) -> Tensor:
        """As `attend`, from the projection that `fused.qkv` takes; angles are those of `angles.look_up`, float32."""
        rows, queries, _ = projected.shape
        # A shadow has no slots: what is projected then lies beside the cache first.
        is_beside = self.cache is None or self.shadow is not None
        if self.cache is None or is_beside:
            shape = (rows, heads.keys, queries, heads.depth)
            keys, values = torch.empty((2, *shape), dtype=projected.dtype, device=projected.device)
            seen = queries
        else:
            assert self.keys is not None
            keys, values, seen = self.cache.keys[layer][:rows], self.cache.values[layer][:rows], self.keys
        if self._slots is None:
            slots = slice(0, queries) if is_beside or self.slots is None else self.slots
            if isinstance(slots, slice):
                slots = torch.arange(slots.start, slots.stop, device=projected.device)
            self._slots = slots.int().expand(rows, queries).contiguous()
        query = fused.qkv(projected, heads, angles, self._slots, keys, values)
        if self.shadow is not None:
            return self._mix(query, *self._known(layer, keys, values), None, None)
        return self._mix(query, keys[:, :, :seen], values[:, :, :seen], None, None)

    def _known(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values that queries meet, of those of the queries `[B, kv_heads, Q, D]`: what the cache then holds, and
        the shadow behind it."""
        if self.cache is None:
            return key, value
        assert self.slots is not None
        assert self.keys is not None
        if self.shadow is None:
            return self.cache.write(layer, self.slots, key, value, self.keys)
        (key, shown), (value, held) = (x.tensor_split((self.own,), dim=2) for x in (key, value))
        key, value = self.cache.write(layer, self.slots, key, value, self.keys)
        return torch.cat((key, shown), dim=2), torch.cat((value, held), dim=2)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, reach: int | None, scale: float | None) -> Tensor:
        if self._goes_to_the_kernel(query, key, value, reach):
            scale = query.shape[3] ** -0.5 if scale is None else scale
            return attention.by_kernel(query, key, value, *self.ranges(reach), scale)
        grouped = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(query, key, value, self.mask(reach), scale=scale, enable_gqa=grouped)

    def _goes_to_the_kernel(self, query: Tensor, key: Tensor, value: Tensor, reach: int | None) -> bool:
        if self.shadow is not None:
            fallback.tell(query.device, fallback.SHADOW)
            return False  # the kernel knows ranges of keys alone
        is_dense = self.end is None and reach is None
        return not (is_dense and query.shape[2] >= _MANY_QUERIES) and attention.is_launched(query, key, value)

    def ranges(self, reach: int | None = None) -> tuple[Tensor, Tensor]:
        """Which slots each query sees as `[begin, end)`, both int32 `[B, Q]`, made once a forward."""
        if reach not in self._ranges:
            keys = self.key_count
            begin = torch.zeros_like(self.positions)
            end = torch.full_like(self.positions, keys) if self.end is None else self.end.clamp(max=keys)
            if reach is not None:
                # Slots stand for positions, as in `_mask`.
                begin = (self._looks_from() - reach).clamp(min=0)
                end = end if self.origin is not None else end.minimum(self.positions + reach + 1)
            self._ranges[reach] = begin.int(), end.int()
        return self._ranges[reach]

    def mask(self, reach: int | None = None) -> Tensor | None:
        """Which slot each query sees, bool `[B, 1, Q, K]`, made once a forward; None where all see all."""
        if reach not in self._masks:
            self._masks[reach] = self._mask(reach)
        return self._masks[reach]

    def _mask(self, reach: int | None) -> Tensor | None:
        if self.shadow is not None:
            return self._mask_of_shadow(self.shadow, reach)
        if self.end is None and reach is None:
            return None
        slots = torch.arange(self.key_count, device=self.ids.device)
        seen = torch.ones((), dtype=torch.bool, device=self.ids.device)
        if self.end is not None:
            seen = slots < self.end[:, :, None]
        if reach is not None:
            # Slots stand for positions: only a model that reorders its tokens separates the two, and none such is local.
            away = slots - self._looks_from()[:, :, None]
            seen = seen & ((away.abs() <= reach) if self.origin is None else (away >= -reach))
        return seen[:, None]

    def _mask_of_shadow(self, shadow: Tensor, reach: int | None) -> Tensor:
        """The same over slots and shadow, bool `[B, 1, Q, K + S]`. Padding of the shadow sees what tokens see."""
        assert self.origin is None  # no canvas is of masks
        hidden = F.pad(shadow, (self.own, 0), value=-1)[:, :, None]
        places = self.key_positions()[:, None]
        end = self.key_count if self.end is None else self.end[:, :, None]
        seen = (places < end).expand(-1, self.ids.shape[1], -1)
        if reach is not None:
            seen = seen & ((places - self.positions[:, :, None]).abs() <= reach)
        slots, others = seen.tensor_split((self.key_count,), dim=2)
        slots = slots & (places[:, :, : self.key_count] != hidden)
        return torch.cat((slots, others & (hidden >= 0) & (shadow >= 0)[:, None]), dim=2)[:, None]

    def _looks_from(self) -> Tensor:
        """From where the reach of a query counts."""
        return self.positions if self.origin is None else self.positions.minimum(self.origin)
