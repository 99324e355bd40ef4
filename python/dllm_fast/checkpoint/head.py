"""The output matrix of a checkpoint: the token table once more, or a matrix of its own, as the files say.

A config may tie the two, or say nothing, and the files hold a head that differs all the same: after training that untied
them, or under a config that is not its own. What counts is what the files hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dllm_fast.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from dllm_fast.checkpoint.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where the output matrix is.

    Attributes:
        tied: it is the token table.
        table: key of the token table.
        head: key of the output matrix.
        notes: what `explain` should say about it.
    """

    tied: bool
    table: str
    head: str
    notes: tuple[str, ...] = ()


def decide(
    checkpoint: Checkpoint, *, table: Sequence[str], head: Sequence[str], tied: bool, setting: str = "tie_word_embeddings"
) -> Output:
    """Whether the output matrix is the token table.

    Args:
        table: keys under which a token table may lie, the best first.
        head: keys under which an output matrix may lie, the best first.
        tied: what the config says, or what the family takes where it says nothing.
        setting: the name of that in config.json.

    Raises:
        CheckpointError: neither is there, only one and the config does not tie them, two that differ in shape, or an adapter
            changes one of two that the base ties.
    """
    tables = [key for key in table if key in checkpoint.tensors]
    heads = [key for key in head if key in checkpoint.tensors]
    if not tied:
        if tables and not heads:
            if head[0] in checkpoint.ignored:
                raise CheckpointError(
                    f"ignore_keys must leave {head[0]} in, because {setting} in config.json is false or left out and the "
                    "model has no other head; take that pattern out"
                )
            raise CheckpointError(
                f"{checkpoint.folder} must hold {head[0]}, because {setting} in config.json is false or left out, got none; "
                f'fetch the weights again, or write "{setting}": true where {tables[0]} is the head as well'
            )
        return Output(tied=False, table=(tables or table)[0], head=(heads or head)[0])
    _check_adapter(checkpoint, table, head, setting)
    if not tables or not heads:
        # Whoever writes tied weights writes them once, under either name.
        key = (tables or heads or table)[0]
        return Output(tied=True, table=key, head=key)
    (ours, *_), (own, *_) = tables, heads
    shapes = [list(checkpoint.tensors[key].shape) for key in (own, ours)]
    if shapes[0] != shapes[1]:
        raise CheckpointError(
            f"{own} and {ours} in {checkpoint.folder} must be one matrix, because {setting} in config.json is true or left "
            f'out, got {shapes[0]} and {shapes[1]}; write "{setting}": false where the model has a head of its own'
        )
    if equal(checkpoint, own, ours):
        return Output(tied=True, table=ours, head=own)
    note = f"{own} differs from {ours} and is used, although {setting} in config.json is true or left out"
    return Output(tied=False, table=ours, head=own, notes=(note,))


def _check_adapter(checkpoint: Checkpoint, table: Sequence[str], head: Sequence[str], setting: str) -> None:
    """Refuses an adapter that changes one of two tied matrices, where the files then hold only one of them.

    peft trains a copy of a module and leaves what was tied to it as it was, so that the two are no longer one. It adds a
    product to a tied head in the forward, and to the token table as well when it merges: nobody can say which is meant.
    """
    adapter, base = checkpoint.adapter, checkpoint.base
    if adapter is None or base is None:
        return
    tables, heads = ([key for key in keys if key in base.tensors] for keys in (table, head))
    if tables and heads and not equal(base, tables[0], heads[0]):
        return  # the base does not tie them
    remedy = (
        f"save the base with both (config.{setting} = False, then save_pretrained(folder, "
        "state_dict={k: v.clone() for k, v in model.state_dict().items()})) and pass load(folder, adapter=...)"
    )
    if added := next((key for key in (*table, *head) if adapter.adds(key)), None):
        raise CheckpointError(
            f"the adapter {adapter.folder} must leave the output matrix and the token table as they are, because {setting} in "
            f"config.json is true or left out, got a LoRA of {added}; {remedy}"
        )
    stored = next(iter(tables or heads), None)
    changed = [
        next((key for key in keys if adapter.replaces(key) and not (stored and _as_in(checkpoint, key, base, stored))), None)
        for keys in (table, head)
    ]
    for own, other, there in ((changed[0], changed[1], heads), (changed[1], changed[0], tables)):
        if own is not None and other is None and not there and stored is not None:
            raise CheckpointError(
                f"the adapter {adapter.folder} must bring both the output matrix and the token table, because {setting} in "
                f"config.json is true or left out, got {own} alone, which no longer equals the other; {remedy}"
            )


def decide_bias(checkpoint: Checkpoint, *, bias: str, own: str) -> tuple[str, tuple[str, ...]]:
    """The key of the bias on the logits, and what `explain` should say about it.

    BERT's kin keep it twice: beside the output matrix (`own`), where the forward adds it, and by itself (`bias`), to which it
    is tied. Where both are there and differ, the forward's counts.
    """
    if own not in checkpoint.tensors:
        return bias, ()
    if bias not in checkpoint.tensors or equal(checkpoint, bias, own):
        return own, ()
    return own, (f"{own} differs from {bias} and is used",)


def equal(checkpoint: Checkpoint, first: str, second: str) -> bool:
    """Do two tensors hold the same numbers? Compared in pieces; another shape is never equal."""
    return _as_in(checkpoint, first, checkpoint, second)


def _as_in(checkpoint: Checkpoint, key: str, base: Checkpoint, other_key: str) -> bool:
    """The same of tensors of two checkpoints."""
    if checkpoint.tensors[key].shape != base.tensors[other_key].shape:
        return False
    with torch.device("cpu"):  # a network is built on the meta device
        both = zip(checkpoint.pieces(key), base.pieces(other_key), strict=True)
        return all(_same(one, other) for (_, one), (_, other) in both)


def _same(one: Tensor, other: Tensor) -> bool:
    wide = torch.promote_types(one.dtype, other.dtype)
    return torch.equal(one.to(wide), other.to(wide))
