// One draw from a row, by a block of 256 threads: what the kernel `rows` of mask_predict.cu needs besides the statistics.
// The twin of rust/logits/draw.rs.
#pragma once

#include "dllm/block.cuh"
#include "dllm/prediction.cuh"
#include "dllm/tile.cuh"

namespace dllm {

constexpr int ROWS_THREADS = 256;
constexpr int ROWS_WARPS = ROWS_THREADS / WARP;
static_assert(ROWS_THREADS == LANES, "a thread of `rows` is an accumulator");
static_assert(ROWS_THREADS >= MAX_TILES, "a thread of `rows` reads the record of one tile");
using RowsBlock = BlockOfTile<ROWS_THREADS>;

// What a warp says about the records that it has read: the largest logit and its tile, and the first tile that holds NaN.
struct Leader {
    float max;
    int tile, broken;
};

// What a warp says about its share of the staged tile: the first id that is looked for, and the largest value besides it.
struct Peak {
    int first;
    float second;
};

template <typename T>
struct RowsShared {
    Tile<T> tile;
    Leader leaders[ROWS_WARPS];
    Peak peaks[ROWS_WARPS];
    float mass_lanes[LANES];
    float moment_lanes[LANES];
    // What each tile adds to the row, and the running sums of `draw_mass`.
    double rest[MAX_TILES];
    double moment[MAX_TILES];
    double draw_mass[MAX_TILES];
    double running[MAX_TILES];
    float counts[MAX_TILES];  // of ids at +inf
    BlockScratch<uint64_t> longs;
    double share;
    double sum_of_rest, sum_of_moment;
    float current;
    int chosen, rank;
};

// Of a row with ids at +inf: the tile that holds the n-th of these, and which it is there. u * k < k for a uniform u < 1 of 53
// bits and a count k, also rounded. For one thread.
template <typename T>
__device__ __forceinline__ void choose_infinite(RowsShared<T>& shared, int tiles, int n) {
    int chosen = 0, before = 0;
    for (int t = 0; t < tiles; ++t) {
        const int count = int(shared.counts[t]);
        if (count > 0) {
            chosen = t;
            if (before + count > n) {
                break;
            }
            before += count;
        }
    }
    shared.chosen = chosen;
    shared.rank = n - before;
}

// The id at +inf inside the chosen tile, which is staged. Thread 0 gets it.
template <typename T>
__device__ __forceinline__ int infinite_in_tile(const RowsShared<T>& shared) {
    int j = 0;
    if (threadIdx.x == 0) {
        for (int seen = 0; j < TILE; ++j) {
            if (shared.tile.value(j) == positive_infinity() && seen++ == shared.rank) {
                break;
            }
        }
    }
    return shared.chosen * TILE + j;
}

// The tile that the uniform picks, by the running sums of `draw_mass`, and the share of that tile's mass that lies before the
// draw: the first tile whose running sum exceeds the target, or the last with mass if rounding leaves none. For one warp.
template <typename T>
__device__ __forceinline__ void choose_tile(RowsShared<T>& shared, int tiles, double uniform) {
    const int lane = threadIdx.x % WARP;
    const double target = __dmul_rn(uniform, shared.running[tiles - 1]);
    int chosen = -1;
    for (int first = 0; first < tiles && chosen < 0; first += WARP) {
        const int t = first + lane;
        const bool passes = t < tiles && shared.draw_mass[t] > 0.0 && target < shared.running[t];
        const uint32_t passing = __ballot_sync(FULL_WARP, passes);
        chosen = passing == 0 ? -1 : first + __ffs(int(passing)) - 1;
    }
    if (chosen < 0) {
        chosen = tiles - 1;
        while (chosen > 0 && !(shared.draw_mass[chosen] > 0.0)) {
            --chosen;
        }
    }
    if (lane == 0) {
        const double before = chosen > 0 ? shared.running[chosen - 1] : 0.0;
        const double share = __ddiv_rn(__dadd_rn(target, -before), shared.draw_mass[chosen]);
        shared.chosen = chosen;
        shared.share = share < 1.0 ? share : 1.0;
    }
}

// The id inside the chosen tile, which is staged, by fixed-point integers in the order of the ids.
template <typename T>
__device__ __forceinline__ int draw_in_tile(const Cut* cut, float tile_max, float inverse_temperature, RowsShared<T>& shared) {
    const int start = shared.chosen * TILE;
    const double share = shared.share;
    // A thread has neighbouring ids, whole vectors: its sum is one step of the running sum.
    constexpr int PER_THREAD = Tile<T>::ALL_VECTORS / ROWS_THREADS;
    const int first = threadIdx.x * PER_THREAD;
    const auto weight = [&](float x, int id) {
        if (cut != nullptr && !cut->keeps(x, start + id, inverse_temperature)) {
            return uint64_t(0);
        }
        return fixed_point(exp32(distance(x, tile_max, inverse_temperature)));
    };
    uint64_t own = 0;
#pragma unroll 1
    for (int v = first; v < first + PER_THREAD; ++v) {
        shared.tile.each_of_vector(v, [&](float x, int id, int) { own += weight(x, id); });
    }
    uint64_t total;
    uint64_t sum = block_exclusive_sum<ROWS_THREADS>(own, total, shared.longs);
    const uint64_t scaled = __double2ull_rz(__dmul_rn(share, __ull2double_rn(total)));
    const uint64_t target = scaled < total - 1 ? scaled : total - 1;
    if (sum <= target && target < sum + own) {
        int j = first * Tile<T>::PER_VECTOR;
        for (sum += weight(shared.tile.value(j), j); sum <= target; sum += weight(shared.tile.value(j), j)) {
            ++j;
        }
        shared.chosen = start + j;
    }
    __syncthreads();
    return shared.chosen;
}

}  // namespace dllm
