"""Cubins from sources: several at once, with a line on standard error where somebody waits for them."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from dllm_fast.errors import KernelError
from dllm_fast.kernels import cubins, files
from dllm_fast.kernels.nvrtc import INSTALL, nvrtc

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import TextIO

    from dllm_fast.kernels.cubins import Compiled

#: Compiled for by default: A100 and its generation, H100 and H200, B200.
ARCHITECTURES = ("sm_80", "sm_90a", "sm_100a")
#: Compiled for where cubins come with a package: these, and B300 and the cards of its generation for desktops.
SHIPPED_ARCHITECTURES = (*ARCHITECTURES, "sm_103a", "sm_120")
#: The oldest compute capability with the instructions that the kernels use.
OLDEST_CAPABILITY = (8, 0)
# On a core of today, about. Only said, to somebody who waits.
_SECONDS_OF_A_SOURCE = 1.5
#: A source and an architecture.
Job = tuple[str, str]
#: Is told of a job that has ended, and of the seconds that it took, or None if there was a cubin already.
Done = Callable[[Job, float | None], None]


def compile_kernels(source: str, arch: str) -> Compiled:
    """The cubin of a source (one of `sources`) for an architecture, compiled if there is none yet.

    Raises:
        KernelError: no NVRTC, an architecture that it or the kernels do not know, or a file that does not compile.
    """
    return cubins.find(source, arch) or cubins.keep(source, arch, *compile_text(source, arch))


def compile_text(source: str, arch: str) -> tuple[bytes, str]:
    """Cubin and log of a source, kept nowhere.

    Raises:
        KernelError: as `compile_kernels`.
    """
    check_architecture(arch)
    return nvrtc().compile(source, files.text(source), files.headers(), files.options(source, arch))


def compile_all(jobs: Sequence[Job], done: Done, *, into: Path | None = None) -> list[Compiled]:
    """Compiles several sources at once, as many as there are cores: the compiler lets other threads run meanwhile.

    Args:
        jobs: what to compile.
        done: is told of each job that has ended, in the order in which they end.
        into: a folder for cubins that come with a package: all are compiled and written there, and those of older sources are
            removed from it. Default: what there is already is taken, and what there is not goes into the cache.

    Returns:
        The cubins, one for each job.

    Raises:
        KernelError: the first that was raised; jobs that had not begun by then are left.
        OSError: of the folder.
    """

    def one(job: Job) -> tuple[Compiled, float | None]:
        if into is None and (found := cubins.find(*job)) is not None:
            return found, None
        began = time.perf_counter()
        cubin, log = compile_text(*job)
        seconds = time.perf_counter() - began
        if into is None:
            return cubins.keep(*job, cubin, log), seconds
        return cubins.write(into / cubins.shipped_name(*job), *job, cubin, log), seconds

    pool = ThreadPoolExecutor(_at_once(len(jobs)), thread_name_prefix="dllm_fast-nvrtc")
    try:
        running = {pool.submit(one, job): job for job in jobs}
        for ended in as_completed(running):
            done(running[ended], ended.result()[1])
        compiled = [future.result()[0] for future in running]
    finally:
        pool.shutdown(cancel_futures=True)
    if into is not None:
        cubins.remove_stale(into)
    return compiled


def compile_missing(names: Iterable[str], arch: str) -> list[Compiled]:
    """The cubins of sources, with one line on standard error where some have to be compiled: that takes some seconds.

    Raises:
        KernelError: as `compile_kernels`.
    """
    wanted = list(dict.fromkeys(names))
    missing = [name for name in wanted if cubins.find(name, arch) is None]
    if missing:
        check_architecture(arch)
        with _Line(len(missing), arch, sys.stderr) as line:
            compile_all([(name, arch) for name in missing], line.advance)
    return [compile_kernels(name, arch) for name in wanted]


class _Line:
    """Says how many of how many are done: redrawn in a terminal, written once elsewhere."""

    def __init__(self, count: int, arch: str, out: TextIO) -> None:
        self._count, self._done, self._out = count, 0, out
        self._is_redrawn = out.isatty() and os.environ.get("TERM") != "dumb"
        what = "1 file" if count == 1 else f"{count} files"
        self._begin = f"dllm_fast: compiling {what} of kernels for {arch}, once (ahead: dllm-fast kernels compile): "
        self._at_once = _at_once(count)

    def __enter__(self) -> _Line:
        self._began = time.perf_counter()
        about = math.ceil(_SECONDS_OF_A_SOURCE * math.ceil(self._count / self._at_once))
        self._say(f"{self._begin}{'0 of ' + str(self._count) + ' done, ' if self._is_redrawn else ''}about {about} s")
        return self

    def advance(self, job: Job, seconds: float | None) -> None:
        """One more is done."""
        del job, seconds
        self._done += 1
        if self._is_redrawn and self._done < self._count:
            rest = (time.perf_counter() - self._began) / self._done * (self._count - self._done)
            self._say(f"\r{self._begin}{self._done} of {self._count} done, about {math.ceil(rest)} s\x1b[K")

    def __exit__(self, *_: object) -> None:
        took = f"{self._done} of {self._count} done in {time.perf_counter() - self._began:.0f} s"
        self._say(f"\r{self._begin}{took}\x1b[K\n" if self._is_redrawn else f"; {took}\n")

    def _say(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _at_once(jobs: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(jobs, cores))


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
