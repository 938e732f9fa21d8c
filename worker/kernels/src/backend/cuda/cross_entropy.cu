// Cross entropy of a chunk of logits, a block a row: the loss, and the gradient in bf16, which is all that the product
// with the output layer takes.
//
// One pass finds maximum and sum together. It keeps the first parts of the row in shared memory, and the second pass
// goes back from the end, which the cache still has: most of a row of half a megabyte is read from memory once.

#include "block.cuh"
#include "eight.cuh"
#include "tensor_core.cuh"

// Parts of a row whose loads are on their way together.
constexpr int PARTS = 4;

// 2^x to two units in the last place, and 0 where that would be no normal number.
__device__ __forceinline__ float power_of_two(float x) {
#ifndef QLORA_EMULATED
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
#else
    return exp2f(x);
#endif
}

// What nobody reads again leaves the cache first.
__device__ __forceinline__ Eight load_last(const float4* at) {
#ifndef QLORA_EMULATED
    return joined(__ldcs(at), __ldcs(at + 1));
#else
    return joined(at[0], at[1]);
#endif
}
__device__ __forceinline__ void store_last(uint4* at, const Packed& values) {
    const uint4& bytes = *reinterpret_cast<const uint4*>(values.words);
#ifndef QLORA_EMULATED
    __stcs(at, bytes);
#else
    *at = bytes;
#endif
}

// cap tanh(x / cap).
__device__ __forceinline__ float under(float cap, float x) { return cap * tanhf(x / cap); }

// A row in parts of eight elements a thread, which lie side by side where rows begin at multiples of 16 bytes. Else
// they lie as far apart as a block has threads, so that the loads of a warp are side by side. What is loaded is under
// the cap where there is one.
template <bool side_by_side, bool capped>
struct Row {
    const float* logits;
    float cap;
    __nv_bfloat16* grad;
    int v;
    // Of the first parts, in shared memory.
    float4* kept;
    int parts_kept;

    __device__ int place(int part, int j) const {
        const int threads = int(blockDim.x), thread = int(threadIdx.x), start = 8 * part * threads;
        return side_by_side ? start + 8 * thread + j : start + j * threads + thread;
    }
    __device__ float4* kept_at(int part) const { return kept + 2 * part * blockDim.x + threadIdx.x; }

    // Nothing of the sum beyond the row.
    __device__ Eight load(int part, bool last) const {
        Eight x;
        if (side_by_side) {
            const int at = place(part, 0);
            const float4* both = reinterpret_cast<const float4*>(logits + at);
            if (at < v) return own(last ? load_last(both) : joined(both[0], both[1]));
            for (int j = 0; j < 8; ++j) x.v[j] = -INFINITY;
        } else {
            for (int j = 0; j < 8; ++j) x.v[j] = place(part, j) < v ? own(logits[place(part, j)]) : -INFINITY;
        }
        return x;
    }
    __device__ float own(float x) const { return capped ? under(cap, x) : x; }
    __device__ Eight own(Eight x) const {
        if (capped) {
            for (int j = 0; j < 8; ++j) x.v[j] = under(cap, x.v[j]);
        }
        return x;
    }
    // The slope of the cap where it gave `x`.
    __device__ float slope(float x) const {
        const float share = x / cap;
        return 1.0f - share * share;
    }
    __device__ void keep(int part, const Eight& x) const {
        kept_at(part)[0] = {x.v[0], x.v[1], x.v[2], x.v[3]};
        kept_at(part)[blockDim.x] = {x.v[4], x.v[5], x.v[6], x.v[7]};
    }
    __device__ Eight load_again(int part) const {
        return part < parts_kept ? joined(kept_at(part)[0], kept_at(part)[blockDim.x]) : load(part, true);
    }
    __device__ void store(int part, const Eight& gradient) const {
        if (side_by_side) {
            const int at = place(part, 0);
            if (at < v) store_last(reinterpret_cast<uint4*>(grad + at), packed(gradient));
        } else {
            for (int j = 0; j < 8; ++j) {
                if (place(part, j) < v) grad[place(part, j)] = __float2bfloat16(gradient.v[j]);
            }
        }
    }
};

// The logits in units of log 2: their exponentials are powers of two.
constexpr float UNITS = 1.44269504f, UNIT = 0.693147181f;

// The largest logit so far, and the sum of 2^(logit - top).
struct Running {
    float top = -1e30f, total = 0.0f;

    __device__ void add(const Eight& x) {
        float highest = x.v[0];
        for (int j = 1; j < 8; ++j) highest = fmaxf(highest, x.v[j]);
        const float next = fmaxf(top, highest * UNITS);
        float power[8];
        for (int j = 0; j < 8; ++j) power[j] = power_of_two(fmaf(x.v[j], UNITS, -next));
        const float low = (power[0] + power[1]) + (power[2] + power[3]);
        const float high = (power[4] + power[5]) + (power[6] + power[7]);
        total = fmaf(total, power_of_two(top - next), low + high);
        top = next;
    }
};

