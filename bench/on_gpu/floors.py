"""What must be moved and computed at least: with the rates of a card, the time below which nothing can be.

Bytes count once, however often a kernel reads them; no launch, no gap, no latency. Rates are those that the same run measured.
"""

from __future__ import annotations

from dataclasses import dataclass

_BFLOAT16 = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of a card: bytes that a copy reads and writes in a second, and operations of a large bfloat16 product in a second."""

    copy: float
    flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Of a kernel or of many: bytes to and from memory, and operations of matrix products."""

    moved: float
    flops: float = 0.0

    def seconds(self, rates: Rates) -> float:
        """The floor: memory and matrix units are busy at the same time."""
        return max(self.moved / rates.copy, self.flops / rates.flops)

    def __mul__(self, times: int) -> Work:
        return Work(moved=self.moved * times, flops=self.flops * times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """The shape of a decoder, as far as floors need it."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int

    def products(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the matrix products of a layer."""
        return {
            "qkv": (self.width, (self.heads + 2 * self.kv_heads) * self.head_dim),
            "out": (self.heads * self.head_dim, self.width),
            "gate_up": (self.width, 2 * self.inner),
            "down": (self.inner, self.width),
        }

    def weight_bytes(self) -> int:
        """Of the layers, the token table and the head, in bfloat16."""
        layer = sum(inputs * outputs for inputs, outputs in self.products().values())
        return _BFLOAT16 * (self.layers * layer + 2 * self.vocabulary * self.width)


#: The model that all steps are timed with: LLaDA-8B's sizes.
LLADA_8B = Decoder(layers=32, width=4096, heads=32, kv_heads=32, head_dim=128, inner=12_288, vocabulary=126_464)


def product(rows: int, inputs: int, outputs: int, *, weight_bytes: int = _BFLOAT16) -> Work:
    """`[rows, inputs] @ [inputs, outputs]`."""
    moved = weight_bytes * inputs * outputs + _BFLOAT16 * rows * (inputs + outputs)
    return Work(moved=moved, flops=2.0 * rows * inputs * outputs)


def mask_prediction(rows: int, vocabulary: int) -> Work:
    """Logits once, in bfloat16; what it writes is nothing beside them."""
    return Work(moved=_BFLOAT16 * rows * vocabulary)


def attention(*, batch: int, heads: int, kv_heads: int, queries: int, keys: int, head_dim: int) -> Work:
    """Keys and values once, queries and outputs once."""
    moved = _BFLOAT16 * batch * head_dim * (2 * kv_heads * keys + 2 * heads * queries)
    return Work(moved=moved, flops=4.0 * batch * heads * queries * keys * head_dim)


def experts(*, met: int, tokens: int, chosen: int, width: int, inner: int) -> Work:
    """The weights of the experts that any token goes to, once; three matrices each."""
    per_expert = 3 * width * inner
    return Work(moved=_BFLOAT16 * met * per_expert, flops=2.0 * tokens * chosen * per_expert)


def step(model: Decoder, *, batch: int, queries: int, keys: int, scored: int, weight_bytes: int = _BFLOAT16) -> dict[str, Work]:
    """A forward of `queries` positions of each row over `keys` slots, and the head on `scored` lines of each, by part.

    Everything between the products is thought to be fused into them. `weight_bytes` are those of the layers' weights.
    """
    tokens = batch * queries
    layer = {name: product(tokens, *shape, weight_bytes=weight_bytes) for name, shape in model.products().items()}
    parts = {name: work * model.layers for name, work in layer.items()}
    seen = attention(
        batch=batch, heads=model.heads, kv_heads=model.kv_heads, queries=queries, keys=keys, head_dim=model.head_dim
    )
    parts["attention"] = seen * model.layers
    parts["head"] = product(batch * scored, model.width, model.vocabulary)
    return parts


def seconds(parts: dict[str, Work], rates: Rates) -> float:
    """The floor of parts that run one after the other."""
    return sum(work.seconds(rates) for work in parts.values())
