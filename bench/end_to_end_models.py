"""Models for the end-to-end bench: a random one in LLaDA's shape, and a wrapper that counts and times forwards."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects


class Layer(nn.Module):
    """Attention of all positions to all (rotary), then a gated feed-forward, each behind a root-mean-square norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.mixed = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 6 * width, bias=False)
        self.down = nn.Linear(3 * width, width, bias=False)

    def forward(self, hidden: Tensor, angles: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        qkv = self.qkv(self.norms[0](hidden)).view(batch, length, 3, self.heads, width // self.heads).transpose(1, 3)
        query, key, value = qkv.unbind(2)
        mixed = F.scaled_dot_product_attention(_rotated(query, angles), _rotated(key, angles), value)
        hidden = hidden + self.mixed(mixed.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.gate_up(self.norms[1](hidden)).chunk(2, -1)
        return cast(Tensor, hidden + self.down(F.silu(gate) * up))


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class TinyLlada(nn.Module):
    """Ids `[B, L]` to float32 logits `[B, L, vocabulary]`, bidirectional, random weights of a fixed seed.

    The logits have a standard deviation of about 3. The mask is never predicted (its logit is -1e4), because LLaDA's and
    Fast-dLLM's loops would write it.
    """

    def __init__(self, vocabulary: int, mask_id: int, *, width: int = 128, heads: int = 4, layers: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.mask_id = mask_id
        self.table = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=width**-0.5, generator=generator)
        nn.init.normal_(self.head.weight, std=3 * width**-0.5, generator=generator)
        self.frequencies = 10_000.0 ** (-torch.arange(width // heads // 2) * 2 * heads / width)
        self.eval().requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        angles = torch.arange(ids.shape[1])[:, None] * self.frequencies
        hidden = self.table(ids)
        for layer in self.layers:
            hidden = layer(hidden, angles)
        logits = self.head(self.norm(hidden))
        logits[..., self.mask_id] = -1e4
        return cast(Tensor, logits)


class Watched:
    """A model that counts its forwards and the seconds in them. Answers as every contender expects it: `.logits`.

    With `canvas_length`, shorter inputs are filled up with masks first: diffusers' pipeline shows the model only the
    blocks so far (LLaDA2 is block-causal), and a bidirectional model must see the same canvas in every loop.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, model: nn.Module, mask_id: int, canvas_length: int | None = None) -> None:
        self._model = model
        self._mask_id = mask_id
        self._canvas_length = canvas_length
        self.forwards = 0
        self.seconds = 0.0

    def __call__(self, ids: Tensor, **_: Any) -> SimpleNamespace:
        began = time.perf_counter()
        length = ids.shape[1]
        if self._canvas_length is not None:
            ids = F.pad(ids, (0, self._canvas_length - length), value=self._mask_id)
        logits = self._model(ids)[:, :length]
        self.forwards += 1
        self.seconds += time.perf_counter() - began
        return SimpleNamespace(logits=logits)
