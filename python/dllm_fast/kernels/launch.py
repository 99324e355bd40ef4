"""Kernels on a device: loaded and launched through CuPy, which is imported inside functions of this file only."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dllm_fast import switches
from dllm_fast.kernels import cubins
from dllm_fast.kernels.build import compile_missing, compile_text
from dllm_fast.kernels.device import architecture
from dllm_fast.kernels.driver import DEPENDENT_CAPABILITY, driver

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from dllm_fast.kernels.launches import Launch

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
    """A kernel loaded on a device, which must be current, with leave to use so much shared memory."""
    kernels = load(source, device).get_function(kernel)
    if shared_bytes > _STATIC_SHARED_BYTES:
        kernels.max_dynamic_shared_size_bytes = shared_bytes
    return kernels.kernel


class _Stream(NamedTuple):
    """What CuPy needs to know of torch's stream."""

    ptr: int


def run(launches: Iterable[Launch], device: int) -> None:
    """Queues launches on torch's current stream of a device. Does not wait for them.

    Raises:
        KernelError: the driver refuses one, where it is asked directly. CuPy and the driver have errors of their own.
    """
    import torch

    # Asked for each time, because a capture changes it.
    stream = _Stream(torch.cuda.current_stream(device).cuda_stream)
    is_dependent = switches.is_on("pdl") and torch.cuda.get_device_capability(device) >= DEPENDENT_CAPABILITY
    # CuPy loads and launches on the device that is current.
    with contextlib.nullcontext() if torch.cuda.current_device() == device else torch.cuda.device(device):
        for launch in launches:
            function = _function(launch.source, launch.kernel, launch.shared_bytes, device)
            if is_dependent:
                driver().launch(launch, function.ptr, stream.ptr)
            else:
                arguments = tuple([_CONVERTERS[type(argument)](argument) for argument in launch.arguments])
                function(launch.grid, launch.block, arguments, shared_mem=launch.shared_bytes, stream=stream)


class _Converters(dict[type, Callable[[Any], Any]]):
    """From ctypes arguments to what CuPy passes with the same bytes. Arrays are structures that go by value.

    CuPy takes Python's own numbers as eight bytes, NumPy's scalars and arrays of one element by their own size.
    """

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        if not issubclass(kind, ctypes.Array):
            raise KeyError(kind)
        dtype = np.dtype(f"V{ctypes.sizeof(kind)}")
        found = self[kind] = functools.partial(np.frombuffer, dtype=dtype)
        return found


_CONVERTERS = _Converters(
    {
        ctypes.c_void_p: lambda argument: argument.value or 0,
        ctypes.c_int64: lambda argument: argument.value,
        ctypes.c_double: lambda argument: argument.value,
        ctypes.c_uint64: lambda argument: np.uint64(argument.value),
        ctypes.c_int32: lambda argument: np.int32(argument.value),
        ctypes.c_float: lambda argument: np.float32(argument.value),
    }
)
