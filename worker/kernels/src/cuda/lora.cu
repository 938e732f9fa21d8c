// Low-rank adapters with their dropout, for projections that share their input: it is read once for all of them, and no
// masked copy of it is written.
//
// A lane owns eight neighbouring columns, which one draw of Philox masks: the order of a product's sums, or of its
// columns, is free, so the fragments of the tensor cores are filled with what each lane has read. A warp shares nothing
// with others but the end of its sums.

#include "philox.cuh"
#include "tensor_core.cuh"

namespace lora {

constexpr int WARPS = 4, THREADS = 32 * WARPS, MOST_PIECES = 3;
// Rows of a warp in `inner`, and columns of a warp in both.
constexpr int ROWS = 32, COLUMNS = 32;

// Sixteen ranks of an adapter, or fewer: rows of A [R, D], columns of u [M, R], which is du on the way back.
struct Piece {
    const __nv_bfloat16* a;
    __nv_bfloat16* u;
    float *partial, *da;
    unsigned projection;
    int ranks;
};

struct Pieces {
    Piece of[MOST_PIECES];
};

// What masks of a step have in common; `first` is the step's element that a matrix begins with.
struct Masks {
    unsigned long long first;
    unsigned low, high, step, threshold;
    float kept;
};

// Eight neighbouring elements of a row, two a word.
struct Run {
    unsigned words[4];
};

__device__ __forceinline__ Run load(const __nv_bfloat16* at, bool there) {
    if (!there) return {};
    const uint4 v = *reinterpret_cast<const uint4*>(at);
    return {{v.x, v.y, v.z, v.w}};
}

// Which of eight elements stay, a bit each.
__device__ __forceinline__ unsigned mask_of(const Masks& masks, unsigned projection, unsigned long long element) {
    if (masks.threshold == 0) return 0xff;
    const Words words = philox((masks.first + element) / 8, projection, masks.step, masks.low, masks.high);
    unsigned mask = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) mask |= unsigned(number(words, j) >= masks.threshold) << j;
    return mask;
}

__device__ __forceinline__ Run masked(const Run& run, unsigned mask) {
    Run out;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        const unsigned low = mask >> (2 * w) & 1 ? 0x0000ffffu : 0u, high = mask >> (2 * w + 1) & 1 ? 0xffff0000u : 0u;
        out.words[w] = run.words[w] & (low | high);
    }
    return out;
}

// Two neighbouring ranks of a row of u; `ranks` is even.
__device__ __forceinline__ unsigned ranks_of(const Piece& piece, long row, int stride, int rank, bool there) {
    if (!there || rank >= piece.ranks) return 0;
    return *reinterpret_cast<const unsigned*>(piece.u + row * stride + rank);
}

