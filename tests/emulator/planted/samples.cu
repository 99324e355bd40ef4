// Small kernels for the emulator's own tests: each works, or carries one bug that the emulator must show.

#include "dllm/ptx.cuh"

using namespace dllm;

// Every thread writes where it is: linear thread, lane, block.
extern "C" __global__ void where_am_i(int* out) {
    const int threads = int(blockDim.x * blockDim.y * blockDim.z);
    const int thread = int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
    const int block = int(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
    out[block * threads + thread] = block * threads + thread;
}
DLLM_EXPORT(where_am_i)

// Arguments of all kinds.
extern "C" __global__ void add_up(double* out, int a, int64_t b, float c, double d) {
    if (threadIdx.x == 0) {
        *out = a + double(b) + double(c) + d;
    }
}
DLLM_EXPORT(add_up)

// What each lane gets from the warp operations: [lane][operation].
extern "C" __global__ void warp_operations(int* out) {
    const int lane = threadIdx.x % WARP;
    int* mine = out + threadIdx.x * 5;
    mine[0] = __shfl_sync(FULL_WARP, lane, 7);
    mine[1] = __shfl_xor_sync(FULL_WARP, lane, 5);
    mine[2] = __shfl_up_sync(FULL_WARP, lane, 3);
    mine[3] = int(__ballot_sync(FULL_WARP, lane % 3 == 0));
    mine[4] = __ffs(lane);
}
DLLM_EXPORT(warp_operations)

struct Numbers {
    int values[256];
};

// Each thread takes the number of its opposite; planted: without waiting until it is there.
template <bool PLANTED>
__device__ void mirror(const int* in, int* out) {
    DLLM_SHARED(Numbers, shared);
    shared.values[threadIdx.x] = in[threadIdx.x];
    if (!PLANTED) {
        __syncthreads();
    }
    out[threadIdx.x] = shared.values[255 - threadIdx.x];
}
extern "C" __global__ void mirrored(const int* in, int* out) { mirror<false>(in, out); }
DLLM_EXPORT(mirrored)
extern "C" __global__ void planted_missing_barrier(const int* in, int* out) { mirror<true>(in, out); }
DLLM_EXPORT(planted_missing_barrier)

// Half of the block waits for the other half, which has gone.
extern "C" __global__ void planted_divergent_barrier(int* out) {
    if (threadIdx.x < 128) {
        __syncthreads();
    }
    out[threadIdx.x] = 1;
}
DLLM_EXPORT(planted_divergent_barrier)

// The lanes of a warp meet at different operations.
extern "C" __global__ void planted_divergent_warp(int* out) {
    const int lane = threadIdx.x;
    out[lane] = lane < 16 ? __shfl_xor_sync(FULL_WARP, lane, 1) : int(__ballot_sync(FULL_WARP, lane & 1));
}
DLLM_EXPORT(planted_divergent_warp)

// Reads shared memory that nobody has written.
extern "C" __global__ void planted_uninitialised(float* out) {
    struct Floats {
        float values[32];
    };
    DLLM_SHARED(Floats, shared);
    out[threadIdx.x] = shared.values[threadIdx.x];
}
DLLM_EXPORT(planted_uninitialised)

// One past the end of an array in global memory, or of the shared memory.
extern "C" __global__ void planted_out_of_bounds(const int* in, int* out, int length, int where) {
    DLLM_SHARED(Numbers, shared);
    shared.values[threadIdx.x] = in[threadIdx.x];
    if (where == 1) {
        out[threadIdx.x] = in[length - 31 + int(threadIdx.x)];
    } else if (where == 2) {
        out[threadIdx.x] = shared.values[256 - 31 + int(threadIdx.x)];
    }
}
DLLM_EXPORT(planted_out_of_bounds)

// Copies two groups of 32 x 16 bytes and uses the first; planted: waits for one group too few, or not at all.
struct alignas(16) Stages {
    int values[2][128];
};
template <int OPEN>
__device__ void staged(const int* in, int* out) {
    DLLM_SHARED(Stages, shared);
    for (int stage = 0; stage < 2; ++stage) {
        async_copy_16(&shared.values[stage][4 * threadIdx.x], in + 128 * stage + 4 * threadIdx.x, threadIdx.x != 31);
        async_copy_close_group();
    }
    async_copy_wait<OPEN>();
    for (int i = 0; i < 4; ++i) {
        out[4 * threadIdx.x + i] = shared.values[0][4 * threadIdx.x + i];
    }
    async_copy_wait<0>();
}
extern "C" __global__ void staged_copy(const int* in, int* out) { staged<1>(in, out); }
DLLM_EXPORT(staged_copy)
extern "C" __global__ void planted_short_wait(const int* in, int* out) { staged<2>(in, out); }
DLLM_EXPORT(planted_short_wait)
extern "C" __global__ void planted_no_wait(const int* in) {
    DLLM_SHARED(Stages, shared);
    async_copy_16(&shared.values[0][4 * threadIdx.x], in + 4 * threadIdx.x, true);
    async_copy_close_group();
}
DLLM_EXPORT(planted_no_wait)

// Lanes of a warp take their neighbour's number; planted: a warp operation between that keeps no memory in order.
template <bool PLANTED>
__device__ void neighbour(const int* in, int* out) {
    DLLM_SHARED(Numbers, shared);
    shared.values[threadIdx.x] = in[threadIdx.x];
    if (PLANTED) {
        __ballot_sync(FULL_WARP, true);
    } else {
        __syncwarp();
    }
    out[threadIdx.x] = shared.values[threadIdx.x ^ 1];
}
extern "C" __global__ void neighbours(const int* in, int* out) { neighbour<false>(in, out); }
DLLM_EXPORT(neighbours)
extern "C" __global__ void planted_missing_syncwarp(const int* in, int* out) { neighbour<true>(in, out); }
DLLM_EXPORT(planted_missing_syncwarp)

// Threads add to one number; planted: one of them does not do so atomically, or all write the same.
template <int PLANTED>
__device__ void add(const int* in, int* out) {
    DLLM_SHARED(Numbers, shared);
    if (threadIdx.x == 0) {
        shared.values[0] = 0;
    }
    __syncthreads();
    if (PLANTED == 1 && threadIdx.x == 9) {
        shared.values[0] += in[9];
    } else if (PLANTED == 2) {
        shared.values[0] = in[0];
    } else {
        atomicAdd(&shared.values[0], in[threadIdx.x]);
    }
    __syncthreads();
    out[threadIdx.x] = shared.values[0];
}
extern "C" __global__ void added(const int* in, int* out) { add<0>(in, out); }
DLLM_EXPORT(added)
extern "C" __global__ void planted_plain_addition(const int* in, int* out) { add<1>(in, out); }
DLLM_EXPORT(planted_plain_addition)
extern "C" __global__ void planted_same_value(const int* in, int* out) { add<2>(in, out); }
DLLM_EXPORT(planted_same_value)

// The numbers of others, copied asynchronously; planted: waited for behind the barrier.
template <bool PLANTED>
__device__ void copied(const int* in, int* out) {
    DLLM_SHARED(Stages, shared);
    async_copy_16(&shared.values[0][4 * threadIdx.x], in + 4 * threadIdx.x, true);
    async_copy_close_group();
    if (!PLANTED) {
        async_copy_wait<0>();
    }
    __syncthreads();
    async_copy_wait<0>();
    for (int i = 0; i < 4; ++i) {
        out[4 * threadIdx.x + i] = shared.values[0][127 - 4 * threadIdx.x - i];
    }
}
extern "C" __global__ void copies_of_others(const int* in, int* out) { copied<false>(in, out); }
DLLM_EXPORT(copies_of_others)
extern "C" __global__ void planted_late_wait(const int* in, int* out) { copied<true>(in, out); }
DLLM_EXPORT(planted_late_wait)
