// What the threads of a block work out together. Every function here is reached by all threads of the block.
#pragma once

#include "dllm/platform.cuh"

namespace dllm {

// Room for one number of each warp, and for the answer.
template <typename T>
struct BlockScratch {
    T of_warp[32];
};

// Combines one value of each thread. The operation must give the same whatever the order (maximum, minimum, integer
// sum); `neutral` changes nothing. THREADS is the size of the block.
template <int THREADS, typename T, typename Combine>
__device__ __forceinline__ T block_reduce(T value, T neutral, BlockScratch<T>& scratch, Combine combine) {
#pragma unroll
    for (int n = WARP / 2; n > 0; n /= 2) {
        value = combine(value, __shfl_xor_sync(FULL_WARP, value, n));
    }
    __syncthreads();  // whoever used the scratch before has read it
    if (threadIdx.x % WARP == 0) {
        scratch.of_warp[threadIdx.x / WARP] = value;
    }
    __syncthreads();
    T result = neutral;
#pragma unroll
    for (int w = 0; w < THREADS / WARP; ++w) {
        result = combine(result, scratch.of_warp[w]);
    }
    return result;
}

template <int THREADS>
__device__ __forceinline__ float block_max(float value, BlockScratch<float>& scratch) {
    return block_reduce<THREADS>(value, negative_infinity(), scratch, [](float a, float b) { return fmaxf(a, b); });
}

template <int THREADS>
__device__ __forceinline__ int block_min(int value, BlockScratch<int>& scratch) {
    return block_reduce<THREADS>(value, 0x7fffffff, scratch, [](int a, int b) { return a < b ? a : b; });
}

template <int THREADS>
__device__ __forceinline__ uint64_t block_sum(uint64_t value, BlockScratch<uint64_t>& scratch) {
    return block_reduce<THREADS>(value, uint64_t(0), scratch, [](uint64_t a, uint64_t b) { return a + b; });
}

// Sum over the threads before this one in the warp, and this one.
template <typename T>
__device__ __forceinline__ T warp_inclusive_sum(T value) {
#pragma unroll
    for (int n = 1; n < WARP; n *= 2) {
        const T other = __shfl_up_sync(FULL_WARP, value, n);
        if (int(threadIdx.x % WARP) >= n) {
            value += other;
        }
    }
    return value;
}

// Sum over the threads before this one; `total` is the sum over all. Integers only: the order is not that of the threads.
template <int THREADS, typename T>
__device__ __forceinline__ T block_exclusive_sum(T value, T& total, BlockScratch<T>& scratch) {
    const T inclusive = warp_inclusive_sum(value);
    __syncthreads();  // whoever used the scratch before has read it
    if (threadIdx.x % WARP == WARP - 1) {
        scratch.of_warp[threadIdx.x / WARP] = inclusive;
    }
    __syncthreads();
    // Each warp adds up the sums of all warps, one in a lane: a loop over them would hold as many registers.
    const int lane = threadIdx.x % WARP;
    const T warps = warp_inclusive_sum(lane < THREADS / WARP ? scratch.of_warp[lane] : T(0));
    const int warp = threadIdx.x / WARP;
    const T before = warp == 0 ? T(0) : __shfl_sync(FULL_WARP, warps, warp - 1);
    total = __shfl_sync(FULL_WARP, warps, WARP - 1);
    return before + inclusive - value;
}

}  // namespace dllm
