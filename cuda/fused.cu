// The elementwise work between the matrix products of a decoder layer, in bfloat16 or float16, rounded where torch rounds.
//
//   add_norm   stream = stream + delta, then RMSNorm: out = weight * (stream / sqrt(mean(stream^2) + eps)). One block a row.
//              Moves, per number of a row: 4 bytes in (2 without delta) and 4 out.
//   qkv        from the rows of the fused projection [N, (H + 2 Hk) D]: RMSNorm of each query and key head (where there are
//              weights), rotation of the front of the head by angles [N, rotated] (cosines, then sines), queries to
//              q [N, H, D], keys and values into their slots of the cache. One warp a head of a token. Moves 4 bytes a
//              number, and the angles.
//   swiglu     out [N, I] = silu(gate) * up, for gate and up the halves of the rows of [N, 2 I]. Moves 6 bytes a number.
//
// Rounding points, those of python/dllm_fast/models/decoder.py and rotary.py: a sum, a norm before its weight, a product
// with the weight, each product of a rotation in the dtype (or only its sum, with float32 angles), silu, and its product are each
// rounded to the dtype once. What is computed between them is float32, so in float16 what is infinite here is so in torch.
//
// The host checks: contiguous rows at addresses that are multiples of 16; width and I multiples of 8; head dimension at most
// 256; the rotated width even and at most D. Keys and values of a slot that the cache does not have are dropped.

#include "dllm/block.cuh"
#include "dllm/elements.cuh"

namespace dllm {

constexpr int FUSED_THREADS = 256;

// ---------------------------------------------------------------- add_norm

struct NormShared {
    BlockScratch<float> scratch;
};

// `delta` may be null, and `stream_out` then stays unwritten; it may be `stream`.
template <typename T>
__device__ __forceinline__ void add_norm(const T* stream, const T* delta, const T* weight, T* stream_out, T* out, int width,
                                         float eps) {
    DLLM_SHARED(NormShared, shared);
    const int64_t row = int64_t(blockIdx.x) * width;
    float squares = 0.0f;
    for (int i = threadIdx.x * 8; i < width; i += FUSED_THREADS * 8) {
        Eight x = Eight::load(stream + row + i);
        if (delta != nullptr) {
            const Eight added = Eight::load(delta + row + i);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                x.values[j] = rounded<T>(x.values[j] + added.values[j]);
            }
            x.store(stream_out + row + i);
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            squares += x.values[j] * x.values[j];
        }
    }
    const float sum = block_reduce<FUSED_THREADS>(squares, 0.0f, shared.scratch, [](float a, float b) { return a + b; });
    const float scale = rsqrtf(sum / float(width) + eps);
    // A thread reads what it has written itself.
    const T* summed = delta == nullptr ? stream : stream_out;
    for (int i = threadIdx.x * 8; i < width; i += FUSED_THREADS * 8) {
        Eight x = Eight::load(summed + row + i);
        const Eight w = Eight::load(weight + i);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            x.values[j] = w.values[j] * rounded<T>(x.values[j] * scale);
        }
        x.store(out + row + i);
    }
}

// ---------------------------------------------------------------- qkv

constexpr int QKV_THREADS = 128;
constexpr int MAX_HEAD = 256;
constexpr int PER_LANE = MAX_HEAD / WARP;

struct QkvShared {
    float heads[QKV_THREADS / WARP][MAX_HEAD];
};

struct QkvShape {
    int slots;
    int queries, heads, key_heads, depth;
    int rotated;  // numbers at the front of a head that turn
    float eps;
    bool rotates_in_float32;
};

// A cache of slots: strides in elements.
template <typename T>
struct Cache {
    T* slots;
    int64_t batch_stride, head_stride, slot_stride;
};

// Root mean square norm of a head, of which lane l holds the numbers l, l + 32, ...
template <typename T>
__device__ __forceinline__ void norm_head(float (&x)[PER_LANE], const T* weight, int depth, float eps, int lane) {
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < PER_LANE; ++j) {
        squares += x[j] * x[j];  // zeros beyond the head
    }
#pragma unroll
    for (int n = WARP / 2; n > 0; n /= 2) {
        squares += __shfl_xor_sync(FULL_WARP, squares, n);
    }
    const float scale = rsqrtf(squares / float(depth) + eps);
#pragma unroll
    for (int j = 0; j < PER_LANE; ++j) {
        const int d = lane + j * WARP;
        if (d < depth) {
            x[j] = rounded<T>(widen(weight[d]) * rounded<T>(x[j] * scale));
        }
    }
}

// Number d of a rotated head: (x[d], x[d +- half]) turns by an angle that the two share.
template <typename T>
__device__ __forceinline__ float turned(const float* head, const float* angles, int d, const QkvShape& shape) {
    const int half = shape.rotated / 2;
    const float across = d < half ? -head[d + half] : head[d - half];
    const int angle = d < half ? d : d - half;
    const float cosine = angles[angle], sine = angles[half + angle];
    // Without contraction, as torch multiplies and adds in operations of their own.
    if (shape.rotates_in_float32) {
        return __fadd_rn(__fmul_rn(head[d], cosine), __fmul_rn(across, sine));
    }
    return rounded<T>(__fmul_rn(head[d], rounded<T>(cosine))) + rounded<T>(__fmul_rn(across, rounded<T>(sine)));
}

