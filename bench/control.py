"""What does a step cost without the model and its logits? `python -m bench.control`.

The statistics of every position are given: random confidences, new ones for each step. Measured is what is left of a
sampling step: for us `next`, `groups` and `feed` of `Sampler` (which applies the edits); for the others the control code
of their loops, restated in `bench/loops.py`. A sample fills one block from masks to the end; all must write the same.
`bench/host_side.py` adds what `sample` does around each forward of a small model: all of the host side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

import dllm_fast
from bench import harness, host_side, loops
from bench.harness import Effort, Json
from dllm_fast._core import Prediction

BATCHES = (1, 8, 64)
BLOCKS = (32, 256)
PROMPT = 32
MASK, VOCABULARY = 126_336, 126_464
THRESHOLD, STEPS = 0.9, 32
TARGET_US = 50
HOST = Effort(most=40)

# A fill returns the seconds that its control took, the steps, and the canvases.
Fill = Callable[[], tuple[float, int, NDArray[np.int64]]]


def main(argv: Sequence[str] | None = None) -> None:
    options = harness.arguments(__doc__, argv)
    others = harness.Others()
    effort = harness.QUICK if options.quick else Effort(budget_s=1.5, least=3, most=50)
    cases: list[Json] = []
    for batch in BATCHES[:2] if options.quick else BATCHES:
        for block in BLOCKS[:1] if options.quick else BLOCKS:
            table = Statistics(batch, block)
            fills: dict[str, dict[str, Fill]] = {
                "threshold 0.9": {
                    "dllm_fast": partial(ours, table, threshold=THRESHOLD),
                    "Fast-dLLM": partial(theirs, table, THRESHOLD),
                },
                f"even, {STEPS} steps": {
                    "dllm_fast": partial(ours, table, steps=STEPS),
                    "LLaDA": partial(theirs, table, None),
                },
            }
            for rule, forms in fills.items():
                cases.append({"batch": batch, "block": block, "rule": rule} | _case(forms, effort))
                medians = {name: f"{form['seconds']['median'] * 1e6:.1f}" for name, form in cases[-1]["forms"].items()}
                harness.progress(f"batch {batch:>2} block {block:>3} {rule}: us a step {medians}")
    content = {
        "prompt": PROMPT,
        "target_us": {"batch": 1, "block": 32, "at_most": TARGET_US},
        "seconds": "of one step, the mean over the steps of a fill",
        "cases": cases,
        "host_side": host_side.measure(harness.QUICK if options.quick else HOST),
    }
    harness.progress(str(harness.write("control", options.out, content, quick=options.quick, others=others)))


class Statistics:
    """Proposals and confidences `[B, L]` of every step, the same for all forms."""

    def __init__(self, batch: int, block: int) -> None:
        dice = np.random.default_rng(0)
        self.length = PROMPT + block
        self.block = block
        self.canvas = dice.integers(VOCABULARY - 200, size=(batch, self.length))
        self.canvas[:, PROMPT:] = MASK
        self._shape = (batch, self.length)

    def step(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Tokens and confidences of a step; confidences fit float32 and differ."""
        dice = np.random.default_rng([1, step])
        confidence = dice.random(self._shape, dtype=np.float32).astype(np.float64)
        return dice.integers(VOCABULARY - 200, size=self._shape), confidence


def ours(
    table: Statistics, *, threshold: float | None = None, steps: int | None = None
) -> tuple[float, int, NDArray[np.int64]]:
    """`Sampler` over the whole table."""
    config = dllm_fast.SamplerConfig(
        mask_token_id=MASK, threshold=threshold, block_length=table.block, steps_per_block=steps, stop_at_eos=False
    )
    sampler = dllm_fast.Sampler(config, list(table.canvas), block_start=PROMPT)
    taken, count = 0.0, 0
    clock = time.perf_counter
    while True:
        began = clock()
        request = sampler.next()
        groups = request.groups() if request is not None else []
        taken += clock() - began
        if request is None:
            return taken, count, np.stack(sampler.canvases)
        tokens, confidence = table.step(count)
        for rows, _, lines in groups:
            token, top1 = tokens[rows].reshape(-1)[lines], confidence[rows].reshape(-1)[lines]
            zero = np.zeros_like(top1)
            prediction = Prediction(token=token, probability=top1, top1=top1, top2=zero, entropy=zero)
            began = clock()
            sampler.feed(prediction=prediction, rows=rows)
            taken += clock() - began
        count += 1


def theirs(table: Statistics, threshold: float | None) -> tuple[float, int, NDArray[np.int64]]:
    """Fast-dLLM's control with a threshold, LLaDA's without."""
    canvas = torch.from_numpy(table.canvas.copy())
    counts = loops.even_counts(torch.full((len(canvas),), table.block), STEPS)
    taken, count = 0.0, 0
    clock = time.perf_counter
    while True:
        tokens, confidence = (torch.from_numpy(array) for array in table.step(count))
        began = clock()
        if threshold is not None:
            loops.fast_dllm_commit(canvas, tokens, confidence, None, mask_id=MASK, end=table.length, threshold=threshold)
        else:
            loops.llada_commit(canvas, tokens, confidence, counts[:, count], mask_id=MASK, end=table.length)
        done = not (canvas == MASK).any()
        taken += clock() - began
        count += 1
        if done:
            return taken, count, canvas.numpy()


def _case(forms: dict[str, Fill], effort: Effort) -> Json:
    """Checks that the forms agree, then times their fills in turn."""
    first = {name: fill() for name, fill in forms.items()}
    (_, steps, canvas), *rest = first.values()
    for _, other_steps, other in rest:
        assert steps == other_steps
        assert (canvas == other).all()
    longest = max(taken for taken, _, _ in first.values())
    rounds = max(effort.least, min(effort.most, int(effort.budget_s / longest)))
    samples: dict[str, dict[int, float]] = {name: {} for name in forms}
    for r in range(rounds):
        for name, fill in forms.items():
            time.sleep(effort.pause_s)
            taken, count, _ = fill()
            samples[name][r] = taken / count
    return {"steps": steps, "forms": harness.report(samples, "dllm_fast")}


if __name__ == "__main__":
    main()
