"""The CUDA kernels: their sources in the package, compiled by NVRTC to cubins, kept, and loaded and launched through CuPy.

Compiling needs neither a GPU nor a driver, so `dllm-fast kernels compile` also fills the cache on a machine without one.
CuPy's own compiler cannot target sm_90a or sm_100a; it loads what is compiled here.
"""

from dllm_fast.kernels.build import (
    ARCHITECTURES,
    SHIPPED_ARCHITECTURES,
    Done,
    Job,
    check_architecture,
    compile_all,
    compile_kernels,
    compile_missing,
)
from dllm_fast.kernels.cubins import Compiled, Usage, cache_folder, cached, find, shipped
from dllm_fast.kernels.device import architecture, cupy_version, problem
from dllm_fast.kernels.files import sources
from dllm_fast.kernels.launch import load, prepare, run

__all__ = [
    "ARCHITECTURES",
    "SHIPPED_ARCHITECTURES",
    "Compiled",
    "Done",
    "Job",
    "Usage",
    "architecture",
    "cache_folder",
    "cached",
    "check_architecture",
    "compile_all",
    "compile_kernels",
    "compile_missing",
    "cupy_version",
    "find",
    "load",
    "prepare",
    "problem",
    "run",
    "shipped",
    "sources",
]
