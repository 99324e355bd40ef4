"""BERT and RoBERTa: bidirectional transformers that fill masks, in plain torch.

The module tree carries the key names of the stock `BertForMaskedLM`, so the `state_dict` of an `Encoder` *is* such a
checkpoint: anybody can open the folder with transformers, and this package does not need it. RoBERTa is the same network
under other names, with its positions counted from behind the id of the padding token.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

from dllm_fast.errors import CheckpointError, InvalidTypeError, InvalidValueError
from dllm_fast.models.activations import ACTIVATIONS
from dllm_fast.models.batch import Batch
from dllm_fast.models.blank import Embedding, Linear
from dllm_fast.models.fields import flag, positive
from dllm_fast.models.head import decide, decide_bias

if TYPE_CHECKING:
    from dllm_fast.models.checkpoint import Checkpoint

# What transformers takes where config.json leaves a setting out, and what this forward computes: None is anything.
_BERT: dict[str, Any] = {"type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _BERT | {"pad_token_id": 1},
    "xlm-roberta": _BERT | {"pad_token_id": 1},
    "camembert": _BERT | {"pad_token_id": 1},
}
FIXED_SETTINGS: dict[str, object] = {"position_embedding_type": "absolute", "is_decoder": False}

# Of BERT's other heads; and the head twice, which `build` has compared.
HARMLESS: tuple[str, ...] = (
    r"(bert|roberta)\.pooler\.dense\.(weight|bias)",
    r"cls\.seq_relationship\.(weight|bias)",
    r"(cls\.predictions|lm_head)\.decoder\.weight",
    r"(cls\.predictions|lm_head)\.bias",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Sizes, special tokens and form of an `Encoder`, under the names of `config.json`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    mask_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    tie_word_embeddings: bool = True
    model_type: str = "bert"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            _check_size(name, getattr(self, name))
        _check_size("max_position_embeddings", self.max_position_embeddings)
        _check_size("type_vocab_size", self.type_vocab_size)
        if self.hidden_size % self.num_attention_heads:
            raise InvalidValueError(
                f"num_attention_heads must divide hidden_size, got {self.num_attention_heads} and {self.hidden_size}"
            )
        for name in ("mask_token_id", "eos_token_id", "pad_token_id"):
            token: int | None = getattr(self, name)
            if token is not None and not 0 <= token < self.vocab_size:
                raise InvalidValueError(f"{name} must lie in [0, vocab_size={self.vocab_size}), got {token}")
        if self.hidden_act not in ACTIVATIONS:
            raise InvalidValueError(f"hidden_act must be one of {', '.join(ACTIVATIONS)}, got {self.hidden_act!r}")

    @property
    def context(self) -> int:
        """Longest canvas: RoBERTa never uses the positions up to the padding token's id."""
        return self.max_position_embeddings - self.first_position

    @property
    def first_position(self) -> int:
        """Row of the position table that belongs to the first token."""
        return 0 if self.model_type == "bert" else (self.pad_token_id or 0) + 1

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], name: str = "config.json") -> Self:
        """From the object in `config.json`; settings that this forward does not use are ignored.

        Raises:
            CheckpointError: a setting is missing, or asks for another computation.
        """
        family = settings.get("model_type")
        if family not in _DEFAULTS:
            raise CheckpointError(
                f"model_type must be one of {', '.join(_DEFAULTS)} for this forward, got {family!r} in {name}"
            )
        for setting, expected in FIXED_SETTINGS.items():
            if settings.get(setting, expected) != expected:
                raise CheckpointError(
                    f"{setting} must be {expected!r} for this forward, got {settings[setting]!r} in {name}; "
                    "open the model with transformers and pass it to sample instead"
                )
        known = _DEFAULTS[family] | {field: settings[field] for field in cls.__dataclass_fields__ if field in settings}
        known["layer_norm_eps"] = positive(known, "layer_norm_eps", 1e-12)
        known["tie_word_embeddings"] = flag(known, "tie_word_embeddings", default=True)
        if isinstance(known.get("eos_token_id"), list):
            known["eos_token_id"] = None  # several; nothing here needs them
        try:
            return cls(**known)
        except (TypeError, InvalidValueError) as error:
            raise CheckpointError(f"{name}: {error}") from error

    def to_json(self) -> str:
        """The text of a `config.json` that transformers opens as a `BertForMaskedLM`."""
        settings = {
            "architectures": ["BertForMaskedLM"],
            **FIXED_SETTINGS,
            **asdict(self),
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "torch_dtype": "bfloat16",
        }
        return json.dumps(settings, indent=2, sort_keys=True) + "\n"


