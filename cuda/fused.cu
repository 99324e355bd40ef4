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
// Rounding points, those of python/dllm_fast/networks/decoder.py and rotary.py: a sum, a norm before its weight, a product
// with the weight, each product of a rotation in the dtype (or only its sum, with float32 angles), silu, and its product are each
// rounded to the dtype once. What is computed between them is float32, so in float16 what is infinite here is so in torch.
//
// The host checks: contiguous rows at addresses that are multiples of 16; strides of the caches, width, I and D multiples of 8;
// D at most 256; the rotated width even and at most D; norms of both queries and keys or of neither. Keys and values of a slot that the cache does not have are dropped.

#include "dllm/block.cuh"
#include "dllm/elements.cuh"

namespace dllm {

constexpr int FUSED_THREADS = 256;
// Times eight numbers of a row that a thread of `add_norm` keeps in registers: rows of up to 6,144 numbers are read once.
constexpr int KEPT = 3;

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
    // Eight numbers of the stream from i on, with what is added to them.
    const auto summed = [&](int i) {
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
        return x;
    };
    constexpr int SWEEP = FUSED_THREADS * 8;
    Eight kept[KEPT];
#pragma unroll
    for (int c = 0; c < KEPT; ++c) {
        const int i = c * SWEEP + threadIdx.x * 8;
        if (i < width) {
            kept[c] = summed(i);
        }
    }
    for (int i = KEPT * SWEEP + threadIdx.x * 8; i < width; i += SWEEP) {
        summed(i);
    }
    const float sum = block_reduce<FUSED_THREADS>(squares, 0.0f, shared.scratch, [](float a, float b) { return a + b; });
    const float scale = rsqrtf(sum / float(width) + eps);
    const auto write_normed = [&](Eight x, int i) {
        const Eight w = Eight::load(weight + i);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            x.values[j] = w.values[j] * rounded<T>(x.values[j] * scale);
        }
        x.store(out + row + i);
    };
#pragma unroll
    for (int c = 0; c < KEPT; ++c) {
        const int i = c * SWEEP + threadIdx.x * 8;
        if (i < width) {
            write_normed(kept[c], i);
        }
    }
    // A thread reads what it has written itself.
    const T* again = delta == nullptr ? stream : stream_out;
    for (int i = KEPT * SWEEP + threadIdx.x * 8; i < width; i += SWEEP) {
        write_normed(Eight::load(again + row + i), i);
    }
}

// ---------------------------------------------------------------- qkv

constexpr int QKV_THREADS = 128;

// Lanes of a warp that take a head of so many numbers, eight each: 8, 16 or 32.
__device__ __forceinline__ int lanes_of_head(int depth) { return depth <= 64 ? 8 : depth <= 128 ? 16 : 32; }

struct QkvShared {
    float numbers[QKV_THREADS / WARP][WARP * 8];
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

// Root mean square norm of the heads of a warp; `is_normed` is said for each. Eight zeros where a head has no numbers.
template <typename T>
__device__ __forceinline__ void norm_heads(Eight& x, const T* weight, bool is_normed, const QkvShape& shape) {
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        squares += x.values[j] * x.values[j];
    }
    for (int n = lanes_of_head(shape.depth) / 2; n > 0; n /= 2) {
        squares += __shfl_xor_sync(FULL_WARP, squares, n);
    }
    if (!is_normed) {
        return;
    }
    const float scale = rsqrtf(squares / float(shape.depth) + shape.eps);
    const Eight w = Eight::load(weight);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        x.values[j] = rounded<T>(w.values[j] * rounded<T>(x.values[j] * scale));
    }
}

// A number and its partner, half a rotated part away, turn by an angle that the two share.
template <typename T>
__device__ __forceinline__ float turned(float x, float across, float cosine, float sine, bool in_float32) {
    // Without contraction, as torch multiplies and adds in operations of their own.
    if (in_float32) {
        return __fadd_rn(__fmul_rn(x, cosine), __fmul_rn(across, sine));
    }
    return rounded<T>(__fmul_rn(x, rounded<T>(cosine))) + rounded<T>(__fmul_rn(across, rounded<T>(sine)));
}

// Turns the heads of a warp, of which this lane holds eight numbers from d on; `is_turned` is said for each.
template <typename T>
__device__ __forceinline__ void turn_heads(Eight& x, float* numbers, const float* angles, int d, bool is_turned,
                                           const QkvShape& shape) {
    const int lane = threadIdx.x % WARP, half = shape.rotated / 2;
    Eight across, cosine, sine;
    if (half % 8 == 0) {
        // The partners of a lane's eight are another lane's eight, and their angles lie together.
        const bool is_in = d < shape.rotated, is_first = d < half;
        const int partner = !is_in ? lane : is_first ? lane + half / 8 : lane - half / 8;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            across.values[j] = __shfl_sync(FULL_WARP, x.values[j], partner);
        }
        is_turned = is_turned && is_in;
        if (is_turned) {
            const float* from = angles + (is_first ? d : d - half);
            cosine = Eight::load(from);
            sine = Eight::load(from + half);
        }
    } else {
        const int lanes = lanes_of_head(shape.depth);
        float* head = numbers + lane / lanes * lanes * 8;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            head[d + j] = x.values[j];
        }
        __syncwarp();
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const int e = d + j, angle = e < half ? e : e - half;
            if (is_turned && e < shape.rotated) {
                across.values[j] = head[e < half ? e + half : e - half];
                cosine.values[j] = angles[angle];
                sine.values[j] = angles[half + angle];
            }
        }
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        if (is_turned && d + j < shape.rotated) {
            const float from = d + j < half ? -across.values[j] : across.values[j];
            x.values[j] = turned<T>(x.values[j], from, cosine.values[j], sine.values[j], shape.rotates_in_float32);
        }
    }
}

template <typename T>
__device__ __forceinline__ void qkv(const T* projected, const T* q_weight, const T* k_weight, const float* angles,
                                    const int32_t* slots, T* q, const Cache<T>& keys, const Cache<T>& values,
                                    const QkvShape& shape) {
    DLLM_SHARED(QkvShared, shared);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, depth = shape.depth;
    const int lanes = lanes_of_head(depth), all_heads = shape.heads + 2 * shape.key_heads;
    const int head = (blockIdx.y * (QKV_THREADS / WARP) + warp) * (WARP / lanes) + lane / lanes;
    const int d = lane % lanes * 8;
    const bool is_there = head < all_heads && d < depth;
    const int64_t token = blockIdx.x;
    const bool is_query = head < shape.heads, is_value = head >= shape.heads + shape.key_heads;
    Eight x = {};
    if (is_there) {
        x = Eight::load(projected + (token * all_heads + head) * depth + d);
    }
    const bool changes = is_there && !is_value;
    if (q_weight != nullptr) {
        norm_heads(x, (is_query ? q_weight : k_weight) + d, changes, shape);
    }
    turn_heads<T>(x, shared.numbers[warp], angles + token * shape.rotated, d, changes, shape);
    if (!is_there) {
        return;
    }
    if (is_query) {
        x.store(q + (token * shape.heads + head) * depth + d);
        return;
    }
    const int slot = slots[token];
    // A negative one as a large one.
    if (uint32_t(slot) < uint32_t(shape.slots)) {
        const Cache<T>& cache = is_value ? values : keys;
        const int key_head = head - shape.heads - (is_value ? shape.key_heads : 0);
        x.store(cache.slots + token / shape.queries * cache.batch_stride + key_head * cache.head_stride +
                slot * cache.slot_stride + d);
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
