"""Whether kernels can be used for a device, and the one door through which operations launch them.

The host emulator of the tests takes the place of both functions, and then every operation runs its kernels on host memory.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast import kernels
from dllm_fast.errors import DllmFastWarning, KernelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast.launches import Launch


def usable(device: torch.device, source: str) -> bool:
    """Can the kernels of a file run on a device? Says once why those of a CUDA device cannot."""
    return device.type == "cuda" and _load(source, torch.cuda.current_device() if device.index is None else device.index)


@cache
def _load(source: str, device: int) -> bool:
    found = kernels.problem(device)
    if found is None:
        try:
            kernels.load(source, device)
        # CuPy and the driver have errors of their own. Whatever it is, torch can do the work.
        except Exception as error:
            remedy = "report it with this text" if isinstance(error, KernelError) else "see `dllm-fast doctor`"
            found = f"{type(error).__name__}: {error}", remedy
    if found is not None:
        _warn(*found)
    return found is None


@cache
def _warn(why: str, remedy: str) -> None:
    """Once for each reason, not for each kernel."""
    warnings.warn(f"dllm_fast runs without its CUDA kernels, which is slower: {why}; {remedy}", DllmFastWarning, stacklevel=6)


def launch(launches: Iterable[Launch], device: torch.device) -> None:
    """Queues launches on torch's current stream of a device. Does not wait for them."""
    kernels.run(launches, torch.cuda.current_device() if device.index is None else device.index)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, without waiting for the copy."""
    if device.type != "cuda":
        return values.to(device)
    # Torch keeps pinned memory from being used again until copies out of it are done.
    return values.pin_memory().to(device, non_blocking=True)


def fill(target: Tensor, values: NDArray[Any]) -> None:
    """Copies an array of the host into a buffer of a device, without waiting for it."""
    source = torch.from_numpy(values)
    target.copy_(source.pin_memory() if target.device.type == "cuda" else source, non_blocking=True)


class HostCopy:
    """A tensor on its way to the host, as it is now: what is queued behind does not reach the copy."""

    def __init__(self, values: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        if values.device.type != "cuda":
            self._values = values.clone()
            return
        pinned = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
        self._values = pinned.copy_(values, non_blocking=True)
        self._done = torch.cuda.Event()
        self._done.record(torch.cuda.current_stream(values.device))

    def wait(self) -> Tensor:
        """The copy, once it is there."""
        if self._done is not None:
            self._done.synchronize()
            self._done = None
        return self._values
