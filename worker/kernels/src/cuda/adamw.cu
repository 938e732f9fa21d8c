// AdamW with decoupled weight decay, in the order of PyTorch's, in place; a thread an element.

extern "C" __global__ void adamw(const float* gradient, float* value, float* first, float* second, long n, float beta1,
                                 float beta2, float share1, float share2, float epsilon, float keep, float step,
                                 float root, float scale) {
    const long i = long(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float g = gradient[i] * scale;
    const float m = beta1 * first[i] + share1 * g;
    const float v = beta2 * second[i] + share2 * g * g;
    first[i] = m;
    second[i] = v;
    value[i] = value[i] * keep - step * m / (sqrtf(v) * root + epsilon);
}
