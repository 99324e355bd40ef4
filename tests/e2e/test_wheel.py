"""The wheel: what is in it, and what it asks for."""

import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    wheels = list(folder.iterdir())
    assert len(wheels) == 1
    return zipfile.ZipFile(wheels[0])


def test_it_is_one_abi3_wheel_for_python_3_11_and_newer(wheel: zipfile.ZipFile) -> None:
    assert "-cp311-abi3-" in Path(wheel.filename or "").name


def test_nothing_lies_beside_the_package(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert "dllm_fast" in top
    assert all(name == "dllm_fast" or name.endswith(".dist-info") for name in top)


@pytest.mark.parametrize(
    "name",
    [
        "_core.abi3.so",
        "_core.pyi",
        "py.typed",
        "cuda/mask_predict.cu",
        "cuda/include/dllm/ptx.cuh",
        "demo/sudoku/config.json",
        "demo/sudoku/model.safetensors",
        "demo/sudoku/tokenizer.json",
        "demo/text/model.safetensors",
    ],
)
def test_it_holds(wheel: zipfile.ZipFile, name: str) -> None:
    assert f"dllm_fast/{name}" in wheel.namelist()


def test_it_holds_every_kernel_as_a_file(wheel: zipfile.ZipFile) -> None:
    cuda = ROOT / "cuda"
    for path in (path for path in cuda.rglob("*") if path.is_file()):
        assert wheel.read(f"dllm_fast/cuda/{path.relative_to(cuda).as_posix()}") == path.read_bytes()


def test_it_holds_nothing_that_was_left_lying_around(wheel: zipfile.ZipFile) -> None:
    suffixes = {Path(name).suffix for name in wheel.namelist() if name.startswith("dllm_fast/")}
    # Cubins are there where a release has made them.
    assert suffixes - {".cubin", ".log"} == {".py", ".pyi", ".typed", ".so", ".json", ".safetensors", ".cu", ".cuh"}
    cubins = {name for name in wheel.namelist() if name.endswith((".cubin", ".log"))}
    made = (ROOT / "python" / "dllm_fast" / "cubins").glob("*.*")
    assert cubins == {f"dllm_fast/cubins/{path.name}" for path in made}
    assert sum(entry.file_size for entry in wheel.infolist() if "demo/" in entry.filename) < 4_000_000


def test_it_asks_for_five_packages_and_no_more(wheel: zipfile.ZipFile) -> None:
    metadata = message_from_bytes(wheel.read(next(n for n in wheel.namelist() if n.endswith("/METADATA"))))
    always = [r for r in metadata.get_all("Requires-Dist") or [] if "extra ==" not in r]
    assert {r.split(">")[0].strip() for r in always} == {"numpy", "torch", "tokenizers", "safetensors", "jinja2"}
    assert (metadata["Name"], metadata["License-Expression"]) == ("dllm-fast", "Apache-2.0")
