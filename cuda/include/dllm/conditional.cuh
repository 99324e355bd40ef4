// The value by which a conditional node of a CUDA graph decides: another turn of a WHILE node's body, or none.
#pragma once

#include "dllm/platform.cuh"

#ifndef DLLM_EMU
// Of the device's runtime; the driver knows it when it loads a cubin (CUDA 12.4 or newer).
extern "C" __device__ void cudaGraphSetConditional(unsigned long long handle, unsigned int value);
#endif

namespace dllm {

// Sets the value of a handle (cuGraphConditionalHandleCreate), read when the body has ended. In the emulator a handle is the
// address of the value.
__device__ __forceinline__ void set_conditional(uint64_t handle, uint32_t value) {
#ifdef DLLM_EMU
    *reinterpret_cast<uint32_t*>(handle) = value;
#else
    cudaGraphSetConditional(handle, value);
#endif
}

}  // namespace dllm
