"""What does the host do around a forward of `sample`? A part of `python -m bench.control`.

A model so small (four layers, 160 tokens) that a step is little more than its host side: what is outside the two halves of
the network is everything of ours, from the request to the edits. Two lengths tell a step from what a call costs once. Time is
that of the processor in the one thread that samples, so that other programs on the machine do not count.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dllm_fast
from bench import checkpoints, harness
from bench.harness import Effort, Json

SIZE = checkpoints.Size(width=64, inner=128, layers=4, vocabulary=160, context=128)
PROMPT = list(range(1, 33))
STEPS = 64


def measure(effort: Effort) -> Json:
    """Seconds outside the model: of a step, and of a call of one step; of one row, one token a forward."""
    with tempfile.TemporaryDirectory() as folder, harness.threads(1):
        model = dllm_fast.load(checkpoints.twin("llada", SIZE).save(Path(folder)), eos_token_ids=[0])
        clock = _Clock(model.network)
        one(model, clock, STEPS)
        steps, calls = [], []
        gc.collect()
        for _ in range(effort.most):
            time.sleep(effort.pause_s)
            call, all_steps = one(model, clock, 1), one(model, clock, STEPS)
            calls.append(call)
            steps.append((all_steps - call) / (STEPS - 1))
    shape = {"layers": SIZE.layers, "vocabulary": SIZE.vocabulary, "batch": 1, "prompt": len(PROMPT), "new_tokens": STEPS}
    return shape | {"step_seconds": harness.spread(steps), "call_seconds": harness.spread(calls)}


def one(model: Any, clock: _Clock, count: int) -> float:
    """Seconds outside the network of a `sample` of `count` forwards."""
    clock.inside = 0.0
    began = time.thread_time()
    result = dllm_fast.sample(model, PROMPT, max_new_tokens=count, stop_at_eos=False)
    total = time.thread_time() - began
    assert result.stats.nfe == count
    return total - clock.inside


class _Clock:
    """Seconds inside the two halves of a network."""

    def __init__(self, network: Any) -> None:
        self.inside = 0.0
        for name in ("hidden", "logits"):
            setattr(network, name, self._timed(getattr(network, name)))

    def _timed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            began = time.thread_time()
            try:
                return forward(*given)
            finally:
                self.inside += time.thread_time() - began

        return timed
