"""Cards, the judgements that all estimates rest on, and what an estimate is."""

from __future__ import annotations

from dataclasses import dataclass

from bench.on_gpu import floors
from bench.on_gpu.compiled import Code
from bench.on_gpu.floors import Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Rates that other programs have reached on such a card, and its multiprocessors and their clock."""

    name: str
    rates: Rates
    multiprocessors: int = 132
    clock: float = 1.755e9


H100 = Card(name="H100", rates=Rates(copy=3.0e12, flops=790e12))
H200 = Card(name="H200", rates=Rates(copy=4.3e12, flops=790e12))

# --- judgements

#: From the launch to the first instruction, and from the last one to the end, where a kernel runs behind another in a graph.
LAUNCH_S = 2.0e-6
#: A load that is waited for, with what is done on it.
TRIP_S = 0.8e-6
#: Between two nodes of a graph.
GAP_S = 1.0e-6
#: What a stream through memory reaches of the copy.
STREAM = 0.92
#: The same of keys and values through a ring of two stages, and of parts, a row of each at a time.
PIPED, SCATTERED = 0.85, 0.75
#: Of the slots in which an instruction could be issued.
ISSUE = 0.75
#: Instructions of a tile beside the loop of its sums, counted in its code: 130 of addresses and copies, 4 rounds of 24 for the
#: extremes, 140 for the trees of the sums and the record.
TILE_REST = 370
#: An increment of bins in shared memory by a warp whose lanes meet in a few of the same banks.
ATOMIC_CLOCKS = 8
#: What combines the tiles of a row, in one block: its start, the records, the tile of the maximum once more, two exponentials
#: and a logarithm in float64, five barriers; and for each tile a step of the sums in order.
ROWS_S, ROW_OF_TILE_S = 5.0e-6, 0.01e-6
#: For a draw: its tile once more, and a scan of it.
DRAW_S = 2.0e-6
#: What finds the end of a prefix in a row's bins: sums of a chunk's bins, a scan, one look at the ids of a bin.
CUT_S = 8.0e-6
#: A step of the attention's loop that runs alone on its multiprocessor: its loads, products and softmax wait for each other.
ALONE_CLOCKS = 900
#: Share of the copy that torch's products with few rows reach, by product; nearly all of a step's uncertainty is here.
PRODUCTS = {"qkv": 0.84, "out": 0.65, "gate_up": 0.87, "down": 0.78, "head": 0.87}
#: What torch reaches of the rate of a large product where rows are enough to be bound by it.
LARGE = 0.85
#: The same as `PRODUCTS` for products of our own that stream weights by TMA (docs/cuda.md).
SKINNY = 0.92
#: Of a grouped product with one or two rows an expert.
GROUPED = 0.55
#: The commit: one block a row, a chain of scans and barriers.
COMMIT_S = 8.0e-6
#: What a step has beside its layers and its head: gathers and copies of the inputs, the last norm.
FEW_SMALL_S = 25e-6
#: What the host adds where it waits for a step before it begins the next.
HOST_S = 0.35e-3

_REGISTERS, _THREADS, _SHARED = 65_536, 2048, 227 * 1024
#: Of a multiprocessor: instructions that it can issue in a clock, and bytes that its shared memory gives in one.
SCHEDULERS, PORT_BYTES = 4, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Seconds, the floor beside them, and what the longest part of them is."""

    floor_s: float
    s: float
    limit: str

    @property
    def share(self) -> float:
        """Of the floor's speed."""
        return self.floor_s / self.s


def blocks_on_multiprocessor(code: Code, threads: int, dynamic_bytes: int = 0) -> int:
    """How many blocks of a kernel run side by side on one."""
    registers = -(-code.registers // 8) * 8 * threads
    shared = code.shared_bytes + dynamic_bytes + 1024
    return max(1, min(_REGISTERS // registers, _THREADS // threads, _SHARED // shared, 32))


def in_order(kernels: dict[str, Estimate], work: floors.Work, card: Card) -> Estimate:
    """Kernels one after the other in a graph, beside the floor of what they do together."""
    s = sum(one.s for one in kernels.values()) + GAP_S * (len(kernels) - 1)
    name, longest = max(kernels.items(), key=lambda item: item[1].s)
    limit = f"`{name}`: {longest.limit}" if len(kernels) > 1 else longest.limit
    return Estimate(floor_s=work.seconds(card.rates), s=s, limit=limit)
