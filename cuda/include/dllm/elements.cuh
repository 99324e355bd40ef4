// Elements of tensors as they lie in memory: bfloat16 (Bf16), float16 (F16) or float32 (float). What is computed with them is
// float32, and rounds to nearest, ties to even, where it goes back.
#pragma once

#include "dllm/ptx.cuh"

namespace dllm {

struct Bf16 {
    uint16_t bits;
};

struct F16 {
    uint16_t bits;
};

__device__ __forceinline__ float widen(Bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
__device__ __forceinline__ float widen(F16 x) { return widen_f16(x.bits); }
__device__ __forceinline__ float widen(float x) { return x; }

// How a 16-byte load, seen as four 32-bit words, holds elements of a type: COUNT of them in each word.
template <typename T>
struct Words;

template <>
struct Words<Bf16> {
    static constexpr int COUNT = 2;
    static constexpr uint32_t NEGATIVE_INFINITY = 0xff80ff80u, POSITIVE_INFINITY = 0x7f807f80u;

    // Element i of the word as float32: bfloat16 is the upper half of a float32.
    __device__ static __forceinline__ float element(uint32_t word, int i) {
        return __uint_as_float(i == 0 ? word << 16 : word & 0xffff0000u);
    }
    __device__ static __forceinline__ uint32_t max(uint32_t a, uint32_t b) { return max_bf16x2(a, b); }
    __device__ static __forceinline__ uint32_t min(uint32_t a, uint32_t b) { return min_bf16x2(a, b); }
    // A word of these elements, rounded; for float32 the second is not looked at.
    __device__ static __forceinline__ uint32_t word(float first, float second) { return pack_bf16x2(first, second); }
    // sum += a b on matrices of these elements, as ptx.cuh says.
    __device__ static __forceinline__ void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        multiply_add_bf16(sum, a, b0, b1);
    }
};

template <>
struct Words<F16> {
    static constexpr int COUNT = 2;
    static constexpr uint32_t NEGATIVE_INFINITY = 0xfc00fc00u, POSITIVE_INFINITY = 0x7c007c00u;

    __device__ static __forceinline__ float element(uint32_t word, int i) {
        return widen_f16(uint16_t(i == 0 ? word & 0xffffu : word >> 16));
    }
    __device__ static __forceinline__ uint32_t max(uint32_t a, uint32_t b) { return max_f16x2(a, b); }
    __device__ static __forceinline__ uint32_t min(uint32_t a, uint32_t b) { return min_f16x2(a, b); }
    __device__ static __forceinline__ uint32_t word(float first, float second) { return pack_f16x2(first, second); }
    // sum += a b on matrices of these elements, as ptx.cuh says.
    __device__ static __forceinline__ void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        multiply_add_f16(sum, a, b0, b1);
    }
};

template <>
struct Words<float> {
    static constexpr int COUNT = 1;
    static constexpr uint32_t NEGATIVE_INFINITY = 0xff800000u, POSITIVE_INFINITY = 0x7f800000u;

    __device__ static __forceinline__ float element(uint32_t word, int) { return __uint_as_float(word); }
    __device__ static __forceinline__ uint32_t max(uint32_t a, uint32_t b) {
        return __float_as_uint(fmaxf(__uint_as_float(a), __uint_as_float(b)));  // fmaxf passes over NaN
    }
    __device__ static __forceinline__ uint32_t min(uint32_t a, uint32_t b) {
        return __float_as_uint(fminf(__uint_as_float(a), __uint_as_float(b)));
    }
    __device__ static __forceinline__ uint32_t word(float first, float) { return __float_as_uint(first); }
};

template <typename T>
__device__ __forceinline__ T narrow(float x) {
    return {uint16_t(Words<T>::word(x, 0.0f) & 0xffffu)};
}

// What is left of a number after it has been stored as a T.
template <typename T>
__device__ __forceinline__ float rounded(float x) {
    return Words<T>::element(Words<T>::word(x, 0.0f), 0);
}

// Eight neighbours of 16 bits each, read or written by one 16-byte access, or of 32 bits, read by two.
struct Eight {
    float values[8];

    __device__ static __forceinline__ Eight load(const float* from) {
        const float4* halves = reinterpret_cast<const float4*>(from);
        const float4 low = halves[0], high = halves[1];
        return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
    }

    template <typename T>
    __device__ static __forceinline__ Eight load(const T* from) {
        const uint4 words = *reinterpret_cast<const uint4*>(from);
        const uint32_t word[4] = {words.x, words.y, words.z, words.w};
        Eight result;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            result.values[i] = Words<T>::element(word[i / 2], i % 2);
        }
        return result;
    }

    template <typename T>
    __device__ __forceinline__ void store(T* to) const {
        uint32_t word[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            word[i] = Words<T>::word(values[2 * i], values[2 * i + 1]);
        }
        *reinterpret_cast<uint4*>(to) = {word[0], word[1], word[2], word[3]};
    }
};

}  // namespace dllm
