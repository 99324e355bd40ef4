"""`stream`, `Run` and its events, on tables small enough to check by eye."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import json
import pickle
import threading
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dllm_fast
from dllm_fast.errors import DllmFastError, InvalidTypeError, InvalidValueError
from dllm_fast.modules import hold
from toys import presets_of_any_model

MASK, EOS, VOCABULARY = 9, 8, 10
GIVEN: dict[str, Any] = {"mask_token_id": MASK, "max_new_tokens": 4}


def successor(ids: torch.Tensor) -> torch.Tensor:
    """Predicts the position's index plus one, modulo 7, surer to the left."""
    places = torch.arange(ids.shape[1])
    logits = torch.zeros(*ids.shape, VOCABULARY)
    logits[:, places, (places + 1) % 7] = 8.0 - 0.1 * places
    return logits


class Noisy(nn.Module):
    """In training mode, where it would answer something else."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        logits: torch.Tensor = self.dropout(successor(ids))
        return logits


def plain(result: dllm_fast.Result) -> list[list[int]]:
    return [row.tolist() for row in result.sequences]


def assert_free(model: nn.Module | None = None) -> None:
    assert not hold._THINGS
    assert not hold._open()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert model is None or all(module.training for module in model.modules())


def test_a_run_is_its_events_and_then_the_result() -> None:
    run = dllm_fast.stream(successor, [[1], [2, 2]], **GIVEN)
    assert len(run) == 2
    events = list(run)
    assert [event.step for event in events] == [0, 1, 2, 3]
    assert [event.rows.tolist() for event in events] == [[0, 1]] * 4
    assert [[p.tolist() for p in event.positions] for event in events] == [[[i], [i + 1]] for i in (1, 2, 3, 4)]
    assert [[t.tolist() for t in event.tokens] for event in events] == [[[i + 1], [i + 2]] for i in (1, 2, 3, 4)]
    assert [event.stable_prefix for event in events] == [[1, 1], [2, 2], [3, 3], [4, 4]]
    assert [event.is_done for event in events] == [[False, False]] * 3 + [[True, True]]
    assert [event.finish_reasons for event in events] == [[None, None]] * 3 + [["length", "length"]]
    assert all(event.guess_positions is event.guess_tokens is None for event in events)
    result = run.result()
    assert run.result() is result
    whole = dllm_fast.sample(successor, [[1], [2, 2]], **GIVEN)
    assert plain(result) == plain(whole)
    assert result.trajectory == whole.trajectory
    assert (result.stats.nfe, result.finish_reasons) == (whole.stats.nfe, ["length", "length"])
    assert list(run) == []


def test_an_event_stays_what_it_was() -> None:
    """Values that are made when somebody asks for them are those of their step, however late that is."""
    now = [(event.to_dict(), event) for event in dllm_fast.stream(successor, [[1], [2, 2]], **GIVEN, guesses=True)]
    late = list(dllm_fast.stream(successor, [[1], [2, 2]], **GIVEN, guesses=True))
    assert [told for told, _ in now] == [event.to_dict() for event in late]
    for (told, event), same in zip(now, late, strict=True):
        assert event == same == dllm_fast.StepEvent.from_dict(json.loads(json.dumps(told)))
        assert pickle.loads(pickle.dumps(same)) == copy.deepcopy(same) == same
    with pytest.raises(AttributeError, match="no attribute 'guess'"):
        late[0].guess  # noqa: B018


def test_a_canvas_is_filled_in_place() -> None:
    run = dllm_fast.stream(successor, canvas=[4, MASK, 4, MASK], mask_token_id=MASK)
    assert [event.canvases[0].tolist() for event in run] == [[4, 2, 4, MASK], [4, 2, 4, 4]]
    assert plain(run.result()) == [[4, 2, 4, 4]]
    unchanged = dllm_fast.stream(successor, canvas=[[1, 2]], mask_token_id=MASK)
    assert list(unchanged) == []
    assert (plain(unchanged.result()), unchanged.result().finish_reasons) == ([[1, 2]], ["length"])


def test_an_end_token_is_a_reason() -> None:
    def ends(ids: torch.Tensor) -> torch.Tensor:
        logits = successor(ids)
        logits[:, 2, EOS] = 20.0
        return logits

    given = GIVEN | {"eos_token_id": EOS, "order": "left-to-right"}
    run = dllm_fast.stream(ends, [[1], [1, 1, 1]], **given)
    *_, last = run
    assert last.rows.tolist() == [1]
    result = run.result()
    assert result.finish_reasons == ["stop", "length"]
    assert [row.tolist() for row in result.new_tokens] == [[2, EOS], [4, 5, 6, 0]]
    reasons = [event.finish_reasons for event in dllm_fast.stream(ends, [[1], [1, 1, 1]], **given)]
    assert reasons == [[None, None], ["stop", None], [None], ["length"]]
    assert dllm_fast.sample(ends, [1], **given, stop_at_eos=False).finish_reasons == ["length"]


def test_rows_are_cancelled() -> None:
    run = dllm_fast.stream(successor, [[1], [2, 2]], **GIVEN)
    next(run)
    run.cancel(0)
    run.cancel(0)
    event = next(run)
    assert event.rows.tolist() == [1]
    result = run.result()
    assert result.finish_reasons == ["cancelled", "length"]
    assert plain(result) == [[1, 2, MASK, MASK, MASK], [2, 2, 3, 4, 5, 6]]
    assert [row.tolist() for row in result.new_tokens] == [[2], [3, 4, 5, 6]]
    run.cancel(1)
    assert run.result().finish_reasons == ["cancelled", "length"], "what is done stays as it is"
    for bad, kind in ((2, InvalidValueError), (-1, InvalidValueError), ("0", InvalidTypeError), (True, InvalidTypeError)):
        with pytest.raises(kind, match=r"a row must be .*got .*; rows are counted from 0"):
            run.cancel(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["cancel", "close", "with", "break", "on_step"])
def test_a_run_that_is_ended_has_what_there_is(how: str) -> None:
    model = Noisy().train()
    given = GIVEN | ({"on_step": lambda event: event.step < 1} if how == "on_step" else {})
    run = dllm_fast.stream(model, [[1], [2, 2]], **given)
    if how == "with":
        with run as entered:
            assert entered is run
            next(run)
            next(run)
    elif how == "on_step":
        assert run.result().finish_reasons == ["cancelled", "cancelled"]
    else:
        for event in run:
            if event.step == 1:
                if how == "break":
                    break
                run.cancel() if how == "cancel" else run.close()
    assert_free(model)
    assert plain(run.result()) == [[1, 2, 3, MASK, MASK], [2, 2, 3, 4, MASK, MASK]]
    assert run.result().finish_reasons == ["cancelled", "cancelled"]
    assert run.result().stats.nfe == 4
    assert run.step() is None


@pytest.mark.parametrize("value", [None, 0, True, np.True_, 0.0, [], ""])
def test_only_false_stops_a_run(value: object) -> None:
    result = dllm_fast.sample(successor, [1], **GIVEN, on_step=lambda event: value)
    assert result.finish_reasons == ["length"]


def test_nothing_of_the_caller_is_changed_between_steps() -> None:
    model = Noisy().train()
    run = dllm_fast.stream(model, [1], **GIVEN)
    assert_free(model)  # nothing is changed before the first step
    for _ in run:
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not any(module.training for module in model.modules())
        (torch.ones(1, requires_grad=True) * 2).backward()
    assert_free(model)


def test_runs_of_one_model_take_turns() -> None:
    model = Noisy().train()
    expected = [plain(dllm_fast.sample(model, prompt, **GIVEN)) for prompt in ([1], [2, 2], [3])]
    runs = [dllm_fast.stream(model, prompt, **GIVEN) for prompt in ([1], [2, 2], [3])]
    for _ in zip(*runs, strict=True):
        assert not any(module.training for module in model.modules())
    assert [plain(run.result()) for run in runs] == expected
    assert_free(model)
    # The first to begin ends first.
    runs = [dllm_fast.stream(model, prompt, **GIVEN) for prompt in ([1], [2, 2])]
    next(runs[0])
    next(runs[1])
    assert plain(runs[0].result()) == expected[0]
    assert not any(module.training for module in model.modules())
    assert plain(runs[1].result()) == expected[1]
    assert_free(model)


def test_a_run_goes_from_thread_to_thread() -> None:
    model = Noisy().train()
    expected = plain(dllm_fast.sample(model, [1], **GIVEN))
    run = dllm_fast.stream(model, [1], **GIVEN)
    for _ in range(5):
        thread = threading.Thread(target=run.step)
        thread.start()
        thread.join()
    assert_free(model)
    assert plain(run.result()) == expected


@pytest.mark.parametrize("how", ["dropped", "never begun", "cycle", "generator"])
def test_a_run_that_nobody_has_leaves_nothing(how: str) -> None:
    model = Noisy().train()
    run: Any = dllm_fast.stream(model, [1], **GIVEN)
    gone = weakref.ref(run)
    if how != "never begun":
        next(run)
        assert not model.training
    if how == "cycle":
        run.me = run
    if how == "generator":
        loop = iter(run)
        next(loop)
        del loop
        assert_free(model)
    del run
    if how == "cycle":
        gc.collect()
    assert gone() is None
    assert_free(model)


def test_what_is_raised_in_a_step_ends_the_run() -> None:
    model = Noisy().train()
    calls = iter(range(100))

    def fail(module: nn.Module, ids: object) -> None:
        if next(calls) == 1:
            raise KeyError("on purpose")

    model.register_forward_pre_hook(fail)
    run = dllm_fast.stream(model, [1], **GIVEN)
    next(run)
    with pytest.raises(KeyError, match="on purpose"):
        next(run)
    assert_free(model)
    assert (plain(run.result()), run.result().finish_reasons) == ([[1, 2, MASK, MASK, MASK]], ["cancelled"])


@pytest.mark.parametrize("error", [StopIteration(3), StopAsyncIteration(3)], ids=repr)
def test_an_exception_that_looks_like_the_end_is_none(error: Exception) -> None:
    def model(ids: torch.Tensor) -> torch.Tensor:
        raise error

    for way in (next, list):
        with pytest.raises((RuntimeError, StopAsyncIteration)) as caught:
            way(dllm_fast.stream(model, [1], **GIVEN))  # type: ignore[operator]
        assert error in (caught.value, caught.value.__cause__)

    async def collect() -> None:
        async for _ in dllm_fast.stream(model, [1], **GIVEN):
            pass

    with pytest.raises(RuntimeError, match=f"raised {type(error).__name__}"):
        asyncio.run(collect())
    with pytest.raises(type(error)):
        dllm_fast.sample(model, [1], **GIVEN)


def test_a_run_is_in_one_step_at_a_time() -> None:
    runs: list[dllm_fast.Run] = []
    said: list[str] = []

    def inside(event: dllm_fast.StepEvent) -> None:
        for call in (runs[0].step, runs[0].result):
            with pytest.raises(InvalidValueError, match=r"one step at a time, got a call while .*; call it between") as caught:
                call()
            said.append(str(caught.value))

    runs.append(dllm_fast.stream(successor, [1], **GIVEN, on_step=inside))
    assert plain(runs[0].result()) == [[1, 2, 3, 4, 5]]
    assert len(said) == 8


def test_copies_and_pickles_of_a_run_are_refused() -> None:
    run = dllm_fast.stream(successor, [1], **GIVEN)
    next(run)
    for take in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(InvalidTypeError, match="a run must stay where it is, got a copy or a pickle of one; begin another"):
            take(run)
    assert plain(run.result()) == [[1, 2, 3, 4, 5]]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "neither": ({}, "either a prompt or a canvas is needed, got NoneType for both; pass prompt= to append to it, or canvas="),
    "both": ({"prompt": [1], "canvas": [1, MASK]}, "either a prompt or a canvas is needed, got both"),
    "a chat of a canvas": ({"canvas": [1, MASK], "chat": True}, "chat is an argument of sample and not a setting, got True"),
    "a length of a canvas": ({"canvas": [1, MASK], "max_new_tokens": 3}, "infill appends nothing, got max_new_tokens=3"),
    "no function": ({"prompt": [1], "on_step": 3}, "on_step must be callable, got int"),
    "no flag": ({"prompt": [1], "guesses": "all"}, "guesses must be True or False, got 'all'"),
    "a cache that cannot be": ({"prompt": [1], "cache": "prefix"}, "a cache needs a model that dllm_fast has opened"),
    "a setting": ({"prompt": [1], "block_lenght": 3}, "block_lenght is not a setting"),
    "masks in a prompt": ({"prompt": [1, MASK]}, "a prompt must hold no mask tokens"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_everything_is_refused_before_the_first_step(case: str) -> None:
    given, words = REFUSED[case]
    with pytest.raises(DllmFastError, match=words):
        dllm_fast.stream(successor, mask_token_id=MASK, **given)


def test_guesses_need_somebody_who_is_told() -> None:
    for call in (dllm_fast.sample, dllm_fast.infill):
        with pytest.raises(InvalidValueError, match="guesses are told to on_step, got guesses=True without it; pass on_step="):
            call(successor, [1], mask_token_id=MASK, guesses=True)


@pytest.mark.parametrize("preset", presets_of_any_model())
def test_watching_changes_no_work(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards, scored positions and tokens are those of a run that nobody looks at."""
    given: dict[str, Any] = {"mask_token_id": MASK, "max_new_tokens": 12, "preset": preset, "seed": 3}
    scored: list[int] = []
    predict = dllm_fast.runners.predictor.Predictor.__call__  # type: ignore[attr-defined]

    def count(self: Any, *args: Any) -> Any:
        prediction = predict(self, *args)
        scored.append(len(prediction))
        return prediction

    monkeypatch.setattr("dllm_fast.runners.predictor.Predictor.__call__", count)
    found = []
    for watch in ({}, {"on_step": dllm_fast.StepEvent.to_dict}, "stream"):
        scored.clear()
        if watch == "stream":
            run = dllm_fast.stream(successor, [[1], [2, 2]], **given)
            for event in run:
                event.to_dict()
            result = run.result()
        else:
            result = dllm_fast.sample(successor, [[1], [2, 2]], **given, **watch)  # type: ignore[arg-type]
        found.append((list(scored), result.stats.nfe, result.stats.nfe_per_row, result.trajectory))
    assert found[0] == found[1] == found[2]


