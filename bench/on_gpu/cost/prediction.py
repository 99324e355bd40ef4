"""The kernels of a mask prediction: the pass over the logits, filters, and what combines a row."""

from __future__ import annotations

import math
from dataclasses import fields

from bench.on_gpu import floors
from bench.on_gpu.compiled import Code
from bench.on_gpu.cost.card import (
    ATOMIC_CLOCKS,
    CUT_S,
    DRAW_S,
    ISSUE,
    LAUNCH_S,
    ROW_OF_TILE_S,
    ROWS_S,
    SCHEDULERS,
    STREAM,
    TILE_REST,
    TRIP_S,
    Card,
    Estimate,
    blocks_on_multiprocessor,
    in_order,
)
from dllm_fast.kernels import launches
from dllm_fast.kernels.laws import Law, kind_for

# Of a block's bins, of the record of a tile, and of the two tiles that `rows` looks at again.
_BINS, _RECORD, _LOOKED_AT = 16_384, launches.RECORD_BYTES, 2 * 2 * launches.TILE


def mask_prediction(
    card: Card, codes: dict[str, Code], rows: int, vocabulary: int, *, temperature: float = 0.0, top_p: float | None = None
) -> Estimate:
    """All kernels, beside reading the logits once."""
    found = kernels(card, codes, rows, vocabulary, temperature=temperature, top_p=top_p)
    return in_order(found, floors.mask_prediction(rows, vocabulary), card)


def kernels(
    card: Card, codes: dict[str, Code], rows: int, vocabulary: int, *, temperature: float = 0.0, top_p: float | None = None
) -> dict[str, Estimate]:
    """Each kernel, in order. Filters are estimated for rows in which no tile can be left out, the worst case."""
    found: dict[str, Estimate] = {}
    for launch in launches_of(rows, vocabulary, temperature=temperature, top_p=top_p):
        name = launch.kernel.removeprefix("dllm_mask_predict_").removeprefix("dllm_mask_filter_").removesuffix("_bf16")
        name = name.replace("_", " ")
        if name == "count":
            found[name] = _count(card, codes[name], launch, rows, vocabulary)
        elif name == "cut":
            chunks = -(-launches.bins_bytes(dtype="bfloat16", sites=rows, vocabulary=vocabulary) // (rows * _BINS))
            moved = rows * (chunks * _BINS + 2 * vocabulary / chunks)
            chain, memory = CUT_S * _waves(card, codes[name], launch), moved / (card.rates.copy * STREAM)
            limit = "memory" if memory > chain else "latency, a block a row"
            found[name] = Estimate(floor_s=moved / card.rates.copy, s=LAUNCH_S + max(chain, memory), limit=limit)
        elif name == "rows":
            found[name] = _rows(card, codes[name], launch, rows, vocabulary, draws=temperature > 0)
        else:
            found[name] = _tiles(card, codes[name], launch, rows, vocabulary)
    return found


def launches_of(rows: int, vocabulary: int, *, temperature: float = 0.0, top_p: float | None = None) -> list[launches.Launch]:
    """What is launched, for its grids."""
    nowhere = launches.MaskPredictBuffers(**{one.name: 0 for one in fields(launches.MaskPredictBuffers)})
    shape = {"sites": rows, "vocabulary": vocabulary, "stride": vocabulary}
    kind = kind_for([Law(temperature=temperature, top_p=top_p)], vocabulary)
    return launches.mask_predict(nowhere, dtype="bfloat16", kind=kind, **shape)  # type: ignore[arg-type]


def instructions_of_tile(code: Code) -> float:
    """That a warp issues for a tile: its loop as often as the ids of a lane need it, and the rest."""
    ids_of_lane = launches.TILE // 32
    ids_of_round = max(code.read["LDS"], code.read["LDG"]) // 2
    if not code.loop or not ids_of_round:
        raise SystemExit(
            "a tile must be a loop over 16-byte loads, got unrolled code; see python -m bench.sass mask_predict.bf16"
        )
    return code.loop * ids_of_lane / ids_of_round + TILE_REST


def _tiles(card: Card, code: Code, launch: launches.Launch, rows: int, vocabulary: int) -> Estimate:
    """A pass over the logits, a warp a tile."""
    threads = math.prod(launch.block)
    by_one = math.prod(launch.grid) / card.multiprocessors
    side_by_side = blocks_on_multiprocessor(code, threads, launch.shared_bytes)
    # Few blocks come in whole waves.
    rounds = math.ceil(by_one) if by_one <= 2 * side_by_side else by_one
    issue = rounds * (threads // 32) * instructions_of_tile(code) / (SCHEDULERS * card.clock * ISSUE)
    work = floors.mask_prediction(rows, vocabulary)
    memory = work.moved / (card.rates.copy * STREAM)
    wait = TRIP_S if by_one <= side_by_side else 0.0
    _, limit = max((memory, "memory"), (issue, "issue of instructions"), (LAUNCH_S + wait, "launch and latency"))
    return Estimate(floor_s=work.seconds(card.rates), s=LAUNCH_S + wait + max(memory, issue), limit=limit)


def _count(card: Card, code: Code, launch: launches.Launch, rows: int, vocabulary: int) -> Estimate:
    """Bins of a row's logits: instructions, or increments in shared memory."""
    by_one = math.ceil(launch.grid[0] / card.multiprocessors)
    warps = by_one * rows * vocabulary / 32 / launch.grid[0]  # each of 32 ids, on the multiprocessor with most
    ids_of_round = code.read["LDG"] // 16 * 8  # what is read besides is for the bits of suppressed ids
    issue = code.loop / ids_of_round / (SCHEDULERS * ISSUE)
    clocks = warps * max(issue, ATOMIC_CLOCKS)
    moved = floors.mask_prediction(rows, vocabulary).moved + launch.grid[0] * _BINS
    start = LAUNCH_S + 3 * TRIP_S
    why = "issue of instructions" if issue > ATOMIC_CLOCKS else "atomics in shared memory"
    limit = why if clocks / card.clock > start else "launch and latency"
    return Estimate(floor_s=moved / card.rates.copy, s=start + clocks / card.clock, limit=limit)


def _rows(card: Card, code: Code, launch: launches.Launch, rows: int, vocabulary: int, *, draws: bool) -> Estimate:
    """What combines the tiles of a row: one chain of steps, a block a row."""
    tiles = launches.tiles(vocabulary)
    chain = ROWS_S + ROW_OF_TILE_S * tiles + (DRAW_S if draws else 0.0)
    moved = rows * (tiles * _RECORD + _LOOKED_AT)
    return Estimate(floor_s=moved / card.rates.copy, s=chain * _waves(card, code, launch), limit="latency, a block a row")


def _waves(card: Card, code: Code, launch: launches.Launch) -> float:
    """How often the chain of a block is waited for; blocks that share a multiprocessor slow each other down."""
    side_by_side = blocks_on_multiprocessor(code, math.prod(launch.block), launch.shared_bytes)
    by_one = math.prod(launch.grid) / card.multiprocessors
    return 1.0 if by_one <= 1 else math.ceil(by_one / side_by_side) * (1.6 if side_by_side > 1 else 1.0)
