"""Cores that this process may use, how many of them others leave free, and what to do where more threads run."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import NamedTuple


class Cores(NamedTuple):
    """Cores for this process.

    Attributes:
        number: may be a part of one.
        why: what bounds them.
    """

    number: float
    why: str


def allowed(root: Path = Path("/")) -> Cores:
    """The cores of the machine, of the affinity, or the quota of a control group, whichever is least.

    Args:
        root: of the file system in which `/proc` and `/sys` are looked for.
    """
    machine = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    found = [Cores(machine, "the machine"), Cores(affinity, "the affinity of the process")]
    found += [Cores(quota, "the quota of its control group") for quota in _quotas(root)]
    return min(found, key=lambda cores: cores.number)


def _quotas(root: Path) -> list[float]:
    """Of the control group of this process and of those around it, of either version of control groups."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        controllers, path = [*line.split(":", 2), "", ""][1:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / controllers
        place = base / path.lstrip("/")
        # Inside a container the path may be that of the host: then the files lie at the top.
        for folder in [base, *(folder for folder in (place, *place.parents) if base in folder.parents)]:
            limit = _read(folder / "cpu.max").split()
            if not limit:
                limit = [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]
            with contextlib.suppress(ValueError, ZeroDivisionError):
                quota, period = map(int, limit)
                found += [quota / period] if quota > 0 else []
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def load() -> float:
    """Threads that wanted a core over the last minute, of all processes together."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


def trouble(threads: int, cores: Cores, load: float = 0.0, machine: int | None = None) -> str | None:
    """What to say where `threads` do not all get a core: they wait for each other, which costs more than they save.

    Args:
        threads: that torch computes with at once.
        cores: that the process may use.
        load: threads that want a core, of all processes.
        machine: cores that these share; by default all that there are.
    """
    machine = machine or os.cpu_count() or 1
    if threads > 1 and threads > cores.number:
        fit = max(1, math.floor(cores.number))
        have = f"{cores.why} leaves {cores.number:.3g} cores"
    elif threads > 1 and (free := machine - load) < threads:
        fit = max(1, math.floor(free))
        have = f"others leave about {max(0.0, free):.3g} of {machine} cores free (load {load:.3g} over the last minute)"
    else:
        return None
    return f"torch computes with {threads} threads, and {have}; set OMP_NUM_THREADS={fit} or call torch.set_num_threads({fit})"
