"""The sections of `bench/gpu.py`, one after the other, within their time, in one process."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import torch

from bench import harness
from bench.on_gpu import attention, counters, experts, place, prediction, published, rates, steps, told
from bench.on_gpu.main import AGAIN, DONE, NO_GPU
from bench.on_gpu.stage import Json, SkippedError, Stage
from dllm_fast.commands.doctor import report as doctor

_RESERVE_S = 5
# A section that is so much over its time hangs.
_OVERTIME_S = 30
_SMI_FIELDS = (
    "name,driver_version,pstate,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.draw,power.limit,temperature.gpu"
)


@dataclass(frozen=True, slots=True)
class Section:
    """What is timed: seconds that it takes at least, seconds after which it takes nothing new up, and its cases."""

    name: str
    least_s: float
    most_s: float
    cases: Callable[[Stage], Iterator[Json]]
    is_extra: bool = False


#: The most telling first.
SECTIONS = (
    Section("card", 2, 20, rates.card),
    Section("launches", 2, 20, rates.launches),
    Section("products", 5, 30, rates.products),
    Section("step", 20, 60, steps.step),
    Section("mask prediction", 10, 45, prediction.times),
    Section("attention", 10, 45, attention.times),
    Section("batches", 15, 45, steps.batches),
    Section("experts", 5, 20, experts.times),
    Section("switches", 20, 45, steps.with_switches),
    Section("fp8", 15, 40, steps.fp8),
    Section("counters", 15, 60, counters.times),
    Section("policies", 30, 60, steps.policies, is_extra=True),
    Section("tokens per second", 30, 60, published.tokens_per_second, is_extra=True),
    Section("mask prediction in torch", 20, 60, prediction.beside_torch, is_extra=True),
    Section("FlexAttention", 30, 60, attention.flex, is_extra=True),
)


class Book:
    """What was found, on the disk after every case."""

    def __init__(self, options: argparse.Namespace, stage: Stage) -> None:
        self._path = options.out / "gpu.json"
        self._stage = stage
        self._began = time.perf_counter()
        self.result: Json = {}
        if options.after is not None:
            self.result = json.loads(self._path.read_text(encoding="utf-8"))
            if (name := self.result.pop("running", None)) is not None:
                told = f"the process ended with status {options.after} in this section; gpu.log has what it said"
                self.sections.setdefault(name, {"cases": []})["error"] = told
            self._before: float = self.result["seconds"]
            stage.notes[:] = self.result["notes"]
        else:
            self.result = _facts(options, stage)
            self._before = 0.0
        self.write()

    @property
    def sections(self) -> Json:
        """By name, those that were begun."""
        return self.result.setdefault("sections", {})  # type: ignore[no-any-return]

    def begin(self, name: str) -> Json:
        """A section from here on."""
        self.result["running"] = name
        found: Json = {"cases": []}
        self.sections[name] = found
        self.write()
        return found

    def end(self) -> None:
        """Of the section."""
        self.result.pop("running", None)
        self.write()

    def write(self) -> None:
        """All of it."""
        self.result["seconds"] = self._before + time.perf_counter() - self._began
        self.result["notes"] = self._stage.notes
        self._path.parent.mkdir(parents=True, exist_ok=True)
        harness.write_json(self._path, harness._rounded(self.result))


def main(options: argparse.Namespace) -> int:
    """Every section that is not yet in gpu.json. Ends after one that failed, for another process to go on."""
    if not options.dry_run and not torch.cuda.is_available():
        found = "no CUDA in this build" if torch.version.cuda is None else "torch sees no device"
        print(f"bench/gpu.py needs a CUDA GPU, got none ({found}); use --dry-run to rehearse it on a CPU")
        return NO_GPU
    stage = Stage(
        device=torch.device("cpu" if options.dry_run else "cuda"),
        dry=options.dry_run,
        quick=options.quick,
        deadline=time.perf_counter() + options.until - time.time() - _RESERVE_S,
        out=options.out,
    )
    book = Book(options, stage)
    with _emulated(stage):
        for section in _chosen(options):
            if section.name not in book.sections:
                _run(section, stage, book)
                if told.has_error(book.sections[section.name]):
                    return AGAIN
            if section.name == "card":
                stage.rates = rates.rates_of(book.sections["card"].get("cases", []))
    return DONE


def _chosen(options: argparse.Namespace) -> list[Section]:
    names = tuple(name.strip() for name in options.only.split(",") if name.strip())
    if unknown := [name for name in names if not any(section.name.startswith(name) for section in SECTIONS)]:
        known = ", ".join(section.name for section in SECTIONS)
        raise SystemExit(f"--only must name some of {known}, got {unknown[0]!r}; correct it")
    if names:
        return [section for section in SECTIONS if section.name == "card" or section.name.startswith(names)]
    return [section for section in SECTIONS if options.full or not section.is_extra]


def _run(section: Section, stage: Stage, book: Book) -> None:
    """One section, case by case."""
    if not stage.has(section.least_s, section.name):
        book.sections[section.name] = {"skipped": "no time was left"}
        print(f"{section.name}: skipped, no time was left", flush=True)
        book.write()
        return
    print(f"{section.name}:", flush=True)
    found = book.begin(section.name)
    began = time.perf_counter()
    # Should a kernel hang, the stacks are printed and the process ends.
    faulthandler.dump_traceback_later(section.most_s + _OVERTIME_S, exit=True)
    cases = section.cases(stage)
    try:
        for case in cases:
            found["cases"].append(case)
            book.write()
            print("\n".join(told.lines(case)), flush=True)
            if time.perf_counter() - began > section.most_s or time.perf_counter() > stage.deadline:
                left = f"{section.name}: what is behind {case['what']!r} was left out, its time was over"
                stage.notes.append(left)
                break
    except SkippedError as why:
        found["skipped"] = str(why)
        print(f"  skipped: {why}", flush=True)
    except Exception:
        found["error"] = traceback.format_exc()
        print(found["error"], flush=True)
    finally:
        faulthandler.cancel_dump_traceback_later()
    found["seconds"] = time.perf_counter() - began
    if stage.device.type == "cuda":
        found["card"] = _smi()
    with contextlib.suppress(RuntimeError):  # after an illegal access nothing works
        stage.free()
    book.end()


def _facts(options: argparse.Namespace, stage: Stage) -> Json:
    commit, is_changed = place.commit()
    used = [f"--{name.replace('_', '-')}" for name in ("quick", "full", "dry_run") if getattr(options, name)]
    facts: Json = {
        "bench": "gpu",
        "command": " ".join(["python bench/gpu.py", *used, *([f"--only {options.only!r}"] if options.only else [])]),
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "is_rehearsal": stage.dry,
        "commit": commit,
        "uncommitted_changes": is_changed,
        "machine": harness.machine(),
        "versions": harness.versions() | {"cuda": torch.version.cuda},
        "doctor": doctor(),
    }
    if stage.device.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["card"] = {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "second_level_cache_bytes": properties.L2_cache_size,
        } | _smi()
    return facts


def _smi() -> Json:
    """The card now: clocks, power, temperature."""
    said = harness._output("nvidia-smi", f"--query-gpu={_SMI_FIELDS}", "--format=csv,noheader", "-i", "0")
    return dict(zip(_SMI_FIELDS.split(","), (part.strip() for part in said.split(",")), strict=False)) if said else {}


def _emulated(stage: Stage) -> contextlib.AbstractContextManager[object]:
    if not stage.dry:
        return contextlib.nullcontext()
    from tests.emulator.operations import emulated

    return emulated()
