// Runs CUDA kernels on the processor, so that their arithmetic is tested where no GPU is.
//
// Blocks run one after the other. The threads of a block are fibers that take turns: one runs until it waits for others
// of its block or warp. Shared memory is a static variable of the system's thread. What this does not show: speed,
// coalescing, races between blocks, and races within a block that no barrier separates.
#pragma once

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static thread_local
#define QLORA_EMULATED

using std::isfinite;
using std::max;
using std::min;

struct Index {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline thread_local Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

constexpr unsigned WARP = 32, MOST_THREADS = 1024;
constexpr size_t STACK = 64 << 10, SHARED = 228 << 10;

// Counts arrivals; whoever comes last lets all go on. Threads that have returned are not waited for.
struct Barrier {
    unsigned arrived = 0, generation = 0;
};

// What the lanes of a warp show each other: in turns on two boards, so that nothing is written over before all have
// read it, although each showing waits only once.
struct Warp {
    Barrier barrier;
    unsigned live = 0;
    uint64_t boards[2][WARP][8];
};

struct Fiber {
    jmp_buf state;
    ucontext_t start;
    std::unique_ptr<char[]> stack;
    bool begun = false, done = true;
    unsigned board = 0;
};

struct Block {
    std::vector<Fiber> fibers{MOST_THREADS};
    Warp warps[MOST_THREADS / WARP];
    Barrier barrier;
    unsigned live = 0, current = 0;
    jmp_buf scheduler;
    ucontext_t home;
    const std::function<void()>* kernel = nullptr;
    alignas(128) char shared[SHARED];
};

inline Block& block() {
    static thread_local std::unique_ptr<Block> one = std::make_unique<Block>();
    return *one;
}

inline Warp& warp() { return block().warps[block().current / WARP]; }

// Back to the scheduler until this fiber's turn comes again.
inline void yield() {
    Block& b = block();
    if (_setjmp(b.fibers[b.current].state) == 0) _longjmp(b.scheduler, 1);
}

inline void open_if_full(Barrier& barrier, unsigned live) {
    if (barrier.arrived < live || barrier.arrived == 0) return;
    barrier.arrived = 0;
    ++barrier.generation;
}

inline void wait(Barrier& barrier, const unsigned& live) {
    const unsigned generation = barrier.generation;
    ++barrier.arrived;
    open_if_full(barrier, live);
    while (barrier.generation == generation) yield();
}

// Runs one kernel after another: a fiber is made once.
inline void fiber_main() {
    for (;;) {
        Block& b = block();
        (*b.kernel)();
        Fiber& self = b.fibers[b.current];
        self.done = true;
        open_if_full(b.barrier, --b.live);
        open_if_full(warp().barrier, --warp().live);
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

inline void run_block(Block& b, unsigned threads) {
    // NaN in every element type: what is read before it is written shows.
    std::memset(b.shared, 0xff, SHARED);
    b.barrier = {};
    b.live = threads;
    for (unsigned w = 0; w * WARP < threads; ++w) {
        b.warps[w].barrier = {};
        b.warps[w].live = threads - w * WARP < WARP ? threads - w * WARP : WARP;
    }
    for (unsigned t = 0; t < threads; ++t) {
        b.fibers[t].done = false;
        b.fibers[t].board = 0;
    }
    while (b.live > 0) {
        for (unsigned t = 0; t < threads; ++t) {
            if (!b.fibers[t].done) resume(b, t);
        }
    }
}

// Runs `kernel` once for every thread of a grid of blocks.
inline void launch(Index grid, unsigned threads, const std::function<void()>& kernel) {
    if (threads > MOST_THREADS) std::abort();
    Block& b = block();
    b.kernel = &kernel;
    blockDim = {threads, 1, 1};
    gridDim = grid;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                run_block(b, threads);
            }
    b.kernel = nullptr;
}

// Every lane shows `mine`, of at most eight words; gives what each of them showed.
template <typename T>
auto show(const T& mine) {
    static_assert(sizeof(T) <= sizeof(Warp::boards[0][0]));
    Block& b = block();
    Warp& w = b.warps[b.current / WARP];
    Fiber& self = b.fibers[b.current];
    uint64_t(*board)[8] = w.boards[self.board ^= 1];
    std::memcpy(board[b.current % WARP], &mine, sizeof mine);
    wait(w.barrier, w.live);
    return [board](unsigned lane) {
        T theirs;
        std::memcpy(&theirs, board[lane], sizeof theirs);
        return theirs;
    };
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::block().barrier, emulator::block().live); }
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulator::show(value)(threadIdx.x % emulator::WARP ^ mask);
}

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
