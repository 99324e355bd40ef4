"""Every choice that is made for a model, and the one place that makes them, whichever door it came through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from dllm_fast import records
from dllm_fast.checkpoint.fields import LARGEST_SIZE
from dllm_fast.errors import CheckpointError, InvalidValueError, shown
from dllm_fast.families.config_keys import BLOCK_SIZES, Settings, as_id, entry, listed
from dllm_fast.families.layouts import Layout
from dllm_fast.networks.visible import RULES
from dllm_fast.text import tokens

if TYPE_CHECKING:
    import torch

    from dllm_fast.families.config_keys import Candidate
    from dllm_fast.families.family import Family
    from dllm_fast.networks.visible import Attention, AttentionRule


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ModelInfo:
    """Every choice that was made for a checkpoint.

    Attributes:
        family: row of the table of families.
        mask_token_id: the mask, or None where nothing says it.
        eos_token_ids: tokens that end an answer.
        shift: 1 where the logits of position i - 1 predict position i.
        attention: `full`, `block_causal`, `causal_context`, `causal_reordered` or `encoder_canvas`.
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

    @property
    def attention_rule(self) -> AttentionRule:
        """Which keys a position sees."""
        return RULES[self.attention](self.block_length)

    def token_id(self, name: str) -> int | tuple[int, ...] | None:
        """`mask_token_id` or `eos_token_id`; None where nobody says it. That there is no end token can be said."""
        if name == "mask_token_id":
            return self.mask_token_id
        is_known = self.eos_token_ids or self.sources.get("eos_token_ids", "unknown") != "unknown"
        return self.eos_token_ids if is_known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What the network itself says.

    Attributes:
        vocabulary: number of logits.
        context: longest canvas, or None, and who says so.
        dtype, device: of its weights.
        verified: how it is known that its numbers are right.
        notes: what is unusual about it.
    """

    vocabulary: int
    context: Candidate
    dtype: torch.dtype
    device: torch.device
    verified: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Whoever says something about a model.

    Attributes:
        family: its row of the table, or None.
        by: who says that it is this family.
        name: stands for a family that the table does not know.
        built: what the network says.
        config, generation_config: its settings.
        model: what has ids of its own, before those of `config`.
        tokenizer: that says which tokens are the mask and the ends, or None.
        caller: what the caller says of files that are opened. None for a model in memory, whose caller speaks later: then ids
            are held against the vocabulary when they are used, and the probe measures blocks, where files are refused that
            say of blocks what their family does not have.
    """

    family: Family | None
    by: str
    name: str = ""
    built: Built
    config: Settings
    generation_config: Settings
    model: object = None
    tokenizer: Any = None
    caller: Mapping[str, Any] | None = None

    @property
    def table(self) -> str:
        """The table of families as a source."""
        return "default" if self.family is None else f"family {self.family.name}"

    def by_caller(self, name: str) -> Candidate:
        """What the caller says of a choice."""
        return (self.caller or {}).get(name), "caller"

    def refusal(self, rule: str, name: str) -> CheckpointError | InvalidValueError:
        """The error for a choice that cannot be, with the way out of it."""
        if self.caller is None:
            return InvalidValueError(f"{rule}; correct the config of this model")
        return CheckpointError(f"{rule}; pass {name}=")


