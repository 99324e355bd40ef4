// Instructions that CUDA C++ has no portable word for: each one inline function, with a body for the host emulator.
// No other file holds `asm`.
#pragma once

#include "dllm/platform.cuh"

namespace dllm {

// max(a, b), NaN if either is. (fmaxf would hide a NaN, and a NaN among the logits must reach the sums.)
__device__ __forceinline__ float max_keeping_nan(float a, float b) {
#ifdef DLLM_EMU
    return a != a ? a : b != b ? b : a > b ? a : b;
#else
    float result;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
#endif
}

#ifdef DLLM_EMU
namespace emulated {
// Applies `larger` to both halves of packed 16-bit floats; like the instruction, it passes over NaN.
template <typename Widen>
inline uint32_t max_halves(uint32_t a, uint32_t b, Widen widen) {
    uint32_t result = 0;
    for (int shift = 0; shift < 32; shift += 16) {
        const uint16_t x = uint16_t(a >> shift), y = uint16_t(b >> shift);
        const float fx = widen(x), fy = widen(y);
        const uint16_t larger = fx != fx ? y : fy != fy ? x : fx > fy ? x : y;
        result |= uint32_t(larger) << shift;
    }
    return result;
}
}  // namespace emulated
#endif

// The larger of two bfloat16, in both halves; NaN is passed over.
__device__ __forceinline__ uint32_t max_bf16x2(uint32_t a, uint32_t b) {
#ifdef DLLM_EMU
    return emulated::max_halves(a, b, [](uint16_t bits) { return __uint_as_float(uint32_t(bits) << 16); });
#else
    uint32_t result;
    asm("max.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
#endif
}

// float16 bits as float32: exact.
__device__ __forceinline__ float widen_f16(uint16_t bits) {
#ifdef DLLM_EMU
    return emu::half_to_float(bits);
#else
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(bits));
    return result;
#endif
}

// The larger of two float16, in both halves; NaN is passed over.
__device__ __forceinline__ uint32_t max_f16x2(uint32_t a, uint32_t b) {
#ifdef DLLM_EMU
    return emulated::max_halves(a, b, [](uint16_t bits) { return emu::half_to_float(bits); });
#else
    uint32_t result;
    asm("max.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
#endif
}

// Asks for a copy of 16 bytes from global to shared memory that goes on beside the program, or for 16 zero bytes where
// `is_wanted` is false. Both addresses are multiples of 16; `source` must be readable only where it is wanted.
__device__ __forceinline__ void async_copy_16(void* destination, const void* source, bool is_wanted) {
#ifdef DLLM_EMU
    emu::async_copy(destination, source, 16, !is_wanted);
#else
    const uint32_t shared = uint32_t(__cvta_generic_to_shared(destination));
    const int bytes = is_wanted ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(source), "r"(bytes) : "memory");
#endif
}

// Closes the group of the copies that this thread has asked for since the last group.
__device__ __forceinline__ void async_copy_close_group() {
#ifdef DLLM_EMU
    emu::async_copy_close_group();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the last OPEN groups of this thread are still under way.
template <int OPEN>
__device__ __forceinline__ void async_copy_wait() {
#ifdef DLLM_EMU
    emu::async_copy_wait(OPEN);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
#endif
}

}  // namespace dllm
