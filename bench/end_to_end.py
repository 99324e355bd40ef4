"""A whole generation, ours against the published loops and diffusers' pipeline. `python -m bench.end_to_end`.

The same model, canvas, schedule and number of forwards, temperature 0; the tokens must be the same. Each contender has
a process of its own, so that its peak memory is its own; the parent lets them run in turn. Forwards are timed inside a
wrapper around the model, the same for all.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import dllm_fast
from bench import harness, loops
from bench.end_to_end_models import TinyLlada, Watched
from bench.harness import Json

BASELINE = "dllm_fast"
VOCABULARY, MASK = 126_464, 126_336
BUDGET_S = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is generated.

    Attributes:
        model: which, in words.
        build: the model, the canvas `[1, L]` (prompt and masks) and the mask id.
        start: where blocks are counted from.
        without: contenders that cannot do it, and why.
    """

    model: str
    build: Callable[[], tuple[nn.Module, Tensor, int]]
    start: int
    block_length: int
    steps_per_block: int
    without: dict[str, str]


def _sudoku() -> tuple[nn.Module, Tensor, int]:
    model, _ = dllm_fast.demo.load()
    return model, torch.from_numpy(dllm_fast.demo.problems(1, seed=1, givens=(31, 31))[0])[None], model.mask_token_id


def _text() -> tuple[nn.Module, Tensor, int]:
    model, tokenizer = dllm_fast.demo.load_text()
    # diffusers' blocks begin at multiples of their length, so the prompt must fill one.
    prompts = (tokenizer.encode(prompt).ids for prompt, _ in dllm_fast.demo.text_problems(200, seed=1))
    prompt = torch.tensor(next(ids for ids in prompts if len(ids) == 16))
    return model, _with_masks(prompt, 48, model.mask_token_id), model.mask_token_id


