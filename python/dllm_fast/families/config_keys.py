"""How a setting of a model is read, and the names under which configs say the same thing; for both doors."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# How long a canvas may be.
CONTEXT_KEYS = ("max_position_embeddings", "max_sequence_length", "n_positions")
# Attention by blocks, whatever the family.
BLOCK_SIZES = ("block_size", "bd_size")
# How long the blocks are, in families that attend by blocks; in others `block_length` is only a recommendation for sampling.
BLOCK_KEYS = ("block_size", "block_length", "bd_size", "canvas_length")

# A value, or None where nothing is said, and who says it.
Candidate = tuple[Any, str]


class Settings(NamedTuple):
    """Settings of a model.

    Attributes:
        name: what they are called where a choice names its source.
        entries: an object or a mapping that has them, or None.
    """

    name: str
    entries: object

    def says(self, key: str) -> Candidate:
        """A setting, and where it stands."""
        return entry(self.entries, key), f"{self.name}: {key}"


def with_text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a config with those of the part that reads text, where it keeps them apart; its own come first."""
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        return config
    return {**text, **{key: value for key, value in config.items() if value is not None}}


def entry(settings: object, key: str) -> Any:
    """A setting of an object or a mapping; None where it has none."""
    return settings.get(key) if isinstance(settings, Mapping) else getattr(settings, key, None)


def whole(settings: object, key: str) -> int | None:
    """A setting that is a whole number above 0, or None."""
    value = entry(settings, key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def listed(value: Any) -> tuple[Any, ...] | None:
    """Ids as configs write them, one or a list; None for none."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value) or None
    return None if value is None else (value,)


def as_id(value: Any) -> int | None:
    """An id as a number of Python's; None for what is no whole number."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None
