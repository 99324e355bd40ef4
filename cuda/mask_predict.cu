// Mask prediction: statistics of rows of logits and one token for each, in one pass over memory.
//
// Computes, for each site (a row of logits [*, vocabulary] in bf16, f16 or f32): argmax, the two largest probabilities,
// entropy, log-sum-exp, the probability of a given token, and a token drawn at a temperature, optionally cut by top-k,
// top-p and min-p; optionally with the logits bounded first (softcap). Every number and every token equals the Rust core's to the bit; ARCHITECTURE.md, "The arithmetic that
// decides", is the definition of both.
//
// Launched one after the other on one stream (python/dllm_fast/launches.py):
//   tiles    one warp a tile of 4,096 ids: maximum and sums into a TileRecord. The vocabulary of one row is spread over
//            ceil(vocabulary / 32768) blocks, which changes no bit because tiles are combined in order afterwards.
//            A lane holds 128 logits in registers, sixteen or thirty-two 16-byte loads in flight.
//   count    only with top-k or top-p: several blocks a row sort it into bins (mask_filter.cu).
//   cut      only with a filter: one block a row finds where they cut (mask_filter.cu).
//   kept     only with a filter: one warp a tile sums what is kept (mask_filter.cu).
//   rows     one block a row: combines the records in float64, in order; looks a second time at the tile with the
//            maximum (the sums there are taken again without it) and, for a draw, at the tile the draw falls into.
//
// Moves, per row: vocabulary logits once from memory (and 8 KB twice more from the second-level cache), 16 bytes a tile
// of records, 60 bytes of results.
//
// The host checks: 1 <= vocabulary <= MAX_TILES * TILE; logits aligned to their own size (rows that are not aligned to 16
// bytes, and the last tile, are read one by one); indices and current tokens in range; `suppressed` covers the vocabulary
// in whole bytes; some id of every row is not suppressed, else the status says so.

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
__device__ __forceinline__ void tiles(const Matrix<T>& matrix, TileRecord* records, int sites, float inverse_temperature) {
    DLLM_SHARED(WarpTiles<T>, shared);
    wait_for_kernels_before();
    let_kernels_after_begin();
    const TilePlace place = tile_place();
    if (place.site >= sites || place.tile >= matrix.tiles()) {
        return;
    }
    Tile<T>& tile = shared.tile[threadIdx.x / WARP];
    tile.template load<WarpOfTile>(matrix.row(place.site), place.tile * TILE);
    float largest, smallest;
    tile.extremes_of_lane(largest, smallest);
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

// What is wrong with a row.
enum Status : int32_t { STATUS_FINE = 0, STATUS_NOT_A_NUMBER = 1, STATUS_NOTHING_ALLOWED = 2 };

// How the token is chosen.
enum Choice : int32_t { CHOOSE_ARGMAX = 0, CHOOSE_BY_DRAW = 1, CHOOSE_BY_FILTERED_DRAW = 2 };

// The random numbers and the current token of each site. `current` may be null.
struct Sites {
    const uint64_t* seed;
    const uint32_t* request;
    const uint32_t* position;
    const uint32_t* step;
    const int32_t* current;

    __device__ __forceinline__ Place place(int site) const {
        return {seed[site], request[site], position[site], step[site]};
    }
};

// One entry a site. With STATUS_NOT_A_NUMBER the token is the first id that is NaN; else, where the status is not fine,
// nothing but the status is meant to be read. `current` may be null.
struct Results {
    int64_t* token;
    double* probability;
    double* top1;
    double* top2;
    double* entropy;
    double* logsumexp;
    double* current;
    int32_t* status;
};

// The fixed binary tree over the accumulators in shared memory; the sum is at [0] for all threads.
__device__ __forceinline__ void tree(float* lanes, float* others) {
#pragma unroll 1
    for (int n = LANES / 2; n > 0; n /= 2) {
        __syncthreads();
        if (int(threadIdx.x) < n) {
            lanes[threadIdx.x] = __fadd_rn(lanes[threadIdx.x], lanes[threadIdx.x + n]);
            others[threadIdx.x] = __fadd_rn(others[threadIdx.x], others[threadIdx.x + n]);
        }
    }
    __syncthreads();
}

// Sums of the staged tile without element `without`, relative to `max`; thread a is accumulator a.
__device__ __forceinline__ void sums_of_others(RowsShared& shared, float max, int without) {
    float mass = 0.0f, moment = 0.0f;
    for (int j = threadIdx.x; j < TILE; j += ROWS_THREADS) {
        const float d = distance(j == without ? negative_infinity() : shared.values[j], max);
        const float e = exp32(d);
        mass = __fadd_rn(mass, e);
        moment = __fmaf_rn(e, d, moment);
    }
    shared.mass_lanes[threadIdx.x] = mass;
    shared.moment_lanes[threadIdx.x] = moment;
    tree(shared.mass_lanes, shared.moment_lanes);
}

template <typename T>
__device__ __forceinline__ void rows(const Matrix<T>& matrix, const TileRecord* records, const Cut* cuts,
                                     const Sites& sites, float inverse_temperature, int choice, const Results& results) {
    DLLM_SHARED(RowsShared, shared);
    wait_for_kernels_before();
    let_kernels_after_begin();
    const int site = blockIdx.x, tiles = matrix.tiles(), t = threadIdx.x;
    const Row<T> row = matrix.row(site);
    TileRecord record = {negative_infinity(), 0.0f, 0.0f, 0.0f};
    if (t < tiles) {
        record = records[int64_t(site) * tiles + t];
        shared.counts[t] = record.max == positive_infinity() ? record.moment : 0.0f;
    }

    const int broken = block_min<ROWS_THREADS>(record.holds_nan() ? t : 0x7fffffff, shared.ints);
    if (broken < tiles) {
        stage(row, broken, shared);
        const int j = first_in_tile(shared, [](float x) { return is_nan(x); });
        if (t == 0) {
            results.status[site] = STATUS_NOT_A_NUMBER;
            results.token[site] = broken * TILE + j;
        }
        return;
    }
    const float max = block_max<ROWS_THREADS>(record.max, shared.floats);
    if (max == negative_infinity()) {
        if (t == 0) {
            results.status[site] = STATUS_NOTHING_ALLOWED;
            results.token[site] = -1;
        }
        return;
    }

    const int winner = block_min<ROWS_THREADS>(t < tiles && record.max == max ? t : 0x7fffffff, shared.ints);
    stage(row, winner, shared);
    const int first = first_in_tile(shared, [max](float x) { return x == max; });
    const int argmax = winner * TILE + first;
    const Place place = sites.place(site);

    int token = argmax;
    double total, top2, entropy, logsumexp;
    if (max == positive_infinity()) {
        // Ids at +inf share all the mass evenly. Counts are whole numbers below 2^24: float32 adds them exactly.
        const uint64_t own = record.max == max ? uint64_t(record.moment) : 0;
        total = __ull2double_rn(block_sum<ROWS_THREADS>(own, shared.longs));
        top2 = total > 1.0 ? __ddiv_rn(1.0, total) : 0.0;
        entropy = ln(total);
        logsumexp = double(max);
        if (choice != CHOOSE_ARGMAX) {
            const int n = int(__dmul_rn(uniform(place, Draw::token), total));
            token = nth_infinite(row, n, shared);
        }
    } else {
        // The second largest value is in the tile of the largest, or the largest of another tile.
        float second = t < tiles && t != winner ? record.max : negative_infinity();
        for (int j = t; j < TILE; j += ROWS_THREADS) {
            second = j == first ? second : fmaxf(second, shared.values[j]);
        }
        second = block_max<ROWS_THREADS>(second, shared.floats);
        sums_of_others(shared, max, first);
        if (t < tiles) {
            // A tile of nothing but -inf adds nothing, like one whose weight is 0.
            shared.rest[t] = shared.moment[t] = shared.draw_mass[t] = 0.0;
            if (record.max > negative_infinity()) {
                const double gap = __dadd_rn(double(record.max), -double(max));
                const double weight = exp64(gap);
                const double mass = double(t == winner ? shared.mass_lanes[0] : record.mass);
                const double moment = double(t == winner ? shared.moment_lanes[0] : record.moment);
                shared.rest[t] = __dmul_rn(weight, mass);
                shared.moment[t] = __dmul_rn(weight, __dadd_rn(moment, __dmul_rn(gap, mass)));
                if (choice != CHOOSE_ARGMAX) {
                    const double draw_weight = exp64(__dmul_rn(gap, double(inverse_temperature)));
                    shared.draw_mass[t] = __dmul_rn(draw_weight, double(record.draw_mass));
                }
            }
        }
        __syncthreads();
        double rest = 0.0, moment = 0.0;
        for (int i = 0; i < tiles; ++i) {
            rest = __dadd_rn(rest, shared.rest[i]);
            moment = __dadd_rn(moment, shared.moment[i]);
        }
        total = __dadd_rn(1.0, rest);
        const double log_total = ln_1p(rest);
        top2 = __ddiv_rn(exp64(__dadd_rn(double(second), -double(max))), total);
        entropy = __dadd_rn(log_total, -__ddiv_rn(moment, total));
        entropy = entropy > 0.0 ? entropy : 0.0;
        logsumexp = __dadd_rn(double(max), log_total);
        if (choice != CHOOSE_ARGMAX) {
            if (t == 0) {
                choose_tile(shared, tiles, uniform(place, Draw::token));
            }
            __syncthreads();
            const float tile_max = records[int64_t(site) * tiles + shared.chosen].max;
            const Cut* cut = choice == CHOOSE_BY_FILTERED_DRAW ? &cuts[site] : nullptr;
            token = draw_in_tile(row, cut, tile_max, inverse_temperature, shared);
        }
    }

    if (t == 0) {
        const auto probability = [&](int id) {
            const float x = row.value(id);
            return x == max ? __ddiv_rn(1.0, total) : __ddiv_rn(exp64(__dadd_rn(double(x), -double(max))), total);
        };
        results.token[site] = token;
        results.probability[site] = probability(token);
        results.top1[site] = __ddiv_rn(1.0, total);
        results.top2[site] = top2;
        results.entropy[site] = entropy;
        results.logsumexp[site] = logsumexp;
        if (results.current != nullptr) {
            results.current[site] = probability(sites.current[site]);
        }
        results.status[site] = STATUS_FINE;
    }
}

}  // namespace dllm

