"""`bench/gpu.py` runs: rehearsed on the CPU, and honest about a machine without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from emulator import build

ROOT = Path(__file__).parents[2]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "bench/gpu.py", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))
def test_a_rehearsal_runs_every_section(tmp_path):
    done = run("--dry-run", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert result["is_rehearsal"]
    assert len(result["sections"]) == 12
    text = json.dumps(result["sections"])
    assert '"error"' not in text, text
    assert '"ms"' not in text, "a rehearsal times nothing"
    assert str(ROOT) not in json.dumps(result)
    graphs = [case["graphs"] for case in result["sections"]["denoise step"]["cases"]]
    assert any(graph["captured"] for graph in graphs)
    assert all(graph["trouble"] is None for graph in graphs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    done = run("--out", str(tmp_path / "none"))
    assert done.returncode == 2
    assert done.stdout.count("\n") == 1
    assert "needs a CUDA GPU" in done.stdout
    assert not (tmp_path / "none").exists()
