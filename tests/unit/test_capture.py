"""What surrounds a capture: streams that nobody shares, and order after one that failed. CUDA is stubbed."""

from __future__ import annotations

import ctypes
import gc

import pytest
import torch

from dllm_fast.runners import capture
from dllm_fast.runners.capture import CudaCapture, clean_up, own_stream

DEVICE = torch.device("cuda", 0)


class Owner:
    pass


class Driver:
    """`cuStreamCreate`, which numbers its streams."""

    def __init__(self, result: int = 0):
        self.made, self.result = 0, result
        self.flags: list[int] = []

    def cuStreamCreate(self, handle, flags):  # noqa: N802, the driver's name
        self.made += 1
        self.flags.append(flags)
        ctypes.cast(handle, ctypes.POINTER(ctypes.c_void_p))[0] = 0x1000 * self.made
        return self.result


@pytest.fixture
def streams(monkeypatch):
    """Makes `own_stream` give the handle of a driver's stream."""
    monkeypatch.setattr(capture, "_FREE", {})
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle, device: (handle, device))
    monkeypatch.setattr(torch.cuda, "Stream", lambda priority: ("torch's", priority))

    def use(driver):
        class Library:
            cuStreamCreate = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)(driver.cuStreamCreate)  # noqa: N815

        monkeypatch.setattr(ctypes, "CDLL", lambda _: Library)
        return driver

    return use


def test_no_two_owners_have_the_same_stream_at_a_time(streams):
    driver = streams(Driver())
    owners = [Owner() for _ in range(40)]
    given = [own_stream(owner, DEVICE) for owner in owners]
    assert len(set(given)) == 40
    assert driver.flags == [1] * 40, "work on the default stream does not wait for it, and does not break a capture"
    last = given[-1]
    owners.pop()
    gc.collect()
    assert own_stream(owners[0], DEVICE) == last, "one whose owner is gone is used again"
    assert driver.made == 40


@pytest.mark.parametrize("driver", [Driver(result=201), None], ids=["refuses", "missing"])
def test_without_a_stream_of_the_driver_there_is_one_of_torch(streams, monkeypatch, driver):
    if driver is None:
        streams(Driver())

        def missing(_):
            raise OSError("libcuda.so.1: cannot open shared object file")

        monkeypatch.setattr(ctypes, "CDLL", missing)
    else:
        streams(driver)
    assert own_stream(Owner(), DEVICE) == ("torch's", -1)


class Generator:
    """Of random numbers, which refuses to draw as long as it thinks that a capture is under way."""

    def __init__(self, *, is_stuck: bool):
        self.is_stuck, self.offset, self.replaced = is_stuck, 8, 0

    def draw(self, _):
        if self.is_stuck:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        self.offset += 4

    def get_offset(self):
        return self.offset

    def set_offset(self, offset):
        self.offset = offset

    def clone_state(self):
        return "fresh"

    def graphsafe_set_state(self, state):
        assert state == "fresh"
        self.is_stuck = False
        self.replaced += 1


@pytest.mark.parametrize("is_stuck", [False, True])
def test_a_capture_that_fails_is_ended_and_draws_go_on(monkeypatch, is_stuck):
    ended, generator = [], Generator(is_stuck=is_stuck)
    monkeypatch.setattr(capture, "draw", generator.draw)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *given: ended.append(given), raising=False)
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))

    class Graph:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", Graph)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    made = CudaCapture(DEVICE)
    made._pool = (0, 7)

    def body():
        raise ValueError("a copy that waits")

    with pytest.raises(RuntimeError, match="previous error during capture") as failed:
        made._captured(body)
    assert isinstance(failed.value.__context__, ValueError), "the cause is in the traceback"
    assert ended == [(0, (0, 7))]
    assert generator.replaced == is_stuck, "whoever has a graph that draws keeps its state"
    assert (generator.is_stuck, generator.offset) == (False, 8)


def test_what_torch_has_already_ended_is_no_error(monkeypatch):
    def refuse(*_):
        raise RuntimeError("endAllocatePool: not currently recording to mempool_id")

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", refuse, raising=False)
    monkeypatch.setattr(torch.cuda, "default_generators", (object(),))
    clean_up(0, (0, 7))
