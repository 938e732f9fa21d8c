// Runs CUDA kernels on the CPU, so that their arithmetic is tested where no GPU is.
//
// The threads of a block are fibers. One runs until it waits for others of its block or warp; who is next is drawn at
// random, from `QLORA_EMULATED_SEED`: a warp goes a step or as far as it can, its lanes in any order, and blocks follow
// in any order too. What a missing barrier leaves to chance therefore differs from what the kernel should give. Shared
// memory is full of NaN when a block begins. What this does not show: speed, coalescing, bank conflicts, and blocks that
// run at the same time.
#pragma once

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define QLORA_EMULATED

using std::isfinite;
using std::max;
using std::min;

struct Index {
    unsigned x, y, z;
};
// Loads and stores of these types are as wide as their alignment; see `misaligned` in `kernels.cpp`.
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

inline thread_local Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

constexpr unsigned WARP = 32, MOST_THREADS = 1024, MOST_WARPS = MOST_THREADS / WARP;
constexpr size_t STACK = 64 << 10;
// Bytes of shared memory: of a block at the most, and without asking for more. Behind a block's own lie some that it must
// not write.
constexpr size_t SHARED = 227 << 10, SHARED_UNASKED = 48 << 10, SHARED_GUARD = 1 << 10;
// NaN in every floating-point type.
constexpr unsigned char POISON = 0xff;

// What is launched.
struct Launch {
    const char* name;
    Index grid;
    unsigned threads, shared;
};

// xorshift64*: the same numbers for a seed everywhere.
class Random {
    uint64_t state;

public:
    explicit Random(uint64_t seed) : state((seed + 1) * 0x9E3779B97F4A7C15ull) { next(), next(); }
    uint32_t next() {
        state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
        return uint32_t(state * 0x2545F4914F6CDD1Dull >> 32);
    }
    uint32_t below(uint32_t n) { return uint32_t(uint64_t(next()) * n >> 32); }
};

inline uint64_t seed() {
    static const uint64_t value = [] {
        const char* text = std::getenv("QLORA_EMULATED_SEED");
        return text == nullptr ? uint64_t(1) : uint64_t(std::strtoull(text, nullptr, 10));
    }();
    return value;
}

// A cp.async that is not over yet.
struct Copy {
    void* to;
    const void* from;
    bool there;
    unsigned group;
};

struct Fiber {
    jmp_buf state;
    ucontext_t start;
    std::unique_ptr<char[]> stack;
    bool begun = false;
    unsigned board = 0;
    // Copies on their way, and how many groups of them were ended.
    std::vector<Copy> copies;
    unsigned groups = 0;
};

// Lanes, a bit each. What they show each other is in turns on two boards, so that nothing is written over before all
// have read it, although each showing waits only once.
struct Warp {
    unsigned live = 0, ready = 0, at_warp = 0, at_block = 0;
    uint64_t boards[2][WARP][8];
};

// A variable in shared memory, and the block that it was last seen in.
struct Variable {
    char* at;
    size_t bytes;
    uint64_t block;
};

struct Block {
    std::vector<Fiber> fibers{MOST_THREADS};
    Warp warps[MOST_WARPS];
    unsigned live = 0, arrived = 0, current = 0;
    jmp_buf scheduler;
    const std::function<void()>* kernel = nullptr;
    Launch launch{};
    // Launches and blocks of this system's thread.
    uint64_t launches = 0, blocks = 0;
    std::vector<Variable> variables;
    size_t in_variables = 0;
    alignas(128) char shared[SHARED + SHARED_GUARD];
};

inline Block& block() {
    static thread_local std::unique_ptr<Block> one = std::make_unique<Block>();
    return *one;
}

inline Warp& warp() { return block().warps[block().current / WARP]; }
inline Fiber& fiber() { return block().fibers[block().current]; }
inline unsigned lane_bit() { return 1u << block().current % WARP; }

// A fault of the kernel that runs: says which and where, and ends the program.
[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
    char text[512];
    va_list more;
    va_start(more, format);
    std::vsnprintf(text, sizeof text, format, more);
    va_end(more);
    std::fprintf(stderr, "emulated GPU: kernel %s, block (%u, %u, %u), thread %u: %s\n", block().launch.name, blockIdx.x,
                 blockIdx.y, blockIdx.z, block().current, text);
    std::abort();
}

