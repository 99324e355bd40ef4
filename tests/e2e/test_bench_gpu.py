"""`bench/gpu.py` runs: rehearsed on the CPU, and honest about a machine without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.on_gpu import main as driver
from emulator import build

ROOT = Path(__file__).parents[2]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "bench/gpu.py", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))
def test_a_rehearsal_runs_every_section(tmp_path):
    done = run("--dry-run", "--full", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert result["is_rehearsal"]
    sections = result["sections"]
    assert list(sections)[:6] == ["card", "launches", "products", "step", "mask prediction", "attention"]
    assert len(sections) == 15
    assert all(found["cases"] for found in sections.values())
    text = json.dumps(sections)
    assert '"error"' not in text, text
    assert '"ms"' not in text, "a rehearsal times nothing"
    assert str(ROOT) not in json.dumps(result)
    assert "running" not in result
    # What a GPU lends is known by its kernels, and a step by its graphs.
    step = sections["step"]["cases"][0]["begun ahead"]
    assert step["replays"] >= step["steps"] > 0
    assert {"dllm_fused_qkv_bf16", "dllm_commit", "dllm_mask_predict_tiles_bf16"} <= step["launched"].keys()
    assert {"ours", "the kernel", "the merge"} <= sections["attention"]["cases"][1].keys()
    # Few files come back from a machine that is lent.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.log"]
    assert "nothing failed" in (tmp_path / "gpu.log").read_text(encoding="utf-8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    done = run("--out", str(tmp_path / "none"))
    assert done.returncode == 2
    assert done.stdout.count("\n") == 1


def test_an_unknown_section_is_refused(tmp_path):
    done = run("--dry-run", "--only", "sausages", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "--only must name some of card, launches" in done.stdout


class Processes:
    """In place of processes: what each leaves in gpu.json, and its status."""

    def __init__(self, out: Path, *scripts: tuple[int, dict]) -> None:
        self._out, self._scripts, self.given = out, list(scripts), []

    def __call__(self, given, _until, _log) -> int:
        self.given.append(given)
        status, result = self._scripts.pop(0)
        (self._out / "gpu.json").write_text(json.dumps(result), encoding="utf-8")
        return status


def test_another_process_goes_on_where_one_has_died(tmp_path, monkeypatch, capsys):
    first = {"sections": {"card": {"cases": []}, "step": {"cases": []}}, "running": "step"}
    second = {"sections": first["sections"] | {"step": {"error": "died"}, "attention": {"cases": [{"what": "x"}]}}}
    processes = Processes(tmp_path, (-9, first), (driver.DONE, second))
    monkeypatch.setattr(driver, "_process", processes)
    assert driver.main(["--out", str(tmp_path)]) == 1
    assert "--after" not in processes.given[0]
    assert processes.given[1][-2:] == ["--after", "-9"]
    assert "failed: step" in capsys.readouterr().out


def test_processes_that_come_no_further_end(tmp_path, monkeypatch, capsys):
    processes = Processes(tmp_path, *[(1, {"sections": {"card": {}}})] * 9)
    monkeypatch.setattr(driver, "_process", processes)
    assert driver.main(["--out", str(tmp_path)]) == 1
    assert len(processes.given) == 2
    assert "ended with status 1" in capsys.readouterr().out


HANGS = """
import sys, time
from bench.on_gpu import main, worker

def hangs(_stage):
    yield {"what": "a"}
    time.sleep(99)

worker.SECTIONS = (worker.Section("hang", 0, 0.3, hangs),)
worker._OVERTIME_S = 0.3
worker.doctor = dict
sys.exit(worker.main(main.arguments(["--dry-run", "--out", sys.argv[1], "--worker", "--until", str(time.time() + 99)])))
"""


def test_a_section_that_hangs_ends_its_process_and_shows_where(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'python'}:{ROOT}"}
    command = [sys.executable, "-c", HANGS, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode not in (driver.DONE, driver.AGAIN, driver.NO_GPU)
    assert "Timeout" in done.stderr
    assert "in hangs" in done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert result["running"] == "hang"
    assert result["sections"]["hang"]["cases"] == [{"what": "a"}]
