"""`dllm-fast doctor`: threads and cores, what of the CUDA path is there, which kernels can be used, and what to do about the
others."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `doctor` to the command."""
    doctor = commands.add_parser("doctor", help="report whether the CUDA kernels can be used", description=report.__doc__)
    doctor.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    doctor.set_defaults(run=_doctor)


def report() -> dict[str, Any]:
    """Report threads and cores, torch, CUDA, CuPy, NVRTC, the architecture of the device, the models that the kernels take, and
    each file of kernels, loaded there: usable, or why not and the remedy."""
    import torch

    from dllm_fast import cores, kernels
    from dllm_fast.errors import KernelError
    from dllm_fast.kernels.nvrtc import nvrtc
    from dllm_fast.ops import fallback

    load = cores.load()  # before the compilers, which are ours
    arch = kernels.architecture(torch.cuda.get_device_capability()) if torch.cuda.is_available() else None
    try:
        version = nvrtc().version
    except KernelError:
        version = None
    why, fix = kernels.problem() or ("", "")
    if not why and arch is not None:
        # All at once; what cannot be compiled is said below, of each.
        with contextlib.suppress(KernelError):
            kernels.compile_missing(kernels.sources(), arch)
    entries = {name: _kernel(name, arch, why, fix) for name in kernels.sources()}
    threads, mine = torch.get_num_threads(), cores.allowed()
    return {
        "threads": threads,
        "cores": mine.number,
        "crowded": cores.trouble(threads, mine, load),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cupy": kernels.cupy_version(),
        "nvrtc": version,
        "arch": arch,
        "takes": fallback.TAKEN,
        "kernels": entries,
    }


def _kernel(name: str, arch: str | None, why: str, fix: str) -> dict[str, Any]:
    """Compiled and loaded on the current device: only that shows that the driver takes it."""
    import torch

    from dllm_fast import kernels
    from dllm_fast.errors import KernelError

    if not why and arch is not None:
        try:
            kernels.load(name, torch.cuda.current_device())
        except KernelError as error:
            why, fix = str(error), "report it with this text"
        # CuPy and the driver have errors of their own, and the first line of such a one may be anything.
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            why, fix = f"{type(error).__name__}: {first}", "is the driver as new as CUDA here, and CuPy the one for it?"
    return {"usable": not why, "why": why or None, "fix": fix or None}


def _doctor(options: argparse.Namespace) -> int:
    found = report()
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"{'cores':6} {found['cores']:.3g} for {found['threads']} threads")
    if found["crowded"]:
        print(f"{'':6} {found['crowded']}")
    for name in ("torch", "cuda", "cupy", "nvrtc", "arch", "takes"):
        print(f"{name:6} {found[name] or 'none'}")
    # What is wrong with one is mostly wrong with all.
    alike: dict[str, list[str]] = {}
    for name, entry in found["kernels"].items():
        alike.setdefault("usable" if entry["usable"] else f"not usable: {entry['why']}; {entry['fix']}", []).append(name)
    for said, names in alike.items():
        which = "all kernels" if len(alike) == 1 else ", ".join(names)
        print(f"{which}: {said}")
    return 0
