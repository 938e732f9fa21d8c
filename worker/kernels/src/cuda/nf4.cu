// NF4 with double quantisation to bf16, and the way there from bf16 or f32.
//
// To bf16, a thread writes 32 elements that share a scale: 16 bytes of codes are read at once, the scale is decoded once for all of them, and 64 bytes are written. The table
// lies in shared memory: its sixteen values are in sixteen banks, so look-ups never collide.

#include "block.cuh"

#include <cuda_bf16.h>

// What a code of four bits stands for (QLoRA, Dettmers et al., 2023, as bitsandbytes has it).
__device__ const float NF4[16] = {
    -1.0f, -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0.0f,
    0.0795803f, 0.1609302f, 0.2461123f, 0.33791524f, 0.44070983f, 0.562617f, 0.72295684f, 1.0f,
};

// Second-level scales: code x group scale + mean. Plain scales have no codes.
__device__ float scale_of(const unsigned char* codes, const float* scales, const float* map, float offset, long block) {
    if (codes == nullptr) return scales[block];
    // Rounded twice, as bitsandbytes and the CPU do: the compiler would make one fused operation of it.
    return __fadd_rn(__fmul_rn(map[codes[block]], scales[block / 256]), offset);
}

// Blocks of `block` elements, a multiple of 32, run over the flattened matrix; element 2i is in the high nibble.
extern "C" __global__ void nf4_to_bf16(const unsigned char* packed, const unsigned char* codes, const float* scales,
                                       const float* map, float offset, long elements, int block,
                                       __nv_bfloat16* out) {
    __shared__ float table[16];
    if (threadIdx.x < 16) table[threadIdx.x] = NF4[threadIdx.x];
    __syncthreads();
    const long start = 32 * (long(blockIdx.x) * blockDim.x + threadIdx.x);
    if (start >= elements) return;
    const float scale = scale_of(codes, scales, map, offset, start / block);
    if (start + 32 > elements) {
        for (long i = start; i < elements; ++i) {
            const unsigned char byte = packed[i / 2];
            out[i] = __float2bfloat16(table[i % 2 == 0 ? byte >> 4 : byte & 15] * scale);
        }
        return;
    }
    const uint4 bytes = *reinterpret_cast<const uint4*>(packed + start / 2);
    const unsigned words[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
    for (int w = 0; w < 4; ++w) {
        alignas(16) __nv_bfloat16 values[8];
        for (int b = 0; b < 4; ++b) {
            const unsigned byte = words[w] >> (8 * b) & 255;
            values[2 * b] = __float2bfloat16(table[byte >> 4] * scale);
            values[2 * b + 1] = __float2bfloat16(table[byte & 15] * scale);
        }
        *reinterpret_cast<uint4*>(out + start + 8 * w) = *reinterpret_cast<const uint4*>(values);
    }
}

// Half way between neighbouring codes; one that lies there takes the lower code.
__device__ const float NF4_MIDPOINTS[15] = {
    -0.8480964f, -0.6106329f, -0.45999527f, -0.33967942f, -0.2346074f, -0.13791174f, -0.045525018f, 0.03979015f,
    0.12025525f, 0.20352125f, 0.29201376f, 0.38931254f, 0.50166345f, 0.6427869f, 0.86147845f,
};

__device__ __forceinline__ float as_float(float value) { return value; }
__device__ __forceinline__ float as_float(__nv_bfloat16 value) { return __bfloat162float(value); }

// Never divided by less, as on the processor.
constexpr float SMALLEST_SCALE = 1e-38f;

// A warp quantises `block` elements, an even number: their largest magnitude, and two codes a byte. The arithmetic is the
// processor's, which is bitsandbytes': a whole block is multiplied by 1 / absmax, a partial one divided by absmax.
template <typename T>
__device__ void nf4_quantise(const T* weights, long elements, int block, unsigned char* packed, float* absmax) {
    const long index = (long(blockIdx.x) * blockDim.x + threadIdx.x) / 32, first = index * block;
    if (first >= elements) return;
    const int lane = threadIdx.x % 32, count = int(min(long(block), elements - first));
    float top = 0.0f;
    for (int i = lane; i < count; i += 32) top = fmaxf(top, fabsf(as_float(weights[first + i])));
    top = warp_reduce(top, Max());
    const bool partial = count < block;
    if (partial) top = fmaxf(top, SMALLEST_SCALE);
    const float inverse = 1.0f / fmaxf(top, SMALLEST_SCALE);
    for (int i = 2 * lane; i < count; i += 64) {
        unsigned byte = 0;
        for (int j = 0; j < 2; ++j) {
            // A nibble that pads an odd end stands for zero.
            const float value = i + j < count ? as_float(weights[first + i + j]) : 0.0f;
            const float normal = partial ? value / top : value * inverse;
            unsigned code = 0;
#pragma unroll
            for (int k = 0; k < 15; ++k) code += normal > NF4_MIDPOINTS[k];
            byte = byte << 4 | code;
        }
        packed[(first + i) / 2] = static_cast<unsigned char>(byte);
    }
    if (lane == 0) absmax[index] = top;
}

extern "C" __global__ void nf4_quantise_bf16(const __nv_bfloat16* weights, long elements, int block,
                                             unsigned char* packed, float* absmax) {
    nf4_quantise(weights, elements, block, packed, absmax);
}

extern "C" __global__ void nf4_quantise_f32(const float* weights, long elements, int block, unsigned char* packed,
                                            float* absmax) {
    nf4_quantise(weights, elements, block, packed, absmax);
}
