// Attention, backward, on Hopper: see attention_backward.cu. Scores of a tile are begun before the sums of the tile
// before, so that the tensor cores have work while weights are found.
#include "attention.cuh"
#include "warpgroup.cuh"

namespace hopper {

template <int E>
__device__ void attention_backward_queries(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v,
                                        const __nv_bfloat16* d_o, const float* lse, const float* delta,
                                        const QueryTile* tiles, int m, int heads, int kv_heads, int window, float scale,
                                        __nv_bfloat16* dq) {
    constexpr int KEYS = 128, T = 256;
    using Tile128 = Panels<E, 128>;
    SHARED_MEMORY(memory);
    __nv_bfloat16* queries = aligned(memory);
    __nv_bfloat16* pulls = queries + Tile128::ELEMENTS;
    // Keys are read for the sums of one tile while the scores of the next go on.
    __nv_bfloat16* keys = pulls + Tile128::ELEMENTS;
    __nv_bfloat16* values = keys + 3 * Tile128::ELEMENTS;
    const QueryTile tile = tiles[blockIdx.x];
    const int head = blockIdx.y, lane = threadIdx.x % 32, warp = own_warp(), start = 16 * warp;
    const long q_stride = long(heads) * E, kv_stride = long(kv_heads) * E;
    const long q_start = tile.query * q_stride + head * E;
    const long kv_start = tile.key * kv_stride + head / (heads / kv_heads) * E;
    const int last = tile.end + tile.count - 1, first = max(tile.end - window, 0) / KEYS * KEYS;
    const int steps = (last - first + KEYS - 1) / KEYS;
    const int low = tile.end + start, high = low + 15;

    auto copy_keys = [&](int i) {
        if (i < steps) {
            const int at = first + i * KEYS;
            const long from = kv_start + at * kv_stride;
            Tile128::template copy<T>(keys + i % 3 * Tile128::ELEMENTS, k + from, kv_stride, last - at);
            Tile128::template copy<T>(values + i % 2 * Tile128::ELEMENTS, v + from, kv_stride, last - at);
        }
        end_of_copies();
    };
    Tile128::template copy<T>(queries, q + q_start, q_stride, tile.count);
    Tile128::template copy<T>(pulls, d_o + q_start, q_stride, tile.count);
    copy_keys(0);
    copy_keys(1);

    float log_sum[2], inner[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = start + lane / 4 + 8 * half;
        const long at = long(head) * m + tile.query + row;
        log_sum[half] = row < tile.count ? lse[at] * LOG2_E : 0.0f;
        inner[half] = row < tile.count ? delta[at] : 0.0f;
    }
    const Place own = Place(queries + 64 * (start / 64 * 64), Tile128::PANEL_BYTES);
    const Place pull = Place(pulls + 64 * (start / 64 * 64), Tile128::PANEL_BYTES);
    FragmentC out[E / 8] = {}, s[KEYS / 8], dp[KEYS / 8];
    FragmentA weights[KEYS / 16];
    const float step = scale * LOG2_E;
    auto place_of_keys = [&](int i) { return Place(keys + i % 3 * Tile128::ELEMENTS, Tile128::PANEL_BYTES); };
    auto begin = [&](int i) {
        begin_scores<E, 128, 128>(s, own, place_of_keys(i));
        begin_scores<E, 128, 128>(dp, pull, Place(values + i % 2 * Tile128::ELEMENTS, Tile128::PANEL_BYTES));
    };
    auto weigh = [&](int i) {
        const int at = first + i * KEYS;
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) s[n].values[j] = power_of_2(s[n].values[j] * step - log_sum[j / 2]);
        if (at + KEYS > low || at < high - window) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int end = low + lane / 4 + 8 * (j / 2), key = at + 8 * n + 2 * (lane % 4) + j % 2;
                    if (key >= end || key < end - window) s[n].values[j] = 0.0f;
                }
        }
    };
    auto differences = [&] {
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int j = 0; j < 4; ++j) s[n].values[j] *= dp[n].values[j] - inner[j / 2];
    };
    auto round = [&] {
#pragma unroll
        for (int n = 0; n < KEYS / 16; ++n) weights[n] = rounded(s[2 * n], s[2 * n + 1]);
    };

    wait_for_copies<1>();
    show_to_products();
    __syncthreads();
    begin(0);
    wait_for_products<0>();
    settled(s);
    settled(dp);
    weigh(0);
    differences();
    round();
    for (int i = 0; i + 1 < steps; ++i) {
        wait_for_copies<0>();
        show_to_products();
        // Past this, keys and values of i + 1 are there, and all have done with keys of i - 1 and values of i.
        __syncthreads();
        copy_keys(i + 2);
        begin(i + 1);
        begin_sums<E>(out, weights, place_of_keys(i));
        wait_for_products<2>();
        settled(s);
        weigh(i + 1);
        settled(s);
        wait_for_products<1>();
        settled(dp);
        differences();
        settled(s);
        wait_for_products<0>();
        settled(out);
        round();
    }
    begin_sums<E>(out, weights, place_of_keys(steps - 1));
    wait_for_products<0>();
    settled(out);
    wait_for_copies<0>();
    store<E>(out, scale, scale, dq + q_start + start * q_stride, q_stride, tile.count - start);
}

