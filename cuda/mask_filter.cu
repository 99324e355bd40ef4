// Top-k, top-p and min-p: where they cut a row of logits, and what is kept of each tile. Kernels that run between `tiles` and
// `rows` of mask_predict.cu, for the same sites and on the same records.
//
// Top-k and top-p are prefixes of the order (logit falling, id rising). The end of a prefix is found by counting ids and
// summing weights in bins of neighbouring logits (bins.cuh), never by a sort of the vocabulary. Counts and fixed-point sums do
// not depend on their order, so the cut is that of rust/logits/filter.rs exactly, however many blocks share a row.
//
// A row whose law has no filter is left alone by all of them.
//
//   count   only with top-k or top-p: up to eight blocks a row, each a chunk of its tiles: 16-byte loads, one atomic
//           increment in shared memory an id (which the hardware merges for equal bins of a warp), and sums of weights by
//           32-bit additions: for float16 and float32 for every id, for bfloat16 only for the few that are close to 0.
//           Writes one Bins a block. Without top-k, tiles whose maximum weighs nothing are not read.
//   cut     one block a row (prefix.cuh): adds up the Bins, finds the bin in which each prefix ends and, unless all its ids
//           have the same logit, goes down to one logit by counting those of the bin again. Writes one Cut.
//   kept    one warp a tile: sum of the weights of kept ids, in the fixed shape of all tile sums, into the record's
//           `draw_mass`. A tile whose maximum is cut is not read.
//
// Kernels hand over to each other by their order on the stream alone: no block waits for another, and nothing in the work space
// is read that was not written by a kernel before.
//
// Moves, per row: `count` reads the logits once (from the second-level cache, where they fit) and writes 16 KB a block for
// bfloat16, 24 KB for others, which `cut` reads. Where a cut leaves out some of the ids with its logit, `cut` reads up to the
// last that is kept, in bfloat16 from the start of its chunk. float16 reads the tiles that reach the bin of a cut once more,
// float32 twice, for each prefix. `kept` reads the tiles that reach the cut, and takes weights only in rounds of sixteen logits
// that do. `count` is bound by its 22 instructions an id in bfloat16, by twice as many and by additions in shared memory in
// float16 and float32; `cut` by latency.
//
// The host checks what mask_predict.cu lists, and: 1 <= top_k < vocabulary or 0 for none; 0 < top_p < 1 or 1 for none;
// 0 <= min_p <= 1; 1 <= chunks <= tiles of a row, the same for `count` and `cut`.

#include "dllm/prefix.cuh"
#include "dllm/tile.cuh"

