"""Whether kernels can be used for a device, and the one door through which operations launch them.

The host emulator of the tests takes the place of `usable` and `run`, and then every operation runs its kernels on host memory.
What is launched can be counted: a result is right for many reasons, and only the count says that a kernel made it.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast import kernels
from dllm_fast._core import Lock
from dllm_fast.errors import DllmFastWarning, KernelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from dllm_fast.kernels.launches import Launch


def usable(device: torch.device, *sources: str) -> bool:
    """Can the kernels of all these sources (`Launch.source`) run on a device? Says once why those of a CUDA device cannot.

    What has to be compiled is compiled at once, so whoever knows what a model will need asks for all of it.
    """
    return device.type == "cuda" and _load(sources, torch.cuda.current_device() if device.index is None else device.index)


@cache
def _load(sources: tuple[str, ...], device: int) -> bool:
    found = kernels.problem(device)
    if found is None:
        try:
            kernels.prepare(sources, device)
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
    queued = tuple(launches)
    run(queued, device)
    recorded: Counter[str] | None = getattr(_capture, "recorded", None)
    if recorded is not None:
        recorded.update(launch.kernel for launch in queued)
    elif _counters:
        count(Counter(launch.kernel for launch in queued))


def run(launches: Iterable[Launch], device: torch.device) -> None:
    """`launch` but for the counting."""
    kernels.run(launches, torch.cuda.current_device() if device.index is None else device.index)


# --- what was launched

_counters: list[Counter[str]] = []
_counting = Lock()  # a signal handler may launch, too
_capture = threading.local()


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts the launches inside, of all threads, by the name of the kernel.

    A capture launches nothing. A replay counts as the launches that were captured.
    """
    counter: Counter[str] = Counter()
    with _counting.held():
        _counters.append(counter)
    try:
        yield counter
    finally:
        with _counting.held():
            _counters[:] = [other for other in _counters if other is not counter]


@contextlib.contextmanager
def recorded() -> Iterator[Counter[str]]:
    """Around a capture: what this thread launches inside is recorded in the graph and not run, so it counts at replays."""
    counter: Counter[str] = Counter()
    _capture.recorded = counter
    try:
        yield counter
    finally:
        del _capture.recorded


def count(launched: Counter[str]) -> None:
    """Adds launches to all open counts, as a replay has to."""
    if _counters:
        with _counting.held():
            for counter in _counters:
                counter.update(launched)


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
