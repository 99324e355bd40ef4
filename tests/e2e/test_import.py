"""Importing is quick and light."""

import subprocess
import sys

IMPORTED = "import sys, time; began = time.process_time(); import dllm_fast; print(time.process_time() - began)"


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_takes_under_150_ms() -> None:
    # Processor time, and the best of several: the machine is shared.
    assert min(float(run(IMPORTED)) for _ in range(7)) < 0.150


def test_import_pulls_in_neither_torch_nor_cupy() -> None:
    code = (
        "import sys, dllm_fast; dllm_fast.presets(); print([m for m in ('torch', 'cupy', 'transformers') if m in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_help_takes_under_300_ms() -> None:
    # The same.
    code = (
        "import os, subprocess, sys;"
        "subprocess.run([sys.executable, '-m', 'dllm_fast.cli', '--help'], check=True, stdout=subprocess.DEVNULL);"
        "print(os.times().children_user + os.times().children_system)"
    )
    assert min(float(run(code)) for _ in range(7)) < 0.300


def test_every_public_name_is_there() -> None:
    import dllm_fast

    assert set(dllm_fast.__all__) <= set(dir(dllm_fast))
    for name in dllm_fast.__all__:
        assert getattr(dllm_fast, name) is not None
    # The order of use must not matter: a submodule must never hide a function of the same name.
    dllm_fast.sample(lambda ids: __import__("torch").zeros(*ids.shape, 5), [1], mask_token_id=4, max_new_tokens=1)
    assert callable(dllm_fast.presets)
    assert callable(dllm_fast.schedule)
