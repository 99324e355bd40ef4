"""How fast is it on a GPU? Times only, the most telling first, each written down as it is found.

`python bench/gpu.py` writes gpu.json after every number, gpu.log, and a trace of the profiler. `--dry-run` rehearses all of it
on a CPU: toy sizes, emulated kernels, no times. Without a GPU: status 2. Whether answers are right is asked elsewhere, before
(bench/on_gpu/README.md).

The sections run in a process of their own. Should it die, or a section hang, another one goes on behind that section: after
an illegal access nothing else works in a process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from bench.on_gpu import place, told

BUDGET_S, FULL_BUDGET_S = 280.0, 540.0
#: Statuses of the process of the sections: all were tried; there is no GPU; a section failed, and a new process should go on.
DONE, NO_GPU, AGAIN = 0, 2, 75
_MOST_PROCESSES = 16
# Imports, and what a section takes beyond the time after which nothing new is begun.
_GRACE_S = 45.0


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0: every number was found; 1: something failed; 2: there is no GPU."""
    options = arguments(argv)
    if options.worker:
        from bench.on_gpu import worker

        return worker.main(options)
    began = time.time()
    options.out.mkdir(parents=True, exist_ok=True)
    until = began + (options.budget or (FULL_BUDGET_S if options.full else BUDGET_S))
    given = list(sys.argv[1:] if argv is None else argv)
    with (options.out / "gpu.log").open("w", encoding="utf-8") as log:
        status = _run(given, options.out, until, log)
        if status == NO_GPU:
            return NO_GPU
        result = _result(options.out)
        failed = [name for name, found in result.get("sections", {}).items() if told.has_failed(found)]
        is_whole = status == DONE and bool(result)
        for note in result.get("notes", []):
            _say(f"  {note}", log)
        verdict = "failed: " + ", ".join(failed) if failed else "nothing failed" if is_whole else f"ended with status {status}"
        _say(f"{verdict}; {options.out / 'gpu.json'}, {time.time() - began:.0f} s", log)
    return 0 if is_whole and not failed else 1


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; those after `--worker` are for the processes of the sections."""
    out = Path(os.environ["OUT"]) if os.environ.get("OUT") else place.ROOT / "bench" / "results" / "gpu"
    parser = argparse.ArgumentParser(prog="python bench/gpu.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=out, help="folder (default: $OUT, else bench/results/gpu)")
    parser.add_argument("--quick", action="store_true", help="fewer samples: does it run?")
    parser.add_argument("--full", action="store_true", help="also policies, the published loop, torch.compile, FlexAttention")
    parser.add_argument("--only", default="", help="sections whose names begin so, comma list; `card` always runs")
    parser.add_argument("--dry-run", action="store_true", help="rehearse on the CPU with emulated kernels; nothing is timed")
    parser.add_argument("--budget", type=float, help=f"seconds after which nothing is begun ({BUDGET_S:.0f}; full: 540)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--after", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _run(given: list[str], out: Path, until: float, log: IO[str]) -> int:
    """Processes, one after the other, as long as each comes further than the one before."""
    status, done = DONE, -1
    for i in range(_MOST_PROCESSES):
        behind = ["--after", str(status)] if i else []
        status = _process([*given, "--out", str(out), "--worker", "--until", str(until), *behind], until, log)
        if status in (DONE, NO_GPU):
            break
        finished = _result(out).get("sections", {})
        if len(finished) <= done:
            break
        done = len(finished)
        if status != AGAIN:
            _say(f"the process ended with status {status}; another one goes on", log)
    return status


def _process(given: list[str], until: float, log: IO[str]) -> int:
    command = [sys.executable, "-u", str(place.ROOT / "bench" / "gpu.py"), *given]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    guard = threading.Timer(max(until - time.time(), 0) + _GRACE_S, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            _say(line.rstrip("\n"), log)
        return process.wait()
    finally:
        guard.cancel()
        process.kill()


def _say(line: str, log: IO[str]) -> None:
    print(line, flush=True)
    print(line, file=log, flush=True)


def _result(out: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((out / "gpu.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


if __name__ == "__main__":
    sys.exit(main())
