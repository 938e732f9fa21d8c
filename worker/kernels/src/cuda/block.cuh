// Reductions over the threads of a block, in a fixed order so that a step repeats. blockDim.x is a power of two of at
// most 1024, and every thread takes part.
#pragma once

// The same value in every thread: all of `value` put together two by two.
template <typename Combine>
__device__ float block_reduce(float value, Combine combine) {
    __shared__ float parts[1024];
    parts[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) parts[threadIdx.x] = combine(parts[threadIdx.x], parts[threadIdx.x + half]);
        __syncthreads();
    }
    const float result = parts[0];
    __syncthreads();
    return result;
}

struct Sum {
    __device__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
    __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
