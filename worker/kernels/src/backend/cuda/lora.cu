// Low-rank adapters with their dropout, for projections that share their input: it is read once for all of them, and no
// masked copy of it is written.
//
// A lane owns eight neighboring columns, which one draw of Philox masks: the order of a product's sums, or of its
// columns, is free, so the fragments of the tensor cores are filled with what each lane has read. Masks are made by whole
// words, two elements at a time, and loads are issued before the draws, which take longer than memory does.

#include "philox.cuh"
#include "tensor_core.cuh"

namespace lora {

constexpr int MOST_PIECES = 3;
// Warps, rows and columns of a block of `inner`, and columns of each of its warps at a time.
constexpr int WARPS = 8, ROWS = 32, COLUMNS = 32;
// Columns of a warp in `pull`, and warps side by side; a block has one or more such rows of warps.
constexpr int PULLED = 64, ACROSS = 4;

// Sixteen ranks of an adapter, or fewer: rows of A [R, D], columns of u [M, R], which is du on the way back.
struct Piece {
    const __nv_bfloat16* a;
    __nv_bfloat16* u;
    float *partial, *da;
    Projection drawn;
    unsigned projection;
    int ranks;
};

struct Pieces {
    Piece of[MOST_PIECES];
};

// What masks of a step have in common; `first` is the group that a matrix begins with.
struct Masks {
    Drawing drawing;
    unsigned first, drops;
    float kept;
};

// Eight neighboring elements of a row, two a word.
struct Run {
    unsigned words[4];
};

__device__ __forceinline__ Run load(const __nv_bfloat16* at, bool there) {
    if (!there) return {};
    const uint4 v = *reinterpret_cast<const uint4*>(at);
    return {{v.x, v.y, v.z, v.w}};
}

// Bytes of two words by their numbers, a digit each from the lowest byte up: 0 to 3 of the first, 4 to 7 of the second,
// and eight more for the byte's sign in all eight bits.
template <unsigned digits>
__device__ __forceinline__ unsigned bytes_of(unsigned first, unsigned second) {
#ifndef QLORA_EMULATED
    unsigned out;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(first), "r"(second), "n"(digits));
    return out;
#else
    unsigned out = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned digit = digits >> (4 * i), byte = (digit & 4 ? second : first) >> (8 * (digit & 3)) & 0xff;
        out |= (digit & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << (8 * i);
    }
    return out;
#endif
}

__device__ __forceinline__ Run masked(const Run& run, const Words& stay) {
    Run out;
#pragma unroll
    for (int w = 0; w < 4; ++w) out.words[w] = run.words[w] & bytes_of<0xbb99>(stay.w[w], 0);
    return out;
}

// Two neighboring ranks of a row of u; `ranks` is even.
__device__ __forceinline__ unsigned ranks_of(const Piece& piece, long row, int stride, int rank, bool there) {
    if (!there || rank >= piece.ranks) return 0;
    return *reinterpret_cast<const unsigned*>(piece.u + row * stride + rank);
}

// Whether the p-th piece has the mask of the one before.
__device__ __forceinline__ bool drawn_before(const Pieces& pieces, int p) {
    return p > 0 && pieces.of[p].projection == pieces.of[p > 0 ? p - 1 : 0].projection;
}

// Whether any of them has. Code that need not keep masks for another piece has more registers.
template <int N>
__device__ __forceinline__ bool repeats(const Pieces& pieces) {
    bool any = false;
#pragma unroll
    for (int p = 1; p < N; ++p) any = any || drawn_before(pieces, p);
    return any;
}

