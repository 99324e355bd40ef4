"""Programmatic dependent launch through the driver, which CuPy has no call for: the switch `pdl`.

A kernel launched so may be set up, and begin, while the one before it on the stream still runs. What makes that safe lies in
the kernels: each begins with `wait_for_kernels_before` (cuda/include/dllm/ptx.cuh). Kernels of others on the same stream are
launched the usual way and wait for ours to end. In a capture the edge between two nodes of the graph becomes such a one.

The structures are those of cuda.h; a test compares them with it.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

from dllm_fast.errors import KernelError

if TYPE_CHECKING:
    from dllm_fast.kernels.launches import Launch

#: The oldest devices that have it.
DEPENDENT_CAPABILITY = (9, 0)
_PROGRAMMATIC_STREAM_SERIALIZATION = 6


class AttributeValue(ctypes.Union):
    """CUlaunchAttributeValue."""

    _fields_ = (("programmaticStreamSerializationAllowed", ctypes.c_int), ("pad", ctypes.c_char * 64))


class Attribute(ctypes.Structure):
    """CUlaunchAttribute. What its value holds is aligned to eight bytes."""

    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", AttributeValue))


class Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("gridDimX", ctypes.c_uint),
        ("gridDimY", ctypes.c_uint),
        ("gridDimZ", ctypes.c_uint),
        ("blockDimX", ctypes.c_uint),
        ("blockDimY", ctypes.c_uint),
        ("blockDimZ", ctypes.c_uint),
        ("sharedMemBytes", ctypes.c_uint),
        ("hStream", ctypes.c_void_p),
        ("attrs", ctypes.POINTER(Attribute)),
        ("numAttrs", ctypes.c_uint),
    )


class Driver:
    """The driver, through ctypes."""

    def __init__(self, library: Any) -> None:
        self._library = library
        try:
            self._launch = library.cuLaunchKernelEx
        except AttributeError as error:
            raise KernelError(
                "the switch pdl needs cuLaunchKernelEx, got a driver older than CUDA 12; update it, or leave pdl out"
            ) from error
        self._launch.argtypes = [ctypes.POINTER(Config), ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p]
        serialization = Attribute(id=_PROGRAMMATIC_STREAM_SERIALIZATION)
        serialization.value.programmaticStreamSerializationAllowed = 1
        self._attributes = (Attribute * 1)(serialization)

    def launch(self, launch: Launch, function: int, stream: int) -> None:
        """Queues a launch that may begin before what is queued ahead of it has ended.

        Args:
            launch: the kernel's grid and arguments.
            function: the driver's handle of the kernel.
            stream: the driver's handle of the stream.

        Raises:
            KernelError: the driver refuses.
        """
        config = Config(*launch.grid, *launch.block, launch.shared_bytes, stream, self._attributes, 1)
        arguments = launch.arguments
        # The driver copies the arguments before it returns.
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        status = self._launch(ctypes.byref(config), function, addresses, None)
        if status != 0:
            raise KernelError(
                f"the driver must launch {launch.kernel} with the switch pdl, got {self._name(status)}; "
                "leave pdl out of DLLM_FAST_TRY, and report it with this text"
            )

    def _name(self, status: int) -> str:
        name = ctypes.c_char_p()
        self._library.cuGetErrorName(ctypes.c_int(status), ctypes.byref(name))
        return name.value.decode() if name.value else f"error {status}"


@cache
def driver() -> Driver:
    """The driver of this machine.

    Raises:
        KernelError: there is none, or it is too old.
    """
    try:
        return Driver(ctypes.CDLL("libcuda.so.1"))
    except OSError as error:
        raise KernelError(f"the switch pdl needs the CUDA driver, got {error}; install it, or leave pdl out") from error
