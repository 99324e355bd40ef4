// Mask prediction: statistics of rows of logits and one token for each, in one pass over memory.
//
// Computes, for each site (a row of logits [*, vocabulary] in bf16, f16 or f32): argmax, the two largest probabilities,
// entropy, log-sum-exp, the probability of a given token, and a token drawn at a temperature, optionally cut by top-k,
// top-p and min-p; optionally with the logits bounded first (softcap). Every number and every token equals the Rust core's to
// the bit; ARCHITECTURE.md, "The arithmetic that decides", is the definition of both.
//
// Launched one after the other on one stream (python/dllm_fast/kernels/launches.py):
//   tiles    one warp a tile of 4,096 ids, two a block: maximum and sums into a TileRecord. The tile lies in shared memory,
//            copied asynchronously, all of it under way at once (tile.cuh). That tiles of a row are in different blocks changes
//            no bit, because they are combined in order afterwards.
//   count    only with top-k or top-p: several blocks a row sort it into bins (mask_filter.cu).
//   cut      only with a filter: one block a row finds where they cut (mask_filter.cu).
//   kept     only with a filter: one warp a tile sums what is kept (mask_filter.cu).
//   rows     one block a row: combines the records in float64, in order; looks a second time at the tile with the
//            maximum (the sums there are taken again without it) and, for a draw, at the tile the draw falls into.
//
// Moves, per row: vocabulary logits once from memory (and 8 KB twice more from the second-level cache), 16 bytes a tile
// of records, 60 bytes of results. Rows may have laws of their own (temperature, filters, ids left out): a record of a table
// that each block reads while its logits are on their way. Bound by: instructions in `tiles`, 13 a logit besides what a tile
// costs (24 at a temperature); in `rows`, the way through its five barriers (nine with a draw), whatever the size.
//
// The host checks: 1 <= vocabulary <= MAX_TILES * TILE; logits aligned to their own size (rows that are not aligned to 16
// bytes cost another pass over shared memory); indices and current tokens in range; `suppressed` covers the vocabulary in whole
// bytes; some id of every row is not suppressed, else the status says so.

#include "dllm/draw.cuh"
#include "dllm/philox.cuh"
#include "dllm/tile.cuh"

