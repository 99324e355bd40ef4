// A tile of a row of logits in shared memory: how threads put it there, and the sums that one warp takes over it, in the shape
// that ARCHITECTURE.md, "The arithmetic that decides", fixes.
//
// A tile is looked at twice, for its maximum and for the sums relative to it. Shared memory holds it meanwhile, so that the
// loops over it stay loops: small enough for the nearest instruction cache, with few registers, and with all of a tile's
// copies under way at once beside the program.
#pragma once

#include "dllm/logits.cuh"

namespace dllm {

// The threads that put a tile into shared memory together: a warp, or a block.
struct WarpOfTile {
    static constexpr int SIZE = WARP;
    __device__ static __forceinline__ int rank() { return threadIdx.x % WARP; }
    __device__ static __forceinline__ void wait() { __syncwarp(); }
};

template <int THREADS>
struct BlockOfTile {
    static constexpr int SIZE = THREADS;
    __device__ static __forceinline__ int rank() { return threadIdx.x; }
    __device__ static __forceinline__ void wait() { __syncthreads(); }
};

// The logits of a tile in the order of their ids; -inf for what is suppressed or beyond the vocabulary.
template <typename T>
struct Tile {
    static constexpr int PER_VECTOR = 16 / sizeof(T);
    static constexpr int ALL_VECTORS = TILE / PER_VECTOR;
    // Vectors of a lane, where a warp has the tile: lane l has the vectors i * 32 + l. So each of the 256 accumulators
    // belongs to one lane, which has eight.
    static constexpr int VECTORS = ALL_VECTORS / WARP;
    static constexpr int SLOTS = LANES / WARP;
    // Vectors of one round of a loop: sixteen logits.
    static constexpr int ROUND = 16 / PER_VECTOR;

    // One more, for a row that is not aligned to 16 bytes.
    uint4 vectors[ALL_VECTORS + 1];

    __device__ __forceinline__ T* elements() { return reinterpret_cast<T*>(vectors); }
    __device__ __forceinline__ float value(int id) const { return widen(reinterpret_cast<const T*>(vectors)[id]); }

    // Begins to read the tile that starts at id `start`, each logit once.
    template <typename Group>
    __device__ __forceinline__ void begin(const Row<T>& row, int start) {
        const Extent extent = extent_of(row, start);
        const T* tile = row.logits + start;
        const uint4* source = reinterpret_cast<const uint4*>(tile - extent.lead);
        if (extent.is_whole()) {
            const int rank = Group::rank();
#pragma unroll
            for (int v = 0; v < ALL_VECTORS; v += Group::SIZE) {
                async_copy_16(&vectors[v + rank], source + v + rank, true);
            }
        } else {
            copy_ragged<Group>(tile, source, extent);
        }
        async_copy_close_group();
    }

    // Behind it thread r of the group sees the vectors r, r + SIZE, ...; all of them once the group has waited.
    template <typename Group>
    __device__ __forceinline__ void finish(const Row<T>& row, int start) {
        const Extent extent = extent_of(row, start);
        const bool is_ready = row.softcap.cap == 0.0f && extent.is_whole() && !holds_suppressed(row, start);
        async_copy_wait<0>();
        if (!is_ready) {
            prepare<Group>(row, start, extent);
        }
    }

    // Calls use(logit, id in the tile, accumulator of the lane's eight) for each logit of this lane, ids rising.
    template <typename Use>
    __device__ __forceinline__ void each_of_lane(Use use) const {
#pragma unroll 1
        for (int i = 0; i < VECTORS; i += ROUND) {
            round(i, use);
        }
    }

    // The same without rounds in which no lane has a logit of at least `least`.
    template <typename Use>
    __device__ __forceinline__ void each_of_lane_from(float least, Use use) const {
#pragma unroll 1
        for (int i = 0; i < VECTORS; i += ROUND) {
            float largest, smallest;
            extremes_of_lane<ROUND>(i, largest, smallest);
            if (__ballot_sync(FULL_WARP, largest >= least) != 0) {
                round(i, use);
            }
        }
    }

    // Calls use(logit, id in the tile, number in the vector) for each logit of a vector.
    template <typename Use>
    __device__ __forceinline__ void each_of_vector(int v, Use use) const {
        constexpr int COUNT = Words<T>::COUNT;
        const uint4 vector = vectors[v];
        const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
        for (int k = 0; k < PER_VECTOR; ++k) {
            use(Words<T>::element(words[k / COUNT], k % COUNT), v * PER_VECTOR + k, k);
        }
    }

