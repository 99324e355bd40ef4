"""How long kernels and a step should take on a card: a model of first order, before anybody has run them.

A kernel takes what it takes to start, and then the longest of what memory, the issue of instructions, the port of shared
memory and its own chain of dependent steps allow. Instructions and registers are those of the compiled code
(results/compiled.json), grids those of `launches`. The constants below are judgements; each is replaced by what a card has
shown once one has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from bench.on_gpu import floors
from bench.on_gpu.compiled import Code
from bench.on_gpu.floors import LLADA_8B, Rates
from dllm_fast import launches
from dllm_fast.models import shapes


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
#: Of the slots in which an instruction could be issued.
ISSUE = 0.75
#: Instructions of a tile beside the loop of its sums, counted in its code: 130 of addresses and copies, 4 rounds of 24 for the
#: extremes, 140 for the trees of the sums and the record.
TILE_REST = 370
#: An increment of bins in shared memory by a warp whose lanes meet in a few of the same banks.
ATOMIC_CLOCKS = 8
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
#: Small kernels of torch that put the rows of a product into 8 bits: largest, scale, bound, quotient, rounding.
QUANTISING_KERNELS = 5
#: The commit: one block a row, a chain of scans and barriers.
COMMIT_S = 8.0e-6
#: What a step has beside its layers and its head: gathers and copies of the inputs, the last norm.
FEW_SMALL_S = 25e-6
#: What the host adds where it waits for a step before it begins the next.
HOST_S = 0.35e-3

_DEPTH = 128
_REGISTERS, _THREADS, _SHARED = 65_536, 2048, 227 * 1024
_SCHEDULERS, _PORT_BYTES = 4, 128


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


# --- mask prediction


def instructions_of_tile(code: Code) -> float:
    """That a warp issues for a tile: its loop as often as the ids of a lane need it, and the rest."""
    ids_of_lane = launches.TILE // 32
    ids_of_round = max(code.read["LDS"], code.read["LDG"]) // 2
    if not code.loop or not ids_of_round:
        raise SystemExit(
            "a tile must be a loop over 16-byte loads, got unrolled code; see python -m bench.sass mask_predict.bf16"
        )
    return code.loop * ids_of_lane / ids_of_round + TILE_REST


def launches_of(rows: int, vocabulary: int, *, temperature: float = 0.0, top_p: float | None = None) -> list[launches.Launch]:
    """What a mask prediction launches, for its grids."""
    nowhere = launches.MaskPredictBuffers(**{one.name: 0 for one in fields(launches.MaskPredictBuffers)})
    shape = {"sites": rows, "vocabulary": vocabulary, "stride": vocabulary}
    return launches.mask_predict(nowhere, dtype="bfloat16", temperature=temperature, top_p=top_p, **shape)  # type: ignore[arg-type]


def tiles_s(card: Card, code: Code, launch: launches.Launch, rows: int, vocabulary: int) -> tuple[float, str]:
    """A pass over the logits by a warp a tile, and what limits it."""
    threads = math.prod(launch.block)
    by_one = math.prod(launch.grid) / card.multiprocessors
    side_by_side = blocks_on_multiprocessor(code, threads, launch.shared_bytes)
    # Few blocks come in whole waves.
    rounds = math.ceil(by_one) if by_one <= 2 * side_by_side else by_one
    issue = rounds * (threads // 32) * instructions_of_tile(code) / (_SCHEDULERS * card.clock * ISSUE)
    memory = floors.mask_prediction(rows, vocabulary).moved / (card.rates.copy * STREAM)
    wait = TRIP_S if by_one <= side_by_side else 0.0
    longest = max((memory, "memory"), (issue, "issue of instructions"), (LAUNCH_S + wait, "launch and latency"))
    return LAUNCH_S + wait + max(memory, issue), longest[1]


def rows_s(card: Card, rows: int, vocabulary: int) -> float:
    """What combines the tiles of a row: a chain of about thirty barriers and some exponentials in float64, in one block."""
    chain = 8.0e-6 + 0.03e-6 * launches.tiles(vocabulary)
    waves = max(1.0, 1.6 * math.ceil(rows / (8 * card.multiprocessors))) if rows > 2 * card.multiprocessors else 1.0
    return 1.0e-6 + chain * waves


def mask_prediction(card: Card, codes: dict[str, Code], rows: int, vocabulary: int, *, temperature: float = 0.0) -> Estimate:
    """Greedy, or a draw at a temperature."""
    launch = launches_of(rows, vocabulary, temperature=temperature)[0]
    first, limit = tiles_s(card, codes["tempered tiles" if "tempered" in launch.kernel else "tiles"], launch, rows, vocabulary)
    second = rows_s(card, rows, vocabulary) + (3.0e-6 if temperature else 0.0)  # the tile of the draw is read once more
    floor = floors.mask_prediction(rows, vocabulary).seconds(card.rates)
    return Estimate(floor_s=floor, s=first + second, limit=limit if first > second else "latency of `rows`")


def filtered(card: Card, codes: dict[str, Code], rows: int, vocabulary: int) -> Estimate:
    """A draw cut by top-p, of rows in which no tile can be left out: five kernels."""
    queue = launches_of(rows, vocabulary, temperature=1.0, top_p=0.9)
    by_name = {launch.kernel: launch for launch in queue}
    first, _ = tiles_s(card, codes["tiles"], queue[0], rows, vocabulary)
    counting = count_s(card, codes["count"], by_name["dllm_mask_filter_count_bf16"], rows, vocabulary)
    cutting = LAUNCH_S + CUT_S * max(1.0, math.ceil(rows / card.multiprocessors))
    keeping, _ = tiles_s(card, codes["kept"], by_name["dllm_mask_filter_kept_bf16"], rows, vocabulary)
    parts = {
        "tiles": first,
        "count": counting,
        "cut": cutting,
        "kept": keeping,
        "rows": rows_s(card, rows, vocabulary) + 3.0e-6,
    }
    s = sum(parts.values()) + GAP_S * (len(parts) - 1)
    longest = max(parts, key=lambda name: parts[name])
    return Estimate(floor_s=floors.mask_prediction(rows, vocabulary).seconds(card.rates), s=s, limit=f"`{longest}`")


def count_s(card: Card, code: Code, launch: launches.Launch, rows: int, vocabulary: int) -> float:
    """Bins of a row's logits: instructions, or increments in shared memory."""
    by_one = math.ceil(launch.grid[0] / card.multiprocessors)
    warps = by_one * rows * vocabulary / 32 / launch.grid[0]  # each of 32 ids, on the multiprocessor with most
    ids_of_round = code.read["LDG"] // 16 * 8  # what is read besides is for the bits of suppressed ids
    clocks = warps * max(code.loop / ids_of_round / (_SCHEDULERS * ISSUE), ATOMIC_CLOCKS)
    return LAUNCH_S + 3 * TRIP_S + clocks / card.clock


