// What the kernels of attention share: tiles of rows in shared memory, and products with them.
//
// Rows of a head lie E elements long in shared memory, with 8 more between them, so that the eight rows that an
// ldmatrix reads at once lie in different banks.
#pragma once

#include "tensor_core.cuh"

// Rows that a block owns, and threads of a block: a warp has 32 queries, or 16 keys.
constexpr int OWN = 128;
constexpr int QUERY_WARPS = OWN / 32, QUERY_THREADS = 32 * QUERY_WARPS;
constexpr int KEY_WARPS = OWN / 16, KEY_THREADS = 32 * KEY_WARPS;
constexpr float LOG2_E = 1.4426950408889634f;
// How far a score may be above the base of its query, as a power of 2, before the base becomes the new maximum: all sums
// so far are multiplied then, which is rare but among the first keys.
constexpr float MOST_ABOVE = 8.0f;

// Queries of one sequence: rows [query, query + count) of q, keys from row `key` of k on, counted from there; the first
// query sees the keys below `end`, each later one a key more.
struct QueryTile {
    int query, count, key, end;
};

// Keys of one sequence: rows [key, key + count) of k, the first of which is the `first` key of its sequence. The
// sequence's queries are rows [query, query + queries) of q; the i-th sees the keys below i + 1 + shift.
struct KeyTile {
    int key, count, first, query, queries, shift;
};

#ifndef QLORA_EMULATED
// 2 to the power of x, to 2 units in the last place; results below the normal numbers are zero.
__device__ __forceinline__ float power_of_2(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}
// Both rounded to bf16 by one instruction.
__device__ __forceinline__ unsigned pack_pair(float low, float high) {
    unsigned out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}
// 4 bytes, as `copy_16`.
__device__ __forceinline__ void copy_4(float* to, const float* from, bool there) {
    const unsigned at = unsigned(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at), "l"(from), "r"(there ? 4 : 0) : "memory");
}
// Whether `it` holds for any lane of the warp.
__device__ __forceinline__ bool for_any_lane(bool it) { return __any_sync(0xffffffffu, it); }
// The warp's place in the block, as a value that the compiler knows to be the same in all lanes.
__device__ __forceinline__ int own_warp() { return __shfl_sync(0xffffffffu, int(threadIdx.x / 32), 0); }
#else
inline float power_of_2(float x) { return exp2f(x); }
inline unsigned pack_pair(float low, float high) { return pack(low, high); }
inline void copy_4(float* to, const float* from, bool there) { *to = there ? *from : 0.0f; }
inline bool for_any_lane(bool it) {
    const auto of = emulator::show(it);
    bool any = false;
    for (unsigned lane = 0; lane < emulator::WARP; ++lane) any |= of(lane);
    return any;
}
inline int own_warp() { return int(threadIdx.x / 32); }
#endif

template <int E>
struct Tile {
    static constexpr int STRIDE = E + 8;
    static __device__ constexpr int elements(int rows) { return rows * STRIDE; }

    // Copies `count` of ROWS rows, `stride` elements apart in global memory, by T threads; the rest are zeros.
    template <int ROWS, int T>
    static __device__ __forceinline__ void copy(__nv_bfloat16* to, const __nv_bfloat16* from, long stride, int count) {
        constexpr int CHUNKS = E / 8, AT_ONCE = T / CHUNKS;
        const int first = threadIdx.x / CHUNKS, chunk = 8 * (threadIdx.x % CHUNKS);
        if (ROWS < AT_ONCE && first >= ROWS) return;
        const __nv_bfloat16* source = from + first * stride + chunk;
#pragma unroll
        for (int row = 0; row < ROWS; row += AT_ONCE, source += AT_ONCE * stride) {
            const bool there = first + row < count;
            copy_16(to + (first + row) * STRIDE + chunk, there ? source : from, there);
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

// The accumulators of two neighbouring tiles as the left operand of the next product.
__device__ __forceinline__ FragmentA rounded(const FragmentC& left, const FragmentC& right) {
    return {{pack_pair(left.values[0], left.values[1]), pack_pair(left.values[2], left.values[3]),
             pack_pair(right.values[0], right.values[1]), pack_pair(right.values[2], right.values[3])}};
}

// R tiles of 16 rows, from row `row` of a tile in shared memory on, as left operands.
template <int E, int R>
struct InMemory {
    const __nv_bfloat16* tile;
    int row;
    __device__ __forceinline__ FragmentA operator()(int r, int k) const { return Tile<E>::left(tile, row + 16 * r, k); }
};

// The same, once read.
template <int E, int R>
struct InRegisters {
    FragmentA parts[R][E / 16];
    __device__ __forceinline__ void read(const __nv_bfloat16* tile, int row) {
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int k = 0; k < E / 16; ++k) parts[r][k] = Tile<E>::left(tile, row + 16 * r, k);
    }
    __device__ __forceinline__ FragmentA operator()(int r, int k) const { return parts[r][k]; }
};

// out [16 R, N] = `own`, of R tiles of 16 rows, times the transposed N rows of `other`.
template <int E, int N, int R, typename Own>
__device__ __forceinline__ void scores(FragmentC (&out)[R][N / 8], const Own& own, const __nv_bfloat16* other) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
        for (int n = 0; n < N / 8; ++n) out[r][n] = {};
#pragma unroll
    for (int k = 0; k < E / 16; ++k) {
        FragmentA a[R];
#pragma unroll
        for (int r = 0; r < R; ++r) a[r] = own(r, k);
#pragma unroll
        for (int n = 0; n < N / 16; ++n) {
            FragmentB b[2];
            Tile<E>::right(b, other, 16 * n, k);
#pragma unroll
            for (int r = 0; r < R; ++r) {
                multiply(out[r][2 * n], a[r], b[0]);
                multiply(out[r][2 * n + 1], a[r], b[1]);
            }
        }
    }
}

// out [16 R, E] += weights [16 R, N], rounded to bf16, times the N rows of `tile`.
template <int E, int N, int R>
__device__ __forceinline__ void accumulate(FragmentC (&out)[R][E / 8], const FragmentC (&weights)[R][N / 8],
                                           const __nv_bfloat16* tile) {
#pragma unroll
    for (int k = 0; k < N / 16; ++k) {
        FragmentA a[R];
#pragma unroll
        for (int r = 0; r < R; ++r) a[r] = rounded(weights[r][2 * k], weights[r][2 * k + 1]);
#pragma unroll
        for (int n = 0; n < E / 16; ++n) {
            FragmentB b[2];
            Tile<E>::right_plain(b, tile, 16 * k, n);
#pragma unroll
            for (int r = 0; r < R; ++r) {
                multiply(out[r][2 * n], a[r], b[0]);
                multiply(out[r][2 * n + 1], a[r], b[1]);
            }
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
            *reinterpret_cast<unsigned*>(out + row * stride + 8 * n + col) =
                pack_pair(v[0] * scale_top, v[1] * scale_top);
        }
        if (row + 8 < count) {
            unsigned* below = reinterpret_cast<unsigned*>(out + (row + 8) * stride + 8 * n + col);
            *below = pack_pair(v[2] * scale_bottom, v[3] * scale_bottom);
        }
    }
}
