// Root-mean-square norm, a block a row: y = x rstd w with rstd = 1 / sqrt(mean(x^2) + eps), and its gradient. With an offset
// 1 + w takes the place of w.
//
// A thread keeps 16 elements of every operand in registers, and all of them are on their way before the first is used:
// memory is read once, and the sum over the block delays no load. Only rows beyond 16 elements a thread are read again.

#include "block.cuh"
#include "eight.cuh"

constexpr int KEPT = 2;

// The first element of a thread's eight number k.
__device__ __forceinline__ int eight_of_row(int k) { return 8 * (k * int(blockDim.x) + int(threadIdx.x)); }

struct Kept {
    Packed eights[KEPT];
    __device__ Kept(const __nv_bfloat16* row, int d) {
#pragma unroll
        for (int k = 0; k < KEPT; ++k) eights[k] = load_packed(row + eight_of_row(k), d - eight_of_row(k));
    }
};

__device__ __forceinline__ float squares_of(const Eight& x) {
    float sum = 0.0f;
    for (int j = 0; j < 8; ++j) sum += x.v[j] * x.v[j];
    return sum;
}

// What the elements of a row are multiplied with.
template <bool offset>
__device__ __forceinline__ Eight factor_of(Eight w) {
    if (offset) {
        for (int j = 0; j < 8; ++j) w.v[j] += 1.0f;
    }
    return w;
}

// As in Hugging Face's models x rstd is rounded before w is multiplied, and nothing before 1 + w is.
template <bool offset>
__device__ __forceinline__ Eight normed(const Eight& x, const Eight& w, float rstd) {
    const Eight factor = factor_of<offset>(w);
    Eight y;
    for (int j = 0; j < 8; ++j) {
        const float normal = x.v[j] * rstd;
        y.v[j] = (offset ? normal : __bfloat162float(__float2bfloat16(normal))) * factor.v[j];
    }
    return y;
}

template <bool offset>
__device__ __forceinline__ void forward_row(const __nv_bfloat16* x, const __nv_bfloat16* w, int d, float epsilon,
                                            __nv_bfloat16* y, float* rstd) {
    const __nv_bfloat16* row = x + long(blockIdx.x) * d;
    __nv_bfloat16* out = y + long(blockIdx.x) * d;
    const int rest = eight_of_row(KEPT), step = 8 * int(blockDim.x);
    const Kept values(row, d), weights(w, d);
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < KEPT; ++k) sum += squares_of(unpacked(values.eights[k]));
    for (int i = rest; i < d; i += step) sum += squares_of(load_eight(row + i, d - i));
    const float scale = 1.0f / sqrtf(block_reduce(sum, Sum()) / d + epsilon);
#pragma unroll
    for (int k = 0; k < KEPT; ++k) {
        const int i = eight_of_row(k);
        store_eight(out + i, d - i, normed<offset>(unpacked(values.eights[k]), unpacked(weights.eights[k]), scale));
    }
    for (int i = rest; i < d; i += step) {
        store_eight(out + i, d - i, normed<offset>(load_eight(row + i, d - i), load_eight(w + i, d - i), scale));
    }
    if (threadIdx.x == 0) rstd[blockIdx.x] = scale;
}

// x [M, D], w [D] to y [M, D] and rstd [M].
extern "C" __global__ void __launch_bounds__(1024)
    rms_norm_forward(const __nv_bfloat16* x, const __nv_bfloat16* w, int d, float epsilon, __nv_bfloat16* y,
                     float* rstd) {
    forward_row<false>(x, w, d, epsilon, y, rstd);
}
extern "C" __global__ void __launch_bounds__(1024)
    rms_norm_forward_offset(const __nv_bfloat16* x, const __nv_bfloat16* w, int d, float epsilon, __nv_bfloat16* y,
                            float* rstd) {
    forward_row<true>(x, w, d, epsilon, y, rstd);
}

template <bool offset>
__device__ __forceinline__ float products_of(const Eight& dy, const Eight& w, const Eight& x) {
    const Eight factor = factor_of<offset>(w);
    float sum = 0.0f;
    for (int j = 0; j < 8; ++j) sum += dy.v[j] * factor.v[j] * x.v[j];
    return sum;
}

template <bool offset>
__device__ __forceinline__ Eight pulled(const Eight& dy, const Eight& w, const Eight& x, Eight base, float rstd,
                                        float pull) {
    const Eight factor = factor_of<offset>(w);
    for (int j = 0; j < 8; ++j) base.v[j] += rstd * (dy.v[j] * factor.v[j] - x.v[j] * pull);
    return base;
}

template <bool offset>
__device__ __forceinline__ void backward_row(const __nv_bfloat16* dy, const __nv_bfloat16* x, const __nv_bfloat16* w,
                                             const float* rstd, const __nv_bfloat16* base, int d, __nv_bfloat16* dx) {
    const long start = long(blockIdx.x) * d;
    const int rest = eight_of_row(KEPT), step = 8 * int(blockDim.x);
    dy += start, x += start, dx += start;
    // Nothing is there of a base that is null.
    const int based = base == nullptr ? 0 : d;
    if (base != nullptr) base += start;
    const Kept gradients(dy, d), values(x, d), bases(base, based), weights(w, d);
    const float scale = rstd[blockIdx.x];
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < KEPT; ++k) {
        sum += products_of<offset>(unpacked(gradients.eights[k]), unpacked(weights.eights[k]),
                                   unpacked(values.eights[k]));
    }
    for (int i = rest; i < d; i += step) {
        sum += products_of<offset>(load_eight(dy + i, d - i), load_eight(w + i, d - i), load_eight(x + i, d - i));
    }
    const float pull = scale * scale * (block_reduce(sum, Sum()) / d);
#pragma unroll
    for (int k = 0; k < KEPT; ++k) {
        const int i = eight_of_row(k);
        store_eight(dx + i, d - i,
                    pulled<offset>(unpacked(gradients.eights[k]), unpacked(weights.eights[k]),
                                   unpacked(values.eights[k]), unpacked(bases.eights[k]), scale, pull));
    }
    for (int i = rest; i < d; i += step) {
        store_eight(dx + i, d - i,
                    pulled<offset>(load_eight(dy + i, d - i), load_eight(w + i, d - i), load_eight(x + i, d - i),
                                   load_eight(base + i, based - i), scale, pull));
    }
}

// dx = base + rstd (t - x rstd^2 mean(t x)) with t = dy w; base may be null.
extern "C" __global__ void __launch_bounds__(1024)
    rms_norm_backward(const __nv_bfloat16* dy, const __nv_bfloat16* x, const __nv_bfloat16* w, const float* rstd,
                      const __nv_bfloat16* base, int d, __nv_bfloat16* dx) {
    backward_row<false>(dy, x, w, rstd, base, d, dx);
}
extern "C" __global__ void __launch_bounds__(1024)
    rms_norm_backward_offset(const __nv_bfloat16* dy, const __nv_bfloat16* x, const __nv_bfloat16* w, const float* rstd,
                             const __nv_bfloat16* base, int d, __nv_bfloat16* dx) {
    backward_row<true>(dy, x, w, rstd, base, d, dx);
}
