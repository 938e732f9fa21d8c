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

// A tensor whose moments are 8-bit codes, 256 of them a scale.
struct CodedParameter {
    const float *gradient, *value;
    const unsigned char* first;
    const float* first_scales;
    const unsigned char* second;
    const float* second_scales;
    float* new_value;
    unsigned char* new_first;
    float* new_first_scales;
    unsigned char* new_second;
    float* new_second_scales;
    long n;
    long faster;
};

// The code of x, of at most 1, by a table of 65,536 points from -1 to 1.
__device__ unsigned char code_of(const unsigned char* nearest, float x) {
    return nearest[int((fminf(fmaxf(x, -1.0f), 1.0f) + 1.0f) * 0.5f * 65535.0f + 0.5f)];
}

// As `adamw`, with moments in 8 bits (Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022): a block of 256
// threads decodes, updates and codes the elements of one scale; a row of blocks a tensor.
extern "C" __global__ void adamw_coded(const CodedParameter* parameters, const float* signed_values,
                                       const float* unsigned_values, const unsigned char* signed_codes,
                                       const unsigned char* unsigned_codes, Rule rule, Rule faster, const float* norm,
                                       float most) {
    const CodedParameter p = parameters[blockIdx.y];
    const long block = blockIdx.x, i = block * blockDim.x + threadIdx.x;
    if (block * blockDim.x >= p.n) return;
    const Rule r = p.faster ? faster : rule;
    const bool there = i < p.n;
    float m = 0.0f, v = 0.0f;
    if (there) {
        const float g = p.gradient[i] * (most == 0.0f ? 1.0f : fminf(most / (*norm + 1e-6f), 1.0f));
        m = r.beta1 * (signed_values[p.first[i]] * p.first_scales[block]) + r.share1 * g;
        v = r.beta2 * (unsigned_values[p.second[i]] * p.second_scales[block]) + r.share2 * g * g;
        p.new_value[i] = p.value[i] * r.keep - r.step * m / (sqrtf(v) * r.root + r.epsilon);
    }
    const float m_scale = block_reduce(fabsf(m), Max()), v_scale = block_reduce(v, Max());
    if (threadIdx.x == 0) {
        p.new_first_scales[block] = m_scale;
        p.new_second_scales[block] = v_scale;
    }
    if (!there) return;
    p.new_first[i] = m_scale > 0.0f ? code_of(signed_codes, m * (1.0f / m_scale)) : 0;
    p.new_second[i] = v_scale > 0.0f ? code_of(unsigned_codes, v * (1.0f / v_scale)) : 0;
}
