// NF4 with double quantisation to bf16: a thread writes 32 elements that share a scale.
//
// 16 bytes of codes are read at once, the scale is decoded once for all of them, and 64 bytes are written. The table
// lies in shared memory: its sixteen values are in sixteen banks, so look-ups never collide.

#include <cuda_bf16.h>

// What a code of four bits stands for (QLoRA, Dettmers et al., 2023, as bitsandbytes has it).
__device__ const float NF4[16] = {
    -1.0f, -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0.0f,
    0.0795803f, 0.1609302f, 0.2461123f, 0.33791524f, 0.44070983f, 0.562617f, 0.72295684f, 1.0f,
};

// Second-level scales: code x group scale + mean. Plain scales have no codes.
__device__ float scale_of(const unsigned char* codes, const float* scales, const float* map, float offset, long block) {
    if (codes == nullptr) return scales[block];
    return map[codes[block]] * scales[block / 256] + offset;
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
