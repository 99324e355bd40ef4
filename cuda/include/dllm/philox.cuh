// Counter-based randomness, the twin of rust/rng.rs: Philox4x32-10 (Salmon et al., SC 2011).
#pragma once

#include "dllm/layout.cuh"

namespace dllm {

// What a uniform is used for: the last word of the counter.
enum class Draw : uint32_t { token = 0, order = 1, commit = 2, time = 3 };

// The first two of the four words that ten rounds make of a counter: all that a draw takes.
__device__ __forceinline__ uint64_t philox_low_words(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t key) {
    uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t(0xD2511F53u) * c0;
        const uint64_t p1 = uint64_t(0xCD9E8D57u) * c2;
        c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
        c1 = uint32_t(p1);
        c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
        c3 = uint32_t(p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return uint64_t(c1) << 32 | c0;
}

// Where in the random stream something is drawn.
struct Place {
    uint64_t seed;
    uint32_t request, position, step;
};

// That of a site.
__device__ __forceinline__ Place place_of(const Sites& sites, int site) {
    return {sites.seed(site), sites.request(site), sites.position(site), sites.step(site)};
}

// 53 random bits.
__device__ __forceinline__ uint64_t bits53(const Place& place, Draw draw) {
    return philox_low_words(place.request, place.position, place.step, uint32_t(draw), place.seed) >> 11;
}

// A uniform in [0, 1), a multiple of 2^-53.
__device__ __forceinline__ double uniform(const Place& place, Draw draw) {
    return __dmul_rn(__ull2double_rn(bits53(place, draw)), 1.1102230246251565e-16);
}

}  // namespace dllm
