"""One check, in the process that the driver has started for it: `first.py --one MODULE:FUNCTION --record FILE`."""

from __future__ import annotations

import contextlib
import importlib
import json
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from bench.on_gpu.stage import Stage
from dllm_fast.ops import launcher


def run(does: str, *, is_dry: bool, record: Path | None, limit_s: float) -> int:
    """Status 0 if the check holds. Writes what it has launched and found, or the reason why it has not held."""
    result: dict[str, Any] = {"found": {}, "why": None}
    with launcher.counted() as launched:
        try:
            result["found"] = _check(does, is_dry=is_dry, limit_s=limit_s) or {}
        except BaseException as error:  # pytest and transformers also raise what is no Exception
            traceback.print_exc()
            result["why"] = f"{type(error).__name__}: {error}".partition("\n")[0][:1000]
    result["launched"] = dict(sorted(launched.items()))
    print(f"launched: {result['launched']}", flush=True)
    if record is not None:
        record.write_text(json.dumps(result, default=str), encoding="utf-8")
    return 0 if result["why"] is None else 1


def _check(does: str, *, is_dry: bool, limit_s: float) -> dict[str, Any] | None:
    module, _, function = does.partition(":")
    deadline = time.perf_counter() + limit_s
    stage = Stage(device=torch.device("cpu" if is_dry else "cuda"), dry=is_dry, quick=True, deadline=deadline, out=Path())
    around: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if is_dry:
        from tests.emulator.operations import emulated

        around = emulated()
    with around:
        found: dict[str, Any] | None = getattr(importlib.import_module(module), function)(stage)
        # An error of the device comes with the next wait, and belongs to this check.
        stage.synchronize()
    return found
