"""The sources of the kernels: files, the parts of them that are compiled by themselves, headers, and a digest of all that."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from dllm_fast.kernels import layout

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_FLAGS = ("-std=c++17", "--ptxas-options=-v")


def folder() -> Traversable:
    """Where the kernels lie."""
    return files("dllm_fast") / "cuda"


def sources() -> list[str]:
    """What is compiled: the files of kernels, without their suffix, or file.part where a file has parts.

    A file names its parts itself, where it guards them with `#if DLLM_BUILDS(PART)` (cuda/include/dllm/platform.cuh).
    """
    names = sorted(entry.name.removesuffix(".cu") for entry in folder().iterdir() if entry.name.endswith(".cu"))
    return [source for name in names for source in ([f"{name}.{part}" for part in _parts(name)] or [name])]


@cache
def _parts(file: str) -> tuple[str, ...]:
    guards = (line for line in text(file).decode().splitlines() if line.startswith("#if"))
    return tuple(dict.fromkeys(part.lower() for line in guards for part in re.findall(r"\bDLLM_BUILDS\((\w+)\)", line)))


@cache
def text(source: str) -> bytes:
    """The file of a source."""
    return (folder() / f"{source.partition('.')[0]}.cu").read_bytes()


@cache
def headers() -> dict[str, bytes]:
    """Headers by the name under which kernels include them: files, and the one that is made."""
    place = folder() / "include" / "dllm"
    kept = {f"dllm/{entry.name}": entry.read_bytes() for entry in sorted(place.iterdir(), key=lambda e: e.name)}
    return kept | {layout.HEADER: layout.header().encode()}


def options(source: str, arch: str) -> tuple[str, ...]:
    """What the compiler is told beside the text."""
    part = source.partition(".")[2]
    return (f"-arch={arch}", *_FLAGS, *(("-DDLLM_ONE", f"-DDLLM_ONE_{part.upper()}") if part else ()))


def digest(source: str, arch: str, *more: str) -> str:
    """Of everything that a cubin depends on: text, headers and options, and what else is given."""
    found = hashlib.sha256()
    # Lengths keep two different lists from giving the same bytes.
    for part in (source.encode(), text(source), *(b for item in headers().items() for b in (item[0].encode(), item[1]))):
        found.update(len(part).to_bytes(8, "little") + part)
    found.update(repr((options(source, arch), more)).encode())
    return found.hexdigest()
