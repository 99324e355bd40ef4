// Attention of a block of queries over a cache of keys and values, each query with a visible range of its own.
//
// Computes out[b, h, i] = sum over keys j in [begin[b, i], end[b, i]) of softmax_j(scale * q[b, h, i] . k[b, h / G, j]) *
// v[b, h / G, j], for G = query heads / key heads, in bfloat16 or float16 with float32 sums. Ranges make it bidirectional (all
// keys), block-causal, padded on either side or windowed. A query that sees nothing gets zeros.
//
// Layouts: q and out [B, H, Lq, D], k and v [B, H / G, Lk, D]; D is contiguous, the other strides are free (a cache of slots
// is read where it lies); begin and end [B, Lq] int32. The head dimension D is 64, 80, 96, 128, 192 or 256.
//
// One block takes ROWS rows of one key head of one sequence and one stretch of `keys_per_split` keys. The G query heads that
// share a key head lie one below the other: row = head_in_group * Lq + query, so that 4 queries of 8 heads fill 32 rows. A
// warp takes 16 rows and walks the keys 64 at a time (32 for D > 128): scores by mma.sync, the running softmax of its rows in
// registers, weights rounded to the dtype, weighted sums by mma.sync. Keys and values come through a ring of two stages of
// asynchronous copies. With more than one split, parts go out in float32 with the logarithm of their sum, and `combine` merges
// them, a warp a row.
//
// What a row gets depends on its own range and on keys_per_split alone: steps begin at multiples of their length, and steps
// that a row does not see change nothing in it. So neither the batch nor the other queries matter to the bit. A key that no
// row of the block sees is not read, wherever it lies, so it may hold anything, also NaN; one that some row sees has to be
// finite for the others, too, for a weight of 0 does not take NaN away.
//
// float16: scores, sums and parts are float32, and weights are at most 1, so nothing overflows between queries and output; a
// mean of values is no larger than they are. Weights below 2^-14 of a row's largest lose digits, below 2^-25 they are 0.
//
// Moves: per block, keys_per_split * D * 4 bytes of keys and values (less where no row looks), ROWS * D * 2 of queries, and
// ROWS * D * 2 out, or ROWS * D * 4 with several splits; `combine` reads these and writes D * 2 a row.
//
// The host checks: dtype, D, H = G * key heads, addresses and strides that are multiples of 16 bytes, 0 <= begin
// (an `end` beyond the keys counts as their number), keys_per_split a multiple of 64, at most MAX_SPLITS splits, the shared
// memory that the device has.

#include "dllm/block.cuh"
#include "dllm/elements.cuh"

namespace dllm {

// Keys of one step. With the widest heads fewer, so that the scores leave registers to the sums.
template <int D>
constexpr int KEYS_OF_STEP = D > 128 ? 32 : 64;
constexpr int ROWS_PER_WARP = 16;
constexpr int STAGES = 2;
constexpr int NEVER = 0x7fffffff;

template <typename T, int D, int ROWS>
struct alignas(128) AttentionShared {
    T queries[ROWS * D];
    T keys[STAGES][KEYS_OF_STEP<D> * D];
    T values[STAGES][KEYS_OF_STEP<D> * D];
    uint64_t seen[STAGES][ROWS / ROWS_PER_WARP];
    BlockScratch<int> scratch;
};

// Place of the 16-byte chunk `chunk` of row `row` in a matrix of D columns, so that the eight rows of a matrix instruction lie
// in the eight different groups of banks. Rows are W * odd chunks apart, for a power of two W: by that alone they meet in 8 / W
// places that are multiples of W. Rows that would share one differ in row / (8 / W), and by that number they exchange their
// chunks with their neighbours. (The usual form, chunk ^ row % 8, is this for W = 8; heads of 80 and 96 have W = 2 and 4.
// Padded rows would do as well and cost the second block of a multiprocessor of sm_80 at D = 128.)
template <int D>
__device__ __forceinline__ int place(int row, int chunk) {
    constexpr int CHUNKS = D / 8, POWER = CHUNKS & -CHUNKS, W = POWER < 8 ? POWER : 8;
    constexpr int SHIFT = W == 8 ? 0 : W == 4 ? 1 : W == 2 ? 2 : 3;
    return row * D + (chunk ^ ((row >> SHIFT) & (W - 1))) * 8;
}

struct Shape {
    int queries, keys, heads, key_heads, splits, keys_per_split;
};

// Strides in elements.
struct Strides {
    int64_t batch, head, row;
};

template <typename T>
struct Inputs {
    const T *q, *k, *v;
    const int32_t *begin, *end;
    Strides q_strides, k_strides, v_strides;
    float scale_log2;  // scale * log2(e): the softmax is taken in base 2
};

template <typename T>
struct Outputs {
    T* out;           // with one split
    Strides strides;  // of `out`
    float* parts;     // else [splits, B, H, Lq, D]
    float* log_sums;  // and [splits, B, H, Lq], in base 2, -inf for a row that saw nothing
};

// The keys that a row may see.
struct Range {
    int begin, end;

