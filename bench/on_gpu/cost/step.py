"""A step of LLaDA-8B's shape from its parts, and a layer of experts."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.on_gpu import floors
from bench.on_gpu.compiled import Code
from bench.on_gpu.cost import prediction
from bench.on_gpu.cost.attention import MERGED, TODAY, Form, Seen, attention
from bench.on_gpu.cost.card import (
    COMMIT_S,
    FEW_SMALL_S,
    GAP_S,
    GROUPED,
    LARGE,
    LAUNCH_S,
    PRODUCTS,
    SKINNY,
    STREAM,
    TRIP_S,
    Card,
    Estimate,
)
from bench.on_gpu.floors import LLADA_8B
from dllm_fast.runners import shapes

SMALL = {
    # Loads that wait for one another: a row, then its weight; a head and its angles, then slots; two halves; a row twice.
    "add_norm": 2,
    "qkv": 2,
    "swiglu": 1,
    "quantise": 2,
}
#: Numbers that they read and write for a token.
MOVED = {"add_norm": 4 * 4096, "qkv": 2 * 12_288, "swiglu": 3 * 12_288, "quantise": 1.5 * 4096}


def small(card: Card, name: str, tokens: int = 32) -> Estimate:
    """An elementwise kernel of a layer: at batch 1 it moves less than a megabyte, so only latency counts."""
    moved = 2.0 * MOVED[name] * tokens
    latency, memory = TRIP_S * SMALL[name], moved / (card.rates.copy * STREAM)
    limit = "memory" if memory > latency else "launch and latency"
    return Estimate(floor_s=moved / card.rates.copy, s=LAUNCH_S + max(latency, memory), limit=limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The parts of a step in seconds, and the floor of all."""

    parts: dict[str, float]
    floor_s: float

    @property
    def s(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """How a step is built.

    Attributes:
        products: the share of the copy that each product reaches with few rows.
        weight_bytes: of a weight of the layers; 1 for FP8.
        has_own_epilogues: norms, heads and SwiGLU are done in products, which begin early.
        form: of attention.
    """

    products: dict[str, float] = field(default_factory=lambda: PRODUCTS)
    weight_bytes: int = 2
    has_own_epilogues: bool = False
    form: Form = TODAY


AS_IT_IS = Build()
ON_PAPER = Build(products=dict.fromkeys(PRODUCTS, SKINNY), has_own_epilogues=True, form=MERGED)
IN_8_BITS = Build(weight_bytes=1)


def rows_of_graph(batch: int) -> int:
    """What a graph for so many rows computes."""
    return shapes._lines(batch)


def llada_step(card: Card, codes: dict[str, Code], build: Build = AS_IT_IS, *, batch: int = 1) -> Step:
    """LLaDA-8B's shape, a block of 32 over 768 keys in each row, the head on 16 lines of it."""
    layers, rows, scored = LLADA_8B.layers, rows_of_graph(batch), 16 * rows_of_graph(batch)
    tokens = 32 * rows
    sizes = {**LLADA_8B.products(), "head": (LLADA_8B.width, LLADA_8B.vocabulary)}

    def product(name: str) -> float:
        # The head stays as it is under FP8.
        is_head = name == "head"
        work = floors.product(scored if is_head else tokens, *sizes[name], weight_bytes=2 if is_head else build.weight_bytes)
        return max(work.moved / card.rates.copy / build.products[name], work.flops / card.rates.flops / LARGE)

    elementwise = (2 * small(card, "add_norm", tokens).s) + small(card, "qkv", tokens).s + small(card, "swiglu", tokens).s
    parts = {
        "products": layers * sum(product(name) for name in LLADA_8B.products()),
        "attention and its merge": layers * attention(card, codes, Seen(batch=rows), build.form).s,
        "norms, heads, SwiGLU": 0.0 if build.has_own_epilogues else layers * elementwise,
        "gaps": layers * (5 * 0.3e-6 if build.has_own_epilogues else 9 * GAP_S),
        "head": product("head"),
        "mask prediction, commit": prediction.mask_prediction(card, codes, scored, LLADA_8B.vocabulary).s + COMMIT_S,
        "the rest": FEW_SMALL_S,
    }
    if build.weight_bytes == 1:
        parts["rows into 8 bits"] = layers * len(LLADA_8B.products()) * (small(card, "quantise", tokens).s + GAP_S)
    model = floors.step(LLADA_8B, batch=batch, queries=32, keys=769, scored=16, weight_bytes=build.weight_bytes)
    return Step(parts=parts, floor_s=floors.seconds(model, card.rates))


def experts_layer(card: Card, *, met: int = 162, tokens: int = 32) -> Estimate:
    """A layer of experts in LLaDA2-mini's shape: grouped products, and a dozen small kernels of torch around them."""
    work = floors.experts(met=met, tokens=tokens, chosen=8, width=2048, inner=512)
    floor = work.seconds(card.rates)
    return Estimate(floor_s=floor, s=floor / GROUPED + 14 * (LAUNCH_S + GAP_S), limit="grouped products of one or two rows")
