// Rotary position embedding in the halves layout of Hugging Face's models; a thread turns a pair.

#include <cuda_bf16.h>

// x [M, width] to y, heads of `head` elements; cos and sin are [T, head / 2] and `sign` is 1 forward, -1 back.
extern "C" __global__ void rope(const __nv_bfloat16* x, const unsigned* positions, const float* cosines,
                                const float* sines, long pairs, int width, int head, float sign, __nv_bfloat16* y) {
    const long pair = long(blockIdx.x) * blockDim.x + threadIdx.x;
    if (pair >= pairs) return;
    const int half = head / 2;
    const long row = pair / (width / 2);
    const int within = int(pair % (width / 2));
    const int i = within % half;
    const long at = row * width + long(within / half) * head + i;
    const long angle = long(positions[row]) * half + i;
    const float a = __bfloat162float(x[at]), b = __bfloat162float(x[at + half]);
    const float c = cosines[angle], s = sines[angle] * sign;
    y[at] = __float2bfloat16(a * c - b * s);
    y[at + half] = __float2bfloat16(b * c + a * s);
}
