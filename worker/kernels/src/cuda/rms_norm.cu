// Root-mean-square norm, a block a row: y = x rho w with rho = 1 / sqrt(mean(x^2) + eps), and its gradient.
//
// Rows are read twice, the second time out of the cache.

#include "block.cuh"
#include "eight.cuh"

// x [M, D], w [D] to y [M, D] and rho [M]; x rho is rounded before w is multiplied, as in Hugging Face's models.
extern "C" __global__ void rms_norm_forward(const __nv_bfloat16* x, const __nv_bfloat16* w, int d, float epsilon,
                                            __nv_bfloat16* y, float* rho) {
    const __nv_bfloat16* row = x + long(blockIdx.x) * d;
    float sum = 0.0f;
    for (int i = 8 * threadIdx.x; i < d; i += 8 * blockDim.x) {
        const Eight values = load_eight(row + i, d - i);
        for (int j = 0; j < 8; ++j) sum += values.v[j] * values.v[j];
    }
    const float scale = 1.0f / sqrtf(block_reduce(sum, Sum()) / d + epsilon);
    for (int i = 8 * threadIdx.x; i < d; i += 8 * blockDim.x) {
        const Eight values = load_eight(row + i, d - i), weights = load_eight(w + i, d - i);
        Eight out;
        for (int j = 0; j < 8; ++j) {
            out.v[j] = __bfloat162float(__float2bfloat16(values.v[j] * scale)) * weights.v[j];
        }
        store_eight(y + long(blockIdx.x) * d + i, d - i, out);
    }
    if (threadIdx.x == 0) rho[blockIdx.x] = scale;
}

// dx = base + rho (t - x rho^2 mean(t x)) with t = dy w; base may be null.
extern "C" __global__ void rms_norm_backward(const __nv_bfloat16* dy, const __nv_bfloat16* x, const __nv_bfloat16* w,
                                             const float* rho, const __nv_bfloat16* base, int d, __nv_bfloat16* dx) {
    const long start = long(blockIdx.x) * d;
    float sum = 0.0f;
    for (int i = 8 * threadIdx.x; i < d; i += 8 * blockDim.x) {
        const Eight gradient = load_eight(dy + start + i, d - i), weights = load_eight(w + i, d - i);
        const Eight values = load_eight(x + start + i, d - i);
        for (int j = 0; j < 8; ++j) sum += gradient.v[j] * weights.v[j] * values.v[j];
    }
    const float scale = rho[blockIdx.x];
    const float pull = scale * scale * (block_reduce(sum, Sum()) / d);
    for (int i = 8 * threadIdx.x; i < d; i += 8 * blockDim.x) {
        const Eight gradient = load_eight(dy + start + i, d - i), weights = load_eight(w + i, d - i);
        const Eight values = load_eight(x + start + i, d - i);
        Eight out = {};
        if (base != nullptr) out = load_eight(base + start + i, d - i);
        for (int j = 0; j < 8; ++j) out.v[j] += scale * (gradient.v[j] * weights.v[j] - values.v[j] * pull);
        store_eight(dx + start + i, d - i, out);
    }
}
