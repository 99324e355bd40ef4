"""What a probe found out about a model in memory: the way in which it is run, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dllm_fast.families.model_info import ModelInfo
    from dllm_fast.transformers.native import Plan

NATIVE, SWAPPED = "T3 native attention", "T2 torch attention"
ROWS, PLAIN = "T1 head rows", "T0 plain forward"


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """How a model will be run, and why.

    Attributes:
        tier: the fastest way that gives the class's own logits.
        reason: what that rests on.
        info: what is known of it.
        plan: of our attention in it, for `NATIVE` and `SWAPPED`.
        mask: the form of the mask that its forward is given in the other tiers; see `Forward`.
        probed: each probe and its result.
        refused: ways that were ruled out, each with the reason.
        changes: a forward changes the model beside its answer, so that it is put back after each.
        reads: what a forward on our attention reads on the host, or None.
    """

    tier: str
    reason: str
    info: ModelInfo
    plan: Plan | None
    mask: str
    probed: Mapping[str, Any]
    refused: tuple[tuple[str, str], ...]
    changes: bool
    reads: str | None = None

    @property
    def not_captured(self) -> str | None:
        """Why steps are not captured as CUDA graphs, as far as the probe saw; None where nothing is in the way."""
        return "a forward changes the model beside its answer" if self.changes else self.reads