// u = kept (m o x) A^T. A block owns 32 rows; its warps take every eighth 32 columns, and their sums are added in order.
template <int N, bool drops, bool repeats>
__device__ __forceinline__ void inner(const __nv_bfloat16* x, const Pieces& pieces, const Masks& masks, int m, int d,
                                      int stride) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const long row = long(blockIdx.x) * ROWS + lane / 4;
    FragmentC sums[2][2 * N] = {};
    for (int start = COLUMNS * warp; start < d; start += COLUMNS * WARPS) {
        const int col = start + 8 * (lane % 4);
        Run own[4];
        Group groups[4];
        Words stay[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) own[i] = load(x + (row + 8 * i) * d + col, row + 8 * i < m && col < d);
        if (drops) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                groups[i] = group_of(masks.drawing, masks.first + unsigned(row + 8 * i) * unsigned(d / 8) + col / 8);
            }
        }
#pragma unroll
        for (int p = 0; p < N; ++p) {
            const Piece& piece = pieces.of[p];
            Run a[2], kept[4];
#pragma unroll
            for (int n = 0; n < 2; ++n) {
                const int rank = 8 * n + lane / 4;
                a[n] = load(piece.a + long(rank) * d + col, rank < piece.ranks && col < d);
            }
            if (drops && !(repeats && drawn_before(pieces, p))) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    stay[i] = staying(masks.drawing, draw(masks.drawing, groups[i], piece.drawn));
                }
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) kept[i] = drops ? masked(own[i], stay[i]) : own[i];
#pragma unroll
            for (int n = 0; n < 2; ++n) {
#pragma unroll
                for (int step = 0; step < 4; step += 2) {
                    const FragmentB right = {{a[n].words[step], a[n].words[step + 1]}};
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const Run &top = kept[2 * half], &bottom = kept[2 * half + 1];
                        multiply(sums[half][2 * p + n],
                                 {{top.words[step], bottom.words[step], top.words[step + 1], bottom.words[step + 1]}},
                                 right);
                    }
                }
            }
        }
    }
    SHARED_MEMORY(memory);
    float(*parts)[ROWS][16 * N] = reinterpret_cast<float(*)[ROWS][16 * N]>(memory);
#pragma unroll
    for (int n = 0; n < 2 * N; ++n) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            parts[warp][lane / 4 + 8 * (i / 2)][8 * n + 2 * (lane % 4) + i % 2] = sums[i / 4][n].values[i % 4];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * 16 * N; i += 32 * WARPS) {
        const int within = i / (16 * N), column = i % (16 * N), rank = column % 16;
        const Piece& piece = pieces.of[column / 16];
        const long at = long(blockIdx.x) * ROWS + within;
        if (at >= m || rank >= piece.ranks) continue;
        float sum = 0.0f;
        for (int w = 0; w < WARPS; ++w) sum += parts[w][within][column];
        piece.u[at * stride + rank] = __float2bfloat16(sum * masks.kept);
    }
}

// A^T [64, 16] of a warp's columns as left operands, for each lane in shared memory. Rows of the j-th are such that a lane
// gets columns j and j + 4 of its own eight from it.
template <int N>
__device__ __forceinline__ void put_down(uint4* to, const Pieces& pieces, int start, int d) {
    const int lane = threadIdx.x % 32;
    for (int p = 0; p < N; ++p) {
        const Piece& piece = pieces.of[p];
        for (int j = 0; j < 4; ++j) {
            unsigned words[4];
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                const int column = start + 8 * (lane / 4) + j + 4 * (w % 2), rank = 8 * (w / 2) + 2 * (lane % 4);
                const unsigned short* at = reinterpret_cast<const unsigned short*>(piece.a) + long(rank) * d + column;
                const bool there = rank < piece.ranks && column < d;
                words[w] = there ? at[0] | unsigned(at[d]) << 16 : 0u;
            }
            to[(p * 4 + j) * 32 + lane] = {words[0], words[1], words[2], words[3]};
        }
    }
}

