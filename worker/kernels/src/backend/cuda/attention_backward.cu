// Attention, backward (Dao, FlashAttention-2, 2023), in two kernels: one owns 128 queries and gives dQ, the other owns
// 128 keys and gives dK and dV for all query heads that share them. Scores are found in both, a product and a half more
// than with additions in memory, and in exchange every sum has its order: a repeated step is bit-identical.
//
// `Share` says what is less for large heads.
//
// With P = exp(S - lse) and delta = rowsum(dO o O): dV = P^T dO, dS = P o (dO V^T - delta), dQ = dS K, dK = dS^T Q;
// under a soft cap dS is multiplied with its slope.

#include "attention.cuh"
#include "block.cuh"

// delta [H, M] of o and d_o [M, H E], a warp a head of a row.
extern "C" __global__ void attention_delta(const __nv_bfloat16* o, const __nv_bfloat16* d_o, int m, int heads, int e,
                                           float* delta) {
    const long at = (long(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
    if (at >= long(m) * heads) return;
    float sum = 0.0f;
    // Heads are 16 elements long or more, and even.
    for (int i = 2 * (threadIdx.x % 32); i < e; i += 64) {
        const unsigned a = *reinterpret_cast<const unsigned*>(o + at * e + i);
        const unsigned b = *reinterpret_cast<const unsigned*>(d_o + at * e + i);
        sum += half_of(a, 0) * half_of(b, 0) + half_of(a, 1) * half_of(b, 1);
    }
    sum = warp_reduce(sum, Sum());
    if (threadIdx.x % 32 == 0) delta[at % heads * m + at / heads] = sum;
}

template <int E, bool capped>
__device__ void attention_backward_queries(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v,
                                           const __nv_bfloat16* d_o, const float* lse, const float* delta,
                                           const QueryTile* tiles, int m, int heads, int kv_heads, int window,
                                           float scale, float cap, __nv_bfloat16* dq) {
    constexpr int KEYS = E > 64 ? 16 : 32, ROWS = Share<E>::ROWS, R = Share<E>::R, QUERIES = Share<E>::QUERIES;
    SHARED_MEMORY(memory);
    __nv_bfloat16* queries = reinterpret_cast<__nv_bfloat16*>(memory);
    __nv_bfloat16* pulls = queries + Tile<E>::elements(ROWS);
    __nv_bfloat16* keys = pulls + Tile<E>::elements(ROWS);
    __nv_bfloat16* values = keys + 2 * Tile<E>::elements(KEYS);
    const QueryTile tile = part_of<E>(tiles);
    if (tile.count <= 0) return;
    const int head = blockIdx.y, lane = threadIdx.x % 32, start = QUERIES * own_warp();
    const long q_stride = long(heads) * E, kv_stride = long(kv_heads) * E;
    const long q_start = tile.query * q_stride + head * E;
    const long kv_start = tile.key * kv_stride + head / (heads / kv_heads) * E;
    const int last = tile.end + tile.count - 1, first = max(tile.end - window, 0) / KEYS * KEYS;
    // Queries of the warp: the first sees keys below `low`, the last keys below `high`.
    const int count = min(tile.count - start, QUERIES), low = tile.end + start, high = low + count - 1;

    auto copy_keys = [&](int at, int stage) {
        const long from = kv_start + at * kv_stride;
        __nv_bfloat16 *key = keys + stage * Tile<E>::elements(KEYS), *value = values + stage * Tile<E>::elements(KEYS);
        Tile<E>::template copy<KEYS, QUERY_THREADS>(key, k + from, kv_stride, last - at);
        Tile<E>::template copy<KEYS, QUERY_THREADS>(value, v + from, kv_stride, last - at);
        end_of_copies();
    };
    Tile<E>::template copy<ROWS, QUERY_THREADS>(queries, q + q_start, q_stride, tile.count);
    Tile<E>::template copy<ROWS, QUERY_THREADS>(pulls, d_o + q_start, q_stride, tile.count);
    copy_keys(first, 0);

    float log_sum[R][2], inner[R][2];
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = start + 16 * r + lane / 4 + 8 * half;
            const long at = long(head) * m + tile.query + row;
            log_sum[r][half] = row < tile.count ? lse[at] * LOG2_E : 0.0f;
            inner[r][half] = row < tile.count ? delta[at] : 0.0f;
        }
    FragmentC out[R][E / 8] = {};
    const SoftCap under(cap, scale);
    const float step = capped ? LOG2_E : scale * LOG2_E;
    for (int at = first, stage = 0; at < last; at += KEYS, stage ^= 1) {
        wait_for_copies<0>();
        // Past this, all have done with the tile before, whose place the next one takes.
        __syncthreads();
        if (at + KEYS < last) copy_keys(at + KEYS, stage ^ 1);
        if (count <= 0 || at >= high || at + KEYS <= low - window) continue;
        FragmentC s[R][KEYS / 8], dp[R][KEYS / 8];
        scores<E, KEYS, R>(s, InMemory<E, R>{queries, start}, keys + stage * Tile<E>::elements(KEYS));
        if (capped) under.apply(s);
        if (at + KEYS > low || at < high - window) {
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                    for (int j = 0; j < 4; ++j) {
                        const int end = low + 16 * r + lane / 4 + 8 * (j / 2), key = at + 8 * n + 2 * (lane % 4) + j % 2;
                        if (key >= end || key < end - window) s[r][n].values[j] = -INFINITY;
                    }
        }
        scores<E, KEYS, R>(dp, InMemory<E, R>{pulls, start}, values + stage * Tile<E>::elements(KEYS));
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const float score = s[r][n].values[j], p = power_of_2(score * step - log_sum[r][j / 2]);
                    const float ds = p * (dp[r][n].values[j] - inner[r][j / 2]);
                    s[r][n].values[j] = capped ? ds * under.slope(score) : ds;
                }
        accumulate<E, KEYS, R>(out, s, keys + stage * Tile<E>::elements(KEYS));
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
        const int row = start + 16 * r;
        store<E>(out[r], scale, scale, dq + q_start + row * q_stride, q_stride, tile.count - row);
    }
}

