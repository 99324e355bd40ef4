"""What a row of the table of families says, and whether it describes a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from dllm_fast.networks.visible import RULES

if TYPE_CHECKING:
    from torch import nn

    from dllm_fast.checkpoint.checkpoint import Checkpoint
    from dllm_fast.families.layouts import Layout
    from dllm_fast.networks.visible import Attention, AttentionRule


class Builder(Protocol):
    """What makes a network of a checkpoint, where that is no decoder."""

    @property
    def build(self) -> Callable[[Checkpoint], tuple[nn.Module, Mapping[str, Sequence[str]], Sequence[str]]]:
        """Of a checkpoint the network without values, for every parameter the keys that make it, and patterns of spare keys."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row.

    Attributes:
        name: what we call it.
        model_types: `model_type` of its configs.
        shared_types: model types that its configs have and those of another family, too: one of the next two must tell.
        architectures: classes that its configs name.
        marks: settings that, of the families of a shared type, only its configs have.
        parts: ends of keys that, of the families of a shared type, only its files have.
        tensors: weights that only its files have; they tell where the config says nothing.
        layout: of a decoder, or of an encoder.
        attention: which tokens a token sees: all; those of its block and of the blocks before it (`block_causal`); those
            before it, and in the block that is being filled all of that (`causal_context`); or, for models that read known
            tokens first and masks last, those before it in that order (`causal_reordered`); or as `causal_context`, by a
            network that encodes what lies before the block and denoises the block (`encoder_canvas`).
        block_length: of attention by blocks, where the config does not say.
        block_keys: settings that say it.
        shift: the logits of position i - 1 predict position i.
        mask_token: how the mask is written in the tokenizer.
        mask_token_id: where neither config nor tokenizer says it.
        end_tokens: further tokens that end an answer.
        defaults: recommended settings over `preset`, by the papers, cards and repositories.
        preset: the published rule.
        recommended: what a generation config says over the preset, for families that write rules into it.
        models: checkpoints that people have.
        verified: how we know that the numbers are right.
    """

    name: str
    model_types: tuple[str, ...]
    layout: Layout | Builder
    shared_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    attention: Attention = "full"
    block_length: int | None = None
    block_keys: tuple[str, ...] = ()
    shift: int = 0
    mask_token: str | None = None
    mask_token_id: int | None = None
    end_tokens: tuple[str, ...] = ()
    preset: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    recommended: Callable[[object], Mapping[str, Any]] | None = None
    models: str
    verified: str

    @property
    def attention_rule(self) -> type[AttentionRule]:
        """What is true of its attention whatever the length of its blocks."""
        return RULES[self.attention]

    def fits(self, model_type: str, classes: Sequence[str], says: Callable[[str], object], keys: Iterable[str]) -> bool:
        """Does it describe this model?

        Args:
            model_type: of its config; "" for none.
            classes: that its config names, or its own.
            says: gives a setting of its config, None where it has none.
            keys: of its weights.
        """
        if model_type in self.model_types:
            return True
        # Compared without regard to case, because their authors do not agree.
        named = bool({name.lower() for name in classes} & {name.lower() for name in self.architectures})
        if model_type not in self.shared_types:
            return named and not model_type
        return named or self.mark(says) is not None or self.part(keys) is not None

    def mark(self, says: Callable[[str], object]) -> str | None:
        """The first of `marks` that a config has."""
        return next((mark for mark in self.marks if says(mark) is not None), None)

    def part(self, keys: Iterable[str]) -> str | None:
        """The first key that ends as one of `parts`."""
        return next((key for key in keys if key.endswith(self.parts)), None) if self.parts else None
