// The gated activation h = silu(g) e and its gradient, a thread eight elements.

#include "eight.cuh"

extern "C" __global__ void swiglu_forward(const __nv_bfloat16* g, const __nv_bfloat16* e, long n, __nv_bfloat16* h) {
    const long i = 8 * (long(blockIdx.x) * blockDim.x + threadIdx.x);
    if (i >= n) return;
    const Eight gate = load_eight(g + i, n - i), up = load_eight(e + i, n - i);
    Eight out;
    for (int j = 0; j < 8; ++j) out.v[j] = gate.v[j] / (1.0f + expf(-gate.v[j])) * up.v[j];
    store_eight(h + i, n - i, out);
}

// With s = sigmoid(g): de = dh g s; dg = dh e s (1 + g (1 - s)).
extern "C" __global__ void swiglu_backward(const __nv_bfloat16* dh, const __nv_bfloat16* g, const __nv_bfloat16* e,
                                           long n, __nv_bfloat16* dg, __nv_bfloat16* de) {
    const long i = 8 * (long(blockIdx.x) * blockDim.x + threadIdx.x);
    if (i >= n) return;
    const Eight gradient = load_eight(dh + i, n - i), gate = load_eight(g + i, n - i), up = load_eight(e + i, n - i);
    Eight to_gate, to_up;
    for (int j = 0; j < 8; ++j) {
        const float s = 1.0f / (1.0f + expf(-gate.v[j]));
        to_up.v[j] = gradient.v[j] * gate.v[j] * s;
        to_gate.v[j] = gradient.v[j] * up.v[j] * s * (1.0f + gate.v[j] * (1.0f - s));
    }
    store_eight(de + i, n - i, to_up);
    store_eight(dg + i, n - i, to_gate);
}
