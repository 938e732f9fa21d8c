// The gated activation h = silu(g) e and its gradient, a thread an element.

#include <cuda_bf16.h>

extern "C" __global__ void swiglu_forward(const __nv_bfloat16* g, const __nv_bfloat16* e, long n, __nv_bfloat16* h) {
    const long i = long(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float gate = __bfloat162float(g[i]);
    h[i] = __float2bfloat16(gate / (1.0f + expf(-gate)) * __bfloat162float(e[i]));
}

// With s = sigmoid(g): de = dh g s; dg = dh e s (1 + g (1 - s)).
extern "C" __global__ void swiglu_backward(const __nv_bfloat16* dh, const __nv_bfloat16* g, const __nv_bfloat16* e,
                                           long n, __nv_bfloat16* dg, __nv_bfloat16* de) {
    const long i = long(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float gradient = __bfloat162float(dh[i]), gate = __bfloat162float(g[i]);
    const float s = 1.0f / (1.0f + expf(-gate));
    de[i] = __float2bfloat16(gradient * gate * s);
    dg[i] = __float2bfloat16(gradient * __bfloat162float(e[i]) * s * (1.0f + gate * (1.0f - s)));
}
