// Runs the threads of a block as fibers, in an order that the caller chooses.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>

#include "emulator.h"

#if !defined(__x86_64__)
#error "the switch of fibers is written for x86-64 only"
#endif

namespace emu {

Fiber* current;
Index block_index, block_size, grid_size;
size_t dynamic_shared_bytes;
void (*watch)(const void*, size_t, Access);
uint64_t barriers_passed;

namespace {

constexpr size_t STACK_BYTES = 128 * 1024;
constexpr unsigned MOST_THREADS = 1024;

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    unsigned at_barrier = 0;
    void* shared = nullptr;
    size_t shared_bytes = 0;
};

Block* block;
void (*kernel)(Arguments);
Arguments arguments;
void* scheduler_stack_pointer;
std::string failure;
// A copy beside the program may arrive at any time from its request to the wait for its group. Half of the orders let all
// of them arrive at once, the other half at the wait.
bool copies_arrive_at_once;

void carry_out(const AsyncCopy& copy) {
    if (watch != nullptr) {
        watch(copy.destination, copy.bytes, Access::write);
    }
    if (copy.is_zero_fill) {
        std::memset(copy.destination, 0, copy.bytes);
    } else {
        std::memcpy(copy.destination, copy.source, copy.bytes);
    }
}

// Saves the registers that a function must keep, then goes on where `to` was saved.
extern "C" void emu_switch(void** save_to, void* to);
asm(R"(
.text
.globl emu_switch
.type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch, .-emu_switch
)");

void back_to_scheduler() { emu_switch(&current->stack_pointer, scheduler_stack_pointer); }

void run_fiber() {
    kernel(arguments);
    current->is_done = true;
    back_to_scheduler();
    std::abort();  // a fiber that is done is never resumed
}

// Lets the fiber begin at `run_fiber` when it is switched to.
void prepare(Fiber& fiber) {
    fiber.waits_at = nullptr;
    fiber.is_done = false;
    fiber.copies.clear();
    fiber.groups.clear();
    void** top = reinterpret_cast<void**>(fiber.stack + STACK_BYTES);
    *--top = nullptr;  // keeps the alignment that a called function expects
    *--top = reinterpret_cast<void*>(run_fiber);
    for (int saved_register = 0; saved_register < 6; ++saved_register) {
        *--top = nullptr;
    }
    fiber.stack_pointer = top;
}

// The stacks of a launch, one stretch of memory; the lowest page of each faults. They go with the launch: a guarded stack is two
// mappings of a process, which may have some 65,000, and every library of kernels has stacks of its own.
class Stacks {
public:
    explicit Stacks(size_t threads) : bytes_(STACK_BYTES * threads) {
        void* mapped = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) {
            std::abort();
        }
        memory_ = static_cast<char*>(mapped);
        for (size_t i = 0; i < threads; ++i) {
            if (mprotect(of(i), size_t(sysconf(_SC_PAGESIZE)), PROT_NONE) != 0) {
                std::abort();
            }
        }
    }
    Stacks(const Stacks&) = delete;
    ~Stacks() { munmap(memory_, bytes_); }
    char* of(size_t thread) const { return memory_ + thread * STACK_BYTES; }

private:
    size_t bytes_;
    char* memory_;
};

// In which order threads go on, by the number that the launch was given: 0 rising, 1 falling, above shuffled anew in each
// round. The orders 2, 3, 6, 7, ... are unfair as well: a warp runs on alone until it waits for the block.
class ThreadOrder {
  public:
    ThreadOrder(size_t threads, unsigned order) : order_(order), state_(order), warps_(threads / WARP), lanes_(WARP) {
        std::iota(warps_.begin(), warps_.end(), 0);
        std::iota(lanes_.begin(), lanes_.end(), 0);
        if (order == 1) {
            std::reverse(warps_.begin(), warps_.end());
            std::reverse(lanes_.begin(), lanes_.end());
        }
    }

    bool is_unfair() const { return order_ % 4 >= 2; }
    const std::vector<unsigned>& warps() { return shuffled(warps_); }
    const std::vector<unsigned>& lanes() { return shuffled(lanes_); }

