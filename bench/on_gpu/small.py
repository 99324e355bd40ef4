"""Small shapes of every kernel, for compute-sanitizer: `python -m bench.on_gpu.small`."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import torch

from bench.on_gpu import correctness
from bench.on_gpu.stage import Stage


def main() -> int:
    """Status 0: every answer was right."""
    where = "cpu" if "--dry-run" in sys.argv else "cuda"
    # The toy sizes of a rehearsal, on the real device.
    stage = Stage(device=torch.device(where), dry=True, quick=True, deadline=time.perf_counter() + 600, out=Path())
    around: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if where == "cpu":
        from tests.emulator.operations import emulated

        around = emulated()
    with around:
        sections = (correctness.mask_prediction, correctness.commit, correctness.attention)
        passed = [section(stage)["passed"] for section in sections]
    print(f"{sum(passed)} of {len(passed)} sections are right")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
