"""A kernel that does nothing: what remains is the launch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from bench.on_gpu.stage import Stage
from dllm_fast import kernels
from dllm_fast.kernels.nvrtc import nvrtc

_SOURCE = b'extern "C" __global__ void empty() {}'


class _Stream:
    """All that CuPy asks of a stream."""

    def __init__(self) -> None:
        self.ptr = torch.cuda.current_stream().cuda_stream


def launch(stage: Stage) -> Callable[[], None]:
    """Launches it on the current stream; in a rehearsal, nothing."""
    if stage.dry:
        return lambda: None
    import cupy

    arch = kernels.architecture(torch.cuda.get_device_capability())
    cubin, _ = nvrtc().compile("empty", _SOURCE, {}, (f"-arch={arch}",))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.cubin"
        path.write_bytes(cubin)
        module = cupy.RawModule(path=str(path))
        module.compile()
    function = module.get_function("empty")

    def run() -> None:
        function((1, 1, 1), (32, 1, 1), (), stream=_Stream())

    return run
