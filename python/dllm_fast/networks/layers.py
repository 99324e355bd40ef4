"""Layers whose values come from a checkpoint: they are made without drawing random ones first.

torch draws them also on the meta device, where that changes nothing but costs the first model of a process a second and
85 MB of imports.
"""

from __future__ import annotations

from torch import nn


class Linear(nn.Linear):
    """`nn.Linear`, not initialised."""

    def reset_parameters(self) -> None:
        """Leaves the values as they are."""


class Embedding(nn.Embedding):
    """`nn.Embedding`, not initialised."""

    def reset_parameters(self) -> None:
        """Leaves the values as they are."""
