"""Dangerous cases run in a process of their own, with limits on memory and time: what hangs or grows there fails one test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Ended(NamedTuple):
    """How the process ended.

    Attributes:
        code: its exit status, or minus the signal that ended it; None where it had to be ended because its time was over.
        output: what it printed.
        errors: what it wrote to standard error.
    """

    code: int | None
    output: str
    errors: str


def run(
    code: str, *arguments: object, seconds: float = 60, gigabytes: float = 8, environment: dict[str, str] | None = None
) -> Ended:
    """Runs Python code, `tests` and `bench` importable, and ends it with all that it started.

    Args:
        code: dedented first.
        arguments: what it finds in `sys.argv[1:]`.
        seconds: of wall time; afterwards it is killed.
        gigabytes: of address space.
        environment: variables beside those of this process.
    """
    limit = int(gigabytes * 2**30)
    first = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))\n"
    # What runs in the background of a shell ignores Ctrl-C, and so would its children.
    first += "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", first + textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONFAULTHANDLER": "1"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=seconds)
        return Ended(process.returncode, output, errors)
    except subprocess.TimeoutExpired:
        _end(process)
        output, errors = process.communicate()
        return Ended(None, output, errors)
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the process and those that it has left behind, which share its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
