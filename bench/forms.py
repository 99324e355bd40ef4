"""One step's work after the logits as others do it, in plain torch. Logits `[N, V]` in; tokens and their probability out.

Restated in our own words after the sources named; temperature 1 is written out because every published loop still
divides by it or raises to it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TokenForm = Callable[[Tensor], tuple[Tensor, Tensor]]


def own_dtype(logits: Tensor) -> tuple[Tensor, Tensor]:
    """LLaDA at temperature 0: the softmax stays in the dtype of the logits. The fastest published form on bfloat16."""
    return _greedy(logits, torch.softmax(logits, -1))


def float32(logits: Tensor) -> tuple[Tensor, Tensor]:
    """diffusers at temperature 0."""
    return _greedy(logits, torch.softmax(logits.float(), -1))


def float32_first(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The same, widened once before everything. Nobody is known to ship it; torch's bfloat16 argmax is what it avoids."""
    wide = logits.float()
    return _greedy(wide, torch.softmax(wide, -1))


def float64(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Fast-dLLM at temperature 0."""
    return _greedy(logits, torch.softmax(logits.double(), -1))


def margin_by_sort(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Dream's `topk_margin`: sorts the whole vocabulary to know the two largest. Returns the margin."""
    probabilities = torch.softmax(logits.float(), -1)
    _, token = probabilities.max(-1)
    falling, _ = torch.sort(probabilities, -1, descending=True)
    return token, falling[:, 0] - falling[:, 1]


def margin_by_topk(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The margin without the sort."""
    values, ids = torch.softmax(logits.float(), -1).topk(2, -1)
    return ids[:, 0], values[:, 0] - values[:, 1]


def gumbel_float64(logits: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """LLaDA above temperature 0: one float64 Gumbel variable for every id; its confidence ignores the temperature."""
    wide = logits.double()
    noise = (-torch.log(torch.rand_like(wide))) ** temperature
    return _greedy(wide.exp() / noise, torch.softmax(logits, -1))


def multinomial(logits: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """diffusers above temperature 0."""
    return _drawn(logits.float() / temperature)


def top_p_by_sort(logits: Tensor, top_p: float = 0.95, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Nucleus as Dream, diffusers and transformers cut it: sort, running sum, scatter back."""
    scaled = logits.float() / temperature
    falling, ids = torch.sort(scaled, -1, descending=True)
    dropped = torch.softmax(falling, -1).cumsum(-1) > top_p
    dropped = dropped.roll(1, -1)  # the id that crosses the bound stays
    dropped[:, 0] = False
    return _drawn(scaled.scatter(-1, ids, falling.masked_fill(dropped, -torch.inf)))


def top_k_by_topk(logits: Tensor, top_k: int = 50, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Top-k as diffusers and transformers cut it."""
    scaled = logits.float() / temperature
    least = scaled.topk(top_k, -1).values[:, -1:]
    return _drawn(scaled.masked_fill(scaled < least, -torch.inf))


def min_p_by_mask(logits: Tensor, min_p: float = 0.05, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Min-p as vLLM cuts it, without a sort."""
    scaled = logits.float() / temperature
    probabilities = torch.softmax(scaled, -1)
    least = min_p * probabilities.amax(-1, keepdim=True)
    return _drawn(scaled.masked_fill(probabilities < least, -torch.inf))


def _greedy(keys: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    token = keys.argmax(-1)
    return token, probabilities.gather(-1, token[:, None])[:, 0]


def _drawn(filtered: Tensor) -> tuple[Tensor, Tensor]:
    probabilities = torch.softmax(filtered, -1)
    token = torch.multinomial(probabilities, 1)
    return token[:, 0], probabilities.gather(-1, token)[:, 0]
