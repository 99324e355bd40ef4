"""Is the second thread awake when it is needed, and what if it gets no core? `python -m bench.waking`.

32 rows of 126,464 bfloat16 logits at temperature 0, with one thread, with all of torch's, and with as many of our own, after
a rest and behind an operation of torch: what `bench.post_logits` cannot say, whose samples all come after the same rest.
Then beside a process for each core that never rests: the same step against a softmax of torch on the same logits, and a
small generation with the time inside its model, each against its own time on the idle machine.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

import dllm_fast
from bench import harness
from bench.harness import Json
from dllm_fast import _core

ROWS, VOCABULARY = 32, 126_464
# Ends with the bench, however that ends: then its standard input is closed.
SPINNER = "import os, threading\nthreading.Thread(target=lambda: (os.read(0, 1), os._exit(0))).start()\nwhile True: pass"


def main() -> None:
    options = harness.arguments(__doc__)
    others = harness.Others()
    generator = torch.Generator().manual_seed(0)
    # Together larger than the caches.
    pool = [(torch.randn(ROWS, VOCABULARY, generator=generator) * 3).bfloat16() for _ in range(2 if options.quick else 16)]
    wide = torch.randn(8, VOCABULARY, generator=generator)
    cases = waking(pool, wide, 2 if options.quick else 60)
    busy = crowded(pool, wide, 1 if options.quick else 4)
    print(harness.write("waking", options.out, {"cases": cases, "busy": busy}, quick=options.quick, others=others))


def waking(pool: list[torch.Tensor], wide: torch.Tensor, samples: int) -> list[Json]:
    """A step on the idle machine, whatever has been before it."""
    moments: dict[str, Callable[[], object]] = {
        "at once": lambda: None,
        "after 0.5 ms": lambda: time.sleep(0.0005),
        "after 4 ms": lambda: time.sleep(0.004),
        "behind a softmax of torch": lambda: torch.softmax(wide, -1),
    }
    cases: list[Json] = []
    for moment, before in moments.items():
        for count, whose in ((1, "torch"), (harness.cores(), "torch"), (harness.cores(), "own")):
            _core.set_threads(count if whose == "own" else None)
            torch.set_num_threads(count if whose == "torch" and count == 1 else harness.cores())
            dllm_fast.mask_predict(pool[0])
            taken = []
            for i in range(samples):
                before()
                taken.append(harness.seconds(functools.partial(dllm_fast.mask_predict, pool[i % len(pool)])))
            cases.append({"moment": moment, "threads": count, "whose": whose, **harness.spread(taken)})
            harness.progress(f"{moment}, {count} threads ({whose}): {cases[-1]['median'] * 1e3:.2f} ms")
    _core.set_threads(None)
    torch.set_num_threads(harness.cores())
    return cases


@contextlib.contextmanager
def no_core_free() -> Iterator[None]:
    """A process for each core that computes without end."""
    with contextlib.ExitStack() as stack:
        for _ in range(harness.cores()):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", SPINNER], stdin=subprocess.PIPE))
            stack.callback(process.kill)
        time.sleep(0.3)
        yield


class Watched:
    """The embedded Sudoku model, with the seconds that were spent inside it."""

    def __init__(self) -> None:
        self.model, _ = dllm_fast.demo.load()
        self.puzzle = dllm_fast.demo.problems(1, seed=1)[0]
        self.inside = 0.0
        for name in ("hidden", "logits"):
            setattr(self.model.network, name, self._timed(getattr(self.model.network, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.inside += time.perf_counter() - began

        return timed

    def run(self) -> tuple[float, float]:
        """Seconds of one generation outside and inside the model."""
        self.inside = 0.0
        total = harness.seconds(lambda: dllm_fast.infill(self.model, self.puzzle))
        return total - self.inside, self.inside


def crowded(pool: list[torch.Tensor], wide: torch.Tensor, rounds: int) -> list[Json]:
    """Each form on the idle machine and with every core kept busy, in turn."""
    watched = Watched()
    steps: dict[str, Callable[[torch.Tensor], object]] = {
        "dllm_fast": dllm_fast.mask_predict,
        "torch.softmax": lambda logits: torch.softmax(logits, -1),
    }
    taken: dict[tuple[str, int], dict[bool, list[float]]] = {}

    def note(form: str, count: int, is_busy: bool, seconds: float) -> None:
        taken.setdefault((form, count), {False: [], True: []})[is_busy].append(seconds)

    def measure(is_busy: bool) -> None:
        for count in (harness.cores(), 1):
            with harness.threads(count):
                # Many, and each form as often first: the scheduler lends a process that has rested a few milliseconds, and a
                # sample is a whole slice of the scheduler late, or not at all.
                for i in range(2 if rounds == 1 else 100):
                    for name, step in list(steps.items())[:: 1 if i % 2 else -1]:
                        torch.softmax(wide, -1)  # as behind a forward: torch's threads spin
                        note(name, count, is_busy, harness.seconds(functools.partial(step, pool[i % len(pool)])))
                for _ in range(1 if rounds == 1 else 4):
                    outside, inside = watched.run()
                    note("generation outside the model", count, is_busy, outside)
                    note("generation inside the model", count, is_busy, inside)

    watched.run()
    for _ in range(rounds):
        measure(is_busy=False)
        with no_core_free():
            measure(is_busy=True)
    cases: list[Json] = []
    for (form, count), by in taken.items():
        idle, busy = harness.spread(by[False]), harness.spread(by[True])
        mean = [sum(by[is_busy]) / len(by[is_busy]) for is_busy in (False, True)]
        ratio = {"median": busy["median"] / idle["median"], "mean": mean[1] / mean[0]}
        cases.append({"form": form, "threads": count, "busy_over_idle": ratio, "idle": idle, "busy": busy})
        times = f"{idle['median'] * 1e3:.2f} ms, every core busy {busy['median'] * 1e3:.2f} ms (mean {mean[1] * 1e3:.2f})"
        harness.progress(f"{form}, {count} threads: {times}")
    return cases


if __name__ == "__main__":
    main()
