// Attention, forward (Dao, FlashAttention-2, 2023): a block owns 64 queries of one head and goes over the keys that they
// see, 64 at a time, with a running maximum and sum for each query. The next keys are copied while these are at work.

#include "attention.cuh"

template <int E>
__device__ void attention_forward(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v,
                                  const QueryTile* tiles, int m, int heads, int kv_heads, int window, float scale,
                                  __nv_bfloat16* o, float* lse) {
    constexpr int KEYS = 64;
    SHARED_MEMORY(memory);
    __nv_bfloat16* queries = reinterpret_cast<__nv_bfloat16*>(memory);
    __nv_bfloat16* keys = queries + Tile<E>::elements(OWN);
    __nv_bfloat16* values = keys + 2 * Tile<E>::elements(KEYS);
    const QueryTile tile = tiles[blockIdx.x];
    const int head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const long q_stride = long(heads) * E, kv_stride = long(kv_heads) * E;
    const long kv_start = tile.key * kv_stride + head / (heads / kv_heads) * E;
    // Keys that any query of the tile sees.
    const int last = tile.end + tile.count - 1, first = max(tile.end - window, 0) / KEYS * KEYS;

    auto copy_keys = [&](int at, int stage) {
        const long from = kv_start + at * kv_stride;
        Tile<E>::template copy<KEYS>(keys + stage * Tile<E>::elements(KEYS), k + from, kv_stride, last - at);
        Tile<E>::template copy<KEYS>(values + stage * Tile<E>::elements(KEYS), v + from, kv_stride, last - at);
        end_of_copies();
    };
    Tile<E>::template copy<OWN>(queries, q + tile.query * q_stride + head * E, q_stride, tile.count);
    copy_keys(first, 0);

    FragmentC out[E / 8] = {};
    float top[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
    const float step = scale * LOG2_E;
    for (int at = first, stage = 0; at < last; at += KEYS, stage ^= 1) {
        const bool more = at + KEYS < last;
        if (more) copy_keys(at + KEYS, stage ^ 1);
        wait_for_tile(more);
        FragmentC s[KEYS / 8];
        scores<E, KEYS>(s, queries, 16 * warp, keys + stage * Tile<E>::elements(KEYS));
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int end = tile.end + 16 * warp + lane / 4 + 8 * half;
            float highest = top[half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
                for (int j = 0; j < 2; ++j) {
                    const int key = at + 8 * n + 2 * (lane % 4) + j;
                    float& value = s[n].values[2 * half + j];
                    value = key < end && key >= end - window ? value * step : -INFINITY;
                    highest = fmaxf(highest, value);
                }
            }
            highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
            highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
            // A query that has seen no key yet has no maximum either.
            const float base = highest == -INFINITY ? 0.0f : highest, shrink = exp2f(top[half] - base);
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
                for (int j = 0; j < 2; ++j) {
                    float& value = s[n].values[2 * half + j];
                    value = exp2f(value - base);
                    sum += value;
                }
            }
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            total[half] = total[half] * shrink + sum;
            top[half] = highest;
#pragma unroll
            for (int n = 0; n < E / 8; ++n) {
                out[n].values[2 * half] *= shrink;
                out[n].values[2 * half + 1] *= shrink;
            }
        }
        accumulate<E, KEYS>(out, s, values + stage * Tile<E>::elements(KEYS));
        // The tile that was read is written next.
        __syncthreads();
    }
    const int row = 16 * warp, count = tile.count - row;
    store<E>(out, 1.0f / total[0], 1.0f / total[1], o + (tile.query + row) * q_stride + head * E, q_stride, count);
    if (lane % 4 != 0) return;
    for (int half = 0; half < 2; ++half) {
        const int within = lane / 4 + 8 * half;
        if (within < count) {
            lse[long(head) * m + tile.query + row + within] = top[half] / LOG2_E + logf(total[half]);
        }
    }
}

#define ATTENTION_FORWARD(E)                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_forward_##E(                                      \
        const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const QueryTile* tiles, int m,        \
        int heads, int kv_heads, int window, float scale, __nv_bfloat16* o, float* lse) {                             \
        attention_forward<E>(q, k, v, tiles, m, heads, kv_heads, window, scale, o, lse);                              \
    }

ATTENTION_FORWARD(16)
ATTENTION_FORWARD(32)
ATTENTION_FORWARD(64)
ATTENTION_FORWARD(128)
