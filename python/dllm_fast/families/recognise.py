"""Which family a checkpoint or a model is of: by its type, its class, its settings, or its weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from dllm_fast.errors import CheckpointError, InvalidValueError, shown
from dllm_fast.families import layouts
from dllm_fast.families.family import Family
from dllm_fast.families.layouts import Layout
from dllm_fast.families.table import FAMILIES
from dllm_fast.nearest import nearest

# Causal language models of the same form: they run, but only if somebody trained them to look both ways.
_PLAIN: Mapping[str, Layout] = {
    "llama": layouts.LLAMA,
    "mistral": layouts.MISTRAL,
    "qwen2": layouts.QWEN2,
    "qwen3": layouts.QWEN3,
    "qwen3_moe": layouts.QWEN3_MOE,
}


def find(model_type: str, classes: Sequence[str], says: Callable[[str], object], keys: Collection[str]) -> Family | None:
    """The row of the table that describes a model, by what `Family.fits` takes."""
    return next((family for family in FAMILIES if family.fits(model_type, classes, says, keys)), None)


def is_opened(model_type: str) -> bool:
    """Does `load` open decoders of this type, whatever they see?"""
    return model_type in _PLAIN or any(
        isinstance(family.layout, Layout) and model_type in (*family.model_types, *family.shared_types) for family in FAMILIES
    )


def by_weights(tensors: Collection[str]) -> tuple[Family, str] | None:
    """The row whose files alone hold one of these keys, and the key."""
    found = ((family, key) for family in FAMILIES for key in family.tensors if key in tensors)
    return next(found, None)


def recognise(
    config: Mapping[str, Any], tensors: Collection[str], *, attention: str | None, name: str | None
) -> tuple[Family, str]:
    """The family of a checkpoint, and what says so.

    Args:
        config: its config.json.
        tensors: keys of its weights.
        attention: what the caller says; makes a plain Llama or Qwen acceptable.
        name: of the family, where the caller says it.

    Raises:
        InvalidValueError: a name that is no family.
        CheckpointError: a causal model, or a family that is not in the table.
    """
    family, source = _by_checkpoint(config, tensors) if name is None else (_by_name(name), "caller")
    if family.name in _PLAIN and attention is None and config.get("is_causal", True) is not False:
        raise CheckpointError(
            f"a diffusion model must see both ways, got {'model_type' if name is None else 'family'} {family.name!r}, which is "
            "causal; if this checkpoint was trained bidirectionally pass attention='full' (or 'block_causal' with "
            "block_length=)"
        )
    return family, source


def _by_checkpoint(config: Mapping[str, Any], tensors: Collection[str]) -> tuple[Family, str]:
    """What the checkpoint itself tells."""
    model_type = str(config.get("model_type") or "")
    named = config.get("architectures")
    classes = [str(entry) for entry in named] if isinstance(named, list) else []
    family = find(model_type, classes, config.get, tensors)
    if family is None and model_type in _PLAIN:
        family = _plain(model_type)
    if (
        family is not None
        and model_type in family.shared_types
        and (part := _telling_part(family, config, tensors)) is not None
    ):
        return family, f"weights: {part}"
    if family is not None:
        said = f"model_type {model_type!r}" if model_type else f"architectures {', '.join(classes)!r}"
        return family, f"config.json: {said}"
    if not model_type:
        if (owner := by_weights(tensors)) is not None:
            return owner[0], f"weights: {owner[1]}"
        raise CheckpointError(
            "config.json must name its model_type, got none, and neither classes nor weights tell; write for instance "
            '"model_type": "bert" into it, or pass family='
        )
    known = ", ".join(sorted({name for family in FAMILIES for name in (*family.model_types, *family.shared_types)}))
    raise CheckpointError(
        f"model_type in config.json must be one of {known}, got {model_type!r} ({', '.join(classes) or 'no architecture'}); "
        "where it is one of these under another name pass family=, else open it with transformers and pass the model to sample"
    )


def _telling_part(family: Family, config: Mapping[str, Any], tensors: Collection[str]) -> str | None:
    """The key that tells a family from another of its type, where it has such parts and no setting says it.

    Raises:
        CheckpointError: a setting says one family and the weights the other.
    """
    mark, part = family.mark(config.get), family.part(tensors)
    if mark is None or not family.parts or part is not None:
        return part if mark is None else None
    model_type = str(config["model_type"])
    others = [row.name for row in FAMILIES if model_type in row.model_types]
    ways = [f"family={family.name!r}", *(f"family={name!r} with attention='full'" for name in others)]
    raise CheckpointError(
        f"model_type {model_type!r} is that of {' and '.join((family.name, *others))}: {mark}={shown(config[mark])} in "
        f"config.json says {family.name}, but no key of the weights ends with {family.parts[0]}, as all of that family; pass "
        f"{' or '.join(ways)}, whichever it was trained as"
    )


def _by_name(name: str) -> Family:
    rows = {family.name: family for family in FAMILIES}
    if isinstance(name, str) and name in rows:
        return rows[name]
    if isinstance(name, str) and name in _PLAIN:
        return _plain(name)
    near = nearest(name, [*rows, *_PLAIN], 1) if isinstance(name, str) else []
    hint = f"did you mean {near[0]!r}?" if near else "leave it out where config.json says it"
    raise InvalidValueError(f"family must be one of {', '.join([*rows, *_PLAIN])}, got {name!r}; {hint}")


def _plain(name: str) -> Family:
    return Family(name=name, model_types=(name,), layout=_PLAIN[name], models="", verified="twin")
