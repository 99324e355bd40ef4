// Attention of a block of queries over a cache of keys and values, each query with a visible range of its own.
//
// Computes out[b, h, i] = sum over keys j in [begin[b, i], end[b, i]) of softmax_j(scale * q[b, h, i] . k[b, h / G, j]) *
// v[b, h / G, j], for G = query heads / key heads, in bfloat16 with float32 sums. Ranges make it bidirectional (all keys),
// block-causal, padded on either side or windowed. A query that sees nothing gets zeros.
//
// Layouts: q and out [B, H, Lq, D], k and v [B, H / G, Lk, D]; D is contiguous, the other strides are free (a cache of slots
// is read where it lies); begin and end [B, Lq] int32. The head dimension D is 64, 128 or 256.
//
// One block takes ROWS rows of one key head of one sequence and one stretch of `keys_per_split` keys. The G query heads that
// share a key head lie one below the other: row = head_in_group * Lq + query, so that 4 queries of 8 heads fill 32 rows. A
// warp takes 16 rows and walks the keys 64 at a time (32 for D = 256): scores by mma.sync, the running softmax of its rows in registers,
// weights rounded to bfloat16, weighted sums by mma.sync. Keys and values come through a ring of two stages of asynchronous
// copies. With more than one split, parts go out in float32 with the logarithm of their sum, and `combine` merges them.
//
// What a row gets depends on its own range and on keys_per_split alone: steps begin at multiples of their length, and steps
// that a row does not see change nothing in it. So neither the batch nor the other queries matter to the bit.
//
// Moves: per block, keys_per_split * D * 4 bytes of keys and values (less where no row looks), ROWS * D * 2 of queries, and
// ROWS * D * 2 out, or ROWS * D * 4 with several splits.
//
// The host checks: dtype, D, H = G * key heads, addresses and strides that are multiples of 16 bytes, 0 <= begin
// (an `end` beyond the keys counts as their number), keys_per_split a multiple of 64, the shared memory that the device has.

#include "dllm/bf16.cuh"
#include "dllm/block.cuh"

namespace dllm {

// Keys of one step. With the widest heads fewer, so that the scores leave registers to the sums.
template <int D>
constexpr int KEYS_OF_STEP = D > 128 ? 32 : 64;
constexpr int ROWS_PER_WARP = 16;
constexpr int STAGES = 2;
constexpr int NEVER = 0x7fffffff;

template <int D, int ROWS>
struct alignas(128) AttentionShared {
    Bits queries[ROWS * D];
    Bits keys[STAGES][KEYS_OF_STEP<D> * D];
    Bits values[STAGES][KEYS_OF_STEP<D> * D];
    BlockScratch<int> scratch;
};

// Place of the 16-byte chunk `chunk` of row `row` in a matrix of D columns. Chunks of neighbouring rows change places, so
// that the eight rows of a matrix instruction lie in different banks.
template <int D>
__device__ __forceinline__ int place(int row, int chunk) {
    return row * D + ((chunk ^ (row & 7)) * 8);
}

struct Shape {
    int queries, keys, heads, key_heads, splits, keys_per_split;
};

// Strides in elements.
struct Strides {
    int64_t batch, head, row;
};

struct Inputs {
    const Bits *q, *k, *v;
    const int32_t *begin, *end;
    Strides q_strides, k_strides, v_strides;
    float scale_log2;  // scale * log2(e): the softmax is taken in base 2
};

struct Outputs {
    Bits* out;        // with one split
    Strides strides;  // of `out`
    float* parts;     // else [splits, B, H, Lq, D]
    float* log_sums;  // and [splits, B, H, Lq], in base 2, -inf for a row that saw nothing
};

// The keys that a row may see.
struct Range {
    int begin, end;

    __device__ __forceinline__ bool is_empty() const { return begin >= end; }
};

// Copies rows of D elements from global memory into shared memory, all threads of the block together; rows for which
// `source` gives null become zeros (`base` then stands for an address, and is not read).
template <int D, int ROWS, int THREADS, typename Source>
__device__ __forceinline__ void copy_rows(Bits* target, const Bits* base, Source source) {
    constexpr int CHUNKS = D / 8;
#pragma unroll 4
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS;
        const Bits* from = source(row);
        const bool is_wanted = from != nullptr;
        async_copy_16(target + place<D>(row, chunk), is_wanted ? from + chunk * 8 : base, is_wanted);
    }
}

