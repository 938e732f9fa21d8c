// NF4 with double quantization to bf16, and the way there from bf16 or f32.
//
// A lane has eight neighboring elements: 4 bytes of codes and 16 of bf16, so that the loads and stores of a warp lie
// side by side. Tables lie in shared memory: their sixteen values are in sixteen banks, so look-ups never collide.

#include "block.cuh"
#include "eight.cuh"

// What a code of four bits stands for (QLoRA, Dettmers et al., 2023, as bitsandbytes has it).
__device__ const float NF4[16] = {
    -1.0f, -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0.0f,
    0.0795803f, 0.1609302f, 0.2461123f, 0.33791524f, 0.44070983f, 0.562617f, 0.72295684f, 1.0f,
};

// Eights of a thread, a warp's width apart.
constexpr int EIGHTS = 4;

// The codes of an eight, the first in the low byte; bytes beyond the matrix are not read.
__device__ __forceinline__ unsigned load_nibbles(const unsigned char* at, long there) {
    if (there >= 8) return *reinterpret_cast<const unsigned*>(at);
    unsigned word = 0;
    for (int b = 0; 2 * b < there; ++b) word |= unsigned(at[b]) << (8 * b);
    return word;
}

// Blocks of `block` elements, a multiple of 32, run over the flattened matrix; element 2i is in the high nibble.
// Second-level scales are map[code] x group scale + offset; plain scales have no codes. All loads of a thread come
// before the tables are waited for.
extern "C" __global__ void nf4_to_bf16(const unsigned char* packed_codes, const unsigned char* codes,
                                       const float* scales, const float* map, float offset, long elements, int block,
                                       __nv_bfloat16* out) {
    __shared__ float table[16];
    __shared__ float levels[256];
    const unsigned lane = threadIdx.x % 32, warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    // Eights are fewer than 2^32: divisions of 64 bits would take longer than the memory.
    const unsigned first = warp * (32 * EIGHTS) + lane, eights_of_scale = unsigned(block) / 8;
    unsigned words[EIGHTS] = {}, level[EIGHTS] = {};
    float scale[EIGHTS] = {};
#pragma unroll
    for (int k = 0; k < EIGHTS; ++k) {
        const long eight = first + 32 * k, there = elements - 8 * eight;
        if (there <= 0) continue;
        const unsigned of = unsigned(eight) / eights_of_scale;
        words[k] = load_nibbles(packed_codes + 4 * eight, there);
        if (codes != nullptr) level[k] = codes[of];
        scale[k] = scales[codes == nullptr ? of : of / 256];
    }
    if (threadIdx.x < 16) table[threadIdx.x] = NF4[threadIdx.x];
    for (unsigned i = threadIdx.x; codes != nullptr && i < 256; i += blockDim.x) levels[i] = map[i];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < EIGHTS; ++k) {
        const long eight = first + 32 * k, there = elements - 8 * eight;
        if (there <= 0) continue;
        // Rounded twice, as bitsandbytes and the CPU do: the compiler would make one fused operation of it.
        if (codes != nullptr) scale[k] = __fadd_rn(__fmul_rn(levels[level[k]], scale[k]), offset);
        Eight values;
        for (int b = 0; b < 4; ++b) {
            const unsigned byte = words[k] >> (8 * b) & 255;
            values.v[2 * b] = table[byte >> 4] * scale[k];
            values.v[2 * b + 1] = table[byte & 15] * scale[k];
        }
        store_eight(out + 8 * eight, there, values);
    }
}

// Half way between neighboring codes; one that lies there takes the lower code.
__device__ const float NF4_MIDPOINTS[15] = {
    -0.8480964f, -0.6106329f, -0.45999527f, -0.33967942f, -0.2346074f, -0.13791174f, -0.045525018f, 0.03979015f,
    0.12025525f, 0.20352125f, 0.29201376f, 0.38931254f, 0.50166345f, 0.6427869f, 0.86147845f,
};

