"""Settings of a `config.json`, which somebody else wrote: each is of the kind that it must be, or an error that names it.

Of another file, errors name that one (`file`). A setting that is null counts as missing, as transformers writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dllm_fast.errors import CheckpointError, shown

# No size of a model comes near the first, and float32 holds nothing beyond the others.
LARGEST_SIZE = 2**40
_SMALLEST, _LARGEST = 1e-37, 3e38


def whole(
    config: Mapping[str, Any], name: str, default: int | None = None, *, least: int = 1, file: str = "config.json"
) -> int:
    """A size.

    Raises:
        CheckpointError: missing without a default, or no whole number, or too small.
    """
    value = config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise CheckpointError(
            f"{name} in {file} must be a whole number above {least - 1}, got {shown(value)}; this folder is incomplete"
        )
    if value > LARGEST_SIZE:
        raise CheckpointError(f"{name} in {file} must be a size, got {shown(value)}; fetch the file again")
    return value


def context(config: Mapping[str, Any], name: str) -> int | None:
    """The longest canvas; None where it is not said.

    Raises:
        CheckpointError: no whole number above 0.
    """
    return None if config.get(name) is None else whole(config, name)


def positive(config: Mapping[str, Any], name: str, default: float, *, file: str = "config.json") -> float:
    """A number above 0.

    Raises:
        CheckpointError: it is something else.
    """
    value = config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not _SMALLEST <= value <= _LARGEST:
        raise CheckpointError(f"{name} in {file} must be a number above 0, got {shown(value)}; fetch the file again")
    return float(value)


def flag(config: Mapping[str, Any], name: str, default: bool = False, *, file: str = "config.json") -> bool:
    """Yes or no.

    Raises:
        CheckpointError: neither true nor false.
    """
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or value not in (0, 1):
        raise CheckpointError(f"{name} in {file} must be true or false, got {shown(value)}; fetch the file again")
    return bool(value)


def mapping(config: Mapping[str, Any], name: str, *, file: str = "config.json") -> Mapping[str, Any]:
    """An object, empty where it is missing.

    Raises:
        CheckpointError: it is something else.
    """
    value = config.get(name)
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{name} in {file} must be an object, got {shown(value)}; fetch the file again")
    return value
