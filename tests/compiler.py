"""NVRTC for tests, and what stands for its answers."""

from __future__ import annotations

import functools

import pytest

from bench import sass
from dllm_fast import kernels
from dllm_fast.errors import KernelError
from dllm_fast.kernels.nvrtc import Nvrtc, nvrtc

#: What ptxas says of two kernels.
LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'dllm_one_bf16' for 'sm_90a'
ptxas info    : Function properties for dllm_one_bf16
    32 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 104 registers, used 1 barriers, 26136 bytes smem
ptxas info    : Compile time = 1.000 ms
ptxas info    : Compiling entry function 'dllm_two_f32' for 'sm_90a'
ptxas info    : Function properties for dllm_two_f32
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 37 registers, used 0 barriers
"""


def nvrtc_or_skip() -> Nvrtc:
    """The compiler, where there is one."""
    try:
        return nvrtc()
    except KernelError as error:
        pytest.skip(str(error))


@functools.cache
def disassembled(unit: str, arch: str) -> tuple[sass.Kernel, ...]:
    """The kernels of a unit, as the disassembler says; several tests look at them, each for another thing."""
    return tuple(sass.disassemble(kernels.compile_kernels(unit, arch).path))
