// Rows picked out of a matrix and put into one, and numbers in another type; a thread an element, or eight of them.

#include "eight.cuh"

// out [L, D] = the rows `ids` of table [V, D].
extern "C" __global__ void gather_rows(const __nv_bfloat16* table, const unsigned* ids, long n, int d,
                                       __nv_bfloat16* out) {
    const long i = long(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) out[i] = table[ids[i / d] * long(d) + i % d];
}

// The rows `ids` of out [M, D], each named once, become those of rows [L, D].
extern "C" __global__ void scatter_rows(const __nv_bfloat16* rows, const unsigned* ids, long n, int d,
                                        __nv_bfloat16* out) {
    const long i = long(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) out[ids[i / d] * long(d) + i % d] = rows[i];
}

extern "C" __global__ void to_bf16(const float* x, long n, __nv_bfloat16* y) {
    const long i = long(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) y[i] = __float2bfloat16(x[i]);
}

extern "C" __global__ void add_f32(const float* a, const float* b, long n, float* sum) {
    const long i = long(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) sum[i] = a[i] + b[i];
}

extern "C" __global__ void add_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, long n, __nv_bfloat16* sum) {
    const long i = 8 * (long(blockIdx.x) * blockDim.x + threadIdx.x);
    if (i >= n) return;
    const Eight one = load_eight(a + i, n - i), two = load_eight(b + i, n - i);
    Eight out;
    for (int j = 0; j < 8; ++j) out.v[j] = one.v[j] + two.v[j];
    store_eight(sum + i, n - i, out);
}