namespace dllm {

// ---------------------------------------------------------------- count

constexpr int COUNT_THREADS = 512;
static_assert(COUNT_THREADS >= MAX_TILES, "a thread reads the record of one tile");

template <typename T>
struct CountShared {
    alignas(16) uint32_t counts[BinMap<T>::BINS];
    SplitSum masses[BinMap<T>::MASSES];
    BlockScratch<float> floats;
    TileSet tiles;
};

template <typename T>
__device__ __forceinline__ void count(const Matrix<T>& matrix, const TileRecord* records, Bins<T>* bins, int chunks) {
    using Map = BinMap<T>;
    DLLM_SHARED(CountShared<T>, shared);
    wait_for_kernels_before();
    let_kernels_after_begin();
    const int site = blockIdx.x / chunks, chunk = blockIdx.x % chunks, tiles = matrix.tiles(), t = threadIdx.x;
    const Law& law = matrix.law(site);
    const bool has_top_k = law.top_k > 0, has_top_p = law.top_p < 1.0;
    if (!has_top_k && !has_top_p) {
        return;  // of all the block
    }
    const float own = own_maximum(records, site, tiles), inverse_temperature = law.inverse_temperature;
    const View<T> view = {matrix.row(site, law), block_max<COUNT_THREADS>(own, shared.floats), inverse_temperature};
    if (!view.has_cut()) {
        return;
    }
    for (int b = t; b < Map::BINS; b += COUNT_THREADS) {
        shared.counts[b] = 0;
    }
    for (int m = t; m < Map::MASSES; m += COUNT_THREADS) {
        shared.masses[m] = {0, 0};
    }
    // The end of top-p weighs something. That of top-k need not.
    shared.tiles.put(t < tiles && (has_top_k || view.weight(own) != 0));
    __syncthreads();
    const Map map = Map::of(view.max, inverse_temperature);
    const int per_chunk = (tiles + chunks - 1) / chunks, begin = chunk * per_chunk;
    const int end = begin + per_chunk < tiles ? begin + per_chunk : tiles;
    const auto add_mass = [&](float x) {
        const int mass = Map::mass_of(map.bin(x));
        if (mass >= 0) {
            shared.masses[mass].add(view.weight(x));
        }
    };
    visit_tiles<COUNT_THREADS, 1>(view.row, shared.tiles, begin, end, [&](const Vectors<T, 1>& vector) {
        bool has_tiny = false;
        vector.visit(view.row, [&](int, float x) {
            atomicAdd(&shared.counts[map.bin(x)], 1u);
            if constexpr (Map::IS_EXACT) {
                has_tiny |= map.is_tiny(x);
            } else if (has_top_p) {
                add_mass(x);
            }
        });
        if (Map::IS_EXACT && has_top_p && has_tiny) {
            vector.visit_singly(view.row, [&](int, float x) { add_mass(x); });
        }
    });
    __syncthreads();
    Bins<T>& out = bins[blockIdx.x];
    for (int b = 4 * t; b < Map::BINS; b += 4 * COUNT_THREADS) {
        *reinterpret_cast<uint4*>(&out.counts[b]) = *reinterpret_cast<const uint4*>(&shared.counts[b]);
    }
    for (int m = t; m < Map::MASSES; m += COUNT_THREADS) {
        out.masses[m] = shared.masses[m].value();
    }
}

// ---------------------------------------------------------------- cut

template <typename T>
__device__ __forceinline__ void cut(const Matrix<T>& matrix, const TileRecord* records, const Bins<T>* bins, Cut* cuts,
                                    int chunks) {
    DLLM_SHARED(CutShared, shared);
    wait_for_kernels_before();
    let_kernels_after_begin();
    const int site = blockIdx.x, tiles = matrix.tiles();
    if (matrix.law(site).choice != CHOICE_BY_FILTERED_DRAW) {
        return;  // of all the block: nobody reads the cut
    }
    // Registers are scarce here.
    const Law& law = shared.law;
    if (threadIdx.x == 0) {
        shared.law = matrix.law(site);
    }
    const float own = own_maximum(records, site, tiles), max = block_max<CUT_THREADS>(own, shared.floats);
    const bool has_top_k = law.top_k > 0, has_top_p = law.top_p < 1.0;
    const float inverse_temperature = law.inverse_temperature;
    const View<T> view = {matrix.row(site, law), max, inverse_temperature};
    Cut cut = {negative_infinity(), 0xffffffffu, negative_infinity(), view.max};
    if (view.has_cut() && (has_top_k || has_top_p)) {
        const RowBins<T> row = {BinMap<T>::of(view.max, inverse_temperature), bins + int64_t(site) * chunks, chunks};
        Prefix prefix = {has_top_k, uint32_t(law.top_k), 0.0};
        PrefixEnd end;
        uint32_t ties;
        int bin;
        uint64_t left = 0;
        // Top-k, then top-p of what it leaves.
        for (int filter = has_top_k ? 0 : 1; filter < (has_top_p ? 2 : 1); ++filter) {
            auto sums = row.own(view);
            const uint64_t all = sums.add_up(0, 0, shared);
            if (filter == 1) {
                prefix = {false, 0, __dmul_rn(law.top_p, __ull2double_rn(has_top_k ? left : all))};
            }
            const Part part = sums.end_of(prefix, shared);
            bin = part.index;
            end = descend(view, row.map.keys(bin), part, own, has_top_p, shared, prefix);
            const uint64_t weight = view.weight(from_ordered(end.key));
            ties = filter == 0 ? uint32_t(law.top_k) - end.count_before : ties_needed(end, weight, prefix.mass);
            left = end.mass_before + ties * weight;
        }
        cut.x = from_ordered(end.key);
        if (ties < end.count) {
            int begin = 0;
            if (row.map.keys(bin).are_one_value()) {
                // Chunks that hold too few of them are passed over.
                const int per_chunk = (tiles + chunks - 1) / chunks * TILE;
                for (const Bins<T>* b = row.chunks; b->counts[bin] < ties; ++b) {
                    ties -= b->counts[bin];
                    begin += per_chunk;
                }
            }
            cut.id = nth_with_key(view.row, end.key, ties, begin, shared);
        }
    }
    if (threadIdx.x == 0) {
        if (view.has_cut() && law.min_p > 0.0) {
            cut.floor = __double2float_rn(ln(law.min_p));
        }
        cuts[site] = cut;
    }
}

// ---------------------------------------------------------------- kept

template <typename T>
__device__ __forceinline__ void kept(const Matrix<T>& matrix, const Cut* cuts, TileRecord* records) {
    DLLM_SHARED(WarpTiles<T>, shared);
    wait_for_kernels_before();
    let_kernels_after_begin();
    const TilePlace place = tile_place();
    if (place.site >= matrix.sites.count || place.tile >= matrix.tiles()) {
        return;
    }
    const Law& law = matrix.law(place.site);
    if (law.choice != CHOICE_BY_FILTERED_DRAW) {
        return;
    }
    const float inverse_temperature = law.inverse_temperature;
    TileRecord& record = records[int64_t(place.site) * matrix.tiles() + place.tile];
    const float max = record.max;
    if (!(max > negative_infinity() && max < positive_infinity())) {
        return;
    }
    const Cut cut = cuts[place.site];
    const int start = place.tile * TILE;
    if (!cut.keeps(max, start, inverse_temperature)) {
        // Not even its largest logit at its lowest id: nothing of the tile is kept, as of most tiles behind a sharp cut.
        if (threadIdx.x % WARP == 0) {
            record.draw_mass = 0.0f;
        }
        return;
    }
    Tile<T>& tile = shared.tile[threadIdx.x / WARP];
    const Row<T> row = matrix.row(place.site, law);
    tile.template begin<WarpOfTile>(row, start);
    tile.template finish<WarpOfTile>(row, start);
    float mass[Tile<T>::SLOTS] = {};
    // What is not kept adds 0, which changes nothing.
    const auto add = [&](float x, int s, bool is_kept) {
        const float e = exp32(distance(x, max, inverse_temperature));
        mass[s] = __fadd_rn(mass[s], is_kept ? e : 0.0f);
    };
    const bool keeps_ties = uint32_t(start + TILE - 1) <= cut.id, drops_ties = uint32_t(start) > cut.id;
    if (cut.floor == negative_infinity() && (keeps_ties || drops_ties)) {
        // All ids of the tile lie on one side of the cut's, so that a logit alone decides.
        const float least = keeps_ties ? cut.x : from_ordered(ordered(cut.x) + 1);
        tile.each_of_lane_from(cut.x, [&](float x, int, int s) { add(x, s, x >= least); });
    } else {
        tile.each_of_lane_from(cut.x, [&](float x, int id, int s) {
            add(x, s, cut.keeps(x, start + id, inverse_temperature));
        });
    }
    const float sum = tile_sum<T>(mass);
    if (threadIdx.x % WARP == 0) {
        record.draw_mass = sum;
    }
}

}  // namespace dllm

