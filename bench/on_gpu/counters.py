"""Counters of the hardware for three kernels, one launch each, by Nsight Compute.

`python -m bench.on_gpu.counters` launches them; `ncu` around it counts.
"""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.on_gpu import place, prediction
from bench.on_gpu.stage import Json, SkippedError, Stage, must_launch, tried
from dllm_fast.ops import attention as attention_op
from dllm_fast.ops import launcher
from dllm_fast.ops import mask_predict as device

#: What is counted, as patterns: the pass over the logits, attention of grouped heads, the cut of a filter.
KERNELS = ("dllm_mask_predict_tiles_bf16", r"dllm_attention_\w*d128_rows64", "dllm_mask_filter_cut_bf16")
# Issue slots and why they stay empty, memory and caches, occupancy.
_SECTIONS = ("SpeedOfLight", "SchedulerStats", "WarpStateStats", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats")


def times(stage: Stage) -> Iterator[Json]:
    """Each kernel by its counters."""
    for kernel in KERNELS:
        case: Json = {"what": kernel}
        with tried(case, "counters"):
            case["counters"] = _counted(stage, kernel)
        yield case


def _counted(stage: Stage, kernel: str) -> Json:
    child = [sys.executable, "-m", "bench.on_gpu.counters", kernel]
    if stage.dry:
        launch(stage, kernel)
        return {"ran": True}
    tool = shutil.which("ncu") or shutil.which("ncu", path="/usr/local/cuda/bin")
    if tool is None:
        raise SkippedError("ncu is not on PATH")
    sections = [word for section in _SECTIONS for word in ("--section", section)]
    # The clock as it is: a locked one would not be that of the times above.
    options = ["--csv", "--page", "details", "--clock-control", "none", "--launch-count", "1", *sections]
    command = [tool, *options, "--kernel-name", f"regex:^{kernel}", *child]
    done = subprocess.run(
        command, cwd=place.ROOT, env=place.environment(), capture_output=True, text=True, timeout=40, check=False
    )
    found = read(done.stdout)
    if done.returncode != 0 or not found:
        raise RuntimeError(
            f"ncu must count {kernel}, got status {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return found


def read(text: str) -> Json:
    """Names, values and units of the CSV that ncu prints, lines of its own before it left out."""
    lines = text.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    found: Json = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines[begin:]))):
        if name := row.get("Metric Name"):
            found[name] = f"{row.get('Metric Value', '')} {row.get('Metric Unit', '')}".strip()
    return found


def launch(stage: Stage, kernel: str) -> None:
    """Runs what launches a kernel, once.

    Raises:
        NotLaunchedError: it was not launched.
    """
    with launcher.counted() as launched:
        if "attention" in kernel:
            shape = stage.pick((1, 32, 8, 32, 32_768, 128), (1, 32, 1, 3, 70, 128))
            batch, heads, kv_heads, queries, keys, depth = shape
            q = torch.zeros(batch, heads, queries, depth, dtype=torch.bfloat16, device=stage.device)
            k = torch.zeros(batch, kv_heads, keys, depth, dtype=torch.bfloat16, device=stage.device)
            begin = torch.zeros(batch, queries, dtype=torch.int32, device=stage.device)
            attention_op.by_kernel(q, k, k, begin, torch.full_like(begin, keys), 1.0)
        else:
            rows, vocabulary = stage.pick((512, 126_464), (3, 300))
            draw = device.Draw(temperature=1.0, top_p=0.9) if "filter" in kernel else device.Draw()
            prediction.queued(stage, prediction.peaked(stage, rows, vocabulary), draw)()
        stage.synchronize()
    must_launch(launched, (kernel,))


if __name__ == "__main__":
    on = Stage(device=torch.device("cuda"), dry=False, quick=True, deadline=time.perf_counter() + 60, out=Path())
    launch(on, sys.argv[1])
