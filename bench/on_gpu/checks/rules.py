"""Every preset, and guidance, with a small network on the device: the same tokens whenever it is asked again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

import dllm_fast
from bench.on_gpu.checks import models
from bench.on_gpu.stage import Json, Stage
from dllm_fast.loading.model import LoadedModel
from dllm_fast.ops import launcher
from dllm_fast.runners.graphs import Engine

_END = 5


def rules(stage: Stage) -> Json:
    """Three runs of each: from graphs where the rule has them, captured and replayed; then one without an engine, whose
    products may round otherwise, so that the share of equal tokens is said and not held."""
    network = models._network(stage, head_dim=64, kv_heads=4)
    wrong, lines = [], []
    cases: list[tuple[str, Json]] = [(name, {}) for name in sorted(dllm_fast.presets())]
    cases += [("llada", {"guidance": 1.5}), ("fast-dllm", {"guidance": 1.5, "threshold": 0.02, "cache": "dual"})]
    chosen = ("apd", "block-refinement", "llada", "wino")
    for name, more in cases if not stage.dry else [case for case in cases if case[0] in chosen]:
        line = f"{name} {more}: "
        try:
            found = _one(stage, network, name, more)
        except dllm_fast.DllmFastError as error:
            found = {"refused": str(error)[:300]}
        except Exception as error:  # the other rules are to be seen as well
            found = {"wrong": f"{type(error).__name__}: {error}"[:600]}
        line += str(found)
        print(line, flush=True)
        lines.append(line)
        if "wrong" in found:
            wrong.append(line)
    assert not wrong, wrong
    return {"runs": lines}


def _one(stage: Stage, network: Any, name: str, more: Json) -> Json:
    preset = dllm_fast.presets()[name]
    new = stage.pick(16, 4)
    given: dict[str, Any] = {"preset": name, "max_new_tokens": new, "seed": 3, "stop_at_eos": False, **more}
    if preset.order == "calibrated":
        given["token_frequencies"] = dllm_fast.TokenFrequencies(range(1, network.vocabulary + 1))
    if preset.length != "fixed":
        given |= {"stop_at_eos": True, "eos_token_id": _END, "initial_length": 4}
    if preset.verifier_mixture is not None:
        given["verifier"] = lambda ids: torch.zeros(*ids.shape, network.vocabulary, device=ids.device)
    prompts = stage.pick([[1, 2, 3], [4] * 9], [[1, 2, 3]])
    info = models._info(stage, network, "full")
    model = LoadedModel(network, None, replace(info, mask_token_id=None) if preset.noise == "uniform" else info, {})
    model.engine = Engine(network, dtype=torch.bfloat16, where=stage.device, capture=models._capture(stage))
    with launcher.counted() as counter:
        runs = [dllm_fast.sample(model, prompts, **given) for _ in range(stage.pick(3, 2))]
    trouble = model.engine.traceback or model.engine.trouble
    model.engine = None
    eager = dllm_fast.sample(model, prompts, **given)
    found: Json = {
        "kernels": len(counter),
        "replayed": f"{runs[-1].stats.replayed} of {runs[-1].stats.nfe}",
        "as without an engine": round(
            float(
                np.mean(
                    [
                        np.mean(a == b) if len(a) == len(b) else 0
                        for a, b in zip(runs[0].sequences, eager.sequences, strict=True)
                    ]
                )
            ),
            3,
        ),
    }
    if any(not models._same(list(run.sequences), list(runs[0].sequences)) for run in runs):
        found["wrong"] = "a run gives other tokens than the first"
    elif not counter:
        found["wrong"] = "no kernel was launched"
    elif trouble is not None:
        found["wrong"] = f"nothing is captured: {trouble}"
    return found