    __device__ __forceinline__ bool is_empty() const { return begin >= end; }

    // A bit for each of COUNT <= 64 keys from `first` on.
    template <int COUNT>
    __device__ __forceinline__ uint64_t bits(int first) const {
        const int low = begin > first ? begin - first : 0;
        const int high = end < first + COUNT ? end - first : COUNT;
        return is_empty() || end <= first || low >= high ? 0 : ~uint64_t(0) >> (64 - (high - low)) << low;
    }
};

// Copies rows of D elements from global memory into shared memory, all threads of the block together; rows for which
// `source` gives null become zeros (`base` then stands for an address, and is not read).
template <int D, int ROWS, int THREADS, typename T, typename Source>
__device__ __forceinline__ void copy_rows(T* target, const T* base, Source source) {
    constexpr int CHUNKS = D / 8, OF_THREAD = ROWS * CHUNKS / THREADS;
    static_assert(ROWS * CHUNKS % THREADS == 0, "every thread copies as much");
    constexpr int AT_ONCE = OF_THREAD % 5 == 0 ? 5 : OF_THREAD % 3 == 0 ? 3 : 4;  // without a rest
#pragma unroll AT_ONCE
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS;
        const T* from = source(row);
        const bool is_wanted = from != nullptr;
        async_copy_16(target + place<D>(row, chunk), is_wanted ? from + chunk * 8 : base, is_wanted);
    }
}

template <typename T, int D, int ROWS>
__device__ __forceinline__ void attention(const Inputs<T>& in, const Shape& shape, const Outputs<T>& out) {
    constexpr int THREADS = ROWS / ROWS_PER_WARP * WARP, KEYS = KEYS_OF_STEP<D>;
    constexpr int SCORE_TILES = KEYS / 8, OUT_TILES = D / 8, DEPTH = D / 16;
    using Shared = AttentionShared<T, D, ROWS>;
    DLLM_DYNAMIC_SHARED(Shared, shared);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int group = shape.heads / shape.key_heads;
    // Blocks of the same keys are neighbours.
    const int rows = group * shape.queries, row_tiles = (rows + ROWS - 1) / ROWS;
    const int first_row = int(blockIdx.x % row_tiles) * ROWS, at_head = int(blockIdx.x / row_tiles);
    const int batch = at_head / shape.key_heads, key_head = at_head % shape.key_heads;
    const int split_begin = blockIdx.y * shape.keys_per_split;
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

    // With a key that all rows see, or an end of one that is a begin of another, what they see is one stretch. Else there may be
    // keys between that nobody sees.
    const bool may_have_gaps = latest_begin > earliest_end;

    const auto load_step = [&](int stage, int step) {
        uint64_t seen = Range{begin, end}.bits<KEYS>(step);
        if (may_have_gaps) {
            uint64_t by_warp = 0;
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                by_warp |= head[r] < 0 ? 0 : range[r].template bits<KEYS>(step);
            }
#pragma unroll
            for (int n = 4; n < WARP; n *= 2) {
                by_warp |= __shfl_xor_sync(FULL_WARP, by_warp, n);
            }
            if (lane == 0) {
                shared.seen[stage][warp] = by_warp;
            }
            __syncthreads();
            uint64_t by_block = 0;
            for (int w = 0; w < THREADS / WARP; ++w) {
                by_block |= shared.seen[stage][w];
            }
            seen &= by_block;
        }
        const auto copy = [&](T* target, const T* base, const Strides& strides) {
            const T* first = base + batch * strides.batch + key_head * strides.head;
            copy_rows<D, KEYS, THREADS>(target, base, [&](int row) -> const T* {
                // Zeros: what nobody sees may be anything, also NaN.
                return seen >> row & 1 ? first + (step + row) * strides.row : nullptr;
            });
        };
        copy(shared.keys[stage], in.k, in.k_strides);
        copy(shared.values[stage], in.v, in.v_strides);
    };

    float sums[OUT_TILES][4];
    float maximum[2] = {negative_infinity(), negative_infinity()}, mass[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < OUT_TILES; ++i) {
        sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0.0f;
    }

    if (begin < end) {
        copy_rows<D, ROWS, THREADS>(shared.queries, in.q, [&](int r) -> const T* {
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
                Words<T>::multiply_add(scores[2 * i], q, k[0], k[1]);
                Words<T>::multiply_add(scores[2 * i + 1], q, k[2], k[3]);
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
                Words<T>::word(scores[2 * s][0], scores[2 * s][1]), Words<T>::word(scores[2 * s][2], scores[2 * s][3]),
                Words<T>::word(scores[2 * s + 1][0], scores[2 * s + 1][1]),
                Words<T>::word(scores[2 * s + 1][2], scores[2 * s + 1][3])};
#pragma unroll
            for (int i = 0; i < OUT_TILES / 2; ++i) {
                uint32_t v[4];
                load_matrices_transposed(v, shared.values[stage] + place<D>(s * 16 + lane % 16, i * 2 + lane / 16));
                Words<T>::multiply_add(sums[2 * i], weights, v[0], v[1]);
                Words<T>::multiply_add(sums[2 * i + 1], weights, v[2], v[3]);
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
            T* to = out.out + batch * out.strides.batch + head[r] * out.strides.head + query[r] * out.strides.row;
#pragma unroll
            for (int i = 0; i < OUT_TILES; ++i) {
                uint32_t* pair = reinterpret_cast<uint32_t*>(to + i * 8 + lane % 4 * 2);
                *pair = Words<T>::word(sums[i][2 * r] * inverse, sums[i][2 * r + 1] * inverse);
            }
        } else {
            const int64_t batches = gridDim.x / (row_tiles * shape.key_heads);
            const int64_t at = ((blockIdx.y * batches + batch) * shape.heads + head[r]) * shape.queries + query[r];
#pragma unroll
            for (int i = 0; i < OUT_TILES; ++i) {
                float2* pair = reinterpret_cast<float2*>(out.parts + at * D + i * 8 + lane % 4 * 2);
                *pair = {sums[i][2 * r] * inverse, sums[i][2 * r + 1] * inverse};
            }
            if (lane % 4 == 0) {
                out.log_sums[at] = mass[r] > 0.0f ? maximum[r] + log2f(mass[r]) : negative_infinity();
            }
        }
    }
}

