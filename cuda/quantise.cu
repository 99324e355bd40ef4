// Rows of bfloat16 in 8 bits (E4M3) on their way into a product, each with a scale of its own: python/dllm_fast/ops/quantise.py
// has the definition, whose bits these are.
//
//   scale = max(max|row| / 448, smallest normal float32)      number = E4M3(row / scale), to nearest, ties to even
//
// From rows [N, K] bfloat16 to numbers [N, K] and scales [N] float32. One block a row; its second look finds the row in the
// caches. Moves 3 bytes a number. A row with an infinity or a NaN has a NaN.
//
// The host checks: contiguous rows, addresses that are multiples of 16, K a multiple of 8.

#include "dllm/block.cuh"
#include "dllm/elements.cuh"

namespace dllm {

constexpr int QUANTISE_THREADS = 256;
constexpr float E4M3_LARGEST = 448.0f;
constexpr float SMALLEST_NORMAL = 1.17549435e-38f;

struct QuantiseShared {
    BlockScratch<float> scratch;
};

__device__ __forceinline__ void quantise_rows(const Bf16* rows, uint8_t* numbers, float* scales, int width) {
    DLLM_SHARED(QuantiseShared, shared);
    const int64_t row = int64_t(blockIdx.x) * width;
    float largest = 0.0f;
    for (int i = threadIdx.x * 8; i < width; i += QUANTISE_THREADS * 8) {
        const Eight x = Eight::load(rows + row + i);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            largest = max_keeping_nan(largest, fabsf(x.values[j]));
        }
    }
    largest = block_reduce<QUANTISE_THREADS>(largest, 0.0f, shared.scratch, max_keeping_nan);
    const float scale = max_keeping_nan(__fdiv_rn(largest, E4M3_LARGEST), SMALLEST_NORMAL);
    for (int i = threadIdx.x * 8; i < width; i += QUANTISE_THREADS * 8) {
        const Eight x = Eight::load(rows + row + i);
        uint32_t packed[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            packed[j] = pack_e4m3x2(__fdiv_rn(x.values[2 * j], scale), __fdiv_rn(x.values[2 * j + 1], scale));
        }
        *reinterpret_cast<uint2*>(numbers + row + i) = {packed[0] | packed[1] << 16, packed[2] | packed[3] << 16};
    }
    if (threadIdx.x == 0) {
        scales[blockIdx.x] = scale;
    }
}

}  // namespace dllm

extern "C" __global__ void __launch_bounds__(dllm::QUANTISE_THREADS)
    dllm_quantise_rows(const dllm::Bf16* __restrict__ rows, uint8_t* __restrict__ numbers, float* __restrict__ scales,
                       int width) {
    dllm::wait_for_kernels_before();
    dllm::let_kernels_after_begin();
    dllm::quantise_rows(rows, numbers, scales, width);
}
DLLM_EXPORT(dllm_quantise_rows)
