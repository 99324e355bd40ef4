"""Ctrl-C at any point of a run: no lock is held afterwards, nothing is left installed, and the next run is right.

A signal is heard where the interpreter looks for one: where a Python function begins, and behind a call of a C function. A
profiler comes by at just these places, so it raises KeyboardInterrupt at the k-th of them within our package and contextlib,
for k all over the run. Then real alarms come at many times after its beginning. `ATTACK_INTERRUPTS=3000` takes so many places.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

import pytest
import torch
from test_threads import MODELS, SDPA, Plain, process, state
from torch import nn
from torch.nn import functional as F  # noqa: N812

import dllm_fast
from dllm_fast.modules import hold, keep
from native_models import MASK, model_of

POINTS = int(os.environ.get("ATTACK_INTERRUPTS", "25"))
OURS = os.path.dirname(dllm_fast.__file__) + os.sep
THEIRS = (
    contextlib.__file__,
    torch.autograd.grad_mode.__file__,
    torch.utils._contextlib.__file__,
    torch.utils._device.__file__,
)
PROMPT = [7, 8, 9]


@pytest.fixture(autouse=True)
def passed_over(monkeypatch):
    """An interrupt in a `__del__`, in a callback of a weak reference, or while a generator goes is passed over by Python."""
    before = sys.unraisablehook

    def hook(found):
        if not issubclass(found.exc_type, KeyboardInterrupt):
            before(found)

    monkeypatch.setattr(sys, "unraisablehook", hook)


class Interrupt:
    """Raises KeyboardInterrupt at the k-th place where a signal could be heard; counts the places for k = None."""

    def __init__(self, place):
        self.place, self.seen, self.where = place, 0, None

    def __call__(self, frame, event, argument):
        # Behind a C function the frame is that of who called it.
        if event not in ("call", "c_return"):
            return
        name = frame.f_code.co_filename
        if not (name.startswith(OURS) or name in THEIRS):
            return
        self.seen += 1
        if self.seen - 1 == self.place:
            sys.setprofile(None)
            self.where = f"{os.path.basename(name)}:{frame.f_lineno} {event} {getattr(argument, '__name__', '')}"
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def on(self):
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)


def places(work):
    """How many there are in some work, and k for some of them, evenly."""
    counter = Interrupt(None)
    with counter.on():
        work()
    step = max(counter.seen // POINTS, 1)
    return range(0, counter.seen, step)


def assert_free():
    """Other threads can take every lock of ours, and nothing is installed."""
    taken = []

    def take():
        for lock in (hold.LOCK, keep.ALONE):
            with lock.held():
                taken.append(True)

    # It would wait for ever.
    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(30)
    assert taken == [True, True]
    assert not hold._THINGS
    assert not keep._RUNNING
    assert F.scaled_dot_product_attention is SDPA
    assert not torch.is_inference_mode_enabled()
    assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()


def assert_as_it_was(work, model):
    """Interrupted at any place, some work leaves the model, the process and every lock as they were."""
    before, around = state(model), process()
    kept = []
    for place in places(work):
        interrupt = Interrupt(place)
        try:
            with interrupt.on():
                work()
        except KeyboardInterrupt as error:
            # With its frames, as an interactive session keeps the last one.
            kept[:] = [error]
        assert_free()
        assert state(model) == before, interrupt.where
        assert process() == around, interrupt.where


def run(model):
    return dllm_fast.sample(model, PROMPT, max_new_tokens=3, mask_token_id=MASK).sequences[0].tolist()


@pytest.mark.parametrize("name", MODELS)
def test_a_run_is_interrupted_at_any_place(name):
    model = MODELS[name]().train()
    expected = run(model)
    assert_as_it_was(lambda: run(model), model)
    assert run(model) == expected


@pytest.mark.parametrize("name", ["native", "function", "headed"])
def test_a_probe_is_interrupted_at_any_place(name):
    """Every time of a model of which nothing is known yet."""
    from dllm_fast.transformers import probe

    model = MODELS[name]().train()
    expected = run(model)

    def explain():
        probe._STUDIES.pop(model, None)
        return dllm_fast.explain(model)

    assert_as_it_was(explain, model)
    assert run(model) == expected


# Between the opening of a file and its `with`, only the last reference closes it, and says so; that it is closed is counted.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_loading_is_interrupted_at_any_place(tmp_path):
    model_of("Qwen3").save_pretrained(tmp_path)
    expected = run(dllm_fast.load(tmp_path, attention="full"))
    around = process()
    files = len(os.listdir("/proc/self/fd"))

    def load():
        return dllm_fast.load(tmp_path, attention="full")

    for place in places(load):
        interrupt = Interrupt(place)
        with contextlib.suppress(KeyboardInterrupt), interrupt.on():
            load()
        assert_free()
        assert process() == around, interrupt.where
    assert len(os.listdir("/proc/self/fd")) <= files + 1
    assert run(load()) == expected


def test_infilling_after_an_interrupt_in_the_step_of_another():
    """The interrupt of a run inside of a run ends both, and the outer one is as if it had not been."""
    model = model_of("Qwen3").train()
    expected = run(model)
    before = state(model)

    def inner(event):
        interrupt = Interrupt(40)
        with interrupt.on():
            run(model)

    with pytest.raises(KeyboardInterrupt):
        dllm_fast.sample(model, PROMPT, max_new_tokens=3, on_step=inner)
    assert_free()
    assert state(model) == before
    assert run(model) == expected


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="alarms of less than a second are of Unix")
@pytest.mark.parametrize("name", ["native", "function", "plain"])
def test_an_alarm_comes_at_any_time(name):
    """Real signals, at times all over the first milliseconds of a run; each leaves all as it was."""
    model = MODELS[name]().train()
    expected = run(model)
    before = state(model)

    def raise_it(*_):
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, raise_it)
    heard = 0
    try:
        for place in range(2 * POINTS):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + place * 0.02 / (2 * POINTS))
                run(model)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                heard += 1
            assert_free()
            assert state(model) == before
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert heard
    assert run(model) == expected


def test_an_interrupt_in_one_thread_leaves_the_runs_of_others():
    """One run is interrupted while another one of the same model, in training mode, is in the middle of its steps."""
    model = Plain().train()
    expected = run(model)
    found, begun, ended = [], threading.Event(), threading.Event()

    def wait(event):
        begun.set()
        assert ended.wait(60)

    thread = threading.Thread(
        target=lambda: found.append(
            dllm_fast.sample(model, PROMPT, max_new_tokens=3, mask_token_id=MASK, on_step=wait).sequences[0].tolist()
        )
    )
    thread.start()
    assert begun.wait(60)
    for place in range(0, 400, 10):
        with contextlib.suppress(KeyboardInterrupt), Interrupt(place).on():
            run(model)
        assert not any(module.training for module in model.modules())
    ended.set()
    thread.join(60)
    assert found == [expected]
    assert all(module.training for module in model.modules())
    assert isinstance(model, nn.Module)
    assert_free()
