// Dropout: a thread draws once and masks the eight elements of a group. The first and the last group of a tensor may be
// shared with its neighbors.

#include "eight.cuh"
#include "philox.cuh"

// out = base + mask x / (1 - p) for n elements, the first of which is element `first` of the step; base may be null. An
// element is dropped where its 16 bits are below `threshold`; `kept` is 1 / (1 - p).
extern "C" __global__ void dropout(const __nv_bfloat16* x, const __nv_bfloat16* base, long n, unsigned long long first,
                                   unsigned low, unsigned high, unsigned projection, unsigned step, unsigned threshold,
                                   float kept, __nv_bfloat16* out) {
    const unsigned long long group = first / 8 + (long(blockIdx.x) * blockDim.x + threadIdx.x);
    const long start = long(8 * group) - long(first);
    if (start >= n) return;
    const Words words = philox(group, projection, step, low, high);
    if (start < 0) {
        // The group begins in the tensor before.
        for (long i = 0; i < start + 8 && i < n; ++i) {
            const float added = base != nullptr ? __bfloat162float(base[i]) : 0.0f;
            const bool stays = number(words, int(i - start)) >= threshold;
            out[i] = __float2bfloat16(added + (stays ? __bfloat162float(x[i]) * kept : 0.0f));
        }
        return;
    }
    const Eight values = load_eight(x + start, n - start);
    Eight sum = {};
    if (base != nullptr) sum = load_eight(base + start, n - start);
    for (int j = 0; j < 8; ++j) sum.v[j] += number(words, j) >= threshold ? values.v[j] * kept : 0.0f;
    store_eight(out + start, n - start, sum);
}
