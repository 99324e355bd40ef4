// Where a prefix of the order (logit falling, id rising) ends: with a number of ids, or with a share of the mass. What the
// kernel `cut` of mask_filter.cu, a block a row, does with the bins that `count` has filled.
#pragma once

#include "dllm/bins.cuh"
#include "dllm/block.cuh"
#include "dllm/vectors.cuh"

namespace dllm {

// A row seen from its maximum at a temperature.
template <typename T>
struct View {
    Row<T> row;
    float max, inverse_temperature;

    __device__ __forceinline__ bool has_cut() const { return max > negative_infinity() && max < positive_infinity(); }

    __device__ __forceinline__ uint64_t weight(float x) const {
        return fixed_point(exp32(distance(x, max, inverse_temperature)));
    }
};

// The maximum of the tile of this thread; -inf beyond the row, and +inf for NaN, which means no cut either.
__device__ __forceinline__ float own_maximum(const TileRecord* records, int site, int tiles) {
    const int t = threadIdx.x;
    if (t >= tiles) {
        return negative_infinity();
    }
    const TileRecord record = records[int64_t(site) * tiles + t];
    return record.holds_nan() ? positive_infinity() : record.max;
}

constexpr int CUT_THREADS = 512;
static_assert(CUT_THREADS >= MAX_TILES, "a thread has the record of one tile");
constexpr int PARTS = 2048;  // of a range of keys, on the way down to one value

// The part of an order in which a prefix ends: `count` ids share the part, count_before ids with mass_before in all come
// before these.
struct Part {
    int index;
    uint32_t count, count_before;
    uint64_t mass_before;
};

// A prefix of that order is long enough with so many ids, or with so much mass.
struct Prefix {
    bool is_counted;
    uint32_t count;
    double mass;

    __device__ __forceinline__ bool is_reached(uint32_t ids, uint64_t weights) const {
        return is_counted ? ids >= count : __ull2double_rn(weights) >= mass;
    }
};

struct CutShared {
    uint32_t counts[PARTS];
    SplitSum masses[PARTS];
    BlockScratch<float> floats;
    BlockScratch<uint32_t> ints;
    BlockScratch<uint64_t> longs;
    TileSet tiles;
    Part found;
    Law law;
    int id;
};

// PER neighbouring parts of this thread, and the sums of all parts before.
template <int PER>
struct Sums {
    uint32_t counts[PER], count_before;
    uint64_t masses[PER], mass_before;

    // Sets the sums before: those of the threads before, and what is given. Returns the mass of all threads.
    __device__ __forceinline__ uint64_t add_up(uint32_t count_given, uint64_t mass_given, CutShared& shared) {
        uint32_t count = 0, all_counts;
        uint64_t mass = 0, all_masses;
#pragma unroll
        for (int i = 0; i < PER; ++i) {
            count += counts[i];
            mass += masses[i];
        }
        count_before = count_given + block_exclusive_sum<CUT_THREADS>(count, all_counts, shared.ints);
        mass_before = mass_given + block_exclusive_sum<CUT_THREADS>(mass, all_masses, shared.longs);
        return all_masses;
    }

    // The part in which the prefix ends. There is one. `add_up` has waited for the block since `found` was read.
    __device__ __forceinline__ Part end_of(const Prefix& prefix, CutShared& shared) const {
        uint32_t count = count_before;
        uint64_t mass = mass_before;
        bool was_reached = prefix.is_reached(count, mass);
#pragma unroll
        for (int i = 0; i < PER; ++i) {
            const bool is_reached = prefix.is_reached(count + counts[i], mass + masses[i]);
            if (is_reached && !was_reached) {
                shared.found = {int(threadIdx.x) * PER + i, counts[i], count, mass};
            }
            was_reached = is_reached;
            count += counts[i];
            mass += masses[i];
        }
        __syncthreads();
        return shared.found;
    }
};

// What `count` found of a row, all chunks together.
template <typename T>
struct RowBins {
    static constexpr int PER = BinMap<T>::BINS / CUT_THREADS;

    BinMap<T> map;
    const Bins<T>* chunks;
    int chunk_count;

