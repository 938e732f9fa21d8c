// Philox4x32-10 (Salmon et al., SC 2011): one draw is eight numbers of 16 bits, for the eight elements of a group.
//
// A mask is a function of seed, step, projection and element, so the device draws the processor's masks bit for bit.
// Groups are counted over the whole step.
#pragma once

struct Words {
    unsigned w[4];
};

// Ten rounds on one counter.
__device__ __forceinline__ Words philox(unsigned long long group, unsigned projection, unsigned step, unsigned low,
                                        unsigned high) {
    unsigned c0 = unsigned(group), c1 = unsigned(group >> 32), c2 = projection, c3 = step;
    for (int round = 0; round < 10; ++round) {
        const unsigned long long a = 0xD2511F53ull * c0, b = 0xCD9E8D57ull * c2;
        c0 = unsigned(b >> 32) ^ c1 ^ low;
        c2 = unsigned(a >> 32) ^ c3 ^ high;
        c1 = unsigned(b);
        c3 = unsigned(a);
        low += 0x9E3779B9u;
        high += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// The 16 bits of the j-th element of a group.
__device__ __forceinline__ unsigned number(const Words& words, int j) { return words.w[j / 2] >> (16 * (j % 2)) & 0xffff; }
