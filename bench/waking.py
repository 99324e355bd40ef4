"""Is the second thread awake when it is needed? `python -m bench.waking`.

32 rows of 126,464 bfloat16 logits at temperature 0, with one thread, with all of torch's, and with as many of our own, after
a rest of some length: what `bench.post_logits` cannot say, because all its samples come after the same rest.
"""

from __future__ import annotations

import functools
import time

import torch

import dllm_fast
from bench import harness
from bench.harness import Json
from dllm_fast import _core

ROWS, VOCABULARY = 32, 126_464
RESTS_S = (0.0, 0.0005, 0.004)


def main() -> None:
    options = harness.arguments(__doc__)
    others = harness.Others()
    generator = torch.Generator().manual_seed(0)
    # Together larger than the caches.
    pool = [(torch.randn(ROWS, VOCABULARY, generator=generator) * 3).bfloat16() for _ in range(2 if options.quick else 16)]
    samples = 2 if options.quick else 60
    cases: list[Json] = []
    for rest_s in RESTS_S:
        for count, whose in ((1, "torch"), (harness.cores(), "torch"), (harness.cores(), "own")):
            _core.set_threads(count if whose == "own" else None)
            with harness.threads(count):
                dllm_fast.mask_predict(pool[0])
                taken = []
                for i in range(samples):
                    time.sleep(rest_s)
                    taken.append(harness.seconds(functools.partial(dllm_fast.mask_predict, pool[i % len(pool)])))
            _core.set_threads(None)
            cases.append({"rest_s": rest_s, "threads": count, "whose": whose, **harness.spread(taken)})
            harness.progress(f"rest {rest_s * 1e3:g} ms, {count} threads ({whose}): {cases[-1]['median'] * 1e3:.2f} ms")
    print(harness.write("waking", options.out, {"cases": cases}, quick=options.quick, others=others))


if __name__ == "__main__":
    main()
