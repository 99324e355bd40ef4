"""ModernBERT (2412.13663): an encoder with rotary positions in which most layers look only at their surroundings.

The module tree carries the key names of the stock `ModernBertForMaskedLM`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

from dllm_fast.checkpoint.fields import flag, positive, whole
from dllm_fast.checkpoint.head import decide
from dllm_fast.errors import CheckpointError
from dllm_fast.networks import angles
from dllm_fast.networks.activations import ACTIVATIONS, activation
from dllm_fast.networks.layers import Embedding, Linear
from dllm_fast.networks.rotary import Rotary, rotate

if TYPE_CHECKING:
    from torch import Tensor

    from dllm_fast.checkpoint.checkpoint import Checkpoint
    from dllm_fast.networks.batch import Batch

_KINDS = ("full_attention", "sliding_attention")
_THETA = {"full_attention": 160000.0, "sliding_attention": 10000.0}

_TABLE, _HEAD = "model.embeddings.tok_embeddings.weight", "decoder.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModernBertConfig:
    """Sizes and flags of a `ModernBert`.

    Attributes:
        kinds: of each layer, `full_attention` or `sliding_attention`.
        reach: how many positions away a key of a sliding layer may be.
        rotary: the rotation for each kind of layer.
    """

    vocabulary: int
    context: int
    width: int
    heads: int
    inner: int
    kinds: tuple[str, ...]
    reach: int
    rotary: Mapping[str, Rotary]
    act: str
    head_act: str
    norm_eps: float
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    head_bias: bool
    decoder_bias: bool
    tied: bool

    def norm(self) -> nn.LayerNorm:
        """One of its norms."""
        return nn.LayerNorm(self.width, eps=self.norm_eps, bias=self.norm_bias)


class Attention(nn.Module):
    """Global or local attention with rotated queries and keys."""

    def __init__(self, index: int, config: ModernBertConfig) -> None:
        super().__init__()
        self.index = index
        self.heads = config.heads
        self.reach = config.reach if config.kinds[index] == "sliding_attention" else None
        self.Wqkv = Linear(config.width, 3 * config.width, bias=config.attention_bias)
        self.Wo = Linear(config.width, config.width, bias=config.attention_bias)

    def forward(self, x: Tensor, batch: Batch, turns: tuple[Tensor, Tensor]) -> Tensor:
        heads = self.Wqkv(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = (part.transpose(1, 2) for part in heads.unbind(dim=2))
        mixed = batch.attend(self.index, rotate(query, *turns), rotate(key, *turns), value, reach=self.reach)
        return cast("Tensor", self.Wo(mixed.transpose(1, 2).flatten(2)))


class Feedforward(nn.Module):
    """A gated feedforward (GeGLU, 2002.05202)."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.act = ACTIVATIONS[config.act]
        self.Wi = Linear(config.width, 2 * config.inner, bias=config.mlp_bias)
        self.Wo = Linear(config.inner, config.width, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.Wi(x).chunk(2, dim=-1)
        return cast("Tensor", self.Wo(self.act(value) * gate))


class Layer(nn.Module):
    """Attention, then the feedforward, each on the normed stream and added to it."""

    def __init__(self, index: int, config: ModernBertConfig) -> None:
        super().__init__()
        self.kind = config.kinds[index]
        # The embeddings are normed already, so the first layer does not norm them again.
        self.attn_norm = nn.Identity() if index == 0 else config.norm()
        self.attn = Attention(index, config)
        self.mlp_norm = config.norm()
        self.mlp = Feedforward(config)

    def forward(self, x: Tensor, batch: Batch, turns: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        x = x + self.attn(self.attn_norm(x), batch, turns[self.kind])
        return cast("Tensor", x + self.mlp(self.mlp_norm(x)))


class ModernBert(nn.Module):
    """A `Network`: token ids to features behind the head's transform, features to logits."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.config = config
        self.notes: tuple[str, ...] = ()
        self.rotaries = tuple(config.rotary.values())
        self.layers, self.kv_heads, self.head_dim = len(config.kinds), config.heads, config.width // config.heads
        self.vocabulary = config.vocabulary
        self.context: int | None = config.context
        embeddings = {"tok_embeddings": Embedding(config.vocabulary, config.width), "norm": config.norm()}
        self.model = nn.ModuleDict(
            {
                "embeddings": nn.ModuleDict(embeddings),
                "layers": nn.ModuleList(Layer(index, config) for index in range(len(config.kinds))),
                "final_norm": config.norm(),
            }
        )
        self.head = nn.ModuleDict({"dense": Linear(config.width, config.width, config.head_bias), "norm": config.norm()})
        self.decoder = _Decoder(config)

    def hidden(self, batch: Batch) -> Tensor:
        embeddings = cast(nn.ModuleDict, self.model["embeddings"])
        x = embeddings["norm"](embeddings["tok_embeddings"](batch.ids))
        turns = {}
        for kind in set(self.config.kinds):
            # Rounded to the dtype of the model, but applied in float32, as the stock class does it.
            turns[kind] = angles.pair(self.config.rotary[kind], batch, via=x.dtype)
        for layer in self.model["layers"].children():
            x = layer(x, batch, turns)
        x = self.head["dense"](self.model["final_norm"](x))
        return cast("Tensor", self.head["norm"](ACTIVATIONS[self.config.head_act](x)))

    def logits(self, hidden: Tensor) -> Tensor:
        table = cast(nn.Embedding, cast(nn.ModuleDict, self.model["embeddings"])["tok_embeddings"]).weight
        return F.linear(hidden, table if self.decoder.weight is None else self.decoder.weight, self.decoder.bias)


class _Decoder(nn.Module):
    """The output matrix, unless it is the token table, and its bias, if there is one."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        weight = None if config.tied else nn.Parameter(torch.empty(config.vocabulary, config.width))
        bias = nn.Parameter(torch.zeros(config.vocabulary)) if config.decoder_bias else None
        self.register_parameter("weight", weight)
        self.register_parameter("bias", bias)


def build(checkpoint: Checkpoint) -> tuple[ModernBert, dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The network of a checkpoint as transformers 4 or 5 writes it, without values, and the keys of its parameters.

    Raises:
        CheckpointError: a setting is missing, or asks for what this forward does not compute.
    """
    config = _read(checkpoint.config)
    output = decide(checkpoint, table=(_TABLE,), head=(_HEAD,), tied=config.tied)
    network = ModernBert(replace(config, tied=output.tied))
    network.notes = output.notes
    pieces: dict[str, tuple[str, ...]] = {name: (name,) for name, _ in network.named_parameters()}
    # Where the two are tied, the table lies under either name.
    pieces[_TABLE] = (output.table,)
    return network, pieces, (re.escape(_HEAD),)


def _read(config: Mapping[str, Any]) -> ModernBertConfig:
    width, heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
    if width % heads or width // heads % 2:
        raise CheckpointError(
            f"num_attention_heads in config.json must divide hidden_size into heads of even width, got {heads} and {width}; "
            "is it the one of these weights?"
        )
    return ModernBertConfig(
        vocabulary=whole(config, "vocab_size"),
        context=whole(config, "max_position_embeddings"),
        width=width,
        heads=heads,
        inner=whole(config, "intermediate_size"),
        kinds=_kinds(config),
        reach=whole(config, "local_attention", 128) // 2,
        rotary={kind: _rotary(config, kind, width // heads) for kind in _KINDS},
        act=activation(config, "hidden_activation", "gelu"),
        head_act=activation(config, "classifier_activation", "gelu"),
        norm_eps=positive(config, "norm_eps", 1e-5),
        norm_bias=flag(config, "norm_bias"),
        attention_bias=flag(config, "attention_bias"),
        mlp_bias=flag(config, "mlp_bias"),
        head_bias=flag(config, "classifier_bias"),
        decoder_bias=flag(config, "decoder_bias", default=True),
        tied=flag(config, "tie_word_embeddings", default=True),
    )


def _kinds(config: Mapping[str, Any]) -> tuple[str, ...]:
    layers = whole(config, "num_hidden_layers")
    kinds = config.get("layer_types")
    if kinds is None:
        every = whole(config, "global_attn_every_n_layers", 3)
        kinds = [_KINDS[1] if index % every else _KINDS[0] for index in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in _KINDS for kind in kinds):
        raise CheckpointError(
            f"layer_types in config.json must name one of {' and '.join(_KINDS)} for each of {layers} layers, got {kinds!r}; "
            "is it the one of these weights?"
        )
    return tuple(kinds)


def _rotary(config: Mapping[str, Any], kind: str, head_dim: int) -> Rotary:
    """transformers 5 writes `rope_parameters` by kind of layer, transformers 4 one theta for each kind."""
    by_kind = config.get("rope_parameters")
    given = by_kind.get(kind) if isinstance(by_kind, Mapping) else None
    theta = positive(config, "global_rope_theta", _THETA["full_attention"])
    if kind == "sliding_attention":
        # In transformers 4 a null means the theta of the global layers; left out, it is the default.
        theta = positive(config, "local_rope_theta", theta if "local_rope_theta" in config else _THETA[kind])
    return Rotary.from_config({"rope_parameters": dict(given or {})}, head_dim, theta=theta)
