"""Where cubins are kept: the cache, what breaks in it, several processes, and the cubins that come with the package."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from dllm_fast import cli, kernels
from dllm_fast.errors import KernelError
from dllm_fast.kernels import build, cubins, device, files
from dllm_fast.kernels import nvrtc as compiler
from tests.compiler import LOG, nvrtc_or_skip

SOURCE = "mask_predict.bf16"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cubins, "_of_this_process", {})
    return tmp_path / "dllm_fast" / "cubin"


@pytest.fixture
def compiled(cache, monkeypatch):
    """In place of the compiler: what it was asked to compile."""
    nvrtc = nvrtc_or_skip()
    calls = []

    def compile_(name, *_):
        calls.append(name)
        return b"cubin of " + name.encode(), LOG

    monkeypatch.setattr(nvrtc, "compile", compile_)
    return calls


@pytest.fixture
def no_nvrtc(monkeypatch):
    """Whoever asks for the compiler finds none."""

    def absent():
        raise KernelError("compiling kernels needs NVRTC, got no libnvrtc; install it")

    for module in (build, cubins, device):
        monkeypatch.setattr(module, "nvrtc", absent)


def test_a_cubin_is_compiled_once(cache, compiled, monkeypatch):
    first = kernels.compile_kernels(SOURCE, "sm_80")
    assert first == kernels.compile_kernels(SOURCE, "sm_80")
    assert first.path.parent == cache
    assert first.path.read_bytes() == b"cubin of mask_predict.bf16"
    assert len(compiled) == 1
    assert kernels.compile_kernels(SOURCE, "sm_90a").path != first.path
    headers = {**files.headers(), "dllm/ptx.cuh": b"// another"}
    monkeypatch.setattr(files, "headers", lambda: headers)
    assert kernels.compile_kernels(SOURCE, "sm_80").path != first.path
    monkeypatch.setattr(compiler.nvrtc(), "version", "99.0")
    kernels.compile_kernels(SOURCE, "sm_80")
    assert len(compiled) == 4
    assert {path.suffix for path in cache.iterdir()} == {".cubin", ".log"}, "nothing half-written is left"


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.unlink()])
@pytest.mark.parametrize("suffix", [".cubin", ".log"])
def test_a_damaged_cubin_is_compiled_anew(compiled, damage, suffix):
    first = kernels.compile_kernels(SOURCE, "sm_80")
    if suffix == ".log":
        # Its last line may be cut; the digest of the cubin is the first.
        first.path.with_suffix(suffix).write_bytes(b"0" * 64 + b"\n")
    damage(first.path.with_suffix(suffix))
    assert kernels.cached(SOURCE, "sm_80") is None
    assert kernels.compile_kernels(SOURCE, "sm_80") == first
    assert first.path.read_bytes() == b"cubin of mask_predict.bf16"
    assert len(compiled) == 2


def test_a_folder_that_cannot_be_written_costs_a_compilation_and_nothing_more(tmp_path, compiled):
    # Permissions do not stop root; a file where the folder should be stops everybody.
    (tmp_path / "dllm_fast").write_text("in the way")
    first = kernels.compile_missing([SOURCE], "sm_80")[0]
    assert first.path.read_bytes() == b"cubin of mask_predict.bf16"
    assert first.usage[0].registers == 104
    assert kernels.compile_kernels(SOURCE, "sm_80") == first
    assert len(compiled) == 1


def test_a_full_disk_is_said(cache, compiled, monkeypatch, tmp_path):
    full = True

    def replace(source, target):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.rename(source, target)

    monkeypatch.setattr(cubins.os, "replace", replace)
    with pytest.raises(
        KernelError, match=r"must be written to .*cubin or to .*, got .*No space left.*; make room, or set XDG_C"
    ):
        kernels.compile_kernels(SOURCE, "sm_80")
    assert list(cache.iterdir()) == []
    full = False
    assert kernels.compile_kernels(SOURCE, "sm_80").path.parent == cache


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cubins.Path, "home", home)
    with pytest.raises(KernelError, match=r"below a home folder, got none \(Could not .*\); set XDG_CACHE_HOME"):
        kernels.cache_folder()


def test_what_a_killed_process_left_is_never_read_and_goes_in_time(cache, compiled):
    cache.mkdir(parents=True)
    fresh, old = cache / "one.unfinished", cache / "two.unfinished"
    for path in (fresh, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    kernels.compile_kernels(SOURCE, "sm_80")
    assert fresh.exists(), "its process may still write"
    assert not old.exists()


WRITER = """
import sys, time
from dllm_fast.kernels import cubins
cubins.nvrtc = lambda: type("Stub", (), {"version": "0.0"})
cubin = bytes(range(256)) * 2000
print("ready", flush=True)
for _ in range(60):
    cubins.keep("commit", "sm_80", cubin, "log")
    found = cubins.cached("commit", "sm_80")
    assert found is not None and found.path.read_bytes() == cubin
