"""JSON written by others: an object of sane size, or an error that names the file."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from dllm_fast.checkpoint import regular
from dllm_fast.errors import CheckpointError, shown

if TYPE_CHECKING:
    from pathlib import Path


class Bounds(NamedTuple):
    """What a kind of file may be at most: far above what is published, and few enough to be held in memory.

    Attributes:
        bytes: its size.
        values: numbers, strings, objects and the like in it; each takes some 100 bytes in memory, though 2 in the file.
    """

    bytes: int
    values: int


# The names of 20,000 classes have 1 MB.
SETTINGS = Bounds(4_000_000, 200_000)
# An index of 140,000 tensors has 14 MB, the settings of a tokenizer with 6,000 added tokens 1 MB, a vocabulary of 260,000 7 MB.
LISTS = Bounds(32_000_000, 1_000_000)
# Of a file of weights; one entry has about ten values.
HEADER = Bounds(32_000_000, 3_000_000)
# Nothing that is published is nested more deeply than 10.
_DEEPEST = 64
# A string, or what was begun as one: each is matched in one pass, so that none can make the search slow.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
_OPENING, _CLOSING = b"[{", b"]}"


def read_json(path: Path, bounds: Bounds = SETTINGS, *, unique: bool = False) -> dict[str, Any]:
    """The object in a file.

    Args:
        bounds: of its kind.
        unique: refuse a name that an object gives twice.

    Raises:
        CheckpointError: missing, no regular file, too large, no JSON, or no object.
    """
    return parse(regular.read(path, bounds.bytes), str(path), bounds, unique=unique)


def optional_json(path: Path, bounds: Bounds = SETTINGS) -> dict[str, Any]:
    """As `read_json`, but {} where there is no file."""
    return read_json(path, bounds) if regular.present(path) else {}


def parse(data: bytes, name: str, bounds: Bounds, *, unique: bool = False) -> dict[str, Any]:
    """The object in some bytes; `name` says in errors where they come from."""
    try:
        _check_structure(data, name, bounds)
        value = json.loads(data.decode(), parse_constant=_constant, object_pairs_hook=_unique if unique else None)
    except ValueError as error:  # no UTF-8, no JSON, or a number of thousands of digits
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{name} must be JSON: {error}; fetch the file again") from error
    except MemoryError as error:
        raise CheckpointError(f"{name} must fit into memory, got {len(data):,} bytes that do not; free some") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} must hold an object, got {shown(value)}; fetch the file again")
    return value


def _check_structure(data: bytes, name: str, bounds: Bounds) -> None:
    """Refuses what would take too much memory or stack, before anything is made of it."""
    import numpy as np  # late: the child process that tries a tokenizer imports this file and has no use for it

    signs = np.frombuffer(_STRING.sub(b"", data), np.uint8)
    opening, closing = (np.isin(signs, np.frombuffer(kind, np.uint8)) for kind in (_OPENING, _CLOSING))
    levels = np.where(opening[opening | closing], 1, -1).cumsum()
    if int(levels.max(initial=0)) > _DEEPEST:
        raise CheckpointError(f"{name} is nested too deeply to be read: at most {_DEEPEST} levels; do not use this file")
    # Before every value but the outermost stands a comma, or what opens the object or list that it is the first of.
    values = int(opening.sum()) + int((signs == ord(",")).sum()) + 1
    if values > bounds.values:
        raise CheckpointError(
            f"{name} must not hold more than {bounds.values:,} values, got {values:,}; it is not what its name says, "
            "do not use this file"
        )


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"an object names {shown(name)} twice")
        found[name] = value
    return found
