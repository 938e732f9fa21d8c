// What the kernels of attention share: tiles of rows in shared memory, and products with them.
//
// Rows of a head lie E elements long in shared memory, with 8 more between them, so that the eight rows that an
// ldmatrix reads at once lie in different banks.
#pragma once

#include "tensor_core.cuh"

// Rows of a tile, and threads of a block that owns queries or keys.
constexpr int OWN = 128;
constexpr int QUERY_THREADS = 128, KEY_THREADS = 256;

// How heads of E elements are shared out. Large heads fill registers and shared memory: there a block owns half a tile, a
// warp has 16 queries instead of 32, and two warps share 16 keys, each with half the columns of their gradients. All
// tiles together fit the 99 KiB of shared memory that Ada's blocks may have.
template <int E>
struct Share {
    static constexpr bool LARGE = E > 128;
    // Rows that a block owns, and blocks of a tile.
    static constexpr int ROWS = LARGE ? OWN / 2 : OWN, PARTS = OWN / ROWS;
    // Tiles of 16 queries of a warp, and its queries.
    static constexpr int R = LARGE ? 1 : 2, QUERIES = 16 * R;
    // Warps that share keys, and columns of the gradients that each of them has.
    static constexpr int WARPS = LARGE ? 2 : 1, COLUMNS = E / WARPS;
    static_assert(QUERY_THREADS / 32 * QUERIES == ROWS && KEY_THREADS / 32 * 16 == ROWS * WARPS);
};

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

// The part of a tile that the block owns, which is empty where the tile is too short.
template <int E>
__device__ __forceinline__ QueryTile part_of(const QueryTile* tiles) {
    constexpr int ROWS = Share<E>::ROWS, PARTS = Share<E>::PARTS;
    const QueryTile whole = tiles[blockIdx.x / PARTS];
    const int before = blockIdx.x % PARTS * ROWS;
    return {whole.query + before, min(whole.count - before, ROWS), whole.key, whole.end + before};
}
template <int E>
__device__ __forceinline__ KeyTile part_of(const KeyTile* tiles) {
    constexpr int ROWS = Share<E>::ROWS, PARTS = Share<E>::PARTS;
    const KeyTile whole = tiles[blockIdx.x / PARTS];
    const int before = blockIdx.x % PARTS * ROWS;
    return {whole.key + before, min(whole.count - before, ROWS), whole.first + before,
            whole.query,        whole.queries,                   whole.shift};
}

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

// A soft cap on scores: s becomes cap tanh(s scale / cap), and is not scaled any more.
struct SoftCap {
    float cap, inner, inverse;
    __device__ SoftCap(float cap, float scale) : cap(cap), inner(2.0f * LOG2_E * scale / cap), inverse(1.0f / cap) {}
    // tanh(x) = 1 - 2 / (1 + e^2x), whose error is small beside 1, as weights need it.
    __device__ __forceinline__ float operator()(float s) const {
        const float power = 1.0f + power_of_2(s * inner);
#ifndef QLORA_EMULATED
        return cap - __fdividef(2.0f * cap, power);
#else
        return cap - 2.0f * cap / power;
#endif
    }
    // Where it gave `s`; 0 for a score that is left out.
    __device__ __forceinline__ float slope(float s) const {
        const float share = fmaxf(s * inverse, -1.0f);
        return 1.0f - share * share;
    }
    template <int R, int N>
    __device__ __forceinline__ void apply(FragmentC (&s)[R][N]) const {
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) s[r][n].values[j] = (*this)(s[r][n].values[j]);
    }
};

template <int E>
struct Tile {
    static constexpr int STRIDE = E + 8;
    static __device__ constexpr int elements(int rows) { return rows * STRIDE; }

    // Copies `count` of ROWS rows, `stride` elements apart in global memory, by T threads; the rest are zeros.
    template <int ROWS, int T>
    static __device__ __forceinline__ void copy(__nv_bfloat16* to, const __nv_bfloat16* from, long stride, int count) {
        // Of threads that are no multiple of a row's chunks the last ones copy nothing.
        constexpr int CHUNKS = E / 8, AT_ONCE = T / CHUNKS;
        const int first = threadIdx.x / CHUNKS, chunk = 8 * (threadIdx.x % CHUNKS);
        if ((ROWS < AT_ONCE && first >= ROWS) || (T % CHUNKS != 0 && first >= AT_ONCE)) return;
        const __nv_bfloat16* source = from + first * stride + chunk;
#pragma unroll
        for (int row = 0; row < ROWS; row += AT_ONCE, source += AT_ONCE * stride) {
            if (ROWS % AT_ONCE != 0 && row + AT_ONCE > ROWS && first + row >= ROWS) continue;
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

// The accumulators of two neighboring tiles as the left operand of the next product.
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

// out [16 R, C] += weights [16 R, N], rounded to bf16, times the N rows of `tile`, C columns from where it points.
template <int E, int N, int R, int C = E>
__device__ __forceinline__ void accumulate(FragmentC (&out)[R][C / 8], const FragmentC (&weights)[R][N / 8],
                                           const __nv_bfloat16* tile) {
#pragma unroll
    for (int k = 0; k < N / 16; ++k) {
        FragmentA a[R];
#pragma unroll
        for (int r = 0; r < R; ++r) a[r] = rounded(weights[r][2 * k], weights[r][2 * k + 1]);
#pragma unroll
        for (int n = 0; n < C / 16; ++n) {
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

// Writes rows of [16, C] that are below `count`, times `scale`, to rows of `stride` elements.
template <int C>
__device__ __forceinline__ void store(const FragmentC (&values)[C / 8], float scale_top, float scale_bottom,
                                      __nv_bfloat16* out, long stride, int count) {
    const int lane = threadIdx.x % 32, row = lane / 4, col = 2 * (lane % 4);
#pragma unroll
    for (int n = 0; n < C / 8; ++n) {
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
