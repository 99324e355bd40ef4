"""Is every kernel right? Each section names the kernels that it launches, and fails where others were, or none."""

from __future__ import annotations

import math

import numpy as np
import torch

import dllm_fast
from bench.on_gpu import launched
from bench.on_gpu.stage import Json, Stage
from dllm_fast import _core
from dllm_fast.kernels import launches, layout
from dllm_fast.kernels.laws import Law
from dllm_fast.ops import attention as attention_op
from dllm_fast.ops import launcher
from dllm_fast.ops import mask_predict as device

FIELDS = ("token", "probability", "top1", "top2", "entropy", "logsumexp")
DRAWS: dict[str, Json] = {
    "greedy": {},
    "warm": {"temperature": 1.0},
    "tempered": {"temperature": 0.7},
    "filtered": {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.01},
    # Most of the mass is left out, so a draw that does not know of the filter gives other tokens.
    "filtered and flat": {"temperature": 5.0, "top_k": 9},
}
MASK = 7


def mask_prediction(stage: Stage) -> Json:
    """Every number and every token of the core, bit for bit."""
    vocabularies = stage.pick((1, 50, 4097, 32_000, 126_464, 262_144), (1, 50, 8193))
    cases, wrong = 0, []
    random = torch.Generator().manual_seed(0)
    for vocabulary in vocabularies:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            logits = (torch.randn(stage.pick(33, 3), vocabulary, generator=random) * 4).to(dtype)
            if vocabulary > 50:
                logits[0, :40] = -torch.inf  # a first logit of -inf, and ties
                logits[1, 40:50] = logits[1].max()
                logits[2, 9] = torch.inf
            for name, draw in {**DRAWS, "mixed": _mixed(len(logits), vocabulary)}.items():
                suppress = [0, vocabulary - 1] if vocabulary > 2 else []
                given = {**draw, "seed": 11, "request": 3, "step": 5, "suppress": suppress}
                with launched.nothing():  # the core, also where the emulator stands in for the GPU
                    core = dllm_fast.mask_predict(logits, **given)
                with launched.exactly(launched.of_mask_prediction(logits, **draw)):
                    ours = dllm_fast.mask_predict(logits.to(stage.device), **given).cpu()
                cases += 1
                wrong += _differences(ours, core, f"V={vocabulary} {dtype} {name}")
    return {"cases": cases, "wrong": wrong[:20], "passed": not wrong}


def _mixed(rows: int, vocabulary: int) -> Json:
    """All of them in one call, a row each in turn."""
    turn = [list(DRAWS.values())[row % len(DRAWS)] for row in range(rows)]
    nothing = {"temperature": 0.0, "top_k": vocabulary, "top_p": 1.0, "min_p": 0.0}
    return {name: [draw.get(name, value) for draw in turn] for name, value in nothing.items()}


def _differences(ours: device.TensorPrediction, core: _core.Prediction, where: str) -> list[str]:
    found = []
    for name in FIELDS:
        a, b = getattr(ours, name).numpy(), getattr(core, name)
        bad = np.flatnonzero(~((a == b) | (np.isnan(a) & np.isnan(b))))
        if bad.size:
            found.append(f"{where}: {name}[{bad[0]}] is {a[bad[0]]!r}, the core has {b[bad[0]]!r}; {bad.size} differ")
    return found


def draws(stage: Stage) -> Json:
    """Ten million draws from one row against its probabilities."""
    vocabulary, chunk, chunks = stage.pick((1000, 1_000_000, 10), (40, 1000, 2))
    logits = (torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(3)) * 2).bfloat16().to(stage.device)
    laws = device.Laws.of([Law(temperature=1.0)], vocabulary, stage.device)
    counts = np.zeros(vocabulary)
    for step in range(chunks):
        told = device.pack(chunk, laws, {"seed": 1, "position": np.arange(chunk), "step": step})
        with launched.exactly(launched.of_mask_prediction(logits.expand(chunk, -1), temperature=1.0)):
            tokens = device.predict(logits, told, chunk, laws.kind).cpu().token
        counts += np.bincount(tokens.numpy(), minlength=vocabulary)
    expected = torch.softmax(logits.double().cpu(), 1)[0].numpy() * chunk * chunks
    # Ids that are hardly ever expected share a bin.
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    has_mass = expected > 0
    statistic = float((((observed - expected) ** 2)[has_mass] / expected[has_mass]).sum())
    freedom = int(has_mass.sum()) - 1
    # Wilson and Hilferty: the cube root of a chi-square is nearly normal.
    spread = 2 / (9 * freedom)
    z = ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return {"draws": chunk * chunks, "chi_square": statistic, "freedom": freedom, "z": z, "passed": abs(z) < 4}


