"""What is built but off until a GPU has shown it faster: asked for by name in the environment variable DLLM_FAST_TRY.

No switch changes a result. `DLLM_FAST_TRY=pdl,while` turns two of them on.
"""

from __future__ import annotations

import os
from functools import cache

from dllm_fast.errors import InvalidValueError

VARIABLE = "DLLM_FAST_TRY"
#: What each switch turns on.
SWITCHES = {
    "pdl": "programmatic dependent launch: a kernel is set up while the one before it ends (compute capability 9.0 or newer)",
    "while": "the steps of a block as one loop on the device (CUDA 12.4 or newer)",
}


def is_on(name: str) -> bool:
    """Is a switch on?

    Args:
        name: one of `SWITCHES`.

    Raises:
        InvalidValueError: the variable names a switch that there is not.
    """
    assert name in SWITCHES, name
    return name in _named(os.environ.get(VARIABLE, ""))


def check() -> None:
    """Refuses names of switches that there are not, wherever one will be asked for.

    Raises:
        InvalidValueError: as `is_on`.
    """
    _named(os.environ.get(VARIABLE, ""))


@cache
def _named(text: str) -> frozenset[str]:
    names = frozenset(part.strip() for part in text.split(",") if part.strip())
    if unknown := sorted(names - SWITCHES.keys()):
        raise InvalidValueError(f"{VARIABLE} must name some of {', '.join(SWITCHES)}, got {unknown[0]!r}; correct or unset it")
    return names
