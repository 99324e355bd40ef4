"""One denoise step of a LLaDA-8B-shaped model with random weights: against its floor, and beside the published cached loop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

import dllm_fast
from bench.on_gpu.stage import Json, Stage, tried
from dllm_fast import _core
from dllm_fast.models.decoder import Decoder, DecoderConfig
from dllm_fast.models.graphs import Engine
from dllm_fast.models.loaded import LoadedModel, ModelInfo
from dllm_fast.models.predictor import Predictor
from dllm_fast.models.rotary import Rotary, rotate
from dllm_fast.models.runner import NetworkRunner, Task

PROMPT, NEW, BLOCK = 512, 256, 32
# Milliseconds on an H200, shared page kernels.md, section 4: perfect fusion, no gaps, 4.3 TB/s and 790 TFLOP/s. Cached: 32
# queries over 768 keys, head on 16 rows; full: 768 queries, head on 16 rows of each.
FLOORS = {"cached": {1: 3.65, 8: 5.8, 32: 23.0}, "full": {1: 15.0, 8: 118.0, 32: 473.0}}
POLICIES = ("dual", "exact_block", "prefix", "none")


def build(stage: Stage) -> LoadedModel:
    """Random weights; nothing is read from a disk."""
    sizes = stage.pick(
        {"vocabulary": 126_464, "width": 4096, "layers": 32, "heads": 32, "kv_heads": 32, "head_dim": 128, "inner": 12_288},
        {"vocabulary": 300, "width": 64, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 64, "inner": 64},
    )
    rotary = Rotary(width=sizes["head_dim"], theta=500_000.0)
    with torch.device("meta"):
        network = Decoder(DecoderConfig(context=4096, norm_eps=1e-5, rotary=rotary, rotary_float32=True, **sizes))
    network = network.to(torch.bfloat16).to_empty(device=stage.device).requires_grad_(False).eval()
    random = torch.Generator(stage.device).manual_seed(0)
    for name, parameter in network.named_parameters():
        if "norm" in name:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0, 0.02, generator=random)
    opened = LoadedModel(network, None, _info(network, stage, "full"), {})
    if stage.dry:

        def capture(body: Callable[[], None]) -> Callable[[], None]:
            body()
            return body

        opened.engine = Engine(network, dtype=torch.bfloat16, where=stage.device, capture=capture)
    return opened


def _info(network: Decoder, stage: Stage, attention: str) -> ModelInfo:
    return ModelInfo(
        family="llada",
        mask_token_id=network.vocabulary - 1,
        eos_token_ids=(),
        shift=0,
        attention=attention,  # type: ignore[arg-type]
        block_length=BLOCK if attention == "block_causal" else None,
        dtype=torch.bfloat16,
        device=stage.device,
        vocabulary=network.vocabulary,
        context=4096,
        preset=None,
        defaults={},
        sources={},
        verified="no: random weights",
    )


class WaitingRunner(NetworkRunner):
    """Begins no step before the host has read the one before."""

    def _repeats(self, *_: object) -> bool:
        return False


class Run:
    """The loop of `sample`, step by step, with the time of each.

    Attributes:
        times: seconds of each step.
    """

    def __init__(
        self,
        stage: Stage,
        model: LoadedModel,
        *,
        policy: str,
        batch: int,
        per_step: int,
        runner: type[NetworkRunner] = NetworkRunner,
    ) -> None:
        info = _info(model.network, stage, "block_causal" if policy == "exact_block" else "full")  # type: ignore[arg-type]
        prompt, new, block = sizes(stage)
        config = dllm_fast.SamplerConfig(
            mask_token_id=info.mask_token_id,
            block_length=block,
            steps_per_block=block // per_step,
            cache=policy,
        )
        rng = np.random.default_rng(1)
        canvases = [np.append(rng.integers(0, 200, prompt), np.full(new, info.mask_token_id)) for _ in range(batch)]
        seeds, requests = [0] * batch, list(range(batch))
        self.predictor = Predictor(config)
        self.runner = runner(model.network, info, model.engine)
        self.runner.begin(
            Task(
                lengths=[prompt + new] * batch,
                starts=[prompt] * batch,
                prompts=requests,
                mask_token_id=info.mask_token_id or 0,
                cache=policy,
                predictor=self.predictor,
            )
        )
        starts = 0 if policy == "exact_block" else [prompt] * batch
        self.sampler = _core.Sampler(config, canvases, seed=seeds, request=requests, block_start=starts)
        self.predictor.attach(self.sampler)
        self.times: list[float] = []

    def step(self) -> bool:
        """One step; False at the end."""
        began = time.perf_counter()
        request = self.sampler.next()
        if request is None:
            return False
        for rows, forward in self.runner.parts(request, shift=False):
            logits, lines = forward()
            prediction = self.predictor(logits, rows, lines)
            self.sampler.feed(prediction=prediction, rows=rows)
        self.times.append(time.perf_counter() - began)
        return True

    def go(self, *, seconds: float, most: int) -> None:
        """Steps until there are so many, or so many seconds have passed."""
        until = time.perf_counter() + seconds
        while len(self.times) < most and time.perf_counter() < until and self.step():
            pass


def sizes(stage: Stage) -> tuple[int, int, int]:
    """Length of the prompt, of the answer, of a block."""
    return stage.pick((PROMPT, NEW, BLOCK), (6, 8, 4))


def steps(stage: Stage, model: LoadedModel) -> Json:
    """Milliseconds of a step for each cache policy and batch, and their ratio to the floor."""
    cases = []
    for batch in stage.pick((1, 8, 32), (1, 2)):
        for policy in POLICIES:
            if not stage.has(12, f"steps {policy} batch {batch}"):
                continue
            case: Json = {"batch": batch, "policy": policy}
            with tried(case, "step"):
                case["step"] = _timed_steps(stage, model, policy=policy, batch=batch, per_step=1)
                if policy == "dual":
                    waiting = _timed_steps(stage, model, policy=policy, batch=batch, per_step=1, runner=WaitingRunner)
                    case["step that waits for the one before"] = waiting
                kind = {"dual": "cached", "exact_block": "cached", "none": "full"}.get(policy)
                if kind and not stage.dry:
                    floor = FLOORS[kind][batch]
                    case["floor_ms"], case["of_floor"] = floor, case["step"]["ms"] / floor
            if model.engine is not None:
                case["graphs"] = {"captured": len(model.engine._graphs), "trouble": model.engine.trouble}
            cases.append(case)
            stage.free()
    return {"cases": cases}


def _timed_steps(stage: Stage, model: LoadedModel, *, per_step: int, **given: Any) -> Json:
    block = sizes(stage)[2]
    batch: int = given["batch"]
    warm = Run(stage, model, per_step=per_step, **given)
    measured = Run(stage, model, per_step=per_step, **given)
    # Two blocks: full forwards, captures and compilations are in the first run.
    most = 2 * block // per_step
    for run, seconds in ((warm, 5.0), (measured, 4.0)):
        with run.runner.inference():
            run.go(seconds=seconds, most=most)
    if stage.dry:
        return {"ran": True, "steps": len(measured.times)}
    # The first step fills the cache with the prompt.
    times = [1e3 * t for t in measured.times[1:]] or [1e3 * measured.times[0]]
    return {
        "ms": statistics.median(times),
        "mean_ms": statistics.fmean(times),
        "first_ms": 1e3 * measured.times[0],
        "steps": len(measured.times),
        "tokens_per_s": batch * per_step * len(measured.times) / sum(measured.times),
    }


def tokens_per_second(stage: Stage, model: LoadedModel) -> Json:
    """Tokens in a second at an imposed 1, 4, 8 tokens a step, ours and Fast-dLLM's cached loop on the same weights."""
    cases = []
    for batch in stage.pick((1, 8, 32), (2,)):
        for per_step in stage.pick((1, 4, 8), (1, 2)):
            if not stage.has(10, f"tokens per second, batch {batch}, {per_step} a step"):
                continue
            case: Json = {"batch": batch, "tokens_per_step": per_step}
            with tried(case, "ours, dual"):
                case["ours, dual"] = _timed_steps(stage, model, policy="dual", batch=batch, per_step=per_step)
            with tried(case, "fast-dllm's loop in torch"):
                case["fast-dllm's loop in torch"] = _published(stage, model, batch=batch, per_step=per_step)
            cases.append(case)
            stage.free()
    return {"cases": cases, "steps": "two blocks, the prompt's full forward within; the same forwards on both sides"}


