"""NeoBERT (2502.19587): a deep and narrow encoder in Llama's form, whose positions turn neighbours of a head as pairs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

from dllm_fast.checkpoint.fields import flag, positive, whole
from dllm_fast.checkpoint.head import decide
from dllm_fast.errors import CheckpointError, shown
from dllm_fast.networks import angles
from dllm_fast.networks.decoder import RMSNorm
from dllm_fast.networks.layers import Embedding, Linear
from dllm_fast.networks.rotary import Rotary, rotate_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dllm_fast.checkpoint.checkpoint import Checkpoint
    from dllm_fast.networks.batch import Batch

_TABLE, _HEAD = "model.encoder.weight", "decoder.weight"
# Of the published code; its configs may say them, and nothing else is computed.
_FIXED: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("SwiGLU", "swiglu"),
    "rms_norm": (True,),
    "rope": (True,),
    "ngpt": (False,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NeoBertConfig:
    """Sizes of a `NeoBert`."""

    vocabulary: int
    context: int
    width: int
    layers: int
    heads: int
    inner: int
    norm_eps: float
    rotary: Rotary
    tied: bool

    def norm(self) -> RMSNorm:
        """One of its norms."""
        return RMSNorm(self.width, self.norm_eps)


class Layer(nn.Module):
    """Attention, then a gated feedforward, each on the normed stream and added to it."""

    def __init__(self, index: int, config: NeoBertConfig) -> None:
        super().__init__()
        self.index, self.heads = index, config.heads
        self.attention_norm, self.ffn_norm = config.norm(), config.norm()
        self.qkv = Linear(config.width, 3 * config.width, bias=False)
        self.wo = Linear(config.width, config.width, bias=False)
        widen, narrow = Linear(config.width, 2 * config.inner, bias=False), Linear(config.inner, config.width, bias=False)
        self.ffn = nn.ModuleDict({"w12": widen, "w3": narrow})

    def forward(self, x: Tensor, batch: Batch, turns: tuple[Tensor, Tensor]) -> Tensor:
        # Every head has its query, key and value side by side.
        heads = self.qkv(self.attention_norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query, key, value = heads.chunk(3, dim=-1)
        mixed = batch.attend(self.index, rotate_pairs(query, *turns), rotate_pairs(key, *turns), value)
        x = x + self.wo(mixed.transpose(1, 2).flatten(2))
        gate, wide = self.ffn["w12"](self.ffn_norm(x)).chunk(2, dim=-1)
        return cast("Tensor", x + self.ffn["w3"](F.silu(gate) * wide))


class NeoBert(nn.Module):
    """A `Network`; its module tree carries the key names of the published class."""

    def __init__(self, config: NeoBertConfig) -> None:
        super().__init__()
        self.config = config
        self.notes: tuple[str, ...] = ()
        self.rotaries = (config.rotary,)
        self.layers, self.kv_heads, self.head_dim = config.layers, config.heads, config.width // config.heads
        self.vocabulary = config.vocabulary
        self.context: int | None = config.context
        self.model = nn.ModuleDict(
            {
                "encoder": Embedding(config.vocabulary, config.width),
                "transformer_encoder": nn.ModuleList(Layer(index, config) for index in range(config.layers)),
                "layer_norm": config.norm(),
            }
        )
        self.decoder = nn.ParameterDict({"bias": torch.zeros(config.vocabulary)})
        if not config.tied:
            self.decoder["weight"] = torch.empty(config.vocabulary, config.width)

    def hidden(self, batch: Batch) -> Tensor:
        x = self.model["encoder"](batch.ids)
        turns = angles.pair(self.config.rotary, batch)
        for layer in self.model["transformer_encoder"].children():
            x = layer(x, batch, turns)
        return cast("Tensor", self.model["layer_norm"](x))

    def logits(self, hidden: Tensor) -> Tensor:
        table = cast(nn.Embedding, self.model["encoder"]).weight
        return F.linear(hidden, table if self.config.tied else self.decoder["weight"], self.decoder["bias"])


def build(checkpoint: Checkpoint) -> tuple[NeoBert, dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The network of a checkpoint without values, and the keys of its parameters.

    Raises:
        CheckpointError: a setting is missing, or asks for what this forward does not compute.
    """
    config = _read(checkpoint.config)
    output = decide(checkpoint, table=(_TABLE,), head=(_HEAD,), tied=config.tied)
    network = NeoBert(replace(config, tied=output.tied))
    network.notes = output.notes
    pieces: dict[str, tuple[str, ...]] = {name: (name,) for name, _ in network.named_parameters()}
    pieces[_TABLE] = (output.table,)
    return network, pieces, (re.escape(_HEAD),)


def _read(config: Mapping[str, Any]) -> NeoBertConfig:
    for name, allowed in _FIXED.items():
        if config.get(name) is not None and config[name] not in allowed:
            raise CheckpointError(
                f"{name} in config.json must be {' or '.join(map(repr, allowed))} for this encoder, got {shown(config[name])}; "
                "open the model with its own code and pass it to sample instead"
            )
    width, heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
    if width % heads or width // heads % 2:
        raise CheckpointError(
            f"num_attention_heads in config.json must divide hidden_size into heads of even width, got {heads} and {width}; "
            "is it the one of these weights?"
        )
    # Two thirds of what a feedforward without a gate has, up to the next multiple of eight.
    inner = int(2 * whole(config, "intermediate_size") / 3)
    return NeoBertConfig(
        vocabulary=whole(config, "vocab_size"),
        context=whole(config, "max_length", 1024),
        width=width,
        layers=whole(config, "num_hidden_layers"),
        heads=heads,
        inner=-(-inner // 8) * 8,
        norm_eps=positive(config, "norm_eps", 1e-6),
        rotary=Rotary(width=width // heads, theta=10000.0),
        tied=flag(config, "tie_word_embeddings"),
    )
