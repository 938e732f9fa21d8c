// Reductions over the threads of a block, in a fixed order so that a step repeats. blockDim.x is a multiple of 32, and
// every thread takes part.
#pragma once

struct Sum {
    static constexpr float NOTHING = 0.0f;
    __device__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
    static constexpr float NOTHING = -INFINITY;
    __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Over `lanes` neighboring lanes, a power of two; all 32 of the warp take part.
template <typename Combine>
__device__ float warp_reduce(float value, Combine combine, int lanes = 32) {
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
        value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
    return value;
}

// The same value in every thread: all of `value` put together. A kernel calls it once at the most for each `Combine`,
// because nothing waits before the next call would write the same places.
template <typename Combine>
__device__ float block_reduce(float value, Combine combine) {
    __shared__ float parts[32];
    const unsigned warps = blockDim.x / 32, lane = threadIdx.x % 32;
    value = warp_reduce(value, combine);
    if (lane == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    return warp_reduce(lane < warps ? parts[lane] : Combine::NOTHING, combine);
}