// Merges the splits: one warp a row of the output, in the order of the splits.
constexpr int COMBINE_THREADS = 128;
constexpr int MAX_SPLITS = 64;

template <typename T, int D>
__device__ __forceinline__ void combine(const Outputs<T>& out, const Shape& shape, int batches) {
    constexpr int PER_LANE = 4, SWEEPS = (D + WARP * PER_LANE - 1) / (WARP * PER_LANE);
    constexpr int AT_ONCE = 4 / SWEEPS;  // loads that a lane waits for together are four
    const int64_t rows = int64_t(batches) * shape.heads * shape.queries;
    const int64_t row = (int64_t(blockIdx.x) * COMBINE_THREADS + threadIdx.x) / WARP;
    const int lane = threadIdx.x % WARP;
    if (row >= rows) {
        return;
    }
    // A lane holds the weights of the splits `lane` and `lane + 32`.
    float weights[MAX_SPLITS / WARP], highest = negative_infinity();
#pragma unroll
    for (int i = 0; i < MAX_SPLITS / WARP; ++i) {
        const int s = lane + i * WARP;
        weights[i] = s < shape.splits ? out.log_sums[s * rows + row] : negative_infinity();
        highest = fmaxf(highest, weights[i]);
    }
#pragma unroll
    for (int n = WARP / 2; n > 0; n /= 2) {
        highest = fmaxf(highest, __shfl_xor_sync(FULL_WARP, highest, n));
    }
    const float base = highest == negative_infinity() ? 0.0f : highest;
#pragma unroll
    for (int i = 0; i < MAX_SPLITS / WARP; ++i) {
        weights[i] = exp2_approximately(weights[i] - base);
    }
    float sums[SWEEPS][PER_LANE], mass = 0.0f;
#pragma unroll
    for (int i = 0; i < SWEEPS; ++i) {
        sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0.0f;
    }
#pragma unroll AT_ONCE
    for (int s = 0; s < shape.splits; ++s) {
        const float weight = __shfl_sync(FULL_WARP, s < WARP ? weights[0] : weights[1], s % WARP);
        mass += weight;
#pragma unroll
        for (int i = 0; i < SWEEPS; ++i) {
            const int d = PER_LANE * (lane + i * WARP);
            if (d < D) {
                const float4 part = *reinterpret_cast<const float4*>(out.parts + (s * rows + row) * D + d);
                sums[i][0] += weight * part.x;
                sums[i][1] += weight * part.y;
                sums[i][2] += weight * part.z;
                sums[i][3] += weight * part.w;
            }
        }
    }
    const float inverse = mass > 0.0f ? 1.0f / mass : 0.0f;
    const int query = int(row % shape.queries), head = int(row / shape.queries % shape.heads);
    const int64_t batch = row / shape.queries / shape.heads;
    T* to = out.out + batch * out.strides.batch + head * out.strides.head + query * out.strides.row;
#pragma unroll
    for (int i = 0; i < SWEEPS; ++i) {
        const int d = PER_LANE * (lane + i * WARP);
        if (d < D) {
            *reinterpret_cast<uint2*>(to + d) = {Words<T>::word(sums[i][0] * inverse, sums[i][1] * inverse),
                                                 Words<T>::word(sums[i][2] * inverse, sums[i][3] * inverse)};
        }
    }
}

}  // namespace dllm

