"""Whether there is memory for what is about to be allocated: an error that says what is needed and what is there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from dllm_fast.errors import CheckpointError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def check(what: str, needed: int) -> None:
    """Refuses what cannot fit into the host's memory, before any of it is allocated.

    Args:
        what: needs it, for the error.
        needed: bytes.

    Raises:
        CheckpointError: there is less; where nobody says what there is, nothing is refused.
    """
    there = available()
    if there is not None and needed > there:
        raise _lacking(what, needed, there)


def available() -> int | None:
    """Bytes that this process can still be given on the CPU, or None where the system does not say."""
    found = [value for value in (_of_the_system(), _of_the_group(), _of_the_process()) if value is not None]
    return min(found, default=None)


@contextlib.contextmanager
def allocated(what: str, needed: int) -> Iterator[None]:
    """Turns a failed allocation in the block into an error that says what needed how much.

    Raises:
        CheckpointError: there was not enough memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        raise _lacking(what, needed, available()) from error


def _lacking(what: str, needed: int, there: int | None) -> CheckpointError:
    free = "" if there is None else f", and {there:,} are free here"
    return CheckpointError(
        f"{what} must fit into memory, needs {needed:,} bytes{free}; use a smaller dtype, another device, or a machine "
        "with more memory"
    )


def is_lack_of_memory(error: BaseException) -> bool:
    """Does an exception say that memory was over? torch has no class of its own for the host's."""
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _of_the_system() -> int | None:
    """What the kernel estimates can be had without harm, with what can be swapped out."""
    try:
        found = dict(re.findall(r"^(\w+): +(\d+) kB$", _MEMINFO.read_text(), re.MULTILINE))
    except OSError:
        return None
    if "MemAvailable" not in found:
        return None
    return 1024 * (int(found["MemAvailable"]) + int(found.get("SwapFree", 0)))


def _of_the_group() -> int | None:
    """What is left of the limit of a container; what it keeps of files can be given up."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - sum(int(used.get(name, 0)) for name in ("anon", "shmem", "unevictable", "kernel")))
    except (OSError, ValueError):
        return None


def _of_the_process() -> int | None:
    """What is left of the limit on address space (`ulimit -v`)."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return None
    return max(0, limit - used)
