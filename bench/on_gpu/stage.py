"""Where the sections run: a GPU, or in a rehearsal the CPU with toy sizes, the emulated kernels and no times."""

from __future__ import annotations

import contextlib
import re
import statistics
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.on_gpu.floors import Rates, Work
from dllm_fast.ops import launcher

Json = dict[str, Any]

# Written between two samples, so that nothing of the inputs is left in the second-level cache (50 MB on an H100 and an H200).
# It also keeps the device busy while the host queues what is timed.
_FLUSHED_BYTES = 512 * 2**20


class SkippedError(Exception):
    """This cannot be measured here; the text says why."""


class NotLaunchedError(Exception):
    """Something else did the work: what was timed is not what the number would be called."""


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
        rates: of this card, once they are measured.
    """

    device: torch.device
    dry: bool
    quick: bool
    deadline: float
    out: Path
    notes: list[str] = field(default_factory=list)
    rates: Rates | None = None
    _flush: torch.Tensor | None = None
    _kept: dict[str, Any] = field(default_factory=dict)

    def pick(self, real: Any, toy: Any) -> Any:
        """The size for a GPU, or that for a rehearsal."""
        return toy if self.dry else real

    def has(self, seconds: float, what: str) -> bool:
        """Is there time for something that takes so long? Notes it where not."""
        left = self.deadline - time.perf_counter()
        if left < seconds:
            self.notes.append(f"{what}: skipped, {left:.0f} s were left and it takes about {seconds:.0f} s")
        return left >= seconds

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What several sections use, made when the first of them needs it."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def forget(self, name: str) -> None:
        """Gives the memory of it back."""
        self._kept.pop(name, None)
        self.free()

    def milliseconds(
        self, form: Callable[[], object], *, kernels: Sequence[str] = (), samples: int = 20, cold: bool = True
    ) -> Json:
        """Median and quartiles of a form on the device by events, after warm-up; caches are cold unless said otherwise.

        Args:
            form: what is timed.
            kernels: patterns of the beginnings of the names that it has to launch.
            samples: how many.
            cold: write over the second-level cache before each.

        Raises:
            NotLaunchedError: one of the kernels was not launched.
        """
        with launcher.counted() as launched:
            form()
        must_launch(launched, kernels)
        names: Json = {"launched": dict(launched)} if kernels else {}
        if self.dry:
            return {"ran": True} | names
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
        return {"ms": statistics.median(times), "quartiles": [quartiles[0], quartiles[2]], "samples": len(times)} | names

    def host_us(self, form: Callable[[], object], *, count: int = 200, kernels: Sequence[str] = ()) -> Json:
        """Microseconds of the host for a call that only queues work.

        Raises:
            NotLaunchedError: one of the kernels was not launched.
        """
        with launcher.counted() as launched:
            form()
        must_launch(launched, kernels)
        if self.dry:
            return {"ran": True}
        times = []
        for _ in range(5):
            self.synchronize()
            began = time.perf_counter()
            for _ in range(count):
                form()
            times.append((time.perf_counter() - began) / count * 1e6)
            self.synchronize()
        return {"host_us": statistics.median(times), "least": min(times), "calls": count}

    def against(self, found: Json, work: Work, *, times: int = 1) -> Json:
        """A time beside its floor on this card; `times`: how often the work was done in it."""
        if self.rates is not None and "ms" in found:
            found["us"] = 1e3 * found["ms"] / times
            found["floor_us"] = 1e6 * work.seconds(self.rates)
            found["of_floor"] = found["floor_us"] / found["us"]
        return found

    def graphed(self, form: Callable[[], object]) -> Callable[[], None]:
        """The form as one launch, so that its time is that of the device and not of Python. A failed capture is an error."""
        if self.dry:

            def run() -> None:
                form()

            return run
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            form()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), launcher.recorded() as launches:
            form()

        def replay() -> None:
            graph.replay()
            launcher.count(launches)

        return replay

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def free(self) -> None:
        """Gives memory back between sections."""
        self._flush = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def must_launch(launched: Counter[str], kernels: Sequence[str]) -> None:
    """Refuses a count in which a kernel is missing.

    Raises:
        NotLaunchedError: no name begins as one of the patterns `kernels`.
    """
    missing = [name for name in kernels if not any(re.match(name, one) for one in launched)]
    if missing:
        raise NotLaunchedError(
            f"kernels must be launched for their time to be taken, got none named {', '.join(missing)}... "
            f"among {dict(launched)}; see `dllm-fast doctor`"
        )


@contextlib.contextmanager
def tried(row: Json, name: str) -> Iterator[None]:
    """One failure does not take the others with it; it stands, whole, where its number would be."""
    try:
        yield
    except SkippedError as error:
        row[name] = {"skipped": str(error)}
    except Exception:
        row[name] = {"error": traceback.format_exc()}
