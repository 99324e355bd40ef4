"""Where this checkout's packages are imported from, in this process and in those that it starts. Needs no torch.

A program that is started by its path has its own folder first on the path, where names such as `kernels` hide others', and
a checkout need not be installed. Children get absolute paths, so that neither an emptied PYTHONPATH nor another working
folder keeps them from finding the same packages.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def settle(script: str) -> None:
    """Makes `bench`, `tests` and `dllm_fast` importable in a program that was started by its path."""
    here = Path(script).resolve().parent
    sys.path[:] = [str(ROOT), *(place for place in sys.path if Path(place or ".").resolve() not in (here, ROOT))]
    if importlib.util.find_spec("dllm_fast") is None:
        sys.path.insert(1, str(ROOT / "python"))  # a checkout that is not installed


def environment() -> dict[str, str]:
    """The environment of a child that finds the packages that this process finds."""
    spec = importlib.util.find_spec("dllm_fast")
    assert spec is not None
    assert spec.origin is not None
    ours = [str(ROOT), str(Path(spec.origin).resolve().parents[1])]
    given = [str(Path(place).resolve()) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    return os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys([*ours, *given])), "PYTHONUNBUFFERED": "1"}