"""


def test_processes_that_compile_the_same_at_once_do_not_meet(cache):
    command = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        _, said = writer.communicate(timeout=120)
        assert writer.returncode == 0, said
    assert sorted(path.suffix for path in cache.iterdir()) == [".cubin", ".log"]


def test_several_are_compiled_at_the_same_time(cache, monkeypatch):
    nvrtc = nvrtc_or_skip()
    meeting = threading.Barrier(2, timeout=60)

    def compile_(*_):
        meeting.wait()
        return b"cubin", LOG

    monkeypatch.setattr(nvrtc, "compile", compile_)
    monkeypatch.setattr(build, "_at_once", lambda _: 2)
    kernels.compile_missing(["commit", SOURCE], "sm_80")
    assert kernels.cached("commit", "sm_80") is not None


def test_after_a_failure_nothing_more_is_begun(cache, monkeypatch):
    nvrtc = nvrtc_or_skip()
    calls = []

    def compile_(name, *_):
        calls.append(name)
        if len(calls) == 1:
            raise KernelError(f"{name} is wrong; mend it")
        time.sleep(0.5)  # meanwhile the others are taken back
        return b"cubin", LOG

    monkeypatch.setattr(nvrtc, "compile", compile_)
    monkeypatch.setattr(build, "_at_once", lambda _: 1)
    with pytest.raises(KernelError, match="wrong"):
        kernels.compile_missing(kernels.sources(), "sm_80")
    assert len(calls) <= 2 < len(kernels.sources())


# --- the line that says so


def test_a_compilation_that_nobody_asked_for_is_announced_once(compiled, capsys):
    first = kernels.compile_missing(["commit", SOURCE], "sm_80")
    told = "dllm_fast: compiling 2 files of kernels for sm_80, once (ahead: dllm-fast kernels compile): about "
    said = capsys.readouterr().err
    assert said.startswith(told)
    assert said.endswith(" s; 2 of 2 done in 0 s\n")
    assert said.count("\n") == 1
    assert kernels.compile_missing(["commit", SOURCE], "sm_80") == first
    assert capsys.readouterr().err == ""
    kernels.compile_missing(["commit", SOURCE, "mask_predict.f32"], "sm_80")
    assert "compiling 1 file of kernels" in capsys.readouterr().err
    assert sorted(compiled) == ["commit", SOURCE, "mask_predict.f32"]


def test_in_a_terminal_the_line_is_redrawn(compiled, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    kernels.compile_missing(["commit", SOURCE], "sm_80")
    first, second, third = capsys.readouterr().err.split("\r")
    assert "0 of 2 done, about " in first
    assert "1 of 2 done, about " in second
    assert third.endswith("2 of 2 done in 0 s\x1b[K\n")


# --- cubins that come with the package


@pytest.fixture
def folder(cache, tmp_path, monkeypatch):
    """Stands for the folder of the package."""
    monkeypatch.setattr(cubins, "shipped_folder", lambda: tmp_path / "shipped")
    monkeypatch.setattr(device, "sources", lambda: ["commit"])
    monkeypatch.setattr(kernels, "sources", lambda: ["commit"])
    return tmp_path / "shipped"


def test_shipped_cubins_need_no_compiler(cache, folder, no_nvrtc, capsys, monkeypatch):
    with monkeypatch.context() as undone:
        nvrtc_or_skip()
        for module in (build, cubins, device):
            undone.setattr(module, "nvrtc", compiler.nvrtc)
        assert cli.main(["kernels", "compile", "--arch", "sm_80", "--out", str(folder), "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert (row["kernel"], row["arch"]) == ("dllm_commit", "sm_80")
    assert not cache.exists()
    found = kernels.compile_missing(["commit"], "sm_80")[0]
    assert found.path.parent == folder
    assert found.path.read_bytes()[:4] == b"\x7fELF"
    assert found.usage == kernels.shipped("commit", "sm_80").usage
    assert capsys.readouterr().err == "", "nothing is compiled"
    with pytest.raises(KernelError, match="needs NVRTC"):
        kernels.compile_missing(["commit"], "sm_90a")


def test_a_device_with_shipped_cubins_lacks_nothing(folder, compiled, no_nvrtc, monkeypatch):
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr(device, "cupy_version", lambda: "14.0")
    assert kernels.problem(0) == ("compiling kernels needs NVRTC, got no libnvrtc", "install it")
    cubins.write(folder / cubins.shipped_name("commit", "sm_80"), "commit", "sm_80", b"cubin", LOG)
    assert kernels.problem(0) is None


def test_stale_cubins_are_not_used_and_go_with_the_next_ones(folder, compiled, monkeypatch):
    assert cli.main(["kernels", "compile", "--arch", "sm_80,sm_90a", "--out", str(folder)]) == 1
    assert cli.main(["kernels", "compile", "--arch", "sm_90a", "--out", str(folder)]) == 1
    assert compiled == ["commit"] * 3, "the compiler of the package is the one of the call"
    before = set(folder.iterdir())
    assert len(before) == 4
    other = folder / "notes.txt"
    other.write_text("of somebody else")
    headers = {**files.headers(), "dllm/ptx.cuh": b"// another"}
    monkeypatch.setattr(files, "headers", lambda: headers)
    assert kernels.shipped("commit", "sm_80") is None
    assert cli.main(["kernels", "compile", "--arch", "sm_80", "--out", str(folder)]) == 1
    assert kernels.shipped("commit", "sm_80") is not None
    assert not before & set(folder.iterdir())
    assert other.exists()


def test_a_shipped_cubin_that_is_cut_short_is_not_used(folder, compiled):
    name = cubins.shipped_name("commit", "sm_80")
    cubins.write(folder / name, "commit", "sm_80", b"cubin", LOG)
    assert (folder / name).with_suffix(".log").read_text().splitlines()[0] == hashlib.sha256(b"cubin").hexdigest()
    (folder / name).write_bytes(b"cubi")
    assert kernels.shipped("commit", "sm_80") is None


def test_a_folder_for_cubins_that_cannot_be_made_is_one_line(folder, compiled, capsys):
    folder.write_text("a file")
    assert cli.main(["kernels", "compile", "--arch", "sm_80", "--out", str(folder)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("dllm-fast: --out must name a folder that can be written to, got ")
    assert said.endswith("; choose another")


def test_without_architectures_those_of_a_release_are_written(folder, compiled, capsys):
    if not {int(arch.strip("sm_a")) for arch in kernels.SHIPPED_ARCHITECTURES} <= set(compiler.nvrtc().known()):
        pytest.skip(f"NVRTC {compiler.nvrtc().version} is older than some architecture of a release")
    assert cli.main(["kernels", "compile", "--out", str(folder), "--json"]) == 1
    assert {row["arch"] for row in json.loads(capsys.readouterr().out)} == {"sm_80", "sm_90a", "sm_100a", "sm_103a", "sm_120"}
    assert all(kernels.shipped("commit", arch) for arch in kernels.SHIPPED_ARCHITECTURES)
