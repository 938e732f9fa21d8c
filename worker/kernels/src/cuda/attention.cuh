// What the kernels of attention share: tiles of rows in shared memory, and products with them.
//
// Rows of a head lie E elements long in shared memory, with 8 more between them, so that the eight rows that an
// ldmatrix reads at once lie in different banks.
#pragma once

#include "tensor_core.cuh"

constexpr int WARPS = 4, THREADS = 32 * WARPS;
// Rows of the tile that a block owns: 16 a warp.
constexpr int OWN = 16 * WARPS;
constexpr float LOG2_E = 1.4426950408889634f;

// Queries of one sequence: rows [query, query + count) of q, keys from row `key` of k on, counted from there; the first
// query sees the keys below `end`, each later one a key more.
struct QueryTile {
    int query, count, key, end;
};

template <int E>
struct Tile {
    static constexpr int STRIDE = E + 8;
    static __device__ constexpr int elements(int rows) { return rows * STRIDE; }

    // Copies `count` of ROWS rows, `stride` elements apart in global memory; the rest are zeros.
    template <int ROWS>
    static __device__ __forceinline__ void copy(__nv_bfloat16* to, const __nv_bfloat16* from, long stride, int count) {
        constexpr int CHUNKS = E / 8;
        for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
            const int row = i / CHUNKS, chunk = i % CHUNKS;
            const bool there = row < count;
            copy_16(to + row * STRIDE + 8 * chunk, from + (there ? row * stride + 8 * chunk : 0), there);
        }
    }

    // Rows [row, row + 16) and columns [16 k, 16 k + 16) as the left operand.
    static __device__ __forceinline__ FragmentA left(const __nv_bfloat16* tile, int row, int k) {
        const int lane = threadIdx.x % 32;
        FragmentA a;
        load_matrices(a.words, tile + (row + lane % 16) * STRIDE + 16 * k + 8 * (lane / 16));
        return a;
    }

    // Rows [row, row + 16) of the tile as the columns of two right operands: a product with the transposed tile, over
    // columns [16 k, 16 k + 16).
    static __device__ __forceinline__ void right(FragmentB (&b)[2], const __nv_bfloat16* tile, int row, int k) {
        const int lane = threadIdx.x % 32;
        unsigned words[4];
        load_matrices(words, tile + (row + lane % 8 + 8 * (lane / 16)) * STRIDE + 16 * k + 8 * (lane / 8 % 2));
        b[0] = {{words[0], words[1]}};
        b[1] = {{words[2], words[3]}};
    }

    // Columns [16 n, 16 n + 16) of the tile as those of two right operands: a product with the tile itself, over rows
    // [row, row + 16).
    static __device__ __forceinline__ void right_plain(FragmentB (&b)[2], const __nv_bfloat16* tile, int row, int n) {
        const int lane = threadIdx.x % 32;
        unsigned words[4];
        load_matrices_transposed(words, tile + (row + lane % 16) * STRIDE + 16 * n + 8 * (lane / 16));
        b[0] = {{words[0], words[1]}};
        b[1] = {{words[2], words[3]}};
    }
};

// The tile that is next in turn is there for all threads; `more` tells whether another is on its way behind it.
__device__ __forceinline__ void wait_for_tile(bool more) {
    if (more) {
        wait_for_copies<1>();
    } else {
        wait_for_copies<0>();
    }
    __syncthreads();
}

// out [16, N] = rows [row, row + 16) of `own` times the transposed N rows of `other`.
template <int E, int N>
__device__ __forceinline__ void scores(FragmentC (&out)[N / 8], const __nv_bfloat16* own, int row,
                                       const __nv_bfloat16* other) {
#pragma unroll
    for (int n = 0; n < N / 8; ++n) out[n] = {};
#pragma unroll
    for (int k = 0; k < E / 16; ++k) {
        const FragmentA a = Tile<E>::left(own, row, k);
#pragma unroll
        for (int n = 0; n < N / 16; ++n) {
            FragmentB b[2];
            Tile<E>::right(b, other, 16 * n, k);
            multiply(out[2 * n], a, b[0]);
            multiply(out[2 * n + 1], a, b[1]);
        }
    }
}

// out [16, E] += weights [16, N], rounded to bf16, times the N rows of `tile`.
template <int E, int N>
__device__ __forceinline__ void accumulate(FragmentC (&out)[E / 8], const FragmentC (&weights)[N / 8],
                                           const __nv_bfloat16* tile) {
#pragma unroll
    for (int k = 0; k < N / 16; ++k) {
        const FragmentA a = as_left(weights[2 * k], weights[2 * k + 1]);
#pragma unroll
        for (int n = 0; n < E / 16; ++n) {
            FragmentB b[2];
            Tile<E>::right_plain(b, tile, 16 * k, n);
            multiply(out[2 * n], a, b[0]);
            multiply(out[2 * n + 1], a, b[1]);
        }
    }
}

// Writes rows of [16, E] that are below `count`, times `scale`, to rows of `stride` elements.
template <int E>
__device__ __forceinline__ void store(const FragmentC (&values)[E / 8], float scale_top, float scale_bottom,
                                      __nv_bfloat16* out, long stride, int count) {
    const int lane = threadIdx.x % 32, row = lane / 4, col = 2 * (lane % 4);
#pragma unroll
    for (int n = 0; n < E / 8; ++n) {
        const float* v = values[n].values;
        if (row < count) {
            *reinterpret_cast<unsigned*>(out + row * stride + 8 * n + col) = pack(v[0] * scale_top, v[1] * scale_top);
        }
        if (row + 8 < count) {
            unsigned* below = reinterpret_cast<unsigned*>(out + (row + 8) * stride + 8 * n + col);
            *below = pack(v[2] * scale_bottom, v[3] * scale_bottom);
        }
    }
}
