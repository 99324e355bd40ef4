"""Where the time of a step goes: a table of its kernels, the gaps between them, and how often the host waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from bench.on_gpu.stage import Json, Stage

_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("mask prediction", ("dllm_mask", "dllm_commit")),
    ("attention", ("dllm_attention", "flash", "fmha", "attention")),
    ("norm, heads, swiglu", ("dllm_fused",)),
    ("products", ("gemm", "cutlass", "nvjet", "xmma", "cublas", "splitk", "gemv")),
    ("copies", ("memcpy", "memset")),
)
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
_MARK = "dllm_fast: the steps"


def of_steps(stage: Stage, step: Callable[[], object], count: int, name: str) -> Json:
    """Profiles so many steps.

    Args:
        stage: where.
        step: one step.
        count: how many.
        name: of the trace to write.
    """
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if stage.device.type == "cuda" else [])
    stage.synchronize()
    with profile(activities=activities) as profiler:
        began = time.perf_counter()
        with record_function(_MARK):
            for _ in range(count):
                step()
        stage.synchronize()
        wall = time.perf_counter() - began
    events = list(profiler.events() or [])
    waits = waits_inside(events)
    if stage.dry:
        return {"ran": True}
    stage.out.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(stage.out / name))
    done = steps_inside(events) or count
    table = kernel_table(events, done)
    busy = sum(row["us"] for row in table)
    return {
        "profiled_us_per_step": wall * 1e6 / count,
        "us_by_kind": _by_kind(table),
        "busy_us_per_step": busy,
        "steps_of_the_device": done,
        "gaps_us_per_step": _span_us(events) / done - busy,
        "device_operations_per_step": sum(row["count"] for row in table),
        "kernels": table,
        "waits_per_step": sum(waits.values()) / count,
        "waits": waits,
        # One wait a step: for its result.
        "passed": sum(waits.values()) <= count,
        "trace": name,
    }


def waits_inside(events: Iterable[Any]) -> dict[str, int]:
    """How often the host waited between the beginning and the end of the steps. The profiler waits, too, outside."""
    events = list(events)
    marks = [event.time_range for event in events if event.name == _MARK and not _is_of_device(event)]
    waits: dict[str, int] = {}
    for event in events:
        is_inside = any(mark.start <= event.time_range.start <= mark.end for mark in marks)
        if event.name in _WAITS and is_inside and not _is_of_device(event):
            waits[event.name] = waits.get(event.name, 0) + 1
    return waits


def steps_inside(events: Iterable[Any]) -> int:
    """How many steps the device made meanwhile: each commits once. The first may have been begun before the profile."""
    return sum(_is_of_device(event) and event.name.startswith("dllm_commit") for event in events)


def kernel_table(events: Iterable[Any], count: int) -> list[Json]:
    """Operations of the device by name: how many a step, and microseconds a step; the longest first."""
    found: dict[str, list[float]] = {}
    for event in events:
        if _is_of_device(event) and event.name != _MARK:
            found.setdefault(event.name, []).append(event.time_range.elapsed_us())
    rows = [{"kernel": name, "count": len(times) / count, "us": sum(times) / count} for name, times in found.items()]
    return sorted(rows, key=lambda row: -float(row["us"]))  # type: ignore[arg-type]


def _by_kind(table: list[Json]) -> dict[str, float]:
    kinds: dict[str, float] = {}
    for row in table:
        lowered = row["kernel"].lower()
        kind = next((kind for kind, words in _KINDS if any(word in lowered for word in words)), "elementwise")
        kinds[kind] = kinds.get(kind, 0.0) + row["us"]
    return kinds


def _span_us(events: Iterable[Any]) -> float:
    """From the beginning of the first to the end of the last operation of the device."""
    ranges = [event.time_range for event in events if _is_of_device(event) and event.name != _MARK]
    return max((r.end for r in ranges), default=0.0) - min((r.start for r in ranges), default=0.0)


def _is_of_device(event: Any) -> bool:
    return bool(event.device_type != torch.autograd.DeviceType.CPU)