  private:
    const std::vector<unsigned>& shuffled(std::vector<unsigned>& sequence) {
        for (size_t i = sequence.size() - 1; order_ > 1 && i > 0; --i) {
            state_ = state_ * 1664525u + 1013904223u;
            std::swap(sequence[i], sequence[(state_ >> 8) % (i + 1)]);
        }
        return sequence;
    }

    unsigned order_, state_;
    std::vector<unsigned> warps_, lanes_;
};

std::string where(const Fiber& fiber) {
    char text[96];
    std::snprintf(text, sizeof text, "block (%u, %u, %u), thread (%u, %u, %u)", block_index.x, block_index.y,
                  block_index.z, fiber.thread.x, fiber.thread.y, fiber.thread.z);
    return text;
}

// Nobody can run, somebody is not done.
std::string describe_deadlock() {
    const auto waits = [](const Fiber& fiber) { return !fiber.is_done; };
    const auto first = std::find_if(block->fibers.begin(), block->fibers.end(), waits);
    const auto waiting = std::count_if(block->fibers.begin(), block->fibers.end(), waits);
    return "threads wait for others that never come: " + std::to_string(waiting) + " of " +
           std::to_string(block->fibers.size()) + " wait, the first at " + first->waits_at + " in " + where(*first);
}

// Lets each lane of a warp that can run go on until it waits. Was there one? Counts those that are done.
bool run_warp(unsigned warp, ThreadOrder& order, size_t& done) {
    bool has_run = false;
    for (unsigned lane : order.lanes()) {
        Fiber& fiber = block->fibers[warp * WARP + lane];
        if (fiber.is_done || fiber.waits_at != nullptr || !failure.empty()) {
            continue;
        }
        has_run = true;
        current = &fiber;
        emu_switch(&scheduler_stack_pointer, fiber.stack_pointer);
        done += fiber.is_done;
    }
    return has_run;
}

void run_block(ThreadOrder& order) {
    for (Fiber& fiber : block->fibers) {
        prepare(fiber);
    }
    for (Warp& warp : block->warps) {
        warp.arrived = 0;
    }
    block->at_barrier = 0;
    ++barriers_passed;
    size_t done = 0;
    while (done < block->fibers.size() && failure.empty()) {
        bool has_run = false;
        for (unsigned warp : order.warps()) {
            bool goes_on = true;
            while (goes_on && failure.empty()) {
                goes_on = run_warp(warp, order, done);
                has_run |= goes_on;
                goes_on &= order.is_unfair();
            }
        }
        if (!has_run && failure.empty()) {
            failure = describe_deadlock();
        }
    }
    for (const Fiber& fiber : block->fibers) {
        if (failure.empty() && !fiber.copies.empty()) {
            failure = "asynchronous copies that nobody waited for in " + where(fiber);
        }
    }
}

void wait(const char* at) {
    current->waits_at = at;
    back_to_scheduler();
}

}  // namespace

void fail(const char* what) {
    failure = std::string(what) + " in " + where(*current);
    back_to_scheduler();
    std::abort();  // the launch has ended
}

void wait_for_block() {
    if (++block->at_barrier < block->fibers.size()) {
        return wait("__syncthreads");
    }
    block->at_barrier = 0;
    ++barriers_passed;
    for (Fiber& fiber : block->fibers) {
        fiber.waits_at = nullptr;
    }
}

void wait_for_warp(const char* operation, void (*finish)(Warp&)) {
    Warp& warp = *current->warp;
    if (warp.arrived > 0 && std::strcmp(warp.operation, operation) != 0) {
        fail((std::string("the lanes of a warp meet at different operations, ") + warp.operation + " and " + operation)
                 .c_str());
    }
    warp.operation = operation;
    if (++warp.arrived < WARP) {
        return wait(operation);
    }
    finish(warp);
    warp.arrived = 0;
    warp.syncs += std::strcmp(operation, "__syncwarp") == 0;
    const size_t first = size_t(&warp - block->warps.data()) * WARP;
    for (size_t i = first; i < first + WARP; ++i) {
        block->fibers[i].waits_at = nullptr;
    }
}