// Back to the scheduler until this fiber's turn comes again.
inline void yield() {
    Block& b = block();
    if (_setjmp(b.fibers[b.current].state) == 0) _longjmp(b.scheduler, 1);
}

// Threads that have returned are not waited for.
inline bool open_warp(Warp& w) {
    if (w.at_warp != w.live) return false;
    w.ready |= w.at_warp;
    w.at_warp = 0;
    return true;
}
inline bool open_block(Block& b) {
    if (b.arrived != b.live) return false;
    b.arrived = 0;
    for (Warp& w : b.warps) {
        w.ready |= w.at_block;
        w.at_block = 0;
    }
    return true;
}

inline void wait_for_warp() {
    Warp& w = warp();
    w.at_warp |= lane_bit();
    w.ready &= ~lane_bit();
    if (!open_warp(w)) yield();
}
inline void wait_for_block() {
    Block& b = block();
    Warp& w = warp();
    ++b.arrived;
    w.at_block |= lane_bit();
    w.ready &= ~lane_bit();
    if (!open_block(b)) yield();
}

// Runs one kernel after another: a fiber is made once.
inline void fiber_main() {
    for (;;) {
        Block& b = block();
        (*b.kernel)();
        Warp& w = warp();
        w.live &= ~lane_bit();
        w.ready &= ~lane_bit();
        --b.live;
        open_warp(w);
        open_block(b);
        yield();
    }
}

inline void resume(Block& b, unsigned thread) {
    Fiber& fiber = b.fibers[thread];
    b.current = thread;
    threadIdx = {thread, 0, 0};
    if (_setjmp(b.scheduler) != 0) return;
    if (fiber.begun) _longjmp(fiber.state, 1);
    fiber.begun = true;
    fiber.stack = std::make_unique<char[]>(STACK);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, fiber_main, 0);
    setcontext(&fiber.start);
}

// The lanes of a warp that need not wait, each once, in an order that is drawn anew.
inline void turn(Block& b, unsigned index, Random& random) {
    const Warp& w = b.warps[index];
    const uint32_t drawn = random.next();
    const unsigned step = drawn % WARP | 1, first = drawn >> 8, flipped = drawn >> 16 & (WARP - 1);
    for (unsigned i = 0; i < WARP; ++i) {
        const unsigned lane = (first + step * i) % WARP ^ flipped;
        if (w.ready >> lane & 1) resume(b, index * WARP + lane);
    }
}

inline void begin_block(Block& b) {
    const unsigned threads = b.launch.threads;
    std::memset(b.shared, POISON, b.launch.shared + SHARED_GUARD);
    ++b.blocks;
    b.in_variables = 0;
    b.live = threads;
    b.arrived = 0;
    for (unsigned w = 0; w * WARP < threads; ++w) {
        const unsigned lanes = std::min(threads - w * WARP, WARP);
        b.warps[w].live = b.warps[w].ready = lanes == WARP ? ~0u : (1u << lanes) - 1;
        b.warps[w].at_warp = b.warps[w].at_block = 0;
    }
    for (unsigned t = 0; t < threads; ++t) {
        b.fibers[t].board = b.fibers[t].groups = 0;
        b.fibers[t].copies.clear();
    }
}

inline void end_block(Block& b) {
    const char* guard = b.shared + b.launch.shared;
    for (size_t i = 0; i < SHARED_GUARD; ++i) {
        if (static_cast<unsigned char>(guard[i]) != POISON) {
            fail("byte %zu behind the %u of its shared memory was written", i, b.launch.shared);
        }
    }
}

inline void run_block(Block& b, Random& random) {
    begin_block(b);
    const unsigned warps = (b.launch.threads + WARP - 1) / WARP;
    while (b.live > 0) {
        unsigned able[MOST_WARPS], count = 0;
        for (unsigned w = 0; w < warps; ++w) {
            if (b.warps[w].ready != 0) able[count++] = w;
        }
        if (count == 0) fail("%u threads wait for others that wait elsewhere", b.live);
        const unsigned index = able[random.below(count)];
        // A warp may be far ahead of the others, or beside them.
        const bool as_far_as_it_can = random.below(2) != 0;
        do {
            turn(b, index, random);
        } while (as_far_as_it_can && b.warps[index].ready != 0);
    }
    end_block(b);
}

