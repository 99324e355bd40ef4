"""A layer of experts in LLaDA2-mini's shape: 256 of them, 8 for each token."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from bench.on_gpu import floors, model
from bench.on_gpu.stage import Json, Stage, tried
from dllm_fast.networks.experts import Experts, ExpertsConfig

_LLADA2_MINI = {"count": 256, "chosen": 8, "inner": 512, "groups": 8, "chosen_groups": 4, "scale": 2.5}
_TOY = {"count": 8, "chosen": 2, "inner": 64, "groups": 2, "chosen_groups": 1}


def times(stage: Stage) -> Iterator[Json]:
    """From a graph, and as Python launches it, beside the time in which the weights of the experts met can be read once."""
    config = ExpertsConfig(sigmoid=True, bias=True, **stage.pick(_LLADA2_MINI, _TOY))
    width = stage.pick(2048, 64)
    with torch.device("meta"):
        made = Experts(width, config, "silu")
    layer = model.draw(made, stage.device)
    for tokens in stage.pick((32, 4, 256), (5,)):
        x = torch.empty(tokens, width, dtype=torch.bfloat16, device=stage.device).normal_()
        case: Json = {"what": f"one layer, {config.count} experts, {config.chosen} for each of {tokens} tokens"}
        with torch.inference_mode():
            met = len(layer.router(x)[1].unique())
            work = floors.experts(met=met, tokens=tokens, chosen=config.chosen, width=width, inner=config.inner)
            case["experts met"] = met
            with tried(case, "graph"):
                form = stage.graphed(functools.partial(layer, x))
                case["graph"] = stage.milliseconds(form, kernels=("dllm_fused_swiglu",))
                stage.against(case["graph"], work)
            with tried(case, "launched by Python"):
                case["launched by Python"] = stage.milliseconds(functools.partial(layer, x), samples=5)
        yield case