// One kernel of each kind for each dtype. `sites` is the number of rows that are scored.
#define DLLM_KERNELS(T, suffix)                                                                                       \
    extern "C" __global__ void __launch_bounds__(dllm::TILE_WARPS* dllm::WARP) dllm_mask_predict_tiles_##suffix(               \
        DLLM_ROWS(T), dllm::TileRecord* records, DLLM_SHAPE, int sites) {                                             \
        dllm::tiles<T, false>(DLLM_MATRIX, records, sites, 1.0f);                                                     \
    }                                                                                                                 \
    DLLM_EXPORT(dllm_mask_predict_tiles_##suffix)                                                                     \
    extern "C" __global__ void __launch_bounds__(dllm::TILE_WARPS* dllm::WARP) dllm_mask_predict_tempered_tiles_##suffix(      \
        DLLM_ROWS(T), dllm::TileRecord* records, DLLM_SHAPE, int sites, float inverse_temperature) {                  \
        dllm::tiles<T, true>(DLLM_MATRIX, records, sites, inverse_temperature);                                       \
    }                                                                                                                 \
    DLLM_EXPORT(dllm_mask_predict_tempered_tiles_##suffix)                                                            \
    extern "C" __global__ void __launch_bounds__(dllm::ROWS_THREADS, 2) dllm_mask_predict_rows_##suffix(              \
        DLLM_ROWS(T), const dllm::TileRecord* __restrict__ records, const dllm::Cut* __restrict__ cuts,               \
        const uint64_t* __restrict__ seed, const uint32_t* __restrict__ request,                                      \
        const uint32_t* __restrict__ position, const uint32_t* __restrict__ step,                                     \
        const int32_t* __restrict__ current, int64_t* token, double* probability, double* top1, double* top2,         \
        double* entropy, double* logsumexp, double* probability_of_current, int32_t* status, DLLM_SHAPE,              \
        float inverse_temperature, int choice) {                                                                      \
        dllm::rows<T>(DLLM_MATRIX, records, cuts, {seed, request, position, step, current}, inverse_temperature,      \
                      choice,                                                                                         \
                      {token, probability, top1, top2, entropy, logsumexp, probability_of_current, status});          \
    }                                                                                                                 \
    DLLM_EXPORT(dllm_mask_predict_rows_##suffix)

#if DLLM_BUILDS(BF16)
DLLM_KERNELS(dllm::Bf16, bf16)
#endif
#if DLLM_BUILDS(F16)
DLLM_KERNELS(dllm::F16, f16)
#endif
#if DLLM_BUILDS(F32)
DLLM_KERNELS(float, f32)
#endif
