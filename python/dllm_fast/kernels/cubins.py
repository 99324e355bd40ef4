"""Where cubins lie: those that came with the package, and those that were compiled on this machine.

A cubin has a log beside it: the digest of its bytes, then what the assembler said. One that does not agree with its log, cut
short by a full disk or changed since, counts as not there. Files appear whole or not at all, and the log is written last, so
several processes may compile the same at the same time.

A cubin that came with the package is named by its sources and options alone, so nobody has to ask which NVRTC is here, or
whether there is one. One compiled here is named by the version of NVRTC, too: what a newer one made need not load everywhere.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dllm_fast.errors import KernelError
from dllm_fast.kernels.files import digest, sources
from dllm_fast.kernels.nvrtc import nvrtc

# What a process that was killed has left behind is that old by then.
_ABANDONED_S = 3600
_UNFINISHED = ".unfinished"


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


def cache_folder() -> Path:
    """Where cubins are kept that are compiled here: $XDG_CACHE_HOME/dllm_fast/cubin.

    Raises:
        KernelError: nothing says where.
    """
    if home := os.environ.get("XDG_CACHE_HOME"):
        cache_home = Path(home)
    else:
        try:
            cache_home = Path.home() / ".cache"
        except RuntimeError as error:  # a user without a name, as in some containers
            raise KernelError(f"cubins are kept below a home folder, got none ({error}); set XDG_CACHE_HOME") from error
    return cache_home / "dllm_fast" / "cubin"


def shipped_folder() -> Path:
    """Where cubins are that came with the package."""
    return Path(__file__).parents[1] / "cubins"


def find(source: str, arch: str) -> Compiled | None:
    """The cubin of a source (one of `sources`) for an architecture, if there is one.

    Raises:
        KernelError: none came with the package, and there is no NVRTC, whose version decides which of the others fits.
    """
    return shipped(source, arch) or cached(source, arch)


def shipped(source: str, arch: str) -> Compiled | None:
    """The cubin that came with the package, if it is of these very sources."""
    return _read(shipped_folder() / shipped_name(source, arch), source, arch)


def is_shipped(source: str, arch: str) -> bool:
    """Did a cubin of these very sources come with the package? It is not read."""
    return (shipped_folder() / shipped_name(source, arch)).is_file()


def cached(source: str, arch: str) -> Compiled | None:
    """The cubin that has been compiled here before, if there is one.

    Raises:
        KernelError: no NVRTC.
    """
    name = _cached_name(source, arch)
    return _read(cache_folder() / name, source, arch) or _of_this_process.get(name)


def keep(source: str, arch: str, cubin: bytes, log: str) -> Compiled:
    """Keeps what was compiled for this process and the next ones.

    Raises:
        KernelError: it can be written nowhere.
    """
    name = _cached_name(source, arch)
    try:
        return write(cache_folder() / name, source, arch, cubin, log)
    except OSError as failed:
        # A folder that cannot be written to costs the next process a compilation, nothing more.
        try:
            found = _of_this_process[name] = write(Path(_process_folder().name, name), source, arch, cubin, log)
            return found
        except OSError as error:
            raise KernelError(
                f"a cubin must be written to {cache_folder()} or to {tempfile.gettempdir()}, got {failed} and {error}; "
                "make room, or set XDG_CACHE_HOME to a folder that has some"
            ) from error


def write(path: Path, source: str, arch: str, cubin: bytes, log: str) -> Compiled:
    """Writes a cubin and its log. Another process sees whole files or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, cubin)
    _write(path.with_suffix(".log"), f"{hashlib.sha256(cubin).hexdigest()}\n{log}".encode())
    return Compiled(path, usage(source, arch, log))


def shipped_name(source: str, arch: str) -> str:
    """Name of the file of a cubin that comes with the package."""
    return f"{source}-{arch}-{digest(source, arch)[:32]}.cubin"


def remove_stale(folder: Path) -> None:
    """Removes from a folder of shipped cubins what was made of other sources than these."""
    there = sources()
    for path in folder.iterdir():
        ours = re.fullmatch(r"([\w.]+)-(sm_\w+)-[0-9a-f]{32}\.(cubin|log)", path.name)
        if ours and not (ours[1] in there and path.stem == Path(shipped_name(ours[1], ours[2])).stem):
            path.unlink(missing_ok=True)


# What the cache could not take.
_of_this_process: dict[str, Compiled] = {}


def _cached_name(source: str, arch: str) -> str:
    return f"{source}-{arch}-{digest(source, arch, nvrtc().version)[:32]}.cubin"


def _read(path: Path, source: str, arch: str) -> Compiled | None:
    try:
        said, _, log = path.with_suffix(".log").read_text(encoding="utf-8", errors="replace").partition("\n")
        is_whole = hashlib.sha256(path.read_bytes()).hexdigest() == said
    except OSError:
        return None
    return Compiled(path, usage(source, arch, log)) if is_whole else None


def _write(path: Path, content: bytes) -> None:
    for left in path.parent.glob(f"*{_UNFINISHED}"):
        try:
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()
        except OSError:
            continue  # its process has finished it, another one was as tidy, or it is somebody else's
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=_UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


@cache
def _process_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="dllm_fast-", ignore_cleanup_errors=True)


_ENTRY = re.compile(r"Compiling entry function '(?P<kernel>\w+)' for '\w+'(?P<rest>.*?)(?=Compiling entry function|\Z)", re.S)


def usage(source: str, arch: str, log: str) -> tuple[Usage, ...]:
    """What ptxas -v printed for each kernel."""

    def number(pattern: str, text: str) -> int:
        return sum(int(n) for n in re.findall(pattern, text))

    return tuple(
        Usage(
            source=source,
            kernel=entry["kernel"],
            arch=arch,
            registers=number(r"Used (\d+) registers", entry["rest"]),
            spills=number(r"(\d+) bytes spill (?:stores|loads)", entry["rest"]),
            shared_bytes=number(r"(\d+) bytes smem", entry["rest"]),
            stack_bytes=number(r"(\d+) bytes stack frame", entry["rest"]),
        )
        for entry in _ENTRY.finditer(log)
    )
