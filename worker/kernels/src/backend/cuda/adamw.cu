// One update of all trained tensors, clipped by the norm over all of them, without the CPU looking at anything in
// between: the sum of squares, block by block in a fixed order, and AdamW with decoupled weight decay in the order of
// PyTorch's. Nothing is changed where it was: the update reads one set of tensors and writes another. A thread has eight
// neighboring elements of every array, whose loads are on their way together.

#include "block.cuh"
#include "eight.cuh"

// What an update needs of the rule of its parameter group, rounded once.
struct Rule {
    float beta1, beta2, one_minus_beta1, one_minus_beta2, epsilon, decay, step, root;
};

// A gradient of n elements.
struct Gradient {
    const float* values;
    long n;
};

// A tensor of n elements.
struct Full {
    const float *gradient, *value, *first, *second;
    float *new_value, *new_first, *new_second;
    long n;
    Rule rule;
};

// `adamw_tables.rs` asserts the same sizes.
static_assert(sizeof(Rule) == 32 && sizeof(Gradient) == 16 && sizeof(Full) == 96);

// A block sums the squares of one tensor's gradient; `parts` has a place for each.
extern "C" __global__ void squares(const Gradient* gradients, float* parts) {
    const Gradient of = gradients[blockIdx.x];
    float sum = 0.0f;
    for (long i = 8 * threadIdx.x; i < of.n; i += 8 * blockDim.x) {
        const Eight g = load_eight(of.values + i, of.n - i);
        for (int j = 0; j < 8; ++j) sum += g.v[j] * g.v[j];
    }
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

// Gradients are scaled down to `max_norm`, unless that is 0.
__device__ __forceinline__ float clip(const float* norm, float max_norm) {
    return max_norm == 0.0f ? 1.0f : fminf(max_norm / (*norm + 1e-6f), 1.0f);
}

// Moves both moments by the gradient, and the value by them.
__device__ __forceinline__ void move_eight(const Rule& r, const Eight& gradient, float scale, Eight& first,
                                           Eight& second, Eight& value) {
    for (int j = 0; j < 8; ++j) {
        const float g = gradient.v[j] * scale;
        const float m = r.beta1 * first.v[j] + r.one_minus_beta1 * g;
        const float v = r.beta2 * second.v[j] + r.one_minus_beta2 * g * g;
        value.v[j] = value.v[j] * r.decay - r.step * m / (sqrtf(v) * r.root + r.epsilon);
        first.v[j] = m;
        second.v[j] = v;
    }
}

// A row of blocks a tensor.
extern "C" __global__ void adamw(const Full* parameters, const float* norm, float max_norm) {
    const Full p = parameters[blockIdx.y];
    const float scale = clip(norm, max_norm);
    const long step = 8 * long(gridDim.x) * blockDim.x;
    for (long i = 8 * (long(blockIdx.x) * blockDim.x + threadIdx.x); i < p.n; i += step) {
        const long there = p.n - i;
        const Eight gradient = load_eight(p.gradient + i, there);
        Eight value = load_eight(p.value + i, there);
        Eight first = load_eight(p.first + i, there), second = load_eight(p.second + i, there);
        move_eight(p.rule, gradient, scale, first, second, value);
        store_eight(p.new_first + i, there, first);
        store_eight(p.new_second + i, there, second);
        store_eight(p.new_value + i, there, value);
    }
}

// A tensor whose moments are 8-bit codes, 256 of them a scale.
struct Coded {
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
    Rule rule;
};

static_assert(sizeof(Coded) == 128);

// Elements that share a scale.
constexpr int CODE_BLOCK = 256;

// Eight codes, the first of `there`.
struct EightCodes {
    alignas(8) unsigned char c[8];
};
__device__ __forceinline__ bool codes_in_one(const unsigned char* at, long there) {
    return there >= 8 && reinterpret_cast<unsigned long long>(at) % 8 == 0;
}
__device__ __forceinline__ EightCodes load_eight_codes(const unsigned char* at, long there) {
    EightCodes out;
    if (codes_in_one(at, there)) {
        *reinterpret_cast<uint2*>(out.c) = *reinterpret_cast<const uint2*>(at);
    } else {
        for (int j = 0; j < 8; ++j) out.c[j] = j < there ? at[j] : 0;
    }
    return out;
}

// The codes of eight moments for their scale, by a table of 65,536 points from -1 to 1.
__device__ __forceinline__ void store_eight_codes(unsigned char* at, long there, const unsigned char* nearest,
                                               const Eight& moments, float scale) {
    EightCodes out;
    const float inverse = 1.0f / scale;
    for (int j = 0; j < 8; ++j) {
        const float x = fminf(fmaxf(moments.v[j] * inverse, -1.0f), 1.0f);
        out.c[j] = scale > 0.0f ? nearest[int((x + 1.0f) * 0.5f * 65535.0f + 0.5f)] : 0;
    }
    if (codes_in_one(at, there)) {
        *reinterpret_cast<uint2*>(at) = *reinterpret_cast<const uint2*>(out.c);
    } else {
        for (int j = 0; j < 8 && j < there; ++j) at[j] = out.c[j];
    }
}

// What codes stand for; zeros behind the first of `there`.
__device__ __forceinline__ Eight decoded(const EightCodes& codes, long there, const float* values, float scale) {
    Eight out;
    for (int j = 0; j < 8; ++j) out.v[j] = j < there ? values[codes.c[j]] * scale : 0.0f;
    return out;
}

__device__ __forceinline__ float largest_moment(const Eight& x) {
    float top = 0.0f;
    for (int j = 0; j < 8; ++j) top = fmaxf(top, fabsf(x.v[j]));
    return warp_reduce(top, Max());
}

// As `adamw`, with moments in 8 bits (Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022): a warp
// decodes, updates and codes the elements of one scale; a row of blocks a tensor.
extern "C" __global__ void adamw_coded(const Coded* parameters, const float* signed_values,
                                       const float* unsigned_values, const unsigned char* signed_codes,
                                       const unsigned char* unsigned_codes, const float* norm, float max_norm) {
    __shared__ float first_values[256];
    __shared__ float second_values[256];
    const Coded p = parameters[blockIdx.y];
    const long first_block = long(blockIdx.x) * (blockDim.x / 32), block = first_block + threadIdx.x / 32;
    if (CODE_BLOCK * first_block >= p.n) return;
    for (unsigned i = threadIdx.x; i < 256; i += blockDim.x) {
        first_values[i] = signed_values[i];
        second_values[i] = unsigned_values[i];
    }
    __syncthreads();
    if (CODE_BLOCK * block >= p.n) return;
    const long i = CODE_BLOCK * block + 8 * (threadIdx.x % 32), there = p.n - i;
    const Eight gradient = load_eight(p.gradient + i, there);
    Eight value = load_eight(p.value + i, there);
    const EightCodes first_codes = load_eight_codes(p.first + i, there);
    const EightCodes second_codes = load_eight_codes(p.second + i, there);
    Eight first = decoded(first_codes, there, first_values, p.first_scales[block]);
    Eight second = decoded(second_codes, there, second_values, p.second_scales[block]);
    move_eight(p.rule, gradient, clip(norm, max_norm), first, second, value);
    store_eight(p.new_value + i, there, value);
    const float first_scale = largest_moment(first), second_scale = largest_moment(second);
    store_eight_codes(p.new_first + i, there, signed_codes, first, first_scale);
    store_eight_codes(p.new_second + i, there, unsigned_codes, second, second_scale);
    if (threadIdx.x % 32 == 0) {
        p.new_first_scales[block] = first_scale;
        p.new_second_scales[block] = second_scale;
    }
}
