// What the trainer calls of cuBLASLt, on the CPU, and the handles of libraries that candle opens and the trainer
// does not use. Matrices are column-major, as in BLAS.

#include "emulator.h"

#include "streams.h"

namespace {

constexpr int SUCCESS = 0, NOT_SUPPORTED = 15, BF16 = 14, F32 = 0, TRANSPOSE_A = 3, TRANSPOSE_B = 4;

struct Operation {
    int transpose_a = 0, transpose_b = 0;
};
struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t stride;

    float get(const void* data, uint64_t row, uint64_t col) const {
        const uint64_t at = row + col * stride;
        if (type == F32) return static_cast<const float*>(data)[at];
        return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[at]);
    }
    void set(void* data, uint64_t row, uint64_t col, float value) const {
        const uint64_t at = row + col * stride;
        if (type == F32) {
            static_cast<float*>(data)[at] = value;
        } else {
            static_cast<__nv_bfloat16*>(data)[at] = __float2bfloat16(value);
        }
    }
};

int handle(void** out) {
    static int somewhere;
    *out = &somewhere;
    return SUCCESS;
}

// op(matrix) [rows, cols] in f32, row-major.
std::vector<float> row_major(const void* data, const Layout& layout, bool transpose) {
    const uint64_t rows = transpose ? layout.cols : layout.rows, cols = transpose ? layout.rows : layout.cols;
    std::vector<float> out(rows * cols);
    for (uint64_t i = 0; i < rows; ++i)
        for (uint64_t j = 0; j < cols; ++j)
            out[i * cols + j] = transpose ? layout.get(data, j, i) : layout.get(data, i, j);
    return out;
}

}  // namespace

extern "C" {

int cublasCreate_v2(void** out) { return handle(out); }
int cublasDestroy_v2(void*) { return SUCCESS; }
int cublasSetStream_v2(void*, void*) { return SUCCESS; }
// The trainer's products do not come this way.
int cublasDgemmStridedBatched() { return NOT_SUPPORTED; }
int cublasGemmStridedBatchedEx() { return NOT_SUPPORTED; }
int curandCreateGenerator(void** out, int) { return handle(out); }
int curandGenerateUniform() { return NOT_SUPPORTED; }
int curandGenerateUniformDouble() { return NOT_SUPPORTED; }
int curandDestroyGenerator(void*) { return SUCCESS; }
int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return SUCCESS; }
int curandSetStream(void*, void*) { return SUCCESS; }

int cublasLtCreate(void** out) { return handle(out); }
int cublasLtDestroy(void*) { return SUCCESS; }
int cublasLtMatmulDescCreate(Operation** out, int, int) { return *out = new Operation, SUCCESS; }
int cublasLtMatmulDescDestroy(Operation* operation) { return delete operation, SUCCESS; }
int cublasLtMatmulDescSetAttribute(Operation* operation, int attribute, const int* value, size_t) {
    if (attribute == TRANSPOSE_A) operation->transpose_a = *value;
    if (attribute == TRANSPOSE_B) operation->transpose_b = *value;
    return SUCCESS;
}
int cublasLtMatrixLayoutCreate(Layout** out, int type, uint64_t rows, uint64_t cols, int64_t stride) {
    if (type != BF16 && type != F32) return NOT_SUPPORTED;
    *out = new Layout{type, rows, cols, stride};
    return SUCCESS;
}
int cublasLtMatrixLayoutDestroy(Layout* layout) { return delete layout, SUCCESS; }
int cublasLtMatmulPreferenceCreate(void** out) { return handle(out); }
int cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return SUCCESS; }
int cublasLtMatmulPreferenceDestroy(void*) { return SUCCESS; }
int cublasLtMatmulAlgoGetHeuristic(void*, Operation*, Layout*, Layout*, Layout*, Layout*, void*, int, void* result,
                                   int* found) {
    // An algorithm of eight words, the size of its workspace, and the state.
    std::memset(result, 0, 8 * 8 + 8 + 4);
    *found = 1;
    return SUCCESS;
}
int cublasLtMatmul(void*, Operation* operation, const float* alpha, const void* a, Layout* la, const void* b,
                   Layout* lb, const float* beta, const void* c, Layout* lc, void* d, Layout* ld, const void*, void*,
                   size_t, void* stream) {
    std::vector<emulator::Use> uses{emulator::reads(a), emulator::reads(b), emulator::writes(d)};
    if (*beta != 0.0f) uses.push_back(emulator::reads(c));
    emulator::use(*emulator::of(stream), "cublasLtMatmul", uses);
    const std::vector<float> left = row_major(a, *la, operation->transpose_a);
    const std::vector<float> right = row_major(b, *lb, !operation->transpose_b);
    const uint64_t m = ld->rows, n = ld->cols, k = left.size() / m;
    if (left.size() != m * k || right.size() != n * k || lc->rows != m || lc->cols != n) return 7;
    // The result may lie where the third operand does.
    std::vector<float> before(*beta == 0.0f ? 0 : m * n);
    for (uint64_t at = 0; at < before.size(); ++at) before[at] = *beta * lc->get(c, at % m, at / m);
    for (uint64_t j = 0; j < n; ++j)
        for (uint64_t i = 0; i < m; ++i) {
            float sum = 0.0f;
            for (uint64_t l = 0; l < k; ++l) sum += left[i * k + l] * right[j * k + l];
            ld->set(d, i, j, *alpha * sum);
            // As on an H200: the product is rounded to the result's type before the third operand is added.
            if (*beta != 0.0f) ld->set(d, i, j, ld->get(d, i, j) + before[j * m + i]);
        }
    return SUCCESS;
}
}
