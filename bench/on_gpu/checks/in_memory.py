"""Models in memory, classes of transformers: their steps are captured, and replayed they give the tokens of eager ones."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

import dllm_fast
from bench.on_gpu.checks.models import replayed_eagerly
from bench.on_gpu.stage import Json, Stage
from dllm_fast.ops import launcher
from dllm_fast.transformers import native_engine

PROMPTS = [[7, 8, 9], [11, 12, 13, 14, 15]]
# Heads of a size that our attention has kernels for; the classes compute the rest by themselves.
_SIZES: Json = {"hidden_size": 128, "num_attention_heads": 2}
_CLASSES: dict[str, Json] = {"Llama": {"head_dim": 64, "num_key_value_heads": 2}, "Bert": {}}


def in_memory(stage: Stage) -> Json:
    """A decoder and an encoder, with and without a cache."""
    from tests.native_models import model_of

    wrong, lines = [], []
    for name, more in stage.pick(_CLASSES, {"Llama": _CLASSES["Llama"]}).items():
        model = model_of(name, **_SIZES, **more).to(torch.bfloat16).to(stage.device)
        for cache in stage.pick(("none", "dual"), ("dual",)):
            found = _one(stage, model, cache)
            line = f"{name}, {cache}: {found}"
            print(line, flush=True)
            lines.append(line)
            wrong += [f"{name}, {cache}: {one}" for one in found["wrong"]]
    assert not wrong, wrong
    return {"runs": lines}


def _one(stage: Stage, model: Any, cache: str) -> Json:
    """Runs of a model, and as many of a copy whose steps go through the same buffers outside of graphs."""
    times = range(stage.pick(3, 2))
    settings = {"max_new_tokens": stage.pick(16, 4), "block_length": stage.pick(8, 2), "stop_at_eos": False, "cache": cache}
    wrong: list[str] = []

    def run(model: Any) -> list[np.ndarray]:
        with launcher.counted() as counter:
            result = dllm_fast.sample(model, PROMPTS, **settings)
        kinds = {"_".join(name.split("_")[:2]) for name in counter}
        if kinds != {"dllm_attention", "dllm_mask", "dllm_commit"}:
            wrong.append(f"launched {dict(counter)}")
        replayed.append((result.stats.replayed, result.stats.nfe))
        return list(result.sequences)

    replayed: list[tuple[int, int]] = []
    capture_on = native_engine.capture_on
    try:
        if stage.dry:
            native_engine.capture_on = lambda _: replayed_eagerly
        runs = [run(model) for _ in times]
        refused = dict(dllm_fast.explain(model).refused)
        _, engine = native_engine._ENGINES[model]
        if engine.traceback is not None:
            print(engine.traceback, flush=True)
        counts = list(replayed)
        native_engine.capture_on = lambda _: replayed_eagerly
        alike = [run(other) for other in [copy.deepcopy(model)] for _ in times][-1]
    finally:
        native_engine.capture_on = capture_on
    if "CUDA graphs" in refused:
        wrong.append(f"nothing is captured: {refused['CUDA graphs']}")
    if counts[-1][0] != counts[-1][1]:
        wrong.append(f"the last run replayed {counts[-1][0]} of {counts[-1][1]} forwards")
    others = {f"run {i}": tokens for i, tokens in enumerate(runs, 1)} | {"the same work outside of graphs": alike}
    for name, other in others.items():
        if any(not np.array_equal(a, b) for a, b in zip(runs[0], other, strict=True)):
            wrong.append(f"{name} gives other tokens than run 1")
    return {"replayed": counts, "wrong": wrong}
