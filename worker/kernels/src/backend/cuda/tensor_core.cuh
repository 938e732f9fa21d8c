// What a warp does together: products of small tiles on the tensor cores, and loads of their operands from shared
// memory. The layouts of fragments are those of PTX's mma.m16n8k16, ldmatrix and movmatrix, which Ampere and all later
// GPUs have.
#pragma once

#include <cuda_bf16.h>

// A [16, 16], two values a word.
struct FragmentA {
    unsigned words[4];
};
// B [16, 8].
struct FragmentB {
    unsigned words[2];
};
// C [16, 8] in f32: rows lane / 4 and 8 below, columns 2 (lane % 4) and the next.
struct FragmentC {
    float values[4];
};

__device__ __forceinline__ unsigned pack(float low, float high) {
    const __nv_bfloat16 pair[2] = {__float2bfloat16(low), __float2bfloat16(high)};
    return *reinterpret_cast<const unsigned*>(pair);
}

// One of the two values of a word.
__device__ __forceinline__ float half_of(unsigned word, unsigned which) {
    const unsigned wide = which == 0 ? word << 16 : word & 0xffff0000u;
    return *reinterpret_cast<const float*>(&wide);
}

// The accumulators of two neighboring tiles as the left operand of the next product.
__device__ __forceinline__ FragmentA as_left(const FragmentC& left, const FragmentC& right) {
    return {{pack(left.values[0], left.values[1]), pack(left.values[2], left.values[3]),
             pack(right.values[0], right.values[1]), pack(right.values[2], right.values[3])}};
}

#ifndef QLORA_EMULATED

// c += a b.
__device__ __forceinline__ void multiply(FragmentC& c, const FragmentA& a, const FragmentB& b) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c.values[0]), "+f"(c.values[1]), "+f"(c.values[2]), "+f"(c.values[3])
        : "r"(a.words[0]), "r"(a.words[1]), "r"(a.words[2]), "r"(a.words[3]), "r"(b.words[0]), "r"(b.words[1]));
}

// Four 8 x 8 matrices, the rows of the n-th at the addresses that lanes 8n to 8n + 7 give.
__device__ __forceinline__ void load_matrices(unsigned (&out)[4], const __nv_bfloat16* row) {
    const unsigned at = unsigned(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(unsigned (&out)[4], const __nv_bfloat16* row) {
    const unsigned at = unsigned(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(at) : "memory");
}

// An 8 x 8 matrix of bf16 turned over: each lane has two neighbors of row lane / 4, before and after.
__device__ __forceinline__ unsigned transpose(unsigned pair) {
    unsigned out;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
    return out;
}

// 16 bytes from global to shared memory without a register, or zeros; they are there after `wait_for_copies`.
__device__ __forceinline__ void copy_16(__nv_bfloat16* to, const __nv_bfloat16* from, bool there) {
    const unsigned at = unsigned(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ __forceinline__ void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All groups of copies but the last `but`.
template <int but>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(but) : "memory");
}

#define SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]

#else
#include "emulated_tensor_core.h"
#endif