def _tiny(new_tokens: int, vocabulary: int = VOCABULARY, mask: int = MASK) -> tuple[nn.Module, Tensor, int]:
    prompt = torch.randint(vocabulary // 2, (32,), generator=torch.Generator().manual_seed(1))
    return TinyLlada(vocabulary, mask), _with_masks(prompt, new_tokens, mask), mask


def _with_masks(prompt: Tensor, new_tokens: int, mask: int) -> Tensor:
    return torch.cat([prompt, torch.full((new_tokens,), mask)])[None]


def _tiny_task(new_tokens: int) -> Task:
    words = f"LLaDA's shape, 4 layers, width 128, vocabulary {VOCABULARY}; {new_tokens} new tokens"
    return Task(model=words, build=partial(_tiny, new_tokens), start=32, block_length=32, steps_per_block=8, without={})


TASKS = {
    "sudoku": Task(
        model="embedded Sudoku model, one puzzle with 50 blanks, one a forward",
        build=_sudoku,
        start=0,
        block_length=81,
        steps_per_block=50,
        without={"diffusers": "its pipeline appends to a prompt; it cannot fill blanks"},
    ),
    "text": Task(
        model="embedded text model, 48 new tokens, blocks of 16, one a forward",
        build=_text,
        start=16,
        block_length=16,
        steps_per_block=16,
        without={},
    ),
    "llada 64": _tiny_task(64),
    "llada 256": _tiny_task(256),
    "quick": Task(
        model="LLaDA's shape, vocabulary 1000; 64 new tokens, one thread",
        build=partial(_tiny, 64, 1000, 999),
        start=32,
        block_length=32,
        steps_per_block=2,
        without={},
    ),
}


def ours(model: Watched, canvas: Tensor, task: Task, mask: int) -> Tensor:
    """`dllm_fast.sample`, or `infill` where the canvas has no prompt."""
    run = partial(
        dllm_fast.infill if task.start == 0 else dllm_fast.sample,
        model,
        preset="llada",
        block_length=task.block_length,
        steps_per_block=task.steps_per_block,
        mask_token_id=mask,
        stop_at_eos=False,
    )
    if task.start == 0:
        return torch.from_numpy(run(canvas).sequences[0])[None]
    new_tokens = canvas.shape[1] - task.start
    return torch.from_numpy(run(canvas[:, : task.start], max_new_tokens=new_tokens).sequences[0])[None]


def llada(model: Watched, canvas: Tensor, task: Task, mask: int) -> Tensor:
    """LLaDA's loop."""
    return loops.llada(
        model, canvas, start=task.start, block_length=task.block_length, steps_per_block=task.steps_per_block, mask_id=mask
    )


def fast_dllm(model: Watched, canvas: Tensor, task: Task, mask: int) -> Tensor:
    """Fast-dLLM's loop."""
    return loops.fast_dllm(
        model, canvas, start=task.start, block_length=task.block_length, steps_per_block=task.steps_per_block, mask_id=mask
    )


def diffusers(model: Watched, canvas: Tensor, task: Task, mask: int) -> Tensor:
    """diffusers' block refinement without editing."""
    new, block, steps = canvas.shape[1] - task.start, task.block_length, task.steps_per_block
    return loops.block_refinement(model, canvas[:, : task.start], new_tokens=new, block_length=block, steps=steps, mask_id=mask)


CONTENDERS = {BASELINE: ours, "LLaDA": llada, "Fast-dLLM": fast_dllm, "diffusers": diffusers}


def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["--contender"]:
        _contend(*words[1:])
        return
    options = harness.arguments(__doc__, argv)
    others = harness.Others()
    tasks = ["quick"] if options.quick else [name for name in TASKS if name != "quick"]
    cases = [_case(name) for name in tasks]
    content = {
        "threads": harness.cores(),
        "peak_bytes": "resident memory of the process at its highest; after_one_forward_bytes is that before the first run",
        "cases": cases,
    }
    harness.progress(str(harness.write("end_to_end", options.out, content, quick=options.quick, others=others)))


def _case(name: str) -> Json:
    """Starts a process for each contender and lets them run in turn: once to compare, then as the time allows."""
    task = TASKS[name]
    skipped = dict(task.without)
    if importlib.util.find_spec("diffusers") is None:
        skipped["diffusers"] = "not installed"
    running = {contender: _Contender(contender, name) for contender in CONTENDERS if contender not in skipped}
    try:
        ready = {contender: process.answer() for contender, process in running.items()}
        answers = {contender: [process.run()] for contender, process in running.items()}
        for contender, (answer,) in answers.items():
            for key in ("forwards", "tokens"):
                assert answer[key] == answers[BASELINE][0][key], f"{name}: {contender} differs in its {key}"
        once = sum(answer["total_s"] for (answer,) in answers.values())
        rounds = 1 if name == "quick" else max(3, min(15, int(BUDGET_S / once)))
        for r in range(rounds):
            for contender in list(running) if r % 2 else list(running)[::-1]:
                answers[contender].append(running[contender].run())
    finally:
        for process in running.values():
            process.close()

    def samples(key: str) -> dict[str, dict[int, float]]:
        return {contender: {r: float(a[key]) for r, a in enumerate(many[1:])} for contender, many in answers.items()}

    total, outside = (harness.report(samples(key), BASELINE) for key in ("total_s", "outside_model_s"))
    forms: dict[str, Json] = {contender: {"skipped": reason} for contender, reason in skipped.items()}
    for contender, many in answers.items():
        after = int(ready[contender]["peak_bytes"])
        peak = int(many[-1]["peak_bytes"])
        memory = {"peak_bytes": peak, "after_one_forward_bytes": after}
        forms[contender] = {"total": total[contender], "outside_model": outside[contender], **memory}
        medians = total[contender]["seconds"]["median"], outside[contender]["seconds"]["median"]
        harness.progress(f"{name}: {contender} {medians[0]:.3f} s, outside the model {medians[1]:.3f} s, {peak >> 20} MiB")
    facts = {"task": name, "model": task.model, "forwards": answers[BASELINE][0]["forwards"], "tokens": "identical"}
    return facts | {"forms": forms}


class _Contender:
    """A process that generates once for each line it is sent."""

    def __init__(self, contender: str, task: str) -> None:
        self._name = f"{contender}, {task}"
        command = [sys.executable, "-m", "bench.end_to_end", "--contender", contender, task]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=harness.ROOT)

    def run(self) -> Json:
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> Json:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with status {self._process.wait()}")
        answer: Json = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _contend(contender: str, name: str) -> None:
    """What such a process does: one forward, then a generation for each line on standard input."""
    if contender == "diffusers":
        importlib.import_module("diffusers").LLaDA2Pipeline  # noqa: B018, imports it now: it is no part of the run
    if name == "quick":
        torch.set_num_threads(1)
    task = TASKS[name]
    model, canvas, mask = task.build()
    with torch.inference_mode():
        model(canvas)
    _say({"peak_bytes": _peak_bytes()})
    for _ in sys.stdin:
        watched = Watched(model, mask, canvas.shape[1] if contender == "diffusers" else None)
        began = time.perf_counter()
        tokens = CONTENDERS[contender](watched, canvas, task, mask)
        total = time.perf_counter() - began
        _say(
            {
                "total_s": total,
                "outside_model_s": total - watched.seconds,
                "forwards": watched.forwards,
                "tokens": tokens[0].tolist(),
                "peak_bytes": _peak_bytes(),
            }
        )


def _say(answer: Json) -> None:
    print(json.dumps(answer), flush=True)


def _peak_bytes() -> int:
    """Peak resident memory. On Linux `ru_maxrss` would begin with that of the parent."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
