// bfloat16 as it lies in memory, and the roundings between operations that torch makes.
#pragma once

#include "dllm/ptx.cuh"

namespace dllm {

using Bits = uint16_t;  // of a bfloat16

__device__ __forceinline__ float widen_bits(Bits bits) { return __uint_as_float(uint32_t(bits) << 16); }

// To nearest, ties to even.
__device__ __forceinline__ Bits narrow(float x) { return Bits(pack_bf16x2(x, 0.0f) & 0xffffu); }

// What is left of a number after it has been stored as bfloat16.
__device__ __forceinline__ float rounded(float x) { return widen_bits(narrow(x)); }

// Eight neighbours, read or written by one 16-byte access.
struct Eight {
    float values[8];

    __device__ static __forceinline__ Eight load(const Bits* from) {
        const uint4 words = *reinterpret_cast<const uint4*>(from);
        const uint32_t word[4] = {words.x, words.y, words.z, words.w};
        Eight result;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            result.values[2 * i] = __uint_as_float(word[i] << 16);
            result.values[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
        }
        return result;
    }

    __device__ __forceinline__ void store(Bits* to) const {
        *reinterpret_cast<uint4*>(to) = {pack_bf16x2(values[0], values[1]), pack_bf16x2(values[2], values[3]),
                                         pack_bf16x2(values[4], values[5]), pack_bf16x2(values[6], values[7])};
    }
};

}  // namespace dllm
