"""`dllm-fast kernels compile`: compiles every CUDA kernel, which needs no GPU, and fills the cache."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from dllm_fast.errors import InvalidValueError

if TYPE_CHECKING:
    import argparse

    from dllm_fast import kernels


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `kernels compile` to the command."""
    from dllm_fast.kernels import ARCHITECTURES

    kernels = commands.add_parser("kernels", help="compile the CUDA kernels", description=__doc__)
    actions = kernels.add_subparsers(dest="action", metavar="action", required=True)
    compile_ = actions.add_parser("compile", help="compile all kernels; needs no GPU", description=_compile.__doc__)
    compile_.add_argument(
        "--arch",
        default=",".join(ARCHITECTURES),
        metavar="LIST",
        help=f"architectures, comma-separated (default: {','.join(ARCHITECTURES)})",
    )
    compile_.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    compile_.set_defaults(run=_compile)


def _compile(options: argparse.Namespace) -> int:
    """Compile all CUDA kernels with NVRTC into the cache. Prints what each kernel uses. Status 1 if one of them spills."""
    from dllm_fast import kernels
    from dllm_fast.nvrtc import nvrtc

    architectures = list(dict.fromkeys(arch.strip() for arch in options.arch.split(",") if arch.strip()))
    if not architectures:
        raise InvalidValueError(f"--arch must name an architecture, got {options.arch!r}; leave it out for the usual ones")
    for arch in architectures:
        kernels.check_architecture(arch)
    jobs = [(name, arch) for name in kernels.sources() for arch in architectures]
    usages = [usage for number, job in enumerate(jobs, 1) for usage in _watched(f"{number}/{len(jobs)}", *job).usage]
    if options.json:
        rows = [asdict(usage) for usage in usages]
        print(json.dumps(rows, indent=1))
    else:
        width = max((len(usage.kernel) for usage in usages), default=6)
        print(f"{'kernel':{width}}  arch     registers  spills  shared")
        for usage in usages:
            print(f"{usage.kernel:{width}}  {usage.arch:8} {usage.registers:9}  {usage.spills:6}  {usage.shared_bytes:6}")
        print(f"NVRTC {nvrtc().version}, cubins in {kernels.cache_folder()}", file=sys.stderr)
    return 1 if any(usage.spills for usage in usages) else 0


def _watched(count: str, name: str, arch: str) -> kernels.Compiled:
    """Compiles one file for one architecture, with a line on standard error that says so while it runs."""
    from dllm_fast import kernels

    print(f"{count:>5}  {name} for {arch}: ", end="", file=sys.stderr, flush=True)
    ended = "failed"
    try:
        is_cached = kernels.cached(name, arch) is not None
        began = time.perf_counter()
        compiled = kernels.compile_kernels(name, arch)
        ended = "in the cache" if is_cached else f"{time.perf_counter() - began:.1f} s"
        return compiled
    finally:
        print(ended, file=sys.stderr, flush=True)
