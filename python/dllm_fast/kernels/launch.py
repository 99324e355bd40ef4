"""Kernels on a device: loaded and launched through CuPy, which is imported inside functions of this file only."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

from dllm_fast.kernels import cubins
from dllm_fast.kernels.build import compile_missing, compile_text
from dllm_fast.kernels.device import architecture

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from dllm_fast.launches import Launch

# More than this must be asked for.
_STATIC_SHARED_BYTES = 48 * 1024


def prepare(names: Sequence[str], device: int) -> None:
    """Compiles what is missing of several sources, at once, and loads all of them on a device.

    Raises:
        KernelError: one cannot be compiled. CuPy and the driver have errors of their own.
    """
    compile_missing(names, _architecture(device))
    for name in names:
        load(name, device)


@cache
def load(source: str, device: int) -> Any:
    """The kernels of a source, loaded on a device. Modules belong to the device that was current when they were loaded.

    Raises:
        KernelError: it cannot be compiled. CuPy and the driver have errors of their own.
    """
    arch = _architecture(device)
    shipped = cubins.shipped(source, arch)
    if shipped is None:
        return _module(compile_missing([source], arch)[0].path, device)
    try:
        return _module(shipped.path, device)
    except Exception as error:
        refused = error
    # The driver may be older than the package. What is compiled on this machine suits it, if anything does.
    try:
        found = cubins.cached(source, arch) or cubins.keep(source, arch, *compile_text(source, arch))
        return _module(found.path, device)
    except Exception:
        raise refused from None


def _architecture(device: int) -> str:
    import torch

    return architecture(torch.cuda.get_device_capability(device))


def _module(path: Path, device: int) -> Any:
    import cupy
    import torch

    with torch.cuda.device(device):
        module = cupy.RawModule(path=str(path))
        module.compile()  # loads the file now rather than at the first launch, which a graph may be capturing
        return module


@cache
def _function(source: str, kernel: str, shared_bytes: int, device: int) -> Any:
    """A kernel loaded on a device, with leave to use so much shared memory."""
    function = load(source, device).get_function(kernel)
    if shared_bytes > _STATIC_SHARED_BYTES:
        function.max_dynamic_shared_size_bytes = shared_bytes
    return function


class _Stream:
    """What CuPy needs to know of torch's stream. Asked for at each launch, because a capture changes it."""

    def __init__(self, device: int) -> None:
        import torch

        self.ptr = torch.cuda.current_stream(device).cuda_stream


def run(launches: Iterable[Launch], device: int) -> None:
    """Queues launches on torch's current stream of a device. Does not wait for them."""
    import torch

    stream = _Stream(device)
    with torch.cuda.device(device):  # CuPy loads and launches on the device that is current
        for launch in launches:
            function = _function(launch.source, launch.kernel, launch.shared_bytes, device)
            arguments = tuple(map(_cupy_argument, launch.arguments))
            function(launch.grid, launch.block, arguments, shared_mem=launch.shared_bytes, stream=stream)


def _cupy_argument(argument: Any) -> Any:
    """A ctypes argument as CuPy wants it: NumPy scalars keep their size, where a bare float would go as eight bytes."""
    import numpy as np

    if isinstance(argument, ctypes.c_void_p):
        return np.uint64(argument.value or 0)
    if isinstance(argument, ctypes.Array):
        return np.frombuffer(bytes(argument), dtype=f"V{ctypes.sizeof(argument)}")  # one element goes by value
    return np.dtype(type(argument)).type(argument.value)
