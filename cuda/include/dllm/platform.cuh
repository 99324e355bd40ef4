// The words that every kernel file starts from, under NVRTC and in the host emulator.
//
// Kernels include no CUDA header: NVRTC needs no include path then, and there is one thing less that can fail. The same
// .cu file is compiled by g++ with -DDLLM_EMU for the tests (tests/emulator), where each CUDA thread is a fiber.
//
//   DLLM_SHARED(Type, name)      the block's shared memory: one struct, reached by the reference `name`. The emulator
//                                puts it into memory of its own that is poisoned for every block.
//   DLLM_DYNAMIC_SHARED(Type, name)   the same for more than 48 KB: the launch says how many bytes.
//   DLLM_EXPORT(kernel)          makes an extern "C" kernel callable from the emulator; nothing under NVRTC.
//   #if DLLM_BUILDS(PART)        around kernels that are compiled as a unit of their own, named file.part in launches.py: all
//                                such lines of a file are the list of its parts (python/dllm_fast/kernels). The emulator
//                                compiles all of a file. What stands outside of them belongs to every part.
#pragma once

// A part is asked for with -DDLLM_ONE -DDLLM_ONE_<PART>; a name that is not defined counts as 0 here.
#define DLLM_BUILDS(PART) (!DLLM_ONE || DLLM_ONE_##PART)

#ifdef DLLM_EMU

#include "emulator.h"

#define DLLM_SHARED(Type, name) Type& name = emu::shared_memory<Type>()
#define DLLM_DYNAMIC_SHARED(Type, name) Type& name = emu::dynamic_shared_memory<Type>()

#else

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

#define DLLM_SHARED(Type, name) __shared__ Type name
#define DLLM_DYNAMIC_SHARED(Type, name)                         \
    extern __shared__ __align__(128) uint8_t dynamic_shared[]; \
    Type& name = *reinterpret_cast<Type*>(dynamic_shared)
#define DLLM_EXPORT(kernel)

#endif

namespace dllm {

constexpr uint32_t FULL_WARP = 0xffffffffu;
constexpr int WARP = 32;

__device__ __forceinline__ float negative_infinity() { return __uint_as_float(0xff800000u); }
__device__ __forceinline__ float positive_infinity() { return __uint_as_float(0x7f800000u); }
__device__ __forceinline__ double not_a_number() { return __longlong_as_double(0x7ff8000000000000ll); }
__device__ __forceinline__ bool is_nan(float x) { return x != x; }

}  // namespace dllm
