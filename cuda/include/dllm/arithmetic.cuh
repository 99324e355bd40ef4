// The arithmetic that decides, fixed to the bit: the twin of rust/logits/arith.rs. ARCHITECTURE.md defines it.
//
// Every operation is an intrinsic with one correct rounding, because the compiler may contract a * b + c but never
// __dadd_rn(__dmul_rn(a, b), c).
#pragma once

#include "dllm/ptx.cuh"

namespace dllm {

// Ids per tile, and accumulators per tile: element j is added to accumulator j % LANES, in rising j.
constexpr int TILE = 4096;
constexpr int LANES = 256;

// Differences below this weigh nothing.
constexpr float FLOOR = -60.0f;

// Differences from here on weigh so much that taking exp(FLOOR) away (below) rounds to nothing: 2^-61 is 2^25 times that.
constexpr float NEAR = -42.0f;

// exp(d) for FLOOR <= d <= 0, and exp(FLOOR) more than that. Of NaN it may be any number.
__device__ __forceinline__ float exp32_above_floor(float d) {
    constexpr float LOG2_E = 1.44269504f;
    constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
    const float shifted = __fmaf_rn(d, LOG2_E, MAGIC);
    const float f = __fmaf_rn(d, LOG2_E, -__fadd_rn(shifted, -MAGIC));
    float p = __uint_as_float(0x3aaddcd9u);
    p = __fmaf_rn(p, f, __uint_as_float(0x3c1e7536u));
    p = __fmaf_rn(p, f, __uint_as_float(0x3d635ba9u));
    p = __fmaf_rn(p, f, __uint_as_float(0x3e75fcdeu));
    p = __fmaf_rn(p, f, __uint_as_float(0x3f317215u));
    const float y = __fmaf_rn(p, f, 1.0f);
    return __uint_as_float(__float_as_uint(y) + (__float_as_uint(shifted) << 23));
}

// exp(d) for FLOOR <= d <= 0: exactly 1 at 0 and exactly 0 at FLOOR. Of NaN it may be any number.
__device__ __forceinline__ float exp32(float d) {
    // exp(FLOOR) as the lines above compute it
    return __fadd_rn(exp32_above_floor(d), -__uint_as_float(0x142d70d3u));
}

// A bound on logits, cap * tanh(x / cap); none where `cap` is 0. `rate` is -2 / cap.
struct Softcap {
    float cap, rate;

    __device__ __forceinline__ float apply(float x) const {
        if (x != x) {
            return x;
        }
        const uint32_t sign = __float_as_uint(x) & 0x80000000u;
        const float size = __uint_as_float(__float_as_uint(x) & 0x7fffffffu);
        const float e = exp32(max_keeping_nan(__fmul_rn(size, rate), FLOOR));
        const float y = __fmul_rn(cap, __fdiv_rn(__fadd_rn(1.0f, -e), __fadd_rn(1.0f, e)));
        return __uint_as_float(__float_as_uint(y) | sign);
    }
};

// (x - max) / T, from below no less than FLOOR; NaN stays NaN.
__device__ __forceinline__ float distance(float x, float max, float inverse_temperature) {
    return max_keeping_nan(__fmul_rn(__fadd_rn(x, -max), inverse_temperature), FLOOR);
}

// The same at temperature 1, where the product would change nothing.
__device__ __forceinline__ float distance(float x, float max) { return max_keeping_nan(__fadd_rn(x, -max), FLOOR); }

// A weight as a fixed-point integer, rint(e * 2^40): sums of these do not depend on their order. The product is exact.
__device__ __forceinline__ uint64_t fixed_point(float weight) {
    return __float2ull_rn(__fmul_rn(weight, 1099511627776.0f));
}

// r / n, rounded once. With the rounded reciprocal the quotient is off by less than two units of its last place; what is left
// of r is then exact, and corrects it, because no r / n lies nearer to the middle of two neighbours than a unit / 2n.
// For r of normal size, or 0, and n up to 15.
template <int N>
__device__ __forceinline__ double divided_by(double r) {
    constexpr double RECIPROCAL = 1.0 / N;
    const double quotient = __dmul_rn(r, RECIPROCAL);
    return __fma_rn(__fma_rn(-quotient, double(N), r), RECIPROCAL, quotient);
}

// 1 + r + r^2 / 2! + ... + r^14 / 14! from the inside: 1 + r / N * (1 + r / (N + 1) * (...)).
template <int N>
__device__ __forceinline__ double exponential_series(double r) {
    if constexpr (N > 14) {
        return 1.0;
    } else {
        return __dadd_rn(1.0, __dmul_rn(exponential_series<N + 1>(r), divided_by<N>(r)));
    }
}

// exp(d) in float64 for d <= 0; 0 below -700.
__device__ inline double exp64(double d) {
    if (d < -700.0) {
        return 0.0;
    }
    constexpr double SHIFT = 6755399441055744.0;  // 1.5 * 2^52
    const double shifted = __dadd_rn(__dmul_rn(d, 1.4426950408889634), SHIFT);
    const double k = __dadd_rn(shifted, -SHIFT);
    // ln 2 in two parts, the first with so many trailing zero bits that k times it is exact.
    const double high = __dmul_rn(k, __longlong_as_double(0x3fe62e42fee00000ll));
    const double low = __dmul_rn(k, __longlong_as_double(0x3dea39ef35793c76ll));
    const double r = __dadd_rn(__dadd_rn(d, -high), -low);
    const double p = exponential_series<1>(r);
    const uint64_t exponent = uint64_t(__double_as_longlong(shifted)) << 52;
    return __longlong_as_double(int64_t(uint64_t(__double_as_longlong(p)) + exponent));
}

// Not divided anew for each, and not unrolled: as immediate numbers they fill registers.
__constant__ const double LN_SERIES[] = {1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11,
                                         1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};

// ln(1 + r) in float64 for r >= 0.
__device__ inline double ln_1p(double r) {
    double s, k;
    if (r < 0.41) {
        s = __ddiv_rn(r, __dadd_rn(2.0, r));
        k = 0.0;
    } else {
        const int64_t bits = __double_as_longlong(__dadd_rn(1.0, r));
        int64_t exponent = (bits >> 52) - 1023;
        double y = __longlong_as_double((bits & 0x000fffffffffffffll) | 0x3ff0000000000000ll);
        if (y > 1.4142135623730951) {
            y = __dmul_rn(y, 0.5);
            exponent += 1;
        }
        s = __ddiv_rn(__dadd_rn(y, -1.0), __dadd_rn(y, 1.0));
        k = double(exponent);
    }
    const double q = __dmul_rn(s, s);
    double p = 1.0 / 23;
#pragma unroll 1
    for (int i = 0; i < 11; ++i) {
        p = __dadd_rn(__dmul_rn(p, q), LN_SERIES[i]);
    }
    return __dadd_rn(__dmul_rn(k, 0.6931471805599453), __dmul_rn(__dmul_rn(2.0, s), p));
}

// Natural logarithm in float64 of a positive, finite, normal number.
__device__ inline double ln(double x) {
    const int64_t bits = __double_as_longlong(x);
    const double k = double((bits >> 52) - 1023);
    const double y = __longlong_as_double((bits & 0x000fffffffffffffll) | 0x3ff0000000000000ll);
    return __dadd_rn(__dmul_rn(k, 0.6931471805599453), ln_1p(__dadd_rn(y, -1.0)));
}

}  // namespace dllm
