"""Makes ready, on a machine without a GPU, what a machine with one is to be given, and prints the command for there.

python bench/on_gpu/prepare.py                      for an H100 or H200 with CUDA 13.0
python bench/on_gpu/prepare.py --arch sm_100a --nvrtc 13.2.86

Builds the extension if it is missing; compiles all kernels with the NVRTC of the target into .cubins, so that no time there
goes into compiling; checks that what travels is small enough. A cubin is found there if NVRTC has the same version to the
second number. Needs pip, and a Rust compiler where the extension is missing. Status 0: ready; 1: the text says what is not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.on_gpu import place

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "dllm_fast"
CUBINS = ".cubins"
MIB = 2**20


class NotReadyError(Exception):
    """The text says what is wrong, and what to do about it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Does it, step by step, and says what each has made."""
    parser = argparse.ArgumentParser(prog="python bench/on_gpu/prepare.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arch", default="sm_90a", help="architecture of the target (default: sm_90a, H100 and H200)")
    parser.add_argument("--nvrtc", default="13.0.88", metavar="VERSION", help="NVRTC of the target (default: 13.0.88)")
    parser.add_argument("--most-mib", type=float, default=64.0, metavar="MIB", help="what may travel (default: 64)")
    parser.add_argument(
        "--kept", type=Path, default=ROOT / "build" / "nvrtc", help="where NVRTC is kept (default: build/nvrtc)"
    )
    options = parser.parse_args(argv)
    try:
        built = extension()
        print(f"extension: {built.relative_to(ROOT)}, {built.stat().st_size / MIB:.1f} MiB")
        library = nvrtc(options.nvrtc, options.kept)
        compile_cubins(library, options.nvrtc, options.arch)
        cubins = [path for path in (ROOT / CUBINS).rglob("*") if path.is_file()]
        print(f"cubins: {len(cubins)} files, {sum(map(_size, cubins)) / MIB:.1f} MiB in {CUBINS}")
        name, is_changed = place.commit()
        (ROOT / CUBINS / place.PREPARED).write_text(f"{name}{' with changes' * is_changed}\n", encoding="utf-8")
        carried = [built, *cubins]
        check_size(carried, options.most_mib)
    except NotReadyError as error:
        print(f"not ready: {error}")
        return 1
    print(instructions(built))
    return 0


def extension() -> Path:
    """The compiled core beside its package, built if it is missing.

    Raises:
        NotReadyError: it cannot be built.
    """
    found = sorted(PACKAGE.glob("_core*.so"))
    if found:
        if b"libpython" in found[0].read_bytes():
            raise NotReadyError(
                f"{found[0].relative_to(ROOT)} must load under any Python, but is linked to the libpython of one (cargo alone "
                "builds it so); remove it and run this again, then pip builds it"
            )
        return found[0]
    print("extension: building it, which takes a minute or two", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        _run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(ROOT)], "is there Rust?")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            name = next(name for name in wheel.namelist() if name.startswith("dllm_fast/_core") and name.endswith(".so"))
            built = PACKAGE / Path(name).name
            built.write_bytes(wheel.read(name))
            built.chmod(0o755)
    return built


def nvrtc(version: str, kept: Path) -> Path:
    """A folder to import from that has NVRTC in this version, fetched once.

    Raises:
        NotReadyError: it cannot be fetched.
    """
    folder = kept / version
    if not any(folder.rglob("libnvrtc.so.*")):
        name = "nvidia-cuda-nvrtc" if int(version.partition(".")[0]) >= 13 else "nvidia-cuda-nvrtc-cu12"
        print(f"NVRTC: fetching {name} {version} into {folder}", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), f"{name}=={version}"]
        _run(pip, "is there such a version?")
    return folder


# In a process of its own: this one may have loaded another NVRTC. The folder comes first on the path, and so is found first.
_COMPILE = """
import os, sys
import torch  # brings its own NVRTC in sight, which must not be taken
from dllm_fast import cli, kernels
from dllm_fast.kernels.nvrtc import nvrtc
wanted, arch = sys.argv[1:]
found = nvrtc()
assert found.path.startswith(os.environ["WANTED"]), f"NVRTC {found.version} was found at {found.path}"
assert wanted.startswith(found.version + "."), f"NVRTC is {found.version}, not {wanted}"
sys.exit(cli.main(["kernels", "compile", "--arch", arch]))
"""


def compile_cubins(library: Path, version: str, arch: str) -> None:
    """Compiles all kernels into the folder that travels; those that are there already stay.

    Raises:
        NotReadyError: a kernel that does not compile, or spills.
    """
    if (PACKAGE / "cubins").exists():
        raise NotReadyError(f"cubins of a release lie in {PACKAGE / 'cubins'} and would be taken first; remove that folder")
    path = os.pathsep.join(map(str, (library, ROOT / "python", ROOT)))
    environment = os.environ | {"PYTHONPATH": path, "XDG_CACHE_HOME": str(ROOT / CUBINS), "WANTED": str(library)}
    _run([sys.executable, "-c", _COMPILE, version, arch], f"look above for what NVRTC {version} says", environment)


def check_size(carried: Sequence[Path], most_mib: float) -> None:
    """Is what travels small enough: all that git does not ignore, and what is carried besides?

    Raises:
        NotReadyError: it is not; names the largest files.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    files = {path for name in listed.split("\0") if name and (path := ROOT / name).is_file()} | set(carried)
    total = sum(map(_size, files)) / MIB
    if total > most_mib:
        largest = ", ".join(f"{path.relative_to(ROOT)} {_size(path) / MIB:.1f}" for path in sorted(files, key=_size)[:-4:-1])
        raise NotReadyError(
            f"what travels must be at most {most_mib:g} MiB, got {total:.1f}; the largest are {largest}: remove what is old"
        )
    print(f"travels: {len(files)} files, {total:.1f} of {most_mib:g} MiB")


def instructions(built: Path) -> str:
    """What to carry besides the checkout, and what to run there in its root."""
    there = f'PYTHONPATH=python:. XDG_CACHE_HOME="$PWD/{CUBINS}" python3 bench/on_gpu/first.py --out "$OUT"'
    return f"""
ready. Copy the checkout with what git ignores in it, namely

    {built.relative_to(ROOT)} {CUBINS}

and run there, in its root, with OUT set to the folder that comes back:

    {there}"""


def _run(command: list[str], question: str, environment: dict[str, str] | None = None) -> None:
    status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if status != 0:
        raise NotReadyError(f"{' '.join(command[:5])} ... ended with status {status}; {question}")


def _size(path: Path) -> int:
    return path.stat().st_size


if __name__ == "__main__":
    sys.exit(main())
