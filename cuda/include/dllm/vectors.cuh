// Rows read by a whole block, 16 bytes a thread, where only which ids there are matters and not which thread reads them. What
// the sums of a tile need in a fixed place is read by tile.cuh.
#pragma once

#include "dllm/prediction.cuh"

namespace dllm {

// Logits from an address that is a multiple of 16 bytes to the next: the ids of a row from `first`, which may lie before `begin`
// or end behind `end`; those outside are not its own.
template <typename T>
struct Vector {
    static constexpr int COUNT = Words<T>::COUNT, LENGTH = 4 * COUNT;

    int first, begin, end;

    // Calls visit(id, logit) for each of its ids.
    template <typename Visit>
    __device__ __forceinline__ void visit(const Row<T>& row, Visit visit) const {
        if (first >= begin && first + LENGTH <= end && row.softcap.cap == 0.0f && !has_suppressed(row)) {
            const uint4 words = *reinterpret_cast<const uint4*>(row.logits + first);
#pragma unroll
            for (int k = 0; k < LENGTH; ++k) {
                const int w = k / COUNT;
                const uint32_t word = w == 0 ? words.x : w == 1 ? words.y : w == 2 ? words.z : words.w;
                visit(first + k, Words<T>::element(word, k % COUNT));
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
    // Of a whole vector.
    __device__ __forceinline__ bool has_suppressed(const Row<T>& row) const {
        if (row.suppressed == nullptr) {
            return false;
        }
        const int bit = first & 7;
        uint32_t bits = uint32_t(row.suppressed[first >> 3]) >> bit;
        if (bit + LENGTH > 8) {
            bits |= uint32_t(row.suppressed[(first >> 3) + 1]) << (8 - bit);
        }
        return (bits & ((1u << LENGTH) - 1)) != 0;
    }
};

// Logits of a row that lie between the last multiple of 16 bytes in memory and its start.
template <typename T>
__device__ __forceinline__ int unaligned(const Row<T>& row) {
    return int((uint64_t(row.logits) & 15) / sizeof(T));
}

// Calls visit(vector) for vectors that hold the ids from `begin` to before `end`, spread over a block of THREADS.
template <int THREADS, typename T, typename Visit>
__device__ __forceinline__ void visit_vectors(const Row<T>& row, int begin, int end, Visit visit) {
    constexpr int LENGTH = Vector<T>::LENGTH;
    const int before = unaligned(row);
    for (int v = (begin + before) / LENGTH + int(threadIdx.x); v * LENGTH - before < end; v += THREADS) {
        visit(Vector<T>{v * LENGTH - before, begin, end});
    }
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

// Calls visit(vector) for vectors that hold the ids of those tiles from `begin` to before `end` that are in the set.
template <int THREADS, typename T, typename Visit>
__device__ __forceinline__ void visit_tiles(const Row<T>& row, const TileSet& set, int begin, int end, Visit visit) {
    for (int tile = begin; tile < end; ++tile) {
        if (set.has(tile)) {
            const int first = tile * TILE, behind = first + TILE;
            visit_vectors<THREADS>(row, first, behind < row.vocabulary ? behind : row.vocabulary, visit);
        }
    }
}

}  // namespace dllm
