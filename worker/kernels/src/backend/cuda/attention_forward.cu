// Attention, forward (Dao, FlashAttention-2, 2023): a block owns 128 queries of one head, a warp 32 of them, and goes
// over the keys that they see, 64 at a time, with a running base and sum for each query. The next keys are copied
// while these are at work. Two tiles of 16 queries share each operand that is read from shared memory. `Share` says what
// is less for large heads.

#include "attention.cuh"

template <int E, bool capped>
__device__ void attention_forward(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v,
                                  const QueryTile* tiles, int m, int heads, int kv_heads, int window, float scale,
                                  float cap, __nv_bfloat16* o, float* lse) {
    constexpr int KEYS = E > 64 ? 32 : 64, ROWS = Share<E>::ROWS, R = Share<E>::R, QUERIES = Share<E>::QUERIES;
    SHARED_MEMORY(memory);
    __nv_bfloat16* queries = reinterpret_cast<__nv_bfloat16*>(memory);
    __nv_bfloat16* keys = queries + Tile<E>::elements(ROWS);
    __nv_bfloat16* values = keys + 2 * Tile<E>::elements(KEYS);
    const QueryTile tile = part_of<E>(tiles);
    if (tile.count <= 0) return;
    const int head = blockIdx.y, lane = threadIdx.x % 32, start = QUERIES * own_warp();
    const long q_stride = long(heads) * E, kv_stride = long(kv_heads) * E;
    const long kv_start = tile.key * kv_stride + head / (heads / kv_heads) * E;
    // Keys that any query of the tile sees.
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
    const __nv_bfloat16* own = q + tile.query * q_stride + head * E;
    Tile<E>::template copy<ROWS, QUERY_THREADS>(queries, own, q_stride, tile.count);
    copy_keys(first, 0);

    FragmentC out[R][E / 8] = {};
    // P is 2 to the power of scores less this base. A thread has the sum of its own keys until the end.
    float base[R][2], total[R][2] = {};
#pragma unroll
    for (int r = 0; r < R; ++r) base[r][0] = base[r][1] = -INFINITY;
    const SoftCap under(cap, scale);
    const float step = capped ? LOG2_E : scale * LOG2_E;
    for (int at = first, stage = 0; at < last; at += KEYS, stage ^= 1) {
        wait_for_copies<0>();
        // Past this, all have done with the tile before, whose place the next one takes.
        __syncthreads();
        if (at + KEYS < last) copy_keys(at + KEYS, stage ^ 1);
        if (count <= 0 || at >= high || at + KEYS <= low - window) continue;
        FragmentC s[R][KEYS / 8];
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
        float shrink[R][2];
        bool grown = false;
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float highest = -INFINITY;
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n) {
                    const float* pair = s[r][n].values + 2 * half;
                    highest = fmaxf(highest, fmaxf(pair[0], pair[1]));
                }
                highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
                highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2)) * step;
                // The base need not be the maximum, only near it.
                const bool above = highest > base[r][half] + MOST_ABOVE;
                const float next = above ? highest : base[r][half];
                // A query that has seen no key yet has no base either.
                const float used = next == -INFINITY ? 0.0f : next;
                shrink[r][half] = above ? power_of_2(base[r][half] - next) : 1.0f;
                base[r][half] = next;
                grown |= above;
                float sum = 0.0f;
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n) {
                    float* pair = s[r][n].values + 2 * half;
                    pair[0] = power_of_2(pair[0] * step - used);
                    pair[1] = power_of_2(pair[1] * step - used);
                    sum += pair[0] + pair[1];
                }
                total[r][half] = total[r][half] * shrink[r][half] + sum;
            }
        if (for_any_lane(grown)) {
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int n = 0; n < E / 8; ++n)
#pragma unroll
                    for (int j = 0; j < 4; ++j) out[r][n].values[j] *= shrink[r][j / 2];
        }
        accumulate<E, KEYS, R>(out, s, values + stage * Tile<E>::elements(KEYS));
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
        const int row = start + 16 * r, left = tile.count - row;
        float sums[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            sums[half] = total[r][half];
            sums[half] += __shfl_xor_sync(0xffffffffu, sums[half], 1);
            sums[half] += __shfl_xor_sync(0xffffffffu, sums[half], 2);
            const int within = lane / 4 + 8 * half;
            if (lane % 4 == 0 && within < left) {
                lse[long(head) * m + tile.query + row + within] = base[r][half] / LOG2_E + logf(sums[half]);
            }
        }
        __nv_bfloat16* to = o + (tile.query + row) * q_stride + head * E;
        store<E>(out[r], 1.0f / sums[0], 1.0f / sums[1], to, q_stride, left);
    }
}

#define ATTENTION_FORWARD(E)                                                                                           \
    extern "C" __global__ void __launch_bounds__(QUERY_THREADS, 2) attention_forward_##E(                             \
        const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const QueryTile* tiles, int m,        \
        int heads, int kv_heads, int window, float scale, __nv_bfloat16* o, float* lse) {                             \
        attention_forward<E, false>(q, k, v, tiles, m, heads, kv_heads, window, scale, 1.0f, o, lse);                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(QUERY_THREADS, 2) attention_forward_capped_##E(                      \
        const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const QueryTile* tiles, int m,        \
        int heads, int kv_heads, int window, float scale, __nv_bfloat16* o, float* lse, float cap) {                  \
        attention_forward<E, true>(q, k, v, tiles, m, heads, kv_heads, window, scale, cap, o, lse);                   \
    }

ATTENTION_FORWARD(16)
ATTENTION_FORWARD(32)
ATTENTION_FORWARD(48)
ATTENTION_FORWARD(64)
ATTENTION_FORWARD(80)
ATTENTION_FORWARD(96)
ATTENTION_FORWARD(128)
ATTENTION_FORWARD(256)
