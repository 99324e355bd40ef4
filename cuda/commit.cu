// The commit: which proposals are written into the canvases, without asking the host.
//
// Computes, for each row: the candidates (scored positions whose cell still holds the mask) in the order of a key, highest
// first, ties to the lower position; the longest prefix of that order that passes the cut, at least `floor` long; and
// writes the tokens of that prefix into their cells. Keys, cuts and their float64 operations are
// those of rust/rules/order.rs and rust/rules/cut.rs, so the decisions are the Rust selector's exactly. Which end of
// an answer stops a row, and what then fills it, is the host's business.
//
// Layout: the sites (scored positions) of row r are [site_start[r], site_start[r + 1]), positions rising; statistics and
// random numbers of the sites are the buffers that mask_predict.cu reads and writes, of `count` sites. `cells` is any array of
// tokens, such as the inputs of the next forward, and `cell` [sites] says where in it a site lies.
//
// One block a row. The rank of a candidate is the number of candidates before it, counted by comparing all with all: no
// sort, no order of threads, and fewer than 2^20 comparisons. The entropy bound adds up in the order of the ranks, by one
// thread, because float64 sums decide.
//
// Moves, per candidate: about 60 bytes of statistics read, at most 12 written. Bound by latency.
//
// The host checks: at most MAX_CANDIDATES sites a row, rising positions, one site a cell, cells inside.

#include "dllm/arithmetic.cuh"
#include "dllm/block.cuh"
#include "dllm/layout.cuh"
#include "dllm/philox.cuh"

