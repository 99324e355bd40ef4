"""`bench/on_gpu/prepare.py` makes ready what travels to a GPU, and says what is not ready."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.on_gpu import prepare
from dllm_fast.errors import KernelError
from dllm_fast.kernels.nvrtc import nvrtc


@pytest.fixture
def library():
    """What this environment has of NVRTC, in place of a fetched one."""
    try:
        found = nvrtc()
    except KernelError as error:
        pytest.skip(str(error))
    folder = next((place for place in Path(found.path).parents if (place / "nvidia").is_dir()), None)
    if folder is None:
        pytest.skip(f"NVRTC is no package here: {found.path}")
    return folder


def test_what_is_there_is_not_fetched(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(prepare, "_run", lambda command, *_: asked.append(command))
    assert prepare.nvrtc("13.0.88", tmp_path) == tmp_path / "13.0.88"
    assert asked[0][-1] == "nvidia-cuda-nvrtc==13.0.88"
    prepare.nvrtc("12.8.93", tmp_path)
    assert asked[1][-1] == "nvidia-cuda-nvrtc-cu12==12.8.93"
    there = tmp_path / "13.0.88" / "nvidia" / "cu13" / "lib" / "libnvrtc.so.13"
    there.parent.mkdir(parents=True)
    there.touch()
    prepare.nvrtc("13.0.88", tmp_path)
    assert len(asked) == 2


def test_another_compiler_than_the_targets_is_refused(library, capfd):
    with pytest.raises(prepare.NotReadyError, match=r"ended with status 1; look above for what NVRTC 13\.99\.1 says"):
        prepare.compile_cubins(library, "13.99.1", "sm_90a")
    assert f"NVRTC is {nvrtc().version}, not 13.99.1" in capfd.readouterr().err


def test_an_architecture_that_no_kernel_knows_is_refused(library, capfd):
    with pytest.raises(prepare.NotReadyError, match="ended with status"):
        prepare.compile_cubins(library, f"{nvrtc().version}.1", "sm_70")
    assert "sm_80 or newer, got sm_70" in capfd.readouterr().err


def test_what_is_too_large_does_not_travel(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    listed = "kept.py\0gone.py\0"
    monkeypatch.setattr(prepare.subprocess, "run", lambda *_, **__: type("", (), {"stdout": listed.encode()})())
    (tmp_path / "kept.py").write_bytes(b"x" * 2**20)
    cubin = tmp_path / "a.cubin"
    cubin.write_bytes(b"x" * 2**21)
    prepare.check_size([cubin], 3.0)
    assert "travels: 2 files, 3.0 of 3 MiB" in capsys.readouterr().out
    with pytest.raises(
        prepare.NotReadyError, match=r"at most 2\.9 MiB, got 3\.0; the largest are a\.cubin 2\.0, kept\.py 1\.0"
    ):
        prepare.check_size([cubin], 2.9)


def test_it_prints_what_to_carry_and_to_run():
    text = prepare.instructions(prepare.PACKAGE / "_core.abi3.so")
    assert "python/dllm_fast/_core.abi3.so .cubins" in text
    assert 'PYTHONPATH=python:. XDG_CACHE_HOME="$PWD/.cubins" python3 bench/on_gpu/first.py --out "$OUT"' in text
    readme = (prepare.ROOT / "bench" / "on_gpu" / "README.md").read_text(encoding="utf-8")
    assert text.strip().splitlines()[-1].strip() in readme
    assert "/.cubins/" in (prepare.ROOT / ".gitignore").read_text(encoding="utf-8").split()


def test_the_extension_is_found_or_built_where_the_package_is(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "PACKAGE", tmp_path)

    def wheel(command, *_):
        import zipfile

        with zipfile.ZipFile(Path(command[command.index("--wheel-dir") + 1], "dllm_fast-0-py3-none-any.whl"), "w") as file:
            file.writestr("dllm_fast/__init__.py", "")
            file.writestr("dllm_fast/_core.abi3.so", "machine code")

    monkeypatch.setattr(prepare, "_run", wheel)
    built = prepare.extension()
    assert built == tmp_path / "_core.abi3.so"
    assert built.read_text() == "machine code"
    monkeypatch.setattr(prepare, "_run", None)
    assert prepare.extension() == built


def test_it_begins_without_any_package():
    """The extension that it builds is not there yet."""
    command = [sys.executable, "-I", "-S", str(prepare.ROOT / "bench" / "on_gpu" / "prepare.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--nvrtc" in done.stdout