def _published(stage: Stage, model: LoadedModel, *, batch: int, per_step: int) -> Json:
    loop = PublishedLoop(model.network)  # type: ignore[arg-type]
    prompt, new, block = sizes(stage)
    canvas = torch.full((batch, prompt + new), model.info.mask_token_id or 0, dtype=torch.int64, device=stage.device)
    canvas[:, :prompt] = torch.randint(0, 200, (batch, prompt), device=stage.device)
    times: list[float] = []
    with torch.inference_mode():
        for measuring in (False, True):
            stage.synchronize()
            began = time.perf_counter()
            forwards = loop.fill(canvas.clone(), prompt, block, per_step, blocks=2, mask=model.info.mask_token_id or 0)
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
        cos, sin = config.rotary.angles(positions)
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


# --- where the time goes


_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("mask prediction", ("dllm_mask", "dllm_commit")),
    ("attention", ("dllm_attention", "flash", "fmha", "attention")),
    ("products", ("gemm", "cutlass", "nvjet", "xmma", "cublas", "splitk", "gemv")),
    ("copies", ("memcpy", "memset")),
)


def _kind(name: str) -> str:
    lowered = name.lower()
    return next((kind for kind, words in _KINDS if any(word in lowered for word in words)), "elementwise")


_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def breakdown(stage: Stage, model: LoadedModel) -> Json:
    """What a cached step of batch 1 and 8 spends its time on, and how often the host waits in it: once, for the result."""
    found: Json = {}
    for batch in stage.pick((1, 8), (1,)):
        if not stage.has(15, f"breakdown, batch {batch}"):
            continue
        with tried(found, f"batch {batch}"):
            run = Run(stage, model, policy="dual", batch=batch, per_step=1)
            with run.runner.inference():
                run.go(seconds=5.0, most=stage.pick(8, 3))
                found[f"batch {batch}"] = _profiled(stage, run.step, stage.pick(8, 1), f"trace-batch{batch}.json")
        with tried(found, f"head, batch {batch}"):
            found[f"head, batch {batch}"] = _head(stage, model, 16 * batch)
    return found


