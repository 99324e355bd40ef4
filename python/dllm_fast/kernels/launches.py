"""What to launch for an operation: kernels, grids and arguments, the same for the GPU and for the host emulator.

Addresses are plain integers (`tensor.data_ptr()`), so nothing here knows torch, CuPy or whose memory it is.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, fields
from typing import Any

from dllm_fast import _core
from dllm_fast.kernels.laws import Kind

TILE = 4096
MAX_TILES = 256
_WARP = 32
_TILE_WARPS = 2
_GRID_LIMIT = 65_535  # blocks in the second and third dimension of a grid
_GREEDY = Kind()

#: Bytes of the intermediate buffers: of a tile record, and of the cut of a row.
RECORD_BYTES = 16
CUT_BYTES = 16
#: Bytes of what a chunk of a row adds to the bins of top-k and top-p.
_BINS_BYTES = {"bfloat16": 2 * 8 + 4096 * 4, "float16": 2048 * (8 + 4), "float32": 2048 * (8 + 4)}
#: Suffix of the kernels for a dtype of the logits.
SUFFIXES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch.

    `source` is what is compiled together: a file of kernels (`commit`), or a file and a part of it (`mask_predict.bf16`).
    `arguments` are ctypes scalars in the order of the kernel's parameters; `shared_bytes` are dynamic.
    """

    source: str
    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[Any, ...]
    shared_bytes: int = 0

    @property
    def file(self) -> str:
        """The file of the kernel, without its suffix."""
        return self.source.partition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskPredictBuffers:
    """Addresses of what a mask prediction of N sites reads and writes.

    `logits` [*, V]; `sites` and `predictions` buffers of `layout.SITES` and `layout.PREDICTIONS` for N entries; `laws` records
    of `layout.LAW`; work space: `records` N * tiles(V) * RECORD_BYTES, `cuts` N * CUT_BYTES and `bins` bins_bytes() (`cuts`
    only with filters, `bins` only with top-k or top-p).
    """

    logits: int
    sites: int
    laws: int
    records: int
    cuts: int = 0
    bins: int = 0
    predictions: int


def mask_predict_sources(dtype: str) -> tuple[str, ...]:
    """What a mask prediction of logits of a dtype launches from."""
    return f"mask_predict.{SUFFIXES[dtype]}", f"mask_filter.{SUFFIXES[dtype]}"