template <int E>
__device__ void attention_backward_keys(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v,
                                     const __nv_bfloat16* d_o, const float* lse, const float* delta,
                                     const KeyTile* tiles, int m, int heads, int kv_heads, int window, float scale,
                                     __nv_bfloat16* dk, __nv_bfloat16* dv) {
    constexpr int QUERIES = 64, T = 256, STAGES = 3;
    using Tile128 = Panels<E, 128>;
    using Tile64 = Panels<E, QUERIES>;
    SHARED_MEMORY(memory);
    __nv_bfloat16* keys = aligned(memory);
    __nv_bfloat16* values = keys + Tile128::ELEMENTS;
    __nv_bfloat16* queries = values + Tile128::ELEMENTS;
    __nv_bfloat16* pulls = queries + STAGES * Tile64::ELEMENTS;
    float* log_sums = reinterpret_cast<float*>(pulls + STAGES * Tile64::ELEMENTS);
    float* inners = log_sums + STAGES * QUERIES;
    const KeyTile tile = tiles[blockIdx.x];
    const int group = heads / kv_heads, lane = threadIdx.x % 32, start = 16 * own_warp();
    const long q_stride = long(heads) * E, kv_stride = long(kv_heads) * E;
    const long kv_start = tile.key * kv_stride + blockIdx.y * E;
    // Queries that see any key of the tile; the sum avoids what a window of "all" would overflow.
    const int first = max(tile.first - tile.shift, 0) / QUERIES * QUERIES;
    const int beyond = tile.first + tile.count - 1 - tile.shift;
    const int last = window < tile.queries - beyond ? beyond + window : tile.queries;
    const int steps = last > first ? (last - first + QUERIES - 1) / QUERIES * group : 0;
    // Keys of the warp are [low, low + 16) of the sequence.
    const int low = tile.first + start;

    // The tile of queries that is copied next: all of one head, then those of the next; and the one weighed next.
    int copied = first, copied_head = blockIdx.y * group, copied_stage = 0, weighed = first;
    const int heads_end = copied_head + group;
    auto copy_queries = [&] {
        if (copied_head < heads_end && first < last) {
            const long from = (tile.query + copied) * q_stride + copied_head * E;
            const long sums = long(copied_head) * m + tile.query + copied;
            const int there = last - copied;
            Tile64::template copy<T>(queries + copied_stage * Tile64::ELEMENTS, q + from, q_stride, there);
            Tile64::template copy<T>(pulls + copied_stage * Tile64::ELEMENTS, d_o + from, q_stride, there);
            const int row = threadIdx.x % QUERIES;
            if (threadIdx.x < QUERIES) {
                copy_4(log_sums + copied_stage * QUERIES + row, lse + (row < there ? sums + row : 0), row < there);
            } else if (threadIdx.x < 2 * QUERIES) {
                copy_4(inners + copied_stage * QUERIES + row, delta + (row < there ? sums + row : 0), row < there);
            }
            copied += QUERIES;
            if (copied >= last) copied = first, ++copied_head;
            copied_stage = copied_stage == STAGES - 1 ? 0 : copied_stage + 1;
        }
        end_of_copies();
    };
    Tile128::template copy<T>(keys, k + kv_start, kv_stride, tile.count);
    Tile128::template copy<T>(values, v + kv_start, kv_stride, tile.count);
    copy_queries();
    copy_queries();

    const Place own_keys = Place(keys + 64 * (start / 64 * 64), Tile128::PANEL_BYTES);
    const Place own_values = Place(values + 64 * (start / 64 * 64), Tile128::PANEL_BYTES);
    FragmentC out_k[E / 8] = {}, out_v[E / 8] = {}, p[QUERIES / 8], ds[QUERIES / 8];
    FragmentA weights[QUERIES / 16], changes[QUERIES / 16];
    const float step = scale * LOG2_E;
    auto place = [&](__nv_bfloat16* of, int stage) { return Place(of + stage * Tile64::ELEMENTS, Tile64::PANEL_BYTES); };
    auto begin = [&](int stage) {
        begin_scores<E, 128, QUERIES>(p, own_keys, place(queries, stage));
        begin_scores<E, 128, QUERIES>(ds, own_values, place(pulls, stage));
    };
    auto weigh = [&](int stage) {
        const float* log_sum = log_sums + stage * QUERIES + 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < QUERIES / 8; ++n) {
            const float sums[2] = {log_sum[8 * n] * LOG2_E, log_sum[8 * n + 1] * LOG2_E};
#pragma unroll
            for (int j = 0; j < 4; ++j) p[n].values[j] = power_of_2(p[n].values[j] * step - sums[j % 2]);
        }
        // The first and the last query of the tile see keys below `from` and below `to`.
        const int from = weighed + 1 + tile.shift, to = from + QUERIES - 1;
        if (low + 15 >= from || low < to - window) {
#pragma unroll
            for (int n = 0; n < QUERIES / 8; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int key = low + lane / 4 + 8 * (j / 2), end = from + 8 * n + 2 * (lane % 4) + j % 2;
                    if (key >= end || key < end - window) p[n].values[j] = 0.0f;
                }
        }
        weighed = weighed + QUERIES >= last ? first : weighed + QUERIES;
    };
    auto differences = [&](int stage) {
        const float* inner = inners + stage * QUERIES + 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < QUERIES / 8; ++n) {
            const float sums[2] = {inner[8 * n], inner[8 * n + 1]};
#pragma unroll
            for (int j = 0; j < 4; ++j) ds[n].values[j] = p[n].values[j] * (ds[n].values[j] - sums[j % 2]);
        }
    };
    auto round = [&] {
#pragma unroll
        for (int n = 0; n < QUERIES / 16; ++n) {
            weights[n] = rounded(p[2 * n], p[2 * n + 1]);
            changes[n] = rounded(ds[2 * n], ds[2 * n + 1]);
        }
    };
    auto begin_both = [&](int stage) {
        begin_sums<E>(out_v, weights, place(pulls, stage));
        begin_sums<E>(out_k, changes, place(queries, stage));
    };

    if (steps > 0) {
        wait_for_copies<1>();
        show_to_products();
        __syncthreads();
        begin(0);
        wait_for_products<0>();
        settled(p);
        settled(ds);
        weigh(0);
        differences(0);
        round();
        int stage = 0;
        for (int i = 0; i + 1 < steps; ++i) {
            const int next = stage == STAGES - 1 ? 0 : stage + 1;
            wait_for_copies<0>();
            show_to_products();
            // Past this, queries of i + 1 are there, and all have done with those of i - 1.
            __syncthreads();
            copy_queries();
            begin(next);
            begin_both(stage);
            wait_for_products<3>();
            settled(p);
            weigh(next);
            settled(p);
            wait_for_products<2>();
            settled(ds);
            differences(next);
            settled(ds);
            wait_for_products<0>();
            settled(out_v);
            settled(out_k);
            round();
            stage = next;
        }
        begin_both(stage);
        wait_for_products<0>();
        settled(out_v);
        settled(out_k);
    }
    wait_for_copies<0>();
    const long to = kv_start + start * kv_stride;
    store<E>(out_k, scale, scale, dk + to, kv_stride, tile.count - start);
    store<E>(out_v, 1.0f, 1.0f, dv + to, kv_stride, tile.count - start);
}

}  // namespace hopper

#define ATTENTION_BACKWARD_HOPPER(E)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256, 1) attention_backward_hopper_queries_##E(                       \
        const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const __nv_bfloat16* d_o,             \
        const float* lse, const float* delta, const QueryTile* tiles, int m, int heads, int kv_heads, int window,     \
        float scale, __nv_bfloat16* dq) {                                                                             \
        hopper::attention_backward_queries<E>(q, k, v, d_o, lse, delta, tiles, m, heads, kv_heads, window, scale, dq);        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1) attention_backward_hopper_keys_##E(                          \
        const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const __nv_bfloat16* d_o,             \
        const float* lse, const float* delta, const KeyTile* tiles, int m, int heads, int kv_heads, int window,       \
        float scale, __nv_bfloat16* dk, __nv_bfloat16* dv) {                                                          \
        hopper::attention_backward_keys<E>(q, k, v, d_o, lse, delta, tiles, m, heads, kv_heads, window, scale, dk, dv);       \
    }

ATTENTION_BACKWARD_HOPPER(64)
ATTENTION_BACKWARD_HOPPER(128)
