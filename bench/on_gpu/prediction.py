"""Mask prediction by rows, vocabulary, and how tokens are drawn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from bench.on_gpu import floors
from bench.on_gpu.stage import Json, SkippedError, Stage, tried
from dllm_fast.kernels.laws import Law
from dllm_fast.ops import launcher
from dllm_fast.ops import mask_predict as device

_PREDICTS, _FILTERS = ("dllm_mask_predict_",), ("dllm_mask_predict_", "dllm_mask_filter_")
#: Name, draw, rows, kernels that it has to launch.
_FORMS: tuple[tuple[str, Law, str, tuple[str, ...]], ...] = (
    ("greedy", Law(), "flat", _PREDICTS),
    ("T=0.7", Law(temperature=0.7), "flat", _PREDICTS),
    ("T=1 top-p 0.9, flat", Law(temperature=1.0, top_p=0.9), "flat", _FILTERS),
    ("T=1 top-p 0.9, peaked", Law(temperature=1.0, top_p=0.9), "peaked", _FILTERS),
    ("T=0.2 top-p 0.95, peaked", Law(temperature=0.2, top_p=0.95), "peaked", _FILTERS),
)


def times(stage: Stage) -> Iterator[Json]:
    """From a graph, with cold caches, beside the time in which the logits can be read once."""
    for vocabulary in stage.pick((126_464, 262_144), (300,)):
        for rows in stage.pick((32, 512, 2048), (3,)):
            case: Json = {"what": f"{rows} x {vocabulary}", "rows": rows, "vocabulary": vocabulary}
            made = {"flat": flat(stage, rows, vocabulary), "peaked": peaked(stage, rows, vocabulary)}
            for name, draw, kind, kernels in _FORMS:
                with tried(case, name):
                    form = stage.graphed(queued(stage, made[kind], draw))
                    case[name] = stage.milliseconds(form, kernels=kernels, samples=10)
                    stage.against(case[name], floors.mask_prediction(rows, vocabulary))
            yield case


def queued(stage: Stage, logits: torch.Tensor, draw: Law) -> Callable[[], None]:
    """What a step does behind the head."""
    if not device.takes(logits):
        raise SkippedError("the kernels cannot be used here; see `dllm-fast doctor`")
    n = len(logits)
    laws = device.Laws.of([draw], logits.shape[1], stage.device)
    told = device.pack(n, laws, {"seed": 1, "position": np.arange(n), "line": np.arange(n)})
    there = launcher.to_device(torch.from_numpy(told), stage.device)
    packed = device.empty_results(n, stage.device)
    return functools.partial(device.queue, logits, there, packed, n, laws.kind)


def flat(stage: Stage, rows: int, vocabulary: int) -> torch.Tensor:
    """Gaussian logits: as many ids as there can be count at temperature 1."""
    return torch.empty(rows, vocabulary, dtype=torch.bfloat16, device=stage.device).normal_()


def peaked(stage: Stage, rows: int, vocabulary: int) -> torch.Tensor:
    """Logits as language models have them: probabilities fall as a power of the rank, the likeliest has about a third."""
    rank = torch.randperm(vocabulary, device=stage.device) + 1
    noise = torch.empty(rows, vocabulary, dtype=torch.bfloat16, device=stage.device).normal_(0, 0.3)
    return noise - (1.5 * rank.float().log()).bfloat16()


def beside_torch(stage: Stage) -> Iterator[Json]:
    """The same statistics in torch: eager, compiled, and as LLaDA's published loop computes them."""
    compiled = None if stage.dry else torch.compile(_eager, dynamic=True)
    for rows, vocabulary in stage.pick(((32, 126_464), (256, 126_464), (32, 262_144)), ((3, 300),)):
        case: Json = {"what": f"{rows} x {vocabulary}"}
        logits = flat(stage, rows, vocabulary)
        with tried(case, "ours"):
            form = stage.graphed(queued(stage, logits, Law()))
            case["ours"] = stage.milliseconds(form, kernels=_PREDICTS)
        with tried(case, "torch"):
            case["torch"] = stage.milliseconds(functools.partial(_eager, logits), samples=5)
        with tried(case, "torch.compile"):
            if compiled is None:
                raise SkippedError("a rehearsal compiles nothing")
            case["torch.compile"] = stage.milliseconds(functools.partial(compiled, logits), samples=10)
        with tried(case, "float64 chain"):
            case["float64 chain"] = stage.milliseconds(functools.partial(_float64_chain, logits), samples=3)
        yield case


def _eager(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The statistics as one writes them in torch: float32 probabilities, the two largest, entropy, log-sum-exp."""
    wide = logits.float()
    total = wide.logsumexp(dim=1)
    p = torch.exp(wide - total[:, None])
    top, ids = p.topk(2, dim=1)
    entropy = total - (p * wide).sum(dim=1)
    return ids[:, 0], top[:, 0], top[:, 1], entropy, total


def _float64_chain(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What LLaDA's published loop computes of every row: Gumbel noise and softmax in float64."""
    wide = logits.to(torch.float64)
    noise = (-torch.log(torch.rand_like(wide))) ** 1.0
    ids = (wide.exp() / noise).argmax(dim=1)
    p = F.softmax(logits.to(torch.float64), dim=1).gather(1, ids[:, None])
    return ids, p
