"""A model of LLaDA-8B's shape with random weights, made on the device, and the loop of `sample` over it, step by step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

import dllm_fast
from bench.on_gpu.floors import LLADA_8B
from bench.on_gpu.stage import Stage
from dllm_fast import _core
from dllm_fast.families.model_info import ModelInfo
from dllm_fast.loading.model import LoadedModel
from dllm_fast.networks import quantise
from dllm_fast.networks.decoder import Decoder, DecoderConfig
from dllm_fast.networks.rotary import Rotary
from dllm_fast.runners.graphs import Engine
from dllm_fast.runners.network import NetworkRunner, NetworkSession
from dllm_fast.runners.predictor import Predictor
from dllm_fast.runners.runner import Task

N = TypeVar("N", bound=torch.nn.Module)

PROMPT, NEW, BLOCK = 512, 256, 32
_TOY = {"vocabulary": 300, "width": 64, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 64, "inner": 64}


def network(stage: Stage) -> Decoder:
    """Random weights, drawn where they stay: seconds for 16 GB. Nothing is read from a disk."""
    return draw(blank(stage), stage.device)


def blank(stage: Stage) -> Decoder:
    """The network without weights."""
    sizes = stage.pick(dataclasses.asdict(LLADA_8B), _TOY)
    rotary = Rotary(width=sizes["head_dim"], theta=500_000.0)
    with torch.device("meta"):
        return Decoder(DecoderConfig(context=4096, norm_eps=1e-5, rotary=rotary, rotary_float32=True, **sizes))


def draw(module: N, device: torch.device) -> N:
    """A module of the device `meta` in bfloat16 on a device, norms 1 and everything else small random numbers."""
    return filled(module.to(torch.bfloat16), device)


def filled(module: N, device: torch.device) -> N:
    """The same without a change of dtypes; weights of 8 bits are quantised as `load` does it."""
    module = module.to_empty(device=device).requires_grad_(False).eval()
    random = torch.Generator(device).manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.dtype == quantise.E4M3:
            drawn = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02, generator=random)
            quantise.store(drawn, parameter, module.get_buffer(quantise.scale_name(name)))
        elif "norm" in name:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0, 0.02, generator=random)
    return module


def in_8_bits(stage: Stage) -> LoadedModel:
    """The model of all timed steps, as `load(quantise="fp8")` would have opened it."""
    made = blank(stage).to(torch.bfloat16)
    with torch.device("meta"):
        quantise.prepare(made, stage.device)
    return opened(filled(made, stage.device), stage)


def build(stage: Stage) -> LoadedModel:
    """The model of all timed steps."""
    return opened(network(stage), stage)


def opened(made: Decoder, stage: Stage) -> LoadedModel:
    """A network as `load` would have opened it, with an engine of its own."""
    model = LoadedModel(made, None, info(made, stage, "full"), {})
    # In a rehearsal a "graph" is the function itself, run once as a capture does.
    capture = _rehearsed if stage.dry else None
    model.engine = Engine(made, dtype=torch.bfloat16, where=stage.device, capture=capture)
    return model


def _rehearsed(body: Callable[[], None]) -> Callable[[], None]:
    body()
    return body


def info(made: Decoder, stage: Stage, attention: str) -> ModelInfo:
    """What `load` would say of it."""
    return ModelInfo(
        family="llada",
        mask_token_id=made.vocabulary - 1,
        eos_token_ids=(),
        shift=0,
        attention=attention,  # type: ignore[arg-type]
        block_length=BLOCK if attention == "block_causal" else None,
        dtype=torch.bfloat16,
        device=stage.device,
        vocabulary=made.vocabulary,
        context=4096,
        preset=None,
        defaults={},
        sources={},
        verified="no: random weights",
    )


def sizes(stage: Stage) -> tuple[int, int, int]:
    """Length of the prompt, of the answer, of a block."""
    return stage.pick((PROMPT, NEW, BLOCK), (6, 8, 4))


class WaitingRunner(NetworkRunner):
    """Begins no step before the host has read the one before."""

    def begin(self, task: Task) -> NetworkSession:
        session = super().begin(task)
        session._policy.repeats = lambda *_: 0  # type: ignore[method-assign]
        return session


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
        about = info(model.network, stage, "block_causal" if policy == "exact_block" else "full")  # type: ignore[arg-type]
        prompt, new, block = sizes(stage)
        config = dllm_fast.SamplerConfig(
            mask_token_id=about.mask_token_id,
            block_length=block,
            steps_per_block=block // per_step,
            cache=policy,
        )
        rng = np.random.default_rng(1)
        canvases = [np.append(rng.integers(0, 200, prompt), np.full(new, about.mask_token_id)) for _ in range(batch)]
        seeds, requests = [0] * batch, list(range(batch))
        starts = [prompt] * batch
        self.sampler = _core.Sampler(
            config, canvases, seed=seeds, request=requests, block_start=0 if policy == "exact_block" else starts
        )
        self.predictor = Predictor(self.sampler, config)
        self.session = runner(model.network, about, model.engine).begin(
            Task(
                lengths=[prompt + new] * batch,
                starts=starts,
                prompts=requests,
                mask_token_id=about.mask_token_id or 0,
                cache=policy,
                predictor=self.predictor,
            )
        )
        self.times: list[float] = []

    def step(self) -> bool:
        """One step; False at the end."""
        began = time.perf_counter()
        request = self.sampler.next()
        if request is None:
            return False
        for rows, forward in self.session.parts(request):
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
