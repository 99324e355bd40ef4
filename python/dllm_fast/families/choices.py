"""One choice out of what several sources say about a model, with the name of the one that was believed; for both doors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Settings of a config that say how long a canvas may be.
CONTEXT_KEYS = ("max_position_embeddings", "max_sequence_length", "n_positions")


class Choices:
    """The choices that were made for one model.

    Attributes:
        sources: for each choice, who made it.
    """

    def __init__(self, **sources: str) -> None:
        self.sources = sources

    def first(self, name: str, *candidates: tuple[Any, str]) -> Any:
        """The first candidate that says something, and that is not None: 0 and an empty tuple are answers."""
        for value, source in candidates:
            if value is not None:
                self.sources[name] = source
                return value
        self.sources[name] = "unknown"
        return None


def token_ids(value: Any) -> tuple[Any, ...] | None:
    """Ids as configs write them, one or a list. An empty list says nothing."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value) or None
    return None if value is None else (value,)
