// What the kernels of mask_predict.cu hand to each other, and the arguments they share.
#pragma once

#include "dllm/logits.cuh"

namespace dllm {

// What a tile adds to its row, all relative to the largest logit of the tile.
struct alignas(16) TileRecord {
    float max;
    // Sum of e = exp32(d).
    float mass;
    // Sum of e * d; NaN if a logit of the tile is NaN. Where max is +inf: the number of ids at +inf.
    float moment;
    // The sum of e that the draw takes: at its temperature, over the ids that the filters keep.
    float draw_mass;

    __device__ __forceinline__ bool holds_nan() const { return is_nan(moment); }
};

// Where the filters cut a row: an id is kept if it does not come after (x, id) in the order (logit falling, id rising)
// and its scaled distance to the maximum of the row is at least `floor`.
struct alignas(16) Cut {
    float x;
    uint32_t id;
    float floor;
    float row_max;

    __device__ __forceinline__ bool keeps(float value, int value_id, float inverse_temperature) const {
        const float d = __fmul_rn(__fadd_rn(value, -row_max), inverse_temperature);
        return (value > x || (value == x && uint32_t(value_id) <= id)) && d >= floor;
    }
};

// Rows that are scored: site i is the row `index[i]` of the matrix, or row i where `index` is null. Consecutive rows lie
// `stride` logits apart.
template <typename T>
struct Matrix {
    const T* logits;
    const int32_t* index;
    int64_t stride;
    const uint8_t* suppressed;
    int vocabulary;
    Softcap softcap;

    __device__ __forceinline__ Row<T> row(int site) const {
        const int64_t i = index == nullptr ? site : index[site];
        return {logits + i * stride, suppressed, vocabulary, softcap};
    }

    __device__ __forceinline__ int tiles() const { return (vocabulary + TILE - 1) / TILE; }
};

// A row has at most this many tiles: about a million ids.
constexpr int MAX_TILES = 256;

}  // namespace dllm

// The matrix among the parameters of a kernel: what comes first, what comes behind the kernel's own buffers, and both as one.
#define DLLM_ROWS(T) const T* __restrict__ logits, const int32_t* __restrict__ index, const uint8_t* __restrict__ suppressed
#define DLLM_SHAPE int64_t stride, int vocabulary, float cap, float cap_rate
#define DLLM_MATRIX {logits, index, stride, suppressed, vocabulary, {cap, cap_rate}}
