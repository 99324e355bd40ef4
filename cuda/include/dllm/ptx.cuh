// Instructions that CUDA C++ has no portable word for: each one inline function, with a body for the host emulator.
// No other file holds `asm`.
#pragma once

#include "dllm/platform.cuh"

namespace dllm {

// Waits until the kernels before this one have ended and what they wrote can be seen. Launched the usual way a kernel begins
// after them, and the wait ends at once; with programmatic dependent launch (python/dllm_fast/switches.py, `pdl`) it may have
// begun before. First in every kernel, for all its threads: a kernel that ended without it would let its own follower begin
// before the kernels ahead of it have ended.
__device__ __forceinline__ void wait_for_kernels_before() {
#if !defined(DLLM_EMU) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel be set up once every block has come here or ended. It still waits for this one to end before it reads
// or writes (above), so where this stands changes times only.
__device__ __forceinline__ void let_kernels_after_begin() {
#if !defined(DLLM_EMU) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

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
// The larger, or the smaller, of packed 16-bit floats, in both halves; like the instructions, it passes over NaN.
template <bool LARGER, typename Widen>
inline uint32_t pick_halves(uint32_t a, uint32_t b, Widen widen) {
    uint32_t result = 0;
    for (int shift = 0; shift < 32; shift += 16) {
        const uint16_t x = uint16_t(a >> shift), y = uint16_t(b >> shift);
        const float fx = widen(x), fy = widen(y);
        const uint16_t picked = fx != fx ? y : fy != fy ? x : (LARGER ? fx > fy : fx < fy) ? x : y;
        result |= uint32_t(picked) << shift;
    }
    return result;
}
inline float widen_bf16(uint16_t bits) { return __uint_as_float(uint32_t(bits) << 16); }
}  // namespace emulated
#endif

// The larger of two bfloat16, in both halves; NaN is passed over.
__device__ __forceinline__ uint32_t max_bf16x2(uint32_t a, uint32_t b) {
#ifdef DLLM_EMU
    return emulated::pick_halves<true>(a, b, emulated::widen_bf16);
#else
    uint32_t result;
    asm("max.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
#endif
}

// The smaller of two bfloat16, in both halves; NaN is passed over.
__device__ __forceinline__ uint32_t min_bf16x2(uint32_t a, uint32_t b) {
#ifdef DLLM_EMU
    return emulated::pick_halves<false>(a, b, emulated::widen_bf16);
#else
    uint32_t result;
    asm("min.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
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
    return emulated::pick_halves<true>(a, b, emu::half_to_float);
#else
    uint32_t result;
    asm("max.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
#endif
}

// The smaller of two float16, in both halves; NaN is passed over.
__device__ __forceinline__ uint32_t min_f16x2(uint32_t a, uint32_t b) {
#ifdef DLLM_EMU
    return emulated::pick_halves<false>(a, b, emu::half_to_float);
#else
    uint32_t result;
    asm("min.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
#endif
}

// Two float32 as float16, to nearest, ties to even: `low` in the lower half.
__device__ __forceinline__ uint32_t pack_f16x2(float low, float high) {
#ifdef DLLM_EMU
    return uint32_t(emu::float_to_half(low)) | uint32_t(emu::float_to_half(high)) << 16;
#else
    uint32_t result;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
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

// 2^x to about 22 bits; subnormal results are 0.
__device__ __forceinline__ float exp2_approximately(float x) {
#ifdef DLLM_EMU
    return std::exp2(x);
#else
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#endif
}

// Two float32 as bfloat16, to nearest, ties to even: `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16x2(float low, float high) {
#ifdef DLLM_EMU
    return uint32_t(emu::float_to_bfloat(low)) | uint32_t(emu::float_to_bfloat(high)) << 16;
#else
    uint32_t result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
#endif
}

#if defined(DLLM_EMU) || __CUDA_ARCH__ < 890
namespace emulated {
// The code of a float32 in E4M3: four bits of exponent with bias 7, three of mantissa, no infinity, NaN all ones.
__device__ __forceinline__ uint32_t e4m3(float x) {
    const uint32_t bits = __float_as_uint(x), sign = (bits >> 24) & 0x80u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) {
        return sign | 0x7fu;
    }
    if (size < 0x3c800000u) {
        // Below 2^-6 its numbers are multiples of 2^-9, which are the last bits of numbers from 2^14 on.
        return sign | (__float_as_uint(__fadd_rn(__uint_as_float(size), 16384.0f)) - 0x46800000u);
    }
    const uint32_t code = ((size + 0x7ffffu + ((size >> 20) & 1u)) >> 20) - ((127u - 7u) << 3);
    return sign | (code < 0x7eu ? code : 0x7eu);
}
}  // namespace emulated
#endif

// Two float32 as E4M3, to nearest, ties to even, at most 448: `low` in the lower byte. Before sm_89 there is no such
// instruction, and no product that would take its numbers either.
__device__ __forceinline__ uint32_t pack_e4m3x2(float low, float high) {
#if defined(DLLM_EMU) || __CUDA_ARCH__ < 890
    return emulated::e4m3(low) | emulated::e4m3(high) << 8;
#else
    uint16_t result;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(result) : "f"(high), "f"(low));
    return result;
#endif
}

// Four 8 x 8 matrices of 16-bit elements from shared memory into the registers of a warp. Lane l gives the address of row
// l % 8 of matrix l / 8, a multiple of 16, and gets of each matrix the elements (l / 4, 2 * (l % 4)) and the next one.
__device__ __forceinline__ void load_matrices(uint32_t (&registers)[4], const void* row) {
#ifdef DLLM_EMU
    emu::load_matrices(registers, row);
#else
    const uint32_t shared = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(shared)
                 : "memory");
#endif
}

// The same, each matrix transposed: the elements (2 * (l % 4), l / 4) and the one below.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&registers)[4], const void* row) {
#ifdef DLLM_EMU
    emu::load_matrices_transposed(registers, row);
#else
    const uint32_t shared = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(shared)
                 : "memory");
#endif
}

// sum += a b for a 16 x 16 and b 16 x 8 in bfloat16 or float16, sums in float32, by a whole warp. With g = lane / 4 and
// t = lane % 4: a[0] = (g, 2t and 2t + 1), a[1] = (g + 8, same), a[2] = (g, 2t + 8 and + 9), a[3] = (g + 8, same);
// b0 = (2t and 2t + 1, g), b1 = (2t + 8 and + 9, g); sum[0..1] = (g, 2t and 2t + 1), sum[2..3] = (g + 8, same).
__device__ __forceinline__ void multiply_add_bf16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef DLLM_EMU
    emu::multiply_add_bf16(sum, a, b0, b1);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

__device__ __forceinline__ void multiply_add_f16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef DLLM_EMU
    emu::multiply_add_f16(sum, a, b0, b1);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

}  // namespace dllm