def commit(stage: Stage) -> Json:
    """The decisions of the Rust sampler, for every order and cut that the kernel has."""
    cuts: dict[str, tuple[str, float, Json]] = {
        "count": ("count", 0.0, {"steps": 4}),
        "threshold": ("threshold", 0.6, {"threshold": 0.6}),
        "factor": ("factor", 1.5, {"factor": 1.5}),
        "entropy bound": ("entropy_bound", 1.0, {"entropy_bound": 1.0}),
    }
    rng = np.random.default_rng(5)
    wrong, cases = [], 0
    for order in ("confidence", "margin", "entropy", "sampled-confidence"):
        for name, (cut, bound, settings) in cuts.items():
            for masks in stage.pick((4, 32, 256), (4, 8)):
                rows, cases = 3, cases + 1
                core, made = _core_step(rng, rows, masks, order, settings)
                rule = {"order": order, "cut": cut, "bound": bound}
                floor = masks // 4 if cut == "count" else 1
                with launched.exactly(["dllm_commit"]):
                    ours = _kernel_step(stage, made, rows, masks, floor=floor, rule=rule)
                if not np.array_equal(ours, core):
                    place = np.argwhere(ours != core)[0].tolist()
                    wrong.append(f"{order}, {name}, {masks} masks: first difference at row, position {place}")
    return {"cases": cases, "wrong": wrong[:20], "passed": not wrong}