def _head(stage: Stage, model: LoadedModel, rows: int) -> Json:
    features = torch.randn(rows, model.network.config.width, device=stage.device).bfloat16()  # type: ignore[attr-defined]
    with torch.inference_mode():
        return stage.milliseconds(stage.graphed(lambda: model.network.logits(features)))


def _profiled(stage: Stage, step: Callable[[], object], count: int, name: str) -> Json:
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if stage.device.type == "cuda" else [])
    stage.synchronize()
    with profile(activities=activities) as profiler:
        began = time.perf_counter()
        for _ in range(count):
            step()
        stage.synchronize()
        wall = time.perf_counter() - began
    stage.out.mkdir(parents=True, exist_ok=True)
    if not stage.dry:
        profiler.export_chrome_trace(str(stage.out / name))
    kinds: dict[str, float] = {}
    waits: dict[str, int] = {}
    kernels = 0
    for event in profiler.events() or []:
        if event.device_type != torch.autograd.DeviceType.CPU:
            kinds[_kind(event.name)] = kinds.get(_kind(event.name), 0.0) + event.time_range.elapsed_us() / 1e3 / count
            kernels += 1
        elif event.name in _WAITS:
            waits[event.name] = waits.get(event.name, 0) + 1
    if stage.dry:
        return {"ran": True}
    per_step = wall * 1e3 / count
    # The last synchronisation is ours.
    total = sum(waits.values()) - 1
    return {
        "step_ms_profiled": per_step,
        "ms": kinds,
        "gaps_ms": per_step - sum(kinds.values()),
        "device_operations_per_step": kernels / count,
        "waits": waits,
        "waits_per_step": total / count,
        "passed": total <= count,
        "trace": name,
    }
