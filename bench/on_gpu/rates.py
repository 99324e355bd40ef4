"""What this card can do before any of our kernels: its copy, its products, its launches. Floors come from the first two."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import torch
from torch.nn import functional as F  # noqa: N812

from bench.on_gpu import empty, floors
from bench.on_gpu.floors import LLADA_8B, Rates
from bench.on_gpu.stage import Json, Stage, tried
from dllm_fast.kernels.launches import Launch
from dllm_fast.ops import attention as attention_op
from dllm_fast.ops import launcher

_NODES = 400
# All weights of a round together are larger than this, so that none is found in the second-level cache.
_ROUND_BYTES = 256 * 2**20


def card(stage: Stage) -> Iterator[Json]:
    """A copy of 1 GiB, and a product that nothing but the matrix units limits."""
    case: Json = {"what": "copy of 1 GiB"}
    source = torch.zeros(stage.pick(2**30, 2**16), dtype=torch.uint8, device=stage.device)
    target = torch.empty_like(source)
    case["copy"] = stage.milliseconds(lambda: target.copy_(source), cold=False)
    if "ms" in case["copy"]:
        case["copy"]["bytes_per_s"] = 2 * source.numel() / (case["copy"]["ms"] * 1e-3)
    yield case
    size = stage.pick(8192, 64)
    case = {"what": f"bfloat16 product of {size} x {size} x {size}"}
    a, b = (torch.empty(size, size, dtype=torch.bfloat16, device=stage.device).normal_() for _ in range(2))
    case["product"] = stage.milliseconds(lambda: a @ b, cold=False)
    if "ms" in case["product"]:
        case["product"]["flops_per_s"] = 2 * size**3 / (case["product"]["ms"] * 1e-3)
    yield case


def rates_of(cases: list[Json]) -> Rates | None:
    """What `card` found, for floors; None in a rehearsal."""
    copies = [case["copy"].get("bytes_per_s") for case in cases if "copy" in case]
    products = [case["product"].get("flops_per_s") for case in cases if "product" in case]
    if not copies or not products or copies[0] is None or products[0] is None:
        return None
    return Rates(copy=copies[0], flops=products[0])


def launches(stage: Stage) -> Iterator[Json]:
    """What a node of a graph adds on the device, and what launches cost the host."""
    case: Json = {"what": f"a graph of {_NODES} empty kernels"}
    launch = empty.launch(stage)

    def many() -> None:
        for _ in range(_NODES):
            launch()

    graph = stage.graphed(many)
    with tried(case, "graph"):
        case["graph"] = stage.milliseconds(graph, cold=False)
        if "ms" in case["graph"]:
            case["graph"]["us_per_node"] = 1e3 * case["graph"]["ms"] / _NODES
    with tried(case, "host, its launch"):
        case["host, its launch"] = stage.host_us(graph, count=20)
    with tried(case, "host, a graph of one"):
        case["host, a graph of one"] = stage.host_us(stage.graphed(launch))
    yield case
    case = {"what": "one launch outside of graphs"}
    q = torch.zeros(1, 2, 3, 64, dtype=torch.bfloat16, device=stage.device)
    ranges = torch.zeros(1, 3, dtype=torch.int32, device=stage.device)
    with tried(case, "prepared, through the launcher"):
        case["prepared, through the launcher"] = _prepared(stage, q, ranges)
    ours = ("dllm_attention_",)
    with tried(case, "torch.ops.dllm_fast.attention"):
        operation = functools.partial(torch.ops.dllm_fast.attention, q, q, q, ranges, ranges, 1.0)
        case["torch.ops.dllm_fast.attention"] = stage.host_us(operation, kernels=ours)
    with tried(case, "torch add"):
        case["torch add"] = stage.host_us(lambda: q + q)
    yield case


def _prepared(stage: Stage, q: torch.Tensor, ranges: torch.Tensor) -> Json:
    """The launcher alone: arguments that were made before."""
    kept: list[Launch] = []

    def keep(launches: Iterable[Launch]) -> None:
        kept.extend(launches)
        launcher.launch(kept, stage.device)

    out = attention_op.by_kernel(q, q, q, ranges, ranges, 1.0, run=keep)
    found = stage.host_us(lambda: launcher.launch(kept, stage.device), kernels=("dllm_attention_",))
    return found | {"launches": len(kept), "shape": list(out.shape)}


def products(stage: Stage) -> Iterator[Json]:
    """The matrix products of a step as torch does them, by rows: three quarters of a step at batch 1."""
    shapes = LLADA_8B.products() | {"head": (LLADA_8B.width, LLADA_8B.vocabulary)}
    toy = {"qkv": (64, 192), "head": (64, 300)}
    for name, (inputs, outputs) in stage.pick(shapes, toy).items():
        bytes_each = 2 * inputs * outputs
        count = stage.pick(max(1, -(-_ROUND_BYTES // bytes_each)), 1)
        weights = [
            torch.empty(outputs, inputs, dtype=torch.bfloat16, device=stage.device).normal_(0, 0.02) for _ in range(count)
        ]
        rounds = stage.pick(max(1, 8 // count), 1)
        for rows in stage.pick((16, 32, 64, 128, 256), (4,)):
            case: Json = {"what": f"{name} {rows} x {inputs} x {outputs}", "rows": rows, "name": name}
            with tried(case, "product"):
                case["product"] = _product(stage, rows, weights, rounds)
            yield case


def _product(stage: Stage, rows: int, weights: list[torch.Tensor], rounds: int) -> Json:
    outputs, inputs = weights[0].shape
    x = torch.empty(rows, inputs, dtype=torch.bfloat16, device=stage.device).normal_()

    def all_of_them() -> None:
        for _ in range(rounds):
            for weight in weights:
                F.linear(x, weight)

    found = stage.milliseconds(stage.graphed(all_of_them), cold=False, samples=10)
    times = rounds * len(weights)
    work = floors.product(rows, inputs, outputs)
    stage.against(found, work, times=times)
    if "us" in found:
        found["bytes_per_s"] = work.moved / (found["us"] * 1e-6)
    return found
