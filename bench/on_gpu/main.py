"""The sections of `bench/gpu.py`, one after the other, within its time.

`python bench/gpu.py --out bench/results/gpu` writes gpu.json there after every section, so that nothing is lost, and a trace
of the profiler. `--dry-run` rehearses all of it on a CPU: toy sizes, emulated kernels, no times. Without a GPU: status 2.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from bench import harness
from bench.harness import Json
from bench.on_gpu import correctness, kernels, model
from bench.on_gpu.stage import SkippedError, Stage
from dllm_fast.commands.doctor import report as doctor

BUDGET_S = 8 * 60
_RESERVE_S = 15


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0: all sections ran and every check held; 1: something did not; 2: there is no GPU."""
    options = _arguments(argv)
    if not options.dry_run and not torch.cuda.is_available():
        found = "no CUDA in this build" if torch.version.cuda is None else "torch sees no device"
        print(f"bench/gpu.py needs a CUDA GPU, got none ({found}); use --dry-run to rehearse it on a CPU")
        return 2
    began = time.perf_counter()
    # Should a kernel hang, the stacks are printed and the process ends; the sections before it are on disk.
    faulthandler.dump_traceback_later(options.budget + 60, exit=True)
    stage = Stage(
        device=torch.device("cpu" if options.dry_run else "cuda"),
        dry=options.dry_run,
        quick=options.quick,
        deadline=began + options.budget - _RESERVE_S,
        out=options.out,
    )
    result: Json = {"sections": {}} | _facts(options, stage)
    with _emulated(stage):
        for name, least_s, section in _sections(stage):
            _run(name, least_s, section, stage, result)
            result["duration_s"], result["notes"] = time.perf_counter() - began, stage.notes
            _write(options.out, result)
    faulthandler.cancel_dump_traceback_later()
    failed = [name for name, found in result["sections"].items() if _has_failed(found)]
    for note in stage.notes:
        print(f"  {note}")
    print(f"{'failed: ' + ', '.join(failed) if failed else 'every check held'}; {options.out / 'gpu.json'}")
    return 1 if failed else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python bench/gpu.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "gpu", help="folder (default: bench/results/gpu)")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and samples: does it run?")
    parser.add_argument("--dry-run", action="store_true", help="rehearse on the CPU with emulated kernels; nothing is timed")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds after which nothing new is begun (480)")
    return parser.parse_args(argv)


def _sections(stage: Stage) -> list[tuple[str, float, Callable[[], Json]]]:
    """Name, seconds that it takes at least, and what it does; the checks come before the times."""
    built: list[object] = []

    def with_model(section: Callable[[Stage, object], Json]) -> Callable[[], Json]:
        def run() -> Json:
            if not built:
                built.append(model.build(stage))
            return section(stage, built[0])

        return run

    plain: list[tuple[str, float, Callable[[Stage], Json]]] = [
        ("mask prediction equals the core", 5, correctness.mask_prediction),
        ("commit equals the core", 5, correctness.commit),
        ("attention against float64", 5, correctness.attention),
        ("draws", 5, correctness.draws),
        ("sample equals the core", 10, correctness.sampling),
        ("launch cost", 3, kernels.launches),
        ("mask prediction", 20, kernels.mask_prediction),
    ]
    on_model: list[tuple[str, float, Callable[[Stage, object], Json]]] = [
        ("denoise step", 40, model.steps),  # type: ignore[list-item]
        ("breakdown and waits", 20, model.breakdown),  # type: ignore[list-item]
        ("tokens per second", 30, model.tokens_per_second),  # type: ignore[list-item]
    ]
    last: list[tuple[str, float, Callable[[Stage], Json]]] = [
        ("attention", 20, kernels.attention),
        ("compute-sanitizer", 60, correctness.sanitizer),
    ]
    return [
        *((name, least, lambda section=section: section(stage)) for name, least, section in plain),
        *((name, least, with_model(section)) for name, least, section in on_model),
        *((name, least, lambda section=section: section(stage)) for name, least, section in last),
    ]


def _run(name: str, least_s: float, section: Callable[[], Json], stage: Stage, result: Json) -> None:
    """One section; its failure is written down and the next one begins."""
    if not stage.has(least_s, name):
        result["sections"][name] = {"skipped": "no time was left"}
        print(f"{name}: skipped, no time was left", flush=True)
        return
    began = time.perf_counter()
    try:
        found = section()
    except SkippedError as why:
        found = {"skipped": str(why)}
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"[:2000]}
    found["seconds"] = time.perf_counter() - began
    result["sections"][name] = found
    with contextlib.suppress(RuntimeError):  # after an illegal access nothing works, which the next section will say
        stage.free()
    print(f"{name}: {_summary(found)} ({found['seconds']:.0f} s)", flush=True)


def _has_failed(found: object) -> bool:
    """Is there an error, or a check that did not hold, anywhere in it?"""
    if isinstance(found, dict):
        return found.get("passed") is False or "error" in found or any(map(_has_failed, found.values()))
    return isinstance(found, list) and any(map(_has_failed, found))


def _summary(found: Json) -> str:
    for key in ("error", "skipped"):
        if key in found:
            return f"{key}: {found[key]}".partition("\n")[0]
    if "passed" in found:
        wrong = found.get("wrong") or ""
        return f"{'right' if found['passed'] else 'WRONG'} {wrong[:2] if wrong else ''}".strip()
    lines = []
    for case in found.get("cases", ()):
        facts = [f"{k}={v}" for k, v in case.items() if not isinstance(v, dict)]
        timed = [f"{k}: {_number(v)}" for k, v in case.items() if isinstance(v, dict)]
        lines.append("\n    " + ", ".join(facts + timed))
    return "".join(lines) if lines else str({k: v for k, v in found.items() if k != "seconds"})[:1500]


def _number(value: Json) -> str:
    for key in ("ms", "mean_ms"):
        if key in value:
            share = f" ({value['share_of_copy']:.0%} of copy)" if "share_of_copy" in value else ""
            speed = f" {value['tokens_per_s']:.0f} tok/s" if "tokens_per_s" in value else ""
            return f"{value[key]:.4g} ms{share}{speed}"
    return str(value.get("error") or value.get("skipped") or "ran")


def _facts(options: argparse.Namespace, stage: Stage) -> Json:
    facts: Json = {
        "bench": "gpu",
        "command": "python bench/gpu.py" + " --quick" * options.quick + " --dry-run" * options.dry_run,
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "is_rehearsal": stage.dry,
        **harness.commit(),
        "machine": harness.machine(),
        "versions": harness.versions() | {"cuda": torch.version.cuda},
        "doctor": doctor(),
    }
    if stage.device.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        driver = harness._output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        facts["device"] = {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "driver": driver,
        }
    return facts


def _emulated(stage: Stage) -> contextlib.AbstractContextManager[object]:
    if not stage.dry:
        return contextlib.nullcontext()
    from tests.emulator.operations import emulated

    return emulated()


def _write(out: Path, result: Json) -> None:
    out.mkdir(parents=True, exist_ok=True)
    harness.write_json(out / "gpu.json", harness._rounded(result))


if __name__ == "__main__":
    sys.exit(main())
