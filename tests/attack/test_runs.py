"""Runs that are left, cancelled, interrupted, shared and given up at every place: all is as it was, and others go on.

`ATTACK_INTERRUPTS=3000` takes so many places of each way, `ATTACK_RUNS=100000` abandons so many runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import sys
import textwrap
import threading
import tracemalloc
from collections import Counter

import pytest
import torch
from test_interrupts import Interrupt, assert_as_it_was, assert_free, places
from test_threads import MODELS, PROMPTS, Plain, as_before, process, state

import dllm_fast
from dllm_fast.errors import InvalidValueError
from dllm_fast.modules import hold
from native_models import MASK, model_of
from tests import limited
from toys import HashTable

ABANDONED = int(os.environ.get("ATTACK_RUNS", "300"))
SETTINGS = {"max_new_tokens": 3, "mask_token_id": MASK}


@pytest.fixture(autouse=True)
def passed_over(monkeypatch):
    """An interrupt in a `__del__`, or while a generator goes, is passed over by Python."""
    before = sys.unraisablehook
    monkeypatch.setattr(sys, "unraisablehook", lambda found: issubclass(found.exc_type, KeyboardInterrupt) or before(found))


def begun(model, prompt=PROMPTS[0], **more):
    return dllm_fast.stream(model, prompt, **SETTINGS | more)


def tokens(run):
    return [row.tolist() for row in run.result().sequences]


def by_next(model):
    run = begun(model)
    with run, contextlib.suppress(StopIteration):
        while True:
            next(run)
    return tokens(run)


def by_loop(model):
    run = begun(model)
    for _ in run:
        pass
    return tokens(run)


def by_break(model):
    run = begun(model)
    for _ in run:
        break
    run.result()


def by_cancel(model):
    with begun(model, PROMPTS[:2]) as run:
        next(run)
        run.cancel(1)
        next(run)
        run.cancel()
    run.result()


def by_turns(model):
    with begun(model) as one, begun(model, PROMPTS[1]) as two:
        for _ in zip(one, two, strict=True):
            pass


def by_watching(model):
    dllm_fast.sample(model, PROMPTS[0], **SETTINGS, on_step=lambda event: event.step < 1)


def by_waiting(model):
    async def collect():
        async for _ in begun(model):
            pass

    asyncio.run(collect())


WAYS = {f.__name__: f for f in (by_next, by_loop, by_break, by_cancel, by_turns, by_watching)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["native", "plain"])
def test_a_run_is_interrupted_at_any_place(name, way):
    """Whoever leaves by `with`, or by a loop, leaves all as it was, also where the error keeps every frame."""
    model = MODELS[name]().train()
    expected = tokens(begun(model))
    assert_as_it_was(lambda: WAYS[way](model), model)
    assert tokens(begun(model)) == expected


def test_a_run_that_stands_still_is_interrupted_and_given_up():
    """By next(), without `with`: once nobody has it, all is as it was."""
    model = Plain().train()
    expected = tokens(begun(model))
    before = state(model)

    def some():
        run = begun(model)
        next(run)
        next(run)
        return run

    for place in places(some):
        with contextlib.suppress(KeyboardInterrupt), Interrupt(place).on():
            some()
        assert_free()
        assert state(model) == before
    assert tokens(begun(model)) == expected


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("steps", range(5))
def test_a_run_is_left_after_any_step(name, steps):
    model = MODELS[name]().train()
    expected = tokens(begun(model))
    with as_before(model):
        for leave in ("break", "raise", "drop", "close", "throw"):
            run = begun(model)
            loop = iter(run)
            with contextlib.suppress(KeyError, StopIteration):
                if leave in ("break", "raise"):
                    for event in loop:
                        if event.step >= steps:
                            if leave == "raise":
                                raise KeyError
                            break
                else:
                    for _ in range(steps):
                        next(loop)
                    if leave == "throw":
                        loop.throw(KeyError())
                    if leave == "close":
                        loop.close()
            del loop, run
            assert_free()
    assert tokens(begun(model)) == expected


def test_many_threads_at_one_run():
    """One is in it, the others are told so; together they take every step once."""
    model = Plain().train()
    expected = tokens(begun(model, max_new_tokens=40))
    run = begun(model, max_new_tokens=40)
    seen, told, failed = [], [], []

    def work():
        while True:
            try:
                event = run.step()
            except InvalidValueError as error:
                told.append(str(error))
                continue
            except BaseException as error:
                failed.append(error)
                return
            if event is None:
                return
            seen.append(event.step)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with as_before(model):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    sys.setswitchinterval(before)
    assert failed == []
    assert sorted(seen) == list(range(40))
    assert all("one step at a time" in text for text in told)
    assert tokens(run) == expected


def test_a_run_is_ended_from_elsewhere_in_the_midst_of_a_step():
    """The step goes on to its end, then everything is as it was."""
    model = Plain().train()
    inside, go_on = threading.Event(), threading.Event()

    def wait(module, ids):
        inside.set()
        assert go_on.wait(60)

    for end in ("close", "cancel", "cancel a row"):
        with as_before(model):
            run = begun(model, PROMPTS[:2])
            handle = model.register_forward_pre_hook(wait)
            events = []
            thread = threading.Thread(target=lambda: events.append(run.step()))  # noqa: B023
            thread.start()
            assert inside.wait(60)
            run.cancel(1) if end == "cancel a row" else getattr(run, end)()
            assert not model.training
            with pytest.raises(InvalidValueError, match="one step at a time"):
                run.result()
            go_on.set()
            thread.join(60)
            handle.remove()
            (event,) = events
            if end == "cancel a row":
                assert event.finish_reasons == [None, "cancelled"]
                assert run.result().finish_reasons == ["length", "cancelled"]
            else:
                assert model.training
                assert run.step() is None
                assert run.result().finish_reasons == ["cancelled"] * 2
            assert all(len(edits) == event.step + 1 or row == 0 for row, edits in enumerate(run.result().trajectory))
        inside.clear()
        go_on.clear()


def test_rows_are_cancelled_by_many_threads_while_one_steps():
    model = HashTable(16, seed=1)
    prompts = [[i] for i in range(12)]
    whole = dllm_fast.sample(model, prompts, mask_token_id=15, max_new_tokens=20)
    for seed in range(5):
        run = dllm_fast.stream(model, prompts, mask_token_id=15, max_new_tokens=20)
        order = random.Random(seed)

        def work(seed=seed, run=run):
            for row in random.Random(seed).sample(range(12), 6):
                run.cancel(row)

        threads = [threading.Thread(target=work, args=(order.randrange(99),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        result = run.result()
        for thread in threads:
            thread.join(60)
        for row, reason in enumerate(result.finish_reasons):
            if reason == "length":
                assert result.sequences[row].tolist() == whole.sequences[row].tolist()
            assert result.trajectory[row] == whole.trajectory[row][: len(result.trajectory[row])]


def test_steps_are_awaited():
    model = Plain().train()
    expected = tokens(begun(model))

    async def collect():
        run, steps, threads = begun(model), [], set()
        hook = model.register_forward_pre_hook(lambda *_: threads.add(threading.get_ident()))
        async for event in run:
            steps.append(event.step)
            assert torch.is_grad_enabled()
            await asyncio.sleep(0)
        hook.remove()
        assert threading.get_ident() not in threads
        return steps, tokens(run)

    with as_before(model):
        assert asyncio.run(collect()) == ([0, 1, 2], expected)


def test_many_runs_are_awaited_at_once():
    model = model_of("Qwen3").train()
    expected = [tokens(begun(model, prompt)) for prompt in PROMPTS]

    async def one(prompt):
        run = begun(model, prompt)
        async for _ in run:
            await asyncio.sleep(0)
        return tokens(run)

    async def all_of_them():
        return await asyncio.gather(*[one(prompt) for prompt in PROMPTS])

    with as_before(model):
        assert asyncio.run(all_of_them()) == expected


def test_no_step_begins_before_the_event_of_the_one_before_is_taken():
    calls = []
    table = HashTable(512, seed=4)

    def model(ids):
        calls.append(None)
        return table(ids)

    async def slow():
        counts = []
        async for _ in begun(model):
            await asyncio.sleep(0.02)
            counts.append(len(calls))
        return counts

    assert asyncio.run(slow()) == [1, 2, 3]


@pytest.mark.parametrize("leave", ["break", "raise", "cancel in a step", "cancel between steps", "timeout", "never"])
def test_an_awaited_run_is_left(leave):
    model = Plain().train()
    inside = threading.Event()
    model.register_forward_pre_hook(lambda *_: inside.set())
    pause = threading.Event()
    if leave in ("cancel in a step", "timeout"):
        model.register_forward_pre_hook(lambda *_: pause.wait(0.2) and None)
    runs = []

    async def work():
        run = begun(model)
        runs.append(run)
        async for _ in run:
            if leave == "break":
                break
            if leave == "raise":
                raise KeyError("on purpose")
            if leave == "cancel between steps":
                await asyncio.sleep(60)

    async def main():
        task = asyncio.create_task(work())
        if leave == "never":
            await asyncio.sleep(0)
        elif leave == "timeout":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(task, 0.05)
            return
        else:
            await asyncio.to_thread(inside.wait, 60)
            await asyncio.sleep(0.02)
        if "cancel" in leave or leave == "never":
            task.cancel()
        with contextlib.suppress(KeyError, asyncio.CancelledError):
            await task
        # At once: the task has waited for the step that it was in.
        assert model.training

    around = {**process(), "torch": None}
    asyncio.run(main())
    assert {**process(), "torch": None} == around
    assert_free()
    assert all(module.training for module in model.modules())
    assert {reason for run in runs for reason in run.result().finish_reasons} <= {"cancelled"}
    model._forward_pre_hooks.clear()


def ours():
    """How many objects of our classes there are, of each."""
    while gc.collect():  # a finalizer that ran may leave its object for the next time
        pass
    kinds = (type(found) for found in gc.get_objects())
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith("dllm_fast"))


def test_abandoned_runs_leave_nothing():
    """Never begun, after a step, in a cycle, in a loop: memory, objects, hooks and threads are as before."""
    model = Plain().train()

    def abandon(i):
        run = begun(model)
        if i % 4 == 1:
            next(run)
        elif i % 4 == 2:
            next(run)
            run.me = run
        elif i % 4 == 3:
            next(iter(run))

    tracemalloc.start()
    for i in range(40):
        abandon(i)
    objects = ours()
    before, around = state(model), process()
    start = tracemalloc.get_traced_memory()[0]
    for i in range(ABANDONED):
        abandon(i)
    now = ours()
    grown = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    assert now == objects
    assert grown < 250_000  # of any number of runs; one that stays is some 3,000
    assert (state(model), process()) == (before, around)
    assert not hold._THINGS


def test_a_child_of_fork_is_told_whose_run_it_is():
    ended = limited.run(
        textwrap.dedent(
            """
        import os, warnings
        import dllm_fast
        from tests.toys import HashTable
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        run = dllm_fast.stream(HashTable(16, seed=1), [1], mask_token_id=15, max_new_tokens=4)
        next(run)
        child = os.fork()
        if not child:
            told = []
            for call in (run.step, run.result, run.cancel, lambda: run.cancel(0), lambda: next(run), lambda: list(run)):
                try:
                    call()
                except dllm_fast.DllmFastError as error:
                    told.append("a run belongs to the process that began it" in str(error))
            with run:
                pass
            del run
            os._exit(0 if told == [True] * 6 else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), run.result().finish_reasons)
        """
        )
    )
    assert (ended.output, ended.errors, ended.code) == ("0 ['length']\n", "", 0)
