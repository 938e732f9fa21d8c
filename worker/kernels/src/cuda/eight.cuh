// Eight neighbouring numbers at once: 16 bytes a thread, which is what memory gives fastest. Where they are fewer, or do
// not begin at a multiple of 16 bytes, they are read one by one.
#pragma once

#include <cuda_bf16.h>

struct Eight {
    float v[8];
};

__device__ __forceinline__ bool in_one(const __nv_bfloat16* at, long there) {
    return there >= 8 && reinterpret_cast<unsigned long long>(at) % 16 == 0;
}

// The first of `there` numbers, zeros behind them.
__device__ __forceinline__ Eight load_eight(const __nv_bfloat16* at, long there) {
    alignas(16) __nv_bfloat16 raw[8];
    Eight out;
    if (in_one(at, there)) {
        *reinterpret_cast<uint4*>(raw) = *reinterpret_cast<const uint4*>(at);
        for (int j = 0; j < 8; ++j) out.v[j] = __bfloat162float(raw[j]);
    } else {
        for (int j = 0; j < 8; ++j) out.v[j] = j < there ? __bfloat162float(at[j]) : 0.0f;
    }
    return out;
}

__device__ __forceinline__ void store_eight(__nv_bfloat16* at, long there, const Eight& values) {
    alignas(16) __nv_bfloat16 raw[8];
    for (int j = 0; j < 8; ++j) raw[j] = __float2bfloat16(values.v[j]);
    if (in_one(at, there)) {
        *reinterpret_cast<uint4*>(at) = *reinterpret_cast<const uint4*>(raw);
    } else {
        for (int j = 0; j < 8 && j < there; ++j) at[j] = raw[j];
    }
}
