"""Where this checkout's packages are imported from, in this process and in those that it starts. Needs no torch.

A program that is started by its path has its own folder first on the path, where names such as `kernels` hide others', and
a checkout need not be installed. Children get absolute paths, so that neither an emptied PYTHONPATH nor another working
folder keeps them from finding the same packages.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Beside the cubins: the commit that was prepared. A copy of a checkout may have another history, or none.
PREPARED = "commit"


def settle(script: str) -> None:
    """Makes `bench`, `tests` and `dllm_fast` importable in a program that was started by its path."""
    here = Path(script).resolve().parent
    sys.path[:] = [str(ROOT), *(place for place in sys.path if Path(place or ".").resolve() not in (here, ROOT))]
    if importlib.util.find_spec("dllm_fast") is None:
        sys.path.insert(1, str(ROOT / "python"))  # a checkout that is not installed


def commit() -> tuple[str | None, bool]:
    """The commit of this checkout and whether files differ from it: as `prepare.py` has noted it, else as git says."""
    noted = Path(os.environ.get("XDG_CACHE_HOME", "")) / PREPARED
    if os.environ.get("XDG_CACHE_HOME") and noted.is_file():
        name, _, changed = noted.read_text("utf-8").strip().partition(" ")
        return name, bool(changed)
    return _git("rev-parse", "HEAD") or None, bool(_git("status", "--porcelain", "--untracked-files=no"))


def _git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # a machine without git
        return ""


def environment() -> dict[str, str]:
    """The environment of a child that finds the packages that this process finds."""
    spec = importlib.util.find_spec("dllm_fast")
    assert spec is not None
    assert spec.origin is not None
    ours = [str(ROOT), str(Path(spec.origin).resolve().parents[1])]
    given = [str(Path(place).resolve()) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    return os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys([*ours, *given])), "PYTHONUNBUFFERED": "1"}