template <typename T>
__device__ __forceinline__ void qkv(const T* projected, const T* q_weight, const T* k_weight, const float* angles,
                                    const int32_t* slots, T* q, const Cache<T>& keys, const Cache<T>& values,
                                    const QkvShape& shape) {
    DLLM_SHARED(QkvShared, shared);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, depth = shape.depth;
    const int all_heads = shape.heads + 2 * shape.key_heads;
    const int head = blockIdx.y * (QKV_THREADS / WARP) + warp;
    if (head >= all_heads) {
        return;
    }
    const int64_t token = blockIdx.x;
    const bool is_query = head < shape.heads, is_value = head >= shape.heads + shape.key_heads;
    const int slot = slots[token];
    // A negative one as a large one.
    if (!is_query && uint32_t(slot) >= uint32_t(shape.slots)) {
        return;
    }
    float x[PER_LANE];
#pragma unroll
    for (int j = 0; j < PER_LANE; ++j) {
        const int d = lane + j * WARP;
        x[j] = d < depth ? widen(projected[(token * all_heads + head) * depth + d]) : 0.0f;
    }
    T* to;
    if (is_query) {
        to = q + (token * shape.heads + head) * depth;
    } else {
        const Cache<T>& cache = is_value ? values : keys;
        const int key_head = head - shape.heads - (is_value ? shape.key_heads : 0);
        to = cache.slots + token / shape.queries * cache.batch_stride + key_head * cache.head_stride +
             slot * cache.slot_stride;
    }
    if (!is_value) {
        const T* weight = is_query ? q_weight : k_weight;
        if (weight != nullptr) {
            norm_head(x, weight, depth, shape.eps, lane);
        }
        // The partner of a number may lie in another lane.
        float* whole = shared.heads[warp];
#pragma unroll
        for (int j = 0; j < PER_LANE; ++j) {
            const int d = lane + j * WARP;
            if (d < depth) {
                whole[d] = x[j];
            }
        }
        __syncwarp();
        const float* of_token = angles + token * shape.rotated;
#pragma unroll
        for (int j = 0; j < PER_LANE; ++j) {
            const int d = lane + j * WARP;
            if (d < shape.rotated) {
                x[j] = turned<T>(whole, of_token, d, shape);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < PER_LANE; ++j) {
        const int d = lane + j * WARP;
        if (d < depth) {
            to[d] = narrow<T>(x[j]);
        }
    }
}

// ---------------------------------------------------------------- swiglu

template <typename T>
__device__ __forceinline__ void swiglu(const T* gate_up, T* out, int64_t rows, int inner) {
    const int per_row = inner / 8;
    const int64_t i = int64_t(blockIdx.x) * FUSED_THREADS + threadIdx.x;
    if (i >= rows * per_row) {
        return;
    }
    const int64_t row = i / per_row;
    const int column = int(i % per_row) * 8;
    Eight gate = Eight::load(gate_up + row * 2 * inner + column);
    const Eight up = Eight::load(gate_up + row * 2 * inner + inner + column);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        const float x = gate.values[j];
        gate.values[j] = rounded<T>(x / (1.0f + expf(-x))) * up.values[j];
    }
    gate.store(out + row * inner + column);
}

}  // namespace dllm

#define DLLM_FUSED(T, SUFFIX)                                                                                             \
    extern "C" __global__ void __launch_bounds__(dllm::FUSED_THREADS)                                                     \
        dllm_fused_add_norm_##SUFFIX(const T* stream, const T* __restrict__ delta, const T* __restrict__ weight,          \
                                     T* stream_out, T* __restrict__ out, int width, float eps) {                          \
        dllm::wait_for_kernels_before();                                                                                  \
        dllm::let_kernels_after_begin();                                                                                  \
        dllm::add_norm(stream, delta, weight, stream_out, out, width, eps);                                               \
    }                                                                                                                     \
    DLLM_EXPORT(dllm_fused_add_norm_##SUFFIX)                                                                             \
    extern "C" __global__ void __launch_bounds__(dllm::QKV_THREADS) dllm_fused_qkv_##SUFFIX(                              \
        const T* __restrict__ projected, const T* __restrict__ q_weight, const T* __restrict__ k_weight,                  \
        const float* __restrict__ angles, const int32_t* __restrict__ slots, T* q, dllm::Cache<T> keys,                   \
        dllm::Cache<T> values, int slot_count, int queries, int heads, int key_heads, int depth, int rotated, float eps,  \
        int rotates_in_float32) {                                                                                         \
        dllm::wait_for_kernels_before();                                                                                  \
        dllm::let_kernels_after_begin();                                                                                  \
        dllm::qkv(projected, q_weight, k_weight, angles, slots, q, keys, values,                                          \
                  {slot_count, queries, heads, key_heads, depth, rotated, eps, rotates_in_float32 != 0});                 \
    }                                                                                                                     \
    DLLM_EXPORT(dllm_fused_qkv_##SUFFIX)                                                                                  \
    extern "C" __global__ void __launch_bounds__(dllm::FUSED_THREADS) dllm_fused_swiglu_##SUFFIX(                         \
        const T* __restrict__ gate_up, T* __restrict__ out, int64_t rows, int inner) {                                    \
        dllm::wait_for_kernels_before();                                                                                  \
        dllm::let_kernels_after_begin();                                                                                  \
        dllm::swiglu(gate_up, out, rows, inner);                                                                          \
    }                                                                                                                     \
    DLLM_EXPORT(dllm_fused_swiglu_##SUFFIX)

#if DLLM_BUILDS(BF16)
DLLM_FUSED(dllm::Bf16, bf16)
#endif
#if DLLM_BUILDS(F16)
DLLM_FUSED(dllm::F16, f16)
#endif
