"""JSON written by others: an object of sane size, or an error that names the file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dllm_fast.errors import CheckpointError, shown

if TYPE_CHECKING:
    from pathlib import Path

# Far above any real configuration or header; safetensors has the same bound for headers.
LARGEST = 100_000_000


def read_json(path: Path, *, unique: bool = False) -> dict[str, Any]:
    """The object in a file.

    Args:
        unique: refuse a name that an object gives twice.

    Raises:
        CheckpointError: missing, too large, no JSON, or no object.
    """
    try:
        if not path.is_file():  # a pipe or a device would be read for ever
            raise CheckpointError(f"{path} is missing or no file; fetch the checkpoint again")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}; check its permissions") from error
    if len(data) > LARGEST:
        raise CheckpointError(f"{path} must not be larger than {LARGEST:,} bytes; it is no configuration, do not use it")
    return parse(data, str(path), unique=unique)


def optional_json(path: Path) -> dict[str, Any]:
    """As `read_json`, but {} where there is no file."""
    return read_json(path) if present(path) else {}


def present(path: Path) -> bool:
    """Is there anything of this name? A link that leads nowhere counts: it is a broken checkpoint, not one without the file."""
    return path.exists() or path.is_symlink()


def parse(data: bytes, name: str, *, unique: bool = False) -> dict[str, Any]:
    """The object in some bytes; `name` says in errors where they come from."""
    try:
        value = json.loads(data.decode(), parse_constant=_constant, object_pairs_hook=_unique if unique else None)
    except RecursionError as error:
        raise CheckpointError(f"{name} is nested too deeply to be read; do not use this file") from error
    except ValueError as error:  # no UTF-8, no JSON, or a number of thousands of digits
        raise CheckpointError(f"{name} must be JSON: {error}; fetch the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} must hold an object, got {shown(value)}; fetch the file again")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"an object names {shown(name)} twice")
        found[name] = value
    return found
