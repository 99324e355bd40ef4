"""One tree of `python -m bench.instructions`, run by valgrind with that tree's package; prints the names of what it counts.

It knows only what every tree has, so that it runs on an old one too: no other file of this folder is imported.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import dllm_fast

PROMPT, MASKS, VOCABULARY = 32, 32, 128
MASK = VOCABULARY - 1
# Answers of `predict` are of so many steps' logits, which then come again.
TURNS = 16
# A call is counted so many times, behind as many that warm up.
TIMES = 3
# What comes between two counts: a call of C of this name that nothing else here makes.
mark = os.sched_yield


def main() -> None:
    """Arguments: names of presets, batches (each with commas), and whether `sample` is counted too."""
    presets, batches = sys.argv[1].split(","), [int(batch) for batch in sys.argv[2].split(",") if batch]
    gc.disable()
    for batch in batches:
        logits = tables(batch)
        for name in presets:
            count(f"control {name} {batch}", *filled(name, batch, logits))
    for name in presets if sys.argv[3:] == ["sample"] else []:
        count(f"sample {name} 1", *sampled(name))


def count(name: str, call: Callable[[], object], steps: int) -> None:
    """Has the instructions of a call written down, under this name."""
    for _ in range(TIMES):
        call()
    mark()
    for _ in range(TIMES):
        call()
    mark()
    print(name, steps * TIMES, flush=True)


def tables(batch: int) -> list[Any]:
    """Logits `[B, L, V]` of some steps: one token sticks out at each position, with a probability between 0 and 1."""
    dice = np.random.default_rng(0)
    found = []
    for _ in range(TURNS):
        shape = (batch, PROMPT + MASKS)
        logits = dice.normal(size=(*shape, VOCABULARY)).astype(np.float32)
        share = dice.random(shape)
        first = dice.integers(VOCABULARY - 1, size=shape)
        np.put_along_axis(logits, first[..., None], np.log(VOCABULARY * share / (1 - share))[..., None], 2)
        found.append(logits)
    return found


def filled(preset: str, batch: int, logits: list[Any]) -> tuple[Callable[[], object], int]:
    """Fills a block, and the steps of it: `next`, `groups`, `feed`; the sampler and the predictions are there before."""
    settings = dllm_fast.presets()[preset]
    config = dataclasses.replace(settings, mask_token_id=MASK, stop_at_eos=False)
    canvases = [[*range(PROMPT), *[MASK] * MASKS]] * batch
    known: list[list[Any]] = []
    # Making one costs once what a step does not.
    made = [dllm_fast.Sampler(config, canvases, block_start=PROMPT) for _ in range(2 * TIMES + 1)]

    def fill() -> None:
        sampler, step = made.pop(), 0
        while (request := sampler.next()) is not None:
            groups = request.groups()
            if step == len(known):
                here = [(rows, logits[step % TURNS][rows].reshape(-1, VOCABULARY)[lines]) for rows, _, lines in groups]
                known.append([sampler.predict(lines, rows=rows) for rows, lines in here])
            for (rows, _, _), prediction in zip(groups, known[step], strict=True):
                sampler.feed(prediction=prediction, rows=rows)
            step += 1

    fill()
    return fill, len(known)


def sampled(preset: str) -> tuple[Callable[[], object], int]:
    """`sample` of a callable that looks its answer up, and the steps that this takes."""
    table = np.random.default_rng(0).normal(size=(VOCABULARY, VOCABULARY)).astype(np.float32) * 4

    def run() -> Any:
        return dllm_fast.sample(
            lambda ids: table[np.asarray(ids)],
            [1, 2, 3],
            preset=preset,
            mask_token_id=MASK,
            max_new_tokens=MASKS,
            stop_at_eos=False,
        )

    return run, run().stats.nfe


if __name__ == "__main__":
    main()
