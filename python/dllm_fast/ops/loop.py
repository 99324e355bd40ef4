"""Steps that follow each other on the device without the host: what each gave is kept, and read when the loop has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from dllm_fast.kernels import launches
from dllm_fast.ops import launcher
from dllm_fast.ops.shared import Shared

if TYPE_CHECKING:
    from torch import Tensor

    from dllm_fast.ops.commit import Place, Rule

# Steps of a loop at most, and memory for what they give.
_MOST_STEPS, _MOST_BYTES = 32, 1 << 20
_HEADER = 16
_ENDS = Shared(most=64)


class Log:
    """Room for the outcomes of the steps of a loop, and the count of them, side by side, so that one copy moves all.

    Attributes:
        most: steps that there is room for; with less than two a loop is not worth it.
    """

    def __init__(self, outcome: Tensor, rule: Rule) -> None:
        """For outcomes such as this one, uint8, whose size 8 divides, of steps that commit by a rule."""
        self.most = min(_MOST_STEPS, _MOST_BYTES // outcome.numel())
        self._size = outcome.numel()
        self._buffer = torch.zeros(_HEADER + self.most * self._size, dtype=torch.uint8, device=outcome.device)
        self._state = self._buffer[:8].view(torch.int32)
        self._rule = rule
        self._asked = 0
        self._ends = _ENDS.get(rule.ends, outcome.device, lambda: _on(outcome.device, rule.ends)) if rule.ends else None

    def begin(self, most: int) -> None:
        """Before a loop of at most so many steps."""
        self._asked = min(most, self.most)
        launcher.fill(self._state, np.array([0, self._asked], dtype=np.int32))

    def queue(self, place: Place, cells: Tensor, outcome: Tensor, *, handle: int, least: int) -> None:
        """Queues the end of a step.

        Args:
            place: of its commit.
            cells: that it wrote into.
            outcome: what it gave.
            handle: of the condition of the loop.
            least: with so many masks left, or fewer, the next step is one of another shape.
        """
        found = place.addresses()
        buffers = launches.LoopBuffers(
            outcome=outcome.data_ptr(),
            log=self._buffer.data_ptr() + _HEADER,
            state=self._buffer.data_ptr(),
            ends=0 if self._ends is None else self._ends.data_ptr(),
            cells=cells.data_ptr(),
            **{name: found[name] for name in ("site_start", "cell", "committed", "masks_left")},
        )
        queued = launches.loop(
            buffers,
            handle=handle,
            words=self._size // 8,
            rows=place.rows,
            mask_id=self._rule.mask_id,
            end_count=len(self._rule.ends),
            least=least,
        )
        launcher.launch(queued, cells.device)

    def kept(self) -> Kept:
        """What a loop that was queued gives."""
        return Kept(launcher.HostCopy(self._buffer), self._size, self._asked)


class Kept:
    """The steps of a loop on their way to the host."""

    def __init__(self, copy: launcher.HostCopy, size: int, asked: int) -> None:
        self._copy, self._size, self._asked = copy, size, asked

    def __len__(self) -> int:
        """How many there are. Waits for the loop."""
        return int(self._copy.wait()[:8].view(torch.int32)[0])

    @property
    def is_cut_short(self) -> bool:
        """Did the loop end by itself, before it had made all the steps that were asked for? Waits for it."""
        return len(self) < self._asked

    def step(self, index: int) -> Part:
        """The outcome of a step, not waited for."""
        return Part(self._copy, _HEADER + index * self._size, self._size)


class Part(launcher.HostCopy):
    """Some bytes of a copy to the host."""

    def __init__(self, whole: launcher.HostCopy, begin: int, size: int) -> None:
        self._whole, self._begin, self._size = whole, begin, size

    def wait(self) -> Tensor:
        """These bytes, once they are there."""
        return self._whole.wait()[self._begin : self._begin + self._size]


def _on(device: torch.device, ids: tuple[int, ...]) -> Tensor:
    return launcher.to_device(torch.tensor(ids, dtype=torch.int64), device)