// Never divided by less, as on the CPU.
constexpr float SMALLEST_SCALE = 1e-38f;

// How many of the midpoints are below x, by halving.
__device__ __forceinline__ unsigned code_of(const float* midpoints, float x) {
    unsigned code = x > midpoints[7] ? 8 : 0;
    code += x > midpoints[code + 3] ? 4 : 0;
    code += x > midpoints[code + 1] ? 2 : 0;
    return code + (x > midpoints[code] ? 1 : 0);
}

// Two codes a byte for the first of `there` elements. A nibble that pads an odd end stands for zero.
__device__ __forceinline__ void store_nibbles(unsigned char* at, int there, const float* midpoints,
                                              const Eight& normal) {
    unsigned word = 0;
    for (int j = 0; j < 8; ++j) word |= code_of(midpoints, normal.v[j]) << (8 * (j / 2) + (j % 2 == 0 ? 4 : 0));
    if (there >= 8 && reinterpret_cast<unsigned long long>(at) % 4 == 0) {
        *reinterpret_cast<unsigned*>(at) = word;
    } else {
        for (int b = 0; b < 4 && 2 * b < there; ++b) at[b] = static_cast<unsigned char>(word >> (8 * b));
    }
}

__device__ __forceinline__ float largest_of(const Eight& x) {
    float top = 0.0f;
    for (int j = 0; j < 8; ++j) top = fmaxf(top, fabsf(x.v[j]));
    return top;
}

// So many lanes that each has eight of `block` elements, but 32 at the most, quantize them: their largest magnitude, and
// two codes a byte. The arithmetic is the CPU's, which is bitsandbytes': a whole block is multiplied by 1 / absmax, a
// partial one divided by absmax. `block` is even.
template <typename T>
__device__ void nf4_quantize(const T* weights, long elements, int block, unsigned char* codes, float* absmax) {
    __shared__ float midpoints[16];
    if (threadIdx.x < 15) midpoints[threadIdx.x] = NF4_MIDPOINTS[threadIdx.x];
    __syncthreads();
    int log = 0;
    while (log < 5 && (8 << log) < block) ++log;
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x, lanes = 1u << log;
    const long index = thread >> log, first = index * block;
    // None beyond the matrix, where lanes only take part in the maximum.
    const int count = int(max(0L, min(long(block), elements - first)));
    const int own = 8 * int(thread & (lanes - 1)), step = 8 * int(lanes);
    weights += first;
    const Eight kept = load_eight(weights + own, count - own);
    float top = largest_of(kept);
    for (int i = own + step; i < count; i += step) top = fmaxf(top, largest_of(load_eight(weights + i, count - i)));
    top = warp_reduce(top, Max(), int(lanes));
    const bool partial = count < block;
    if (partial) top = fmaxf(top, SMALLEST_SCALE);
    const float inverse = 1.0f / fmaxf(top, SMALLEST_SCALE);
    for (int i = own; i < count; i += step) {
        Eight x = i == own ? kept : load_eight(weights + i, count - i);
        if (partial) {
            for (int j = 0; j < 8; ++j) x.v[j] = x.v[j] / top;
        } else {
            for (int j = 0; j < 8; ++j) x.v[j] = x.v[j] * inverse;
        }
        store_nibbles(codes + (first + i) / 2, count - i, midpoints, x);
    }
    if (own == 0 && count > 0) absmax[index] = top;
}

extern "C" __global__ void nf4_quantize_bf16(const __nv_bfloat16* weights, long elements, int block,
                                             unsigned char* codes, float* absmax) {
    nf4_quantize(weights, elements, block, codes, absmax);
}

extern "C" __global__ void nf4_quantize_f32(const float* weights, long elements, int block, unsigned char* codes,
                                            float* absmax) {
    nf4_quantize(weights, elements, block, codes, absmax);
}
