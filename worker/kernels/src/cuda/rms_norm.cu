// Root-mean-square norm, a block a row: y = x rho w with rho = 1 / sqrt(mean(x^2) + eps), and its gradient.
//
// Rows are read twice, the second time out of the cache.

#include <cuda_bf16.h>

#include "block.cuh"

// x [M, D], w [D] to y [M, D] and rho [M]; x rho is rounded before w is multiplied, as in Hugging Face's models.
extern "C" __global__ void rms_norm_forward(const __nv_bfloat16* x, const __nv_bfloat16* w, int d, float epsilon,
                                            __nv_bfloat16* y, float* rho) {
    const __nv_bfloat16* row = x + long(blockIdx.x) * d;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < d; i += blockDim.x) sum += __bfloat162float(row[i]) * __bfloat162float(row[i]);
    const float scale = 1.0f / sqrtf(block_reduce(sum, Sum()) / d + epsilon);
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        const float normal = __bfloat162float(__float2bfloat16(__bfloat162float(row[i]) * scale));
        y[long(blockIdx.x) * d + i] = __float2bfloat16(normal * __bfloat162float(w[i]));
    }
    if (threadIdx.x == 0) rho[blockIdx.x] = scale;
}

// dx = base + rho (t - x rho^2 mean(t x)) with t = dy w; base may be null.
extern "C" __global__ void rms_norm_backward(const __nv_bfloat16* dy, const __nv_bfloat16* x, const __nv_bfloat16* w,
                                             const float* rho, const __nv_bfloat16* base, int d, __nv_bfloat16* dx) {
    const long start = long(blockIdx.x) * d;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        sum += __bfloat162float(dy[start + i]) * __bfloat162float(w[i]) * __bfloat162float(x[start + i]);
    }
    const float scale = rho[blockIdx.x];
    const float pull = scale * scale * (block_reduce(sum, Sum()) / d);
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        const float t = __bfloat162float(dy[start + i]) * __bfloat162float(w[i]);
        float value = scale * (t - __bfloat162float(x[start + i]) * pull);
        if (base != nullptr) value += __bfloat162float(base[start + i]);
        dx[start + i] = __float2bfloat16(value);
    }
}
