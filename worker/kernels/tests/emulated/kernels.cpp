// The kernels by name, to be launched with an array of pointers to their arguments, as the driver takes them.

#include "emulator.h"

#include <tuple>

#include "adamw.cu"
#include "attention_backward.cu"
#include "attention_forward.cu"
#include "cross_entropy.cu"
#include "dropout.cu"
#include "lora.cu"
#include "nf4.cu"
#include "rms_norm.cu"
#include "rope.cu"
#include "rows.cu"
#include "swiglu.cu"

#include "kernels.h"

namespace {

template <typename... Args, size_t... I>
std::tuple<std::remove_cv_t<Args>...> copied(void** arguments, std::index_sequence<I...>) {
    return {*static_cast<std::remove_cv_t<Args>*>(arguments[I])...};
}

template <auto kernel, typename... Args>
Kernel entry(void (*)(Args...)) {
    return [](Index grid, unsigned threads, void** arguments) -> std::function<void()> {
        const auto own = copied<Args...>(arguments, std::index_sequence_for<Args...>());
        return [=] { emulator::launch(grid, threads, [&] { std::apply(kernel, own); }); };
    };
}

#define KERNEL(name) {#name, entry<name>(name)}

}  // namespace

const std::map<std::string, Kernel>& kernels() {
    static const std::map<std::string, Kernel> all = {
        KERNEL(adamw),
        KERNEL(adamw_coded),
        KERNEL(add_bf16),
        KERNEL(add_f32),
        KERNEL(attention_backward_keys_128),
        KERNEL(attention_backward_keys_16),
        KERNEL(attention_backward_keys_32),
        KERNEL(attention_backward_keys_64),
        KERNEL(attention_backward_queries_128),
        KERNEL(attention_backward_queries_16),
        KERNEL(attention_backward_queries_32),
        KERNEL(attention_backward_queries_64),
        KERNEL(attention_delta),
        KERNEL(attention_forward_128),
        KERNEL(attention_forward_16),
        KERNEL(attention_forward_32),
        KERNEL(attention_forward_64),
        KERNEL(cross_entropy),
        KERNEL(dropout),
        KERNEL(gather_rows),
        KERNEL(lora_inner_1),
        KERNEL(lora_inner_2),
        KERNEL(lora_inner_3),
        KERNEL(lora_pull_1),
        KERNEL(lora_pull_2),
        KERNEL(lora_pull_3),
        KERNEL(lora_sum),
        KERNEL(nf4_quantise_bf16),
        KERNEL(nf4_quantise_f32),
        KERNEL(nf4_to_bf16),
        KERNEL(rms_norm_backward),
        KERNEL(rms_norm_forward),
        KERNEL(root_of_sum),
        KERNEL(rope),
        KERNEL(scatter_rows),
        KERNEL(squares),
        KERNEL(swiglu_backward),
        KERNEL(swiglu_forward),
        KERNEL(to_bf16),
    };
    return all;
}