def tiles(vocabulary: int) -> int:
    """Number of tiles of a row."""
    return -(-vocabulary // TILE)


def _grid_of_tiles(sites: int, vocabulary: int) -> tuple[int, int, int]:
    """Blocks of the kernels that give a warp to each tile of each site: see `tile_place` in tile.cuh."""
    across = min(sites, _GRID_LIMIT)
    return -(-tiles(vocabulary) // _TILE_WARPS), across, -(-sites // across)


def _chunks(sites: int, vocabulary: int) -> int:
    """Number of blocks that share a row while it is counted: few rows leave a GPU idle otherwise.

    Each costs a set of bins that is written and read again.
    """
    most = max(1, min(8, 384 // sites))
    per_chunk = -(-tiles(vocabulary) // most)
    return -(-tiles(vocabulary) // per_chunk)


def bins_bytes(*, dtype: str, sites: int, vocabulary: int) -> int:
    """Size of the bins that top-k and top-p need as work space."""
    return sites * _chunks(sites, vocabulary) * _BINS_BYTES[dtype] if sites else 0


def mask_predict(
    buffers: MaskPredictBuffers,
    *,
    dtype: str,
    sites: int,
    vocabulary: int,
    stride: int,
    kind: Kind = _GREEDY,
    has_current: bool = False,
    softcap: float | None = None,
) -> list[Launch]:
    """The launches of a mask prediction, in order. The settings are checked by the caller; `stride` counts logits."""
    if sites == 0:
        return []  # a grid of nothing is an error
    suffix = SUFFIXES[dtype]
    predict, filter_ = mask_predict_sources(dtype)
    given = tuple(ctypes.c_void_p(a) for a in (buffers.logits, buffers.sites, buffers.laws))
    records, cuts = ctypes.c_void_p(buffers.records), ctypes.c_void_p(buffers.cuts)
    # A bound and what |x| is multiplied by in the exponent; 0 for none.
    bound = ctypes.c_float(softcap or 0.0), ctypes.c_float(-2.0 / softcap if softcap else 0.0)
    shape = ctypes.c_int32(sites), ctypes.c_int32(kind.is_mixed), ctypes.c_int64(stride), ctypes.c_int32(vocabulary), *bound
    warp_per_tile, tile_block = _grid_of_tiles(sites, vocabulary), (_TILE_WARPS * _WARP, 1, 1)
    block_per_row = (sites, 1, 1)

    tiles_kernel = f"dllm_mask_predict_{'tempered_tiles' if kind.is_tempered else 'tiles'}_{suffix}"
    launches = [Launch(predict, tiles_kernel, warp_per_tile, tile_block, (*given, records, *shape))]
    if kind.is_cut:
        bins, chunks = ctypes.c_void_p(buffers.bins), ctypes.c_int32(_chunks(sites, vocabulary))
        if kind.is_counted:
            grid, arguments = (sites * chunks.value, 1, 1), (*given, records, bins, *shape, chunks)
            launches.append(Launch(filter_, f"dllm_mask_filter_count_{suffix}", grid, (512, 1, 1), arguments))
        arguments = (*given, records, bins, cuts, *shape, chunks)
        launches.append(Launch(filter_, f"dllm_mask_filter_cut_{suffix}", block_per_row, (512, 1, 1), arguments))
        arguments = (*given, cuts, records, *shape)
        launches.append(Launch(filter_, f"dllm_mask_filter_kept_{suffix}", warp_per_tile, tile_block, arguments))
    results = ctypes.c_void_p(buffers.predictions), ctypes.c_int32(has_current)
    arguments = (*given, records, cuts, *results, *shape)
    launches.append(Launch(predict, f"dllm_mask_predict_rows_{suffix}", block_per_row, (256, 1, 1), arguments))
    return launches


#: Numbers of the names of orders and cuts.
ORDERS, CUTS = ({name: i for i, name in enumerate(_core.names()[kind])} for kind in ("order", "cut"))
#: Sites of a row at most.
MAX_CANDIDATES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitBuffers:
    """Addresses of the arrays of a commit: R rows, N sites (scored positions), those of a row together, positions rising.

    `sites` and `predictions` buffers of `layout.SITES` and `layout.PREDICTIONS` for N entries; `site_start` [R + 1] int32;
    `cell` [N] int32, where in `cells` a site lies; `floors` [R] int32, `progress` [R] float64; changed: `cells` int64, tokens;
    results: `chosen` [N] int32, sites by rank, `committed` and `masks_left` [R] int32.
    """

    sites: int
    predictions: int
    site_start: int
    cell: int
    floors: int
    progress: int
    cells: int
    chosen: int
    committed: int
    masks_left: int


def commit(
    buffers: CommitBuffers,
    *,
    sites: int,
    rows: int,
    mask_id: int,
    order: str,
    cut: str,
    bound: float = 0.0,
    order_temperature: float = 0.0,
    is_annealed: bool = False,
) -> Launch:
    """The launch of a commit. `sites` is the N of the buffers, in which those of the rows come first."""
    pointers = tuple(ctypes.c_void_p(getattr(buffers, field.name)) for field in fields(buffers))
    rule = (
        ctypes.c_int32(ORDERS[order]),
        ctypes.c_int32(CUTS[cut]),
        ctypes.c_double(bound),
        ctypes.c_double(order_temperature),
        ctypes.c_int32(is_annealed),
    )
    arguments = (*pointers, ctypes.c_int32(sites), ctypes.c_int64(mask_id), *rule)
    return Launch("commit", "dllm_commit", (rows, 1, 1), (256, 1, 1), arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopBuffers:
    """Addresses of what the end of a step in a loop reads and writes.

    `outcome` of a step and `log`, room for as many of them as there are steps, in 8-byte words; `state` int32 [2], steps done
    and at most; `ends` int64; the others as in `CommitBuffers`.
    """

    outcome: int
    log: int
    state: int
    ends: int
    site_start: int
    cell: int
    cells: int
    committed: int
    masks_left: int


def loop(
    buffers: LoopBuffers, *, handle: int, words: int, rows: int, mask_id: int, end_count: int, least: int
) -> tuple[Launch, Launch]:
    """What ends a step in a loop: its outcome is kept, and the condition of the loop set.

    Args:
        buffers: addresses.
        handle: of the condition.
        words: 8-byte words of an outcome.
        rows: of the step.
        mask_id: the mask.
        end_count: tokens in `ends`.
        least: with so many masks left in all rows, or fewer, the loop ends.
    """
    b = buffers
    keep = (*map(ctypes.c_void_p, (b.outcome, b.log, b.state)), ctypes.c_int32(words))
    pointers = (b.site_start, b.cell, b.cells, b.committed, b.masks_left, b.ends, b.state)
    sizes = tuple(map(ctypes.c_int32, (rows, end_count, least)))
    condition = (*map(ctypes.c_void_p, pointers), ctypes.c_uint64(handle), ctypes.c_int64(mask_id), *sizes)
    return (
        Launch("loop", "dllm_loop_keep", (-(-words // 256), 1, 1), (256, 1, 1), keep),
        Launch("loop", "dllm_loop_next", (1, 1, 1), (256, 1, 1), condition),
    )


#: Dtypes that the attention and the elementwise kernels of a layer take, with the suffix of these.
LAYER_SUFFIXES = {dtype: SUFFIXES[dtype] for dtype in ("bfloat16", "float16")}
#: Head dimensions that the attention has kernels for.
HEAD_DIMENSIONS = (64, 80, 96, 128, 192, 256)
#: Numbers that the elementwise kernels read at once, and numbers of a head that they take at most.
NEIGHBOURS, MOST_OF_HEAD = 8, 256
#: Splits of the keys, at most: `combine` holds their weights in registers.
MAX_SPLITS = 64
#: Batch, head and row, in elements; what is along the head dimension lies side by side.
Strides = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBuffers:
    """Addresses of the arrays of an attention, all of one dtype but `begin` and `end` [B, Lq] int32.

    `q` and `out` [B, H, Lq, D], `k` and `v` [B, key heads, Lk, D]; with several splits `parts` [splits, B, H, Lq, D] and
    `log_sums` [splits, B, H, Lq] float32 as work space.
    """

    q: int
    k: int
    v: int
    begin: int
    end: int
    out: int
    parts: int = 0
    log_sums: int = 0


def attention_source(dtype: str, head_dimension: int) -> str:
    """What an attention with heads of so many numbers of a dtype launches from."""
    return f"attention.{LAYER_SUFFIXES[dtype]}_d{head_dimension}"


def attention_splits(*, queries: int, keys: int, group: int) -> tuple[int, int]:
    """Number of splits of the keys, and keys of a split: the same for any batch and number of heads, so results are, too.

    Few rows leave a GPU idle unless several blocks share their keys; many rows fill it, and each split costs a float32 copy of
    the output.
    """
    row_tiles = -(-queries * group // 64)
    least = max(128 * row_tiles, -(-keys // MAX_SPLITS))
    keys_per_split = -(-least // 64) * 64
    return max(1, -(-keys // keys_per_split)), keys_per_split


def attention(
    buffers: AttentionBuffers,
    *,
    dtype: str,
    batch: int,
    heads: int,
    key_heads: int,
    queries: int,
    keys: int,
    head_dimension: int,
    scale: float,
    q_strides: Strides,
    k_strides: Strides,
    v_strides: Strides,
    out_strides: Strides,
) -> list[Launch]:
    """The launches of an attention, in order. Shapes and alignment are checked by the caller."""
    if batch * heads * queries == 0:
        return []
    source, suffix = attention_source(dtype, head_dimension), LAYER_SUFFIXES[dtype]
    group = heads // key_heads
    rows = 32 if queries * group <= 32 else 64
    splits, keys_per_split = attention_splits(queries=queries, keys=keys, group=group)
    step = 32 if head_dimension > 128 else 64
    # Queries, two stages of keys and of values, and the scratch of the reductions.
    shared_bytes = 2 * head_dimension * (rows + 4 * step) + 256
    b = buffers
    pointers = tuple(ctypes.c_void_p(a) for a in (b.q, b.k, b.v, b.begin, b.end, b.out, b.parts, b.log_sums))
    strides = tuple((ctypes.c_int64 * 3)(*s) for s in (q_strides, k_strides, v_strides, out_strides))
    shape = tuple(map(ctypes.c_int32, (queries, keys, heads, key_heads, splits, keys_per_split)))
    scale_log2 = ctypes.c_float(scale * math.log2(math.e))
    launches = [
        Launch(
            source,
            f"dllm_attention_d{head_dimension}_rows{rows}_{suffix}",
            # The first number of a grid may be 2^31 - 1, the others 65,535.
            (-(-group * queries // rows) * batch * key_heads, splits, 1),
            (rows * 2, 1, 1),
            (*pointers, *strides, scale_log2, *shape),
            shared_bytes,
        )
    ]
    if splits > 1:
        sizes = tuple(map(ctypes.c_int32, (batch, queries, heads, splits)))
        outputs = tuple(ctypes.c_void_p(a) for a in (b.parts, b.log_sums, b.out))
        grid = (-(-batch * heads * queries * _WARP // 128), 1, 1)
        kernel = f"dllm_attention_d{head_dimension}_combine_{suffix}"
        launches.append(Launch(source, kernel, grid, (128, 1, 1), (*outputs, strides[3], *sizes)))
    return launches


def fused_source(dtype: str) -> str:
    """What the elementwise work of a layer in a dtype launches from."""
    return f"fused.{LAYER_SUFFIXES[dtype]}"


def fused_add_norm(
    *, dtype: str, stream: int, delta: int, weight: int, stream_out: int, out: int, rows: int, width: int, eps: float
) -> Launch:
    """`stream_out = stream + delta` and its RMSNorm into `out`, all [rows, width]. `delta` 0: the norm alone."""
    pointers = tuple(ctypes.c_void_p(a) for a in (stream, delta, weight, stream_out, out))
    arguments = (*pointers, ctypes.c_int32(width), ctypes.c_float(eps))
    return Launch(fused_source(dtype), f"dllm_fused_add_norm_{LAYER_SUFFIXES[dtype]}", (rows, 1, 1), (256, 1, 1), arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class QkvBuffers:
    """Addresses: `projected` [B * Lq, (H + 2 key heads) * D], norm weights [D] or 0, `angles` [B * Lq, rotated]
    float32 (cosines, then sines), `slots` [B * Lq] int32, `q` [B * Lq, H, D], and the caches, each with its strides (batch,
    head, slot) and both of `slot_count` slots."""

    projected: int
    q_weight: int = 0
    k_weight: int = 0
    angles: int
    slots: int
    q: int
    slot_count: int
    keys: int
    keys_strides: Strides
    values: int
    values_strides: Strides


def fused_qkv(
    buffers: QkvBuffers,
    *,
    dtype: str,
    batch: int,
    queries: int,
    heads: int,
    key_heads: int,
    head_dimension: int,
    rotated: int,
    eps: float,
    rotates_in_float32: bool,
) -> Launch:
    """Norm and rotation of query and key heads, and keys and values into their slots."""
    b = buffers
    pointers = (b.projected, b.q_weight, b.k_weight, b.angles, b.slots, b.q)
    # An address and three strides go by value.
    caches = ((ctypes.c_int64 * 4)(b.keys, *b.keys_strides), (ctypes.c_int64 * 4)(b.values, *b.values_strides))
    shape = tuple(map(ctypes.c_int32, (b.slot_count, queries, heads, key_heads, head_dimension, rotated)))
    arguments = (*map(ctypes.c_void_p, pointers), *caches, *shape, ctypes.c_float(eps), ctypes.c_int32(rotates_in_float32))
    # Four warps a block, and four, two or one heads a warp.
    at_once = 16 if head_dimension <= 64 else 8 if head_dimension <= 128 else 4
    grid = (batch * queries, -(-(heads + 2 * key_heads) // at_once), 1)
    return Launch(fused_source(dtype), f"dllm_fused_qkv_{LAYER_SUFFIXES[dtype]}", grid, (128, 1, 1), arguments)


def fused_swiglu(*, dtype: str, gate_up: int, out: int, rows: int, inner: int) -> Launch:
    """`out` [rows, inner] = silu(gate) * up of the halves of `gate_up` [rows, 2 * inner]."""
    arguments = (ctypes.c_void_p(gate_up), ctypes.c_void_p(out), ctypes.c_int64(rows), ctypes.c_int32(inner))
    grid = (-(-rows * inner // (8 * 256)), 1, 1)
    return Launch(fused_source(dtype), f"dllm_fused_swiglu_{LAYER_SUFFIXES[dtype]}", grid, (256, 1, 1), arguments)


def quantise_rows(*, rows: int, numbers: int, scales: int, count: int, width: int) -> Launch:
    """`numbers` [count, width] E4M3 and `scales` [count] float32 of `rows` [count, width] bfloat16."""
    arguments = (*(ctypes.c_void_p(a) for a in (rows, numbers, scales)), ctypes.c_int32(width))
    return Launch("quantise", "dllm_quantise_rows", (count, 1, 1), (256, 1, 1), arguments)


def model_sources(dtype: str, head_dimension: int) -> tuple[str, ...]:
    """What the steps of a model launch from, in its dtype and with heads of so many numbers; nothing for what torch does."""
    if dtype not in SUFFIXES:
        return ()
    elementwise = (fused_source(dtype),) if dtype in LAYER_SUFFIXES else ()
    attends = elementwise and head_dimension in HEAD_DIMENSIONS
    attention = (attention_source(dtype, head_dimension),) if attends else ()
    return (*mask_predict_sources(dtype), "commit", *elementwise, *attention)
