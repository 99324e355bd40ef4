"""Where the queries of a forward are, and what they see: the same from step to step while nothing but tokens changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from dllm_fast.networks.batch import Batch
from dllm_fast.ops import launcher
from dllm_fast.runners.shapes import Inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast.networks.slots import SlotCache
    from dllm_fast.networks.visible import AttentionRule
    from dllm_fast.runners.caches import Span

    Ints = NDArray[np.int64]


class Layout:
    """Queries of some rows of different length: padding stands behind the shorter ones, and nobody sees it.

    Args:
        rule: says what a query sees.
        span: which positions go through the network.
        lengths: of the canvases.
        cache: where they write, or None.
        device: of the network.
        shadow: positions of each row that are asked a second time, from behind a mask, `[n, S]`, -1 for padding; None for none.
    """

    def __init__(
        self,
        rule: AttentionRule,
        span: Span,
        lengths: Ints,
        cache: SlotCache | None,
        device: torch.device,
        *,
        shadow: Ints | None = None,
    ) -> None:
        begin, end = span.begin[:, None], span.end[:, None]
        width = int((span.end - span.begin).max())
        positions = begin + np.arange(width)
        seen = rule.end(positions, span.origin, span.end, lengths)
        slots = positions
        real = positions < end
        if real.all():
            keys = width if cache is None else int(seen.max())
        else:
            keys = width if cache is None else int(seen[real].max())
            if cache is not None:
                slots = np.where(real, positions, cache.spare)
            # Padding stays inside the context, and sees everything, so that no softmax runs over nothing.
            positions, seen = np.where(real, positions, np.minimum(positions, keys - 1)), np.where(real, seen, keys)
        if shadow is not None:
            again = np.maximum(shadow, 0)
            sees = np.where(shadow < 0, keys, rule.end(again, span.origin, span.end, lengths))
            positions, seen = np.concatenate((positions, again), axis=1), np.concatenate((seen, sees), axis=1)
        self._span, self._shadow = span, shadow
        self._positions, self._end, self._keys = positions, seen, keys
        self._slots = None if cache is None else slots
        self._origin = span.origin[:, None] if rule.has_canvas else None
        self._device = device
        self._batch: Batch | None = None

    def is_of(self, span: Span) -> bool:
        """Are these the queries of that span, of the same rows?"""
        mine = self._span
        if span is mine:
            return True
        if self._origin is not None and (span.origin != mine.origin).any():
            return False
        return bool((span.begin == mine.begin).all() and (span.end == mine.end).all())

    def inputs(self, ids: Ints, lines: Ints) -> Inputs:
        """With tokens `[B, Q]`, and the lines of the features that are scored."""
        return Inputs(ids=ids, positions=self._positions, end=self._end, slots=self._slots, keys=self._keys, lines=lines)

    def batch(self, ids: Tensor, cache: SlotCache | None, soft: Tensor | None = None) -> Batch:
        """What a network takes for these tokens, and for what it predicted of them."""
        self._batch = self._first(ids, cache, soft) if self._batch is None else self._batch.with_ids(ids, soft)
        return self._batch

    def _first(self, ids: Tensor, cache: SlotCache | None, soft: Tensor | None) -> Batch:
        slots = None
        if self._slots is not None:
            begin, width = int(self._slots[0, 0]), self._slots.shape[1]
            # Where all rows write the same slots, as a single row always does: a plain copy is faster.
            is_slice = (self._slots == np.arange(begin, begin + width)).all()
            slots = slice(begin, begin + width) if is_slice else self._to_device(self._slots)
        return Batch(
            ids=ids,
            positions=self._to_device(self._positions),
            end=None if (self._end == self._keys).all() else self._to_device(self._end),
            cache=cache,
            slots=slots,
            keys=self._keys,
            origin=None if self._origin is None else self._to_device(self._origin),
            soft=soft,
            shadow=None if self._shadow is None else self._to_device(self._shadow),
        )

    def _to_device(self, array: Ints) -> Tensor:
        return launcher.to_device(torch.from_numpy(np.array(array)), self._device)
