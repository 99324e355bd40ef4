"""The operations of `dllm_fast.ops` on tensors of the host: their own code, with the emulator in place of CuPy and the GPU."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from dllm_fast.ops import launcher

from .launch import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch

    from dllm_fast.kernels.launches import Launch


@contextlib.contextmanager
def emulated(names: list[str] | None = None) -> Iterator[list[str]]:
    """Inside, kernels (of the files named) can be used on the CPU. Gives the list of the kernels launched so far."""
    launched: list[str] = []

    def run_emulated(launches: Iterable[Launch], device: torch.device) -> None:
        assert device.type == "cpu"
        for one in launches:
            launched.append(one.kernel)
            run(one)

    def usable(_device: torch.device, *sources: str) -> bool:
        return names is None or all(source.partition(".")[0] in names for source in sources)

    before = launcher.usable, launcher.run
    launcher.usable, launcher.run = usable, run_emulated
    try:
        yield launched
    finally:
        launcher.usable, launcher.run = before