template <int D, int ROWS>
__device__ __forceinline__ void attention(const Inputs& in, const Shape& shape, const Outputs& out) {
    constexpr int THREADS = ROWS / ROWS_PER_WARP * WARP, KEYS = KEYS_OF_STEP<D>;
    constexpr int SCORE_TILES = KEYS / 8, OUT_TILES = D / 8, DEPTH = D / 16;
    using Shared = AttentionShared<D, ROWS>;
    DLLM_DYNAMIC_SHARED(Shared, shared);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int group = shape.heads / shape.key_heads;
    const int batch = blockIdx.y / shape.key_heads, key_head = blockIdx.y % shape.key_heads;
    const int first_row = blockIdx.x * ROWS, rows = group * shape.queries;
    const int split_begin = blockIdx.z * shape.keys_per_split;
    const int split_end =
        split_begin + shape.keys_per_split < shape.keys ? split_begin + shape.keys_per_split : shape.keys;

    // A lane works on two rows of its warp: lane / 4, and eight below.
    int head[2], query[2];
    Range range[2];
    int lowest = NEVER, highest = 0, latest_begin = 0, earliest_end = NEVER;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = first_row + warp * ROWS_PER_WARP + lane / 4 + 8 * r;
        head[r] = row < rows ? key_head * group + row / shape.queries : -1;
        query[r] = row % shape.queries;
        range[r] = {0, NEVER};  // a row that is not there is never masked, and never written
        if (head[r] >= 0) {
            const int64_t i = int64_t(batch) * shape.queries + query[r];
            range[r] = {in.begin[i], in.end[i] < shape.keys ? in.end[i] : shape.keys};
            if (!range[r].is_empty()) {
                lowest = range[r].begin < lowest ? range[r].begin : lowest;
                highest = range[r].end > highest ? range[r].end : highest;
            }
        }
        latest_begin = range[r].begin > latest_begin ? range[r].begin : latest_begin;
        earliest_end = range[r].end < earliest_end ? range[r].end : earliest_end;
    }
    const auto least = [](int a, int b) { return a < b ? a : b; };
    const auto largest = [](int a, int b) { return a > b ? a : b; };
    lowest = block_reduce<THREADS>(lowest, NEVER, shared.scratch, least);
    highest = block_reduce<THREADS>(highest, 0, shared.scratch, largest);
    latest_begin = block_reduce<THREADS>(latest_begin, 0, shared.scratch, largest);
    earliest_end = block_reduce<THREADS>(earliest_end, NEVER, shared.scratch, least);
    // The keys that any row of the block sees in this split.
    const int begin = lowest > split_begin ? lowest : split_begin;
    const int end = highest < split_end ? highest : split_end;
    const int first_step = begin / KEYS * KEYS;

    const auto key_row = [&](const Bits* base, const Strides& strides, int key) -> const Bits* {
        if (key < begin || key >= end) {
            return nullptr;  // zeros: what nobody sees may be anything, also NaN
        }
        return base + batch * strides.batch + key_head * strides.head + key * strides.row;
    };
    const auto load_step = [&](int stage, int step) {
        copy_rows<D, KEYS, THREADS>(shared.keys[stage], in.k,
                                    [&](int row) { return key_row(in.k, in.k_strides, step + row); });
        copy_rows<D, KEYS, THREADS>(shared.values[stage], in.v,
                                    [&](int row) { return key_row(in.v, in.v_strides, step + row); });
    };

    float sums[OUT_TILES][4];
    float maximum[2] = {negative_infinity(), negative_infinity()}, mass[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < OUT_TILES; ++i) {
        sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0.0f;
    }

    if (begin < end) {
        copy_rows<D, ROWS, THREADS>(shared.queries, in.q, [&](int r) -> const Bits* {
            const int row = first_row + r;
            if (row >= rows) {
                return nullptr;
            }
            const int h = key_head * group + row / shape.queries, i = row % shape.queries;
            return in.q + batch * in.q_strides.batch + h * in.q_strides.head + i * in.q_strides.row;
        });
        load_step(0, first_step);
        async_copy_close_group();
    }
    int stage = 0;
    for (int step = first_step; step < end && begin < end; step += KEYS, stage ^= 1) {
        if (step + KEYS < end) {
            load_step(stage ^ 1, step + KEYS);
        }
        async_copy_close_group();
        async_copy_wait<1>();
        __syncthreads();

        // Scores: 16 rows by 64 keys.
        float scores[SCORE_TILES][4];
#pragma unroll
        for (int i = 0; i < SCORE_TILES; ++i) {
            scores[i][0] = scores[i][1] = scores[i][2] = scores[i][3] = 0.0f;
        }
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            uint32_t q[4];
            load_matrices(q, shared.queries + place<D>(warp * ROWS_PER_WARP + lane % 16, d * 2 + lane / 16));
#pragma unroll
            for (int i = 0; i < SCORE_TILES / 2; ++i) {
                uint32_t k[4];
                const int key = i * 16 + lane % 8 + lane / 16 * 8;
                load_matrices(k, shared.keys[stage] + place<D>(key, d * 2 + lane / 8 % 2));
                multiply_add_bf16(scores[2 * i], q, k[0], k[1]);
                multiply_add_bf16(scores[2 * i + 1], q, k[2], k[3]);
            }
        }
        const bool all_see_all = latest_begin <= step && step + KEYS <= earliest_end;