def resolve(said: Sources) -> ModelInfo:
    """Chooses what a model is run with: the caller comes first, then the model and its files, its tokenizer, the table.

    Raises:
        CheckpointError, InvalidValueError: a choice that cannot be; the first where files are opened.
    """
    family, built = said.family, said.built
    choices = _Choices(family=said.by)
    seen = ("full" if family is None else family.attention, said.table)
    attention = choices.first("attention", said.by_caller("attention"), seen)
    _check_canvas(said, attention)
    _check_blocks(said)
    block = _block_length(said, choices, attention)
    shift = choices.first("shift", said.by_caller("shift"), (0 if family is None else family.shift, said.table))
    if shift and RULES[attention].has_canvas:
        raise InvalidValueError(
            f"shift must be 0 for a model whose canvas predicts itself ({said.table}), got {shift}; leave it out"
        )
    has_none = RULES[attention].has_canvas  # whatever the tokenizer of its kin has: it was trained on noise
    mask = choices.first("mask_token_id", said.by_caller("mask_token_id"), *([] if has_none else _masks(said)))
    if has_none and mask is None:
        choices.by["mask_token_id"] = f"{said.table}: none, its canvas shows noise"
    ends = listed(choices.first("eos_token_ids", said.by_caller("eos_token_ids"), *_ends(said))) or ()
    if family is not None and said.tokenizer is not None and choices.by["eos_token_ids"] != "caller":
        more = {token: tokens.token_id(said.tokenizer, token) for token in family.end_tokens}
        there = {token: known for token, known in more.items() if known is not None}
        if there and not ends:
            choices.by["eos_token_ids"] = f"{said.table}: {', '.join(there)}"
        ends = tuple(dict.fromkeys([*ends, *there.values()]))
    return ModelInfo(
        family=said.name if family is None else family.name,
        mask_token_id=None if mask is None else _id(said, mask, "mask_token_id", choices),
        eos_token_ids=tuple(_id(said, token, "eos_token_ids", choices) for token in ends),
        shift=int(shift),
        attention=attention,
        block_length=block,
        dtype=built.dtype,
        device=built.device,
        vocabulary=built.vocabulary,
        context=choices.first("context", built.context),
        preset=None if family is None else family.preset,
        defaults=_defaults(said),
        sources=choices.by,
        verified=built.verified,
        notes=built.notes,
    )


def for_call(name: str, model: Speaker, tokenizer: Any) -> Candidate:
    """The mask or the ends of a call whose caller leaves them open: the model's, or else the tokenizer's.

    Args:
        name: `mask_token_id` or `eos_token_id`.
        model: whoever runs it.
        tokenizer: of the call, or None.
    """
    value = model.token_id(name)
    known = {} if model.info is None else model.info.sources
    source = known.get({"eos_token_id": "eos_token_ids"}.get(name, name), "model")
    is_none = name == "mask_token_id" and model.info is not None and source != "unknown"  # somebody says that there is none
    if value is not None or is_none:
        return value, source
    ask = tokens.mask_token_id if name == "mask_token_id" else tokens.eos_token_id
    return (None, "unknown") if (value := ask(tokenizer)) is None else (value, "tokenizer")


class Speaker(Protocol):
    """Whoever runs a model and says its special tokens."""

    @property
    def info(self) -> ModelInfo | None:
        """What is known of it, or None."""
        ...

    def token_id(self, name: str) -> int | tuple[int, ...] | None:
        """`mask_token_id` or `eos_token_id`, where the model says it."""
        ...


class _Choices:
    """The choices that were made for one model, and for each who made it."""

    def __init__(self, **by: str) -> None:
        self.by = by

    def first(self, name: str, *candidates: Candidate) -> Any:
        """The first candidate that says something, and that is not None: 0 and an empty tuple are answers."""
        value, self.by[name] = next((found for found in candidates if found[0] is not None), (None, "unknown"))
        return value


def _block_length(said: Sources, choices: _Choices, attention: str) -> int | None:
    """The length of the blocks, where the attention has any."""
    family, (given, _) = said.family, said.by_caller("block_length")
    if not RULES[attention].needs_blocks:
        if given is not None:
            raise InvalidValueError(
                f"block_length of load is that of attention by blocks, got {given} for attention {attention!r} "
                f"({choices.by['attention']}); pass block_length= to sample or infill, or attention='block_causal' with it"
            )
        return None
    assert family is not None
    in_config = [said.config.says(key) for key in family.block_keys]
    block = choices.first("block_length", (given, "caller"), *in_config, (family.block_length, said.table))
    if isinstance(block, bool) or not isinstance(block, int) or not 1 <= block <= LARGEST_SIZE:
        by = "" if block is None else f" from {choices.by['block_length']}"
        raise said.refusal(f"attention by blocks needs a block length, got {shown(block)}{by}", "block_length")
    return block


