"""Tensors of a device that are made once and read by all: by several models, threads and streams.

Whoever makes one waits for the device before anybody else can have it, so nobody reads what a copy on another stream has not
written yet. A tensor that is dropped while somebody reads it keeps its memory until then: the allocator knows the streams of
its readers, and a graph, which knows its address, holds the tensor itself.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import torch

from dllm_fast._core import Lock

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from torch import Tensor

    # By the id of their `Shared`, of which there are a few that stay, key and device.
    Kept = dict[tuple[int, Hashable, torch.device], Tensor]

_readers = threading.local()


class Shared:
    """Tensors by what they were made from; of more than `most` the one that was used longest ago goes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: dict[tuple[Hashable, torch.device], Tensor] = {}
        self._lock = Lock()  # a signal handler, or what is collected, may want one while its thread makes one

    def get(self, key: Hashable, device: torch.device, make: Callable[[], Tensor], least: int = 0) -> Tensor:
        """The tensor of a key on a device.

        Args:
            key: what it depends on.
            device: where it is to be.
            make: makes one of at least `least` rows, on the current stream of the device. Its rows must not depend on their
                number: one with more takes the place of this one.
            least: rows that the caller reads.
        """
        device = _with_index(device)
        kept: Kept | None = getattr(_readers, "kept", None)
        held = None if kept is None else kept.get((id(self), key, device))
        if held is not None and len(held) >= least:
            return held
        with self._lock.held():
            found = self._made.pop((key, device), None)
            if found is None or len(found) < least:
                # Somebody may train with it, which tensors of inference mode do not allow.
                with torch.inference_mode(mode=False), torch.no_grad(), _making():
                    found = make()
                finish(device)
            self._made[key, device] = found
            if len(self._made) > self._most:
                del self._made[next(iter(self._made))]
        if kept is None:
            note_reader(found)
        else:
            kept[id(self), key, device] = found
        return found


@contextlib.contextmanager
def keeping(kept: Kept) -> Iterator[None]:
    """Around what may be captured: shared tensors that this thread takes inside are held by their owner.

    The next time it takes the same ones, whatever others have made or dropped meanwhile: in a capture nothing can be made.
    """
    before = getattr(_readers, "kept", None)
    _readers.kept = kept
    try:
        yield
    finally:
        _readers.kept = before


def is_making() -> bool:
    """Is this thread making one? What it does for that is done once, and no part of the forward that wanted it."""
    return getattr(_readers, "is_making", False)


@contextlib.contextmanager
def _making() -> Iterator[None]:
    before = is_making()
    _readers.is_making = True
    try:
        yield
    finally:
        _readers.is_making = before


def finish(device: torch.device) -> None:
    """Waits for what this thread has queued on a device."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def note_reader(tensor: Tensor) -> None:
    """Keeps the memory of a tensor from being used again before the current stream has done what is queued by now."""
    if tensor.device.type == "cuda":
        tensor.record_stream(torch.cuda.current_stream(tensor.device))


def _with_index(device: torch.device) -> torch.device:
    """`cuda` is the current one, which can be another one tomorrow."""
    is_open = device.type == "cuda" and device.index is None
    return torch.device("cuda", torch.cuda.current_device()) if is_open else device
