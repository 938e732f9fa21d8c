// Rotary position embedding in the halves layout of Hugging Face's models; a thread turns eight neighbouring pairs, or one
// where heads are too small for that.

#include "eight.cuh"

// x [M, width] to y, heads of `head` elements; cos and sin are [T, head / 2] and `sign` is 1 forward, -1 back. `run` is 8
// where head / 2 is a multiple of 8, else 1. There are fewer than 2^32 runs: divisions of 64 bits would take longer than
// the memory.
extern "C" __global__ void rope(const __nv_bfloat16* x, const unsigned* positions, const float* cosines,
                                const float* sines, long pairs, int width, int head, int run, float sign,
                                __nv_bfloat16* y) {
    const unsigned own = blockIdx.x * blockDim.x + threadIdx.x, runs_of_row = unsigned(width / 2 / run);
    if (long(own) * run >= pairs) return;
    const int half = head / 2;
    const unsigned row = own / runs_of_row;
    const int within = int(own % runs_of_row) * run;
    const int i = within % half;
    const long at = long(row) * width + long(within / half) * head + i;
    const long angle = long(positions[row]) * half + i;
    const Eight a = load_eight(x + at, run), b = load_eight(x + at + half, run);
    const Eight c = load_eight(cosines + angle, run), s = load_eight(sines + angle, run);
    Eight first, second;
    for (int j = 0; j < 8; ++j) {
        const float turned = s.v[j] * sign;
        first.v[j] = a.v[j] * c.v[j] - b.v[j] * turned;
        second.v[j] = b.v[j] * c.v[j] + a.v[j] * turned;
    }
    store_eight(y + at, run, first);
    store_eight(y + at + half, run, second);
}
