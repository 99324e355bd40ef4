"""Runs emulated kernels under AddressSanitizer, in a process of their own: an error ends it with a report.

As a program: `python -m emulator.sanitizer NAME` runs one of the cases below; `run_sanitized` starts it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from . import build

_SAMPLES = Path(__file__).parent / "planted" / "samples.cu"

SOURCES = {
    "outside_of_global_memory": (_SAMPLES,),
    "outside_of_shared_memory": (_SAMPLES,),
    "mask_predict": (build.KERNELS / "mask_predict.cu", build.KERNELS / "mask_filter.cu"),
    "layer": tuple(build.KERNELS / f"{name}.cu" for name in ("attention", "commit", "fused", "quantise")),
}


def _library(source: Path) -> Path:
    return build.library(source, options=build.SANITIZED)


def run_sanitized(case: str) -> subprocess.CompletedProcess[str]:
    """Runs a case; status 0 and `done` if the sanitizer has nothing to say."""
    for source in SOURCES[case]:  # here, so that the compiler itself is not watched
        _library(source)
    find = ["g++", "-print-file-name=libasan.so"]
    runtime = subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "PYTHONPATH": os.pathsep.join(str(build.ROOT / folder) for folder in ("python", "tests")),
    }
    command = [sys.executable, "-m", "emulator.sanitizer", case]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


def _out_of_bounds(where: int) -> None:
    from dllm_fast.kernels.launches import Launch

    from .launch import run

    given, out = np.zeros(1024, dtype=np.int32), np.zeros(1024, dtype=np.int32)
    arguments = (
        ctypes.c_void_p(given.ctypes.data),
        ctypes.c_void_p(out.ctypes.data),
        ctypes.c_int32(len(given)),
        ctypes.c_int32(where),
    )
    run(Launch("samples", "planted_out_of_bounds", (1, 1, 1), (32, 1, 1), arguments), library=_library(_SAMPLES))


def _mask_predict() -> None:
    """Rows that end just where their memory ends, of awkward lengths and at awkward addresses."""
    from .mask_predict import mask_predict

    rng = np.random.default_rng(0)
    for dtype in (np.uint16, np.float16, np.float32):
        for vocabulary in (1, 7, 4095, 4097, 9001):
            rows = rng.normal(0, 3, (2, vocabulary)).astype(np.float32)
            logits = (rows.view(np.uint32) >> 16).astype(np.uint16) if dtype is np.uint16 else rows.astype(dtype)
            for settings in ({}, {"temperature": 0.7}, {"temperature": 1.0, "top_k": 3, "top_p": 0.9, "min_p": 0.01}):
                suppress = [vocabulary - 1] if vocabulary > 1 else []
                prediction = mask_predict(logits, current=[0, 0], suppress=suppress, library=_library, **settings)
                assert (prediction.status == 0).all()


def _layer() -> None:
    _attention()
    _tests_of_a_layer()


def _attention() -> None:
    """Tensors that end where the last row ends: a read of one key, query or number too many is a read outside."""
    import torch

    from .attention import attention

    library = _library(build.KERNELS / "attention.cu")
    rng = np.random.default_rng(0)
    sizes = ((64, 1, 5, 65), (80, 1, 3, 33), (96, 2, 3, 65), (128, 2, 5, 140), (192, 1, 3, 33), (256, 1, 3, 33))
    for (depth, heads, queries, keys), dtype in zip(sizes, (torch.bfloat16, torch.float16) * 3, strict=True):
        shapes = ((1, heads, queries, depth), (1, 1, keys, depth), (1, 1, keys, depth))
        q, k, v = (torch.from_numpy(rng.normal(size=shape)).to(dtype) for shape in shapes)
        begin = rng.integers(0, keys, (1, queries))
        end = np.full((1, queries), keys)
        assert not attention(q, k, v, begin, end, scale=0.1, library=library).isnan().any()


def _tests_of_a_layer() -> None:
    """The commit and the elementwise kernels through their own tests."""
    from hypothesis import settings

    settings.register_profile("sanitized", max_examples=5, deadline=None, derandomize=True, database=None)
    settings.load_profile("sanitized")
    from . import test_commit, test_fused, test_quantise

    build.library.__kwdefaults__["options"] = build.SANITIZED
    for module in (test_commit, test_fused, test_quantise):
        for name, test in sorted(vars(module).items()):
            if name.startswith("test_") and hasattr(test, "hypothesis"):
                test()


CASES = {
    "outside_of_global_memory": functools.partial(_out_of_bounds, 1),
    "outside_of_shared_memory": functools.partial(_out_of_bounds, 2),
    "mask_predict": _mask_predict,
    "layer": _layer,
}

if __name__ == "__main__":
    CASES[sys.argv[1]]()
    print("done")
