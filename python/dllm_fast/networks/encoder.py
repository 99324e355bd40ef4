"""Bidirectional transformers that fill masks, BERT and its kin, in plain torch.

The module tree carries the key names of the stock `BertForMaskedLM`, so the `state_dict` of an `Encoder` in BERT's form *is*
such a checkpoint: anybody can open the folder with transformers, and this package does not need it. The other families
are the same network with other flags; `encoder_layouts` says which, and under which keys their checkpoints have the weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

from dllm_fast.errors import InvalidValueError
from dllm_fast.networks import angles
from dllm_fast.networks.activations import ACTIVATIONS
from dllm_fast.networks.batch import Batch
from dllm_fast.networks.layers import Embedding, Linear
from dllm_fast.networks.relative import Buckets, Disentangled, Relative
from dllm_fast.networks.rotary import Rotary, rotate, rotate_pairs

if TYPE_CHECKING:
    from dllm_fast.networks.batch import Bias

Positions = Literal["table", "counted", "rotary", "none"]
Angles = tuple[Tensor, Tensor]

# ESM-2 was trained with 15 % of the tokens chosen and 80 % of these masked.
_MASKED_IN_TRAINING = 0.15 * 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Sizes, special tokens and form of an `Encoder`; what config.json also says is named as there.

    Attributes:
        max_position_embeddings: rows of the position table; where there is none, the longest canvas, or None.
        type_vocab_size, task_types: rows of the tables of segments and tasks, of which only the first is used; 0 for none.
        embedding_size: width of the token table, where it is not that of the stream.
        groups: layers that have weights of their own; the others share them, in equal runs. None for all.
        inner_groups: layers that follow each other within such a group.
        positions: `table`: learned, from the first row on; `counted`: learned, from behind the row of the padding token, which
            stands at its own row and is not counted; `rotary`; `none`.
        rotary: how queries and keys turn; None where they turn by the rows of a table of the checkpoint.
        turns_pairs: neighbours of a head turn together, not its two halves.
        turns_values: values turn, too.
        relative: what the distance of a query and a key adds to their score, or None.
        pre_norm: norms stand before attention and feedforward, and one at the end, not behind each.
        embedding_norm: the embeddings are normed.
        bias: attention and feedforward have biases.
        gated: the feedforward has a gate.
        fused: query, key and value are one matrix.
        head_act: activation of the head; None for that of the layers.
        head_bias: the head has biases.
        drops_masks: a mask has no embedding, and the others are scaled up by the share of masks in their row (ESM-2).
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int | None
    mask_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    tie_word_embeddings: bool = True
    task_types: int = 0
    embedding_size: int | None = None
    groups: int | None = None
    inner_groups: int = 1
    positions: Positions = "table"
    rotary: Rotary | None = None
    turns_pairs: bool = False
    turns_values: bool = False
    relative: Relative | None = None
    pre_norm: bool = False
    embedding_norm: bool = True
    bias: bool = True
    gated: bool = False
    fused: bool = False
    head_act: str | None = None
    head_bias: bool = True
    drops_masks: bool = False

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "inner_groups")
        optional = ("max_position_embeddings", "embedding_size", "groups")
        for name in (*sizes, *(name for name in optional if getattr(self, name) is not None)):
            _check_size(name, getattr(self, name))
        if self.hidden_size % self.num_attention_heads:
            raise InvalidValueError(
                f"num_attention_heads must divide hidden_size, got {self.num_attention_heads} and {self.hidden_size}; "
                "correct one of them"
            )
        for name in ("mask_token_id", "eos_token_id", "pad_token_id"):
            token: object = getattr(self, name)
            is_id = isinstance(token, int) and not isinstance(token, bool) and 0 <= token < self.vocab_size
            if token is not None and not is_id:
                raise InvalidValueError(f"{name} must lie in [0, vocab_size={self.vocab_size}), got {token!r}; correct it")
        for name in ("hidden_act", "head_act"):
            act: str | None = getattr(self, name)
            if act is not None and act not in ACTIVATIONS:
                raise InvalidValueError(f"{name} must be one of {', '.join(ACTIVATIONS)}, got {act!r}; correct it")
        if self.context is not None and self.context < 1:
            raise InvalidValueError(
                f"max_position_embeddings must leave room behind pad_token_id, got {self.max_position_embeddings} and "
                f"{self.pad_token_id}; correct one of them"
            )

    @property
    def context(self) -> int | None:
        """Longest canvas: RoBERTa never uses the positions up to the padding token's id."""
        longest = self.max_position_embeddings
        return None if longest is None else longest - self.first_position

    @property
    def first_position(self) -> int:
        """Row of the position table that belongs to the first token."""
        return (self.pad_token_id or 0) + 1 if self.positions == "counted" else 0

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def input_size(self) -> int:
        """Width of the token table."""
        return self.embedding_size or self.hidden_size

    @property
    def order(self) -> tuple[int, ...]:
        """For every layer, which of those with weights of their own it is."""
        groups, inner = self.groups or self.num_hidden_layers, self.inner_groups
        runs = [int(i / (self.num_hidden_layers / groups)) for i in range(self.num_hidden_layers)]
        return tuple(run * inner + j for run in runs for j in range(inner))

    def to_json(self) -> str:
        """The text of a `config.json` that transformers opens as a `BertForMaskedLM`; for an encoder in BERT's form."""
        names = (
            *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
            *("max_position_embeddings", "mask_token_id", "eos_token_id", "pad_token_id", "type_vocab_size"),
            *("layer_norm_eps", "hidden_act", "tie_word_embeddings"),
        )
        settings = {
            "architectures": ["BertForMaskedLM"],
            "model_type": "bert",
            "position_embedding_type": "absolute",
            "is_decoder": False,
            **{name: getattr(self, name) for name in names},
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "torch_dtype": "bfloat16",
        }
        return json.dumps(settings, indent=2, sort_keys=True) + "\n"


