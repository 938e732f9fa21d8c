// The gated activation h = gate(g) up and its gradient, a thread eight elements. Every gate is g s with s = sigmoid(z)
// and a z of its own.

#include "eight.cuh"

// SwiGLU: z = g.
struct Silu {
    static __device__ __forceinline__ float z(float g) { return g; }
    // g (1 - s) dz/dg, from g (1 - s).
    static __device__ __forceinline__ float sloped(float rest, float) { return rest; }
};

// GeGLU by the tanh form of GELU: z = 2 sqrt(2 / pi) (g + 0.044715 g^3).
struct GeluTanh {
    static constexpr float SLOPE = 1.5957691216f, CUBE = 0.044715f;
    static __device__ __forceinline__ float z(float g) { return SLOPE * (g + CUBE * (g * g * g)); }
    static __device__ __forceinline__ float sloped(float rest, float g) {
        return rest * (SLOPE + 3.0f * CUBE * SLOPE * (g * g));
    }
};

template <typename Gate>
__device__ __forceinline__ void forward_eight(const __nv_bfloat16* g, const __nv_bfloat16* up, long n, __nv_bfloat16* h) {
    const long i = 8 * (long(blockIdx.x) * blockDim.x + threadIdx.x);
    if (i >= n) return;
    const Eight gate = load_eight(g + i, n - i), other = load_eight(up + i, n - i);
    Eight out;
    for (int j = 0; j < 8; ++j) out.v[j] = gate.v[j] / (1.0f + expf(-Gate::z(gate.v[j]))) * other.v[j];
    store_eight(h + i, n - i, out);
}

// dup = dh g s; dg = dh up s (1 + g (1 - s) dz/dg).
template <typename Gate>
__device__ __forceinline__ void backward_eight(const __nv_bfloat16* dh, const __nv_bfloat16* g, const __nv_bfloat16* up,
                                               long n, __nv_bfloat16* dg, __nv_bfloat16* dup) {
    const long i = 8 * (long(blockIdx.x) * blockDim.x + threadIdx.x);
    if (i >= n) return;
    const Eight gradient = load_eight(dh + i, n - i), gate = load_eight(g + i, n - i), other = load_eight(up + i, n - i);
    Eight to_gate, to_up;
    for (int j = 0; j < 8; ++j) {
        const float s = 1.0f / (1.0f + expf(-Gate::z(gate.v[j])));
        to_up.v[j] = gradient.v[j] * gate.v[j] * s;
        to_gate.v[j] = gradient.v[j] * other.v[j] * s * (1.0f + Gate::sloped(gate.v[j] * (1.0f - s), gate.v[j]));
    }
    store_eight(dup + i, n - i, to_up);
    store_eight(dg + i, n - i, to_gate);
}

#define GLU(name, Gate)                                                                                                \
    extern "C" __global__ void glu_forward_##name(const __nv_bfloat16* g, const __nv_bfloat16* up, long n,             \
                                                  __nv_bfloat16* h) {                                                  \
        forward_eight<Gate>(g, up, n, h);                                                                              \
    }                                                                                                                  \
    extern "C" __global__ void glu_backward_##name(const __nv_bfloat16* dh, const __nv_bfloat16* g,                    \
                                                   const __nv_bfloat16* up, long n, __nv_bfloat16* dg,                 \
                                                   __nv_bfloat16* dup) {                                               \
        backward_eight<Gate>(dh, g, up, n, dg, dup);                                                                   \
    }

GLU(silu, Silu)
GLU(gelu_tanh, GeluTanh)
