"""NVRTC, the CUDA compiler as a library, through ctypes. It needs neither a GPU nor a driver."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dllm_fast.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Sequence

_REPORT = "report it with the output of `dllm-fast doctor`"
#: How to get it.
INSTALL = "pip install nvidia-cuda-nvrtc (CUDA 13) or nvidia-cuda-nvrtc-cu12"


class Nvrtc:
    """The library, through ctypes."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        self.version = f"{major.value}.{minor.value}"
        self.path = path

    def compile(self, name: str, source: bytes, headers: dict[str, bytes], options: Sequence[str]) -> tuple[bytes, str]:
        """Cubin and log.

        Raises:
            KernelError: with the first error of the compiler; a note has all that it said.
        """
        program = ctypes.c_void_p()
        array = ctypes.c_char_p * len(headers)
        texts, names = array(*headers.values()), array(*(name.encode() for name in headers))
        create = self._library.nvrtcCreateProgram
        self._check(create(ctypes.byref(program), source, f"{name}.cu".encode(), len(headers), texts, names))
        try:
            flags = [option.encode() for option in options]
            status = self._library.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
            log = self._read(program, "nvrtcGetProgramLog").rstrip(b"\0").decode(errors="replace")
            if status != 0:
                arch = options[0].removeprefix("-arch=")
                # An instruction that an architecture lacks is reported once for each use, thousands of times.
                first = next((line.strip() for line in log.splitlines() if "error" in line), self._text(status))
                failed = KernelError(f"NVRTC {self.version} must compile {name} for {arch}, got: {first}; {_REPORT}")
                failed.add_note(log)
                raise failed
            return self._read(program, "nvrtcGetCUBIN"), log
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def known(self) -> list[int]:
        """The architectures that it compiles for, as numbers: 90 for sm_90 and sm_90a."""
        count = ctypes.c_int()
        self._check(self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        numbers = (ctypes.c_int * count.value)()
        self._check(self._library.nvrtcGetSupportedArchs(numbers))
        return list(numbers)

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, what)(program, buffer))
        return buffer.raw

    def _text(self, status: int) -> str:
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        text: bytes = self._library.nvrtcGetErrorString(status)
        return text.decode()

    def _check(self, status: int) -> None:
        if status != 0:
            raise KernelError(f"NVRTC must answer, got {self._text(status)}; reinstall it: {INSTALL}")


def _candidates() -> list[str]:
    """Where the library may be: NVIDIA's wheels (torch brings one), a CUDA toolkit, the loader's own places."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    found = [path for folder in folders for path in sorted(folder.glob("*/lib/libnvrtc.so.*"), reverse=True)]
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            found += sorted(Path(home, "lib64").glob("libnvrtc.so.*"), reverse=True)
    found += sorted(Path("/usr/local/cuda/lib64").glob("libnvrtc.so.*"), reverse=True)
    return [*map(str, found), "libnvrtc.so.13", "libnvrtc.so.12"]


@cache
def nvrtc() -> Nvrtc:
    """The compiler.

    Raises:
        KernelError: there is none.
    """
    for candidate in _candidates():
        try:
            # The compiler opens its own second half by name, which only works if that is loaded already.
            for second_half in sorted(Path(candidate).parent.glob("libnvrtc-builtins.so.*")):
                ctypes.CDLL(str(second_half), ctypes.RTLD_GLOBAL)
            return Nvrtc(candidate)
        except OSError:
            continue
    raise KernelError(f"compiling kernels needs NVRTC, got no libnvrtc; {INSTALL}")
