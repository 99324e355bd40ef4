"""Launches emulated kernels: the part that CuPy plays on a GPU."""

from __future__ import annotations

import ctypes
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from . import build

if TYPE_CHECKING:
    from pathlib import Path

    from dllm_fast.kernels.launches import Launch


class EmulatorError(RuntimeError):
    """A kernel did what no kernel may do: the text says what and which thread."""


@cache
def load(library: Path) -> ctypes.CDLL:
    """A library of emulated kernels."""
    return ctypes.CDLL(str(library))


def kernels_of(library: Path) -> set[str]:
    """The kernels of a library, by name."""
    return {name.decode() for name in re.findall(rb"\bemulate_(\w+)\0", library.read_bytes())}


def run(launch: Launch, *, order: int = 0, library: Path | None = None) -> None:
    """Runs one launch to its end.

    Args:
        order: of the threads of a block between two points where they wait. 0: rising, 1: falling, above: shuffled; see
            README.md for what else the number decides.
        library: of the kernel; by default that of `launch.file` in cuda/.

    Raises:
        EmulatorError: threads that wait for ever, or meet at different operations.
    """
    kernels = load(library or build.library(build.KERNELS / f"{launch.file}.cu"))
    expected = getattr(kernels, f"parameters_of_{launch.kernel}")()
    if expected != len(launch.arguments):
        raise EmulatorError(f"{launch.kernel} takes {expected} arguments, got {len(launch.arguments)}")
    three = ctypes.c_uint * 3
    addresses = (ctypes.c_void_p * len(launch.arguments))(*(ctypes.addressof(a) for a in launch.arguments))
    error = ctypes.create_string_buffer(1000)
    emulate: Any = getattr(kernels, f"emulate_{launch.kernel}")
    status = emulate(
        addresses,
        three(*launch.grid),
        three(*launch.block),
        ctypes.c_size_t(launch.shared_bytes),
        ctypes.c_uint(order),
        error,
        ctypes.c_size_t(len(error)),
    )
    if status != 0:
        raise EmulatorError(f"{launch.kernel}: {error.value.decode()}")
