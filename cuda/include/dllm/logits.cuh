// Rows of logits as they lie in memory: bfloat16 (Bf16), float16 (F16) or float32 (float), and ids that count as -inf.
#pragma once

#include "dllm/arithmetic.cuh"
#include "dllm/elements.cuh"

namespace dllm {

// A row of logits. `suppressed` is null, or holds one bit for each id: those set count as -inf. A bound on the logits comes
// before that, and what it gives is rounded to their type.
template <typename T>
struct Row {
    const T* logits;
    const uint8_t* suppressed;
    int vocabulary;
    Softcap softcap;

    __device__ __forceinline__ bool is_suppressed(int id) const {
        return suppressed != nullptr && (suppressed[id >> 3] >> (id & 7) & 1);
    }

    // The logit of an id, -inf where suppressed.
    __device__ __forceinline__ float value(int id) const {
        if (is_suppressed(id)) {
            return negative_infinity();
        }
        const float x = widen(logits[id]);
        return softcap.cap == 0.0f ? x : Words<T>::element(Words<T>::word(softcap.apply(x), 0.0f), 0);
    }

    // The same, and -inf beyond the vocabulary.
    __device__ __forceinline__ float value_or_nothing(int id) const {
        return id < vocabulary ? value(id) : negative_infinity();
    }
};

// The share of a tile that one lane of a warp holds in registers.
//
// Vector i of lane l holds the ids i * 32 * PER_VECTOR + l * PER_VECTOR + (0 .. PER_VECTOR - 1) of the tile, so that the
// loads of a warp are contiguous and each of the 256 accumulators belongs to one lane: element (i, k) goes to
// accumulator `slot(i, k)` of the lane's eight.
template <typename T>
struct TileShare {
    static constexpr int PER_VECTOR = 4 * Words<T>::COUNT;
    static constexpr int VECTORS = TILE / WARP / PER_VECTOR;
    static constexpr int SLOTS = LANES / WARP;

    uint4 vectors[VECTORS];

    __device__ static __forceinline__ int slot(int i, int k) { return i * PER_VECTOR % SLOTS + k; }

    __device__ __forceinline__ uint32_t word(int i, int w) const {
        return w == 0 ? vectors[i].x : w == 1 ? vectors[i].y : w == 2 ? vectors[i].z : vectors[i].w;
    }

    // Element k of vector i.
    __device__ __forceinline__ float element(int i, int k) const {
        return Words<T>::element(word(i, k / Words<T>::COUNT), k % Words<T>::COUNT);
    }

    // First id of vector i of this lane, counted from the start of the tile.
    __device__ static __forceinline__ int first_id(int i, int lane) { return (i * WARP + lane) * PER_VECTOR; }

