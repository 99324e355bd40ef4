"""The one decoder: LLaDA, Dream, SDAR, LLaDA2 and their kin are this transformer with different flags.

Pre-norm RMSNorm layers with rotary positions and a gated feedforward, as in Llama, Qwen2, Qwen3 and GLM-4-MoE. Which key a
query sees is not decided here but by the `Batch`: the same weights run bidirectionally, by blocks or causally. Projections
that read the same input are one matrix (query, key, value; gate, up).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

from dllm_fast.networks import angles
from dllm_fast.networks.angles import Turns
from dllm_fast.networks.experts import Experts, ExpertsConfig, Feedforward
from dllm_fast.networks.layers import Embedding, Linear
from dllm_fast.networks.rotary import Rotary, rotate
from dllm_fast.ops import fallback, fused

if TYPE_CHECKING:
    from torch import Tensor

    from dllm_fast.networks.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Sizes and flags of a `Decoder`.

    Attributes:
        vocabulary: rows of the token table, which is the number of logits.
        context: longest canvas, or None.
        width, layers, heads, kv_heads, head_dim, inner: the shape.
        rotary_float32: positions are turned in float32 whatever the dtype of the model (LLaDA).
        qkv_bias, out_bias: biases of the attention's projections in, and out.
        qk_norm: RMSNorm of every query and key head, before the rotation.
        act: activation of the gate, a key of `ACTIVATIONS`.
        tied: the head is the token table.
        experts: the mixture, or None; `dense` holds the layers that have none all the same.
        clip: bound on queries, keys and values, or None.
        logit_scale: factor on the logits.
        query_growth, query_span: queries at position p are multiplied by `1 + query_growth * ln(1 + p // query_span)`.
    """

    vocabulary: int
    context: int | None
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    norm_eps: float
    rotary: Rotary
    rotary_float32: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    act: str = "silu"
    tied: bool = False
    experts: ExpertsConfig | None = None
    dense: frozenset[int] = frozenset()
    clip: float | None = None
    logit_scale: float = 1.0
    query_growth: float = 0.0
    query_span: int = 1


class RMSNorm(nn.Module):
    """Root mean square norm (1910.07467): in float32, back to the dtype of the input, then the weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x, None)[1]

    def after(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """`x + delta`, and its norm."""
        return fused.add_norm(x, delta, self.weight, self.eps)


class Layer(nn.Module):
    """Attention, then a feedforward or a mixture of experts, each on the normed stream and added to it."""

    def __init__(self, index: int, config: DecoderConfig) -> None:
        super().__init__()
        self.index = index
        self.config = config
        rows = (config.heads + 2 * config.kv_heads) * config.head_dim
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.qkv = Linear(config.width, rows, bias=config.qkv_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.out = Linear(config.heads * config.head_dim, config.width, bias=config.out_bias)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)
        sparse = config.experts is not None and index not in config.dense
        self.mlp = (
            Experts(config.width, config.experts, config.act)  # type: ignore[arg-type]
            if sparse
            else Feedforward(config.width, config.inner, config.act)
        )

    def forward(self, x: Tensor, delta: Tensor | None, batch: Batch, turns: Turns) -> tuple[Tensor, Tensor]:
        """The stream, and what is still to be added to it: the next norm does both at once."""
        x, normed = self.attention_norm.after(x, delta)
        x, normed = self.mlp_norm.after(x, self.attention(normed, batch, turns))
        return x, self.mlp(normed)

    def attention(self, x: Tensor, batch: Batch, turns: Turns) -> Tensor:
        config = self.config
        projected = self.qkv(x)
        is_plain = config.clip is None and turns.growth is None
        if not is_plain:
            fallback.tell(x.device, fallback.CHANGED_QUERIES)
        if is_plain and fused.takes_qkv(projected, heads := self.heads()):
            mixed = batch.attend_projected(self.index, projected, heads, turns.exact)
        else:
            mixed = self._attend(projected, batch, turns)
        return cast("Tensor", self.out(mixed.transpose(1, 2).flatten(2)))

    def heads(self) -> fused.Heads:
        """The layout of the projection."""
        config = self.config
        return fused.Heads(
            queries=config.heads,
            keys=config.kv_heads,
            depth=config.head_dim,
            norms=(self.q_norm.weight, self.k_norm.weight) if config.qk_norm else None,
            eps=config.norm_eps,
            is_wide=config.rotary_float32,
        )

    def _attend(self, projected: Tensor, batch: Batch, turns: Turns) -> Tensor:
        config = self.config
        heads = projected.unflatten(-1, (-1, config.head_dim)).transpose(1, 2)  # type: ignore[no-untyped-call]
        query, key, value = heads.split((config.heads, config.kv_heads, config.kv_heads), dim=1)
        if config.qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        if config.clip is not None:
            query, key, value = (part.clamp(-config.clip, config.clip) for part in (query, key, value))
        query, key = rotate(query, *turns.rounded), rotate(key, *turns.rounded)
        if turns.growth is not None:
            query = query * turns.growth
        return batch.attend(self.index, query, key, value)


class Decoder(nn.Module):
    """A `Network`: token ids to features, features to logits.

    Attributes: `config`, `rotaries` that its positions turn by, and `notes` on the checkpoint for `explain`.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.notes: tuple[str, ...] = ()
        self.rotaries = (config.rotary,)
        self.layers, self.kv_heads, self.head_dim = config.layers, config.kv_heads, config.head_dim
        self.vocabulary, self.context = config.vocabulary, config.context
        self.embed = Embedding(config.vocabulary, config.width)
        self.stack = nn.ModuleList(Layer(i, config) for i in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = None if config.tied else Linear(config.width, config.vocabulary, bias=False)

    def hidden(self, batch: Batch) -> Tensor:
        config = self.config
        x = self.embed(batch.ids)
        growth = angles.growth(config.query_growth, config.query_span, batch, x.dtype) if config.query_growth else None
        turns = Turns(config.rotary, batch, torch.float32 if config.rotary_float32 else x.dtype, growth)
        delta: Tensor | None = None
        for layer in self.stack:
            x, delta = layer(x, delta, batch, turns)
        return self.norm.after(x, delta)[1]

    def logits(self, hidden: Tensor) -> Tensor:
        logits = F.linear(hidden, self.embed.weight if self.head is None else self.head.weight)
        return logits if self.config.logit_scale == 1.0 else logits * self.config.logit_scale