def _defaults(said: Sources) -> Mapping[str, Any]:
    """What is recommended over the preset: by the table, and by the files of families that write rules into them."""
    family = said.family
    if family is None or family.recommended is None:
        return {} if family is None else family.defaults
    return {**family.defaults, **family.recommended(said.generation_config.entries)}


def _check_canvas(said: Sources, attention: str) -> None:
    """Refuses a canvas for a network that knows none, and any other attention for one that does."""
    own = "full" if said.family is None else said.family.attention
    if RULES[attention].has_canvas != RULES[own].has_canvas:
        raise InvalidValueError(
            f"attention must be {own!r} for the family {said.table.removeprefix('family ')}, whose network "
            f"{'encodes and denoises' if RULES[own].has_canvas else 'reads all its text in one way'}, got {attention!r}; leave "
            "it out"
        )


def _check_blocks(said: Sources) -> None:
    """Refuses a block size in the files of a family that sees everything: one of the two is wrong about this checkpoint."""
    family = said.family
    if family is None or said.caller is None or said.by_caller("attention")[0] is not None:
        return
    key = next((key for key in BLOCK_SIZES if entry(said.config.entries, key) is not None), None)
    if key is not None and family.attention_rule.hides_nothing and isinstance(family.layout, Layout):
        raise CheckpointError(
            f"{key} in config.json is {shown(entry(said.config.entries, key))}, but models of the family {family.name} attend "
            "without blocks; pass attention='block_causal' with block_length=, or attention='full' to go by the family"
        )


def _masks(said: Sources) -> list[Candidate]:
    """Candidates for the mask, the best first. A usual spelling that nobody names comes last: any vocabulary may have it."""
    family, tokenizer = said.family, said.tokenizer
    from_config = _own(said, "mask_token_id")
    named: list[Candidate] = []
    usual: list[Candidate] = []
    if tokenizer is not None:
        spelling = None if family is None else family.mask_token
        named = [
            (tokens.mask_token_id(tokenizer, usual=()), "tokenizer: mask token"),
            (None if spelling is None else tokens.token_id(tokenizer, spelling), f"tokenizer: {spelling}"),
        ]
        usual = [(tokens.mask_token_id(tokenizer), "tokenizer: mask token")]
    if family is None:
        return [*from_config, *named, *usual]
    is_inside = family.mask_token_id is not None and family.mask_token_id < said.built.vocabulary
    from_table = (family.mask_token_id if is_inside else None, said.table)
    # LLaDA's class fills in 50256, GPT-2's end of text, where its config.json names no mask.
    if family.name == "llada" and next((value for value, _ in from_config if value is not None), None) == 50256:
        return [*named, from_table, *usual, *from_config]
    return [*from_config, *named, from_table, *usual]


def _ends(said: Sources) -> list[Candidate]:
    """Candidates for the ends, the best first. An empty list of a file says nothing."""
    from_tokenizer = (None if said.tokenizer is None else tokens.eos_token_id(said.tokenizer), "tokenizer: end token")
    found = [said.generation_config.says("eos_token_id"), *_own(said, "eos_token_id"), from_tokenizer]
    return [(listed(value), source) for value, source in found]


def _own(said: Sources, name: str) -> list[Candidate]:
    """What the model and its config say of an id."""
    return [Settings("model", said.model).says(name), said.config.says(name)]


def _id(said: Sources, value: Any, name: str, choices: _Choices) -> int:
    """An id as a number of Python's."""
    vocabulary = said.built.vocabulary
    token = as_id(value)
    if token is None or (said.caller is not None and not 0 <= token < vocabulary):
        raise said.refusal(f"{name} must lie in [0, {vocabulary}), got {shown(value)} from {choices.by[name]}", name)
    return token
