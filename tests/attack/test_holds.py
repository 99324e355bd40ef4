"""A hold that lasts longer than the call that makes it, as a run's does: who gives it back, and when."""

from __future__ import annotations

import threading

import pytest
import torch

from dllm_fast.modules import hold, keep
from dllm_fast.modules.hold import Hold, Settled
from dllm_fast.modules.keep import evaluate, stepping


@pytest.fixture
def model():
    return torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2)).train()


def changed(model) -> list[bool]:
    return [not module.training for module in model.modules()]


def test_a_lasting_hold_outlives_the_call_that_made_it(model):
    lasting = Hold(lasting=True)
    with Settled(lasting), Settled(lasting):
        evaluate(lasting, model)
    assert all(changed(model))
    with Settled(), Settled():  # of somebody else, who is told nothing of it
        pass
    assert all(changed(model))
    lasting.give_back()
    lasting.give_back()
    assert not any(changed(model))
    assert not hold._THINGS
    assert not keep._RUNNING


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, StopIteration, GeneratorExit])
def test_whatever_is_raised_gives_it_back(model, error):
    lasting = Hold(lasting=True)

    def broken():
        with Settled(lasting), Settled(lasting):
            evaluate(lasting, model)
            raise error

    with pytest.raises(error):
        broken()
    assert not any(changed(model))
    assert not hold._THINGS


def test_it_is_given_back_in_another_thread(model):
    lasting = Hold(lasting=True)
    with Settled(lasting), Settled(lasting):
        evaluate(lasting, model)
    thread = threading.Thread(target=lasting.give_back)
    thread.start()
    thread.join()
    assert not any(changed(model))
    assert not hold._THINGS


def test_two_runs_of_a_model_hold_it_together(model):
    first, second = Hold(lasting=True), Hold(lasting=True)
    evaluate(first, model)
    evaluate(second, model)
    first.give_back()
    assert all(changed(model))
    second.give_back()
    assert not any(changed(model))


def test_no_gradients_are_a_step_long_and_its_thread_alone(model):
    seen = []
    with stepping():
        assert torch.is_inference_mode_enabled()
        thread = threading.Thread(target=lambda: seen.append(torch.is_inference_mode_enabled()))
        thread.start()
        thread.join()
        with stepping():
            assert torch.is_inference_mode_enabled()
        assert torch.is_inference_mode_enabled()
        with stepping(lambda taken: evaluate(taken, model)):
            assert all(changed(model))
        assert not any(changed(model))
        assert torch.is_inference_mode_enabled()
    assert seen == [False]
    assert not torch.is_inference_mode_enabled()
