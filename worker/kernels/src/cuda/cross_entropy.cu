// Cross entropy of a chunk of logits, a block a row: the loss, and the gradient in bf16, which is all that the product
// with the output layer takes. A row is read three times, the last two out of the cache.

#include <cuda_bf16.h>

#include "block.cuh"

// logits [L, V], targets [L] to losses [L] and, unless it is null, grad [L, V] of sum(losses) * scale.
extern "C" __global__ void cross_entropy(const float* logits, const unsigned* targets, int v, float scale, float* losses,
                                         __nv_bfloat16* grad) {
    const float* row = logits + long(blockIdx.x) * v;
    const int target = int(targets[blockIdx.x]);
    float top = -INFINITY;
    for (int i = threadIdx.x; i < v; i += blockDim.x) top = fmaxf(top, row[i]);
    top = block_reduce(top, Max());
    float total = 0.0f;
    for (int i = threadIdx.x; i < v; i += blockDim.x) total += expf(row[i] - top);
    total = block_reduce(total, Sum());
    if (threadIdx.x == 0) losses[blockIdx.x] = logf(total) + top - row[target];
    if (grad == nullptr) return;
    const float factor = scale / total;
    for (int i = threadIdx.x; i < v; i += blockDim.x) {
        const float p = expf(row[i] - top) * factor;
        grad[long(blockIdx.x) * v + i] = __float2bfloat16(i == target ? p - scale : p);
    }
}
