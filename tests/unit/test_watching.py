"""What events keep, what is made of them late, and how a run listens to who is told of them."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dllm_fast
from dllm_fast.errors import InvalidValueError
from toys import HashTable

MASK = 15
GIVEN: dict[str, Any] = {"mask_token_id": MASK, "max_new_tokens": 8}
TABLE = HashTable(16, seed=1)


def test_who_writes_into_the_canvases_of_an_event_changes_nothing_else_of_it() -> None:
    """As one does to show them: masks become blanks."""
    given = GIVEN | {"eos_token_id": 8, "guesses": True}
    for told, event in zip(
        dllm_fast.stream(TABLE, [[1], [2]], **given), dllm_fast.stream(TABLE, [[1], [2]], **given), strict=True
    ):
        expected = told.to_dict()
        for canvas in event.canvases:
            canvas[:] = 0
        event.rows[:] = 0
        assert event.to_dict() | {name: expected[name] for name in ("canvases", "rows")} == expected


@pytest.mark.parametrize("guesses", [False, True])
def test_an_event_keeps_predictions_only_for_guesses(guesses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    predict = dllm_fast.runners.predictor.Predictor.__call__  # type: ignore[attr-defined]

    def note(self: Any, *args: Any) -> Any:
        made.append(predict(self, *args))
        return made[-1]

    monkeypatch.setattr("dllm_fast.runners.predictor.Predictor.__call__", note)
    events = list(dllm_fast.stream(TABLE, [[1], [2, 2]], **GIVEN, guesses=guesses))
    kept = [sys.getrefcount(prediction) for prediction in made[:-2]]
    del events
    alone = [sys.getrefcount(prediction) for prediction in made[:-2]]
    assert len(kept) == 14
    assert all(a - b == guesses for a, b in zip(kept, alone, strict=True))


@pytest.mark.parametrize("drive", ["result", "loop", "next"])
def test_a_row_that_on_step_cancels_takes_no_further_step(drive: str) -> None:
    runs: list[dllm_fast.Run] = []
    seen = []

    def watch(event: dllm_fast.StepEvent) -> None:
        seen.append(event.rows.tolist())
        if event.step == 1:
            runs[0].cancel(1)

    run = dllm_fast.stream(TABLE, [[1], [2]], **GIVEN, on_step=watch)
    runs.append(run)
    if drive == "loop":
        list(run)
    if drive == "next":
        next(run)
        next(run)
    result = run.result()
    assert seen == [[0, 1]] * 2 + [[0]] * 6
    assert (result.finish_reasons, [row.nfe for row in result]) == (["length", "cancelled"], [8, 2])


@pytest.mark.parametrize("value", [False, np.False_, np.array(False), torch.tensor(False)], ids=repr)
def test_false_of_any_kind_stops_a_run(value: object) -> None:
    """A comparison of what stands in arrays gives one of NumPy."""
    result = dllm_fast.sample(TABLE, [1], **GIVEN, on_step=lambda event: value)
    assert (result.finish_reasons, result.stats.nfe) == (["cancelled"], 1)


def test_time_in_a_forward_that_failed_is_no_time_of_the_sampler() -> None:
    calls = iter(range(9))

    def model(ids: torch.Tensor) -> torch.Tensor:
        if next(calls):
            time.sleep(0.1)
            raise KeyError("on purpose")
        logits: torch.Tensor = TABLE(ids)
        return logits

    run = dllm_fast.stream(model, [1], **GIVEN)
    next(run)
    with pytest.raises(KeyError, match="on purpose"):
        next(run)
    stats = run.result().stats
    assert stats.model_ms >= 100
    assert stats.sampler_ms >= 0


class Failing(nn.Module):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        raise KeyError("on purpose")


def test_what_an_awaited_step_raised_goes_with_whoever_had_it() -> None:
    """No cycle holds the frames of the model, and their tensors, until somebody collects."""

    async def fail() -> weakref.ref[Failing]:
        model = Failing()
        with pytest.raises(KeyError, match="on purpose"):
            async for _ in dllm_fast.stream(model, [1], **GIVEN):
                pass
        return weakref.ref(model)

    gc.disable()
    try:
        assert asyncio.run(fail())() is None
    finally:
        gc.enable()


def test_awaiting_needs_asyncio() -> None:
    run = dllm_fast.stream(TABLE, [1], **GIVEN)
    step = aiter(run).__anext__()
    with pytest.raises(InvalidValueError, match="async for needs a running loop of asyncio, got another or none; there, call"):
        step.send(None)


def test_an_awaited_step_warns_where_it_is_awaited() -> None:
    """Not in the thread that took it, which nobody called."""
    left = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))

    def causal(ids: torch.Tensor) -> torch.Tensor:
        return left[ids].cumsum(1)

    async def collect() -> None:
        async for _ in dllm_fast.stream(causal, [[3, 4, 5], [6, 7, 8]], **GIVEN | {"max_new_tokens": 12}):
            pass

    with pytest.warns(RuntimeWarning, match="must see both ways") as seen:
        asyncio.run(collect())
    assert (seen[0].filename, seen[0].lineno) == (__file__, collect.__code__.co_firstlineno + 1)