template <bool side_by_side, bool capped>
__device__ __forceinline__ Running first_pass(const Row<side_by_side, capped>& row, int parts) {
    Running own;
    for (int part = 0; part < parts; part += PARTS) {
        Eight x[PARTS];
#pragma unroll
        for (int k = 0; k < PARTS; ++k) x[k] = row.load(part + k, part + k < row.parts_kept);
#pragma unroll
        for (int k = 0; k < PARTS; ++k) {
            if (part + k < row.parts_kept) row.keep(part + k, x[k]);
            own.add(x[k]);
        }
    }
    return own;
}

template <bool side_by_side, bool capped>
__device__ __forceinline__ void second_pass(const Row<side_by_side, capped>& row, int parts, float top, float factor,
                                            int target, float scale) {
    const int with_target = target / (8 * int(blockDim.x));
    for (int part = (parts - 1) / PARTS * PARTS; part >= 0; part -= PARTS) {
        Eight x[PARTS];
#pragma unroll
        for (int k = PARTS - 1; k >= 0; --k) x[k] = row.load_again(part + k);
#pragma unroll
        for (int k = PARTS - 1; k >= 0; --k) {
            Eight slopes;
            if (capped) {
                for (int j = 0; j < 8; ++j) slopes.v[j] = row.slope(x[k].v[j]);
            }
            for (int j = 0; j < 8; ++j) x[k].v[j] = power_of_two(fmaf(x[k].v[j], UNITS, -top)) * factor;
            if (part + k == with_target) {
                for (int j = 0; j < 8; ++j) x[k].v[j] -= row.place(part + k, j) == target ? scale : 0.0f;
            }
            if (capped) {
                for (int j = 0; j < 8; ++j) x[k].v[j] *= slopes.v[j];
            }
            row.store(part + k, x[k]);
        }
    }
}

template <bool side_by_side, bool capped>
__device__ void cross_entropy_of(const Row<side_by_side, capped>& row, int target, float scale, float* loss) {
    const int width = 8 * int(blockDim.x), parts = (row.v + width - 1) / width;
    const Running own = first_pass(row, parts);
    const float top = block_reduce(own.top, Max());
    const float total = block_reduce(own.total * power_of_two(own.top - top), Sum());
    if (threadIdx.x == 0) *loss = logf(total) + fmaf(top, UNIT, -row.own(row.logits[target]));
    if (row.grad != nullptr) second_pass(row, parts, top, scale / total, target, scale);
}

template <bool capped>
__device__ __forceinline__ void cross_entropy_of_block(const float* logits, const unsigned* targets, int v, float cap,
                                                       float scale, float4* kept, int parts_kept, float* losses,
                                                       __nv_bfloat16* grad) {
    const long start = long(blockIdx.x) * v;
    const int target = int(targets[blockIdx.x]);
    __nv_bfloat16* own = grad == nullptr ? nullptr : grad + start;
    if (v % 8 == 0 && reinterpret_cast<unsigned long long>(logits) % 16 == 0 &&
        reinterpret_cast<unsigned long long>(grad) % 16 == 0) {
        const Row<true, capped> row{logits + start, cap, own, v, kept, parts_kept};
        cross_entropy_of(row, target, scale, losses + blockIdx.x);
    } else {
        const Row<false, capped> row{logits + start, cap, own, v, kept, parts_kept};
        cross_entropy_of(row, target, scale, losses + blockIdx.x);
    }
}

// logits [L, V], targets [L] to losses [L] and, unless it is null, grad [L, V] of sum(losses) * scale. Shared memory
// has room for `parts_kept` parts of 32 bytes a thread.
extern "C" __global__ void __launch_bounds__(1024)
    cross_entropy(const float* logits, const unsigned* targets, int v, float scale, int parts_kept, float* losses,
                  __nv_bfloat16* grad) {
    SHARED_MEMORY(shared);
    float4* kept = reinterpret_cast<float4*>(shared);
    cross_entropy_of_block<false>(logits, targets, v, 0.0f, scale, kept, parts_kept, losses, grad);
}

// The same of logits under a soft cap; grad is that of the logits before it.
extern "C" __global__ void __launch_bounds__(1024)
    cross_entropy_capped(const float* logits, const unsigned* targets, int v, float scale, int parts_kept,
                         float* losses, __nv_bfloat16* grad, float cap) {
    SHARED_MEMORY(shared);
    float4* kept = reinterpret_cast<float4*>(shared);
    cross_entropy_of_block<true>(logits, targets, v, cap, scale, kept, parts_kept, losses, grad);
}

// n logits under the cap, in place, a thread eight.
extern "C" __global__ void cap_logits(float* logits, long n, float cap) {
    const long i = 8 * (long(blockIdx.x) * blockDim.x + threadIdx.x);
    if (i >= n) return;
    Eight x = load_eight(logits + i, n - i);
    for (int j = 0; j < 8; ++j) x.v[j] = under(cap, x.v[j]);
    store_eight(logits + i, n - i, x);
}
