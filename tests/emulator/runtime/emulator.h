// CUDA's words on the host: enough of them to compile the kernels of cuda/ with g++ and run them in tests.
//
// A thread of a block is a fiber (runtime.cpp). Fibers run one at a time and change places only where CUDA threads wait
// for each other: at a block barrier or at a warp operation. Blocks run one after the other. See tests/emulator/README.md
// for what this can show and what it cannot.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)

struct uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

namespace emu {

struct Index {
    unsigned x, y, z;
};

constexpr int WARP = 32;
constexpr size_t OPERAND_BYTES = 64;

// A warp waits here for its lanes: each puts down an operand, the last to come works out all results.
struct Warp {
    int arrived = 0;
    unsigned syncs = 0;  // __syncwarp that it has passed
    const char* operation = nullptr;
    alignas(16) unsigned char operands[WARP][OPERAND_BYTES];
    alignas(16) unsigned char results[WARP][OPERAND_BYTES];
};

// A copy from global to shared memory that has been asked for and not yet waited for.
struct AsyncCopy {
    void* destination;
    const void* source;
    size_t bytes;
    bool is_zero_fill;
};

struct Fiber {
    Index thread;
    unsigned linear, lane;
    Warp* warp;
    // What it waits at; null while it can run.
    const char* waits_at = nullptr;
    bool is_done = false;
    void* stack_pointer = nullptr;
    char* stack = nullptr;
    // `groups` holds how many copies had been asked for when each group was closed.
    std::vector<AsyncCopy> copies;
    std::vector<size_t> groups;
};

// The fiber that runs, and where its block lies.
extern Fiber* current;
extern Index block_index, block_size, grid_size;

// How shared memory is reached. Threads may add atomically to the same number beside each other.
enum class Access { read, write, atomic };

// Told of every access to memory, in libraries that watch for hazards (races.cpp); null in others.
extern void (*watch)(const void* address, size_t bytes, Access access);

// Barriers of blocks that have been passed, and blocks that have begun: what lies apart in this is in order.
extern uint64_t barriers_passed;

struct SharedRange {
    const char* begin;
    size_t bytes;
};

// The shared memory of the block that runs.
SharedRange shared_range();

// Stops the launch with a text.
[[noreturn]] void fail(const char* what);

// Waits until every thread of the block is here.
void wait_for_block();

// Lets every lane of the warp wait for the others. The last to come calls `finish`.
void wait_for_warp(const char* operation, void (*finish)(Warp&));

// Copies beside the program (cp.async): asked for, grouped, waited for. They arrive at the wait, or at once (runtime.cpp).
void async_copy(void* destination, const void* source, size_t bytes, bool is_zero_fill);
void async_copy_close_group();
void async_copy_wait(size_t open_groups);

// The block's shared memory, poisoned with NaN and large numbers when the block starts.
void* shared_arena(size_t bytes, size_t alignment);

template <typename T>
T& shared_memory() {
    static_assert(std::is_trivially_default_constructible_v<T>, "shared memory starts uninitialised");
    return *static_cast<T*>(shared_arena(sizeof(T), alignof(T)));
}

// The bytes of shared memory that the launch gives.
extern size_t dynamic_shared_bytes;

template <typename T>
T& dynamic_shared_memory() {
    static_assert(std::is_trivially_default_constructible_v<T>, "shared memory starts uninitialised");
    if (dynamic_shared_bytes < sizeof(T)) {
        fail("the launch gives less shared memory than the kernel uses");
    }
    return *static_cast<T*>(shared_arena(dynamic_shared_bytes, alignof(T)));
}

// One operation of a whole warp: every lane gives an operand, `combine` makes 32 results of 32 operands.
template <typename Result, typename Operand, void (*combine)(const Operand (&)[WARP], Result (&)[WARP])>
Result warp_operation(const char* name, const Operand& operand) {
    static_assert(sizeof(Operand) <= OPERAND_BYTES && sizeof(Result) <= OPERAND_BYTES);
    std::memcpy(current->warp->operands[current->lane], &operand, sizeof(Operand));
    wait_for_warp(name, [](Warp& warp) {
        Operand operands[WARP];
        Result results[WARP];
        for (int lane = 0; lane < WARP; ++lane) {
            std::memcpy(&operands[lane], warp.operands[lane], sizeof(Operand));
        }
        combine(operands, results);
        for (int lane = 0; lane < WARP; ++lane) {
            std::memcpy(warp.results[lane], &results[lane], sizeof(Result));
        }
    });
    Result result;
    std::memcpy(&result, current->warp->results[current->lane], sizeof(Result));
    return result;
}

inline void require_full(unsigned mask) {
    if (mask != 0xffffffffu) {
        fail("a warp operation of some lanes only: the kernels use full warps");
    }
}

template <typename T>
struct Shuffled {
    T value;
    int source;
};

template <typename T>
void take_from_source(const Shuffled<T> (&operands)[WARP], T (&results)[WARP]) {
    for (int lane = 0; lane < WARP; ++lane) {
        results[lane] = operands[operands[lane].source].value;
    }
}

template <typename T>
T shuffle(const char* name, unsigned mask, T value, int source) {
    require_full(mask);
    return warp_operation<T, Shuffled<T>, take_from_source<T>>(name, {value, source});
}

inline void gather_votes(const int (&votes)[WARP], unsigned (&results)[WARP]) {
    unsigned ballot = 0;
    for (int lane = 0; lane < WARP; ++lane) {
        ballot |= unsigned(votes[lane] != 0) << lane;
    }
    for (unsigned& result : results) {
        result = ballot;
    }
}

inline void nothing(const int (&)[WARP], int (&results)[WARP]) {
    for (int& result : results) {
        result = 0;
    }
}

// float16 bits as float32.
inline float half_to_float(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float sign = bits >> 15 ? -1.0f : 1.0f;
    if (exponent == 31) {
        return fraction == 0 ? sign * INFINITY : NAN;
    }
    return sign * (exponent == 0 ? std::ldexp(float(fraction), -24) : std::ldexp(float(1024 + fraction), exponent - 25));
}

// float32 as float16, to nearest, ties to even.
inline uint16_t float_to_half(float x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const float size = std::fabs(x);
    if (x != x) {
        return 0x7fff;
    }
    if (size >= 65520.0f) {
        return sign | 0x7c00;
    }
    // Multiples of 2^-24 below 2^-14, of 2^(exponent - 10) from there on; nearbyint rounds ties to even.
    int exponent = -14;
    if (size >= std::ldexp(1.0f, -14)) {
        std::frexp(size, &exponent);
        exponent -= 1;
    }
    const int fraction = int(std::nearbyint(std::ldexp(size, 10 - exponent)));
    return uint16_t(sign | (((exponent + 14) << 10) + fraction));
}

// float32 as bfloat16, to nearest, ties to even.
inline uint16_t float_to_bfloat(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (x != x) {
        return 0x7fff;
    }
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The matrix instructions, written from their definition (matrices.cpp); ptx.cuh says what they compute.
void load_matrices(uint32_t (&registers)[4], const void* row);
void load_matrices_transposed(uint32_t (&registers)[4], const void* row);
void multiply_add_bf16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void multiply_add_f16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

using Arguments = void**;

// Calls a kernel with arguments given by their addresses, as cuLaunchKernel takes them.
template <typename... Parameters, size_t... I>
void call(void (*kernel)(Parameters...), Arguments arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_cv_t<std::remove_reference_t<Parameters>>*>(arguments[I])...);
}

template <typename... Parameters>
void call(void (*kernel)(Parameters...), Arguments arguments) {
    call(kernel, arguments, std::index_sequence_for<Parameters...>{});
}

template <typename... Parameters>
constexpr int count_parameters(void (*)(Parameters...)) {
    return int(sizeof...(Parameters));
}

int launch(void (*kernel)(Arguments), Arguments arguments, const unsigned* grid, const unsigned* block,
           size_t shared_bytes, unsigned order, char* error, size_t error_bytes);

}  // namespace emu