// dx = base + kept (sum of m o (du A)), and parts of dA = kept du^T (m o x), one for each `share` rows. A warp owns 64
// columns of those rows, or of every other sixteen where a block has two rows of warps. Products are of x^T and dx^T where
// that leaves all that a lane needs of a row with it: rows 2q, 2q + 1, 2q + 8 and 2q + 9 of sixteen, eight columns each.
template <int N, int DOWN, bool repeats>
__device__ __forceinline__ void pull(const __nv_bfloat16* x, const __nv_bfloat16* base, const Pieces& pieces,
                                     const Masks& masks, int m, int d, int stride, int share, __nv_bfloat16* dx) {
    const int lane = threadIdx.x % 32, across = threadIdx.x / 32 % ACROSS, below = threadIdx.x / (32 * ACROSS);
    const int start = (int(blockIdx.x) * ACROSS + across) * PULLED, col = start + 8 * (lane / 4);
    const long first = long(blockIdx.y) * share, last = min(first + share, long(m));
    SHARED_MEMORY(memory);
    uint4* down = reinterpret_cast<uint4*>(memory) + across * N * 4 * 32;
    if (below == 0) put_down<N>(down, pieces, start, d);
    __syncthreads();
    FragmentC da[N][8] = {};
    for (long at = first + 16 * below; at < last; at += 16 * DOWN) {
        long rows[4];
        Run own[4];
        Group groups[4];
        unsigned du[N][2][2];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            rows[i] = at + 2 * (lane % 4) + i % 2 + 8 * (i / 2);
            own[i] = load(x + rows[i] * d + col, rows[i] < last && col < d);
        }
#pragma unroll
        for (int p = 0; p < N; ++p) {
            for (int i = 0; i < 4; ++i) {
                const long row = at + lane / 4 + 8 * (i / 2);
                du[p][i / 2][i % 2] = ranks_of(pieces.of[p], row, stride, 8 * (i % 2) + 2 * (lane % 4), row < last);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            groups[i] = group_of(masks.drawing, masks.first + unsigned(rows[i]) * unsigned(d / 8) + col / 8);
        }
        Words stay[4];
        float sums[4][8] = {};
#pragma unroll
        for (int p = 0; p < N; ++p) {
            if (!(repeats && drawn_before(pieces, p))) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    stay[i] = staying(masks.drawing, draw(masks.drawing, groups[i], pieces.of[p].drawn));
                }
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const uint4 a = down[(p * 4 + j) * 32 + lane];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    FragmentC through = {};
                    multiply(through, {{a.x, a.y, a.z, a.w}}, {{du[p][half][0], du[p][half][1]}});
#pragma unroll
                    for (int v = 0; v < 4; ++v) {
                        const int i = 2 * half + v % 2, column = j + 4 * (v / 2);
                        const unsigned word = stay[i].w[column / 2];
                        if (column % 2 == 0 ? (word & 0x8000u) != 0 : int(word) < 0) sums[i][column] += through.values[v];
                    }
                }
            }
            const FragmentA turned = {{transpose(du[p][0][0]), transpose(du[p][0][1]), transpose(du[p][1][0]),
                                       transpose(du[p][1][1])}};
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                FragmentB even, odd;
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const unsigned upper = own[2 * half].words[w], lower = own[2 * half + 1].words[w];
                    const unsigned stays = stay[2 * half].w[w], and_below = stay[2 * half + 1].w[w];
                    even.words[half] = bytes_of<0x5410>(upper, lower) & bytes_of<0xdd99>(stays, and_below);
                    odd.words[half] = bytes_of<0x7632>(upper, lower) & bytes_of<0xffbb>(stays, and_below);
                }
                multiply(da[p][2 * w], turned, even);
                multiply(da[p][2 * w + 1], turned, odd);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (rows[i] >= last || col >= d) continue;
            const long to = rows[i] * d + col;
            const Run added = load(base == nullptr ? dx : base + to, base != nullptr);
            Run out;
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                const unsigned other = added.words[w];
                out.words[w] = pack(sums[i][2 * w] * masks.kept + half_of(other, 0),
                                    sums[i][2 * w + 1] * masks.kept + half_of(other, 1));
            }
            *reinterpret_cast<uint4*>(dx + to) = {out.words[0], out.words[1], out.words[2], out.words[3]};
        }
    }
    if (DOWN > 1) {
        // The lower warps' sums behind the upper ones'.
        __syncthreads();
        float4* sums = reinterpret_cast<float4*>(memory) + across * N * 8 * 32;
#pragma unroll
        for (int i = 0; i < 8 * N; ++i) {
            const float* values = da[i / 8][i % 8].values;
            if (below == 1) sums[i * 32 + lane] = {values[0], values[1], values[2], values[3]};
        }
        __syncthreads();
        if (below == 1) return;
#pragma unroll
        for (int i = 0; i < 8 * N; ++i) {
            const float4 more = sums[i * 32 + lane];
            float* values = da[i / 8][i % 8].values;
            values[0] += more.x, values[1] += more.y, values[2] += more.z, values[3] += more.w;
        }
    }
