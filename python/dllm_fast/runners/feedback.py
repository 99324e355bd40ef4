"""What a network is shown of its own prediction: of each row, features of what the forward before predicted in its canvas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from dllm_fast.ops import launcher
from dllm_fast.runners.lines import ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast._core import Request
    from dllm_fast.networks.batch import Conditioned
    from dllm_fast.runners.caches import Span, Windows

    Ints = NDArray[np.int64]


class Feedback:
    """Features `[rows, canvas, H]` of one run: rows that have left are forgotten, a row whose canvas is new has none.

    Args:
        network: that is shown them.
        suppressed: tokens that are never written; a prediction has no share of them.
        device: of the network.
    """

    def __init__(self, network: Conditioned, suppressed: Sequence[int], device: torch.device) -> None:
        self._network, self._device = network, device
        self._suppressed = torch.tensor(suppressed, dtype=torch.int64, device=device) if suppressed else None
        self._rows = self._origins = np.zeros(0, dtype=np.int64)
        self._held: Tensor | None = None

    def before(self, at: Windows, span: Span) -> Tensor | None:
        """What a forward shows its queries, `[n, Q, H]`, 0 where there is nothing; None where there is nothing at all."""
        held, width = self._held, int((span.end - span.begin).max())
        if held is None:
            return None
        is_same = np.array_equal(self._rows, at.rows) and np.array_equal(self._origins, span.origin)
        if is_same and held.shape[1] == width and (span.begin == span.origin).all():
            return held
        shown = held.new_zeros(len(at.rows) * width, held.shape[2])
        line = np.minimum(np.searchsorted(self._rows, at.rows), len(self._rows) - 1)
        stays = np.flatnonzero((self._rows[line] == at.rows) & (self._origins[line] == span.origin))
        line, origin, begin = line[stays], span.origin[stays], span.begin[stays]
        counts = span.end[stays] - origin
        source, target = ranges(line * held.shape[1], counts), ranges(stays * width + origin - begin, counts)
        known = held.flatten(0, 1).index_select(0, self._to_device(source))
        return shown.index_copy_(0, self._to_device(target), known).view(len(at.rows), width, -1)

    def after(self, request: Request, at: Windows, span: Span, logits: Tensor) -> None:
        """Keeps what the logits `[N, V]` of the requested positions predict. Suppressed tokens become impossible in place."""
        if self._suppressed is not None:
            logits.index_fill_(1, self._suppressed, -torch.inf)
        rows = len(request.rows)
        line = np.repeat(np.arange(rows), request.counts)
        width = int((span.end - span.origin).max())
        cell = line * width + np.concatenate(request.positions) - span.origin[line]
        # At temperature 0 the token is the likeliest; what is known of the others is said by the logits as they are.
        temperatures = np.where(request.temperatures > 0, request.temperatures, 1.0).astype(np.float32)
        features = self._network.soft(logits, self._to_device(temperatures[line]))
        held = features.new_zeros(rows * width, features.shape[1])
        self._held = held.index_copy_(0, self._to_device(cell), features).view(rows, width, -1)
        self._rows, self._origins = at.rows, span.origin

    def _to_device(self, array: NDArray[np.int64] | NDArray[np.float32]) -> Tensor:
        return launcher.to_device(torch.from_numpy(array), self._device)