// Makes `emulate_<kernel>`, which Python calls.
#define DLLM_EXPORT(kernel)                                                                                               \
    extern "C" int parameters_of_##kernel() { return emu::count_parameters(kernel); }                                     \
    extern "C" int emulate_##kernel(emu::Arguments arguments, const unsigned* grid, const unsigned* block,                \
                                    size_t shared_bytes, unsigned order, char* error, size_t error_bytes) {               \
        return emu::launch([](emu::Arguments given) { emu::call(kernel, given); }, arguments, grid, block, shared_bytes,  \
                           order, error, error_bytes);                                                                    \
    }

#define threadIdx (emu::current->thread)
#define blockIdx (emu::block_index)
#define blockDim (emu::block_size)
#define gridDim (emu::grid_size)

inline void __syncthreads() { emu::wait_for_block(); }

inline void __syncwarp(unsigned mask = 0xffffffffu) {
    emu::require_full(mask);
    emu::warp_operation<int, int, emu::nothing>("__syncwarp", 0);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
    return emu::shuffle("__shfl_sync", mask, value, lane & 31);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return emu::shuffle("__shfl_xor_sync", mask, value, int(emu::current->lane) ^ bits);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, int distance) {
    const int lane = int(emu::current->lane);
    return emu::shuffle("__shfl_up_sync", mask, value, lane >= distance ? lane - distance : lane);
}

inline unsigned __ballot_sync(unsigned mask, int vote) {
    emu::require_full(mask);
    return emu::warp_operation<unsigned, int, emu::gather_votes>("__ballot_sync", vote);
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

// Fibers and blocks run one at a time, so a plain addition is atomic. (Inlined it would be watched like any other access.)
template <typename T>
__attribute__((noinline, no_sanitize("thread"))) T atomicAdd(T* address, T value) {
    if (emu::watch != nullptr) {
        emu::watch(address, sizeof(T), emu::Access::atomic);
    }
    const T old = *address;
    *address = old + value;
    return old;
}

// The intrinsics with one correct rounding. The library is compiled without contraction.
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __double2float_rn(double x) { return float(x); }
inline double __ull2double_rn(uint64_t x) { return double(x); }

// What the hardware gives for NaN and for what does not fit.
inline uint64_t emulated_conversion(double x) {
    if (!(x < 18446744073709551616.0)) {
        return x != x ? 0x8000000000000000u : 0xffffffffffffffffu;
    }
    return x > 0 ? uint64_t(x) : 0;
}
inline uint64_t __double2ull_rn(double x) { return emulated_conversion(std::nearbyint(x)); }
inline uint64_t __float2ull_rn(float x) { return emulated_conversion(std::nearbyint(x)); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline uint64_t __double2ull_rz(double x) { return emulated_conversion(x); }

template <typename To, typename From>
To emulated_bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}
inline float __uint_as_float(uint32_t bits) { return emulated_bit_cast<float>(bits); }
inline uint32_t __float_as_uint(float x) { return emulated_bit_cast<uint32_t>(x); }
inline double __longlong_as_double(long long bits) { return emulated_bit_cast<double>(bits); }
inline long long __double_as_longlong(double x) { return emulated_bit_cast<long long>(x); }
