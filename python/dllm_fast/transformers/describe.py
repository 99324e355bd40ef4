"""What is known of a transformers model in memory before it is run: family, mask, ends, shift, block rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.errors import InvalidValueError
from dllm_fast.families.config_keys import CONTEXT_KEYS, Settings, entry, whole, with_text
from dllm_fast.families.layouts import Layout
from dllm_fast.families.model_info import Built, Sources, resolve
from dllm_fast.families.recognise import find
from dllm_fast.modules.places import places, storage

if TYPE_CHECKING:
    from torch import nn

    from dllm_fast.families.config_keys import Candidate
    from dllm_fast.families.family import Family
    from dllm_fast.families.model_info import ModelInfo

# It samples from a canvas of random tokens, by a network that nobody here knows.
_NOT_MASKED = ("udlm",)


def describe(model: nn.Module, tokenizer: Any = None) -> ModelInfo:
    """The choices for a model with a `config`, each with its source: config, tokenizer, the table of families.

    A family that the table does not know counts as bidirectional, without shift, whatever its config says of blocks (those
    of sparse attention are called like that, too); the probe finds out.

    Raises:
        InvalidValueError: a kind of diffusion model that has no mask token, weights that are nowhere, or a setting of the
            config that cannot be.
    """
    config = getattr(model, "config", None)
    model_type = str(entry(config, "model_type") or "")
    if model_type in _NOT_MASKED:
        raise InvalidValueError(
            f"a model must fill mask tokens, got {type(model).__name__} ({model_type}), which has none; use its own generate"
        )
    family = family_of(model)
    settings = config
    if family is not None and family.attention_rule.has_canvas:
        settings = with_text(config.to_dict())  # type: ignore[union-attr]
    where = places(model)
    kind = type(model).__name__
    built = Built(
        vocabulary=_vocabulary(model, config),
        context=_context(model, settings),
        dtype=next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32),
        device=where.devices[0],
        verified="probe of this model",
        notes=tuple(note for note in (storage(model), where.note) if note is not None),
    )
    return resolve(
        Sources(
            family=family,
            by=f"config: model_type {model_type!r}" if family else f"class {kind}",
            name=model_type or kind,
            built=built,
            model=model,
            config=Settings("config", settings),
            generation_config=Settings("generation config", getattr(model, "generation_config", None)),
            tokenizer=tokenizer,
        )
    )


def says_bidirectional(model: nn.Module) -> bool:
    """True where config or table say that the model was trained to see both ways, whatever its class does by itself.

    Encoders of the table see both ways by themselves; where one does not, it was made a decoder.
    """
    config = getattr(model, "config", None)
    family = family_of(model)
    is_encoder = family is not None and not isinstance(family.layout, Layout)
    if is_encoder or entry(config, "is_decoder") is True:
        return False
    if entry(config, "is_causal") is False or entry(config, "use_bidirectional_attention") is True:
        return True
    return family is not None and not family.attention_rule.reorders


def named_block(model: nn.Module, keys: Sequence[str]) -> tuple[str, int] | None:
    """What a config says under some keys that may be the length of its blocks, and may be something else."""
    config = getattr(model, "config", None)
    found = ((key, whole(config, key)) for key in keys)
    return next(((key, value) for key, value in found if value is not None), None)


def family_of(model: object) -> Family | None:
    """The row of the table that fits the type of the config and the class, or what its config says of the class."""
    config = getattr(model, "config", None)
    model_type = str(entry(config, "model_type") or "")
    classes = entry(config, "architectures")
    names = [type(model).__name__, *(classes if isinstance(classes, Sequence) else ())]
    keys = [key for key, _ in model.named_parameters()] if isinstance(model, torch.nn.Module) else []
    return find(model_type, [str(name) for name in names], lambda name: entry(config, name), keys)


def _vocabulary(model: nn.Module, config: object) -> int:
    head = output_embeddings(model)
    # The weight of a quantised head has another shape.
    columns = getattr(head, "out_features", None)
    if isinstance(columns, int) and columns > 0:
        return columns
    weight = getattr(head, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.dim() == 2:
        return int(weight.shape[0])
    return whole(config, "vocab_size") or 2**31 - 1


def _context(model: nn.Module, config: object) -> Candidate:
    """The longest canvas, and who says so."""
    found = ((key, whole(config, key)) for key in CONTEXT_KEYS)
    key, context = next(((key, value) for key, value in found if value is not None), ("", None))
    if context is None:
        return None, "unknown"
    # RoBERTa and MPNet count positions from behind their padding id.
    return context - (_skipped(model, context) or 0), f"config: {key}"


def _skipped(model: nn.Module, context: int) -> int | None:
    """Entries of a table of positions, as long as the context, that no token uses."""
    named = getattr(model, "get_input_embeddings", None)
    tokens = None if named is None else named()
    tables = (module for module in model.modules() if isinstance(module, torch.nn.Embedding) and module is not tokens)
    paddings = {table.padding_idx for table in tables if table.num_embeddings == context}
    padding = paddings.pop() if len(paddings) == 1 else None
    return None if padding is None else padding + 1


def output_embeddings(model: nn.Module) -> nn.Module | None:
    """The Linear that makes logits, where the class names one."""
    named = getattr(model, "get_output_embeddings", None)
    if named is None:
        return None
    try:
        head = named()
    except (NotImplementedError, AttributeError):
        return None
    return head if isinstance(head, torch.nn.Module) else None
