// Logits sorted into bins by their leading bits, for the cuts of mask_filter.cu: which bin a logit falls into, and which
// logits a bin holds.
//
// A power of two has 64 or 128 bins, so a row at any temperature spreads over hundreds of them. In bfloat16 a bin holds one
// value only: then counts are all there is to know of a row, since ids of a bin weigh the same. Magnitudes outside a window of
// fifteen powers of two share four bins, two of each sign. The window moves with the row, so that these hold what is close to
// 0, or what weighs nothing.
#pragma once

#include "dllm/prediction.cuh"

namespace dllm {

// Integers in the order of the float32 values; -0 and +0 are the same.
__device__ __forceinline__ uint32_t ordered(float x) {
    const uint32_t bits = __float_as_uint(__fadd_rn(x, 0.0f));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float from_ordered(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The trailing bits of a float32 that say nothing where it widens from T.
template <typename T>
constexpr int UNUSED_BITS = 0;
template <>
constexpr int UNUSED_BITS<F16> = 13;
template <>
constexpr int UNUSED_BITS<Bf16> = 16;

// Ordered keys from `first` to `last`. The unused bits of `last` are ones.
template <typename T>
struct Keys {
    static constexpr uint32_t UNIT = 1u << UNUSED_BITS<T>;  // keys that one value of T takes up

    uint32_t first, last;

    __device__ __forceinline__ bool are_one_value() const { return last - first < UNIT; }

    // The key of the one value: its unused bits are zeros, which the order turns into ones for negative numbers.
    __device__ __forceinline__ uint32_t value() const { return last & 0x80000000u ? last & ~(UNIT - 1) : last; }

    __device__ __forceinline__ bool hold(uint32_t key) const { return key - first <= last - first; }

    // Part `i` from the top, of parts of 2^shift keys.
    __device__ __forceinline__ Keys part(int i, int shift) const {
        const uint32_t end = last - (uint32_t(i) << shift), size = (1u << shift) - 1;
        return {end - first > size ? end - size : first, end};
    }
};

// Bin 0 holds the largest logits.
template <typename T>
struct BinMap {
    // Leading bits of the fraction that tell bins apart.
    static constexpr int FRACTION_BITS = UNUSED_BITS<T> == 16 ? 7 : 6;
    static constexpr int SHIFT = 23 - FRACTION_BITS;
    static constexpr bool IS_EXACT = SHIFT <= UNUSED_BITS<T>;
    static constexpr int POWERS = 15;
    static constexpr int SPAN = POWERS << FRACTION_BITS;  // bins of the window, of one sign
    static constexpr int ZERO = SPAN + 2;                 // the bin of 0; around it tiny, the window, huge
    static constexpr int BINS = IS_EXACT ? 4096 : 2048;
    // Bins whose ids weigh differently, so that weights are summed: the two around 0, or all.
    static constexpr int MASSES = IS_EXACT ? 2 : BINS;
    static_assert(2 * ZERO + 1 <= BINS, "every logit has a bin");

    // Leading bits of the smallest magnitude of the window.
    int low;

    // The window of a row: it ends above the maximum and all that can weigh something, which is 28.5 temperatures below it.
    __device__ static __forceinline__ BinMap of(float max, float inverse_temperature) {
        const float size = __uint_as_float(__float_as_uint(max) & 0x7fffffffu);
        const float reach = __fadd_rn(size, __fdiv_rn(29.0f, inverse_temperature));
        const int power = int(__float_as_uint(reach) >> 23) - (POWERS - 1);
        return {(power < 1 ? 1 : power > 255 - POWERS ? 255 - POWERS : power) << FRACTION_BITS};
    }

    // How far from the bin of 0: 0, 1 for tiny, 2 to SPAN + 1 in the window, SPAN + 2 for huge.
    __device__ __forceinline__ int bin(float x) const {
        const uint32_t size = __float_as_uint(x) & 0x7fffffffu;
        const int leading = int(size >> SHIFT);
        const int above = leading < low - 1 ? low - 1 : leading;
        const int distance = size == 0 ? 0 : (above > low + SPAN ? low + SPAN : above) - low + 2;
        return __float_as_uint(x) & 0x80000000u ? ZERO + distance : ZERO - distance;
    }

    // Does a logit lie below the window, or is it 0?
    __device__ __forceinline__ bool is_tiny(float x) const {
        return int((__float_as_uint(x) & 0x7fffffffu) >> SHIFT) < low;
    }

    // Where the weights of a bin are summed, or -1 where its ids weigh the same and counts suffice. What is above the window
    // is negative and weighs nothing, each id for itself.
    __device__ static __forceinline__ int mass_of(int bin) {
        if (!IS_EXACT) {
            return bin;
        }
        return bin == ZERO - 1 ? 0 : bin == ZERO + 1 ? 1 : -1;
    }

    __device__ __forceinline__ Keys<T> keys(int bin) const {
        const int distance = bin > ZERO ? bin - ZERO : ZERO - bin;
        if (distance == 0) {
            return {0x80000000u, 0x80000000u};
        }
        const uint32_t begin = distance == 1 ? 1 : uint32_t(low + distance - 2) << SHIFT;
        const uint32_t end = (distance == SPAN + 2 ? 0x80000000u : uint32_t(low + distance - 1) << SHIFT) - 1;
        if (bin < ZERO) {
            return {0x80000000u | begin, 0x80000000u | end};
        }
        // No logit has the key of -0, and with it the unused bits of the last key are ones.
        return {0x7fffffffu - end, 0x7fffffffu - (distance == 1 ? 0 : begin)};
    }
};

// What some tiles of a row add to the bins.
template <typename T>
struct alignas(16) Bins {
    uint64_t masses[BinMap<T>::MASSES];
    uint32_t counts[BinMap<T>::BINS];
};

// A sum of weights by 32-bit additions: 64-bit ones in shared memory are loops of compare-and-swap.
struct SplitSum {
    uint32_t low, high;

    // How often `low` passes 2^32 does not depend on the order of the additions, so neither does the sum.
    __device__ __forceinline__ void add(uint64_t weight) {
        const uint32_t part = uint32_t(weight);
        const uint32_t carry = part != 0 && atomicAdd(&low, part) > 0xffffffffu - part ? 1 : 0;
        const uint32_t rest = uint32_t(weight >> 32) + carry;
        if (rest != 0) {
            atomicAdd(&high, rest);
        }
    }

    __device__ __forceinline__ uint64_t value() const { return uint64_t(high) << 32 | low; }
};

}  // namespace dllm