    __device__ __forceinline__ Sums<PER> own(const View<T>& view) const {
        const int first = int(threadIdx.x) * PER;
        Sums<PER> sums = {};
#pragma unroll 2
        for (int c = 0; c < chunk_count; ++c) {
#pragma unroll
            for (int i = 0; i < PER; i += 4) {
                const uint4 counts = *reinterpret_cast<const uint4*>(&chunks[c].counts[first + i]);
                sums.counts[i] += counts.x;
                sums.counts[i + 1] += counts.y;
                sums.counts[i + 2] += counts.z;
                sums.counts[i + 3] += counts.w;
            }
        }
#pragma unroll
        for (int i = 0; i < PER; ++i) {
            if (sums.counts[i] == 0) {
                continue;
            }
            const int mass = BinMap<T>::mass_of(first + i);
            if (mass < 0) {
                sums.masses[i] = sums.counts[i] * view.weight(from_ordered(map.keys(first + i).value()));
            } else {
#pragma unroll(BinMap<T>::IS_EXACT ? 1 : 4)
                for (int c = 0; c < chunk_count; ++c) {
                    sums.masses[i] += chunks[c].masses[mass];
                }
            }
        }
        return sums;
    }
};

// The logit at which a prefix ends: its ordered key, and how many ids share it and come before.
struct PrefixEnd {
    uint32_t key, count, count_before;
    uint64_t mass_before;
};

// From the part in which a prefix ends to the logit, 2,048 parts at a time: no pass for bfloat16 in the window of the bins, one
// for float16, two for float32. `own` is the maximum of the tile of this thread.
template <typename T>
__device__ __forceinline__ PrefixEnd descend(const View<T>& view, Keys<T> keys, Part part, float own, bool has_top_p,
                                             CutShared& shared, const Prefix& prefix) {
    constexpr int PER = PARTS / CUT_THREADS, AT_ONCE = sizeof(T);  // sixteen ids: no other block reads this row meanwhile
    const int t = threadIdx.x, tiles = (view.row.vocabulary + TILE - 1) / TILE;
    while (!keys.are_one_value()) {
        int shift = UNUSED_BITS<T>;
        while ((keys.last - keys.first) >> shift >= PARTS) {
            ++shift;
        }
        for (int p = t; p < PARTS; p += CUT_THREADS) {
            shared.counts[p] = 0;
            shared.masses[p] = {0, 0};
        }
        shared.tiles.put(t < tiles && ordered(own) >= keys.first);
        __syncthreads();
        visit_tiles<CUT_THREADS, AT_ONCE>(view.row, shared.tiles, 0, tiles, [&](const Vectors<T, AT_ONCE>& vectors) {
            bool is_in = false;
            vectors.visit(view.row, [&](int, float x) { is_in |= keys.hold(ordered(x)); });
            if (!is_in) {
                return;
            }
            vectors.visit_singly(view.row, [&](int, float x) {
                const uint32_t key = ordered(x), p = (keys.last - key) >> shift;
                if (keys.hold(key)) {
                    atomicAdd(&shared.counts[p], 1u);
                    if (has_top_p) {
                        shared.masses[p].add(view.weight(x));
                    }
                }
            });
        });
        __syncthreads();
        Sums<PER> sums;
#pragma unroll
        for (int i = 0; i < PER; ++i) {
            sums.counts[i] = shared.counts[t * PER + i];
            sums.masses[i] = shared.masses[t * PER + i].value();
        }
        sums.add_up(part.count_before, part.mass_before, shared);
        part = sums.end_of(prefix, shared);
        keys = keys.part(part.index, shift);
    }
    return {keys.value(), part.count, part.count_before, part.mass_before};
}

// The n-th id, from 1, in rising order from id `begin`, whose key is `key`. All threads get it. The last step of a row.
template <typename T>
__device__ uint32_t nth_with_key(const Row<T>& row, uint32_t key, uint32_t n, int begin, CutShared& shared) {
    // A thread has 32 neighbouring ids, a bit for each, so that a block has four tiles in one round.
    using Own = Vectors<T, 2 * sizeof(T)>;
    static_assert(Own::LENGTH == 32, "a bit for each id");
    uint32_t seen = 0;
    const int from = begin - (begin + unaligned(row)) % (16 / int(sizeof(T)));
    for (int start = from; seen < n && start < row.vocabulary; start += Own::LENGTH * CUT_THREADS) {
        const int first = start + Own::LENGTH * int(threadIdx.x);
        uint32_t matches = 0;
        const Own own = {first, begin, row.vocabulary};
        own.visit(row, [&](int id, float x) { matches |= uint32_t(ordered(x) == key) << (id - first); });
        uint32_t here;
        const uint32_t count = __popc(matches);
        const uint32_t before = seen + block_exclusive_sum<CUT_THREADS>(count, here, shared.ints);
        if (before < n && n <= before + count) {
            for (uint32_t skip = n - before - 1; skip > 0; --skip) {
                matches &= matches - 1;
            }
            shared.id = first + __ffs(int(matches)) - 1;
        }
        seen += here;
    }
    __syncthreads();
    return uint32_t(shared.id);
}

// Of ids with equal logits, how many a prefix takes until its mass reaches the target: the least n from 1 to `count`. Each
// warp looks for itself, 32 numbers at a time; `low` is too few and `high` is enough.
__device__ inline uint32_t ties_needed(const PrefixEnd& end, uint64_t weight, double target) {
    uint32_t low = 0, high = end.count;
    while (high - low > 1) {
        const uint32_t step = (high - low + WARP - 1) / WARP;
        const uint32_t n = low + (threadIdx.x % WARP + 1) * step;
        const bool is_enough = n >= high || __ull2double_rn(end.mass_before + n * weight) >= target;
        const uint32_t first = uint32_t(__ffs(int(__ballot_sync(FULL_WARP, is_enough)))) - 1;
        low += first * step;
        high = low + step < high ? low + step : high;
    }
    return high;
}

}  // namespace dllm
