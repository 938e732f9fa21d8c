// Products of a warpgroup, four warps, on Hopper's tensor cores (PTX's wgmma): the left operand lies in shared memory or
// registers, the right one in shared memory, and all go on while the warps do other work. Accumulators and left operands
// in registers have the layout of mma.m16n8k16: warp w of the group has rows [16 w, 16 w + 16).
//
// A tile of rows in shared memory is cut into panels of 64 columns, 128 bytes a row, in which the 16-byte pieces of a
// row are swapped by the row's last three bits. So both directions of it are read without conflicts of banks: a product
// over its columns (as it lies) or over its rows (turned).
#pragma once

#include "tensor_core.cuh"

#ifdef QLORA_EMULATED
#include "emulated_warpgroup.h"
#endif

namespace hopper {

// A place in a tile, as wgmma takes it: the distance of panels matters to turned ones alone.
#ifndef QLORA_EMULATED
struct Place {
    unsigned long long bits;
    __device__ __forceinline__ Place(const __nv_bfloat16* at, int panel_bytes) {
        const unsigned address = unsigned(__cvta_generic_to_shared(at));
        bits = (address & 0x3ffff) >> 4 | (unsigned long long)(panel_bytes >> 4) << 16 |
               (unsigned long long)(1024 >> 4) << 32 | 1ull << 62;
    }
    __device__ __forceinline__ Place behind(int bytes) const {
        Place other = *this;
        other.bits += bytes >> 4;
        return other;
    }
};

// What the threads wrote to shared memory is seen by the products after the next barrier.
__device__ __forceinline__ void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Registers written so far may be used by products.
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void end_of_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// All groups of products but the last `but` are over.
template <int but>
__device__ __forceinline__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(but) : "memory");
}
// As wait_for_products<0>, in other words, which are not put together with those of the other side of a branch.
__device__ __forceinline__ void wait_for_all_products() {
    asm volatile("{wgmma.wait_group.sync.aligned 0; /* all */}" ::: "memory");
}
// Keeps reads and writes of accumulators on their side of a wait.
template <int N>
__device__ __forceinline__ void settled(FragmentC (&c)[N]) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) asm volatile("" : "+f"(c[n].values[j])::"memory");
}

#define C4(n) "+f"(c[n].values[0]), "+f"(c[n].values[1]), "+f"(c[n].values[2]), "+f"(c[n].values[3])
#define C32 C4(0), C4(1), C4(2), C4(3), C4(4), C4(5), C4(6), C4(7)
#define C64 C32, C4(8), C4(9), C4(10), C4(11), C4(12), C4(13), C4(14), C4(15)
#define R32                                                                                                            \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define R64                                                                                                            \
    R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,"    \
        "%59,%60,%61,%62,%63"

// c = a b^T, or += it: 64 rows of a, as many rows of b as c has columns, 16 columns of both.
__device__ __forceinline__ void multiply_group(FragmentC (&c)[8], Place a, Place b, bool add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" R32 "}, %32, %33, p, 1, 1, 0, 0;}"
                 : C32 : "l"(a.bits), "l"(b.bits), "r"(int(add)));
}
__device__ __forceinline__ void multiply_group(FragmentC (&c)[16], Place a, Place b, bool add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" R64 "}, %64, %65, p, 1, 1, 0, 0;}"
                 : C64 : "l"(a.bits), "l"(b.bits), "r"(int(add)));
}
// c += a b: 16 rows of b, turned, as many columns as c has.
__device__ __forceinline__ void multiply_group_turned(FragmentC (&c)[8], const FragmentA& a, Place b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" R32 "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
                 : C32 : "r"(a.words[0]), "r"(a.words[1]), "r"(a.words[2]), "r"(a.words[3]), "l"(b.bits));
}
__device__ __forceinline__ void multiply_group_turned(FragmentC (&c)[16], const FragmentA& a, Place b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" R64 "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 1;"
                 : C64 : "r"(a.words[0]), "r"(a.words[1]), "r"(a.words[2]), "r"(a.words[3]), "l"(b.bits));
}
#undef C4
#undef C32
#undef C64
#undef R32
#undef R64
#endif

// ROWS rows of E columns.
template <int E, int ROWS>
struct Panels {
    static constexpr int ELEMENTS = ROWS * E, PANEL_BYTES = 128 * ROWS;

    // Copies `count` of the rows, `stride` elements apart in global memory, by T threads; the rest are zeros.
    template <int T>
    static __device__ __forceinline__ void copy(__nv_bfloat16* to, const __nv_bfloat16* from, long stride, int count) {
        constexpr int CHUNKS = E / 8, AT_ONCE = T / CHUNKS;
        const int first = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        // Rows that a thread copies lie a multiple of 8 apart.
        static_assert(AT_ONCE % 8 == 0 && ROWS % AT_ONCE == 0);
        const __nv_bfloat16* source = from + first * stride + 8 * chunk;
        __nv_bfloat16* place = to + chunk / 8 * (64 * ROWS) + 64 * first + 8 * (chunk % 8 ^ first % 8);
#pragma unroll
        for (int row = 0; row < ROWS; row += AT_ONCE, source += AT_ONCE * stride) {
            const bool there = first + row < count;
            copy_16(place + 64 * row, there ? source : from, there);
        }
    }
};

// out [64, N] = rows of `a`, times the transposed N rows of `b`, begun.
template <int E, int A_ROWS, int B_ROWS, int N>
__device__ __forceinline__ void begin_scores(FragmentC (&out)[N], Place a, Place b) {
    begin_products();
#pragma unroll
    for (int k = 0; k < E / 16; ++k) {
        const int within = 32 * (k % 4), panel = k / 4;
        multiply_group(out, a.behind(panel * 128 * A_ROWS + within), b.behind(panel * 128 * B_ROWS + within), k > 0);
    }
    end_of_products();
}

// out [64, E] += weights [64, 16 N] times as many rows of `b`, begun.
template <int E, int N>
__device__ __forceinline__ void begin_sums(FragmentC (&out)[E / 8], const FragmentA (&weights)[N], Place b) {
    begin_products();
#pragma unroll
    for (int k = 0; k < N; ++k) multiply_group_turned(out, weights[k], b.behind(2048 * k));
    end_of_products();
}

// What panels are aligned to, and the first place in shared memory where they may begin. A sum with the pointer, unlike
// a pointer made of a number, is still known to be one to shared memory.
constexpr int ALIGNMENT = 1024;
__device__ __forceinline__ __nv_bfloat16* aligned(unsigned char* memory) {
    const unsigned past = unsigned(reinterpret_cast<unsigned long long>(memory)) % ALIGNMENT;
    return reinterpret_cast<__nv_bfloat16*>(memory + (ALIGNMENT - past) % ALIGNMENT);
}

}  // namespace hopper
