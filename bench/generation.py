"""Whole generations in turn: what the benches of models and of peers share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import dllm_fast
from bench import harness
from bench.harness import Json
from dllm_fast.loading.model import LoadedModel

PAUSE_S = 0.004


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is generated, at temperature 0, with the same number of tokens in every forward.

    Attributes:
        prompt: ids `[1, L]`; blocks begin behind it, so that its length is a multiple of theirs.
    """

    prompt: Tensor
    new_tokens: int
    block_length: int
    steps_per_block: int
    mask: int

    @property
    def schedule(self) -> dict[str, int]:
        """As the restated loops take it."""
        start = self.prompt.shape[1]
        return {
            "start": start,
            "block_length": self.block_length,
            "steps_per_block": self.steps_per_block,
            "mask_id": self.mask,
        }

    @property
    def canvas(self) -> Tensor:
        """The prompt and masks `[1, L]`."""
        rows = self.prompt.shape[0]
        return torch.cat([self.prompt, torch.full((rows, self.new_tokens), self.mask)], 1)

    def facts(self) -> Json:
        return {
            "prompt": self.prompt.shape[1],
            "new_tokens": self.new_tokens,
            "block_length": self.block_length,
            "steps_per_block": self.steps_per_block,
        }


def random_prompt(length: int, mask: int) -> Tensor:
    """Ids `[1, length]` of a fixed seed, the mask not among them."""
    return torch.randint(mask, (1, length), generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True, slots=True)
class Run:
    """One generation: the canvas at its end, model calls, seconds in all and inside the model."""

    tokens: list[int]
    forwards: int
    total_s: float
    model_s: float

    @property
    def per_forward(self) -> Json:
        return {"step": self.total_s / self.forwards, "forward": self.model_s / self.forwards}


Form = Callable[[], Run]


class Clock:
    """Counts the calls of a model and the seconds in them."""

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0

    def around(self, model: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            answer = model(*args, **kwargs)
            self.calls += 1
            self.seconds += time.perf_counter() - began
            return answer

        return timed


def loop(model: Callable[..., Any], run: Callable[[Callable[..., Any]], Tensor]) -> Form:
    """A loop that is given a model and returns a canvas, as a form."""

    def form() -> Run:
        clock = Clock()
        began = time.perf_counter()
        canvas = run(clock.around(model))
        return Run(canvas[0].tolist(), clock.calls, time.perf_counter() - began, clock.seconds)

    return form


def ours(model: LoadedModel, task: Task, cache: str) -> tuple[Form, str]:
    """`dllm_fast.sample` as a form, and the policy that `cache` comes to."""

    def generate() -> dllm_fast.Result:
        return dllm_fast.sample(
            model,
            task.prompt,
            preset="llada",
            max_new_tokens=task.new_tokens,
            block_length=task.block_length,
            steps_per_block=task.steps_per_block,
            mask_token_id=task.mask,
            stop_at_eos=False,
            cache=cache,
        )

    def form() -> Run:
        began = time.perf_counter()
        result = generate()
        total = time.perf_counter() - began
        return Run(result.sequences[0].tolist(), result.stats.nfe, total, result.stats.model_ms / 1e3)

    return form, generate().config.cache


def in_turn(forms: Mapping[str, Form], budget_s: float, *, least: int, most: int) -> Iterator[dict[str, Run]]:
    """Rounds in which every form generates once, in alternating order. The first is a warm-up and decides how many follow."""
    first = {name: form() for name, form in forms.items()}
    yield first
    rounds = max(least, min(most, int(budget_s / sum(run.total_s for run in first.values()))))
    for r in range(rounds):
        done = {}
        for name in list(forms) if r % 2 else list(forms)[::-1]:
            time.sleep(PAUSE_S)
            done[name] = forms[name]()
        yield done


def timings(rounds: list[dict[str, Run]]) -> dict[str, dict[str, list[float]]]:
    """Seconds per step and per forward of every form, by round."""
    return {
        name: {what: [done[name].per_forward[what] for done in rounds] for what in ("step", "forward")} for name in rounds[0]
    }


def compared(mine: dict[str, list[float]], theirs: dict[str, list[float]]) -> Json:
    """How many times longer they take than we do, paired by round."""
    return {what: harness.spread([t / m for t, m in zip(theirs[what], mine[what], strict=True)]) for what in mine}


def spreads(form: dict[str, list[float]]) -> Json:
    return {what: harness.spread(values) for what, values in form.items()}
