"""What a launch outside a graph costs in Python, without a GPU: `python -m bench.launching`.

`kernels.run` on launches as the operations make them, with stubs in place of what needs a GPU: CuPy's kernel, the driver, and
torch's device and stream. So it is our part alone. Seconds are those of the thread, which others on the machine do not take.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import fields
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from dllm_fast import kernels, switches
from dllm_fast.kernels import driver, launch, launches


def cases() -> dict[str, Callable[[], list[launches.Launch]]]:
    """Launches by name, each made anew by a call. Their addresses are of no matter."""

    def blank(kind: Any) -> Any:
        return kind(**{field.name: 0 for field in fields(kind)})

    strides = {f"{name}_strides": (4096, 128, 128) for name in ("q", "k", "v", "out")}
    shape = {"batch": 1, "heads": 32, "key_heads": 32, "queries": 32, "keys": 768, "head_dimension": 128}
    return {
        "add_norm": lambda: [
            launches.fused_add_norm(
                dtype="bfloat16", stream=0, delta=0, weight=0, stream_out=0, out=0, rows=32, width=4096, eps=1e-6
            )
        ],
        "attention": lambda: launches.attention(
            blank(launches.AttentionBuffers), dtype="bfloat16", scale=0.1, **shape, **strides
        ),
        "mask prediction": lambda: launches.mask_predict(
            blank(launches.MaskPredictBuffers), dtype="bfloat16", sites=32, vocabulary=126_464, stride=126_464
        ),
        "commit": lambda: [
            launches.commit(blank(launches.CommitBuffers), sites=32, rows=1, mask_id=0, order="confidence", cut="count")
        ],
    }


def microseconds(call: Callable[[], object], repeats: int, times: int = 200) -> list[float]:
    """Lower quartile, median and upper quartile of what a call takes of its thread."""
    taken = []
    for _ in range(repeats):
        began = time.thread_time()
        for _ in range(times):
            call()
        taken.append((time.thread_time() - began) / times * 1e6)
    return statistics.quantiles(taken, n=4)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.launching", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few repeats, to see that it runs")
    repeats = 3 if parser.parse_args(argv).quick else 41

    def queue(grid: Any, block: Any, arguments: Any, *, shared_mem: int, stream: Any) -> None:
        """In place of CuPy's kernel."""

    def launch_kernel(config: Any, function: int, addresses: Any, extra: None) -> int:
        """In place of the driver."""
        return 0

    queue.ptr = 1  # type: ignore[attr-defined]
    prototype = ctypes.CFUNCTYPE(ctypes.c_int)
    stub = driver.Driver(SimpleNamespace(cuLaunchKernelEx=prototype(lambda: 0)))
    stub._launch = launch_kernel
    print(f"{'':16} {'launches':>8}  {'made':>22}  {'launched':>22}  {'with pdl':>22}   us of Python, quartiles in brackets")
    with ExitStack() as stubs:
        stubs.enter_context(patch.object(torch.cuda, "current_device", lambda: 0))
        stubs.enter_context(patch.object(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=7)))
        stubs.enter_context(patch.object(torch.cuda, "get_device_capability", lambda _: (9, 0)))
        stubs.enter_context(patch.object(launch, "_function", lambda *_: queue))
        stubs.enter_context(patch.object(launch, "driver", lambda: stub))
        for name, make in cases().items():
            queued = make()
            columns = [microseconds(make, repeats)]
            for text in ("", "pdl"):
                with patch.dict("os.environ", {switches.VARIABLE: text}):
                    columns.append(microseconds(lambda queued=queued: kernels.run(queued, 0), repeats))  # type: ignore[misc]
            shown = (f"{middle:5.1f} ({low:5.1f} to {high:5.1f})" for low, middle, high in columns)
            print(f"{name:16} {len(queued):8}  " + "  ".join(f"{text:>22}" for text in shown))


if __name__ == "__main__":
    main()