# --- attention


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
    """Both kernels, with what lies between."""
    group = seen.heads // seen.kv_heads
    rows = 32 if seen.queries * group <= 32 else 64
    code = codes[f"attention, {rows} rows"]
    splits, keys_per_split = launches.attention_splits(queries=seen.queries, keys=seen.keys, group=group)
    if form.is_merged and splits > _CLUSTER:
        splits, keys_per_split = _CLUSTER, -(-seen.keys // (64 * _CLUSTER)) * 64
    blocks = -(-seen.queries * group // rows) * seen.batch * seen.kv_heads * splits
    side_by_side = blocks_on_multiprocessor(code, 2 * rows, 2 * _DEPTH * (rows + 4 * 64) + 256)
    parts = 4.0 * seen.batch * seen.heads * seen.queries * _DEPTH * splits if splits > 1 and not form.is_merged else 0.0
    # Each warp reads all keys and values of a step from shared memory for its 16 rows, 512 bytes a load.
    port = code.opcodes["LDSM"] * 512 / _PORT_BYTES * (rows // 16) * form.shared_reads
    together = min(side_by_side, math.ceil(blocks / card.multiprocessors))
    step = max(port * together, ALONE_CLOCKS)
    waves = blocks / (card.multiprocessors * side_by_side)
    waves = max(1.0, math.ceil(waves) if waves < 3 else waves)
    compute = waves * (1.2e-6 + keys_per_split / 64 * step / card.clock)
    memory = (seen.work().moved + parts) / (card.rates.copy * 0.85)
    second = 0.0
    if splits > 1:
        merge = max(2.0e-6, parts / (card.rates.copy * 0.6), 0.12e-6 * splits)
        second = _EXCHANGE_S if form.is_merged else LAUNCH_S + merge
    why = "memory" if memory > compute else "port of shared memory" if port * together > ALONE_CLOCKS else "latency of a step"
    limit = why if max(compute, memory) > LAUNCH_S + second else "launches and latency"
    return Estimate(floor_s=seen.work().seconds(card.rates), s=LAUNCH_S + max(compute, memory) + second, limit=limit)


# --- a step


SMALL = {
    # Loads that wait for one another: a row, then its weight; a head and its angles, then slots; two halves.
    "add_norm": 2,
    "qkv": 2,
    "swiglu": 1,
}
#: Numbers that they read and write for a token.
MOVED = {"add_norm": 4 * 4096, "qkv": 2 * 12_288, "swiglu": 3 * 12_288}


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
        # Its launch and its merge's are partly those of the gaps.
        "attention and its merge": layers * (attention(card, codes, Seen(batch=rows), build.form).s - 1.5e-6),
        "norms, heads, SwiGLU": 0.0 if build.has_own_epilogues else layers * elementwise,
        "gaps": layers * (5 * 0.3e-6 if build.has_own_epilogues else 10 * GAP_S),
        "head": product("head"),
        "mask prediction, commit": mask_prediction(card, codes, scored, LLADA_8B.vocabulary).s + COMMIT_S,
        "the rest": FEW_SMALL_S,
    }
    if build.weight_bytes == 1:
        parts["rows into 8 bits"] = layers * len(LLADA_8B.products()) * QUANTISING_KERNELS * (TRIP_S + GAP_S)
    model = floors.step(LLADA_8B, batch=batch, queries=32, keys=769, scored=16, weight_bytes=build.weight_bytes)
    return Step(parts=parts, floor_s=floors.seconds(model, card.rates))


def experts_layer(card: Card, *, met: int = 162, tokens: int = 32) -> Estimate:
    """A layer of experts in LLaDA2-mini's shape: grouped products, and a dozen small kernels of torch around them."""
    work = floors.experts(met=met, tokens=tokens, chosen=8, width=2048, inner=512)
    floor = work.seconds(card.rates)
    return Estimate(floor_s=floor, s=floor / GROUPED + 14 * (LAUNCH_S + GAP_S), limit="grouped products of one or two rows")