    // The largest and the smallest logit of COUNT_OF vectors of this lane, NaN passed over: -inf and +inf of nothing else.
    template <int COUNT_OF>
    __device__ __forceinline__ void extremes_of_lane(int first, float& largest, float& smallest) const {
        constexpr int COUNT = Words<T>::COUNT;
        uint32_t high = Words<T>::NEGATIVE_INFINITY, low = Words<T>::POSITIVE_INFINITY;
#pragma unroll 4
        for (int i = first; i < first + COUNT_OF; ++i) {
            const uint4 vector = vectors[i * WARP + threadIdx.x % WARP];
            const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                high = Words<T>::max(high, words[w]);
                low = Words<T>::min(low, words[w]);
            }
        }
        largest = fmaxf(Words<T>::element(high, 0), Words<T>::element(high, COUNT - 1));
        smallest = fminf(Words<T>::element(low, 0), Words<T>::element(low, COUNT - 1));
    }

  private:
    template <typename Use>
    __device__ __forceinline__ void round(int first, Use use) const {
#pragma unroll
        for (int u = 0; u < ROUND; ++u) {
            each_of_vector((first + u) * WARP + threadIdx.x % WARP,
                           [&](float x, int id, int k) { use(x, id, (u * PER_VECTOR + k) % SLOTS); });
        }
    }

    // A tile has `count` ids, and the first lies `lead` elements behind a multiple of 16 bytes.
    struct Extent {
        int lead, count;
        __device__ __forceinline__ bool is_whole() const { return lead == 0 && count == TILE; }
    };

    __device__ static __forceinline__ Extent extent_of(const Row<T>& row, int start) {
        const int left = row.vocabulary - start;
        return {int(uint64_t(row.logits + start) & 15) / int(sizeof(T)), left < TILE ? left : TILE};
    }

    // Is an id of this whole tile suppressed? Where the bits are not aligned, perhaps.
    __device__ static __forceinline__ bool holds_suppressed(const Row<T>& row, int start) {
        if (row.suppressed == nullptr) {
            return false;
        }
        const uint4* bits = reinterpret_cast<const uint4*>(row.suppressed + start / 8);
        if ((uint64_t(bits) & 15) != 0) {
            return true;
        }
        static_assert(TILE / 8 == WARP * sizeof(uint4), "a lane has 16 bytes of the bits of a tile");
        const uint4 own = bits[threadIdx.x % WARP];
        return __ballot_sync(FULL_WARP, (own.x | own.y | own.z | own.w) != 0) != 0;
    }

    // Copies a tile that lies `lead` elements behind `source` to the same distance from the start of `vectors`: vectors that
    // lie in the row by asynchronous copies, the ids of the others one by one.
    template <typename Group>
    __device__ __forceinline__ void copy_ragged(const T* tile, const uint4* source, const Extent& extent) {
        const int lead = extent.lead, end = lead + extent.count, last = end / PER_VECTOR, rank = Group::rank();
        for (int v = (lead > 0) + rank; v < last; v += Group::SIZE) {
            async_copy_16(&vectors[v], source + v, true);
        }
        if (rank < PER_VECTOR) {
            if (lead > 0 && rank >= lead && rank < end) {
                elements()[rank] = tile[rank - lead];
            }
            const int e = last * PER_VECTOR + rank;
            if (e >= lead && e < end) {
                elements()[e] = tile[e - lead];
            }
        }
    }

