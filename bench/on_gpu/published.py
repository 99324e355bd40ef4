"""The published cached loop on our weights, to compare tokens in a second with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from bench.on_gpu import model, steps
from bench.on_gpu.stage import Json, Stage, tried
from dllm_fast.loading.model import LoadedModel
from dllm_fast.networks.decoder import Decoder
from dllm_fast.networks.rotary import rotate


def tokens_per_second(stage: Stage) -> Iterator[Json]:
    """At an imposed 1, 4, 8 tokens a step over two blocks, the prompt's full forward within; as many forwards for both."""
    for batch in stage.pick((1, 8, 32), (2,)):
        for per_step in stage.pick((1, 4, 8), (1, 2)):
            case: Json = {"what": f"batch {batch}, {per_step} tokens a step", "batch": batch, "tokens_per_step": per_step}
            with tried(case, "ours, dual"):
                case["ours, dual"] = steps.timed(stage, steps.llada(stage), policy="dual", batch=batch, per_step=per_step)
            with tried(case, "fast-dllm's loop in torch"):
                case["fast-dllm's loop in torch"] = _published(stage, steps.llada(stage), batch=batch, per_step=per_step)
            yield case


def _published(stage: Stage, opened: LoadedModel, *, batch: int, per_step: int) -> Json:
    loop = PublishedLoop(opened.network)  # type: ignore[arg-type]
    prompt, new, block = model.sizes(stage)
    mask = opened.info.mask_token_id or 0
    canvas = torch.full((batch, prompt + new), mask, dtype=torch.int64, device=stage.device)
    canvas[:, :prompt] = torch.randint(0, 200, (batch, prompt), device=stage.device)
    times: list[float] = []
    with torch.inference_mode():
        for measuring in (False, True):
            stage.synchronize()
            began = time.perf_counter()
            forwards = loop.fill(canvas.clone(), prompt, block, per_step, blocks=2, mask=mask)
            stage.synchronize()
            if measuring:
                times.append(time.perf_counter() - began)
    if stage.dry:
        return {"ran": True, "steps": forwards}
    return {"mean_ms": 1e3 * times[0] / forwards, "steps": forwards, "tokens_per_s": batch * per_step * forwards / times[0]}


class PublishedLoop:
    """The dual cache of Fast-dLLM (2505.22618) as its repository runs it, written anew in plain torch on our weights.

    A full forward at the start of a block, whose keys and values are kept; between, the block alone, which replaces its own.
    Statistics in float64 over the block, and the host asks after every step how many masks are left.
    """

    def __init__(self, network: Decoder) -> None:
        self._network = network

    def fill(self, canvas: torch.Tensor, prompt: int, block: int, per_step: int, *, blocks: int, mask: int) -> int:
        """Fills blocks of a canvas in place. Returns the number of forwards."""
        forwards = 0
        for b in range(blocks):
            start, stop = prompt + b * block, prompt + (b + 1) * block
            logits, kept = self._forward(canvas, 0, None)
            forwards += 1
            self._commit(canvas, logits[:, start:stop], start, stop, per_step, mask)
            while bool((canvas[:, start:stop] == mask).any()):
                logits, _ = self._forward(canvas[:, start:stop], start, kept)
                forwards += 1
                self._commit(canvas, logits, start, stop, per_step, mask)
        return forwards

    @staticmethod
    def _commit(  # noqa: PLR0917
        canvas: torch.Tensor, logits: torch.Tensor, start: int, stop: int, per_step: int, mask: int
    ) -> None:
        logits[..., mask] = -torch.inf
        proposals = logits.argmax(dim=-1)
        p = F.softmax(logits.to(torch.float64), dim=-1).gather(-1, proposals[..., None])[..., 0]
        part = canvas[:, start:stop]
        confidence = torch.where(part == mask, p, -torch.inf)
        chosen = torch.zeros_like(part, dtype=torch.bool)
        for row in range(len(part)):
            places = confidence[row].topk(min(per_step, int((part[row] == mask).sum()))).indices
            chosen[row, places] = True
        part[chosen] = proposals[chosen]

    def _forward(self, ids: torch.Tensor, start: int, kept: list[Any] | None) -> tuple[torch.Tensor, list[Any]]:
        network = self._network
        config = network.config
        positions = torch.arange(start, start + ids.shape[1], device=ids.device).expand_as(ids)
        turned = positions[:, None, :, None].float() * config.rotary.frequencies(ids.device)
        cos, sin = turned.cos(), turned.sin()
        x = network.embed(ids)
        new: list[Any] = []
        for i, layer in enumerate(network.stack):
            heads = layer.qkv(_norm(x, layer.attention_norm)).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)
            q, k, v = heads.split((config.heads, config.kv_heads, config.kv_heads), dim=1)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            if kept is not None:
                old_k, old_v = kept[i]
                end = start + ids.shape[1]
                k = torch.cat((old_k[:, :, :start], k, old_k[:, :, end:]), dim=2)
                v = torch.cat((old_v[:, :, :start], v, old_v[:, :, end:]), dim=2)
            new.append((k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=config.heads != config.kv_heads)
            x = x + layer.out(mixed.transpose(1, 2).flatten(2))
            gate, up = layer.mlp.gate_up(_norm(x, layer.mlp_norm)).chunk(2, dim=-1)
            x = x + layer.mlp.down(F.silu(gate) * up)
        return network.logits(_norm(x, network.norm)), new


def _norm(x: torch.Tensor, norm: Any) -> torch.Tensor:
    wide = x.float()
    return norm.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)).to(x.dtype)  # type: ignore[no-any-return]
