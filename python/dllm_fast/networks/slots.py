"""Keys and values by absolute position."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from dllm_fast.networks.batch import Network


class SlotCache:
    """A buffer of slots for the keys and values of every layer: slot p of a line belongs to position p of its row.

    One slot more than `length`, `spare`, takes what padding queries write. Memory:
    `2 * layers * lines * kv_heads * (length + 1) * head_dim` numbers.

    Attributes:
        lines: rows that it has room for.
        keys, values: of each layer, `[lines, kv_heads, length + 1, head_dim]`.
        spare: the slot behind the last.
    """

    def __init__(self, network: Network, lines: int, length: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.lines = lines
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        # Layers of one shape that follow each other lie in one buffer, so that lines are moved in one operation for all.
        self._buffers: list[Tensor] = []
        for (kv_heads, head_dim), group in itertools.groupby(slot_shapes(network)):
            shape = (2, len(list(group)), lines, kv_heads, length + 1, head_dim)
            # Zeros, not whatever memory holds: a slot that no query may see still meets a weight of 0, and 0 * nan is nan.
            buffer = torch.zeros(shape, dtype=dtype, device=device)
            self._buffers.append(buffer)
            self.keys += buffer[0].unbind()
            self.values += buffer[1].unbind()
        self.ids = torch.zeros(lines, length + 1, dtype=torch.int64, device=device)
        self.spare = length

    def write(self, layer: int, slots: Tensor | slice, key: Tensor, value: Tensor, seen: int) -> tuple[Tensor, Tensor]:
        """Puts `[B, kv_heads, Q, D]` into the slots `[B, Q]` of the first B lines.

        A slice stands for the same slots in every line: a plain copy, several times faster than one by index.

        Returns:
            Keys and values `[B, kv_heads, seen, D]` of the first `seen` slots, as views.
        """
        rows = key.shape[0]
        keys, values = self.keys[layer][:rows], self.values[layer][:rows]
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
        for mine, theirs in zip(self._buffers, other._buffers, strict=True):
            mine[:, :, target, :, :length] = theirs[:, :, source, :, :length]
        self.ids[target, :length] = other.ids[source, :length]

    def keep(self, lines: Tensor) -> None:
        """Moves these lines to the front, in this order; the lines behind them are free."""
        count = len(lines)
        for buffer in self._buffers:
            buffer[:, :, :count] = buffer[:, :, lines]
        self.ids[:count] = self.ids[lines]

    def clear(self) -> None:
        """Zeros in every slot."""
        for buffer in self._buffers:
            buffer.zero_()


def slot_shapes(network: Network) -> tuple[tuple[int, int], ...]:
    """Heads of keys and their width, of every layer: alike, but for a network that says them one by one (`slot_shapes`)."""
    shapes: tuple[tuple[int, int], ...] | None = getattr(network, "slot_shapes", None)
    return ((network.kv_heads, network.head_dim),) * network.layers if shapes is None else shapes
