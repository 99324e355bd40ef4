// Top-k, top-p and min-p: where they cut a row of logits, and what is kept of each tile. Two kernels that run between
// `tiles` and `rows` of mask_predict.cu, for the same sites and on the same records.
//
//   cut    one block a row. Top-k and top-p are prefixes of the order (logit falling, id rising); the end of a prefix is
//          found by descending into bins of an order-preserving integer of the logit, eleven bits at a time, never by a
//          sort of the vocabulary. Each level counts ids and sums weights as fixed-point integers, whose sums do not
//          depend on their order, so that the cut is that of rust/logits/cut.rs exactly. Writes one Cut.
//   kept   one warp a tile: sum of the weights of kept ids, in the fixed shape of all tile sums, into the record's
//          `draw_mass`.
//
// Moves, per row: `cut` reads the row (from the second-level cache, mostly) twice or three times for top-k, and once more
// than that for top-p; `kept` reads it once. `cut` is bound by atomics on its shared bins where many logits share
// an exponent, not by memory.
//
// The host checks what mask_predict.cu lists, and: 1 <= top_k < vocabulary or 0 for none; 0 < top_p < 1 or 1 for none;
// 0 <= min_p <= 1.

#include "dllm/block.cuh"
#include "dllm/prediction.cuh"
#include "dllm/tile.cuh"