def test_a_result_is_a_row_after_the_other() -> None:
    result = dllm_fast.sample(successor, [[1], [2, 2], [3]], **GIVEN)
    assert len(result) == len(list(result)) == 3
    assert [row.new_tokens.tolist() for row in result] == [row.tolist() for row in result.new_tokens]
    assert result[-1] == result[2] == result[np.int64(2)]
    assert result[1] != result[2]
    assert (result[1].sequence.tolist(), result[1].finish_reason, result[1].nfe) == ([2, 2, 3, 4, 5, 6], "length", 4)
    assert result[1].trajectory == result.trajectory[1]
    assert result[1:] == [result[1], result[2]]
    assert result[::-2] == [result[2], result[0]]
    with pytest.raises(InvalidValueError, match="text needs a tokenizer, got none; pass tokenizer="):
        result[0].text  # noqa: B018
    for bad in (3, -4, 10**30):
        with pytest.raises(IndexError, match=r"a row must be one of 3, got .*; rows are counted from 0"):
            result[bad]
    for odd in ("0", 1.0, None, True):
        with pytest.raises(InvalidTypeError, match="a row must be a whole number or a slice, got"):
            result[odd]  # type: ignore[call-overload]
    json.dumps(result[0].to_dict())
    assert result[0].to_dict()["text"] is None


