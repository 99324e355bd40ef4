"""Whether the keys of a checkpoint are those of its family, and what training programs put before every one of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from dllm_fast.errors import CheckpointError, shown
from dllm_fast.families.encoder_layouts import Form
from dllm_fast.families.family import Family
from dllm_fast.families.layouts import Layout
from dllm_fast.families.recognise import by_weights
from dllm_fast.families.table import FAMILIES

if TYPE_CHECKING:
    from dllm_fast.checkpoint.checkpoint import Checkpoint


def common(keys: Collection[str]) -> str:
    """The prefix, such as `module.`, under which all keys of a model lie; "" where they lie as a family has them.

    A prefix is one only where the token table of some family lies behind it: `model.` belongs to Llama's own keys.
    """
    # What the first and the last in order share, all share.
    ends = zip(min(keys, default="").split("."), max(keys, default="").split("."), strict=False)
    shared = [first for first, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends)]
    prefixes = ("".join(f"{part}." for part in shared[:count]) for count in range(len(shared) + 1))
    return next((prefix for prefix in prefixes if any(prefix + table in keys for table in _all_tables())), "")


def unwrapped(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without the prefix of all its keys."""
    prefix = common(checkpoint.tensors)
    return checkpoint.inside(prefix) if prefix else checkpoint


def check(family: Family, checkpoint: Checkpoint, source: str) -> None:
    """Refuses weights that lie under keys of another family, or only in part under a prefix.

    Args:
        family: of the checkpoint.
        source: who says so.

    Raises:
        CheckpointError: names the prefix or the other family.
    """
    tables, keys = _tables(family), checkpoint.tensors
    if any(table in keys for table in tables):
        return
    for key in keys:
        if table := next((table for table in tables if key.endswith(f".{table}")), None):
            prefix = key.removesuffix(table)
            others = [other for other in keys if not other.startswith(prefix)]
            if not others:
                continue
            raise CheckpointError(
                f"the keys of {checkpoint.folder} must be those of a {family.name} model, or all lie under one prefix, got "
                f"{shown(key)} under {shown(prefix)} and {shown(others[0])} elsewhere; where the model does not need those "
                f"pass ignore_keys={_patterns(prefix, others)}"
            )
    owner = by_weights(keys)
    if owner is not None and owner[0].name != family.name:
        raise CheckpointError(
            f"the keys of {checkpoint.folder} must be those of a {family.name} model ({source}), got {shown(owner[1])}, which "
            f"{owner[0].name} models have; is config.json the one of these weights? If only its model_type is wrong, correct "
            f"it or pass family={owner[0].name!r}"
        )


def _patterns(prefix: str, others: Sequence[str]) -> list[str]:
    """Patterns that fit some keys and nothing under a prefix, as short as they can be."""
    root = prefix.split(".")
    found = []
    for key in others:
        parts = key.split(".")
        shared = next(i for i, (part, ours) in enumerate(zip([*parts, ""], [*root, ""], strict=False)) if part != ours)
        found.append(".".join([*parts[: shared + 1], *(["*"] if len(parts) > shared + 1 else [])]))
    return list(dict.fromkeys(found))


def _tables(family: Family) -> frozenset[str]:
    """The keys under which the token table of a family may lie."""
    layout = family.layout
    if isinstance(layout, Form):
        return layout.tables
    if isinstance(layout, Layout):
        return frozenset(key for keys in (layout.keys, layout.converted or {}) for key in keys.get("embed.weight", ()))
    return frozenset(family.tensors)


@functools.cache
def _all_tables() -> frozenset[str]:
    return frozenset().union(*map(_tables, FAMILIES))
