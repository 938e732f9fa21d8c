// Rotary position embedding in the halves layout of Hugging Face's models; a thread turns eight neighboring pairs, or one
// where a head has no whole eights of them, or copies as many elements of the part of a head that stays.

#include "eight.cuh"

// Turns `run` pairs at `at`, which lie `pairs` elements apart.
__device__ __forceinline__ void turn(const __nv_bfloat16* x, const float* cosines, const float* sines, int pairs, int run,
                                     float sign, __nv_bfloat16* y) {
    const Eight a = load_eight(x, run), b = load_eight(x + pairs, run);
    const Eight c = load_eight(cosines, run), s = load_eight(sines, run);
    Eight first, second;
    for (int j = 0; j < 8; ++j) {
        const float turned = s.v[j] * sign;
        first.v[j] = a.v[j] * c.v[j] - b.v[j] * turned;
        second.v[j] = b.v[j] * c.v[j] + a.v[j] * turned;
    }
    store_eight(y, run, first);
    store_eight(y + pairs, run, second);
}

// x [M, width] to y, heads of `head` elements, of which the first 2 `pairs` are turned; cos and sin are [T, pairs] and
// `sign` is 1 forward, -1 back. `run` is 8 where `pairs` is a multiple of 8, else 1. A head has `runs` runs, and all heads
// `total`, fewer than 2^32: divisions of 64 bits would take longer than the memory.
extern "C" __global__ void rope(const __nv_bfloat16* x, const unsigned* positions, const float* cosines,
                                const float* sines, long total, int width, int head, int pairs, int run, int runs,
                                float sign, __nv_bfloat16* y) {
    const unsigned own = blockIdx.x * blockDim.x + threadIdx.x;
    if (own >= total) return;
    const unsigned head_of_all = own / unsigned(runs), heads = unsigned(width / head);
    const unsigned row = head_of_all / heads;
    const int i = int(own % unsigned(runs)) * run;
    const long at = long(head_of_all) * head + i;
    if (i < pairs) {
        const long angle = long(positions[row]) * pairs + i;
        turn(x + at, cosines + angle, sines + angle, pairs, run, sign, y + at);
    } else {
        // Behind the last pair, whose second element is `pairs` further than its first.
        const int left = head - pairs - i, count = left < run ? left : run;
        store_packed(y + at + pairs, count, load_packed(x + at + pairs, count));
    }
}
