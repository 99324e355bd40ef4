"""Every choice that was made for a model, whichever door it came through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dllm_fast import records

if TYPE_CHECKING:
    import torch

    from dllm_fast.families.table import Attention


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ModelInfo:
    """Every choice that was made for a checkpoint.

    Attributes:
        family: row of the table of families.
        mask_token_id: the mask, or None where nothing says it.
        eos_token_ids: tokens that end an answer.
        shift: 1 where the logits of position i - 1 predict position i.
        attention: `full`, `block_causal`, `causal_context` or `causal_reordered`.
        block_length: of attention by blocks.
        dtype, device: of the weights.
        vocabulary: number of logits.
        context: longest canvas, or None.
        preset, defaults: the family's recommended rule, and its settings over that.
        sources: for each choice, who made it.
        verified: how it is known that this family's numbers are right.
        notes: what is unusual about the files, and what was done.
        quantise: how the weights of the blocks are quantised, or None.
    """

    family: str
    mask_token_id: int | None
    eos_token_ids: tuple[int, ...]
    shift: int
    attention: Attention
    block_length: int | None
    dtype: torch.dtype
    device: torch.device
    vocabulary: int
    context: int | None
    preset: str | None
    defaults: Mapping[str, Any]
    sources: Mapping[str, str] = field(repr=False)
    verified: str
    notes: tuple[str, ...] = ()
    quantise: str | None = None

    def __repr__(self) -> str:
        return records.described(self)

    def token_id(self, name: str) -> int | tuple[int, ...] | None:
        """`mask_token_id` or `eos_token_id`; None where nobody says it. That there is no end token can be said."""
        if name == "mask_token_id":
            return self.mask_token_id
        is_known = self.eos_token_ids or self.sources.get("eos_token_ids", "unknown") != "unknown"
        return self.eos_token_ids if is_known else None
