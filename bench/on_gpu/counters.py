"""Counters of the hardware for three kernels, one launch each, by Nsight Compute.

`python -m bench.on_gpu.counters` launches them; `ncu` around it counts.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.on_gpu import place, prediction
from bench.on_gpu.stage import Json, SkippedError, Stage, must_launch, tried
from dllm_fast.kernels.laws import Law
from dllm_fast.ops import attention as attention_op
from dllm_fast.ops import launcher

#: What is counted, as patterns: the pass over the logits, attention of grouped heads, the cut of a filter.
KERNELS = ("dllm_mask_predict_tiles_bf16", r"dllm_attention_d128_rows64\w*", "dllm_mask_filter_count_bf16")
_MOST_S = 55.0
# Issue slots and why they stay empty, memory and caches, occupancy.
_SECTIONS = ("SpeedOfLight", "SchedulerStats", "WarpStateStats", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats")


def times(stage: Stage) -> Iterator[Json]:
    """Each kernel by its counters."""
    found: Json = {}
    with tried(found, "all"):
        found = _counted(stage)
    for kernel in KERNELS:
        counted = [counts for name, counts in found.items() if re.match(kernel, name)]
        yield {"what": kernel, "counters": counted[0] if counted else found.get("all", {"error": f"ncu saw no {kernel}"})}


def _counted(stage: Stage) -> Json:
    """Counters by kernel. One process launches all: imports under ncu take most of the time."""
    if stage.dry:
        launch(stage)
        return {"all": {"ran": True}}
    tool = shutil.which("ncu") or shutil.which("ncu", path="/usr/local/cuda/bin")
    if tool is None:
        raise SkippedError("ncu is not on PATH")
    sections = [word for section in _SECTIONS for word in ("--section", section)]
    # The clock as it is: a locked one would not be that of the times above.
    options = ["--csv", "--page", "details", "--clock-control", "none", *sections]
    only = f"regex:^({'|'.join(KERNELS)})$"
    command = [tool, *options, "--kernel-name", only, sys.executable, "-m", "bench.on_gpu.counters"]
    done = subprocess.run(
        command, cwd=place.ROOT, env=place.environment(), capture_output=True, text=True, timeout=_MOST_S, check=False
    )
    found = read(done.stdout)
    if done.returncode != 0 or not found:
        raise RuntimeError(f"ncu must count, got status {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return found


def read(text: str) -> Json:
    """By kernel, the values and units in the CSV that ncu prints; of a kernel that ran twice the first. Its other lines go."""
    lines = text.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    found: Json = {}
    seen: dict[str, str] = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines[begin:]))):
        kernel = row.get("Kernel Name", "").partition("(")[0]
        if row.get("Metric Name") and seen.setdefault(kernel, row["ID"]) == row["ID"]:
            value = f"{row.get('Metric Value', '')} {row.get('Metric Unit', '')}".strip()
            found.setdefault(kernel, {})[row["Metric Name"]] = value
    return found


def launch(stage: Stage) -> None:
    """Launches each of the kernels.

    Raises:
        NotLaunchedError: one was not launched.
    """
    with launcher.counted() as launched:
        shape = stage.pick((1, 32, 8, 32, 32_768, 128), (1, 32, 1, 3, 70, 128))
        batch, heads, kv_heads, queries, keys, depth = shape
        q = torch.zeros(batch, heads, queries, depth, dtype=torch.bfloat16, device=stage.device)
        k = torch.zeros(batch, kv_heads, keys, depth, dtype=torch.bfloat16, device=stage.device)
        begin = torch.zeros(batch, queries, dtype=torch.int32, device=stage.device)
        attention_op.by_kernel(q, k, k, begin, torch.full_like(begin, keys), 1.0)
        logits = prediction.peaked(stage, *stage.pick((512, 126_464), (3, 300)))
        prediction.queued(stage, logits, Law())()
        prediction.queued(stage, logits, Law(temperature=1.0, top_p=0.9))()
        stage.synchronize()
    must_launch(launched, KERNELS)


if __name__ == "__main__":
    on = Stage(device=torch.device("cuda"), dry=False, quick=True, deadline=time.perf_counter() + _MOST_S, out=Path())
    launch(on)