// Runs `kernel` once for every thread of a grid of blocks.
inline void launch(const Launch& what, const std::function<void()>& kernel) {
    Block& b = block();
    b.kernel = &kernel;
    b.launch = what;
    blockDim = {what.threads, 1, 1};
    gridDim = what.grid;
    Random random(seed() << 32 ^ b.launches++);
    const uint64_t total = uint64_t(what.grid.x) * what.grid.y * what.grid.z;
    uint64_t step = 1 + random.next() % total, at = random.next() % total;
    while (std::gcd(step, total) != 1) ++step;
    for (uint64_t i = 0; i < total; ++i, at = (at + step) % total) {
        blockIdx = {unsigned(at % what.grid.x), unsigned(at / what.grid.x % what.grid.y),
                    unsigned(at / what.grid.x / what.grid.y)};
        run_block(b, random);
    }
    b.kernel = nullptr;
}

// A thread comes by a variable in shared memory: nothing is in it when the block begins.
inline void in_shared(void* at, size_t bytes) {
    Block& b = block();
    auto found = std::find_if(b.variables.begin(), b.variables.end(), [&](const Variable& v) { return v.at == at; });
    if (found == b.variables.end()) found = b.variables.insert(found, {static_cast<char*>(at), bytes, 0});
    if (found->block == b.blocks) return;
    found->block = b.blocks;
    std::memset(at, POISON, bytes);
    b.in_variables += bytes;
    const size_t most = b.launch.shared > SHARED_UNASKED ? SHARED : SHARED_UNASKED;
    if (b.in_variables + b.launch.shared > most) {
        fail("%zu bytes of variables and %u of the launch are more than %zu of shared memory", b.in_variables,
             b.launch.shared, most);
    }
}

// A variable in shared memory, as `build.sh` rewrites it: one for each place in the source, of the thread that runs blocks.
// On the heap, because what a library keeps in static thread-local storage has to fit a few hundred bytes.
template <typename T, typename Place>
T& shared_variable(Place) {
    struct alignas(16) Held {
        T value;
    };
    static thread_local std::unique_ptr<Held> held = std::make_unique<Held>();
    in_shared(&held->value, sizeof(T));
    return held->value;
}

// Every lane shows `mine`, of at most eight words; gives what each of them showed.
template <typename T>
auto show(const T& mine) {
    static_assert(sizeof(T) <= sizeof(Warp::boards[0][0]));
    uint64_t(*board)[8] = warp().boards[fiber().board ^= 1];
    std::memcpy(board[block().current % WARP], &mine, sizeof mine);
    wait_for_warp();
    return [board](unsigned lane) {
        T theirs;
        std::memcpy(&theirs, board[lane], sizeof theirs);
        return theirs;
    };
}

inline void aligned(const void* at, size_t bytes, const char* what) {
    if (reinterpret_cast<uintptr_t>(at) % bytes == 0) return;
    fail("%s at %p, which is no multiple of %zu", what, at, bytes);
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait_for_block(); }
inline void __syncwarp(unsigned = ~0u) { emulator::wait_for_warp(); }
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulator::show(value)(threadIdx.x % emulator::WARP ^ mask);
}

// Never part of a fused operation, which the rest of a kernel may become.
[[gnu::noinline]] inline float __fadd_rn(float a, float b) { return a + b; }
[[gnu::noinline]] inline float __fmul_rn(float a, float b) { return a * b; }

// bf16 with the roundings of the device: to nearest, ties to even.
struct __nv_bfloat16 {
    uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 value) {
    const uint32_t wide = uint32_t(value.bits) << 16;
    float result;
    std::memcpy(&result, &wide, sizeof result);
    return result;
}
inline __nv_bfloat16 __float2bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (std::isnan(value)) return {0x7fff};
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
