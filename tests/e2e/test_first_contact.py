"""`bench/on_gpu/first.py` cannot pass in vain: planted faults, each of which must be seen, and a rehearsal of all of it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.on_gpu import driver as driver_module
from bench.on_gpu import first as first_program
from bench.on_gpu import place
from bench.on_gpu.driver import Check, Driver
from emulator import build

ROOT = Path(__file__).parents[2]
needs_emulator = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))


# --- the driver, on checks that need no torch

HOLDS = "record({'launched': {'a': 2}, 'found': {'kernels': ['a']}, 'why': None})"
PLANTED = {
    "holds": HOLDS,
    "wrong": "record({'launched': {'a': 1}, 'found': {}, 'why': 'AssertionError: not equal'}); sys.exit(1)",
    "hangs": "print('about to wait', flush=True); time.sleep(60)",
    "aborts": "print('an illegal address was encountered', flush=True); os.abort()",
    "segfaults": "os.kill(os.getpid(), 11)",
    "launches nothing": "record({'launched': {}, 'found': {}, 'why': None})",
    "says nothing": "pass",
    "says half": "open(path, 'w').write('{')",
    "says something else": "record([1])",
    "ends with a reason": "record({'launched': {'a': 1}, 'found': {}, 'why': 'AssertionError: not equal'})",
    "breaks at its end": HOLDS + "; sys.exit(3)",
    "is killed": "os.kill(os.getpid(), 9)",
    "gets a signal without a name": "os.kill(os.getpid(), 37)",
    "prints without end": "print('first words'); [print('x' * 9999) for _ in range(3000)]; print('last words'); sys.exit(1)",
    "exits early": "sys.exit(0)",
    "leaves a child": "import subprocess; subprocess.Popen(['sleep', '60']); " + HOLDS,
}


def drive(out, *names, first=None, limit=20.0, budget=60.0, width=3, is_whole=True):
    def command(check, record):
        code = f"import json, os, sys, time\npath = {str(record)!r}\nrecord = lambda r: open(path, 'w').write(json.dumps(r))\n"
        return [sys.executable, "-c", code + PLANTED[check.does]]

    names = (*([first] if first else []), *names)
    checks = [Check(name, name, limit, is_first=name == first) for name in names]
    settings = {"budget_s": budget, "width": width, "environment": os.environ, "facts": {"commit": "abc"}}
    driver = Driver(checks, command=command, out=out, is_whole=is_whole, **settings)
    return driver, driver.run()


def written(out):
    return json.loads((out / "first.json").read_text(encoding="utf-8"))


def test_checks_that_hold_hold(tmp_path, capsys):
    driver, has_held = drive(tmp_path, "holds")
    assert has_held
    result = written(tmp_path)
    assert result["held"]
    assert result["commit"] == "abc"
    assert result["checks"]["holds"]["launched"] == {"a": 2}
    assert "holds: held" in capsys.readouterr().out
    assert "held" in driver.table()


@pytest.mark.parametrize(
    ("fault", "status", "why"),
    [
        ("wrong", "FAILED", "AssertionError: not equal"),
        ("aborts", "DIED", "by SIGABRT"),
        ("segfaults", "DIED", "by SIGSEGV"),
        ("launches nothing", "LAUNCHED NOTHING", "no kernel was launched"),
        ("is killed", "DIED", "by SIGKILL"),
        ("gets a signal without a name", "DIED", "by signal 37"),
        ("says nothing", "NO RECORD", "no record"),
        ("says half", "NO RECORD", "no record"),
        ("says something else", "NO RECORD", "no record"),
        ("ends with a reason", "FAILED", "AssertionError: not equal"),
        ("breaks at its end", "FAILED", "status 3, behind a check that had held"),
        ("exits early", "NO RECORD", "no record"),
    ],
)
def test_a_check_that_fails_loses_itself_alone(fault, status, why, tmp_path):
    driver, has_held = drive(tmp_path, fault, "holds")
    assert not has_held
    result = written(tmp_path)
    assert not result["held"]
    assert result["checks"][fault]["status"] == status
    assert why in result["checks"][fault]["why"]
    assert result["checks"]["holds"]["status"] == "held"
    assert f"----- {fault}: {status}" in driver.table()


def test_of_a_log_without_end_both_ends_are_kept(tmp_path):
    """The files that come back from such a machine are at most so large; what is larger is lost."""
    drive(tmp_path, "prints without end")
    log = (tmp_path / "first.log").read_text(encoding="utf-8")
    assert len(log) < 2**20
    assert "first words" in log
    assert "bytes are left out here" in log
    assert "last words" in log


def test_logs_are_whole_where_they_are_short(tmp_path, monkeypatch):
    monkeypatch.setattr(driver_module, "_HALF_LOG_BYTES", 4)
    for text, kept in (
        ("", ""),
        ("abc", "abc"),
        ("abcdefgh", "abcdefgh"),
        ("abcdefghi", "abcd\n[1 bytes are left out here]\nfghi"),
    ):
        (tmp_path / "log").write_text(text)
        assert driver_module._log(tmp_path / "log") == kept


def test_what_cannot_be_written_has_not_held_and_is_told(tmp_path, monkeypatch, capsys):
    def full(_path, _text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(driver_module, "_replace", full)
    driver, has_held = drive(tmp_path, "holds")
    assert not has_held
    assert driver.outcomes["holds"].has_held, "the run went on"
    assert "not written: [Errno 28]" in driver.table()
    assert capsys.readouterr().out.count("not written:") == 1


def test_a_process_that_does_not_go_is_left(tmp_path, monkeypatch):
    """One that waits in the driver of a device is not gone with its SIGKILL."""

    asked = []

    def wait(process, timeout=None):
        asked.append(process)
        raise subprocess.TimeoutExpired("a check", timeout)

    with monkeypatch.context() as patched:
        patched.setattr(subprocess.Popen, "wait", wait)
        _, has_held = drive(tmp_path, "hangs", "holds", limit=1.5)
    for process in asked:
        process.wait()
    assert not has_held
    assert "still there" in written(tmp_path)["checks"]["hangs"]["why"]


def test_a_machine_without_git_is_no_reason_to_fail(monkeypatch):
    monkeypatch.setenv("PATH", "")
    facts = first_program._facts(argparse.Namespace(only=[], dry_run=True))
    assert facts["commit"] is None


def test_a_hang_is_killed_at_its_limit_and_what_it_printed_is_kept(tmp_path):
    began = time.perf_counter()
    _, has_held = drive(tmp_path, "hangs", "holds", limit=1.5)
    assert not has_held
    assert time.perf_counter() - began < 15
    result = written(tmp_path)
    assert result["checks"]["hangs"]["status"] == "OUT OF TIME"
    assert "limit of 1.5 s" in result["checks"]["hangs"]["why"]
    assert result["checks"]["holds"]["status"] == "held"
    assert "about to wait" in (tmp_path / "first.log").read_text(encoding="utf-8")


def test_what_the_budget_leaves_out_has_not_held(tmp_path):
    _, has_held = drive(tmp_path, "hangs", "holds", budget=1.0, width=1)
    assert not has_held
    result = written(tmp_path)
    assert result["checks"]["hangs"]["status"] == "OUT OF TIME"
    assert "budget" in result["checks"]["hangs"]["why"]
    assert result["checks"]["holds"]["status"] == "NOT BEGUN"
    assert result["seconds"] < 10


def test_nothing_begins_behind_a_first_check_that_fails(tmp_path):
    _, has_held = drive(tmp_path, "holds", first="wrong")
    assert not has_held
    assert written(tmp_path)["checks"]["holds"] == {
        "status": "NOT BEGUN",
        "why": "wrong has not held",
        "seconds": 0.0,
        "launched": {},
        "found": {},
    }


def test_a_kernel_that_no_check_launched_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(PLANTED, "knows more", HOLDS.replace("['a']", "['a', 'b']"))
    driver, has_held = drive(tmp_path, "holds", "knows more")
    assert not has_held
    assert written(tmp_path)["never_launched"] == ["b"]
    assert "kernels that no check launched: b" in driver.table()
    assert drive(tmp_path, "holds", "knows more", is_whole=False)[1], "some of the checks launch some of the kernels"


def test_what_a_check_started_ends_with_it(tmp_path):
    began = time.perf_counter()
    _, has_held = drive(tmp_path, "leaves a child")
    assert has_held
    assert time.perf_counter() - began < 15


def test_results_are_there_after_each_check_and_when_the_run_is_stopped(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests/e2e'); sys.path.insert(0, 'tests'); sys.path.insert(0, '.')\n"
        "import pathlib, test_first_contact as t\n"
        f"t.drive(pathlib.Path({str(tmp_path)!r}), 'holds', 'hangs', width=2)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=place.environment(), start_new_session=True)
    until = time.perf_counter() + 60
    while time.perf_counter() < until:
        with contextlib.suppress(OSError, ValueError):
            result = written(tmp_path)
            if result["running"] == ["hangs"] and "about to wait" in (tmp_path / "first.log").read_text(encoding="utf-8"):
                break
        time.sleep(0.05)
    else:
        pytest.fail("nothing was written while a check ran")
    assert result["checks"]["holds"]["status"] == "held"
    process.send_signal(signal.SIGTERM)  # as `timeout` does
    assert process.wait(20) == 143
    result = written(tmp_path)
    assert result["checks"]["hangs"]["status"] == "STOPPED"
    assert not result["held"]


# --- all of it


def first(*options, environment=None, cwd=ROOT):
    command = [sys.executable, str(ROOT / "bench" / "on_gpu" / "first.py"), *options]
    environment = (environment or dict(os.environ)) | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@needs_emulator
def test_a_rehearsal_runs_from_anywhere_without_an_installation(tmp_path):
    """A copy of the sources in another folder, of which nothing is on the path that a child gets."""
    checkout = tmp_path / "checkout"
    for folder in ("bench", "cuda", "python", "tests"):
        shutil.copytree(
            ROOT / folder, checkout / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "results")
        )
    (checkout / "build").symlink_to(ROOT / "build")  # emulated kernels that are compiled already
    script = checkout / "bench" / "on_gpu" / "first.py"
    command = [sys.executable, str(script), "--out", "out", "--dry-run", "--only", "commit"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(checkout / "python")  # before the installed one; the children must find it, too
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    result = written(tmp_path / "out")
    assert {check["status"] for check in result["checks"].values()} == {"held"}, done.stdout
    assert set(result["checks"]) == {"loading", "commit"}
    assert "dllm_fused_add_norm_bf16" in result["checks"]["loading"]["found"]["kernels"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["first.json", "first.log"]
    assert str(checkout / "python") in (tmp_path / "out" / "first.log").read_text(encoding="utf-8")


def test_a_check_that_is_none_is_answered(tmp_path):
    done = first("--out", str(tmp_path / "out"), "--only", "comit")
    assert done.returncode == 2
    assert "'comit' is no check; there are 'loading'" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_nothing_holds(tmp_path):
    done = first("--out", str(tmp_path), "--only", "commit")
    assert done.returncode == 1
    result = written(tmp_path)
    assert result["checks"]["loading"]["status"] == "FAILED"
    assert result["checks"]["commit"]["status"] == "NOT BEGUN"
    assert "NOT everything held" in done.stdout
