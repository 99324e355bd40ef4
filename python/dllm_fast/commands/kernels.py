"""`dllm-fast kernels compile`: compiles every CUDA kernel, which needs no GPU, and fills the cache or a folder."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dllm_fast.errors import InvalidValueError

if TYPE_CHECKING:
    import argparse

    from dllm_fast import kernels


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `kernels compile` to the command."""
    from dllm_fast.kernels import ARCHITECTURES, SHIPPED_ARCHITECTURES

    usual = ",".join(ARCHITECTURES)
    kernels = commands.add_parser("kernels", help="compile the CUDA kernels", description=__doc__)
    actions = kernels.add_subparsers(dest="action", metavar="action", required=True)
    compile_ = actions.add_parser("compile", help="compile all kernels; needs no GPU", description=_compile.__doc__)
    compile_.add_argument(
        "--arch",
        metavar="LIST",
        help=f"architectures, comma-separated (default: {usual}; with --out {','.join(SHIPPED_ARCHITECTURES)})",
    )
    compile_.add_argument(
        "--out",
        metavar="FOLDER",
        help="write cubins there and not into the cache; those in dllm_fast/cubins of a package need no compiler",
    )
    compile_.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    compile_.set_defaults(run=_compile)


def _compile(options: argparse.Namespace) -> int:
    """Compile all CUDA kernels with NVRTC, several at once. Prints what each kernel uses. Status 1 if one of them spills."""
    from dllm_fast import kernels
    from dllm_fast.kernels.nvrtc import nvrtc

    usual = kernels.ARCHITECTURES if options.out is None else kernels.SHIPPED_ARCHITECTURES
    asked = usual if options.arch is None else options.arch.split(",")
    architectures = list(dict.fromkeys(arch.strip() for arch in asked if arch.strip()))
    if not architectures:
        raise InvalidValueError(f"--arch must name an architecture, got {options.arch!r}; leave it out for the usual ones")
    for arch in architectures:
        kernels.check_architecture(arch)
    jobs = [(name, arch) for name in kernels.sources() for arch in architectures]
    folder = kernels.cache_folder() if options.out is None else Path(options.out)
    try:
        compiled = kernels.compile_all(jobs, _counted(len(jobs)), into=None if options.out is None else folder)
    except OSError as error:
        if options.out is None:
            raise
        raise InvalidValueError(f"--out must name a folder that can be written to, got {error}; choose another") from error
    usages = [usage for one in compiled for usage in one.usage]
    if options.json:
        rows = [asdict(usage) for usage in usages]
        print(json.dumps(rows, indent=1))
    else:
        width = max((len(usage.kernel) for usage in usages), default=6)
        print(f"{'kernel':{width}}  arch     registers  spills  shared")
        for usage in usages:
            print(f"{usage.kernel:{width}}  {usage.arch:8} {usage.registers:9}  {usage.spills:6}  {usage.shared_bytes:6}")
        size = sum(one.path.stat().st_size for one in compiled) / 2**20
        print(f"NVRTC {nvrtc().version}, {len(jobs)} cubins of {size:.1f} MiB in {folder}", file=sys.stderr)
    return 1 if any(usage.spills for usage in usages) else 0


def _counted(jobs: int) -> kernels.Done:
    """Says on standard error what is done, one line each."""
    done = 0

    def say(job: kernels.Job, seconds: float | None) -> None:
        nonlocal done
        done += 1
        count = f"{done}/{jobs}"
        how = "in the cache" if seconds is None else f"{seconds:.1f} s"
        print(f"{count:>7}  {job[0]} for {job[1]}: {how}", file=sys.stderr, flush=True)

    return say