namespace dllm {

// ---------------------------------------------------------------- cut

constexpr int CUT_THREADS = 1024;
constexpr int BIN_BITS = 11;
constexpr int BINS = 1 << BIN_BITS;

// Integers in the order of the float32 values; -0 and +0 are the same.
__device__ __forceinline__ uint32_t ordered(float x) {
    const uint32_t bits = __float_as_uint(__fadd_rn(x, 0.0f));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float from_ordered(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

struct CutShared {
    uint64_t masses[BINS];
    uint32_t counts[BINS];
    BlockScratch<float> floats;
    BlockScratch<int> ints;
    BlockScratch<uint64_t> longs;
    // What `descend` found.
    uint64_t mass_before;
    uint32_t count, count_before;
    int bin;
};

// A row seen from its maximum at a temperature.
template <typename T>
struct View {
    Row<T> row;
    float max, inverse_temperature;

    __device__ __forceinline__ uint64_t weight(float x) const {
        return fixed_point(exp32(distance(x, max, inverse_temperature)));
    }
};

// The logit at which a prefix ends: `key` is its ordered integer, `count` ids share it, and count_before ids with
// mass_before in all come before these.
struct PrefixEnd {
    uint32_t key, count, count_before;
    uint64_t mass_before;
};

// Counts and sums the ids whose key begins with `prefix` (all bits above `shift + bits`) by the next `bits` of the key.
template <typename T>
__device__ __forceinline__ void fill_bins(const View<T>& view, uint32_t prefix, int shift, int bits, CutShared& shared) {
    for (int b = threadIdx.x; b < BINS; b += CUT_THREADS) {
        shared.masses[b] = 0;
        shared.counts[b] = 0;
    }
    __syncthreads();
    const uint32_t above = shift + bits == 32 ? 0 : 0xffffffffu << (shift + bits);
    for (int id = threadIdx.x; id < view.row.vocabulary; id += CUT_THREADS) {
        const float x = view.row.value(id);
        const uint32_t key = ordered(x);
        if (((key ^ prefix) & above) == 0) {
            const uint32_t bin = (key >> shift) & ((1u << bits) - 1);
            atomicAdd(&shared.counts[bin], 1u);
            const uint64_t weight = view.weight(x);
            if (weight != 0) {
                atomicAdd(&shared.masses[bin], weight);
            }
        }
    }
    __syncthreads();
}

// The first bin from the top with which the running sums pass, and the sums before it. One warp looks, 32 bins at a time.
template <typename Pass>
__device__ __forceinline__ void find_bin(uint32_t count_before, uint64_t mass_before, CutShared& shared, Pass pass) {
    if (threadIdx.x < WARP) {
        for (int top = BINS - 1; top >= 0; top -= WARP) {
            const int bin = top - int(threadIdx.x);
            const uint32_t counts = warp_inclusive_sum(shared.counts[bin]) + count_before;
            const uint64_t masses = warp_inclusive_sum(shared.masses[bin]) + mass_before;
            const uint32_t passing = __ballot_sync(FULL_WARP, pass(counts, masses));
            if (passing != 0) {
                if (int(threadIdx.x) == __ffs(int(passing)) - 1) {
                    shared.bin = bin;
                    shared.count = shared.counts[bin];
                    shared.count_before = counts - shared.counts[bin];
                    shared.mass_before = masses - shared.masses[bin];
                }
                break;
            }
            count_before = __shfl_sync(FULL_WARP, counts, WARP - 1);
            mass_before = __shfl_sync(FULL_WARP, masses, WARP - 1);
        }
    }
    __syncthreads();
}

// Where the running count and mass, in the order of falling logits, first pass.
template <typename T, typename Pass>
__device__ PrefixEnd descend(const View<T>& view, CutShared& shared, Pass pass) {
    uint32_t prefix = 0, count = 0, count_before = 0;
    uint64_t mass_before = 0;
    // Eleven, eleven and ten bits. What widens from 16 bits has nothing in the last ten.
    constexpr int LAST = sizeof(T) == 2 ? 10 : 0;
    for (int shift = 21; shift >= LAST; shift = shift == 10 ? 0 : shift - BIN_BITS) {
        const int bits = shift == 0 ? 10 : BIN_BITS;
        fill_bins(view, prefix, shift, bits, shared);
        find_bin(count_before, mass_before, shared, pass);
        prefix |= uint32_t(shared.bin) << shift;
        count = shared.count;
        count_before = shared.count_before;
        mass_before = shared.mass_before;
        if (shift == 0) {
            break;
        }
    }
    if (LAST > 0) {
        // The last ten bits are zeros in all logits, which the order turns into ones for negative numbers.
        prefix |= prefix & 0x80000000u ? 0 : (1u << LAST) - 1;
    }
    return {prefix, count, count_before, mass_before};
}

// The n-th id, from 1, in rising order, whose key is `key`. All threads get it. The last step of a row.
template <typename T>
__device__ uint32_t nth_with_key(const View<T>& view, uint32_t key, uint32_t n, CutShared& shared) {
    int seen = 0;
    for (int start = 0; start < view.row.vocabulary; start += CUT_THREADS) {
        const int id = start + threadIdx.x;
        const bool has_key = id < view.row.vocabulary && ordered(view.row.value(id)) == key;
        int here;
        const int before = seen + block_exclusive_sum<CUT_THREADS>(int(has_key), here, shared.ints);
        if (has_key && uint32_t(before) + 1 == n) {
            shared.bin = id;
        }
        seen += here;
        if (uint32_t(seen) >= n) {
            break;
        }
    }
    __syncthreads();
    return uint32_t(shared.bin);
}

// Of ids with equal logits, how many a prefix takes until its mass reaches the target: the least n from 1 to `count`.
__device__ inline uint32_t ties_needed(const PrefixEnd& end, uint64_t weight, double target) {
    uint32_t low = 1, high = end.count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (__ull2double_rn(end.mass_before + middle * weight) >= target) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

template <typename T>
__device__ __forceinline__ void cut(const Matrix<T>& matrix, const TileRecord* records, Cut* cuts,
                                    float inverse_temperature, int top_k, double top_p, double min_p) {
    DLLM_SHARED(CutShared, shared);
    const int site = blockIdx.x, tiles = matrix.tiles(), t = threadIdx.x;
    float own = negative_infinity();
    if (t < tiles) {
        const TileRecord record = records[int64_t(site) * tiles + t];
        own = record.holds_nan() ? positive_infinity() : record.max;  // a row with NaN has no cut either
    }
    const float max = block_max<CUT_THREADS>(own, shared.floats);
    Cut cut = {negative_infinity(), 0xffffffffu, negative_infinity(), max};
    if (max > negative_infinity() && max < positive_infinity()) {
        const View<T> view = {matrix.row(site), max, inverse_temperature};
        if (min_p > 0.0) {
            cut.floor = __double2float_rn(ln(min_p));
        }
        PrefixEnd end = {};
        uint32_t ties = 0;
        if (top_k > 0) {
            const uint32_t k = uint32_t(top_k);
            end = descend(view, shared, [k](uint32_t count, uint64_t) { return count >= k; });
            ties = k - end.count_before;
        }
        if (top_p < 1.0) {
            uint64_t left;
            if (top_k > 0) {
                left = end.mass_before + ties * view.weight(from_ordered(end.key));
            } else {
                left = 0;
                for (int id = t; id < matrix.vocabulary; id += CUT_THREADS) {
                    left += view.weight(view.row.value(id));
                }
                left = block_sum<CUT_THREADS>(left, shared.longs);
            }
            const double target = __dmul_rn(top_p, __ull2double_rn(left));
            end = descend(view, shared, [target](uint32_t, uint64_t mass) { return __ull2double_rn(mass) >= target; });
            ties = ties_needed(end, view.weight(from_ordered(end.key)), target);
        }
        if (ties > 0) {
            cut.x = from_ordered(end.key);
            if (ties < end.count) {
                cut.id = nth_with_key(view, end.key, ties, shared);
            }
        }
    }
    if (t == 0) {
        cuts[site] = cut;
    }
}

// ---------------------------------------------------------------- kept

template <typename T>
__device__ __forceinline__ void kept(const Matrix<T>& matrix, const Cut* cuts, TileRecord* records, int sites,
                                     float inverse_temperature) {
    DLLM_SHARED(WarpTiles<T>, shared);
    wait_for_kernels_before();
    const TilePlace place = tile_place();
    if (place.site >= sites || place.tile >= matrix.tiles()) {
        return;
    }
    TileRecord& record = records[int64_t(place.site) * matrix.tiles() + place.tile];
    const float max = record.max;
    if (!(max > negative_infinity() && max < positive_infinity())) {
        return;
    }
    const Cut cut = cuts[place.site];
    Tile<T>& tile = shared.tile[threadIdx.x / WARP];
    const int start = place.tile * TILE;
    tile.template load<WarpOfTile>(matrix.row(place.site), start);
    float mass[Tile<T>::SLOTS] = {};
    tile.each_of_lane([&](float x, int id, int s) {
        const float e = exp32(distance(x, max, inverse_temperature));
        mass[s] = __fadd_rn(mass[s], cut.keeps(x, start + id, inverse_temperature) ? e : 0.0f);
    });
    const float sum = tile_sum<T>(mass);
    if (threadIdx.x % WARP == 0) {
        record.draw_mass = sum;
    }
}

}  // namespace dllm

#define DLLM_KERNELS(T, suffix)                                                                                       \
    extern "C" __global__ void __launch_bounds__(dllm::CUT_THREADS, 1) dllm_mask_filter_cut_##suffix(                 \
        DLLM_ROWS(T), const dllm::TileRecord* __restrict__ records, dllm::Cut* cuts, DLLM_SHAPE,                      \
        float inverse_temperature, int top_k, double top_p, double min_p) {                                           \
        dllm::cut<T>(DLLM_MATRIX, records, cuts, inverse_temperature, top_k, top_p, min_p);                           \
    }                                                                                                                 \
    DLLM_EXPORT(dllm_mask_filter_cut_##suffix)                                                                        \
    extern "C" __global__ void __launch_bounds__(dllm::TILE_WARPS* dllm::WARP) dllm_mask_filter_kept_##suffix(                  \
        DLLM_ROWS(T), const dllm::Cut* __restrict__ cuts, dllm::TileRecord* records, DLLM_SHAPE, int sites,           \
        float inverse_temperature) {                                                                                  \
        dllm::kept<T>(DLLM_MATRIX, cuts, records, sites, inverse_temperature);                                        \
    }                                                                                                                 \
    DLLM_EXPORT(dllm_mask_filter_kept_##suffix)

#if DLLM_BUILDS(BF16)
DLLM_KERNELS(dllm::Bf16, bf16)
#endif
#if DLLM_BUILDS(F16)
DLLM_KERNELS(dllm::F16, f16)
#endif
#if DLLM_BUILDS(F32)
DLLM_KERNELS(float, f32)
#endif
