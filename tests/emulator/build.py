"""Compiles kernels with g++ into libraries of emulated kernels, kept in build/emulator by the digest of what went in."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from dllm_fast.kernels import layout

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "cuda"
_HERE = Path(__file__).parent
_RUNTIME = _HERE / "runtime"
_PARTS = (_RUNTIME / "runtime.cpp", _RUNTIME / "matrices.cpp")
_RACES = _RUNTIME / "races.cpp"
_CACHE = ROOT / "build" / "emulator"
# No contraction: a * b + c must round twice where the kernel says so.
_FLAGS = ("-std=c++17", "-fPIC", "-DDLLM_EMU", "-ffp-contract=off", "-fno-strict-aliasing", "-w")
OPTIMISED = ("-O1",)
#: Every access to memory calls a function, which is in races.cpp.
WATCHED = ("-O1", "-fsanitize=thread")
SANITIZED = ("-O0", "-g", "-fsanitize=address", "-fno-omit-frame-pointer")


def why_not() -> str | None:
    """Why kernels cannot be emulated on this machine, if they cannot."""
    if platform.machine() != "x86_64":
        return f"the emulator switches fibers in x86-64 assembly, and this machine is {platform.machine()}"
    if shutil.which("g++") is None:
        return "the emulator compiles kernels with g++, which is not on PATH"
    return None


@cache
def _machine_flags() -> tuple[str, ...]:
    # With the instruction a fused multiply-add is inlined; without it the C library's is right and slow.
    return ("-mfma",) if " fma " in Path("/proc/cpuinfo").read_text(encoding="utf-8") else ()


def headers() -> list[Path]:
    """The headers that kernels share."""
    return sorted((KERNELS / "include").rglob("*.cuh"))


def _compiled(key: str, source: Path, target: str, command: tuple[str, ...], replaced: dict[str, str] | None = None) -> Path:
    """What a command of g++ makes of a source, kept under its name and a digest of all that went in."""
    made = {layout.HEADER: layout.header(), **(replaced or {})}
    digest = hashlib.sha256(repr((key, command, made)).encode())
    for path in (*headers(), _RUNTIME / "emulator.h"):
        digest.update(path.read_bytes())
    built = _CACHE / f"{source.stem}-{digest.hexdigest()[:24]}.{target}"
    if not built.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
            copy, target_file = Path(folder, source.name), Path(folder, "made")
            copy.write_text(f'#line 1 "{source}"\n{key}', encoding="utf-8")
            for name, text in made.items():
                Path(folder, name).parent.mkdir(exist_ok=True)
                Path(folder, name).write_text(text, encoding="utf-8")
            includes = (f"-I{folder}", f"-I{KERNELS / 'include'}", f"-I{_RUNTIME}")
            arguments = ["g++", *_FLAGS, *includes, "-x", "c++", str(copy), "-x", "none", *command, "-o", str(target_file)]
            result = subprocess.run(arguments, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                raise RuntimeError(f"g++ refuses {source.name}:\n{result.stderr}")
            os.replace(target_file, built)  # another process may build the same
    return built


def library(
    source: Path,
    *,
    options: tuple[str, ...] = OPTIMISED,
    text: str | None = None,
    replaced: dict[str, str] | None = None,
) -> Path:
    """The library of the kernels of a .cu file.

    `text`, if given, is compiled in place of what the file holds, and `replaced` has texts in place of headers, by the names
    under which kernels include them.
    """
    flags = (*options, *_machine_flags())
    parts = (_compiled(part.read_text(encoding="utf-8"), part, "o", (*flags, "-c")) for part in _PARTS)
    code = source.read_text(encoding="utf-8") if text is None else text
    return _compiled(code, source, "so", (*flags, "-shared", *map(str, parts)), replaced)


def watched(source: Path, *, text: str | None = None, replaced: dict[str, str] | None = None) -> Path:
    """A library that fails at hazards in shared memory (races.cpp), slowly."""
    machine = _machine_flags()
    parts = [_compiled(part.read_text(encoding="utf-8"), part, "o", (*OPTIMISED, *machine, "-c")) for part in (*_PARTS, _RACES)]
    code = source.read_text(encoding="utf-8") if text is None else text
    kernels = _compiled(code, source, "o", (*WATCHED, *machine, "-c"), replaced)
    # Linked by itself: ThreadSanitizer's own library would come with its option.
    return _compiled("", source, "watched.so", ("-shared", *map(str, (kernels, *parts))))