    // Reads the tile that starts at id `start`: each logit once, 16 bytes at a time where the address allows it.
    __device__ __forceinline__ void load(const Row<T>& row, int start, int lane) {
        const T* tile = row.logits + start;
        if (start + TILE <= row.vocabulary && (uint64_t(tile) & 15) == 0) {
            const uint4* aligned = reinterpret_cast<const uint4*>(tile);
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) {
                vectors[i] = aligned[i * WARP + lane];
            }
        } else {
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) {
                const int first = start + first_id(i, lane);
                vectors[i].x = guarded_word(row, first);
                vectors[i].y = guarded_word(row, first + Words<T>::COUNT);
                vectors[i].z = guarded_word(row, first + 2 * Words<T>::COUNT);
                vectors[i].w = guarded_word(row, first + 3 * Words<T>::COUNT);
            }
        }
        if (row.softcap.cap != 0.0f) {
            bound(row, start, lane);
        }
        if (row.suppressed != nullptr) {
            suppress(row, start, lane);
        }
    }

    // Largest element of this lane, NaN passed over.
    __device__ __forceinline__ float max() const {
        uint32_t largest = Words<T>::NEGATIVE_INFINITY;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                largest = Words<T>::max(largest, word(i, w));
            }
        }
        float result = Words<T>::element(largest, 0);
        if (Words<T>::COUNT == 2) {
            result = fmaxf(result, Words<T>::element(largest, 1));
        }
        return result;
    }

  private:
    // A word of logits read one by one, -inf beyond the vocabulary.
    __device__ static __forceinline__ uint32_t guarded_word(const Row<T>& row, int id) {
        uint32_t word = Words<T>::NEGATIVE_INFINITY;
        if constexpr (Words<T>::COUNT == 1) {
            if (id < row.vocabulary) {
                word = __float_as_uint(row.logits[id]);
            }
        } else {
            if (id < row.vocabulary) {
                word = (word & 0xffff0000u) | row.logits[id].bits;
            }
            if (id + 1 < row.vocabulary) {
                word = (word & 0x0000ffffu) | uint32_t(row.logits[id + 1].bits) << 16;
            }
        }
        return word;
    }

    __device__ __forceinline__ void bound(const Row<T>& row, int start, int lane) {
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const int first = start + first_id(i, lane);
            vectors[i].x = bounded(vectors[i].x, row, first);
            vectors[i].y = bounded(vectors[i].y, row, first + Words<T>::COUNT);
            vectors[i].z = bounded(vectors[i].z, row, first + 2 * Words<T>::COUNT);
            vectors[i].w = bounded(vectors[i].w, row, first + 3 * Words<T>::COUNT);
        }
    }

    // A word whose first id is `id` with its logits bounded. Beyond the vocabulary it stays -inf.
    __device__ static __forceinline__ uint32_t bounded(uint32_t word, const Row<T>& row, int id) {
        constexpr int LAST = Words<T>::COUNT - 1;
        const float first = row.softcap.apply(Words<T>::element(word, 0));
        const float last = row.softcap.apply(Words<T>::element(word, LAST));
        return Words<T>::word(id < row.vocabulary ? first : negative_infinity(),
                              id + LAST < row.vocabulary ? last : negative_infinity());
    }

    __device__ __forceinline__ void suppress(const Row<T>& row, int start, int lane) {
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const int first = start + first_id(i, lane);
            // PER_VECTOR is 8 or 4, so the bits of a vector lie in one byte. The bits end with the vocabulary.
            const uint32_t bits = first < row.vocabulary ? uint32_t(row.suppressed[first >> 3]) >> (first & 7) : 0;
            if ((bits & ((1u << PER_VECTOR) - 1)) != 0) {
                vectors[i].x = without(vectors[i].x, bits);
                vectors[i].y = without(vectors[i].y, bits >> Words<T>::COUNT);
                vectors[i].z = without(vectors[i].z, bits >> (2 * Words<T>::COUNT));
                vectors[i].w = without(vectors[i].w, bits >> (3 * Words<T>::COUNT));
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

// The largest value of a warp, NaN passed over.
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int n = WARP / 2; n > 0; n /= 2) {
        x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, n));
    }
    return x;
}

// The sum of a tile's 256 accumulators, eight in each lane, as the fixed binary tree: accumulator i takes i + n for
// n = 128, 64, ..., 1. Lanes trade places symmetrically, which gives the same bits because addition commutes.
template <typename T>
__device__ __forceinline__ float warp_tree(float (&slots)[TileShare<T>::SLOTS]) {
    constexpr int PER_VECTOR = TileShare<T>::PER_VECTOR;
    if (PER_VECTOR < TileShare<T>::SLOTS) {  // float32: accumulators i and i + 128 lie in one lane
#pragma unroll
        for (int k = 0; k < PER_VECTOR; ++k) {
            slots[k] = __fadd_rn(slots[k], slots[k + PER_VECTOR]);
        }
    }
#pragma unroll
    for (int n = WARP / 2; n > 0; n /= 2) {
#pragma unroll
        for (int k = 0; k < PER_VECTOR; ++k) {
            slots[k] = __fadd_rn(slots[k], __shfl_xor_sync(FULL_WARP, slots[k], n));
        }
    }
#pragma unroll
    for (int n = PER_VECTOR / 2; n > 0; n /= 2) {
#pragma unroll
        for (int k = 0; k < n; ++k) {
            slots[k] = __fadd_rn(slots[k], slots[k + n]);
        }
    }
    return slots[0];
}

}  // namespace dllm