def test_rows_of_text() -> None:
    model, tokenizer = dllm_fast.demo.load_text()
    result = dllm_fast.sample(model, ["sort:cab=", "reverse:cab="], tokenizer=tokenizer, max_new_tokens=16)
    assert [row.text for row in result] == ["abc", "bac"]
    assert result[-1].text == "bac"
    assert {row.finish_reason for row in result} == {"stop"}


def test_a_notebook_shows_a_table_and_no_markup_of_a_model() -> None:
    result = dllm_fast.sample(successor, [[1], [2, 2]], **GIVEN)
    assert "2 3 4 5" in result._repr_html_()
    evil = "<script>alert('x')</script>\n&"
    shown = dataclasses.replace(result, texts=[evil, "b" * 10**6])._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;alert(&#x27;x&#x27;)" in shown
    assert len(shown) < 10_000
    assert "<b>" not in dataclasses.replace(result, finish_reasons=["<b>", "stop"])._repr_html_()
    many = dllm_fast.sample(successor, [[1]] * 300, **GIVEN)._repr_html_()
    assert "the first 20 of 300 rows" in many
    assert many.count("<tr>") == 21
    explained = dllm_fast.explain(dllm_fast.demo.load()[0])
    assert explained._repr_html_().startswith("<pre>")


def test_older_dictionaries_are_read() -> None:
    def ends(ids: torch.Tensor) -> torch.Tensor:
        logits = successor(ids)
        logits[:, 2, EOS] = 20.0
        return logits

    result = dllm_fast.sample(ends, [[1], [1, 1, 1, 1]], **GIVEN, eos_token_id=EOS, order="left-to-right")
    written = json.loads(json.dumps(result.to_dict()))
    assert written.pop("finish_reasons") == ["stop", "length"]
    assert dllm_fast.Result.from_dict(written) == result
    with pytest.raises(InvalidValueError, match="finish_reasons must be of stop, length, cancelled, got 'tired'"):
        dllm_fast.Result.from_dict(written | {"finish_reasons": ["tired", "stop"]})


def test_edits_unpack_and_sort() -> None:
    (edits,) = dllm_fast.sample(successor, [1], **GIVEN).trajectory
    step, position, token, probability, kind, time = edits[0]
    assert (step, position, token, kind) == (0, 1, 2, "commit")
    assert probability == edits[0].probability == edits[0][3] == edits[0][-3]
    assert len(edits[0]) == 6
    assert edits[0][:2] == (0, 1)
    assert np.isnan(time) == np.isnan(edits[0].time)
    assert sorted([edits[2], edits[0], edits[3], edits[1]]) == edits
    assert edits[0] < edits[1] <= edits[1]
    match edits[1]:
        case dllm_fast.Edit(step, position, token):
            assert (step, position, token) == (1, 2, 3)
        case _:
            raise AssertionError
    for bad in (6, -7):
        with pytest.raises(IndexError):
            edits[0][bad]
    with pytest.raises(TypeError):
        edits[0] < (0, 1)  # type: ignore[operator]  # noqa: B015
