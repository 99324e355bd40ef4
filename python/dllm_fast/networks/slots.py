"""Keys and values by absolute position."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from dllm_fast.networks.batch import Network


class SlotCache:
    """A buffer of slots for the keys and values of every layer: slot p of a line belongs to position p of its row.

    One slot more than `length`, `spare`, takes what padding queries write. Memory:
    `2 * layers * lines * kv_heads * (length + 1) * head_dim` numbers.
    """

    def __init__(self, network: Network, lines: int, length: int, *, dtype: torch.dtype, device: torch.device) -> None:
        shape = (network.layers, lines, network.kv_heads, length + 1, network.head_dim)
        # Zeros, not whatever memory holds: a slot that no query may see still meets a weight of 0, and 0 * nan is nan.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.ids = torch.zeros(lines, length + 1, dtype=torch.int64, device=device)
        self.spare = length

    def write(self, layer: int, slots: Tensor | slice, key: Tensor, value: Tensor, seen: int) -> tuple[Tensor, Tensor]:
        """Puts `[B, kv_heads, Q, D]` into the slots `[B, Q]` of the first B lines.

        A slice stands for the same slots in every line: a plain copy, several times faster than one by index.

        Returns:
            Keys and values `[B, kv_heads, seen, D]` of the first `seen` slots, as views.
        """
        rows = key.shape[0]
        keys, values = self.keys[layer, :rows], self.values[layer, :rows]
        if isinstance(slots, slice):
            keys[:, :, slots], values[:, :, slots] = key, value
        else:
            lines = torch.arange(rows, device=slots.device)[:, None]
            keys[lines, :, slots] = key.transpose(1, 2)
            values[lines, :, slots] = value.transpose(1, 2)
        return keys[:, :, :seen], values[:, :, :seen]

    def note(self, slots: Tensor | slice, ids: Tensor, seen: int) -> Tensor:
        """Puts tokens `[B, Q]` into the slots, as `write`; gives the tokens `[B, seen]` of the first `seen` slots.

        For networks in which a token's features depend on tokens that it does not attend to in the same forward.
        """
        rows = len(ids)
        if isinstance(slots, slice):
            self.ids[:rows, slots] = ids
        else:
            self.ids[:rows].scatter_(1, slots, ids)
        return self.ids[:rows, :seen]

    def take(self, other: SlotCache, source: Tensor, target: Tensor, length: int) -> None:
        """Gives the lines `target` what stands in the first `length` slots of `source`, lines of another cache or of this."""
        self.keys[:, target, :, :length] = other.keys[:, source, :, :length]
        self.values[:, target, :, :length] = other.values[:, source, :, :length]
        self.ids[target, :length] = other.ids[source, :length]

    def keep(self, lines: Tensor) -> None:
        """Moves these lines to the front, in this order; the lines behind them are free."""
        count = len(lines)
        self.keys[:, :count] = self.keys[:, lines]
        self.values[:, :count] = self.values[:, lines]
        self.ids[:count] = self.ids[lines]
