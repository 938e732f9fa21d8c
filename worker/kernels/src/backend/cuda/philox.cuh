// Philox4x32-10 (Salmon et al., SC 2011): one draw is eight numbers of 16 bits, for the eight elements of a group.
//
// A mask is a function of seed, step, projection and element, so the device draws the CPU's masks bit for bit.
// Groups are counted over the whole step.
#pragma once

struct Words {
    unsigned w[4];
};

namespace philox_rounds {

constexpr unsigned FIRST = 0xD2511F53u, SECOND = 0xCD9E8D57u;

struct Product {
    unsigned low, high;
};
__device__ __forceinline__ Product product(unsigned a, unsigned b) {
    const unsigned long long wide = static_cast<unsigned long long>(a) * b;
    return {unsigned(wide), unsigned(wide >> 32)};
}

// One round with its two keys.
__device__ __forceinline__ void round(Words& c, unsigned low, unsigned high) {
    const Product a = product(FIRST, c.w[0]), b = product(SECOND, c.w[2]);
    c = {{b.high ^ c.w[1] ^ low, b.low, a.high ^ c.w[3] ^ high, a.low}};
}

}  // namespace philox_rounds

// Ten rounds on one counter.
__device__ __forceinline__ Words philox(unsigned long long group, unsigned projection, unsigned step, unsigned low,
                                        unsigned high) {
    Words c = {{unsigned(group), unsigned(group >> 32), projection, step}};
#pragma unroll
    for (unsigned i = 0; i < 10; ++i) philox_rounds::round(c, low + i * 0x9E3779B9u, high + i * 0xBB67AE85u);
    return c;
}

// The 16 bits of the j-th element of a group.
__device__ __forceinline__ unsigned number(const Words& words, int j) { return words.w[j / 2] >> (16 * (j % 2)) & 0xffff; }

// The same draws where groups differ in the lower word of their number only. Half of what the first two rounds multiply
// then depends on the projection alone, and the other half on the group alone: the host does the first, and projections
// share the second.

// Of a projection, after two rounds: what the words 0, 2 and 3 are besides the group's.
struct Projection {
    unsigned words[3];
};

// Of a group, after two rounds: its part of the words 0, 1 and 2.
struct Group {
    unsigned words[3];
};

// What all draws share: the third word behind the first round's key, the keys of the rounds but the first two, and the
// number below which an element is dropped, twice: 15 bits in both halves of `below`, and in `small` the complement of
// the topmost.
struct Drawing {
    unsigned begin, keys[8][2], below, small;
};

__device__ __forceinline__ Group group_of(const Drawing& drawing, unsigned group) {
    using namespace philox_rounds;
    const Product a = product(FIRST, group), b = product(SECOND, a.high ^ drawing.begin);
    return {{b.high, b.low, a.low}};
}

__device__ __forceinline__ Words draw(const Drawing& drawing, const Group& group, const Projection& projection) {
    Words c = {{group.words[0] ^ projection.words[0], group.words[1], group.words[2] ^ projection.words[1],
                projection.words[2]}};
#pragma unroll
    for (int i = 0; i < 8; ++i) philox_rounds::round(c, drawing.keys[i][0], drawing.keys[i][1]);
    return c;
}

// Which elements of a group stay, in bits 15 and 31 of each word; other bits mean nothing.
__device__ __forceinline__ Words staying(const Drawing& drawing, const Words& numbers) {
    Words out;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        // Neither half borrows from the other: 15 bits are taken from 16. The topmost bits decide, or else the others do.
        const unsigned n = numbers.w[i], others = (n | 0x80008000u) - drawing.below;
        out.w[i] = (n & others) | ((n | others) & drawing.small);
    }
    return out;
}
