// The end of a step inside a loop on the device (a WHILE node of a CUDA graph whose body is a step): keeps what the step gave
// for the host, and decides whether another one follows.
//
//   keep   copies the outcome of a step (statistics and tokens, as mask_predict.cu and commit.cu wrote them) behind those of
//          the steps before it: log[state[0]] = outcome, `words` 8-byte words each. Moves 16 bytes a word.
//   next   one block, a warp a row. Counts the step, and sets the condition: another step follows while all of these hold
//            - fewer than state[1] steps are done;
//            - every row that has sites commits (no site without statistics) and has masks left;
//            - more than `least` masks are left in all rows together: with fewer a step is one of another shape;
//            - no row has ended: a row has, where one of its sites holds an end token and no site before it is a mask.
//          Moves about 20 bytes a site; bound by latency, two loads behind each other.
//
// The host decides anew from what was kept, so a wrong guess here costs a step and changes no result: end tokens that were
// written before the loop began are not looked for.
//
// Layout: `state` int32 [2]: steps done, and at most. site_start [rows + 1], cell [sites], cells, committed and masks_left
// [rows] as in commit.cu. `ends` [end_count] int64.
//
// The host checks: room for state[1] outcomes in the log; state[0] is 0 before the loop; the sites of a row rise.

#include "dllm/conditional.cuh"
#include "dllm/ptx.cuh"

namespace dllm {

constexpr int LOOP_THREADS = 256;

struct LoopShared {
    int stops[LOOP_THREADS / WARP];
    int masks[LOOP_THREADS / WARP];
};

__device__ __forceinline__ int warp_min(int value) {
#pragma unroll
    for (int n = WARP / 2; n > 0; n /= 2) {
        const int other = __shfl_xor_sync(FULL_WARP, value, n);
        value = other < value ? other : value;
    }
    return value;
}

// Has the row ended, by its own sites?
__device__ __forceinline__ bool has_ended(const int32_t* cell, const int64_t* cells, int first, int count, int64_t mask_id,
                                          const int64_t* ends, int end_count, int lane) {
    int first_mask = count, first_end = count;
    for (int i = lane; i < count; i += WARP) {
        const int64_t token = cells[cell[first + i]];
        if (token == mask_id) {
            first_mask = i < first_mask ? i : first_mask;
        }
        for (int j = 0; j < end_count; ++j) {
            if (token == ends[j]) {
                first_end = i < first_end ? i : first_end;
            }
        }
    }
    return warp_min(first_end) < warp_min(first_mask);
}

}  // namespace dllm

extern "C" __global__ void __launch_bounds__(dllm::LOOP_THREADS)
    dllm_loop_keep(const uint64_t* __restrict__ outcome, uint64_t* __restrict__ log, const int32_t* __restrict__ state,
                   int words) {
    dllm::wait_for_kernels_before();
    dllm::let_kernels_after_begin();
    const int i = blockIdx.x * dllm::LOOP_THREADS + threadIdx.x;
    if (i < words) {
        log[int64_t(state[0]) * words + i] = outcome[i];
    }
}
DLLM_EXPORT(dllm_loop_keep)

extern "C" __global__ void __launch_bounds__(dllm::LOOP_THREADS)
    dllm_loop_next(const int32_t* __restrict__ site_start, const int32_t* __restrict__ cell,
                   const int64_t* __restrict__ cells, const int32_t* __restrict__ committed,
                   const int32_t* __restrict__ masks_left, const int64_t* __restrict__ ends, int32_t* state,
                   uint64_t handle, int64_t mask_id, int rows, int end_count, int least) {
    dllm::wait_for_kernels_before();
    dllm::let_kernels_after_begin();
    DLLM_SHARED(dllm::LoopShared, shared);
    const int warp = threadIdx.x / dllm::WARP, lane = threadIdx.x % dllm::WARP;
    int masks = 0;
    bool stops = false;
    for (int row = warp; row < rows; row += dllm::LOOP_THREADS / dllm::WARP) {
        const int first = site_start[row], count = site_start[row + 1] - first;
        if (count == 0) {
            continue;  // filled up, or without masks
        }
        masks += masks_left[row];
        stops = stops || committed[row] < 0 || masks_left[row] <= 0;
        if (end_count > 0) {
            stops = stops || dllm::has_ended(cell, cells, first, count, mask_id, ends, end_count, lane);
        }
    }
    if (lane == 0) {
        shared.stops[warp] = stops;
        shared.masks[warp] = masks;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < dllm::LOOP_THREADS / dllm::WARP; ++i) {
            stops = stops || shared.stops[i];
            masks += shared.masks[i];
        }
        const int done = state[0] + 1;
        state[0] = done;
        dllm::set_conditional(handle, !stops && masks > least && done < state[1]);
    }
}
DLLM_EXPORT(dllm_loop_next)
