"""Tensors that threads and streams share are there before anybody can read them. Streams are stubs: copies that are queued are
done when somebody waits."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from dllm_fast.ops import mask_predict, shared
from dllm_fast.ops.shared import Shared, keeping

CPU = torch.device("cpu")


class Device:
    """Copies that are queued by a thread, and done when that thread waits for its stream."""

    def __init__(self):
        self.queued: dict[int, list] = {}
        self.finished = 0
        self.readers: list[torch.Tensor] = []

    def copy(self, values):
        """A tensor that holds its values once the copy is done."""
        target = torch.full_like(values, -1)
        self.queued.setdefault(threading.get_ident(), []).append(lambda: target.copy_(values))
        return target

    def finish(self, device):
        del device
        time.sleep(0.02)  # long enough for the other thread to come by
        self.finished += 1
        for work in self.queued.pop(threading.get_ident(), []):
            work()


@pytest.fixture
def device(monkeypatch):
    stub = Device()
    monkeypatch.setattr(shared, "finish", stub.finish)
    monkeypatch.setattr(shared, "note_reader", stub.readers.append)
    return stub


def test_another_thread_reads_only_what_has_been_copied(device):
    tensors = Shared(most=4)
    read = []

    def take():
        read.append(tensors.get("bits", CPU, lambda: device.copy(torch.arange(3))).tolist())

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [[0, 1, 2]] * 6
    assert device.finished == 1, "it is made and waited for once"


def test_suppressed_ids_are_copied_before_another_thread_has_them(device, monkeypatch):
    monkeypatch.setattr(mask_predict, "_SUPPRESSED", Shared(most=4))
    monkeypatch.setattr(mask_predict.launcher, "to_device", lambda values, _: device.copy(values))
    assert mask_predict.suppressed_bits((0, 9), 16, CPU).tolist() == [1, 2]


def test_a_longer_one_takes_the_place_of_a_shorter_one(device):
    tensors = Shared(most=4)
    rows = [len(tensors.get("a", CPU, lambda n=n: torch.arange(n), least=n)) for n in (4, 8, 3)]
    assert rows == [4, 8, 8]
    assert device.finished == 2


def test_readers_are_told_to_the_allocator_or_keep_it_themselves(device):
    tensors = Shared(most=1)
    kept = {}
    with keeping(kept):
        first = tensors.get("a", CPU, lambda: torch.zeros(2))
        assert tensors.get("a", CPU, lambda: torch.zeros(2)) is first
        with keeping(inner := {}):
            tensors.get("a", CPU, lambda: torch.zeros(2))
    assert len(kept) == 1
    assert next(iter(kept.values())) is next(iter(inner.values())) is first
    assert not device.readers
    tensors.get("b", CPU, lambda: torch.zeros(3))
    assert len(device.readers) == 1
    assert tensors.get("a", CPU, lambda: torch.zeros(2)) is not first, "the one used longest ago has gone"


def test_what_may_be_captured_makes_nothing_the_second_time(device):
    """A capture follows the step that made everything, and another thread may have come between: waiting would break it."""
    tensors = Shared(most=1)
    kept = {}
    with keeping(kept):
        first = tensors.get("a", CPU, lambda: torch.zeros(2), least=2)
    tensors.get("a", CPU, lambda: torch.zeros(4), least=4)
    tensors.get("b", CPU, lambda: torch.zeros(3))
    waited = device.finished
    with keeping(kept):
        assert tensors.get("a", CPU, lambda: torch.zeros(2), least=2) is first
        assert device.finished == waited
        assert len(tensors.get("a", CPU, lambda: torch.zeros(8), least=8)) == 8, "more than it holds"


def test_one_that_cannot_be_made_leaves_the_others():
    tensors = Shared(most=2)

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        tensors.get("a", CPU, fail)
    assert tensors.get("a", CPU, lambda: torch.zeros(1)).tolist() == [0.0]


def test_a_handler_that_runs_while_one_is_made_gets_one_too(device):
    tensors, read = Shared(most=4), []

    def make(again: bool):
        if again:  # as a signal handler would, in the same thread
            read.append(tensors.get("bits", CPU, lambda: make(again=False)).tolist())
            assert shared.is_making(), "the outer one goes on"
        return device.copy(torch.arange(3))

    thread = threading.Thread(
        target=lambda: read.append(tensors.get("bits", CPU, lambda: make(again=True)).tolist()), daemon=True
    )
    thread.start()
    thread.join(20)
    assert read == [[0, 1, 2]] * 2
    assert len(tensors._made) == 1