// Keys or values that a warp owns: in registers, and those of large heads where they lie.
template <int E, bool large = Share<E>::LARGE>
struct KeysOf : InRegisters<E, 1> {};
template <int E>
struct KeysOf<E, true> {
    InMemory<E, 1> place;
    __device__ __forceinline__ void read(const __nv_bfloat16* tile, int row) { place = {tile, row}; }
    __device__ __forceinline__ FragmentA operator()(int r, int k) const { return place(r, k); }
};

template <int E, bool capped>
__device__ void attention_backward_keys(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v,
                                        const __nv_bfloat16* d_o, const float* lse, const float* delta,
                                        const KeyTile* tiles, int m, int heads, int kv_heads, int window, float scale,
                                        float cap, __nv_bfloat16* dk, __nv_bfloat16* dv) {
    using Own = Share<E>;
    constexpr int ROWS = Own::ROWS, COLUMNS = Own::COLUMNS;
    // Queries of a stage, and of a step of a warp.
    constexpr int QUERIES = Own::LARGE ? 16 : 64, STEP = Own::LARGE ? 16 : 32;
    SHARED_MEMORY(memory);
    __nv_bfloat16* queries = reinterpret_cast<__nv_bfloat16*>(memory);
    __nv_bfloat16* pulls = queries + 2 * Tile<E>::elements(QUERIES);
    // Large heads leave no room behind the tiles: the sums of a query lie between its row and the next.
    constexpr int SUM = Own::LARGE ? Tile<E>::STRIDE / 2 : 1;
    float* log_sums = reinterpret_cast<float*>(Own::LARGE ? queries + E : pulls + 2 * Tile<E>::elements(QUERIES));
    float* inners = Own::LARGE ? reinterpret_cast<float*>(pulls + E) : log_sums + 2 * QUERIES;
    // Keys and values of large heads.
    __nv_bfloat16* own_keys = pulls + 2 * Tile<E>::elements(QUERIES);
    __nv_bfloat16* own_values = own_keys + Tile<E>::elements(ROWS);
    const KeyTile tile = part_of<E>(tiles);
    if (tile.count <= 0) return;
    const int group = heads / kv_heads, lane = threadIdx.x % 32, start = 16 * (own_warp() / Own::WARPS);
    // The first column of the gradients that the warp has.
    const int column = own_warp() % Own::WARPS * COLUMNS;
    const long q_stride = long(heads) * E, kv_stride = long(kv_heads) * E;
    const long kv_start = tile.key * kv_stride + blockIdx.y * E;
    // Queries that see any key of the tile; the sum avoids what a window of "all" would overflow.
    const int first = max(tile.first - tile.shift, 0) / QUERIES * QUERIES;
    const int beyond = tile.first + tile.count - 1 - tile.shift;
    const int last = window < tile.queries - beyond ? beyond + window : tile.queries;
    // Keys of the warp are [low, low + 16) of the sequence.
    const int low = tile.first + start;

    auto copy_queries = [&](int at, int head, int stage) {
        const long from = (tile.query + at) * q_stride + head * E, sums = long(head) * m + tile.query + at;
        __nv_bfloat16* query = queries + stage * Tile<E>::elements(QUERIES);
        __nv_bfloat16* pull = pulls + stage * Tile<E>::elements(QUERIES);
        Tile<E>::template copy<QUERIES, KEY_THREADS>(query, q + from, q_stride, last - at);
        Tile<E>::template copy<QUERIES, KEY_THREADS>(pull, d_o + from, q_stride, last - at);
        const int row = threadIdx.x % QUERIES;
        const bool there = row < last - at;
        if (threadIdx.x < QUERIES) {
            copy_4(log_sums + (stage * QUERIES + row) * SUM, lse + (there ? sums + row : 0), there);
        } else if (threadIdx.x < 2 * QUERIES) {
            copy_4(inners + (stage * QUERIES + row) * SUM, delta + (there ? sums + row : 0), there);
        }
        end_of_copies();
    };
    // Keys and values stay in shared memory, or pass through the places of both stages on their way to registers.
    Tile<E>::template copy<ROWS, KEY_THREADS>(Own::LARGE ? own_keys : queries, k + kv_start, kv_stride, tile.count);
    Tile<E>::template copy<ROWS, KEY_THREADS>(Own::LARGE ? own_values : pulls, v + kv_start, kv_stride, tile.count);
    end_of_copies();
    wait_for_copies<0>();
    __syncthreads();
    KeysOf<E> keys, values;
    keys.read(Own::LARGE ? own_keys : queries, start);
    values.read(Own::LARGE ? own_values : pulls, start);
    __syncthreads();
    int head = blockIdx.y * group;
    const int heads_end = head + group;
    if (first < last) copy_queries(first, head, 0);

    FragmentC out_k[1][COLUMNS / 8] = {}, out_v[1][COLUMNS / 8] = {};
    const SoftCap under(cap, scale);
    const float step = capped ? LOG2_E : scale * LOG2_E;
    for (int at = first, stage = 0; first < last && head < heads_end; stage ^= 1) {
        wait_for_copies<0>();
        // Past this, all have done with the tile before, whose place the next one takes.
        __syncthreads();
        const int next = at + QUERIES < last ? at + QUERIES : first, next_head = head + (at + QUERIES < last ? 0 : 1);
        if (next_head < heads_end) copy_queries(next, next_head, stage ^ 1);
#pragma unroll 1
        for (int part = 0; part < QUERIES; part += STEP) {
            // The first and the last query of the step see keys below `from` and below `to`.
            const int from = at + part + 1 + tile.shift, to = from + STEP - 1;
            if (start >= tile.count || at + part >= last || low >= to || low + 15 < from - window) continue;
            const __nv_bfloat16* own = queries + stage * Tile<E>::elements(QUERIES) + Tile<E>::elements(part);
            const __nv_bfloat16* pull = pulls + stage * Tile<E>::elements(QUERIES) + Tile<E>::elements(part);
            const float* log_sum = log_sums + (stage * QUERIES + part) * SUM;
            const float* inner = inners + (stage * QUERIES + part) * SUM;
            // Transposed: a row is a key, a column a query.
            FragmentC p[1][STEP / 8], ds[1][STEP / 8];
            scores<E, STEP, 1>(p, keys, own);
            if (capped) under.apply(p);
            if (low + 15 >= from || low < to - window) {
#pragma unroll
                for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
                    for (int j = 0; j < 4; ++j) {
                        const int key = low + lane / 4 + 8 * (j / 2), end = from + 8 * n + 2 * (lane % 4) + j % 2;
                        if (key >= end || key < end - window) p[0][n].values[j] = -INFINITY;
                    }
            }
            FragmentC slopes[STEP / 8];
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    float& value = p[0][n].values[j];
                    if (capped) slopes[n].values[j] = under.slope(value);
                    value = power_of_2(value * step - log_sum[(8 * n + 2 * (lane % 4) + j % 2) * SUM] * LOG2_E);
                }
            scores<E, STEP, 1>(ds, values, pull);
            accumulate<E, STEP, 1, COLUMNS>(out_v, p, pull + column);
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    float& value = ds[0][n].values[j];
                    value = p[0][n].values[j] * (value - inner[(8 * n + 2 * (lane % 4) + j % 2) * SUM]);
                    if (capped) value *= slopes[n].values[j];
                }
            accumulate<E, STEP, 1, COLUMNS>(out_k, ds, own + column);
        }
        at = next;
        head = next_head;
    }
    const long to = kv_start + start * kv_stride + column;
    store<COLUMNS>(out_k[0], scale, scale, dk + to, kv_stride, tile.count - start);
    store<COLUMNS>(out_v[0], 1.0f, 1.0f, dv + to, kv_stride, tile.count - start);
}

