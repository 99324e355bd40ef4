"""The CUDA kernels: their sources in the package, compiled by NVRTC to cubin, cached, and loaded through CuPy.

Compiling needs neither a GPU nor a driver, so `dllm-fast kernels compile` also warms the cache on a machine without one.
CuPy's own compiler cannot target sm_90a or sm_100a; it loads what is compiled here. CuPy is imported inside functions only.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dllm_fast.errors import KernelError
from dllm_fast.nvrtc import INSTALL, nvrtc

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.resources.abc import Traversable

    from dllm_fast.launches import Launch

#: Compiled for by default: A100 and its generation, H100 and H200, B200.
ARCHITECTURES = ("sm_80", "sm_90a", "sm_100a")
#: The oldest compute capability with the instructions that the kernels use.
OLDEST_CAPABILITY = (8, 0)
# More than this must be asked for.
_STATIC_SHARED_BYTES = 48 * 1024
_FLAGS = ("-std=c++17", "--ptxas-options=-v")


@dataclass(frozen=True, slots=True)
class Usage:
    """What ptxas says about one kernel: registers of a thread, spilled and stack bytes of a thread, shared bytes of a block."""

    source: str
    kernel: str
    arch: str
    registers: int
    spills: int
    shared_bytes: int
    stack_bytes: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """A cubin on disk and what it uses."""

    path: Path
    usage: tuple[Usage, ...]


# --- sources


def _folder() -> Traversable:
    return files("dllm_fast") / "cuda"


def sources() -> list[str]:
    """What is compiled: the files of kernels, without their suffix, or file.part where a file has parts.

    A file names its parts itself, where it guards them with `#if DLLM_BUILDS(PART)` (cuda/include/dllm/platform.cuh).
    """
    names = sorted(entry.name.removesuffix(".cu") for entry in _folder().iterdir() if entry.name.endswith(".cu"))
    return [unit for name in names for unit in ([f"{name}.{part}" for part in _parts(name)] or [name])]


@cache
def _parts(file: str) -> tuple[str, ...]:
    guards = (line for line in _source(file).decode().splitlines() if line.startswith("#if"))
    return tuple(dict.fromkeys(part.lower() for line in guards for part in re.findall(r"\bDLLM_BUILDS\((\w+)\)", line)))


@cache
def _source(file: str) -> bytes:
    return (_folder() / f"{file}.cu").read_bytes()


@cache
def _headers() -> dict[str, bytes]:
    """Headers by the name under which kernels include them."""
    folder = _folder() / "include" / "dllm"
    return {f"dllm/{entry.name}": entry.read_bytes() for entry in sorted(folder.iterdir(), key=lambda e: e.name)}


# --- cubins


def cache_folder() -> Path:
    """Where cubins are kept: $XDG_CACHE_HOME/dllm_fast/cubin."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "dllm_fast" / "cubin"


def compile_kernels(name: str, arch: str) -> Compiled:
    """The cubin of a source (one of `sources`) for an architecture, from the cache if it is there.

    Raises:
        KernelError: no NVRTC, an architecture that it or the kernels do not know, or a file that does not compile.
    """
    if (found := cached(name, arch)) is not None:
        return found
    check_architecture(arch)
    cubin, log = nvrtc().compile(name, _source(_file(name)), _headers(), _options(name, arch))
    path = _cubin_path(name, arch)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, cubin)
        _write(path.with_suffix(".log"), log.encode())
    except OSError:
        # A folder that cannot be written to costs the next process a compilation, nothing more.
        path = _process_folder() / path.name
        path.write_bytes(cubin)
    return Compiled(path, _usage(name, arch, log))


def compile_with_notice(name: str, arch: str) -> Compiled:
    """`compile_kernels`, with a line on standard error where something has to be compiled: that takes up to half a minute."""
    if cached(name, arch) is None:
        print(f"dllm_fast: compiling {name} for {arch}, once (ahead: dllm-fast kernels compile)", file=sys.stderr, flush=True)
    return compile_kernels(name, arch)


def cached(name: str, arch: str) -> Compiled | None:
    """What has been compiled before of a source for an architecture, or None.

    Raises:
        KernelError: no NVRTC, whose version decides what a cubin can be used for.
    """
    path = _cubin_path(name, arch)
    try:
        log = path.with_suffix(".log").read_text(encoding="utf-8")
    except OSError:
        return None
    return Compiled(path, _usage(name, arch, log)) if path.is_file() else None