namespace dllm {

// ---------------------------------------------------------------- tiles

// Sums over this lane's share of a tile, then over the warp. IS_NEAR: no logit is so far below the largest that its distance
// is cut off at FLOOR or exp(FLOOR) counts in its weight, so that both steps fall away.
template <typename T, bool IS_TEMPERED, bool IS_NEAR>
__device__ __forceinline__ TileRecord sums(const Tile<T>& tile, float max, float inverse_temperature) {
    float mass[Tile<T>::SLOTS] = {}, moment[Tile<T>::SLOTS] = {}, draw_mass[Tile<T>::SLOTS] = {};
    const auto weight = [](float d) { return IS_NEAR ? exp32_above_floor(d) : exp32(max_keeping_nan(d, FLOOR)); };
    tile.each_of_lane([&](float x, int, int s) {
        const float d = __fadd_rn(x, -max), floored = IS_NEAR ? d : max_keeping_nan(d, FLOOR);
        const float e = weight(d);
        mass[s] = __fadd_rn(mass[s], e);
        moment[s] = __fmaf_rn(e, floored, moment[s]);
        if (IS_TEMPERED) {
            draw_mass[s] = __fadd_rn(draw_mass[s], weight(__fmul_rn(d, inverse_temperature)));
        }
    });
    TileRecord record;
    record.max = max;
    record.mass = tile_sum<T>(mass);
    record.moment = tile_sum<T>(moment);
    record.draw_mass = IS_TEMPERED ? tile_sum<T>(draw_mass) : record.mass;
    return record;
}

// The record of a tile whose maximum is infinite: nothing but -inf and perhaps NaN, or some ids at +inf.
template <typename T>
__device__ __forceinline__ TileRecord infinite_record(const Tile<T>& tile, float max) {
    bool has_nan = false;
    int count = 0;
    tile.each_of_lane([&](float x, int, int) {
        has_nan |= is_nan(x);
        count += x == positive_infinity();
    });
#pragma unroll
    for (int n = WARP / 2; n > 0; n /= 2) {
        count += __shfl_xor_sync(FULL_WARP, count, n);
    }
    const bool holds_nan = __ballot_sync(FULL_WARP, has_nan) != 0;
    return {max, 0.0f, holds_nan ? __uint_as_float(0x7fc00000u) : float(count), 0.0f};
}

template <typename T, bool IS_TEMPERED>
__device__ __forceinline__ void tiles(const Matrix<T>& matrix, TileRecord* records) {
    DLLM_SHARED(WarpTiles<T>, shared);
    wait_for_kernels_before();
    let_kernels_after_begin();
    const TilePlace place = tile_place();
    if (place.site >= matrix.sites.count || place.tile >= matrix.tiles()) {
        return;
    }
    Tile<T>& tile = shared.tile[threadIdx.x / WARP];
    const Law& law = matrix.law(place.site);
    const Row<T> row = matrix.row(place.site, law);
    const float inverse_temperature = IS_TEMPERED ? law.inverse_temperature : 1.0f;
    tile.template begin<WarpOfTile>(row, place.tile * TILE);
    tile.template finish<WarpOfTile>(row, place.tile * TILE);
    float largest, smallest;
    tile.template extremes_of_lane<Tile<T>::VECTORS>(0, largest, smallest);
    const float max = warp_max(largest);
    TileRecord record;
    if (max > negative_infinity() && max < positive_infinity()) {
        const float d = __fadd_rn(smallest, -max);
        const bool is_near = d >= NEAR && (!IS_TEMPERED || __fmul_rn(d, inverse_temperature) >= NEAR);
        record = __ballot_sync(FULL_WARP, is_near) == FULL_WARP ? sums<T, IS_TEMPERED, true>(tile, max, inverse_temperature)
                                                                : sums<T, IS_TEMPERED, false>(tile, max, inverse_temperature);
    } else {
        record = infinite_record(tile, max);
    }
    if (threadIdx.x % WARP == 0) {
        records[int64_t(place.site) * matrix.tiles() + place.tile] = record;
    }
}

// ---------------------------------------------------------------- rows

// The fixed binary tree over the accumulators of a block in shared memory: a warp adds i and i + n for n = 128, 64 and 32 in
// its lanes, the rest between them.
__device__ __forceinline__ float tree(const float (&lanes)[LANES]) {
    float sums[LANES / WARP];
#pragma unroll
    for (int w = 0; w < LANES / WARP; ++w) {
        sums[w] = lanes[w * WARP + threadIdx.x % WARP];
    }
#pragma unroll
    for (int n = LANES / WARP / 2; n > 0; n /= 2) {
#pragma unroll
        for (int w = 0; w < n; ++w) {
            sums[w] = __fadd_rn(sums[w], sums[w + n]);
        }
    }
    float one[1] = {sums[0]};
    return warp_tree(one);
}

// Over all records of a row, one in each thread.
template <typename T>
__device__ __forceinline__ Leader find_leader(const TileRecord& record, RowsShared<T>& shared) {
    const int lane = threadIdx.x % WARP, base = threadIdx.x - lane;
    const float max = warp_max(record.max);
    const uint32_t holding = __ballot_sync(FULL_WARP, record.max == max);
    const uint32_t broken = __ballot_sync(FULL_WARP, record.holds_nan());
    if (lane == 0) {
        shared.leaders[threadIdx.x / WARP] = {max, base + __ffs(int(holding)) - 1,
                                              broken == 0 ? MAX_TILES : base + __ffs(int(broken)) - 1};
    }
    __syncthreads();
    Leader all = shared.leaders[0];
#pragma unroll
    for (int w = 1; w < ROWS_WARPS; ++w) {
        const Leader one = shared.leaders[w];
        all.broken = all.broken < one.broken ? all.broken : one.broken;
        if (one.max > all.max) {
            all.max = one.max;
            all.tile = one.tile;
        }
    }
    return all;
}

// The first id of the staged tile that is `max` (NaN, if that is NaN), and the largest of `other` of all threads and of the
// tile's other logits: `max` where two of them are.
template <typename T>
__device__ __forceinline__ Peak find_peak(RowsShared<T>& shared, float max, float other) {
    Peak peak = {TILE, other};
#pragma unroll 4
    for (int j = threadIdx.x; j < TILE; j += ROWS_THREADS) {
        const float x = shared.tile.value(j);
        if ((is_nan(max) ? is_nan(x) : x == max) && peak.first == TILE) {
            peak.first = j;
        } else {
            peak.second = fmaxf(peak.second, x);
        }
    }
    const auto merge = [max](Peak& a, const Peak& b) {
        a.second = a.first < TILE && b.first < TILE ? max : fmaxf(a.second, b.second);
        a.first = a.first < b.first ? a.first : b.first;
    };
#pragma unroll
    for (int n = WARP / 2; n > 0; n /= 2) {
        merge(peak, {__shfl_xor_sync(FULL_WARP, peak.first, n), __shfl_xor_sync(FULL_WARP, peak.second, n)});
    }
    if (threadIdx.x % WARP == 0) {
        shared.peaks[threadIdx.x / WARP] = peak;
    }
    __syncthreads();
    peak = shared.peaks[0];
#pragma unroll
    for (int w = 1; w < ROWS_WARPS; ++w) {
        merge(peak, shared.peaks[w]);
    }
    return peak;
}

// Sums of the staged tile without id `without`, relative to `max`, into shared memory; thread a is accumulator a.
template <typename T>
__device__ __forceinline__ void sums_of_others(RowsShared<T>& shared, float max, int without) {
    float mass = 0.0f, moment = 0.0f;
#pragma unroll 4
    for (int j = threadIdx.x; j < TILE; j += ROWS_THREADS) {
        const float d = distance(j == without ? negative_infinity() : shared.tile.value(j), max);
        const float e = exp32(d);
        mass = __fadd_rn(mass, e);
        moment = __fmaf_rn(e, d, moment);
    }
    shared.mass_lanes[threadIdx.x] = mass;
    shared.moment_lanes[threadIdx.x] = moment;
}

// What the tile of this thread adds to the row, into shared memory. A tile of nothing but -inf adds nothing, like one whose
// weight is 0.
template <typename T>
__device__ __forceinline__ void weigh_tile(const TileRecord& record, float max, float inverse_temperature, bool draws,
                                           RowsShared<T>& shared) {
    const bool counts = record.max > negative_infinity();
    const double gap = counts ? __dadd_rn(double(record.max), -double(max)) : 0.0;
    const double weight = exp64(gap), mass = double(record.mass);
    shared.rest[threadIdx.x] = counts ? __dmul_rn(weight, mass) : 0.0;
    shared.moment[threadIdx.x] =
        counts ? __dmul_rn(weight, __dadd_rn(double(record.moment), __dmul_rn(gap, mass))) : 0.0;
    if (draws) {
        const double draw_weight = exp64(__dmul_rn(gap, double(inverse_temperature)));
        shared.draw_mass[threadIdx.x] = counts ? __dmul_rn(draw_weight, double(record.draw_mass)) : 0.0;
    }
}

// The sums over all tiles, in their order, by one warp: a lane adds up one of the three arrays.
template <typename T>
__device__ __forceinline__ void add_tiles(RowsShared<T>& shared, int tiles, int winner, bool draws) {
    const int lane = threadIdx.x % WARP;
    const float mass = tree(shared.mass_lanes), moment = tree(shared.moment_lanes);
    // The winner, at distance 0 and weight 1, without the largest logit: by the lanes that read it.
    if (lane == 0) {
        shared.rest[winner] = double(mass);
    } else if (lane == 1) {
        shared.moment[winner] = double(moment);
    }
    double sum = 0.0;
    // No other lane reads an array that a lane has just written to.
    if (lane < (draws ? 3 : 2)) {
        const double* from = lane == 0 ? shared.rest : lane == 1 ? shared.moment : shared.draw_mass;
#pragma unroll 4
        for (int i = 0; i < tiles; ++i) {
            sum = __dadd_rn(sum, from[i]);
            if (lane == 2) {
                shared.running[i] = sum;
            }
        }
    }
    if (lane == 0) {
        shared.sum_of_rest = sum;
    }
    if (lane == 1) {
        shared.sum_of_moment = sum;
    }
    __syncwarp();
}

// What the statistics of a row are made of. An id at distance 0 has probability 1 / total.
struct Summary {
    double total, rest, moment;
    float max, second;
};

// Writes the results of a row: probabilities by four lanes of the first warp, entropy and log-sum-exp by the second.
template <typename T>
__device__ __forceinline__ void write(const Summary& summary, int token, float logit, const RowsShared<T>& shared, int site,
                                      const Predictions& results, bool has_current) {
    const int t = threadIdx.x;
    if (t < 3 + has_current) {
        const float x = t == 0 ? summary.max : t == 1 ? summary.second : t == 2 ? logit : shared.current;
        double& out = t == 0   ? results.top1(site)
                      : t == 1 ? results.top2(site)
                      : t == 2 ? results.probability(site)
                               : results.current(site);
        const double d = __dadd_rn(double(x), -double(summary.max));
        out = __ddiv_rn(x == summary.max ? 1.0 : exp64(d), summary.total);
        if (t == 0) {
            results.token(site) = token;
            results.status(site) = STATUS_FINE;
        }
    } else if (t == WARP) {
        double entropy, logsumexp = double(summary.max);
        if (summary.max == positive_infinity()) {
            entropy = ln(summary.total);
        } else {
            const double log_total = ln_1p(summary.rest);
            entropy = __dadd_rn(log_total, -__ddiv_rn(summary.moment, summary.total));
            entropy = entropy > 0.0 ? entropy : 0.0;
            logsumexp = __dadd_rn(logsumexp, log_total);
        }
        results.entropy(site) = entropy;
        results.logsumexp(site) = logsumexp;
    }
}

template <typename T>
__device__ __forceinline__ void rows(const Matrix<T>& matrix, const TileRecord* records, const Cut* cuts,
                                     const Predictions& results, bool has_current) {
    DLLM_SHARED(RowsShared<T>, shared);
    wait_for_kernels_before();
    let_kernels_after_begin();
    const int site = blockIdx.x, tiles = matrix.tiles(), t = threadIdx.x;
    const Law& law = matrix.law(site);
    const Row<T> row = matrix.row(site, law);
    const float inverse_temperature = law.inverse_temperature;
    const int choice = law.choice;
    const bool draws = choice != CHOICE_ARGMAX;
    TileRecord record = {negative_infinity(), 0.0f, 0.0f, 0.0f};
    if (t < tiles) {
        record = records[int64_t(site) * tiles + t];
        shared.counts[t] = record.max == positive_infinity() ? record.moment : 0.0f;
    }

    const Leader leader = find_leader(record, shared);
    const bool is_broken = leader.broken < tiles;
    if (!is_broken && leader.max == negative_infinity()) {
        if (t == 0) {
            results.status(site) = STATUS_NOTHING_ALLOWED;
            results.token(site) = -1;
        }
        return;
    }
    const float max = is_broken ? __uint_as_float(0x7fc00000u) : leader.max;
    const bool is_finite = max < positive_infinity();
    const int winner = is_broken ? leader.broken : leader.tile;
    shared.tile.template begin<RowsBlock>(row, winner * TILE);
    // Meanwhile: what does not need the tile.
    if (t < tiles && is_finite) {
        weigh_tile(record, max, inverse_temperature, draws, shared);
    }
    if (t == ROWS_THREADS - 1 && has_current) {
        shared.current = row.value(matrix.sites.current(site));
    }
    shared.tile.template finish<RowsBlock>(row, winner * TILE);
    __syncthreads();

    // The second largest value is in the tile of the largest, or the largest of another tile.
    const Peak peak = find_peak(shared, max, t < tiles && t != winner ? record.max : negative_infinity());
    int token = winner * TILE + peak.first;
    if (is_broken) {
        if (t == 0) {
            results.status(site) = STATUS_NOT_A_NUMBER;
            results.token(site) = token;
        }
        return;
    }
    Summary summary = {0.0, 0.0, 0.0, max, peak.second};
    const double u = draws ? uniform(place_of(matrix.sites, site), Draw::token) : 0.0;
    if (is_finite) {
        sums_of_others(shared, max, peak.first);
        __syncthreads();
        if (t < WARP) {
            add_tiles(shared, tiles, winner, draws);
            if (draws) {
                choose_tile(shared, tiles, u);
            }
        }
        __syncthreads();
        summary.rest = shared.sum_of_rest;
        summary.moment = shared.sum_of_moment;
        summary.total = __dadd_rn(1.0, summary.rest);
    } else {
        // Ids at +inf share all the mass evenly. Counts are whole numbers below 2^24: float32 adds them exactly.
        const uint64_t own = record.max == max ? uint64_t(record.moment) : 0;
        summary.total = __ull2double_rn(block_sum<ROWS_THREADS>(own, shared.longs));
        if (draws && t == 0) {
            choose_infinite(shared, tiles, int(__dmul_rn(u, summary.total)));
        }
        __syncthreads();
    }
    float logit = max;
    if (draws) {
        const int chosen = shared.chosen;
        if (chosen != winner) {
            shared.tile.template begin<RowsBlock>(row, chosen * TILE);
            shared.tile.template finish<RowsBlock>(row, chosen * TILE);
            __syncthreads();
        }
        if (is_finite) {
            const float tile_max = records[int64_t(site) * tiles + chosen].max;
            const Cut* cut = choice == CHOICE_BY_FILTERED_DRAW ? &cuts[site] : nullptr;
            token = draw_in_tile(cut, tile_max, inverse_temperature, shared);
            logit = shared.tile.value(token - chosen * TILE);
        } else {
            token = infinite_in_tile(shared);
        }
    }
    write(summary, token, logit, shared, site, results, has_current);
}

}  // namespace dllm

