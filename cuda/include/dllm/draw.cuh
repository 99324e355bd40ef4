// One draw from a row, by a block of 256 threads: what the kernel `rows` of mask_predict.cu needs besides the statistics.
// The twin of rust/logits/draw.rs.
#pragma once

#include "dllm/block.cuh"
#include "dllm/prediction.cuh"

namespace dllm {

constexpr int ROWS_THREADS = 256;
static_assert(ROWS_THREADS == LANES, "a thread of `rows` is an accumulator");
static_assert(ROWS_THREADS >= MAX_TILES, "a thread of `rows` reads the record of one tile");
constexpr int PER_THREAD = TILE / ROWS_THREADS;

struct RowsShared {
    float values[TILE];
    float mass_lanes[LANES];
    float moment_lanes[LANES];
    double rest[MAX_TILES];
    double moment[MAX_TILES];
    double draw_mass[MAX_TILES];
    float counts[MAX_TILES];  // of ids at +inf
    BlockScratch<float> floats;
    BlockScratch<int> ints;
    BlockScratch<uint64_t> longs;
    double total;
    double share;
    int chosen;
};

// Puts a tile as float32 into shared memory; -inf for what is suppressed or beyond the vocabulary. Thread a writes the
// ids of accumulator a. Whoever reads a staged tile waits for the block (in a reduction) before the next is staged.
template <typename T>
__device__ __forceinline__ void stage(const Row<T>& row, int tile, RowsShared& shared) {
    for (int j = threadIdx.x; j < TILE; j += ROWS_THREADS) {
        shared.values[j] = row.value_or_nothing(tile * TILE + j);
    }
    __syncthreads();
}

// First id of the staged tile whose value passes, or a number beyond the tile.
template <typename Pass>
__device__ __forceinline__ int first_in_tile(RowsShared& shared, Pass pass) {
    int first = 0x7fffffff;
    for (int j = threadIdx.x; j < TILE; j += ROWS_THREADS) {
        if (pass(shared.values[j])) {
            first = j < first ? j : first;
        }
    }
    return block_min<ROWS_THREADS>(first, shared.ints);
}

// Of a row with ids at +inf: the n-th of these. u * k < k for a uniform u < 1 of 53 bits and a count k, also rounded.
// Thread 0 gets it.
template <typename T>
__device__ int nth_infinite(const Row<T>& row, int n, RowsShared& shared) {
    if (threadIdx.x == 0) {
        // The tile that holds it, and how many come before the tile.
        int before = 0, tile = 0;
        for (int t = 0; t * TILE < row.vocabulary; ++t) {
            const int count = int(shared.counts[t]);
            if (count > 0) {
                tile = t;
                if (before + count > n) {
                    break;
                }
                before += count;
            }
        }
        shared.chosen = tile;
        shared.share = double(n - before);
    }
    __syncthreads();
    const int tile = shared.chosen, rank = int(shared.share);
    stage(row, tile, shared);
    if (threadIdx.x == 0) {
        int seen = 0;
        for (int j = 0; j < TILE; ++j) {
            if (shared.values[j] == positive_infinity() && seen++ == rank) {
                return tile * TILE + j;
            }
        }
    }
    return 0;
}

// The tile that the uniform picks, by the running sum of `draw_mass`, and the share of that tile's mass that lies before
// the draw. For one thread.
__device__ inline void choose_tile(RowsShared& shared, int tiles, double uniform) {
    double total = 0.0;
    for (int t = 0; t < tiles; ++t) {
        total = __dadd_rn(total, shared.draw_mass[t]);
    }
    const double target = __dmul_rn(uniform, total);
    double before = 0.0;
    for (int t = 0; t < tiles; ++t) {
        const double mass = shared.draw_mass[t];
        if (mass > 0.0) {
            const double share = __ddiv_rn(__dadd_rn(target, -before), mass);
            shared.chosen = t;
            shared.share = share < 1.0 ? share : 1.0;
            const double after = __dadd_rn(before, mass);
            if (target < after) {
                break;
            }
            before = after;
        }
    }
}

// The id inside the chosen tile, by fixed-point integers in the order of the ids.
template <typename T>
__device__ int draw_in_tile(const Row<T>& row, const Cut* cut, float tile_max, float inverse_temperature,
                            RowsShared& shared) {
    const int tile = shared.chosen;
    const double share = shared.share;
    stage(row, tile, shared);
    // Here a thread has neighbouring ids: its sum is one step of the running sum.
    const int first = threadIdx.x * PER_THREAD;
    const auto weight = [&](int j) {
        const float x = shared.values[j];
        if (cut != nullptr && !cut->keeps(x, tile * TILE + j, inverse_temperature)) {
            return uint64_t(0);
        }
        return fixed_point(exp32(distance(x, tile_max, inverse_temperature)));
    };
    uint64_t own = 0;
    for (int j = first; j < first + PER_THREAD; ++j) {
        own += weight(j);
    }
    uint64_t total;
    uint64_t sum = block_exclusive_sum<ROWS_THREADS>(own, total, shared.longs);
    const uint64_t scaled = __double2ull_rz(__dmul_rn(share, __ull2double_rn(total)));
    const uint64_t target = scaled < total - 1 ? scaled : total - 1;
    if (sum <= target && target < sum + own) {
        int j = first;
        for (sum += weight(j); sum <= target; sum += weight(j)) {
            ++j;
        }
        shared.chosen = tile * TILE + j;
    }
    __syncthreads();
    return shared.chosen;
}

}  // namespace dllm