#pragma unroll
        for (int i = 0; i < SCORE_TILES; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int key = step + i * 8 + lane % 4 * 2 + j % 2;
                const Range& seen = range[j / 2];
                const bool is_seen = all_see_all || (key >= seen.begin && key < seen.end);
                scores[i][j] = is_seen ? scores[i][j] * in.scale_log2 : negative_infinity();
            }
        }

        // The running softmax of each row: four lanes share a row.
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float highest_score = maximum[r];
#pragma unroll
            for (int i = 0; i < SCORE_TILES; ++i) {
                highest_score = fmaxf(highest_score, fmaxf(scores[i][2 * r], scores[i][2 * r + 1]));
            }
            highest_score = fmaxf(highest_score, __shfl_xor_sync(FULL_WARP, highest_score, 1));
            highest_score = fmaxf(highest_score, __shfl_xor_sync(FULL_WARP, highest_score, 2));
            // A row that has seen nothing has no maximum to subtract; all its weights are exp2(-inf) = 0.
            const float base = highest_score == negative_infinity() ? 0.0f : highest_score;
            const float shrink = exp2_approximately(maximum[r] - base);
            maximum[r] = highest_score;
            mass[r] *= shrink;
#pragma unroll
            for (int i = 0; i < OUT_TILES; ++i) {
                sums[i][2 * r] *= shrink;
                sums[i][2 * r + 1] *= shrink;
            }
#pragma unroll
            for (int i = 0; i < SCORE_TILES; ++i) {
                scores[i][2 * r] = exp2_approximately(scores[i][2 * r] - base);
                scores[i][2 * r + 1] = exp2_approximately(scores[i][2 * r + 1] - base);
                mass[r] += scores[i][2 * r] + scores[i][2 * r + 1];
            }
        }

        // Weighted sums of the values. The weights have the layout of a sum, which is that of the left factor.
#pragma unroll
        for (int s = 0; s < SCORE_TILES / 2; ++s) {
            const uint32_t weights[4] = {
                pack_bf16x2(scores[2 * s][0], scores[2 * s][1]), pack_bf16x2(scores[2 * s][2], scores[2 * s][3]),
                pack_bf16x2(scores[2 * s + 1][0], scores[2 * s + 1][1]),
                pack_bf16x2(scores[2 * s + 1][2], scores[2 * s + 1][3])};
#pragma unroll
            for (int i = 0; i < OUT_TILES / 2; ++i) {
                uint32_t v[4];
                load_matrices_transposed(v, shared.values[stage] + place<D>(s * 16 + lane % 16, i * 2 + lane / 16));
                multiply_add_bf16(sums[2 * i], weights, v[0], v[1]);
                multiply_add_bf16(sums[2 * i + 1], weights, v[2], v[3]);
            }
        }
        __syncthreads();  // the stage is read; the step after next may overwrite it
    }
    async_copy_wait<0>();

#pragma unroll
    for (int r = 0; r < 2; ++r) {
        mass[r] += __shfl_xor_sync(FULL_WARP, mass[r], 1);
        mass[r] += __shfl_xor_sync(FULL_WARP, mass[r], 2);
        if (head[r] < 0) {
            continue;
        }
        const float inverse = mass[r] > 0.0f ? 1.0f / mass[r] : 0.0f;
        if (shape.splits == 1) {
            Bits* to = out.out + batch * out.strides.batch + head[r] * out.strides.head + query[r] * out.strides.row;
#pragma unroll
            for (int i = 0; i < OUT_TILES; ++i) {
                uint32_t* pair = reinterpret_cast<uint32_t*>(to + i * 8 + lane % 4 * 2);
                *pair = pack_bf16x2(sums[i][2 * r] * inverse, sums[i][2 * r + 1] * inverse);
            }
        } else {
            const int64_t batches = gridDim.y / shape.key_heads;
            const int64_t at = ((blockIdx.z * batches + batch) * shape.heads + head[r]) * shape.queries + query[r];
#pragma unroll
            for (int i = 0; i < OUT_TILES; ++i) {
                float* pair = out.parts + at * D + i * 8 + lane % 4 * 2;
                pair[0] = sums[i][2 * r] * inverse;
                pair[1] = sums[i][2 * r + 1] * inverse;
            }
            if (lane % 4 == 0) {
                out.log_sums[at] = mass[r] > 0.0f ? maximum[r] + log2f(mass[r]) : negative_infinity();
            }
        }
    }
}

