"""Where the sections run: a GPU, or in a rehearsal the CPU with toy sizes, the emulated kernels and no times."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Json = dict[str, Any]

# Written between two samples, so that nothing of the inputs is left in the second-level cache (50 MB on an H200). It also
# keeps the device busy while the host queues what is timed.
_FLUSHED_BYTES = 512 * 2**20


class SkippedError(Exception):
    """This cannot be measured here; the text says why."""


@dataclass
class Stage:
    """What a section needs to know.

    Attributes:
        device: where tensors are made.
        dry: a rehearsal: everything runs once at toy sizes, nothing is timed.
        quick: fewer sizes and samples.
        deadline: `time.perf_counter()` after which nothing new is begun.
        out: folder for traces.
        notes: what was left out, and why.
    """

    device: torch.device
    dry: bool
    quick: bool
    deadline: float
    out: Path
    notes: list[str] = field(default_factory=list)
    _flush: torch.Tensor | None = None

    def pick(self, real: Any, toy: Any) -> Any:
        """The size for a GPU, or that for a rehearsal."""
        return toy if self.dry else real

    def has(self, seconds: float, what: str) -> bool:
        """Is there time for something that takes so long? Notes it where not."""
        left = self.deadline - time.perf_counter()
        if left < seconds:
            self.notes.append(f"{what}: skipped, {left:.0f} s were left and it takes about {seconds:.0f} s")
        return left >= seconds

    def milliseconds(self, form: Callable[[], object], *, samples: int = 20, cold: bool = True) -> Json:
        """Median and quartiles of a form on the device by events, after warm-up; caches are cold unless said otherwise."""
        form()
        if self.dry:
            return {"ran": True}
        form()
        form()
        if self._flush is None:
            self._flush = torch.empty(_FLUSHED_BYTES, dtype=torch.uint8, device=self.device)
        pairs = []
        for _ in range(5 if self.quick else samples):
            if cold:
                self._flush.zero_()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            form()
            end.record()
            pairs.append((begin, end))
        torch.cuda.synchronize()
        times = sorted(begin.elapsed_time(end) for begin, end in pairs)
        quartiles = statistics.quantiles(times, n=4)
        return {"ms": statistics.median(times), "quartiles": [quartiles[0], quartiles[2]], "samples": len(times)}

    def graphed(self, form: Callable[[], object]) -> Callable[[], object]:
        """The form as one launch, so that its time is that of the device and not of Python."""
        if self.dry:
            return form
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            form()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            form()
        return graph.replay

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def free(self) -> None:
        """Gives memory back between sections."""
        self._flush = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@contextlib.contextmanager
def tried(row: Json, name: str) -> Iterator[None]:
    """One failure does not take the others with it; it is written where its number would be."""
    try:
        yield
    except SkippedError as error:
        row[name] = {"skipped": str(error)}
    except Exception as error:
        row[name] = {"error": f"{type(error).__name__}: {error}".partition("\n")[0][:300]}


def copy_bandwidth(stage: Stage) -> float | None:
    """Bytes read and written in a second by a copy inside the device."""
    source = torch.empty(stage.pick(2**30, 2**16), dtype=torch.uint8, device=stage.device)
    target = torch.empty_like(source)
    found = stage.milliseconds(lambda: target.copy_(source), cold=False)
    return 2 * source.numel() / (found["ms"] * 1e-3) if "ms" in found else None