def _core_step(
    rng: np.random.Generator, rows: int, masks: int, order: str, settings: Json
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The canvases after one step of the core on statistics on a coarse grid, so that there are ties."""
    config = dllm_fast.SamplerConfig(mask_token_id=MASK, order=order, **settings)
    canvases = np.full((rows, masks), MASK, dtype=np.int64)
    sampler = _core.Sampler(config, list(canvases), seed=1, request=list(range(rows)))
    assert sampler.next() is not None
    n = rows * masks
    top1 = rng.integers(4, 8, n) / 8
    made = {
        "token": rng.integers(10, 99, n),
        "probability": top1 * rng.integers(0, 3, n) / 2,
        "top1": top1,
        "top2": (1 - top1) * rng.integers(0, 3, n) / 2,
        "entropy": rng.integers(0, 8, n) / 8,
    }
    sampler.feed(prediction=_core.Prediction(**made))
    return np.stack(sampler.canvases), made


def _kernel_step(stage: Stage, made: dict[str, np.ndarray], rows: int, masks: int, *, floor: int, rule: Json) -> np.ndarray:
    n = rows * masks
    places = {"position": np.tile(np.arange(masks), rows), "request": np.repeat(np.arange(rows), masks)}
    arrays = {
        "site_start": np.arange(rows + 1, dtype=np.int32) * masks,
        "floors": np.full(rows, floor, dtype=np.int32),
        "progress": np.zeros(rows),
        "cell": np.arange(n, dtype=np.int32),
        "cells": np.full((rows, masks), MASK, dtype=np.int64),
        "chosen": np.full(n, -1, dtype=np.int32),
        "committed": np.zeros(rows, dtype=np.int32),
        "masks_left": np.zeros(rows, dtype=np.int32),
        "sites": layout.SITES.pack(n, {"seed": 1, **places}),
        "predictions": layout.PREDICTIONS.pack(n, made),
    }
    tensors = {name: torch.from_numpy(array).to(stage.device) for name, array in arrays.items()}
    buffers = launches.CommitBuffers(**{name: tensor.data_ptr() for name, tensor in tensors.items()})
    launcher.launch([launches.commit(buffers, sites=n, rows=rows, mask_id=MASK, **rule)], stage.device)
    cells: np.ndarray = tensors["cells"].cpu().numpy()
    return cells


def attention(stage: Stage) -> Json:
    """Against float64: the error is at most twice what torch loses in the same dtype."""
    shapes = stage.pick(
        [
            (2, 32, 32, 32, 768, 128),
            (1, 28, 4, 32, 4097, 128),
            (1, 8, 8, 200, 300, 64),
            (3, 16, 2, 5, 131, 256),
            (1, 8, 1, 4, 20_000, 128),
        ],
        [(1, 2, 1, 3, 70, 64)],
    )
    cases = []
    for batch, heads, key_heads, queries, keys, depth in shapes:
        random = torch.Generator(stage.device).manual_seed(queries)
        make = {"generator": random, "device": stage.device}
        q = torch.randn(batch, heads, queries, depth, **make).bfloat16()
        k, v = torch.randn(2, batch, key_heads, keys, depth, **make).bfloat16()
        begin = torch.randint(0, keys // 2, (batch, queries), dtype=torch.int32, **make)
        end = torch.randint(0, keys + 1, (batch, queries), dtype=torch.int32, **make)
        begin[:, :1], end[:, :1] = 0, keys
        scale = depth**-0.5
        exact = attention_op._in_torch(q.double(), k.double(), v.double(), begin, end, scale)
        plain = attention_op._in_torch(q, k, v, begin, end, scale)
        with launched.exactly(launched.of_attention(q, k) * 3):
            ours = torch.ops.dllm_fast.attention(q, k, v, begin, end, scale)
            again = torch.ops.dllm_fast.attention(q, k, v, begin, end, scale)
            alone = torch.ops.dllm_fast.attention(q[:1], k[:1], v[:1], begin[:1], end[:1], scale)
        error, torchs = (float((x.double() - exact).abs().max()) for x in (ours, plain))
        cases.append(
            {
                "shape": f"B{batch} H{heads}/{key_heads} q{queries} k{keys} D{depth}",
                "our_error": error,
                "torch_error": torchs,
                "same again": bool(torch.equal(ours, again)),
                "same alone": bool(torch.equal(ours[:1], alone)),
                "passed": error <= 2 * torchs and torch.equal(ours, again) and torch.equal(ours[:1], alone),
            }
        )
    return {"cases": cases, "passed": all(case["passed"] for case in cases)}


def sampling(stage: Stage) -> Json:
    """`sample` with a model on the device writes the tokens that the core chooses from the same logits."""
    vocabulary = 300
    table = (torch.randn(64, vocabulary, generator=torch.Generator().manual_seed(2)) * 3).bfloat16()

    def on(where: torch.device) -> object:
        here = table.to(where)

        def model(ids: torch.Tensor) -> torch.Tensor:
            return here[torch.arange(ids.shape[1], device=where)].expand(len(ids), -1, -1)

        return model

    wrong = []
    rules = [(name, rule) for name, rule in dllm_fast.presets().items() if not rule.verify and rule.verifier_mixture is None]
    plain = (name for name, rule in rules if rule.noise == "mask" and rule.length == "fixed" and rule.remask != "verify")
    presets = sorted(plain)  # of any model
    for preset in presets:
        given = {"preset": preset, "mask_token_id": MASK, "max_new_tokens": stage.pick(16, 4), "seed": [9, 10]}
        if dict(rules)[preset].order == "calibrated":
            given["token_frequencies"] = dllm_fast.TokenFrequencies(range(1, vocabulary + 1))
        with launcher.counted() as counter:
            ours = dllm_fast.sample(on(stage.device), [[1, 2, 3], [4, 5, 6]], **given)
        rule = dllm_fast.presets()[preset]
        law = {"temperature": rule.temperature, "top_k": rule.top_k, "top_p": rule.top_p, "min_p": rule.min_p}
        kernels = launched.of_mask_prediction(table, **law)
        # What a rule remembers is more than the kernels tell: the core looks at the logits then.
        kernels = [] if rule.remembers else kernels
        # Some forwards commit nothing, and then nothing is predicted.
        if counter.keys() != set(kernels) or any(counter[kernel] > ours.stats.nfe for kernel in kernels):
            raise launched.LaunchError(
                f"{preset} must launch {kernels} in some of its {ours.stats.nfe} forwards, got {counter}"
            )
        core = dllm_fast.sample(lambda ids: on(torch.device("cpu"))(ids).float().numpy(), [[1, 2, 3], [4, 5, 6]], **given)
        if any(not np.array_equal(a, b) for a, b in zip(ours.sequences, core.sequences, strict=True)):
            wrong.append(preset)
    return {"presets": len(presets), "wrong": wrong, "passed": not wrong}