// u = kept (m o x) A^T. A block owns 32 rows; its warps take every fourth 32 columns, and their sums are added in order.
template <int N>
__device__ void inner(const __nv_bfloat16* x, const Pieces& pieces, const Masks& masks, int m, int d, int stride) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const long row = long(blockIdx.x) * ROWS + lane / 4;
    FragmentC sums[2][2 * N] = {};
    for (int start = COLUMNS * warp; start < d; start += COLUMNS * WARPS) {
        const int col = start + 8 * (lane % 4);
        Run own[4];
        unsigned mask[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) own[i] = load(x + (row + 8 * i) * d + col, row + 8 * i < m && col < d);
#pragma unroll
        for (int p = 0; p < N; ++p) {
            const Piece& piece = pieces.of[p];
            const bool drawn = p > 0 && piece.projection == pieces.of[p > 0 ? p - 1 : 0].projection;
            Run kept[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (!drawn) mask[i] = mask_of(masks, piece.projection, (row + 8 * i) * d + col);
                kept[i] = masked(own[i], mask[i]);
            }
#pragma unroll
            for (int n = 0; n < 2; ++n) {
                const int rank = 8 * n + lane / 4;
                const Run a = load(piece.a + long(rank) * d + col, rank < piece.ranks && col < d);
#pragma unroll
                for (int step = 0; step < 4; step += 2) {
                    const FragmentB right = {{a.words[step], a.words[step + 1]}};
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
        for (int i = 0; i < 8; ++i) {
            parts[warp][lane / 4 + 8 * (i / 2)][8 * n + 2 * (lane % 4) + i % 2] = sums[i / 4][n].values[i % 4];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * 16 * N; i += THREADS) {
        const int within = i / (16 * N), column = i % (16 * N), rank = column % 16;
        const Piece& piece = pieces.of[column / 16];
        const long at = long(blockIdx.x) * ROWS + within;
        if (at >= m || rank >= piece.ranks) continue;
        float sum = 0.0f;
        for (int w = 0; w < WARPS; ++w) sum += parts[w][within][column];
        piece.u[at * stride + rank] = __float2bfloat16(sum * masks.kept);
    }
}

// dx = base + kept (sum of m o (du A)), and parts of dA = kept du^T (m o x), one for each `share` rows. A warp owns 32
// columns of those rows.
template <int N>
__device__ void pull(const __nv_bfloat16* x, const __nv_bfloat16* base, const Pieces& pieces, const Masks& masks, int m,
                     int d, int stride, int share, __nv_bfloat16* dx) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int start = (int(blockIdx.x) * WARPS + warp) * COLUMNS, col = start + 8 * (lane % 4);
    const long first = long(blockIdx.y) * share, last = min(first + share, long(m));
    // Columns of the n-th fragment are such that a lane gets two more of its own eight from each.
    FragmentB down[N][4];
#pragma unroll
    for (int p = 0; p < N; ++p) {
        for (int n = 0; n < 4; ++n) {
            const int column = start + 8 * (lane / 8) + 2 * n + lane / 4 % 2;
            for (int word = 0; word < 2; ++word) {
                unsigned pair = 0;
                for (int j = 0; j < 2; ++j) {
                    const int rank = 8 * word + 2 * (lane % 4) + j;
                    const bool there = rank < pieces.of[p].ranks && column < d;
                    const __nv_bfloat16* at = pieces.of[p].a + long(rank) * d + column;
                    pair |= (there ? unsigned(*reinterpret_cast<const unsigned short*>(at)) : 0u) << (16 * j);
                }
                down[p][n].words[word] = pair;
            }
        }
    }
    FragmentC da[N][4] = {};
    for (long at = first; at < last; at += 16) {
        const long rows[2] = {at + lane / 4, at + lane / 4 + 8};
        Run own[2];
        unsigned mask[2];
        float sums[2][8] = {};
        for (int i = 0; i < 2; ++i) own[i] = load(x + rows[i] * d + col, rows[i] < last && col < d);
#pragma unroll
        for (int p = 0; p < N; ++p) {
            const Piece& piece = pieces.of[p];
            const bool drawn = p > 0 && piece.projection == pieces.of[p > 0 ? p - 1 : 0].projection;
            FragmentA du;
            Run kept[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                for (int upper = 0; upper < 2; ++upper) {
                    const int rank = 8 * upper + 2 * (lane % 4);
                    du.words[i + 2 * upper] = ranks_of(piece, rows[i], stride, rank, rows[i] < last);
                }
                if (!drawn) mask[i] = mask_of(masks, piece.projection, rows[i] * d + col);
                kept[i] = masked(own[i], mask[i]);
            }
            const FragmentA turned = {{transpose(du.words[0]), transpose(du.words[2]), transpose(du.words[1]),
                                       transpose(du.words[3])}};
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                FragmentC through = {};
                multiply(through, du, down[p][n]);
                for (int i = 0; i < 4; ++i) {
                    const int element = 2 * n + i % 2;
                    sums[i / 2][element] += mask[i / 2] >> element & 1 ? through.values[i] : 0.0f;
                }
                multiply(da[p][n], turned, {{transpose(kept[0].words[n]), transpose(kept[1].words[n])}});
            }
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            if (rows[i] >= last || col >= d) continue;
            const long to = rows[i] * d + col;
            const Run added = load(base == nullptr ? dx : base + to, base != nullptr);
            Run out;
            for (int w = 0; w < 4; ++w) {
                const unsigned other = added.words[w];
                out.words[w] = pack(sums[i][2 * w] * masks.kept + half_of(other, 0),
                                    sums[i][2 * w + 1] * masks.kept + half_of(other, 1));
            }
            *reinterpret_cast<uint4*>(dx + to) = {out.words[0], out.words[1], out.words[2], out.words[3]};
        }
    }
    if (col >= d) return;
#pragma unroll
    for (int p = 0; p < N; ++p) {
        for (int upper = 0; upper < 2; ++upper) {
            const int rank = lane / 4 + 8 * upper;
            if (rank >= pieces.of[p].ranks) continue;
            float* to = pieces.of[p].partial + (long(blockIdx.y) * stride + rank) * d + col;
            for (int n = 0; n < 4; ++n) {
                for (int j = 0; j < 2; ++j) to[2 * n + j] = da[p][n].values[2 * upper + j];
            }
        }
    }
}

}  // namespace lora

#define LORA(N)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(lora::THREADS)                                                       \
        lora_inner_##N(const __nv_bfloat16* x, const __grid_constant__ lora::Pieces pieces,                   \
                       lora::Masks masks, int m, int d, int stride) {                                                 \
        lora::inner<N>(x, pieces, masks, m, d, stride);                                                               \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(lora::THREADS)                                                       \
        lora_pull_##N(const __nv_bfloat16* x, const __nv_bfloat16* base, const __grid_constant__ lora::Pieces pieces, \
                      lora::Masks masks, int m, int d, int stride, int share, __nv_bfloat16* dx) {                    \
        lora::pull<N>(x, base, pieces, masks, m, d, stride, share, dx);                                               \
    }

LORA(1)
LORA(2)
LORA(3)

// dA of every piece: its `shares` parts, in order.
extern "C" __global__ void lora_sum(const __grid_constant__ lora::Pieces pieces, int d, int stride, int shares, float kept) {
    const lora::Piece& piece = pieces.of[blockIdx.y];
    const long i = long(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= long(piece.ranks) * d) return;
    float sum = 0.0f;
    for (int s = 0; s < shares; ++s) sum += piece.partial[long(s) * stride * d + i];
    piece.da[i] = sum * kept;
}