def check_architecture(arch: str) -> None:
    """Refuses an architecture that the kernels or NVRTC cannot be compiled for.

    Raises:
        KernelError: it is older than the kernels' instructions, newer than NVRTC, or no architecture.
    """
    oldest = OLDEST_CAPABILITY[0] * 10 + OLDEST_CAPABILITY[1]
    known = re.fullmatch(r"sm_(\d+)[af]?", arch)
    if known is None or int(known[1]) < oldest:
        raise KernelError(f"an architecture must be sm_{oldest} or newer, got {arch}; use some of {', '.join(ARCHITECTURES)}")
    numbers = nvrtc().known()
    if int(known[1]) not in numbers:
        raise KernelError(
            f"an architecture must be known to NVRTC {nvrtc().version} (sm_{min(numbers)} to sm_{max(numbers)}), got {arch}; "
            f"check the name, or install a newer one: {INSTALL}"
        )


def _file(source: str) -> str:
    return source.partition(".")[0]


def _options(source: str, arch: str) -> tuple[str, ...]:
    part = source.partition(".")[2]
    return (f"-arch={arch}", *_FLAGS, *(("-DDLLM_ONE", f"-DDLLM_ONE_{part.upper()}") if part else ()))


def _cubin_path(name: str, arch: str) -> Path:
    digest = hashlib.sha256()
    # Lengths keep two different lists from giving the same bytes.
    for part in (name.encode(), _source(_file(name)), *(b for item in _headers().items() for b in (item[0].encode(), item[1]))):
        digest.update(len(part).to_bytes(8, "little") + part)
    digest.update(repr((_options(name, arch), nvrtc().version)).encode())
    return cache_folder() / f"{digest.hexdigest()}.cubin"


def _write(path: Path, content: bytes) -> None:
    """Another process sees the whole file or none."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


@cache
def _process_folder() -> Path:
    return Path(_process_folder_holder().name)


@cache
def _process_folder_holder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="dllm_fast-", ignore_cleanup_errors=True)


_ENTRY = re.compile(r"Compiling entry function '(?P<kernel>\w+)' for '\w+'(?P<rest>.*?)(?=Compiling entry function|\Z)", re.S)


def _usage(name: str, arch: str, log: str) -> tuple[Usage, ...]:
    """What ptxas -v printed for each kernel."""

    def number(pattern: str, text: str) -> int:
        return sum(int(n) for n in re.findall(pattern, text))

    return tuple(
        Usage(
            source=name,
            kernel=entry["kernel"],
            arch=arch,
            registers=number(r"Used (\d+) registers", entry["rest"]),
            spills=number(r"(\d+) bytes spill (?:stores|loads)", entry["rest"]),
            shared_bytes=number(r"(\d+) bytes smem", entry["rest"]),
            stack_bytes=number(r"(\d+) bytes stack frame", entry["rest"]),
        )
        for entry in _ENTRY.finditer(log)
    )


# --- devices


def architecture(capability: tuple[int, int]) -> str:
    """What to compile for, for a device of a compute capability. A cubin runs on its own generation only."""
    major, minor = capability
    if major == OLDEST_CAPABILITY[0]:
        return "sm_80"
    suffix = "a" if major in (9, 10) else ""
    return f"sm_{major}{minor}{suffix}"


def problem(device: int | None = None) -> tuple[str, str] | None:
    """Why kernels cannot be used on a device (by default the current one), and the remedy; None if they can."""
    import torch

    if torch.version.cuda is None:
        return "this torch is built without CUDA", "install the CUDA build: pip install torch, on Linux"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device", "run where nvidia-smi shows a GPU; sampling works on the CPU meanwhile"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < OLDEST_CAPABILITY:
        return f"the kernels need compute capability 8.0, this device has {major}.{minor}", "use an A100 or newer"
    if cupy_version() is None:
        extra = "cuda12" if torch.version.cuda.startswith("12") else "cuda13"
        return "CuPy is not installed", f"pip install 'dllm-fast[{extra}]'"
    try:
        nvrtc()
    except KernelError as error:
        why, _, fix = str(error).partition("; ")
        return why, fix
    return None


def cupy_version() -> str | None:
    """Version of CuPy, without importing it; None if there is none."""
    import importlib.metadata  # late: `dllm-fast --help` need not wait for it

    for distribution in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


@cache
def load(source: str, device: int) -> Any:
    """The kernels of a file, loaded on a device. Modules belong to the device that was current when they were loaded."""
    import cupy
    import torch

    compiled = compile_with_notice(source, architecture(torch.cuda.get_device_capability(device)))
    with torch.cuda.device(device):
        module = cupy.RawModule(path=str(compiled.path))
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
