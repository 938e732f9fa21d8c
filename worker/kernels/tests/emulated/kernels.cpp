// The kernels by name, to be launched with an array of pointers to their arguments, as the driver takes them.

#include "emulator.h"

#include <tuple>

#include "adamw.cu"
#include "attention_backward.cu"
#include "attention_backward_hopper.cu"
#include "attention_forward.cu"
#include "attention_forward_hopper.cu"
#include "cross_entropy.cu"
#include "dropout.cu"
#include "glu.cu"
#include "lora.cu"
#include "nf4.cu"
#include "rms_norm.cu"
#include "rope.cu"
#include "rows.cu"

#include "kernels.h"

namespace {

template <typename... Args, size_t... I>
std::tuple<std::remove_cv_t<Args>...> copied(void** arguments, std::index_sequence<I...>) {
    return {*static_cast<std::remove_cv_t<Args>*>(arguments[I])...};
}

template <typename T>
void add_use(std::vector<emulator::Use>& uses, T argument) {
    if constexpr (std::is_pointer_v<T>) {
        uses.push_back({argument, !std::is_const_v<std::remove_pointer_t<T>>});
    }
}

template <auto kernel, typename... Args>
Kernel entry(void (*)(Args...)) {
    return [](const emulator::Launch& what, void** arguments) {
        const auto own = copied<Args...>(arguments, std::index_sequence_for<Args...>());
        Work work{[=] { emulator::launch(what, [&] { std::apply(kernel, own); }); }, {}};
        std::apply([&](const auto&... each) { (add_use(work.uses, each), ...); }, own);
        return work;
    };
}

#define KERNEL(name) {#name, entry<name>(name)}

// What the compiler tells of a load or store, in the form of its sanitizers' library.
struct Place {
    const char* file;
    unsigned line, column;
};
struct Type {
    uint16_t kind, detail;
    char name[1];
};
struct Access {
    Place place;
    const Type* type;
    unsigned char log_alignment, kind;
};

}  // namespace

// This file is compiled with `-fsanitize=alignment`, and without that sanitizer's library: before every load and store
// the address is looked at, and this is called where a GPU would end the kernel.
extern "C" void __ubsan_handle_type_mismatch_v1_abort(const Access* of, const void* at) {
    emulator::fail("%s:%u reads or writes %s at %p, which is no multiple of %u", of->place.file, of->place.line,
                   of->type->name, at, 1u << of->log_alignment);
}

const std::map<std::string, Kernel>& kernels() {
    static const std::map<std::string, Kernel> all = {
        KERNEL(adamw),
        KERNEL(adamw_coded),
        KERNEL(add_bf16),
        KERNEL(add_f32),
        KERNEL(affine),
        KERNEL(attention_backward_hopper_keys_128),
        KERNEL(attention_backward_hopper_keys_64),
        KERNEL(attention_backward_hopper_queries_128),
        KERNEL(attention_backward_hopper_queries_64),
        KERNEL(attention_backward_keys_128),
        KERNEL(attention_backward_keys_16),
        KERNEL(attention_backward_keys_256),
        KERNEL(attention_backward_keys_32),
        KERNEL(attention_backward_keys_48),
        KERNEL(attention_backward_keys_64),
        KERNEL(attention_backward_keys_80),
        KERNEL(attention_backward_keys_96),
        KERNEL(attention_backward_keys_capped_128),
        KERNEL(attention_backward_keys_capped_16),
        KERNEL(attention_backward_keys_capped_256),
        KERNEL(attention_backward_keys_capped_32),
        KERNEL(attention_backward_keys_capped_48),
        KERNEL(attention_backward_keys_capped_64),
        KERNEL(attention_backward_keys_capped_80),
        KERNEL(attention_backward_keys_capped_96),
        KERNEL(attention_backward_queries_128),
        KERNEL(attention_backward_queries_16),
        KERNEL(attention_backward_queries_256),
        KERNEL(attention_backward_queries_32),
        KERNEL(attention_backward_queries_48),
        KERNEL(attention_backward_queries_64),
        KERNEL(attention_backward_queries_80),
        KERNEL(attention_backward_queries_96),
        KERNEL(attention_backward_queries_capped_128),
        KERNEL(attention_backward_queries_capped_16),
        KERNEL(attention_backward_queries_capped_256),
        KERNEL(attention_backward_queries_capped_32),
        KERNEL(attention_backward_queries_capped_48),
        KERNEL(attention_backward_queries_capped_64),
        KERNEL(attention_backward_queries_capped_80),
        KERNEL(attention_backward_queries_capped_96),
        KERNEL(attention_delta),
        KERNEL(attention_forward_128),
        KERNEL(attention_forward_16),
        KERNEL(attention_forward_256),
        KERNEL(attention_forward_32),
        KERNEL(attention_forward_48),
        KERNEL(attention_forward_64),
        KERNEL(attention_forward_80),
        KERNEL(attention_forward_96),
        KERNEL(attention_forward_capped_128),
        KERNEL(attention_forward_capped_16),
        KERNEL(attention_forward_capped_256),
        KERNEL(attention_forward_capped_32),
        KERNEL(attention_forward_capped_48),
        KERNEL(attention_forward_capped_64),
        KERNEL(attention_forward_capped_80),
        KERNEL(attention_forward_capped_96),
        KERNEL(attention_forward_hopper_128),
        KERNEL(attention_forward_hopper_64),
        KERNEL(cap_logits),
        KERNEL(copy_columns),
        KERNEL(cross_entropy),
        KERNEL(cross_entropy_capped),
        KERNEL(dropout),
        KERNEL(gather_rows),
        KERNEL(glu_backward_gelu_tanh),
        KERNEL(glu_backward_silu),
        KERNEL(glu_forward_gelu_tanh),
        KERNEL(glu_forward_silu),
        KERNEL(join_columns_bf16),
        KERNEL(join_columns_f32),
        KERNEL(lora_inner_1),
        KERNEL(lora_inner_2),
        KERNEL(lora_inner_3),
        KERNEL(lora_pull_1),
        KERNEL(lora_pull_2),
        KERNEL(lora_pull_3),
        KERNEL(lora_sum),
        KERNEL(nf4_quantize_bf16),
        KERNEL(nf4_quantize_f32),
        KERNEL(nf4_to_bf16),
        KERNEL(rms_norm_backward),
        KERNEL(rms_norm_backward_offset),
        KERNEL(rms_norm_forward),
        KERNEL(rms_norm_forward_offset),
        KERNEL(root_of_sum),
        KERNEL(rope),
        KERNEL(scatter_rows),
        KERNEL(squares),
        KERNEL(to_bf16),
    };
    return all;
}