#pragma unroll
    for (int p = 0; p < N; ++p) {
#pragma unroll
        for (int v = 0; v < 4; ++v) {
            const int rank = lane / 4 + 8 * (v / 2), column = start + 8 * (2 * (lane % 4) + v % 2);
            if (rank >= pieces.of[p].ranks || column >= d) continue;
            float* to = pieces.of[p].partial + (long(blockIdx.y) * stride + rank) * d + column;
            const FragmentC* of = da[p];
            reinterpret_cast<float4*>(to)[0] = {of[0].values[v], of[1].values[v], of[2].values[v], of[3].values[v]};
            reinterpret_cast<float4*>(to)[1] = {of[4].values[v], of[5].values[v], of[6].values[v], of[7].values[v]};
        }
    }
}

}  // namespace lora

// Rows of warps in a block of `pull`: one piece leaves registers for two.
#define LORA(N, DOWN)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(32 * lora::WARPS, 2)                                                  \
        lora_inner_##N(const __nv_bfloat16* x, const __grid_constant__ lora::Pieces pieces,                            \
                       const __grid_constant__ lora::Masks masks, int m, int d, int stride) {                          \
        if (masks.drops == 0) {                                                                                        \
            lora::inner<N, false, false>(x, pieces, masks, m, d, stride);                                              \
        } else if (lora::repeats<N>(pieces)) {                                                                         \
            lora::inner<N, true, true>(x, pieces, masks, m, d, stride);                                                \
        } else {                                                                                                       \
            lora::inner<N, true, false>(x, pieces, masks, m, d, stride);                                               \
        }                                                                                                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(32 * lora::ACROSS * DOWN, 2)                                          \
        lora_pull_##N(const __nv_bfloat16* x, const __nv_bfloat16* base, const __grid_constant__ lora::Pieces pieces,  \
                      const __grid_constant__ lora::Masks masks, int m, int d, int stride, int share,                  \
                      __nv_bfloat16* dx) {                                                                             \
        if (lora::repeats<N>(pieces)) {                                                                                \
            lora::pull<N, DOWN, true>(x, base, pieces, masks, m, d, stride, share, dx);                                \
        } else {                                                                                                       \
            lora::pull<N, DOWN, false>(x, base, pieces, masks, m, d, stride, share, dx);                               \
        }                                                                                                              \
    }

LORA(1, 2)
LORA(2, 1)
LORA(3, 1)

// dA of every piece: its `shares` parts, in order.
extern "C" __global__ void lora_sum(const __grid_constant__ lora::Pieces pieces, int d, int stride, int shares, float kept) {
    const lora::Piece& piece = pieces.of[blockIdx.y];
    const long i = long(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= long(piece.ranks) * d) return;
    float sum = 0.0f;
    for (int s = 0; s < shares; ++s) sum += piece.partial[long(s) * stride * d + i];
    piece.da[i] = sum * kept;
}