def _check_size(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidValueError(f"{name} must be a whole number above 0, got {value!r}")


class Embeddings(nn.Module):
    """Token, position and (constant) segment vectors, summed and normalised."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.padding = None if config.model_type == "bert" else config.pad_token_id
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        if self.padding is not None:
            # RoBERTa: a padding token inside a text stands at the position of its own id, and is not counted.
            pads = ids == self.padding
            positions = positions + (self.padding + 1) - pads.cumsum(-1)
            positions = positions.masked_fill(pads, self.padding)
        places = self.position_embeddings(positions)
        segment = self.token_type_embeddings.weight[0]
        return cast(Tensor, self.LayerNorm(self.word_embeddings(ids) + segment + places))


class SelfAttention(nn.Module):
    """Attention of every position to every position that the batch lets it see."""

    def __init__(self, index: int, config: EncoderConfig) -> None:
        super().__init__()
        self.index = index
        self.heads = config.num_attention_heads
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(config.hidden_size, config.hidden_size)
        self.value = Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        rows, length, width = hidden.shape
        shape = (rows, length, self.heads, width // self.heads)
        query, key, value = (project(hidden).view(shape).transpose(1, 2) for project in (self.query, self.key, self.value))
        mixed = batch.attend(self.index, query, key, value)
        return mixed.transpose(1, 2).reshape(rows, length, width)


class Residual(nn.Module):
    """Project back to the width of the stream, add the stream, normalise (the post-norm form)."""

    def __init__(self, config: EncoderConfig, inputs: int) -> None:
        super().__init__()
        self.dense = Linear(inputs, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, update: Tensor, stream: Tensor) -> Tensor:
        return cast(Tensor, self.LayerNorm(self.dense(update) + stream))


class Layer(nn.Module):
    """One transformer layer."""

    def __init__(self, index: int, config: EncoderConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.act = ACTIVATIONS[config.hidden_act]
        self.attention = nn.ModuleDict({"self": SelfAttention(index, config), "output": Residual(config, width)})
        self.intermediate = nn.ModuleDict({"dense": Linear(width, inner)})
        self.output = Residual(config, inner)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        hidden = self.attention["output"](self.attention["self"](hidden, batch), hidden)
        return cast(Tensor, self.output(self.act(self.intermediate["dense"](hidden)), hidden))


class Head(nn.Module):
    """Features for the vocabulary, and the logits; the output matrix is the token table, or its own where that is untied."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        # RoBERTa's head uses GELU whatever the layers use.
        self.act = ACTIVATIONS[config.hidden_act if config.model_type == "bert" else "gelu"]
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        dense = Linear(config.hidden_size, config.hidden_size)
        self.transform = nn.ModuleDict({"dense": dense, "LayerNorm": norm})
        if not config.tie_word_embeddings:
            self.decoder = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.transform["LayerNorm"](self.act(self.transform["dense"](hidden))))


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
        self.layers, self.kv_heads = config.num_hidden_layers, config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.vocabulary, self.context = config.vocab_size, config.context
        layers = nn.ModuleList(Layer(index, config) for index in range(config.num_hidden_layers))
        self.bert = nn.ModuleDict({"embeddings": Embeddings(config), "encoder": nn.ModuleDict({"layer": layers})})
        self.cls = nn.ModuleDict({"predictions": Head(config)})

    def hidden(self, batch: Batch) -> Tensor:
        hidden = self.bert["embeddings"](batch.ids, batch.positions)
        for layer in cast(nn.ModuleDict, self.bert["encoder"])["layer"].children():
            hidden = layer(hidden, batch)
        return cast(Tensor, self.cls["predictions"](hidden))

    def logits(self, hidden: Tensor) -> Tensor:
        head = cast(Head, self.cls["predictions"])
        table = cast(Embeddings, self.bert["embeddings"]).word_embeddings if self.config.tie_word_embeddings else head.decoder
        return F.linear(hidden, table.weight, head.bias)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.dim() != 2 or ids.dtype != torch.int64:
            raise InvalidTypeError(f"ids must be int64 of shape [B, L], got {ids.dtype} of shape {list(ids.shape)}")
        if ids.shape[1] > self.context:
            raise InvalidValueError(
                f"this model has {self.context} positions, got a canvas of {ids.shape[1]}; shorten the prompt or the answer"
            )
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return self.logits(self.hidden(Batch(ids=ids, positions=positions)))


def build(checkpoint: Checkpoint) -> Encoder:
    """The network of a checkpoint, still without values.

    Raises:
        CheckpointError: a setting is missing, or asks for what this forward does not compute.
    """
    config = EncoderConfig.from_settings(checkpoint.config)
    root, head = ("bert", "cls.predictions") if config.model_type == "bert" else ("roberta", "lm_head")
    output = decide(
        checkpoint,
        table=(f"{root}.embeddings.word_embeddings.weight",),
        head=(f"{head}.decoder.weight",),
        tied=config.tie_word_embeddings,
    )
    _, notes = decide_bias(checkpoint, bias=f"{head}.bias", own=f"{head}.decoder.bias")
    network = Encoder(replace(config, tie_word_embeddings=output.tied))
    network.notes = output.notes + notes
    return network


def pieces(network: nn.Module, keys: Collection[str]) -> dict[str, tuple[str, ...]]:
    """For every parameter of an `Encoder` the key that holds it, under the names of the family, new or old."""
    config = cast(Encoder, network).config
    found: dict[str, tuple[str, ...]] = {}
    for name, _ in network.named_parameters():
        names = _names(name, config)
        there = [key for key in names if key in keys]
        # Of two biases on the logits it is the decoder's that the stock classes add; `build` has compared them.
        found[name] = ((there[-1] if name.endswith("predictions.bias") else there[0]) if there else names[0],)
    return found


def _names(name: str, config: EncoderConfig) -> list[str]:
    """The keys under which checkpoints have a parameter, the best first."""
    key = name
    if config.model_type != "bert":
        for ours, theirs in (
            ("bert.", "roberta."),
            ("cls.predictions.transform.dense.", "lm_head.dense."),
            ("cls.predictions.transform.LayerNorm.", "lm_head.layer_norm."),
            ("cls.predictions.", "lm_head."),
        ):
            if name.startswith(ours):
                key = theirs + name.removeprefix(ours)
                break
    if name == "cls.predictions.bias":
        return [key, key.replace(".bias", ".decoder.bias")]
    if name == "bert.embeddings.word_embeddings.weight" and config.tie_word_embeddings:
        return [key, "cls.predictions.decoder.weight" if config.model_type == "bert" else "lm_head.decoder.weight"]
    old = key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return [key, old]
