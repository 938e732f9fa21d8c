// Rows picked out of a matrix and put into one, or scaled and shifted, a block a row; sums, and elements in another type,
// a thread eight.

#include "eight.cuh"

__device__ __forceinline__ void copy_row(const __nv_bfloat16* from, int d, __nv_bfloat16* to) {
    for (int i = 8 * threadIdx.x; i < d; i += 8 * blockDim.x) store_packed(to + i, d - i, load_packed(from + i, d - i));
}

// `width` columns of a matrix to those of another, whose rows lie `from_stride` and `to_stride` elements apart.
extern "C" __global__ void copy_columns(const __nv_bfloat16* from, long from_stride, int width, __nv_bfloat16* to,
                                        long to_stride) {
    copy_row(from + blockIdx.x * from_stride, width, to + blockIdx.x * to_stride);
}

// out [L, D] = the rows `ids` of table [V, D].
extern "C" __global__ void gather_rows(const __nv_bfloat16* table, const unsigned* ids, int d, __nv_bfloat16* out) {
    copy_row(table + ids[blockIdx.x] * long(d), d, out + blockIdx.x * long(d));
}

// The rows `ids` of out [M, D], each named once, become those of rows [L, D].
extern "C" __global__ void scatter_rows(const __nv_bfloat16* rows, const unsigned* ids, int d, __nv_bfloat16* out) {
    copy_row(rows + blockIdx.x * long(d), d, out + ids[blockIdx.x] * long(d));
}

// y = scale x + bias of rows of `d` elements; bias may be null. Rounded once.
extern "C" __global__ void affine(const __nv_bfloat16* x, const __nv_bfloat16* bias, int d, float scale,
                                  __nv_bfloat16* y) {
    const long start = blockIdx.x * long(d);
    // Nothing is there of a bias that is null.
    const int biased = bias == nullptr ? 0 : d;
    for (int i = 8 * threadIdx.x; i < d; i += 8 * blockDim.x) {
        const Eight own = load_eight(x + start + i, d - i), shift = load_eight(bias + i, biased - i);
        Eight out;
        for (int j = 0; j < 8; ++j) out.v[j] = fmaf(scale, own.v[j], shift.v[j]);
        store_eight(y + start + i, d - i, out);
    }
}

__device__ __forceinline__ float as_number(float value) { return value; }
__device__ __forceinline__ float as_number(__nv_bfloat16 value) { return __bfloat162float(value); }

// out [M, W] = the columns of a [M, K], those of b [M, R] times `scale`, and zeros, a block a row.
template <typename T>
__device__ void join_columns(const __nv_bfloat16* a, int k, const T* b, int r, float scale, int w,
                             __nv_bfloat16* out) {
    const long row = blockIdx.x;
    out += row * w;
    copy_row(a + row * k, k, out);
    for (int i = threadIdx.x; i < w - k; i += blockDim.x) {
        out[k + i] = __float2bfloat16(i < r ? scale * as_number(b[row * r + i]) : 0.0f);
    }
}

extern "C" __global__ void join_columns_bf16(const __nv_bfloat16* a, int k, const __nv_bfloat16* b, int r, float scale,
                                             int w, __nv_bfloat16* out) {
    join_columns(a, k, b, r, scale, w, out);
}

extern "C" __global__ void join_columns_f32(const __nv_bfloat16* a, int k, const float* b, int r, float scale, int w,
                                            __nv_bfloat16* out) {
    join_columns(a, k, b, r, scale, w, out);
}

__device__ __forceinline__ long first_of_eight() { return 8 * (long(blockIdx.x) * blockDim.x + threadIdx.x); }

extern "C" __global__ void to_bf16(const float* x, long n, __nv_bfloat16* y) {
    const long i = first_of_eight();
    if (i < n) store_eight(y + i, n - i, load_eight(x + i, n - i));
}

template <typename T>
__device__ void add(const T* a, const T* b, long n, T* sum) {
    const long i = first_of_eight();
    if (i >= n) return;
    const Eight one = load_eight(a + i, n - i), two = load_eight(b + i, n - i);
    Eight out;
    for (int j = 0; j < 8; ++j) out.v[j] = one.v[j] + two.v[j];
    store_eight(sum + i, n - i, out);
}

extern "C" __global__ void add_f32(const float* a, const float* b, long n, float* sum) { add(a, b, n, sum); }

extern "C" __global__ void add_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, long n, __nv_bfloat16* sum) {
    add(a, b, n, sum);
}
