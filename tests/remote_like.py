"""Models as repositories bring them along with their weights: not on transformers' attention registry, choosy about arguments.

Written for these tests, in the manner of LLaDA (no cache, no position ids, no mask needed) and of LLaDA2 (a mask of four
dimensions, added to the scores, or nothing).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class RemoteConfig(PretrainedConfig):
    model_type = "remote-like"

    def __init__(self, *, width=64, layers=2, heads=4, vocab_size=512, needs_mask=False, sees_ahead=True, **rest):
        self.width, self.layers, self.heads, self.vocab_size = width, layers, heads, vocab_size
        self.needs_mask, self.sees_ahead = needs_mask, sees_ahead
        self.rope_theta = 10000.0
        self.max_sequence_length = 256
        super().__init__(**rest)


class Turn(nn.Module):
    """Rotary angles from a buffer that no checkpoint holds."""

    def __init__(self, config):
        super().__init__()
        half = config.width // config.heads // 2
        self.config = config
        self.register_buffer("inv_freq", config.rope_theta ** -(torch.arange(half) / half), persistent=False)

    def forward(self, x, positions):
        angles = positions[:, None, :, None] * self.inv_freq
        cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.norm, self.mlp_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, 2 * config.width), nn.GELU(), nn.Dropout(0.5), nn.Linear(2 * config.width, config.width)
        )
        self.turn = Turn(config)

    def forward(self, x, mask, positions):
        heads = self.qkv(self.norm(x)).unflatten(-1, (3, self.config.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = self.turn(heads[0], positions), self.turn(heads[1], positions), heads[2]
        causal = mask is None and not self.config.sees_ahead
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


class RemoteLike(PreTrainedModel):
    """No `post_init`, tied weights as a list: what transformers 4 put up with."""

    config_class = RemoteConfig
    _tied_weights_keys = []  # noqa: RUF012, as such files write it

    def __init__(self, config):
        super().__init__(config)
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)

    def get_input_embeddings(self):
        return self.tokens

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=False):
        assert past_key_values is None and not use_cache, "a cache is not supported"  # noqa: PT018
        length = input_ids.shape[1]
        if self.config.needs_mask and (attention_mask is None or attention_mask.shape[1:] != (1, length, length)):
            raise ValueError(f"attention_mask must be [B, 1, {length}, {length}]")
        if attention_mask is not None and attention_mask.dim() == 2:
            attention_mask = attention_mask[:, None, None].bool()
        return self.answer(input_ids, attention_mask, torch.arange(length, device=input_ids.device)[None])

    def answer(self, ids, mask, positions):
        x = self.tokens(ids)
        for block in self.blocks:
            x = block(x, mask, positions)
        return CausalLMOutput(logits=self.head(self.norm(x)).float())


class DreamLike(RemoteLike):
    """Takes positions, as Dream and RND1 do; masks are the caller's."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=False):
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        return self.answer(input_ids, attention_mask, position_ids)


class NoHeadLike(RemoteLike):
    """Its head is a product that no hook sees."""

    def get_output_embeddings(self):
        return None


class LLaDA2MoeModelLM(RemoteLike):
    """The name is in the table of families: block-causal, by a mask that the caller makes."""