// One kernel of each kind for each dtype. `blocks` of `rows` fit on a multiprocessor by their registers.
#define DLLM_KERNELS(T, suffix, blocks)                                                                               \
    extern "C" __global__ void __launch_bounds__(dllm::TILE_WARPS* dllm::WARP) dllm_mask_predict_tiles_##suffix(      \
        DLLM_ROWS(T), dllm::TileRecord* records, DLLM_SHAPE) {                                                        \
        dllm::tiles<T, false>(DLLM_MATRIX, records);                                                                  \
    }                                                                                                                 \
    DLLM_EXPORT(dllm_mask_predict_tiles_##suffix)                                                                     \
    extern "C" __global__ void __launch_bounds__(dllm::TILE_WARPS* dllm::WARP)                                        \
        dllm_mask_predict_tempered_tiles_##suffix(DLLM_ROWS(T), dllm::TileRecord* records, DLLM_SHAPE) {              \
        dllm::tiles<T, true>(DLLM_MATRIX, records);                                                                   \
    }                                                                                                                 \
    DLLM_EXPORT(dllm_mask_predict_tempered_tiles_##suffix)                                                            \
    extern "C" __global__ void __launch_bounds__(dllm::ROWS_THREADS, blocks) dllm_mask_predict_rows_##suffix(         \
        DLLM_ROWS(T), const dllm::TileRecord* __restrict__ records, const dllm::Cut* __restrict__ cuts,               \
        uint8_t* predictions, int has_current, DLLM_SHAPE) {                                                          \
        dllm::rows<T>(DLLM_MATRIX, records, cuts, {predictions, count}, has_current != 0);                            \
    }                                                                                                                 \
    DLLM_EXPORT(dllm_mask_predict_rows_##suffix)

#if DLLM_BUILDS(BF16)
DLLM_KERNELS(dllm::Bf16, bf16, 4)
#endif
#if DLLM_BUILDS(F16)
DLLM_KERNELS(dllm::F16, f16, 4)
#endif
#if DLLM_BUILDS(F32)
DLLM_KERNELS(float, f32, 5)
#endif
