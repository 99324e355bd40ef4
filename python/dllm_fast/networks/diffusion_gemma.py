"""DiffusionGemma: a decoder that reads its text in two ways with the same weights (Gemma 4, as transformers 5.11 computes it).

What lies before the canvas is encoded: causally, token by token of the finished text. The canvas is denoised: every token of it
sees all of it and what was encoded, and knows what the step before predicted in its place (self-conditioning). The two ways
differ in what they see, in the input of the canvas and in one factor a layer. So one forward may do both: a query says by its
position which it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

from dllm_fast.networks import angles
from dllm_fast.networks.experts import Experts, ExpertsConfig, Feedforward
from dllm_fast.networks.layers import Embedding, Linear
from dllm_fast.networks.rotary import Rotary, rotate

if TYPE_CHECKING:
    from torch import Tensor

    from dllm_fast.networks.batch import Batch

LOCAL, GLOBAL = "sliding_attention", "full_attention"
# Numbers of logits that are softened at once: a quarter of a gigabyte in float32.
_SOFTENED = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionGemmaConfig:
    """Sizes and flags of a `DiffusionGemma`.

    Attributes:
        kinds: of each layer, `sliding_attention` or `full_attention`.
        shapes: heads of keys and values and the width of a head, of each layer. In global layers keys are values, too.
        window: keys that a token of a sliding layer sees, itself among them.
        rotary: the rotation for each kind of layer.
        softcap: logits x become `softcap * tanh(x / softcap)`.
        tied: the head is the token table.
    """

    vocabulary: int
    context: int | None
    width: int
    heads: int
    inner: int
    kinds: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    window: int
    rotary: Mapping[str, Rotary]
    act: str
    norm_eps: float
    bias: bool
    softcap: float
    experts: ExpertsConfig
    tied: bool


class Norm(nn.Module):
    """Root mean square norm, weight and all in float32, then back to the dtype of the input."""

    def __init__(self, width: int, eps: float, *, is_weighed: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if is_weighed else None
        self.width, self.eps = width, eps

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.float()
        return F.rms_norm(x.float(), (self.width,), weight, self.eps).type_as(x)


class Attention(nn.Module):
    """Global or local attention; queries, keys and values are normed by head, and scores not scaled."""

    def __init__(self, index: int, config: DiffusionGemmaConfig) -> None:
        super().__init__()
        self.index, self.heads = index, config.heads
        self.kv_heads, self.head_dim = config.shapes[index]
        is_local = config.kinds[index] == LOCAL
        self.reach = config.window - 1 if is_local else None
        self.parts = (self.heads, self.kv_heads, self.kv_heads) if is_local else (self.heads, self.kv_heads)
        self.qkv = Linear(config.width, sum(self.parts) * self.head_dim, bias=config.bias)
        self.q_norm, self.k_norm = Norm(self.head_dim, config.norm_eps), Norm(self.head_dim, config.norm_eps)
        self.v_norm = Norm(self.head_dim, config.norm_eps, is_weighed=False)
        self.out = Linear(self.heads * self.head_dim, config.width, bias=config.bias)

    def forward(self, x: Tensor, batch: Batch, turns: tuple[Tensor, Tensor]) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2).split(self.parts, dim=1)
        query, key, value = heads[0], heads[1], heads[-1]
        query, key = rotate(self.q_norm(query), *turns), rotate(self.k_norm(key), *turns)
        mixed = batch.attend(self.index, query, key, self.v_norm(value), reach=self.reach, scale=1.0)
        return cast("Tensor", self.out(mixed.transpose(1, 2).flatten(2)))


class Router(nn.Module):
    """Weights and experts of every token, both `[N, chosen]`: a softmax over all, of which the chosen add up to 1."""

    def __init__(self, width: int, config: ExpertsConfig, eps: float) -> None:
        super().__init__()
        self.chosen, self.shrink = config.chosen, width**-0.5
        self.norm = Norm(width, eps, is_weighed=False)
        self.weight = nn.Parameter(torch.empty(config.count, width))
        self.scale = nn.Parameter(torch.ones(width))
        self.expert_scale = nn.Parameter(torch.ones(config.count))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = F.linear(self.norm(x) * self.scale * self.shrink, self.weight)
        weights, experts = scores.softmax(dim=-1, dtype=torch.float32).topk(self.chosen, dim=-1)
        return weights / weights.sum(dim=-1, keepdim=True) * self.expert_scale[experts], experts


class Layer(nn.Module):
    """Attention, then a feedforward and a mixture of experts side by side; each is normed before and behind."""

    def __init__(self, index: int, config: DiffusionGemmaConfig) -> None:
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.kind = config.kinds[index]
        self.attention = Attention(index, config)
        self.mlp = Feedforward(width, config.inner, config.act)
        self.experts = Experts(width, config.experts, config.act)
        self.experts.router = Router(width, config.experts, eps)  # type: ignore[assignment]
        self.before_attention, self.behind_attention = Norm(width, eps), Norm(width, eps)
        self.before_mlp, self.behind_mlp = Norm(width, eps), Norm(width, eps)
        self.before_experts, self.behind_experts = Norm(width, eps), Norm(width, eps)
        self.behind_both = Norm(width, eps)
        # The two ways of reading have a factor of their own.
        self.scalar, self.encoder_scalar = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, batch: Batch, turns: tuple[Tensor, Tensor], is_canvas: Tensor) -> Tensor:
        x = x + self.behind_attention(self.attention(self.before_attention(x), batch, turns))
        flat = x.flatten(0, 1)
        mixed = self.experts.mixed(self.before_experts(flat), *self.experts.router(flat)).view_as(x)
        both = self.behind_mlp(self.mlp(self.before_mlp(x))) + self.behind_experts(mixed)
        x = x + self.behind_both(both)
        return x * torch.where(is_canvas, self.scalar, self.encoder_scalar)


class SelfConditioning(nn.Module):
    """The input of the canvas: its tokens, and a feedforward of what the step before predicted in their places."""

    def __init__(self, config: DiffusionGemmaConfig) -> None:
        super().__init__()
        self.norm = Norm(config.width, config.norm_eps)
        self.mlp = Feedforward(config.width, config.inner, config.act)
        self.behind = Norm(config.width, config.norm_eps, is_weighed=False)

    def forward(self, x: Tensor, soft: Tensor | None) -> Tensor:
        # Of nothing predicted the feedforward makes nothing: it has no bias.
        return cast("Tensor", self.behind(x if soft is None else x + self.mlp(self.norm(soft))))


class DiffusionGemma(nn.Module):
    """A `Conditioned` network: token ids to features, features to logits, logits to what the next step is shown.

    Attributes: `config`, `rotaries` that its positions turn by, and `notes` on the checkpoint for `explain`.
    """

    def __init__(self, config: DiffusionGemmaConfig) -> None:
        super().__init__()
        self.config = config
        self.notes: tuple[str, ...] = ()
        self.rotaries = tuple(config.rotary.values())
        self.slot_shapes, self.layers = config.shapes, len(config.shapes)
        self.kv_heads, self.head_dim = max(kv for kv, _ in config.shapes), max(dim for _, dim in config.shapes)
        self.vocabulary, self.context = config.vocabulary, config.context
        self.embed = Embedding(config.vocabulary, config.width)
        self.conditioning = SelfConditioning(config)
        self.stack = nn.ModuleList(Layer(index, config) for index in range(self.layers))
        self.norm = Norm(config.width, config.norm_eps)
        self.head = None if config.tied else Linear(config.width, config.vocabulary, bias=False)

    def hidden(self, batch: Batch) -> Tensor:
        assert batch.origin is not None
        is_canvas = (batch.positions >= batch.origin)[..., None]
        x = self._scaled(self.embed(batch.ids))
        x = torch.where(is_canvas, self.conditioning(x, batch.soft), x)
        turns = {kind: angles.pair(rotary, batch, dtype=x.dtype) for kind, rotary in self.config.rotary.items()}
        for layer in self.stack:
            x = layer(x, batch, turns[cast("str", layer.kind)], is_canvas)
        return cast("Tensor", self.norm(x))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `[N, V]`, in float32 whatever the dtype of the model."""
        cap = self.config.softcap
        logits = F.linear(hidden, self.embed.weight if self.head is None else self.head.weight).float()
        return logits.div_(cap).tanh_().mul_(cap)

    def soft(self, logits: Tensor, temperature: Tensor) -> Tensor:
        table = self.embed.weight
        step = max(1, _SOFTENED // self.vocabulary)
        parts = [
            # Rounded where the published class rounds: the divided logits, and their probabilities.
            (logits[i : i + step] / temperature[i : i + step, None])
            .to(table.dtype)
            .softmax(dim=-1, dtype=torch.float32)
            .to(table)
            @ table
            for i in range(0, len(logits), step)
        ]
        return self._scaled(torch.cat(parts) if parts else table.new_zeros(0, table.shape[1]))

    def _scaled(self, features: Tensor) -> Tensor:
        """Features of the token table as the layers take them; the factor is rounded to their dtype."""
        return features * torch.tensor(self.config.width**0.5, dtype=features.dtype, device="cpu")