namespace dllm {

constexpr int COMMIT_THREADS = 256;
constexpr int MAX_CANDIDATES = 1024;

// Of the names of orders (what positions are ranked by) and cuts (the test that ends the prefix; its bound is a parameter of its
// own), whose numbers the core gives, those that are a case below are known here; ops/commit.py refuses the others by name.
struct Rule {
    int order;
    int cut;
    double bound;
    double order_temperature;
    // Noise on the logarithm of the score, which fades out over the steps of the block (MaskGIT).
    bool is_annealed;
};

// The sites of the rows and what is predicted there.
struct Candidates {
    const int32_t* site_start;
    const int32_t* cell;
    Sites sites;
    Predictions predictions;
};

struct CommitShared {
    double keys[MAX_CANDIDATES];
    // By rank: the candidate, and what the cut tests.
    double tested[MAX_CANDIDATES];
    uint16_t ranked[MAX_CANDIDATES];
    uint8_t is_candidate[MAX_CANDIDATES];
    BlockScratch<int> ints;
    int passing;
};

// The key to sort by. `progress` is the share of the block's steps that are done after this one.
__device__ __forceinline__ double key_of(const Candidates& candidates, int site, const Rule& rule, double progress) {
    const Place place = place_of(candidates.sites, site);
    const Predictions& made = candidates.predictions;
    double score = 0.0;
    switch (rule.order) {
        case ORDER_CONFIDENCE:
            score = made.top1(site);
            break;
        case ORDER_MARGIN:
            score = __dadd_rn(made.top1(site), -made.top2(site));
            break;
        case ORDER_ENTROPY:
            score = -made.entropy(site);
            break;
        case ORDER_RANDOM:
            score = uniform(place, Draw::order);
            break;
        case ORDER_LEFT_TO_RIGHT:
            score = -double(place.position);
            break;
        case ORDER_SAMPLED_CONFIDENCE:
            score = made.probability(site);
            break;
    }
    if (rule.order_temperature == 0.0) {
        return score;
    }
    // A uniform moved off 0 by half a unit.
    const double u = __dmul_rn(__dadd_rn(__ull2double_rn(bits53(place, Draw::order)), 0.5), 1.1102230246251565e-16);
    const double gumbel = -ln(-ln(u));
    if (rule.is_annealed) {
        const double scale = __dmul_rn(rule.order_temperature, __dadd_rn(1.0, -progress));
        const double smallest_normal = 2.2250738585072014e-308;
        return __dadd_rn(ln(score > smallest_normal ? score : smallest_normal), __dmul_rn(scale, gumbel));
    }
    return __dadd_rn(score, __dmul_rn(rule.order_temperature, gumbel));
}

// Does the n-th candidate of the order, from 1, pass? For the cuts that look at one candidate at a time.
__device__ __forceinline__ bool passes(const Rule& rule, int n, double confidence) {
    switch (rule.cut) {
        case CUT_THRESHOLD:
            return confidence >= rule.bound;
        case CUT_FACTOR:
            return __dmul_rn(double(n + 1), __dadd_rn(1.0, -confidence)) < rule.bound;
        case CUT_FACTOR_AS_PUBLISHED:  // the first is never tested
            return n == 1 || confidence >= __dadd_rn(1.0, -__ddiv_rn(rule.bound, double(n + 1)));
        default:
            return false;
    }
}

// Length of the longest prefix of `n` ranked candidates that passes the cut.
__device__ __forceinline__ int longest_prefix(const Rule& rule, int n, CommitShared& shared) {
    if (rule.cut == CUT_ENTROPY_BOUND) {
        if (threadIdx.x == 0) {
            double sum = 0.0, largest = 0.0;
            int passing = 0;
            for (; passing < n; ++passing) {
                const double entropy = shared.tested[passing];
                sum = __dadd_rn(sum, entropy);
                largest = entropy > largest ? entropy : largest;
                if (!(__dadd_rn(sum, -largest) <= rule.bound)) {
                    break;
                }
            }
            shared.passing = passing;
        }
        __syncthreads();
        return shared.passing;
    }
    int first_failing = n;
    for (int rank = threadIdx.x; rank < n; rank += COMMIT_THREADS) {
        if (!passes(rule, rank + 1, shared.tested[rank])) {
            first_failing = rank < first_failing ? rank : first_failing;
        }
    }
    const int passing = block_min<COMMIT_THREADS>(first_failing, shared.ints);
    // As published, the last candidate is committed also if it is the only one that fails.
    return rule.cut == CUT_FACTOR_AS_PUBLISHED && passing + 1 == n ? n : passing;
}

// Sum over the threads.
__device__ __forceinline__ int block_count(int own, BlockScratch<int>& scratch) {
    return block_reduce<COMMIT_THREADS>(own, 0, scratch, [](int a, int b) { return a + b; });
}

__device__ __forceinline__ void commit(int64_t* cells, int32_t* chosen, int32_t* committed, int32_t* masks_left,
                                       const Candidates& candidates, const int32_t* floors, const double* progress,
                                       int64_t mask_id, const Rule& rule) {
    DLLM_SHARED(CommitShared, shared);
    const Predictions& made = candidates.predictions;
    const int row = blockIdx.x, t = threadIdx.x;
    const int first = candidates.site_start[row], count = candidates.site_start[row + 1] - first;

    int own = 0, own_unusable = 0;
    for (int i = t; i < count; i += COMMIT_THREADS) {
        const int site = first + i;
        const bool is_candidate = cells[candidates.cell[site]] == mask_id;
        shared.is_candidate[i] = is_candidate;
        own += is_candidate;
        own_unusable += is_candidate && made.status(site) != 0;
        shared.keys[i] = is_candidate ? key_of(candidates, site, rule, progress[row]) : 0.0;
    }
    const int n = block_count(own, shared.ints);
    if (block_count(own_unusable, shared.ints) > 0) {
        // The host raises the error when it reads the status; until then nothing is decided.
        if (t == 0) {
            committed[row] = -1;
            masks_left[row] = n;
        }
        return;
    }

    for (int i = t; i < count; i += COMMIT_THREADS) {
        if (!shared.is_candidate[i]) {
            continue;
        }
        const double key = shared.keys[i];
        int rank = 0;
        for (int j = 0; j < count; ++j) {
            const double other = shared.keys[j];
            rank += shared.is_candidate[j] && (other > key || (other == key && j < i));
        }
        const int site = first + i;
        shared.ranked[rank] = uint16_t(i);
        shared.tested[rank] = rule.cut == CUT_ENTROPY_BOUND                 ? made.entropy(site)
                              : rule.order == ORDER_SAMPLED_CONFIDENCE ? made.probability(site)
                                                                       : made.top1(site);
    }
    __syncthreads();

    const int passing = rule.cut == CUT_COUNT ? 0 : longest_prefix(rule, n, shared);
    const int floor = floors[row] < n ? floors[row] : n;
    const int length_of_prefix = passing > floor ? passing : floor;
    for (int rank = t; rank < length_of_prefix; rank += COMMIT_THREADS) {
        const int site = first + shared.ranked[rank];
        cells[candidates.cell[site]] = made.token(site);
        chosen[first + rank] = site;
    }
    if (t == 0) {
        committed[row] = length_of_prefix;
        masks_left[row] = n - length_of_prefix;
    }
}

}  // namespace dllm

// `chosen` [sites]: the sites that a row commits, best first, from site_start[row] on; `committed` [rows]: their number, -1
// for a row with a site that has no statistics; `masks_left` [rows]: candidates that stay masked.
extern "C" __global__ void __launch_bounds__(dllm::COMMIT_THREADS) dllm_commit(
    const uint8_t* __restrict__ sites, uint8_t* __restrict__ predictions, const int32_t* __restrict__ site_start,
    const int32_t* __restrict__ cell, const int32_t* __restrict__ floors, const double* __restrict__ progress, int64_t* cells,
    int32_t* chosen, int32_t* committed, int32_t* masks_left, int count, int64_t mask_id, int order, int cut, double bound,
    double order_temperature, int is_annealed) {
    dllm::wait_for_kernels_before();
    dllm::let_kernels_after_begin();
    dllm::commit(cells, chosen, committed, masks_left,
                 {site_start, cell, {sites, count}, {predictions, count}}, floors, progress, mask_id,
                 {order, cut, bound, order_temperature, is_annealed != 0});
}
DLLM_EXPORT(dllm_commit)