#define DLLM_KERNELS(T, suffix)                                                                                       \
    extern "C" __global__ void __launch_bounds__(dllm::COUNT_THREADS, 3) dllm_mask_filter_count_##suffix(             \
        DLLM_ROWS(T), const dllm::TileRecord* __restrict__ records, dllm::Bins<T>* bins, DLLM_SHAPE, int chunks) {    \
        dllm::count<T>(DLLM_MATRIX, records, bins, chunks);                                                           \
    }                                                                                                                 \
    DLLM_EXPORT(dllm_mask_filter_count_##suffix)                                                                      \
    extern "C" __global__ void __launch_bounds__(dllm::CUT_THREADS, 2) dllm_mask_filter_cut_##suffix(                 \
        DLLM_ROWS(T), const dllm::TileRecord* __restrict__ records, const dllm::Bins<T>* __restrict__ bins,           \
        dllm::Cut* cuts, DLLM_SHAPE, int chunks) {                                                                    \
        dllm::cut<T>(DLLM_MATRIX, records, bins, cuts, chunks);                                                       \
    }                                                                                                                 \
    DLLM_EXPORT(dllm_mask_filter_cut_##suffix)                                                                        \
    extern "C" __global__ void __launch_bounds__(dllm::TILE_WARPS * dllm::WARP) dllm_mask_filter_kept_##suffix(       \
        DLLM_ROWS(T), const dllm::Cut* __restrict__ cuts, dllm::TileRecord* records, DLLM_SHAPE) {                    \
        dllm::kept<T>(DLLM_MATRIX, cuts, records);                                                                    \
    }                                                                                                                 \
    DLLM_EXPORT(dllm_mask_filter_kept_##suffix)

#if DLLM_BUILDS(BF16)
DLLM_KERNELS(dllm::Bf16, bf16)
#endif
#if DLLM_BUILDS(F16)
DLLM_KERNELS(dllm::F16, f16)
#endif
#if DLLM_BUILDS(F32)
DLLM_KERNELS(float, f32)
#endif
