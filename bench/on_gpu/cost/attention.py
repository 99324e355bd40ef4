"""Attention with heads of 128: as it is, and as it is planned."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from bench.on_gpu import floors
from bench.on_gpu.compiled import Code
from bench.on_gpu.cost.card import (
    ALONE_CLOCKS,
    LAUNCH_S,
    PIPED,
    PORT_BYTES,
    SCATTERED,
    TRIP_S,
    Card,
    Estimate,
    blocks_on_multiprocessor,
    in_order,
)
from dllm_fast.kernels import launches

_DEPTH = 128
# Of a block until its ring is full.
_RAMP_S = 1.2e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How attention is built: as it is, its splits merged in a cluster, or that with `wgmma` on keys that come by TMA."""

    is_merged: bool = False
    shared_reads: float = 1.0


TODAY, MERGED, WGMMA = Form(), Form(is_merged=True), Form(is_merged=True, shared_reads=0.25)
#: Blocks of a cluster at most, and what their exchange takes.
_CLUSTER, _EXCHANGE_S = 8, 1.5e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An attention of heads of 128: batch, heads, key heads, queries, keys."""

    batch: int = 1
    heads: int = 32
    kv_heads: int = 32
    queries: int = 32
    keys: int = 769

    def work(self) -> floors.Work:
        """What it has to do."""
        return floors.attention(head_dim=_DEPTH, **{one.name: getattr(self, one.name) for one in fields(self)})


def attention(card: Card, codes: dict[str, Code], seen: Seen, form: Form = TODAY) -> Estimate:
    """All kernels, beside reading keys, values and queries once."""
    return in_order(kernels(card, codes, seen, form), seen.work(), card)


def kernels(card: Card, codes: dict[str, Code], seen: Seen, form: Form = TODAY) -> dict[str, Estimate]:
    """The kernel, and where there are splits that are merged by another, that."""
    group = seen.heads // seen.kv_heads
    rows = 32 if seen.queries * group <= 32 else 64
    code = codes[f"attention, {rows} rows"]
    splits, keys_per_split = launches.attention_splits(queries=seen.queries, keys=seen.keys, group=group)
    if form.is_merged and splits > _CLUSTER:
        splits, keys_per_split = _CLUSTER, -(-seen.keys // (64 * _CLUSTER)) * 64
    blocks = -(-seen.queries * group // rows) * seen.batch * seen.kv_heads * splits
    side_by_side = blocks_on_multiprocessor(code, 2 * rows, 2 * _DEPTH * (rows + 4 * 64) + 256)
    outputs = float(seen.batch * seen.heads * seen.queries * _DEPTH)
    parts = 4 * outputs * splits if splits > 1 and not form.is_merged else 0.0
    # Each warp reads all keys and values of a step from shared memory for its 16 rows, 512 bytes a load.
    port = code.opcodes["LDSM"] * 512 / PORT_BYTES * (rows // 16) * form.shared_reads
    together = min(side_by_side, math.ceil(blocks / card.multiprocessors))
    step = max(port * together, ALONE_CLOCKS)
    waves = blocks / (card.multiprocessors * side_by_side)
    waves = max(1.0, math.ceil(waves) if waves < 3 else waves)
    compute = waves * (_RAMP_S + keys_per_split / 64 * step / card.clock)
    moved = seen.work().moved + parts
    memory = moved / (card.rates.copy * PIPED)
    why = "memory" if memory > compute else "port of shared memory" if port * together > ALONE_CLOCKS else "latency of a step"
    limit = why if max(compute, memory) > LAUNCH_S + _RAMP_S else "launch and latency"
    s = LAUNCH_S + max(compute, memory) + (_EXCHANGE_S if splits > 1 and form.is_merged else 0.0)
    found = {f"attention, {rows} rows": Estimate(floor_s=moved / card.rates.copy, s=s, limit=limit)}
    if parts:
        read = parts + 2 * outputs
        memory = read / (card.rates.copy * SCATTERED)
        merge = max(TRIP_S, memory, 0.12e-6 * splits)
        limit = "memory" if memory > LAUNCH_S else "launch and latency"
        found["combine"] = Estimate(floor_s=read / card.rates.copy, s=LAUNCH_S + merge, limit=limit)
    return found