// Blocks of a multiprocessor that registers must allow; 0 leaves it to the compiler. For sm_100a NVRTC 13.0 would rather spill
// than let these two have the registers that they need, though shared memory holds no more than two or three blocks of them.
#if !defined(DLLM_EMU) && __CUDA_ARCH__ >= 1000
#define DLLM_ATTENTION_BLOCKS(D) (D == 96 || D == 128 ? 2 : 0)
#else
#define DLLM_ATTENTION_BLOCKS(D) 0
#endif

// Strides are structs of three 64-bit integers, passed by value.
#define DLLM_ATTENTION_ROWS(T, D, ROWS, SUFFIX)                                                                           \
    extern "C" __global__ void __launch_bounds__(ROWS / dllm::ROWS_PER_WARP * dllm::WARP, DLLM_ATTENTION_BLOCKS(D))       \
        dllm_attention_d##D##_rows##ROWS##_##SUFFIX(                                                                      \
            const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const int32_t* __restrict__ begin, \
            const int32_t* __restrict__ end, T* out, float* parts, float* log_sums, dllm::Strides q_strides,              \
            dllm::Strides k_strides, dllm::Strides v_strides, dllm::Strides out_strides, float scale_log2, int queries,   \
            int keys, int heads, int key_heads, int splits, int keys_per_split) {                                         \
        dllm::wait_for_kernels_before();                                                                                  \
        dllm::let_kernels_after_begin();                                                                                  \
        dllm::attention<T, D, ROWS>({q, k, v, begin, end, q_strides, k_strides, v_strides, scale_log2},                   \
                                    {queries, keys, heads, key_heads, splits, keys_per_split},                            \
                                    {out, out_strides, parts, log_sums});                                                 \
    }                                                                                                                     \
    DLLM_EXPORT(dllm_attention_d##D##_rows##ROWS##_##SUFFIX)

#define DLLM_ATTENTION(T, D, SUFFIX)                                                                                      \
    DLLM_ATTENTION_ROWS(T, D, 32, SUFFIX)                                                                                 \
    DLLM_ATTENTION_ROWS(T, D, 64, SUFFIX)                                                                                 \
    extern "C" __global__ void __launch_bounds__(dllm::COMBINE_THREADS)                                                   \
        dllm_attention_d##D##_combine_##SUFFIX(const float* parts, const float* log_sums, T* out,                         \
                                               dllm::Strides out_strides, int batches, int queries, int heads,            \
                                               int splits) {                                                              \
        dllm::wait_for_kernels_before();                                                                                  \
        dllm::let_kernels_after_begin();                                                                                  \
        dllm::combine<T, D>({out, out_strides, const_cast<float*>(parts), const_cast<float*>(log_sums)},                  \
                            {queries, 0, heads, 0, splits, 0}, batches);                                                  \
    }                                                                                                                     \
    DLLM_EXPORT(dllm_attention_d##D##_combine_##SUFFIX)

#if DLLM_BUILDS(BF16_D64)
DLLM_ATTENTION(dllm::Bf16, 64, bf16)
#endif
#if DLLM_BUILDS(BF16_D80)
DLLM_ATTENTION(dllm::Bf16, 80, bf16)
#endif
#if DLLM_BUILDS(BF16_D96)
DLLM_ATTENTION(dllm::Bf16, 96, bf16)
#endif
#if DLLM_BUILDS(BF16_D128)
DLLM_ATTENTION(dllm::Bf16, 128, bf16)
#endif
#if DLLM_BUILDS(BF16_D192)
DLLM_ATTENTION(dllm::Bf16, 192, bf16)
#endif
#if DLLM_BUILDS(BF16_D256)
DLLM_ATTENTION(dllm::Bf16, 256, bf16)
#endif
#if DLLM_BUILDS(F16_D64)
DLLM_ATTENTION(dllm::F16, 64, f16)
#endif
#if DLLM_BUILDS(F16_D80)
DLLM_ATTENTION(dllm::F16, 80, f16)
#endif
#if DLLM_BUILDS(F16_D96)
DLLM_ATTENTION(dllm::F16, 96, f16)
#endif
#if DLLM_BUILDS(F16_D128)
DLLM_ATTENTION(dllm::F16, 128, f16)
#endif
#if DLLM_BUILDS(F16_D192)
DLLM_ATTENTION(dllm::F16, 192, f16)
#endif
#if DLLM_BUILDS(F16_D256)
DLLM_ATTENTION(dllm::F16, 256, f16)
#endif
