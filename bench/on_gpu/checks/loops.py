"""Steps as turns of a loop on the device: its two kernels, as the body of a WHILE node that they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.on_gpu.stage import Json, Stage
from dllm_fast.kernels import launches
from dllm_fast.ops import launcher
from dllm_fast.runners.capture import CudaCapture

_MASK, _WORDS, _TURNS = 9, 300, 4


class Replayed:
    """In place of a capture in a rehearsal: the same work, launch by launch."""

    def __call__(self, body: Callable[[], None]) -> Callable[[], None]:
        body()
        return body

    def loop(self, body: Callable[[int], None]) -> Callable[[], None]:
        """In the emulator a handle is the address of the value."""
        condition = np.ones(1, dtype=np.uint32)

        def turns() -> None:
            condition[0] = 1
            while condition[0]:
                body(condition.ctypes.data)

        return turns


def loop(stage: Stage) -> Json:
    """A body that commits nothing: the loop ends after the turns that were asked for, and what each gave is kept."""
    tensors, queue = _step(stage)
    capture: Any = Replayed() if stage.dry else CudaCapture(stage.device)
    with launcher.counted() as counter:
        capture(lambda: launcher.launch(queue(0)[:1], stage.device))  # what a step does, without its last kernel
        turns = capture.loop(lambda handle: launcher.launch(queue(handle), stage.device))
        for _ in range(2):
            tensors["state"].copy_(torch.tensor([0, _TURNS], dtype=torch.int32))
            tensors["log"].fill_(7)
            turns()
            stage.synchronize()
            assert tensors["state"].tolist() == [_TURNS, _TURNS], f"made {tensors['state'].tolist()} turns"
            kept = tensors["log"].view(-1, _WORDS).cpu()
            assert torch.equal(kept[:_TURNS], tensors["outcome"].cpu().expand(_TURNS, -1)), "other outcomes are kept"
            assert (kept[_TURNS:] == 7).all(), "written behind the last turn"
    assert counter.keys() == {"dllm_loop_keep", "dllm_loop_next"}, counter
    return {"turns": _TURNS}


def keep(stage: Stage) -> None:
    """What can run outside of a loop: in a rehearsal all of it, on a device what sets no condition."""
    tensors, queue = _step(stage)
    condition = np.ones(1, dtype=np.uint32)
    launcher.launch(queue(condition.ctypes.data)[: 2 if stage.device.type == "cpu" else 1], stage.device)
    stage.synchronize()
    assert torch.equal(tensors["log"][:_WORDS], tensors["outcome"])


def _step(stage: Stage) -> tuple[dict[str, torch.Tensor], Callable[[int], tuple[launches.Launch, ...]]]:
    """Two rows, of which one has sites, two of them masks; the launches that end such a step."""
    int32: Json = {"dtype": torch.int32, "device": stage.device}
    int64: Json = {"dtype": torch.int64, "device": stage.device}
    tensors = {
        "site_start": torch.tensor([0, 3, 3], **int32),
        "cell": torch.arange(3, **int32),
        "cells": torch.tensor([1, _MASK, _MASK], **int64),
        "committed": torch.tensor([1, 0], **int32),
        "masks_left": torch.tensor([2, 0], **int32),
        "ends": torch.tensor([3], **int64),
        "state": torch.tensor([0, _TURNS], **int32),
        "outcome": torch.arange(_WORDS, **int64),
        "log": torch.full(((_TURNS + 1) * _WORDS,), 7, **int64),
    }
    buffers = launches.LoopBuffers(**{name: tensor.data_ptr() for name, tensor in tensors.items()})

    def queue(handle: int) -> tuple[launches.Launch, ...]:
        return launches.loop(buffers, handle=handle, words=_WORDS, rows=2, mask_id=_MASK, end_count=1, least=0)

    return tensors, queue
