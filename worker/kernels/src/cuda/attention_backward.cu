// Attention, backward (Dao, FlashAttention-2, 2023), in two kernels: one owns 64 queries and gives dQ, the other owns 64
// keys and gives dK and dV for all query heads that share them. Scores are found in both, a product and a half more than
// with additions in memory, and in exchange every sum has its order: a step repeats to the bit.
//
// With P = exp(S - lse) and delta = rowsum(dO o O): dV = P^T dO, dS = P o (dO V^T - delta), dQ = dS K, dK = dS^T Q.

#include "attention.cuh"
#include "block.cuh"

// Keys of one sequence: rows [key, key + count) of k, the first of which is the `first` key of its sequence. The
// sequence's queries are rows [query, query + queries) of q; the i-th sees the keys below i + 1 + shift.
struct KeyTile {
    int key, count, first, query, queries, shift;
};

// delta [H, M] of o and d_o [M, H E], a warp a head of a row.
extern "C" __global__ void attention_delta(const __nv_bfloat16* o, const __nv_bfloat16* d_o, int m, int heads, int e,
                                           float* delta) {
    const long at = (long(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
    if (at >= long(m) * heads) return;
    float sum = 0.0f;
    for (int i = threadIdx.x % 32; i < e; i += 32) sum += __bfloat162float(o[at * e + i]) * __bfloat162float(d_o[at * e + i]);
    sum = warp_reduce(sum, Sum());
    if (threadIdx.x % 32 == 0) delta[at % heads * m + at / heads] = sum;
}

template <int E>
__device__ void attention_backward_queries(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v,
                                           const __nv_bfloat16* d_o, const float* lse, const float* delta,
                                           const QueryTile* tiles, int m, int heads, int kv_heads, int window,
                                           float scale, __nv_bfloat16* dq) {
    constexpr int KEYS = E > 64 ? 32 : 64;
    SHARED_MEMORY(memory);
    __nv_bfloat16* queries = reinterpret_cast<__nv_bfloat16*>(memory);
    __nv_bfloat16* pulls = queries + Tile<E>::elements(OWN);
    __nv_bfloat16* keys = pulls + Tile<E>::elements(OWN);
    __nv_bfloat16* values = keys + 2 * Tile<E>::elements(KEYS);
    const QueryTile tile = tiles[blockIdx.x];
    const int head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const long q_stride = long(heads) * E, kv_stride = long(kv_heads) * E;
    const long q_start = tile.query * q_stride + head * E;
    const long kv_start = tile.key * kv_stride + head / (heads / kv_heads) * E;
    const int last = tile.end + tile.count - 1, first = max(tile.end - window, 0) / KEYS * KEYS;

    auto copy_keys = [&](int at, int stage) {
        const long from = kv_start + at * kv_stride;
        Tile<E>::template copy<KEYS>(keys + stage * Tile<E>::elements(KEYS), k + from, kv_stride, last - at);
        Tile<E>::template copy<KEYS>(values + stage * Tile<E>::elements(KEYS), v + from, kv_stride, last - at);
        end_of_copies();
    };
    Tile<E>::template copy<OWN>(queries, q + q_start, q_stride, tile.count);
    Tile<E>::template copy<OWN>(pulls, d_o + q_start, q_stride, tile.count);
    copy_keys(first, 0);

    float log_sum[2], inner[2];
    for (int half = 0; half < 2; ++half) {
        const int row = 16 * warp + lane / 4 + 8 * half;
        const long at = long(head) * m + tile.query + row;
        log_sum[half] = row < tile.count ? lse[at] * LOG2_E : 0.0f;
        inner[half] = row < tile.count ? delta[at] : 0.0f;
    }
    FragmentC out[E / 8] = {};
    for (int at = first, stage = 0; at < last; at += KEYS, stage ^= 1) {
        const bool more = at + KEYS < last;
        if (more) copy_keys(at + KEYS, stage ^ 1);
        wait_for_tile(more);
        FragmentC s[KEYS / 8], dp[KEYS / 8];
        scores<E, KEYS>(s, queries, 16 * warp, keys + stage * Tile<E>::elements(KEYS));
        scores<E, KEYS>(dp, pulls, 16 * warp, values + stage * Tile<E>::elements(KEYS));
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n) {
            for (int j = 0; j < 4; ++j) {
                const int half = j / 2, end = tile.end + 16 * warp + lane / 4 + 8 * half;
                const int key = at + 8 * n + 2 * (lane % 4) + j % 2;
                const bool seen = key < end && key >= end - window;
                const float p = seen ? exp2f(s[n].values[j] * scale * LOG2_E - log_sum[half]) : 0.0f;
                s[n].values[j] = p * (dp[n].values[j] - inner[half]);
            }
        }
        accumulate<E, KEYS>(out, s, keys + stage * Tile<E>::elements(KEYS));
        __syncthreads();
    }
    store<E>(out, scale, scale, dq + q_start + 16 * warp * q_stride, q_stride, tile.count - 16 * warp);
}

template <int E>
__device__ void attention_backward_keys(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v,
                                        const __nv_bfloat16* d_o, const float* lse, const float* delta,
                                        const KeyTile* tiles, int m, int heads, int kv_heads, int window, float scale,
                                        __nv_bfloat16* dk, __nv_bfloat16* dv) {
    constexpr int QUERIES = E > 64 ? 32 : 64;
    SHARED_MEMORY(memory);
    __nv_bfloat16* keys = reinterpret_cast<__nv_bfloat16*>(memory);
    __nv_bfloat16* values = keys + Tile<E>::elements(OWN);
    __nv_bfloat16* queries = values + Tile<E>::elements(OWN);
    __nv_bfloat16* pulls = queries + 2 * Tile<E>::elements(QUERIES);
    const KeyTile tile = tiles[blockIdx.x];
    const int group = heads / kv_heads, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const long q_stride = long(heads) * E, kv_stride = long(kv_heads) * E;
    const long kv_start = tile.key * kv_stride + blockIdx.y * E;
    // Queries that see any key of the tile; the sum avoids what a window of "all" would overflow.
    const int first = max(tile.first - tile.shift, 0) / QUERIES * QUERIES;
    const int beyond = tile.first + tile.count - 1 - tile.shift;
    const int last = window < tile.queries - beyond ? beyond + window : tile.queries;
    const int steps = last > first ? (last - first + QUERIES - 1) / QUERIES : 0;

    // The i-th tile of queries: all of one head, then those of the next.
    auto copy_queries = [&](int i, int stage) {
        const int at = first + i % steps * QUERIES, head = blockIdx.y * group + i / steps;
        const long from = (tile.query + at) * q_stride + head * E;
        Tile<E>::template copy<QUERIES>(queries + stage * Tile<E>::elements(QUERIES), q + from, q_stride, last - at);
        Tile<E>::template copy<QUERIES>(pulls + stage * Tile<E>::elements(QUERIES), d_o + from, q_stride, last - at);
        end_of_copies();
    };
    Tile<E>::template copy<OWN>(keys, k + kv_start, kv_stride, tile.count);
    Tile<E>::template copy<OWN>(values, v + kv_start, kv_stride, tile.count);
    if (steps > 0) {
        copy_queries(0, 0);
    } else {
        end_of_copies();
    }

    FragmentC out_k[E / 8] = {}, out_v[E / 8] = {};
    for (int i = 0, stage = 0; i < steps * group; ++i, stage ^= 1) {
        const bool more = i + 1 < steps * group;
        if (more) copy_queries(i + 1, stage ^ 1);
        wait_for_tile(more);
        const __nv_bfloat16* own = queries + stage * Tile<E>::elements(QUERIES);
        const __nv_bfloat16* pull = pulls + stage * Tile<E>::elements(QUERIES);
        const int at = first + i % steps * QUERIES;
        const long sums = long(blockIdx.y * group + i / steps) * m + tile.query;
        // Transposed: a row is a key, a column a query.
        FragmentC p[QUERIES / 8], ds[QUERIES / 8];
        scores<E, QUERIES>(p, keys, 16 * warp, own);
        scores<E, QUERIES>(ds, values, 16 * warp, pull);
#pragma unroll
        for (int n = 0; n < QUERIES / 8; ++n) {
            for (int j = 0; j < 4; ++j) {
                const int query = at + 8 * n + 2 * (lane % 4) + j % 2, end = query + 1 + tile.shift;
                const int within = 16 * warp + lane / 4 + 8 * (j / 2), key = tile.first + within;
                const bool seen = query < last && within < tile.count && key < end && key >= end - window;
                const float log_sum = seen ? lse[sums + query] * LOG2_E : 0.0f;
                const float inner = seen ? delta[sums + query] : 0.0f;
                const float weight = seen ? exp2f(p[n].values[j] * scale * LOG2_E - log_sum) : 0.0f;
                p[n].values[j] = weight;
                ds[n].values[j] = weight * (ds[n].values[j] - inner);
            }
        }
        accumulate<E, QUERIES>(out_v, p, pull);
        accumulate<E, QUERIES>(out_k, ds, own);
        __syncthreads();
    }
    wait_for_copies<0>();
    const long to = kv_start + 16 * warp * kv_stride;
    store<E>(out_k, scale, scale, dk + to, kv_stride, tile.count - 16 * warp);
    store<E>(out_v, 1.0f, 1.0f, dv + to, kv_stride, tile.count - 16 * warp);
}

#define ATTENTION_BACKWARD(E)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_queries_##E(                             \
        const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const __nv_bfloat16* d_o,             \
        const float* lse, const float* delta, const QueryTile* tiles, int m, int heads, int kv_heads, int window,     \
        float scale, __nv_bfloat16* dq) {                                                                             \
        attention_backward_queries<E>(q, k, v, d_o, lse, delta, tiles, m, heads, kv_heads, window, scale, dq);        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_keys_##E(                                \
        const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const __nv_bfloat16* d_o,             \
        const float* lse, const float* delta, const KeyTile* tiles, int m, int heads, int kv_heads, int window,       \
        float scale, __nv_bfloat16* dk, __nv_bfloat16* dv) {                                                          \
        attention_backward_keys<E>(q, k, v, d_o, lse, delta, tiles, m, heads, kv_heads, window, scale, dk, dv);       \
    }

ATTENTION_BACKWARD(16)
ATTENTION_BACKWARD(32)
ATTENTION_BACKWARD(64)
ATTENTION_BACKWARD(128)
