// Attention, forward, on Hopper: see attention_forward.cu. Here a warpgroup has 64 queries, and goes over keys 128 at
// a time: while the softmax of one tile is found, the tensor cores multiply the weights of the one before with its
// values, and the scores of the next begin before that.
#include "attention.cuh"
#include "warpgroup.cuh"

namespace hopper {

template <int E>
__device__ void attention_forward(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v,
                                  const QueryTile* tiles, int m, int heads, int kv_heads, int window, float scale,
                                  __nv_bfloat16* o, float* lse) {
    constexpr int KEYS = 128, T = 256;
    using Tile128 = Panels<E, 128>;
    SHARED_MEMORY(memory);
    __nv_bfloat16* queries = aligned(memory);
    __nv_bfloat16* keys = queries + Tile128::ELEMENTS;
    __nv_bfloat16* values = keys + 2 * Tile128::ELEMENTS;
    const QueryTile tile = tiles[blockIdx.x];
    const int head = blockIdx.y, lane = threadIdx.x % 32, warp = own_warp(), start = 16 * warp;
    const long q_stride = long(heads) * E, kv_stride = long(kv_heads) * E;
    const long kv_start = tile.key * kv_stride + head / (heads / kv_heads) * E;
    const int last = tile.end + tile.count - 1, first = max(tile.end - window, 0) / KEYS * KEYS;
    const int steps = (last - first + KEYS - 1) / KEYS;
    // The first query of the warp sees keys below `low`, the last one below `high`.
    const int low = tile.end + start, high = low + 15;

    auto copy_keys = [&](int i) {
        const int at = first + i * KEYS;
        if (i >= steps) return;
        Tile128::template copy<T>(keys + i % 2 * Tile128::ELEMENTS, k + kv_start + at * kv_stride, kv_stride, last - at);
    };
    auto copy_values = [&](int i) {
        const int at = first + i * KEYS;
        if (i >= steps) return;
        Tile128::template copy<T>(values + i % 2 * Tile128::ELEMENTS, v + kv_start + at * kv_stride, kv_stride, last - at);
    };
    Tile128::template copy<T>(queries, q + tile.query * q_stride + head * E, q_stride, tile.count);
    copy_keys(0);
    end_of_copies();
    copy_keys(1);
    copy_values(0);
    end_of_copies();

    const Place own = Place(queries + 64 * (start / 64 * 64), Tile128::PANEL_BYTES);
    FragmentC out[E / 8] = {}, s[KEYS / 8];
    FragmentA weights[KEYS / 16];
    float base[2] = {-INFINITY, -INFINITY}, total[2] = {}, shrink[2];
    const float step = scale * LOG2_E;

    auto begin = [&](int i) {
        begin_scores<E, 128, 128>(s, own, Place(keys + i % 2 * Tile128::ELEMENTS, Tile128::PANEL_BYTES));
    };
    // Weights of tile i in place of its scores; whether sums so far are to be multiplied by `shrink`.
    auto softmax = [&](int i) {
        const int at = first + i * KEYS;
        if (at + KEYS > low || at < high - window) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int end = low + lane / 4 + 8 * (j / 2), key = at + 8 * n + 2 * (lane % 4) + j % 2;
                    if (key >= end || key < end - window) s[n].values[j] = -INFINITY;
                }
        }
        bool grown = false;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float highest = -INFINITY;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
                const float* pair = s[n].values + 2 * half;
                highest = fmaxf(highest, fmaxf(pair[0], pair[1]));
            }
            highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
            highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2)) * step;
            // The base need not be the maximum, only near it.
            const bool above = highest > base[half] + MOST_ABOVE;
            const float next = above ? highest : base[half];
            // A query that has seen no key yet has no base either.
            const float used = next == -INFINITY ? 0.0f : next;
            shrink[half] = above ? power_of_2(base[half] - next) : 1.0f;
            base[half] = next;
            grown |= above;
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
                float* pair = s[n].values + 2 * half;
                pair[0] = power_of_2(pair[0] * step - used);
                pair[1] = power_of_2(pair[1] * step - used);
                sum += pair[0] + pair[1];
            }
            total[half] = total[half] * shrink[half] + sum;
        }
        return for_any_lane(grown);
    };
    auto round = [&] {
#pragma unroll
        for (int n = 0; n < KEYS / 16; ++n) weights[n] = rounded(s[2 * n], s[2 * n + 1]);
    };
    auto place_of_values = [&](int i) { return Place(values + i % 2 * Tile128::ELEMENTS, Tile128::PANEL_BYTES); };

    wait_for_copies<1>();
    show_to_products();
    __syncthreads();
    begin(0);
    wait_for_products<0>();
    settled(s);
    softmax(0);
    round();
    for (int i = 0; i + 1 < steps; ++i) {
        wait_for_copies<0>();
        show_to_products();
        // Past this, keys of i + 1 and values of i are there, and all have done with keys of i and values of i - 1.
        __syncthreads();
        copy_keys(i + 2);
        copy_values(i + 1);
        end_of_copies();
        begin(i + 1);
        begin_sums<E>(out, weights, place_of_values(i));
        wait_for_products<1>();
        settled(s);
        const bool grown = softmax(i + 1);
        settled(s);
        // Always so, which the compiler does not know: without a branch it draws the wait before the weights, and the
        // tensor cores have nothing to do while those are found. The whole warpgroup takes the same one.
        if (window > 0) {
            wait_for_products<0>();
        } else {
            wait_for_all_products();
        }
        settled(out);
        if (grown) {
#pragma unroll
            for (int n = 0; n < E / 8; ++n)
#pragma unroll
                for (int j = 0; j < 4; ++j) out[n].values[j] *= shrink[j / 2];
        }
        round();
    }
    wait_for_copies<0>();
    show_to_products();
    __syncthreads();
    begin_sums<E>(out, weights, place_of_values(steps - 1));
    wait_for_products<0>();
    settled(out);

    const int left = tile.count - start;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
        total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
        const int within = lane / 4 + 8 * half;
        if (lane % 4 == 0 && within < left) {
            lse[long(head) * m + tile.query + start + within] = base[half] / LOG2_E + logf(total[half]);
        }
    }
    store<E>(out, 1.0f / total[0], 1.0f / total[1], o + (tile.query + start) * q_stride + head * E, q_stride, left);
}

}  // namespace hopper

#define ATTENTION_FORWARD_HOPPER(E)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256, 1) attention_forward_hopper_##E(                                \
        const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const QueryTile* tiles, int m,        \
        int heads, int kv_heads, int window, float scale, __nv_bfloat16* o, float* lse) {                             \
        hopper::attention_forward<E>(q, k, v, tiles, m, heads, kv_heads, window, scale, o, lse);                              \
    }

ATTENTION_FORWARD_HOPPER(64)
ATTENTION_FORWARD_HOPPER(128)