// Merges the splits: one warp a row of the output, in the order of the splits.
constexpr int COMBINE_THREADS = 128;

__device__ __forceinline__ void combine(const Outputs& out, const Shape& shape, int batches, int depth) {
    const int64_t rows = int64_t(batches) * shape.heads * shape.queries;
    const int64_t row = (int64_t(blockIdx.x) * COMBINE_THREADS + threadIdx.x) / WARP;
    const int lane = threadIdx.x % WARP;
    if (row >= rows) {
        return;
    }
    float highest = negative_infinity();
    for (int s = 0; s < shape.splits; ++s) {
        highest = fmaxf(highest, out.log_sums[s * rows + row]);
    }
    const float base = highest == negative_infinity() ? 0.0f : highest;
    const int query = int(row % shape.queries), head = int(row / shape.queries % shape.heads);
    const int64_t batch = row / shape.queries / shape.heads;
    Bits* to = out.out + batch * out.strides.batch + head * out.strides.head + query * out.strides.row;
    for (int d = 2 * lane; d < depth; d += 2 * WARP) {
        float low = 0.0f, high = 0.0f, mass = 0.0f;
        for (int s = 0; s < shape.splits; ++s) {
            const float weight = exp2_approximately(out.log_sums[s * rows + row] - base);
            const float* part = out.parts + (s * rows + row) * depth + d;
            low += weight * part[0];
            high += weight * part[1];
            mass += weight;
        }
        const float inverse = mass > 0.0f ? 1.0f / mass : 0.0f;
        *reinterpret_cast<uint32_t*>(to + d) = pack_bf16x2(low * inverse, high * inverse);
    }
}

}  // namespace dllm

// Strides are structs of three 64-bit integers, passed by value.
#define DLLM_ATTENTION(D, ROWS)                                                                                           \
    extern "C" __global__ void __launch_bounds__(ROWS / dllm::ROWS_PER_WARP * dllm::WARP)                                 \
        dllm_attention_d##D##_rows##ROWS(const dllm::Bits* __restrict__ q, const dllm::Bits* __restrict__ k,              \
                                         const dllm::Bits* __restrict__ v, const int32_t* __restrict__ begin,             \
                                         const int32_t* __restrict__ end, dllm::Bits* out, float* parts,                  \
                                         float* log_sums, dllm::Strides q_strides, dllm::Strides k_strides,               \
                                         dllm::Strides v_strides, dllm::Strides out_strides, float scale_log2,            \
                                         int queries, int keys, int heads, int key_heads, int splits,                     \
                                         int keys_per_split) {                                                            \
        dllm::attention<D, ROWS>({q, k, v, begin, end, q_strides, k_strides, v_strides, scale_log2},                      \
                                 {queries, keys, heads, key_heads, splits, keys_per_split},                               \
                                 {out, out_strides, parts, log_sums});                                                    \
    }                                                                                                                     \
    DLLM_EXPORT(dllm_attention_d##D##_rows##ROWS)

#if DLLM_BUILDS(BF16_D64)
DLLM_ATTENTION(64, 32)
DLLM_ATTENTION(64, 64)
#endif
#if DLLM_BUILDS(BF16_D128)
DLLM_ATTENTION(128, 32)
DLLM_ATTENTION(128, 64)
#endif
#if DLLM_BUILDS(BF16_D256)
DLLM_ATTENTION(256, 32)
DLLM_ATTENTION(256, 64)
#endif

#if DLLM_BUILDS(COMBINE)
extern "C" __global__ void __launch_bounds__(dllm::COMBINE_THREADS)
    dllm_attention_combine(const float* parts, const float* log_sums, dllm::Bits* out, dllm::Strides out_strides,
                           int batches, int queries, int heads, int splits, int depth) {
    dllm::combine({out, out_strides, const_cast<float*>(parts), const_cast<float*>(log_sums)},
                  {queries, 0, heads, 0, splits, 0}, batches, depth);
}
DLLM_EXPORT(dllm_attention_combine)
#endif
