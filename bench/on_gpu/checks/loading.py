"""Every kernel loaded on the device, and what the driver makes of the cubins."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bench import harness
from bench.on_gpu import launched
from bench.on_gpu.stage import Json, Stage
from dllm_fast import kernels
from dllm_fast.kernels.nvrtc import nvrtc
from dllm_fast.ops import fused, launcher

# It calls a function that the driver joins to it when it is loaded, whose registers and stack the compiler does not know.
_JOINED = ("dllm_loop_next",)


def load(stage: Stage) -> Json:
    """Loads all of it, so that the other checks find the cubins made, launches one, and says what machine this is.

    No other check begins where this one fails, so it asks for no more than they need.
    """
    facts = _facts(stage)
    for name, value in facts.items():
        print(f"{name}: {value}", flush=True)
    if not stage.dry:
        missing = [source for source in kernels.sources() if kernels.find(source, facts["arch"]) is None]
        print(f"compiled here: {', '.join(missing) or 'nothing'}", flush=True)
        kernels.compile_missing(missing, facts["arch"])
        for source in kernels.sources():  # one by one, so that the log tells which of them the driver refuses
            print(f"{source}: ", end="", flush=True)
            kernels.load(source, torch.cuda.current_device())
            print("loaded", flush=True)
    names = sorted(every_kernel(stage))
    unusable = [source for source in kernels.sources() if not launcher.usable(stage.device, source)]
    assert not unusable, unusable
    _one_launch(stage)
    return facts | {"compiled here": [] if stage.dry else missing, "kernels": names}


def registers(stage: Stage) -> Json:
    """What the driver makes of each kernel: the registers that the compiler said, and no memory of a thread's own."""
    rows: list[Json] = []
    if not stage.dry:
        arch = kernels.architecture(torch.cuda.get_device_capability())
        rows = [row for source in kernels.sources() for row in _rows(source, arch)]
    _one_launch(stage)
    strange = [row for row in rows if row["spills"] or not _is_as_said(row)]
    assert not strange, strange
    return {"registers": {row["kernel"]: row["registers"] for row in rows}}


def _is_as_said(row: Json) -> bool:
    if row["kernel"] in _JOINED:
        return bool(row["registers"] >= row["said"])
    return not row["local_bytes"] and bool(row["registers"] == row["said"])


def _one_launch(stage: Stage) -> None:
    with launched.exactly([launched.fused("swiglu", torch.bfloat16)]):
        halves = fused.swiglu(torch.ones(1, 16, device=stage.device).bfloat16())
    assert halves.float().sub(0.7310585786).abs().max() < 4e-3, "silu(1) * 1"


def every_kernel(stage: Stage) -> set[str]:
    """The kernels of all sources, by name."""
    if stage.dry:
        from tests.emulator import build
        from tests.emulator.launch import kernels_of

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            libraries = list(pool.map(build.library, sorted(build.KERNELS.glob("*.cu"))))
        return set().union(*map(kernels_of, libraries))
    arch = kernels.architecture(torch.cuda.get_device_capability())
    return {usage.kernel for source in kernels.sources() for usage in kernels.compile_kernels(source, arch).usage}


def _rows(source: str, arch: str) -> list[Json]:
    compiled = kernels.compile_kernels(source, arch)
    module = kernels.load(source, torch.cuda.current_device())
    rows = []
    for usage in compiled.usage:
        function: Any = module.get_function(usage.kernel)
        row = {
            "kernel": usage.kernel,
            "registers": function.num_regs,
            "said": usage.registers,
            "spills": usage.spills,
            "local_bytes": function.local_size_bytes,
            "shared_bytes": function.shared_size_bytes,
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def _facts(stage: Stage) -> Json:
    facts: Json = {
        "package": str(Path(kernels.__file__).parent),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cupy": kernels.cupy_version(),
    }
    if stage.dry:
        return facts
    why = kernels.problem()
    assert why is None, why
    properties = torch.cuda.get_device_properties(0)
    return facts | {
        "nvrtc": f"{nvrtc().version}, {nvrtc().path}",
        "device": properties.name,
        "driver": harness._output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "arch": kernels.architecture(torch.cuda.get_device_capability()),
        "cubins": str(kernels.cache_folder()),
    }
