// Rotary position embedding in the halves layout of Hugging Face's models; a thread turns eight neighbouring pairs, or one
// where heads are too small for that.

#include "eight.cuh"

// x [M, width] to y, heads of `head` elements; cos and sin are [T, head / 2] and `sign` is 1 forward, -1 back. `run` is 8
// where head / 2 is a multiple of 8, else 1.
extern "C" __global__ void rope(const __nv_bfloat16* x, const unsigned* positions, const float* cosines,
                                const float* sines, long pairs, int width, int head, int run, float sign,
                                __nv_bfloat16* y) {
    const long pair = run * (long(blockIdx.x) * blockDim.x + threadIdx.x);
    if (pair >= pairs) return;
    const int half = head / 2;
    const long row = pair / (width / 2);
    const int within = int(pair % (width / 2));
    const int i = within % half;
    const long at = row * width + long(within / half) * head + i;
    const long angle = long(positions[row]) * half + i;
    const Eight a = load_eight(x + at, run), b = load_eight(x + at + half, run);
    Eight first, second;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        if (j >= run) break;
        const float c = cosines[angle + j], s = sines[angle + j] * sign;
        first.v[j] = a.v[j] * c - b.v[j] * s;
        second.v[j] = b.v[j] * c + a.v[j] * s;
    }
    store_eight(y + at, run, first);
    store_eight(y + at + half, run, second);
}
