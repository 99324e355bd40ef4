// Hazards in shared memory: two threads reach the same byte, one of them writes, and neither waits for the other between.
//
// Linked into libraries whose kernels are compiled with -fsanitize=thread (build.watched). The compiler then calls the functions
// below at every access; what they do is not ThreadSanitizer's, which knows no fibers, no barriers of blocks and no warps. Two
// accesses are in order if a __syncthreads lies between them or, in one warp, a __syncwarp. Other warp operations keep no
// memory in order. So a hazard shows in any order of the threads, also where the numbers come out right.
#include <cstdio>

#include "emulator.h"

namespace emu {
namespace {

constexpr int NOBODY = -1, SEVERAL = -2;

// The accesses to one byte since the last barrier of the block, as far as later ones can clash with them.
struct Byte {
    uint64_t barrier = 0;
    int writer = NOBODY;  // the last; SEVERAL that added atomically
    unsigned writer_syncs = 0;
    bool is_atomic = false;
    int reader = NOBODY;  // in the warp that read last; SEVERAL lanes of it since its last __syncwarp
    int reader_warp = NOBODY;
    unsigned reader_syncs = 0;
    bool other_warps_read = false;
};

std::vector<Byte> bytes_of_block;

bool clashes_with_writer(const Byte& byte, int thread, unsigned syncs) {
    if (byte.writer == NOBODY || byte.writer == thread) {
        return false;
    }
    return byte.writer == SEVERAL || byte.writer / WARP != thread / WARP || byte.writer_syncs == syncs;
}

bool clashes_with_reader(const Byte& byte, int thread, unsigned syncs) {
    if (byte.reader_warp == NOBODY) {
        return false;
    }
    return byte.other_warps_read || byte.reader_warp != thread / WARP || (byte.reader_syncs == syncs && byte.reader != thread);
}

[[noreturn]] void report(const char* what, size_t offset, int thread, int other) {
    char text[160];
    const char* whom = other == SEVERAL ? "several threads" : "thread";
    std::snprintf(text, sizeof text, "%s byte %zu of shared memory without waiting for %s %d (it is thread %d)", what, offset,
                  whom, other, thread);
    fail(text);
}

void see(Byte& byte, size_t offset, Access access) {
    const int thread = int(current->linear), warp = thread / WARP;
    const unsigned syncs = current->warp->syncs;
    if (byte.barrier != barriers_passed) {
        byte = {};
        byte.barrier = barriers_passed;
    }
    const bool both_add = access == Access::atomic && byte.is_atomic;
    if (!both_add && clashes_with_writer(byte, thread, syncs)) {
        report(access == Access::read ? "reads" : "writes over", offset, thread, byte.writer);
    }
    if (access == Access::read) {
        byte.other_warps_read |= byte.reader_warp != NOBODY && byte.reader_warp != warp;
        const bool joins = byte.reader_warp == warp && byte.reader_syncs == syncs && byte.reader != thread;
        byte.reader = joins ? SEVERAL : thread;
        byte.reader_warp = warp;
        byte.reader_syncs = syncs;
        return;
    }
    if (clashes_with_reader(byte, thread, syncs)) {
        report("writes what is read:", offset, thread, byte.reader);
    }
    byte.writer = both_add && byte.writer != thread ? SEVERAL : thread;
    byte.writer_syncs = syncs;
    byte.is_atomic = access == Access::atomic;
}

void watch_shared(const void* address, size_t bytes, Access access) {
    const SharedRange shared = shared_range();
    const char* at = static_cast<const char*>(address);
    if (current == nullptr || shared.begin == nullptr || at < shared.begin || at >= shared.begin + shared.bytes) {
        return;
    }
    bytes_of_block.resize(shared.bytes);
    const size_t offset = size_t(at - shared.begin);
    for (size_t i = offset; i < offset + bytes && i < shared.bytes; ++i) {
        see(bytes_of_block[i], i, access);
    }
}

const bool is_watching = (watch = watch_shared, true);

}  // namespace
}  // namespace emu

#define ACCESS(SIZE)                                                                                                   \
    void __tsan_read##SIZE(void* address) { emu::watch_shared(address, SIZE, emu::Access::read); }                     \
    void __tsan_write##SIZE(void* address) { emu::watch_shared(address, SIZE, emu::Access::write); }                   \
    void __tsan_unaligned_read##SIZE(void* address) { emu::watch_shared(address, SIZE, emu::Access::read); }           \
    void __tsan_unaligned_write##SIZE(void* address) { emu::watch_shared(address, SIZE, emu::Access::write); }

extern "C" {
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void* address, size_t bytes) { emu::watch_shared(address, bytes, emu::Access::read); }
void __tsan_write_range(void* address, size_t bytes) { emu::watch_shared(address, bytes, emu::Access::write); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
