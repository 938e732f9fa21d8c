// Eight neighboring elements at once: 16 bytes of bf16 a thread, which is what memory gives fastest. Elements that are
// fewer, or do not begin at a multiple of 16 bytes, are read and written one by one.
#pragma once

#include <cuda_bf16.h>

struct Eight {
    float v[8];
};
// As they lie in memory, in half the registers: two a word, the first in its lower half.
struct alignas(16) Packed {
    unsigned words[4];
};

template <typename T>
__device__ __forceinline__ bool in_one(const T* at, long there) {
    return there >= 8 && reinterpret_cast<unsigned long long>(at) % 16 == 0;
}

__device__ __forceinline__ Eight unpacked(const Packed& values) {
    Eight out;
    for (int j = 0; j < 8; ++j) {
        const unsigned word = values.words[j / 2], wide = j % 2 == 0 ? word << 16 : word & 0xffff0000u;
        out.v[j] = *reinterpret_cast<const float*>(&wide);
    }
    return out;
}
__device__ __forceinline__ Packed packed(const Eight& values) {
    Packed out;
    for (int j = 0; j < 4; ++j) {
#ifndef QLORA_EMULATED
        const __nv_bfloat162 pair = __floats2bfloat162_rn(values.v[2 * j], values.v[2 * j + 1]);
        out.words[j] = *reinterpret_cast<const unsigned*>(&pair);
#else
        const __nv_bfloat16 low = __float2bfloat16(values.v[2 * j]), high = __float2bfloat16(values.v[2 * j + 1]);
        out.words[j] = low.bits | unsigned(high.bits) << 16;
#endif
    }
    return out;
}

// The first of `there` elements, zeros behind them.
__device__ __forceinline__ Packed load_packed(const __nv_bfloat16* at, long there) {
    Packed out = {};
    if (in_one(at, there)) {
        *reinterpret_cast<uint4*>(out.words) = *reinterpret_cast<const uint4*>(at);
    } else {
        const unsigned short* halves = reinterpret_cast<const unsigned short*>(at);
        for (int j = 0; j < 8; ++j) out.words[j / 2] |= j < there ? unsigned(halves[j]) << (16 * (j % 2)) : 0;
    }
    return out;
}
__device__ __forceinline__ void store_packed(__nv_bfloat16* at, long there, const Packed& values) {
    if (in_one(at, there)) {
        *reinterpret_cast<uint4*>(at) = *reinterpret_cast<const uint4*>(values.words);
    } else {
        unsigned short* halves = reinterpret_cast<unsigned short*>(at);
        for (int j = 0; j < 8 && j < there; ++j) {
            halves[j] = static_cast<unsigned short>(values.words[j / 2] >> (16 * (j % 2)));
        }
    }
}

__device__ __forceinline__ Eight load_eight(const __nv_bfloat16* at, long there) {
    return unpacked(load_packed(at, there));
}
__device__ __forceinline__ void store_eight(__nv_bfloat16* at, long there, const Eight& values) {
    store_packed(at, there, packed(values));
}

// The same of `f32`, 16 bytes twice.
__device__ __forceinline__ Eight joined(const float4& a, const float4& b) {
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
__device__ __forceinline__ Eight load_eight(const float* at, long there) {
    if (in_one(at, there)) {
        const float4* both = reinterpret_cast<const float4*>(at);
        return joined(both[0], both[1]);
    }
    Eight out;
    for (int j = 0; j < 8; ++j) out.v[j] = j < there ? at[j] : 0.0f;
    return out;
}
__device__ __forceinline__ void store_eight(float* at, long there, const Eight& values) {
    const float* v = values.v;
    if (in_one(at, there)) {
        float4* both = reinterpret_cast<float4*>(at);
        both[0] = {v[0], v[1], v[2], v[3]};
        both[1] = {v[4], v[5], v[6], v[7]};
    } else {
        for (int j = 0; j < 8 && j < there; ++j) at[j] = v[j];
    }
}
