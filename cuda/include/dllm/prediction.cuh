// What the kernels of mask_predict.cu hand to each other, and the arguments they share.
#pragma once

#include "dllm/layout.cuh"
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

// Rows that are scored, and the laws of their draws. Consecutive rows lie `stride` logits apart. Laws are data, like the sites
// that name them: what is captured in a graph holds for others. Where `is_mixed` is 0, all sites are of the first.
template <typename T>
struct Matrix {
    const T* logits;
    Sites sites;
    const Law* laws;
    int is_mixed;
    int64_t stride;
    int vocabulary;
    Softcap softcap;

    __device__ __forceinline__ const Law& law(int site) const { return laws[is_mixed != 0 ? sites.law(site) : 0]; }

    __device__ __forceinline__ Row<T> row(int site, const Law& law) const {
        return {logits + sites.line(site) * stride, law.suppressed, vocabulary, softcap};
    }

    __device__ __forceinline__ int tiles() const { return (vocabulary + TILE - 1) / TILE; }
};

// A row has at most this many tiles: about a million ids.
constexpr int MAX_TILES = 256;

}  // namespace dllm

// The matrix among the parameters of a kernel: what comes first, what comes behind the kernel's own buffers, and both as one.
// `sites` is a buffer of `count` sites.
#define DLLM_ROWS(T) const T* __restrict__ logits, const uint8_t* __restrict__ sites, const dllm::Law* __restrict__ laws
#define DLLM_SHAPE int count, int is_mixed, int64_t stride, int vocabulary, float cap, float cap_rate
#define DLLM_MATRIX {logits, {sites, count}, laws, is_mixed, stride, vocabulary, {cap, cap_rate}}