def _check_size(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidValueError(f"{name} must be a whole number above 0, got {value!r}; correct it")


class Embeddings(nn.Module):
    """Token, position and (constant) segment vectors, summed and normalised."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.input_size
        self.word_embeddings = Embedding(config.vocab_size, width)
        if config.positions in ("table", "counted"):
            assert config.max_position_embeddings is not None
            self.position_embeddings = Embedding(config.max_position_embeddings, width)
        if config.type_vocab_size:
            self.token_type_embeddings = Embedding(config.type_vocab_size, width)
        if config.task_types:
            self.task_type_embeddings = Embedding(config.task_types, width)
        if config.embedding_norm:
            self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, batch: Batch) -> Tensor:
        config = self.config
        x = self.word_embeddings(batch.ids)
        if config.drops_masks:
            assert config.mask_token_id is not None
            x = (x.masked_fill((batch.ids == config.mask_token_id)[..., None], 0.0) * self._scale(batch)).to(x.dtype)
        if config.type_vocab_size:
            x = x + self.token_type_embeddings.weight[0]
        if config.positions in ("table", "counted"):
            x = x + self.position_embeddings(self._places(batch))
        if config.task_types:
            x = x + self.task_type_embeddings.weight[0]
        return cast(Tensor, self.LayerNorm(x)) if config.embedding_norm else x

    def _places(self, batch: Batch) -> Tensor:
        """Rows of the position table."""
        pad = self.config.pad_token_id
        if self.config.positions == "table" or pad is None:
            return batch.positions + self.config.first_position if self.config.first_position else batch.positions
        # RoBERTa: a padding token inside a text stands at the position of its own id, and is not counted.
        is_pad = (batch.row_ids() == pad).long()
        # Those before it: where a mask of a shadow stands on a padding token, that one is none of them.
        before = (is_pad.cumsum(-1) - is_pad).gather(1, batch.positions)
        return (batch.positions + (pad + 1) - before).masked_fill(batch.ids == pad, pad)

    def _scale(self, batch: Batch) -> Tensor:
        """What the embeddings are multiplied by, so that as much comes in as in training, `[B, Q, 1]`."""
        assert self.config.mask_token_id is not None
        masks = (batch.row_ids() == self.config.mask_token_id).cumsum(-1)
        end = torch.full_like(batch.positions, masks.shape[1]) if batch.end is None else batch.end.clamp(max=masks.shape[1])
        shown = 1 - masks.gather(1, end - 1).float() / end
        # A row of nothing but masks has no embedding that could be scaled.
        return torch.where(shown > 0, (1 - _MASKED_IN_TRAINING) / shown, 1.0)[..., None]


class SelfAttention(nn.Module):
    """Attention of every position to every position that the batch lets it see."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        if config.fused:
            self.qkv = Linear(width, 3 * width, bias=config.bias)
        else:
            self.query = Linear(width, width, bias=config.bias)
            self.key = Linear(width, width, bias=config.bias)
            self.value = Linear(width, width, bias=config.bias)
        if isinstance(config.relative, Disentangled) and config.relative.own_projections:
            self.relative = config.relative.projections(width)

    def forward(self, hidden: Tensor, batch: Batch, index: int, given: Given) -> Tensor:
        rows, length, width = hidden.shape
        config = self.config
        shape = (rows, length, config.num_attention_heads, config.head_dim)
        parts = self.qkv(hidden).chunk(3, -1) if config.fused else (self.query(hidden), self.key(hidden), self.value(hidden))
        query, key, value = (part.view(shape).transpose(1, 2) for part in parts)
        if given.angles is not None:
            turn = rotate_pairs if config.turns_pairs else rotate
            query, key = turn(query, *given.angles), turn(key, *given.angles)
            value = turn(value, *given.angles) if config.turns_values else value
        bias, scale = given.bias, None
        if given.table is not None and isinstance(config.relative, Disentangled):
            own = self.relative if config.relative.own_projections else nn.ModuleDict({"key": self.key, "query": self.query})
            bias = config.relative.bias(*given.table, own, config.num_attention_heads)
            scale = config.relative.scale(config.head_dim)
        mixed = batch.attend(index, query, key, value, bias=bias, scale=scale)
        return mixed.transpose(1, 2).reshape(rows, length, width)


class Residual(nn.Module):
    """A projection back to the width of the stream, and the norm before or behind what it ends."""

    def __init__(self, config: EncoderConfig, inputs: int) -> None:
        super().__init__()
        self.dense = Linear(inputs, config.hidden_size, bias=config.bias)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class Layer(nn.Module):
    """Attention and feedforward, each added to the stream."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.pre_norm = config.pre_norm
        self.act = ACTIVATIONS[config.hidden_act]
        self.attention = nn.ModuleDict({"self": SelfAttention(config), "output": Residual(config, width)})
        self.intermediate = nn.ModuleDict({"dense": Linear(width, inner, bias=config.bias)})
        if config.gated:
            self.intermediate["gate"] = Linear(width, inner, bias=config.bias)
        self.output = Residual(config, inner)

    def forward(self, x: Tensor, batch: Batch, index: int, given: Given) -> Tensor:
        output = cast(Residual, self.attention["output"])
        mixed = self.attention["self"](output.LayerNorm(x) if self.pre_norm else x, batch, index, given)
        x = self._add(output, mixed, x)
        return self._add(self.output, self._feed(self.output.LayerNorm(x) if self.pre_norm else x), x)

    def _feed(self, x: Tensor) -> Tensor:
        if "gate" in self.intermediate:
            return cast(Tensor, self.act(self.intermediate["gate"](x)) * self.intermediate["dense"](x))
        return self.act(self.intermediate["dense"](x))

    def _add(self, output: Residual, update: Tensor, x: Tensor) -> Tensor:
        x = output.dense(update) + x
        return x if self.pre_norm else cast(Tensor, output.LayerNorm(x))


class Head(nn.Module):
    """Features for the vocabulary, and the logits; the output matrix is the token table, or its own where that is untied."""

    bias: nn.Parameter | None

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.act = ACTIVATIONS[config.head_act or config.hidden_act]
        norm = nn.LayerNorm(config.input_size, eps=config.layer_norm_eps)
        dense = Linear(config.hidden_size, config.input_size, bias=config.head_bias)
        self.transform = nn.ModuleDict({"dense": dense, "LayerNorm": norm})
        if not config.tie_word_embeddings:
            self.decoder = Linear(config.input_size, config.vocab_size, bias=False)
        self.register_parameter("bias", nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None)

    def forward(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.transform["LayerNorm"](self.act(self.transform["dense"](hidden))))


@dataclass(frozen=True, slots=True)
class Given:
    """What a forward makes once for all layers.

    Attributes:
        angles: that queries and keys turn by.
        bias: on the scores.
        table: a vector for each distance, and for each query and key which, of which every layer makes a bias of its own.
    """

    angles: Angles | None = None
    bias: Bias | None = None
    table: tuple[Tensor, Tensor] | None = None


class Encoder(nn.Module):
    """A `Network`; called with ids `[B, L]` (int64) it gives logits `[B, L, V]`, L at most `context`.

    Attributes: `config`, the ids `mask_token_id` and `eos_token_id` (None where the config has none), and `notes` on the
    checkpoint for `explain`.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.notes: tuple[str, ...] = ()
        self.mask_token_id = config.mask_token_id
        self.eos_token_id = config.eos_token_id
        self.layers, self.kv_heads = len(config.order), config.num_attention_heads
        self.head_dim = config.head_dim
        self.vocabulary, self.context = config.vocab_size, config.context
        self.rotaries = () if config.rotary is None else (config.rotary,)
        encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(config) for _ in range(max(config.order) + 1))})
        self.bert = nn.ModuleDict({"embeddings": Embeddings(config), "encoder": encoder})
        if config.embedding_size is not None:
            self.bert["project"] = Linear(config.embedding_size, config.hidden_size)
        if config.positions == "rotary" and config.rotary is None:
            assert config.max_position_embeddings is not None
            encoder["angles"] = Embedding(config.max_position_embeddings, config.head_dim)
        if config.relative is not None:
            encoder["relative"] = config.relative.table(config.hidden_size, config.num_attention_heads, config.layer_norm_eps)
        if config.pre_norm:
            encoder["LayerNorm"] = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.cls = nn.ModuleDict({"predictions": Head(config)})

    def hidden(self, batch: Batch) -> Tensor:
        encoder = cast(nn.ModuleDict, self.bert["encoder"])
        x = self.bert["embeddings"](batch)
        if "project" in self.bert:
            x = self.bert["project"](x)
        given = self._given(batch, x)
        layers = list(cast(nn.ModuleList, encoder["layer"]))
        for index, place in enumerate(self.config.order):
            x = layers[place](x, batch, index, given)
        if "LayerNorm" in encoder:
            x = encoder["LayerNorm"](x)
        return cast(Tensor, self.cls["predictions"](x))

    def _given(self, batch: Batch, x: Tensor) -> Given:
        config, encoder = self.config, cast(nn.ModuleDict, self.bert["encoder"])
        if config.rotary is not None:
            # Rounded to the dtype of the model, but applied in float32.
            return Given(angles=angles.pair(config.rotary, batch, via=x.dtype))
        if "angles" in encoder:
            sin, cos = encoder["angles"](batch.positions)[:, None].chunk(2, -1)
            return Given(angles=(cos, sin))
        if isinstance(config.relative, Buckets):
            return Given(bias=config.relative.bias(cast(nn.Embedding, encoder["relative"]).weight, batch))
        if isinstance(config.relative, Disentangled):
            return Given(table=(config.relative.rows(encoder["relative"]), config.relative.places(batch)))
        return Given()

    def logits(self, hidden: Tensor) -> Tensor:
        head = cast(Head, self.cls["predictions"])
        table = cast(Embeddings, self.bert["embeddings"]).word_embeddings if self.config.tie_word_embeddings else head.decoder
        return F.linear(hidden, table.weight, head.bias)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return self.logits(self.hidden(Batch(ids=ids, positions=positions)))
