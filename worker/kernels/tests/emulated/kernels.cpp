// The kernels as functions of a library that the tests load; `blocks` and `threads` are those of the launch.

#include "emulator.h"

#include "adamw.cu"
#include "cross_entropy.cu"
#include "dropout.cu"
#include "nf4.cu"
#include "rms_norm.cu"
#include "rope.cu"
#include "swiglu.cu"

using bf16 = __nv_bfloat16;

extern "C" {

void run_nf4_to_bf16(unsigned blocks, unsigned threads, const unsigned char* packed, const unsigned char* codes,
                     const float* scales, const float* map, float offset, long elements, int block, bf16* out) {
    launch(blocks, threads, [=] { nf4_to_bf16(packed, codes, scales, map, offset, elements, block, out); });
}

void run_rms_norm_forward(unsigned blocks, unsigned threads, const bf16* x, const bf16* w, int d, float epsilon,
                          bf16* y, float* rho) {
    launch(blocks, threads, [=] { rms_norm_forward(x, w, d, epsilon, y, rho); });
}

void run_rms_norm_backward(unsigned blocks, unsigned threads, const bf16* dy, const bf16* x, const bf16* w,
                           const float* rho, const bf16* base, int d, bf16* dx) {
    launch(blocks, threads, [=] { rms_norm_backward(dy, x, w, rho, base, d, dx); });
}

void run_swiglu_forward(unsigned blocks, unsigned threads, const bf16* g, const bf16* e, long n, bf16* h) {
    launch(blocks, threads, [=] { swiglu_forward(g, e, n, h); });
}

void run_swiglu_backward(unsigned blocks, unsigned threads, const bf16* dh, const bf16* g, const bf16* e, long n,
                         bf16* dg, bf16* de) {
    launch(blocks, threads, [=] { swiglu_backward(dh, g, e, n, dg, de); });
}

void run_cross_entropy(unsigned blocks, unsigned threads, const float* logits, const unsigned* targets, int v,
                       float scale, float* losses, bf16* grad) {
    launch(blocks, threads, [=] { cross_entropy(logits, targets, v, scale, losses, grad); });
}

void run_dropout(unsigned blocks, unsigned threads, const bf16* x, const bf16* base, long n, unsigned long long first,
                 unsigned low, unsigned high, unsigned projection, unsigned step, unsigned threshold, float kept,
                 bf16* out) {
    launch(blocks, threads,
           [=] { dropout(x, base, n, first, low, high, projection, step, threshold, kept, out); });
}

void run_rope(unsigned blocks, unsigned threads, const bf16* x, const unsigned* positions, const float* cosines,
              const float* sines, long pairs, int width, int head, float sign, bf16* y) {
    launch(blocks, threads, [=] { rope(x, positions, cosines, sines, pairs, width, head, sign, y); });
}

void run_adamw(unsigned blocks, unsigned threads, const float* gradient, float* value, float* first, float* second,
               long n, const float* constants) {
    const float* c = constants;
    launch(blocks, threads, [=] {
        adamw(gradient, value, first, second, n, c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]);
    });
}
}
