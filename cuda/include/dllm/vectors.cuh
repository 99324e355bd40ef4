// Rows read by a whole block, 16 bytes a thread, where only which ids there are matters and not which thread reads them. What
// the sums of a tile need in a fixed place is read by tile.cuh.
#pragma once

#include "dllm/prediction.cuh"

namespace dllm {

// COUNT times 16 bytes of logits from an address that is a multiple of 16: the ids of a row from `first`, which may lie before
// `begin` or end behind `end`; those outside are not its own.
template <typename T, int COUNT>
struct Vectors {
    static constexpr int LENGTH = COUNT * 16 / int(sizeof(T));

    int first, begin, end;

    // Calls visit(id, logit) for each of its ids.
    template <typename Visit>
    __device__ __forceinline__ void visit(const Row<T>& row, Visit visit) const {
        constexpr int IN_WORD = Words<T>::COUNT, IN_VECTOR = LENGTH / COUNT;
        if (first >= begin && first + LENGTH <= end && row.softcap.cap == 0.0f && !has_suppressed(row)) {
            uint4 vectors[COUNT];
#pragma unroll
            for (int v = 0; v < COUNT; ++v) {
                vectors[v] = reinterpret_cast<const uint4*>(row.logits + first)[v];
            }
#pragma unroll
            for (int v = 0; v < COUNT; ++v) {
                const uint32_t words[4] = {vectors[v].x, vectors[v].y, vectors[v].z, vectors[v].w};
#pragma unroll
                for (int k = 0; k < IN_VECTOR; ++k) {
                    visit(first + v * IN_VECTOR + k, Words<T>::element(words[k / IN_WORD], k % IN_WORD));
                }
            }
        } else {
            visit_singly(row, visit);
        }
    }

    // The same in little code, and slowly.
    template <typename Visit>
    __device__ __forceinline__ void visit_singly(const Row<T>& row, Visit visit) const {
#pragma unroll 1
        for (int id = first < begin ? begin : first; id < first + LENGTH && id < end; ++id) {
            visit(id, row.value(id));
        }
    }

  private:
    // Of vectors that lie in the row.
    __device__ __forceinline__ bool has_suppressed(const Row<T>& row) const {
        if (row.suppressed == nullptr) {
            return false;
        }
        const uint8_t* bytes = row.suppressed + (first >> 3);
        const int bit = first & 7;
        uint32_t bits = uint32_t(bytes[0]) >> bit;
#pragma unroll
        for (int i = 1; i <= (LENGTH + 6) / 8; ++i) {
            if (8 * i < bit + LENGTH) {
                bits |= uint32_t(bytes[i]) << (8 * i - bit);
            }
        }
        return (bits & (0xffffffffu >> (32 - LENGTH))) != 0;
    }
};

// Logits of a row that lie between the last multiple of 16 bytes in memory and its start.
template <typename T>
__device__ __forceinline__ int unaligned(const Row<T>& row) {
    return int((uint64_t(row.logits) & 15) / sizeof(T));
}

// Which tiles of a row are looked at, a bit for each.
struct TileSet {
    uint32_t bits[MAX_TILES / WARP];

    // Thread t says whether tile t is. Whoever reads waits for the block first.
    __device__ __forceinline__ void put(bool is_in) {
        const uint32_t votes = __ballot_sync(FULL_WARP, is_in);
        const int t = threadIdx.x;
        if (t % WARP == 0 && t < MAX_TILES) {
            bits[t / WARP] = votes;
        }
    }

    __device__ __forceinline__ bool has(int tile) const { return bits[tile / WARP] >> tile % WARP & 1; }
};

// Calls visit(vectors) for vectors that hold the ids of those tiles from `begin` to before `end` that are in the set, spread
// over a block of THREADS.
template <int THREADS, int COUNT, typename T, typename Visit>
__device__ __forceinline__ void visit_tiles(const Row<T>& row, const TileSet& set, int begin, int end, Visit visit) {
    constexpr int LENGTH = Vectors<T, COUNT>::LENGTH;
    const int before = unaligned(row);
    for (int tile = begin; tile < end; ++tile) {
        if (!set.has(tile)) {
            continue;
        }
        const int from = tile * TILE;
        while (tile + 1 < end && set.has(tile + 1)) {
            ++tile;
        }
        const int behind = (tile + 1) * TILE, to = behind < row.vocabulary ? behind : row.vocabulary;
        for (int v = (from + before) / LENGTH + int(threadIdx.x); v * LENGTH - before < to; v += THREADS) {
            visit(Vectors<T, COUNT>{v * LENGTH - before, from, to});
        }
    }
}

}  // namespace dllm