    // Bounds what was read, moves it to its place, and puts -inf for what counts as that.
    template <typename Group>
    __device__ __forceinline__ void prepare(const Row<T>& row, int start, const Extent& extent) {
        constexpr int COUNT = Words<T>::COUNT;
        Group::wait();  // for the copies of the others
        if (row.softcap.cap != 0.0f) {
            uint32_t* words = reinterpret_cast<uint32_t*>(vectors);
#pragma unroll 1
            for (int w = Group::rank(); w < 4 * (ALL_VECTORS + 1); w += Group::SIZE) {
                const uint32_t word = words[w];
                words[w] = Words<T>::word(row.softcap.apply(Words<T>::element(word, 0)),
                                          row.softcap.apply(Words<T>::element(word, COUNT - 1)));
            }
            Group::wait();  // a vector comes from two threads
        }
#pragma unroll 1
        for (int v = Group::rank(); v < ALL_VECTORS; v += Group::SIZE) {
            uint32_t words[4];
            read_moved(words, v, extent.lead);
            Group::wait();  // whoever reads what is written now has read it
            const int first = v * PER_VECTOR, left = extent.count - first;
            // Bits of what is -inf. PER_VECTOR is 8 or 4, so those of a vector lie in one byte. They end with the vocabulary.
            uint32_t gone = left >= PER_VECTOR ? 0 : ~0u << (left > 0 ? left : 0);
            if (row.suppressed != nullptr && left > 0) {
                gone |= uint32_t(row.suppressed[(start + first) >> 3]) >> (first & 7);
            }
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                words[w] = without(words[w], gone >> (w * COUNT));
            }
            vectors[v] = {words[0], words[1], words[2], words[3]};
        }
    }

    // Vector v of a tile that lies `lead` elements behind the start of `vectors`.
    __device__ __forceinline__ void read_moved(uint32_t (&words)[4], int v, int lead) const {
        const uint4 here = vectors[v];
        words[0] = here.x;
        words[1] = here.y;
        words[2] = here.z;
        words[3] = here.w;
        if (lead != 0) {
            const int bytes = lead * int(sizeof(T));
            const uint32_t* from = reinterpret_cast<const uint32_t*>(&vectors[v]) + bytes / 4;
            const int bits = bytes % 4 * 8;
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                // Without a remainder the next word is not needed, and behind the last vector there is none.
                const uint32_t above = bits == 0 ? 0 : from[w + 1];
                words[w] = uint32_t((uint64_t(above) << 32 | from[w]) >> bits);
            }
        }
    }

    // The word with -inf where the lowest bits are set.
    __device__ static __forceinline__ uint32_t without(uint32_t word, uint32_t bits) {
        uint32_t mask;
        if constexpr (Words<T>::COUNT == 1) {
            mask = (bits & 1) ? 0xffffffffu : 0;
        } else {
            mask = ((bits & 1) ? 0x0000ffffu : 0) | ((bits & 2) ? 0xffff0000u : 0);
        }
        return (word & ~mask) | (Words<T>::NEGATIVE_INFINITY & mask);
    }
};

// Warps of a block that each take one tile: as many as fit into the 48 KB that a kernel has without asking for more.
constexpr int TILE_WARPS = 2;

template <typename T>
struct WarpTiles {
    Tile<T> tile[TILE_WARPS];
};

// Which tile of which site this warp takes, in a grid of (tiles of a row by TILE_WARPS, sites, sites beyond 65,535). Both may
// lie beyond the last one. Blocks that run side by side read what lies side by side.
struct TilePlace {
    int site, tile;
};

__device__ __forceinline__ TilePlace tile_place() {
    return {int(blockIdx.z * gridDim.y + blockIdx.y), int(blockIdx.x * TILE_WARPS + threadIdx.x / WARP)};
}

// The largest value of a warp, NaN passed over.
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int n = WARP / 2; n > 0; n /= 2) {
        x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, n));
    }
    return x;
}

// The sum of N accumulators in each lane, number lane * N + k, as the fixed binary tree: accumulator i takes i + n for
// n = 16 * N, ..., 2, 1. As long as lanes have several, each gives half of them to its partner and goes on with the other
// half; afterwards all have the same one. Which of two comes first changes nothing, because addition commutes.
template <int N>
__device__ __forceinline__ float warp_tree(float (&sums)[N]) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int n = WARP / 2, left = N / 2; n > 0; n /= 2, left /= 2) {
        if (left > 0) {
            const bool keeps_upper = (lane & n) != 0;
#pragma unroll
            for (int k = 0; k < left; ++k) {
                const float given = keeps_upper ? sums[k] : sums[k + left];
                const float kept = keeps_upper ? sums[k + left] : sums[k];
                sums[k] = __fadd_rn(kept, __shfl_xor_sync(FULL_WARP, given, n));
            }
        } else {
            sums[0] = __fadd_rn(sums[0], __shfl_xor_sync(FULL_WARP, sums[0], n));
        }
    }
    // Now lanes that differ in their highest bits hold different ones.
#pragma unroll
    for (int n = WARP / 2, left = N / 2; left > 0; n /= 2, left /= 2) {
        sums[0] = __fadd_rn(sums[0], __shfl_xor_sync(FULL_WARP, sums[0], n));
    }
    return sums[0];
}

// The sum of a tile's 256 accumulators, eight in each lane as `each_of_lane` counts them.
template <typename T>
__device__ __forceinline__ float tile_sum(float (&slots)[Tile<T>::SLOTS]) {
    constexpr int N = Tile<T>::PER_VECTOR;
    float sums[N];
#pragma unroll
    for (int k = 0; k < N; ++k) {
        // In float32 the accumulators i and i + 128 lie in one lane.
        sums[k] = N < Tile<T>::SLOTS ? __fadd_rn(slots[k], slots[(k + N) % Tile<T>::SLOTS]) : slots[k];
    }
    return warp_tree(sums);
}

}  // namespace dllm
