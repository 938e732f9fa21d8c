// One update of all trained tensors, clipped by the norm over all of them, without the processor looking at anything in
// between: the sum of squares, block by block in a fixed order, and AdamW with decoupled weight decay in the order of
// PyTorch's. Nothing is changed where it was: the update reads one set of tensors and writes another.

#include "block.cuh"

// A tensor of n elements; `faster` tells which of two rules is its own.
struct Parameter {
    const float *gradient, *value, *first, *second;
    float *new_value, *new_first, *new_second;
    long n;
    long faster;
};

struct Rule {
    float beta1, beta2, share1, share2, epsilon, keep, step, root;
};

// A block sums the squares of one tensor's gradient; `parts` has a place for each.
extern "C" __global__ void squares(const Parameter* parameters, float* parts) {
    const Parameter p = parameters[blockIdx.x];
    float sum = 0.0f;
    for (long i = threadIdx.x; i < p.n; i += blockDim.x) sum += p.gradient[i] * p.gradient[i];
    sum = block_reduce(sum, Sum());
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// One block: the square root of the sum of n parts.
extern "C" __global__ void root_of_sum(const float* parts, int n, float* norm) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += parts[i];
    sum = block_reduce(sum, Sum());
    if (threadIdx.x == 0) *norm = sqrtf(sum);
}

// A row of blocks a tensor. Gradients are scaled down to a norm of `most`, unless that is 0.
extern "C" __global__ void adamw(const Parameter* parameters, Rule rule, Rule faster, const float* norm, float most) {
    const Parameter p = parameters[blockIdx.y];
    const Rule r = p.faster ? faster : rule;
    const float scale = most == 0.0f ? 1.0f : fminf(most / (*norm + 1e-6f), 1.0f);
    for (long i = long(blockIdx.x) * blockDim.x + threadIdx.x; i < p.n; i += long(gridDim.x) * blockDim.x) {
        const float g = p.gradient[i] * scale;
        const float m = r.beta1 * p.first[i] + r.share1 * g;
        const float v = r.beta2 * p.second[i] + r.share2 * g * g;
        p.new_first[i] = m;
        p.new_second[i] = v;
        p.new_value[i] = p.value[i] * r.keep - r.step * m / (sqrtf(v) * r.root + r.epsilon);
    }
}