#define ATTENTION_BACKWARD(E)                                                                                          \
    extern "C" __global__ void __launch_bounds__(QUERY_THREADS, 2) attention_backward_queries_##E(                    \
        const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const __nv_bfloat16* d_o,             \
        const float* lse, const float* delta, const QueryTile* tiles, int m, int heads, int kv_heads, int window,     \
        float scale, __nv_bfloat16* dq) {                                                                             \
        attention_backward_queries<E, false>(q, k, v, d_o, lse, delta, tiles, m, heads, kv_heads, window, scale,      \
                                             1.0f, dq);                                                               \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(QUERY_THREADS, 2) attention_backward_queries_capped_##E(             \
        const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const __nv_bfloat16* d_o,             \
        const float* lse, const float* delta, const QueryTile* tiles, int m, int heads, int kv_heads, int window,     \
        float scale, __nv_bfloat16* dq, float cap) {                                                                  \
        attention_backward_queries<E, true>(q, k, v, d_o, lse, delta, tiles, m, heads, kv_heads, window, scale, cap,  \
                                            dq);                                                                      \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(KEY_THREADS, 1) attention_backward_keys_##E(                         \
        const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const __nv_bfloat16* d_o,             \
        const float* lse, const float* delta, const KeyTile* tiles, int m, int heads, int kv_heads, int window,       \
        float scale, __nv_bfloat16* dk, __nv_bfloat16* dv) {                                                          \
        attention_backward_keys<E, false>(q, k, v, d_o, lse, delta, tiles, m, heads, kv_heads, window, scale, 1.0f,   \
                                          dk, dv);                                                                    \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(KEY_THREADS, 1) attention_backward_keys_capped_##E(                  \
        const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const __nv_bfloat16* d_o,             \
        const float* lse, const float* delta, const KeyTile* tiles, int m, int heads, int kv_heads, int window,       \
        float scale, __nv_bfloat16* dk, __nv_bfloat16* dv, float cap) {                                               \
        attention_backward_keys<E, true>(q, k, v, d_o, lse, delta, tiles, m, heads, kv_heads, window, scale, cap, dk, \
                                         dv);                                                                         \
    }

ATTENTION_BACKWARD(16)
ATTENTION_BACKWARD(32)
ATTENTION_BACKWARD(48)
ATTENTION_BACKWARD(64)
ATTENTION_BACKWARD(80)
ATTENTION_BACKWARD(96)
ATTENTION_BACKWARD(128)
ATTENTION_BACKWARD(256)
