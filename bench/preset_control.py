"""What does a step of every preset cost without the model and its logits? `python -m bench.preset_control`.

`next`, `groups` and `feed` of `Sampler`, with statistics that `predict` made (which is not timed) of random logits, so that
every rule has what it looks at. One block of 32 masks behind 32 tokens; a sample fills it and is the mean of its steps. All
presets run in turn, and each is compared with `fast-dllm` in the same round. Time is that of the processor in the one thread
that samples, so that other programs on the machine count as little as they can. Neither the published loops nor a model are
here; `bench/control.py` compares with those.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dllm_fast
from bench import harness
from bench.harness import Effort, Json
from dllm_fast import TokenFrequencies
from dllm_fast.settings.config import changed
from dllm_fast.settings.presets import PRESETS

RESULT = harness.RESULTS / "preset_control.json"
BATCHES = (1, 8, 64)
PROMPT, MASKS, VOCABULARY = 32, 32, 128
MASK = VOCABULARY - 1
BASELINE = "fast-dllm"
# A preset may cost so many times what the baseline does.
MOST = 3.0
# Why a preset costs more; a test holds the committed result against these.
REASONS: dict[str, str] = {
    "klass": "each mask brings 64 ids and probabilities, which are kept until the next step",
    "p2": "every position of the block is scored and ranked in every step, the written ones too",
    "remedi": "as `p2`: the written positions are scored and ranked in every step, too",
}
# Steps after which the logits come again.
TURNS = 16


def main(argv: Sequence[str] | None = None) -> None:
    options = harness.arguments(__doc__, argv)
    others = harness.Others()
    effort = harness.QUICK if options.quick else Effort(least=5, most=15, pause_s=0.0)
    cases = []
    for batch in BATCHES[:2] if options.quick else BATCHES:
        logits = tables(batch)
        samples: dict[str, dict[int, float]] = {}
        refused: dict[str, str] = {}
        for turn in range(effort.most):
            for name in PRESETS:
                try:
                    samples.setdefault(name, {})[turn] = step_seconds(name, batch, logits)
                except dllm_fast.DllmFastError as error:
                    refused[name] = str(error)
        samples = {name: taken for name, taken in samples.items() if taken}
        report = harness.report(samples, BASELINE)
        cases += [{"batch": batch, "preset": name} | report[name] for name in samples]
        cases += [{"batch": batch, "preset": name, "refused": why} for name, why in refused.items()]
        slow = {name: f"{form['ratio']['median']:.1f}" for name, form in report.items() if name != BASELINE}
        harness.progress(f"batch {batch:>2}: {BASELINE} {report[BASELINE]['seconds']['median'] * 1e6:.1f} us, times it: {slow}")
    content = {"masks": MASKS, "prompt": PROMPT, "seconds": "of the processor, of one step", "cases": cases}
    harness.progress(str(harness.write("preset_control", options.out, content, quick=options.quick, others=others)))


def tables(batch: int) -> list[NDArray[np.float32]]:
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


def step_seconds(preset: str, batch: int, logits: Sequence[NDArray[np.float32]]) -> float:
    """Of the control of a step, the mean over those of a fill."""
    settings, open = PRESETS[preset].settings, None
    vocabulary = None if settings.noise == "mask" else VOCABULARY
    mask = None if settings.noise == "uniform" else MASK
    table = TokenFrequencies(range(1, VOCABULARY + 1)) if settings.order == "calibrated" else None
    config = changed(settings, mask_token_id=mask, vocabulary=vocabulary, token_frequencies=table, stop_at_eos=False)
    if config.length != "fixed":  # which needs to know an end; there are no logits for more positions
        config = changed(config, eos_token_id=0, max_new_tokens=MASKS)
    if mask is None:
        open = [[False] * PROMPT + [True] * MASKS] * batch
    canvas = [*range(PROMPT), *[MASK] * MASKS]
    sampler = dllm_fast.Sampler(config, [canvas] * batch, block_start=PROMPT, open=open)
    clock, taken, steps = time.thread_time, 0.0, 0
    while True:
        began = clock()
        request = sampler.next()
        groups = request.groups() if request is not None else []
        taken += clock() - began
        if request is None:
            return taken / steps
        for rows, _, lines in groups:
            here = logits[steps % TURNS][rows].reshape(-1, VOCABULARY)[lines]
            prediction = sampler.predict(here, rows=rows)
            began = clock()
            sampler.feed(prediction=prediction, rows=rows)
            taken += clock() - began
        steps += 1


def load(path: Path = RESULT) -> Mapping[str, Any]:
    """The committed result; without one, that of no preset."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cases": []}  # type: ignore[no-any-return]


def cell(result: Mapping[str, Any], preset: str) -> str:
    """The cell of docs/rules.md: times the baseline at each batch, with quartiles."""
    found: list[Json] = [case for case in result["cases"] if case["preset"] == preset]
    if not found:
        return "not measured yet"
    if "refused" in found[0]:
        return "not by statistics alone"
    if preset == BASELINE:
        return ", ".join(f"{case['seconds']['median'] * 1e6:.1f}" for case in found) + " us"
    ratios = [case["ratio"] for case in found]
    shown = ", ".join(f"{ratio['median']:.1f} ({ratio['q1']:.1f} to {ratio['q3']:.1f})" for ratio in ratios)
    return f"{shown}: {REASONS[preset]}" if preset in REASONS else shown


if __name__ == "__main__":
    main()
