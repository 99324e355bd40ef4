"""Other programs that check: compute-sanitizer over small shapes of every kernel, and the tests that need a GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any

import pytest

from bench.on_gpu import place
from bench.on_gpu.checks.loading import every_kernel
from bench.on_gpu.stage import Json, Stage
from dllm_fast.ops import launcher

# Kernels whose names have this in them, as one version of the tool and another want to be told; a refusal takes no time.
_OURS = (("--kernel-name", "kns=dllm_"), ("--kernel-regex", "kns=dllm_"), ())
_REFUSAL_S = 10.0


def memcheck(stage: Stage) -> Json:
    """Reads and writes outside of what was allocated, and at addresses that are not aligned. One of them is planted."""
    found = _sanitized(stage, "memcheck")
    if not stage.dry:
        _sees_a_fault(stage, found["command"])
    return found


def racecheck(stage: Stage) -> Json:
    """Hazards in shared memory."""
    return _sanitized(stage, "racecheck", rehearsed="bench.on_gpu.small:commit")


def synccheck(stage: Stage) -> Json:
    """Barriers that not all threads reach."""
    return _sanitized(stage, "synccheck", rehearsed="bench.on_gpu.small:commit")


def _sanitized(stage: Stage, check: str, *, rehearsed: str = "") -> Json:
    """Runs the small program under the tool; every kernel must have been launched in it. A rehearsal runs it once."""
    program = rehearsed if stage.dry and rehearsed else "bench.on_gpu.small:every_kernel"
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    assert tool is not None or stage.dry, "compute-sanitizer is not on PATH and not in /usr/local/cuda/bin"
    under = [] if stage.dry else [str(tool), "--tool", check, "--error-exitcode", "9", "--print-limit", "20"]
    if check == "memcheck" and under:
        under += ["--report-api-errors", "no"]  # torch asks for things that are not there, and that is no fault of a kernel
    for ours in _OURS:
        print(" ".join([*under, *ours]), flush=True)
        began = time.perf_counter()
        status, record = _small(stage, program, [*under, *(ours if under else ())])
        if status == 0 or record is not None or time.perf_counter() - began > _REFUSAL_S:
            break
    launcher.count(Counter((record or {}).get("launched", {})))
    assert record is not None, f"the program under {check} ended with status {status} and wrote nothing"
    assert status == 0, f"{check} ended with status {status}: {record['why'] or 'see what it printed'}"
    # A condition is set inside of a loop only.
    named = {"dllm_commit"} if stage.dry and rehearsed else every_kernel(stage) - {"dllm_loop_next"}
    missing = named - record["launched"].keys()
    assert not missing, f"not launched under {check}: {sorted(missing)}"
    return {"tool": tool, "command": [*under, *(ours if under else ())]}


def _sees_a_fault(stage: Stage, under: list[str]) -> None:
    """A tool that looks at no kernel of ours, for a filter of names that fits none, would find nothing either."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        status, _ = _small(stage, "bench.on_gpu.small:beyond", under, file)
        file.seek(0)
        said = file.read()
    is_seen = status != 0 and "Invalid __global__ read" in said
    assert is_seen, f"a planted fault was not seen, status {status}:\n{said[-3000:]}"
    print("a planted read behind a tensor was seen", flush=True)


def _small(stage: Stage, program: str, under: list[str], said: IO[str] | None = None) -> tuple[int, Json | None]:
    """Status of the small program, and what it wrote at its end, if it came so far. What it prints goes to `said`."""
    left = stage.deadline - time.perf_counter() - 5
    with tempfile.TemporaryDirectory(prefix="small-") as folder:
        record = Path(folder, "record.json")
        script = str(place.ROOT / "bench" / "on_gpu" / "first.py")
        command = [*under, sys.executable, script, "--one", program, "--record", str(record), "--limit", f"{left:.0f}"]
        # Torch's pool would hide what is read outside of a tensor.
        environment = place.environment() | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        if stage.dry:
            command.append("--dry-run")
        sys.stdout.flush()
        status = subprocess.run(
            command, env=environment, stdout=said, stderr=subprocess.STDOUT, timeout=max(left, 1), check=False
        ).returncode
        try:
            return status, json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return status, None


class _Results:
    """What pytest tells of the tests."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.others: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] = self.counts.get(report.outcome, 0) + 1
            if report.outcome != "passed":
                self.others.append(f"{report.nodeid}: {report.outcome}")


def tests(stage: Stage) -> Json:
    """tests/gpu, where a warning of another library's version is no error. All must pass: a skipped test shows nothing."""
    os.chdir(place.ROOT)
    results = _Results()
    options = ["-q", "-o", "filterwarnings=default", "--tb=short", "-p", "no:cacheprovider", "-rs"]
    status = pytest.main([*options, *(["--collect-only"] if stage.dry else []), str(place.ROOT / "tests" / "gpu")], [results])
    assert status == 0, f"pytest ended with status {int(status)}: {results.others}"
    if stage.dry:
        _launch_something(stage)
        return {"collected": True}
    assert results.counts.get("passed"), "no test ran"
    assert not results.others, results.others
    return {"counts": results.counts}


def _launch_something(stage: Stage) -> None:
    """In a rehearsal these tests cannot run, and a check that launches nothing does not hold."""
    from bench.on_gpu import correctness

    correctness.commit(stage)
