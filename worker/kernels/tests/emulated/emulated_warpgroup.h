// The operations of `warpgroup.cuh` by the lanes of an emulated warp. Products are as late as they may be: operands are
// read at the wait that covers them.
#pragma once

#include "emulator.h"

namespace hopper {

struct Place {
    const __nv_bfloat16* at;
    int panel_bytes;
    Place(const __nv_bfloat16* at, int panel_bytes) : at(at), panel_bytes(panel_bytes) {}
    Place behind(int bytes) const { return {at + bytes / 2, panel_bytes}; }
    // The value at a distance in bytes, where the swizzle has put it.
    float value(size_t distance) const {
        uintptr_t address = reinterpret_cast<uintptr_t>(at) + distance;
        address ^= (address >> 7 & 7) << 4;
        return __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(address));
    }
    float plain(unsigned row, unsigned k) const { return value(row / 8 * 1024 + row % 8 * 128 + 2 * k); }
    float turned(unsigned k, unsigned col) const {
        return value(size_t(col / 64) * panel_bytes + k / 8 * 1024 + k % 8 * 128 + col % 64 * 2);
    }
};

struct Pending {
    std::function<void()> work;
    unsigned group;
};
struct Products {
    std::vector<Pending> pending;
    unsigned groups = 0;
};
inline Products& products() {
    static thread_local std::vector<Products> all(emulator::MOST_THREADS);
    return all[emulator::block().current];
}
inline void show_to_products() {}
inline void begin_products() {}
inline void end_of_products() { ++products().groups; }
template <int but>
void wait_for_products() {
    Products& mine = products();
    while (!mine.pending.empty() && mine.pending.front().group + but < mine.groups) {
        const auto work = mine.pending.front().work;
        mine.pending.erase(mine.pending.begin());
        work();
    }
}
inline void wait_for_all_products() { wait_for_products<0>(); }
template <int N>
void settled(FragmentC (&)[N]) {}

template <int N>
void multiply_group(FragmentC (&c)[N], Place a, Place b, bool add) {
    FragmentC* out = c;
    products().pending.push_back({[=] {
        const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
        for (unsigned half = 0; half < 2; ++half) {
            float left[16];
            for (unsigned k = 0; k < 16; ++k) left[k] = a.plain(16 * warp + lane / 4 + 8 * half, k);
            for (unsigned n = 0; n < N; ++n)
                for (unsigned j = 0; j < 2; ++j) {
                    float sum = 0;
                    for (unsigned k = 0; k < 16; ++k) sum += left[k] * b.plain(8 * n + 2 * (lane % 4) + j, k);
                    float& to = out[n].values[2 * half + j];
                    to = add ? to + sum : sum;
                }
        }
    }, products().groups});
}
template <int N>
void multiply_group_turned(FragmentC (&c)[N], const FragmentA& a, Place b) {
    FragmentC* out = c;
    const FragmentA* left = &a;
    products().pending.push_back({[=] {
        const auto of = emulator::show(*left);
        const unsigned lane = threadIdx.x % 32;
        for (unsigned half = 0; half < 2; ++half) {
            float row[16];
            for (unsigned k = 0; k < 16; ++k) row[k] = half_of(of(lane / 4 * 4 + k % 8 / 2).words[half + 2 * (k / 8)], k % 2);
            for (unsigned n = 0; n < N; ++n)
                for (unsigned j = 0; j < 2; ++j) {
                    float sum = 0;
                    for (unsigned k = 0; k < 16; ++k) sum += row[k] * b.turned(k, 8 * n + 2 * (lane % 4) + j);
                    out[n].values[2 * half + j] += sum;
                }
        }
    }, products().groups});
}

}  // namespace hopper