void async_copy(void* destination, const void* source, size_t bytes, bool is_zero_fill) {
    if (reinterpret_cast<uintptr_t>(destination) % bytes != 0) {
        fail("an asynchronous copy to an address that is not a multiple of its size");
    }
    if (!is_zero_fill && reinterpret_cast<uintptr_t>(source) % bytes != 0) {
        fail("an asynchronous copy from an address that is not a multiple of its size");
    }
    if (watch != nullptr) {
        watch(destination, bytes, Access::write);  // from now on until it has been waited for
    }
    current->copies.push_back({destination, source, bytes, is_zero_fill});
    if (copies_arrive_at_once) {
        carry_out(current->copies.back());
    }
}

void async_copy_close_group() { current->groups.push_back(current->copies.size()); }

void async_copy_wait(size_t open_groups) {
    auto& copies = current->copies;
    auto& groups = current->groups;
    if (groups.size() <= open_groups) {
        return;
    }
    const size_t finished = groups.size() - open_groups;
    const size_t done = groups[finished - 1];
    for (size_t i = 0; i < done; ++i) {
        if (!copies_arrive_at_once) {
            carry_out(copies[i]);
        } else if (watch != nullptr) {
            watch(copies[i].destination, copies[i].bytes, Access::write);  // no later than now
        }
    }
    copies.erase(copies.begin(), copies.begin() + std::ptrdiff_t(done));
    groups.erase(groups.begin(), groups.begin() + std::ptrdiff_t(finished));
    for (size_t& group : groups) {
        group -= done;
    }
}

SharedRange shared_range() { return {static_cast<const char*>(block->shared), block->shared_bytes}; }

void* shared_arena(size_t bytes, size_t alignment) {
    if (block->shared == nullptr) {
        if (posix_memalign(&block->shared, std::max<size_t>(alignment, 128), bytes) != 0) {
            std::abort();
        }
        block->shared_bytes = bytes;
        std::memset(block->shared, 0xff, bytes);
    }
    if (block->shared_bytes != bytes) {
        fail("a second shared memory of another size: a kernel declares one struct");
    }
    return block->shared;
}

int launch(void (*entry)(Arguments), Arguments given, const unsigned* grid, const unsigned* size, size_t shared_bytes,
           unsigned order, char* error, size_t error_bytes) {
    const size_t threads = size_t(size[0]) * size[1] * size[2];
    failure.clear();
    if (threads == 0 || threads > MOST_THREADS || threads % WARP != 0) {
        failure = "a block must have whole warps and at most 1024 threads";
    }
    kernel = entry;
    arguments = given;
    dynamic_shared_bytes = shared_bytes;
    copies_arrive_at_once = order % 2 == 1;
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {size[0], size[1], size[2]};
    Block own;
    block = &own;
    own.fibers.resize(threads);
    own.warps.resize(threads / WARP);
    const Stacks stacks(failure.empty() ? threads : 1);
    for (size_t i = 0; i < threads && failure.empty(); ++i) {
        Fiber& fiber = own.fibers[i];
        fiber.thread = {unsigned(i % size[0]), unsigned(i / size[0] % size[1]), unsigned(i / size[0] / size[1])};
        fiber.linear = unsigned(i);
        fiber.lane = unsigned(i % WARP);
        fiber.warp = &own.warps[i / WARP];
        fiber.stack = stacks.of(i);
    }
    ThreadOrder thread_order(threads, order);
    const size_t blocks = size_t(grid[0]) * grid[1] * grid[2];
    for (size_t i = 0; i < blocks && failure.empty(); ++i) {
        // Falling and shuffled orders also turn the blocks around.
        const size_t b = order == 0 ? i : blocks - 1 - i;
        block_index = {unsigned(b % grid[0]), unsigned(b / grid[0] % grid[1]), unsigned(b / grid[0] / grid[1])};
        run_block(thread_order);
        std::free(own.shared);
        own.shared = nullptr;
    }
    std::snprintf(error, error_bytes, "%s", failure.c_str());
    return failure.empty() ? 0 : 1;
}

}  // namespace emu
