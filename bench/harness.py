"""What every bench shares: facts of the machine, interleaved timing, ratios from paired samples, JSON results.

A sample of one form is compared with the sample of the baseline taken in the same round, milliseconds apart, so that a
machine that slows down for a while slows both. Medians and quartiles are over rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from dllm_fast import _core

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
# Names in /proc/cpuinfo of the instruction sets that these benches can meet.
ISA_FLAGS = ("fma", "avx2", "avx512f", "avx512bw", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "sve2", "bf16")

Form = Callable[[], object]
Json = dict[str, Any]


# Facts


def machine() -> Json:
    """Processor, cores, instruction sets, caches and memory, as far as the operating system tells."""
    cpuinfo = _read("/proc/cpuinfo")
    flags = set((re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE) or ["", ""])[1].split())
    name = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = _read(index / "type")
        if kind != "Instruction":
            caches[f"L{_read(index / 'level')}"] = _read(index / "size")
    return {
        "cpu": name[1] if name else platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": cores(),
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
        "caches": caches,
        "memory_gb": round(int(memory[1]) / 1e6, 1) if memory else None,
        "system": platform.system(),
    }


def versions() -> Json:
    """Versions of what is measured."""
    import numpy as np

    return {
        "dllm_fast": _core.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "rustc": _output("rustc", "--version").removeprefix("rustc "),
    }


def commit() -> Json:
    """The commit, and whether the code beside it had been changed."""
    changed = _output("git", "status", "--porcelain", "--", "rust", "python", "bench", "Cargo.toml", ":!bench/results")
    return {"commit": _output("git", "rev-parse", "HEAD"), "uncommitted_changes": bool(changed)}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


class Others:
    """How much the rest of the machine does meanwhile: numbers taken beside a busy neighbour mean little."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._before = self._used()

    @staticmethod
    def _used() -> tuple[float, float] | None:
        """Seconds of processor time used by everyone else, and stolen by the hypervisor, since the start."""
        fields = [int(field) for field in _read("/proc/stat").partition("\n")[0].split()[1:]]
        if not fields:
            return None
        user, nice, system, _, _, irq, softirq, steal = fields[:8]
        tick = os.sysconf("SC_CLK_TCK")
        return (user + nice + system + irq + softirq) / tick - sum(os.times()[:4]), steal / tick

    def seconds(self) -> float:
        """Since this object was made."""
        return time.perf_counter() - self._began

    def cores(self) -> Json | None:
        """Cores that others kept busy, and that were stolen, on average since this object was made."""
        after = self._used()
        if after is None or self._before is None:
            return None
        wall = time.perf_counter() - self._began
        busy, stolen = ((now - then) / wall for now, then in zip(after, self._before, strict=True))
        return {"busy": round(max(busy, 0.0), 2), "stolen": round(stolen, 2)}


# Timing


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """`count` threads for torch inside, all cores afterwards. Ours are torch's."""
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(cores())


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure.

    Attributes:
        budget_s: seconds for all samples of one form.
        least, most: samples of one form.
        sample_s: a sample repeats the call until it lasts about so long.
        pause_s: rest before each sample, so that the threads of the form before it have gone to sleep.
    """

    budget_s: float = 0.2
    least: int = 5
    most: int = 15
    sample_s: float = 0.002
    pause_s: float = 0.004


QUICK = Effort(budget_s=0.02, least=2, most=2, pause_s=0.0)


def seconds(form: Form) -> float:
    """Duration of one call."""
    began = time.perf_counter()
    form()
    return time.perf_counter() - began


def interleave(forms: Mapping[str, Form], estimates: Mapping[str, float], effort: Effort) -> dict[str, dict[int, float]]:
    """Seconds per call of every form, by round.

    Slow forms take part in some rounds only, spread over all of them. The order turns round every second time.
    `estimates` holds the seconds of one call of each form, which also has been its warm-up.
    """
    wanted = {name: _clamp(int(effort.budget_s / estimates[name]), effort.least, effort.most) for name in forms}
    calls = {name: _clamp(int(effort.sample_s / estimates[name]), 1, 1000) for name in forms}
    rounds = max(wanted.values())
    samples: dict[str, dict[int, float]] = {name: {} for name in forms}
    for r in range(rounds):
        order = list(forms) if r % 2 else list(forms)[::-1]
        for name in order:
            if (r + 1) * wanted[name] // rounds == r * wanted[name] // rounds:
                continue
            time.sleep(effort.pause_s)
            began = time.perf_counter()
            for _ in range(calls[name]):
                forms[name]()
            samples[name][r] = (time.perf_counter() - began) / calls[name]
    return samples


def report(samples: Mapping[str, Mapping[int, float]], baseline: str) -> dict[str, Json]:
    """For every form its seconds and, but for the baseline, its time over that of the baseline in the same rounds."""
    out: dict[str, Json] = {}
    for name, by_round in samples.items():
        out[name] = {"seconds": spread(list(by_round.values()))}
        if name != baseline:
            both = by_round.keys() & samples[baseline].keys()
            out[name]["ratio"] = spread([by_round[r] / samples[baseline][r] for r in both])
    return out


def spread(values: Sequence[float]) -> Json:
    """Median, quartiles, minimum and number of samples."""
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": median, "q1": q1, "q3": q3, "min": min(values), "samples": len(values)}


def copy_bandwidth(count: int, *, mib: int = 256, samples: int = 15) -> Json:
    """Bytes per second of a large float32 copy on `count` threads: bytes read plus bytes written."""
    source, target = torch.ones(mib << 18), torch.empty(mib << 18)
    with threads(count):
        target.copy_(source)
        taken = [seconds(lambda: target.copy_(source)) for _ in range(samples)]
    return spread([2 * source.nbytes / t for t in taken])


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


# Results


def arguments(description: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options that every bench has."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few sizes and repeats: does it run? The numbers mean little")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON result (default: bench/results)")
    return parser.parse_args(argv)


def write(name: str, folder: Path, content: Json, *, quick: bool, others: Others) -> Path:
    """Writes `<name>.json`: the facts, then `content`, one case a line."""
    head = {
        "bench": name,
        "command": f"python -m bench.{name}" + (" --quick" if quick else ""),
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "duration_s": round(others.seconds()),
        "cores_used_by_others": others.cores(),
        **commit(),
        "machine": machine(),
        "versions": versions(),
    }
    path = folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, _rounded(head | content))
    return path


def write_json(path: Path, entries: Json) -> None:
    """JSON with one case a line."""
    lines = []
    for key, value in entries.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join(f"  {json.dumps(case)}" for case in value)
            lines.append(f'"{key}": [\n{rows}\n]')
        else:
            lines.append(f'"{key}": {json.dumps(value)}')
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def progress(text: str) -> None:
    """A line for who is waiting."""
    print(text, file=sys.stderr, flush=True)


def _rounded(value: Any) -> Any:
    """Floats to five digits: more are noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def pyplot() -> Any:
    """matplotlib's, which draws into files.

    Raises:
        SystemExit: it is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise SystemExit("pictures need matplotlib, got none; pip install -e '.[bench]'") from error
    mpl.use("agg")
    from matplotlib import pyplot as found

    return found
