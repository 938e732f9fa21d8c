// Runs CUDA kernels on the processor, thread by thread, so that their arithmetic is tested where no GPU is.
//
// Blocks run one after the other, so that shared memory may be static; the threads of a block are threads of the
// system, and __syncthreads is a barrier of them. What it does not show: speed, coalescing, races between blocks.
#pragma once

#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __shared__ static

struct Index {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline thread_local Index threadIdx, blockIdx;
inline Index blockDim, gridDim;
inline std::barrier<>* all_threads = nullptr;
// What the threads of a block share is there once for the whole program.
inline std::mutex one_launch;

inline void __syncthreads() { all_threads->arrive_and_wait(); }

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

// Runs `kernel` once for every thread of `blocks` blocks of `threads` threads.
template <typename Kernel>
void launch(unsigned blocks, unsigned threads, Kernel kernel) {
    const std::lock_guard<std::mutex> held(one_launch);
    blockDim = {threads, 1, 1};
    gridDim = {blocks, 1, 1};
    for (unsigned block = 0; block < blocks; ++block) {
        std::barrier<> barrier(threads);
        all_threads = &barrier;
        std::vector<std::thread> running;
        for (unsigned thread = 0; thread < threads; ++thread) {
            running.emplace_back([&, thread] {
                threadIdx = {thread, 0, 0};
                blockIdx = {block, 0, 0};
                kernel();
                barrier.arrive_and_drop();
            });
        }
        for (auto& thread : running) thread.join();
    }
}
