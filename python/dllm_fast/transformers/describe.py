"""What is known of a transformers model in memory before it is run: family, mask, ends, shift, block rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from dllm_fast.errors import InvalidValueError
from dllm_fast.families import table as families
from dllm_fast.families.choices import CONTEXT_KEYS, Choices, token_ids
from dllm_fast.families.model_info import ModelInfo
from dllm_fast.families.recognise import find
from dllm_fast.modules.places import places, storage
from dllm_fast.runners.runner import EXACT
from dllm_fast.text import tokens

if TYPE_CHECKING:
    from torch import nn

    from dllm_fast.families.table import Attention, Family

# They sample from a canvas of random tokens, or insert and delete: no mask to fill.
_NOT_MASKED = ("diffusion_gemma", "udlm")


def describe(model: nn.Module, tokenizer: Any = None) -> ModelInfo:
    """The choices for a model with a `config`, each with its source: config, tokenizer, the table of families.

    A family that the table does not know counts as bidirectional, without shift, whatever its config says of blocks (those
    of sparse attention are called like that, too); the probe finds out.

    Raises:
        InvalidValueError: a kind of diffusion model that has no mask token, or weights that are nowhere.
    """
    config = getattr(model, "config", None)
    model_type = str(entry(config, "model_type") or "")
    if model_type in _NOT_MASKED:
        raise InvalidValueError(
            f"a model must fill mask tokens, got {type(model).__name__} ({model_type}), which has none; use its own generate"
        )
    family = family_of(model)
    choices = Choices(family=f"config: model_type {model_type!r}" if family else f"class {type(model).__name__}")
    sources = choices.sources
    table = f"family {family.name}" if family else "default"
    vocabulary = _vocabulary(model, config)
    block = _block(config, family, sources, table)
    attention: Attention = family.attention if family else "full"
    sources["attention"] = table
    mask = choices.first("mask_token_id", *_masks(model, config, tokenizer, family, vocabulary))
    ends = choices.first("eos_token_ids", *_ends(model, config, tokenizer)) or ()
    if family is not None and tokenizer is not None:
        more = [tokens.token_id(tokenizer, token) for token in family.end_tokens]
        ends = tuple(dict.fromkeys([*ends, *(token for token in more if token is not None)]))
    where = places(model)
    number = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    context = choices.first("context", *((_whole(config, key), f"config: {key}") for key in CONTEXT_KEYS))
    # RoBERTa and MPNet count positions from behind their padding id.
    skipped = None if context is None else _skipped(model, context)
    context = context if skipped is None else context - skipped
    sources["shift"] = table
    return ModelInfo(
        family=family.name if family else model_type or type(model).__name__,
        mask_token_id=mask,
        eos_token_ids=ends,
        shift=int(family.shift) if family else 0,
        attention=attention,
        block_length=block,
        dtype=number,
        device=where.devices[0],
        vocabulary=vocabulary,
        context=context,
        preset=family.preset if family else None,
        defaults=family.defaults if family else {},
        sources=sources,
        verified="probe of this model",
        notes=tuple(note for note in (storage(model), where.note) if note is not None),
    )


def says_bidirectional(model: nn.Module) -> bool:
    """True where config or table say that the model was trained to see both ways, whatever its class does by itself.

    Encoders of the table see both ways by themselves; where one does not, it was made a decoder.
    """
    config = getattr(model, "config", None)
    family = family_of(model)
    is_encoder = family is not None and isinstance(family.layout, str)
    if is_encoder or entry(config, "is_decoder") is True:
        return False
    if entry(config, "is_causal") is False or entry(config, "use_bidirectional_attention") is True:
        return True
    return family is not None and family.attention != "causal_reordered"


def named_block(model: nn.Module) -> tuple[str, int] | None:
    """What the config of an unknown family says that may be the length of its blocks, and may be something else."""
    config = getattr(model, "config", None)
    found = ((key, _whole(config, key)) for key in families.BLOCK_KEYS)
    return next(((key, value) for key, value in found if value is not None), None)


def family_of(model: object) -> Family | None:
    """The row of the table that fits the type of the config and the class, or what its config says of the class."""
    config = getattr(model, "config", None)
    model_type = str(entry(config, "model_type") or "")
    written = entry(config, "architectures")
    names = [type(model).__name__, *(written if isinstance(written, Sequence) else ())]
    keys = [key for key, _ in model.named_parameters()] if isinstance(model, torch.nn.Module) else []
    return find(model_type, [str(name) for name in names], lambda name: entry(config, name), keys)


def _block(config: object, family: Family | None, sources: dict[str, str], table: str) -> int | None:
    if family is None or family.attention not in EXACT:
        return None
    found = ((key, _whole(config, key)) for key in family.block_keys)
    key, block = next(((key, value) for key, value in found if value is not None), (None, family.block_length))
    sources["block_length"] = table if key is None else f"config: {key}"
    return block


def _masks(model: nn.Module, config: object, tokenizer: Any, family: Family | None, vocabulary: int) -> list[tuple[Any, str]]:
    """Candidates for the mask, the best first."""
    written = (_id(getattr(model, "mask_token_id", None), entry(config, "mask_token_id")), "config: mask_token_id")
    spoken = (None if tokenizer is None else tokens.mask_token_id(tokenizer), "tokenizer: mask token")
    if family is None:
        return [written, spoken]
    if spoken[0] is None and tokenizer is not None and family.mask_token is not None:
        spoken = (tokens.token_id(tokenizer, family.mask_token), f"tokenizer: {family.mask_token}")
    return families.masks(family, written, spoken, vocabulary)


def _ends(model: nn.Module, config: object, tokenizer: Any) -> list[tuple[Any, str]]:
    found = [
        (entry(getattr(model, "generation_config", None), "eos_token_id"), "generation config: eos_token_id"),
        (_id(getattr(model, "eos_token_id", None), entry(config, "eos_token_id")), "config: eos_token_id"),
        (None if tokenizer is None else tokens.eos_token_id(tokenizer), "tokenizer: end token"),
    ]
    return [(None if (ids := token_ids(value)) is None else tuple(map(int, ids)), source) for value, source in found]


def _id(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _vocabulary(model: nn.Module, config: object) -> int:
    head = output_embeddings(model)
    # The weight of a quantised head has another shape.
    columns = getattr(head, "out_features", None)
    if isinstance(columns, int) and columns > 0:
        return columns
    weight = getattr(head, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.dim() == 2:
        return int(weight.shape[0])
    return _whole(config, "vocab_size") or 2**31 - 1


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


def entry(config: object, name: str) -> Any:
    """A setting of a config, an object or a mapping; None where it has none."""
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _whole(config: object, name: str) -> int | None:
    value = entry(config, name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
