"""Is the second thread awake when it is needed? `python -m bench.waking`.

32 rows of 126,464 bfloat16 logits at temperature 0, with one thread, with all of torch's, and with as many of our own, after
a rest and behind an operation of torch: what `bench.post_logits` cannot say, whose samples all come after the same rest.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

import dllm_fast
from bench import harness
from bench.harness import Json
from dllm_fast import _core

ROWS, VOCABULARY = 32, 126_464


def main() -> None:
    options = harness.arguments(__doc__)
    others = harness.Others()
    generator = torch.Generator().manual_seed(0)
    # Together larger than the caches.
    pool = [(torch.randn(ROWS, VOCABULARY, generator=generator) * 3).bfloat16() for _ in range(2 if options.quick else 16)]
    wide = torch.randn(8, VOCABULARY, generator=generator)
    samples = 2 if options.quick else 60
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
    print(harness.write("waking", options.out, {"cases": cases}, quick=options.quick, others=others))


if __name__ == "__main__":
    main()
