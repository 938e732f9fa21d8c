// The operations of `tensor_core.cuh` by the lanes of an emulated warp, from PTX's description of their fragments.
#pragma once

#include "emulator.h"

inline void multiply(FragmentC& c, const FragmentA& a, const FragmentB& b) {
    struct Operands {
        FragmentA a;
        FragmentB b;
    };
    const auto of = emulator::show(Operands{a, b});
    const unsigned lane = threadIdx.x % emulator::WARP;
    for (unsigned j = 0; j < 4; ++j) {
        const unsigned row = lane / 4 + 8 * (j / 2), col = 2 * (lane % 4) + j % 2;
        float sum = 0.0f;
        for (unsigned k = 0; k < 16; ++k) {
            const unsigned among = k % 8 / 2, upper = k / 8;
            const float left = half_of(of(row % 8 * 4 + among).a.words[row / 8 + 2 * upper], k % 2);
            sum += left * half_of(of(col * 4 + among).b.words[upper], k % 2);
        }
        c.values[j] += sum;
    }
}

inline void load_rows(unsigned (&out)[4], const __nv_bfloat16* row, bool transpose) {
    emulator::aligned(row, 16, "ldmatrix reads a row");
    const auto of = emulator::show(row);
    const unsigned lane = threadIdx.x % emulator::WARP;
    for (unsigned n = 0; n < 4; ++n) {
        unsigned word = 0;
        for (unsigned j = 0; j < 2; ++j) {
            const unsigned fixed = lane / 4, moving = 2 * (lane % 4) + j;
            const __nv_bfloat16* source = of(8 * n + (transpose ? moving : fixed));
            word |= unsigned(source[transpose ? fixed : moving].bits) << (16 * j);
        }
        out[n] = word;
    }
}
inline void load_matrices(unsigned (&out)[4], const __nv_bfloat16* row) { load_rows(out, row, false); }
inline void load_matrices_transposed(unsigned (&out)[4], const __nv_bfloat16* row) { load_rows(out, row, true); }

inline unsigned transpose(unsigned pair) {
    const auto of = emulator::show(pair);
    const unsigned lane = threadIdx.x % emulator::WARP, col = lane / 4, row = 2 * (lane % 4);
    const auto at = [&](unsigned row) { return of(4 * row + col / 2) >> (16 * (col % 2)) & 0xffff; };
    return at(row) | at(row + 1) << 16;
}

// Copies are as late as they may be: until the wait that covers them there is NaN where they go to.
inline void copy_16(__nv_bfloat16* to, const __nv_bfloat16* from, bool there) {
    emulator::aligned(to, 16, "cp.async writes");
    emulator::aligned(from, 16, "cp.async reads");
    std::memset(to, emulator::POISON, 16);
    emulator::Fiber& self = emulator::fiber();
    self.copies.push_back({to, from, there, self.groups});
}
inline void end_of_copies() { ++emulator::fiber().groups; }
template <int but>
void wait_for_copies() {
    emulator::Fiber& self = emulator::fiber();
    size_t done = 0;
    for (; done < self.copies.size() && self.copies[done].group + but < self.groups; ++done) {
        const emulator::Copy& copy = self.copies[done];
        if (copy.there) {
            std::memcpy(copy.to, copy.from, 16);
        } else {
            std::memset(copy.to, 0, 16);
        }
    }
    self.copies.erase(self.copies.begin(), self.copies.begin() + done);
}

#define SHARED_MEMORY(name) unsigned char* const name = reinterpret_cast<unsigned char*>(emulator::block().shared)
