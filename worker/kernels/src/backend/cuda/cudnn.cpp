// cuDNN's fused attention over packed sequences, as a few functions of C for `cudnn.rs`.
//
// Only what its C++ headers alone can do is here: the graph of attention is described and made into a plan, and a plan
// is run. Sizes, memory, and which plan is used when are the caller's. cuDNN itself is looked for when `qlora_cudnn_open`
// is called.

#include <cudnn_frontend.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <unordered_map>

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;
}
namespace fe = cudnn_frontend;

extern "C" {
// The same in `cudnn.rs`.
struct QloraAttention {
    // Sequences at the most, tokens of the longest at the most, and tokens of all at the most.
    int64_t sequences, length, tokens;
    int64_t heads, kv_heads, head_dim;
    // A token sees itself and the `window - 1` before it; 0 where it sees all.
    int64_t window;
    float scale;
    int32_t backward;
    // Compute capability of the GPU, 90 for 9.0.
    int32_t capability;
};
struct QloraText {
    char bytes[512];
};
}

namespace {

using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

constexpr size_t CUDA = 13;

// Numbers of tensors, beyond those that the headers give to tensors of their own; their pointers are given to a run in
// this order.
enum Id : int64_t { Q = 1001, K, V, O, LSE, DO, DQ, DK, DV, LENGTHS, Q_OFFSETS, KV_OFFSETS, LSE_OFFSETS, COUNT };

struct Plan {
    fe::graph::Graph graph;
    bool backward;
};

// Nothing may leave a function of C as an exception: that ends the program.
void refused(QloraText* text, const char* reason) { std::snprintf(text->bytes, sizeof text->bytes, "%s", reason); }

bool failed(fe::error_t error, QloraText* text) {
    if (error.is_good()) return false;
    refused(text, error.get_message().c_str());
    return true;
}

struct Builder {
    fe::graph::Graph& graph;
    const QloraAttention& of;

    Tensor integers(Id id, int64_t count) {
        return graph.tensor(fe::graph::Tensor_attributes()
                                .set_uid(id)
                                .set_dim({count, 1, 1, 1})
                                .set_stride({1, 1, 1, 1})
                                .set_data_type(fe::DataType_t::INT32));
    }

    // [tokens, heads, width] in memory; an offset a sequence says where it begins.
    fe::graph::Tensor_attributes rows(Id id, int64_t heads, int64_t width, const Tensor& offsets) {
        fe::graph::Tensor_attributes it;
        it.set_uid(id).set_dim({of.sequences, heads, of.length, width});
        it.set_stride({of.length * heads * width, width, heads * width, 1}).set_ragged_offset(offsets);
        return it.set_data_type(width == 1 ? fe::DataType_t::FLOAT : fe::DataType_t::BFLOAT16);
    }

    template <typename Attributes>
    Attributes common(const Tensor& lengths) {
        Attributes it;
        it.set_name("attention").set_attn_scale(of.scale).set_padding_mask(true);
        it.set_seq_len_q(lengths).set_seq_len_kv(lengths);
        it.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT).set_diagonal_band_right_bound(0);
        if (of.window > 0) it.set_diagonal_band_left_bound(of.window);
        return it;
    }

    static void result(const Tensor& tensor, fe::graph::Tensor_attributes like) {
        tensor->set_output(true).set_uid(like.get_uid()).set_dim(like.get_dim()).set_stride(like.get_stride());
        tensor->set_ragged_offset(like.get_ragged_offset()).set_data_type(like.get_data_type());
    }

    void describe() {
        const Tensor lengths = integers(LENGTHS, of.sequences);
        const Tensor by_q = integers(Q_OFFSETS, of.sequences + 1), by_kv = integers(KV_OFFSETS, of.sequences + 1);
        // The sums lie token by token: head by head, with a bound on all tokens, gradients of zero were seen in 9.22 to
        // 9.26 (cudnn-frontend's pull request 462).
        const auto sums = rows(LSE, of.heads, 1, integers(LSE_OFFSETS, of.sequences + 1));
        const Tensor q = graph.tensor(rows(Q, of.heads, of.head_dim, by_q));
        const Tensor k = graph.tensor(rows(K, of.kv_heads, of.head_dim, by_kv));
        const Tensor v = graph.tensor(rows(V, of.kv_heads, of.head_dim, by_kv));
        if (!of.backward) {
            auto how = common<fe::graph::SDPA_attributes>(lengths).set_generate_stats(true);
            const auto found = graph.sdpa(q, k, v, how);
            result(found[0], rows(O, of.heads, of.head_dim, by_q));
            result(found[1], sums);
            return;
        }
        auto how = common<fe::graph::SDPA_backward_attributes>(lengths);
        how.set_max_total_seq_len_q(of.tokens).set_max_total_seq_len_kv(of.tokens);
        const Tensor o = graph.tensor(rows(O, of.heads, of.head_dim, by_q));
        const Tensor d_o = graph.tensor(rows(DO, of.heads, of.head_dim, by_q));
        const auto found = graph.sdpa_backward(q, k, v, o, d_o, graph.tensor(sums), how);
        result(found[0], rows(DQ, of.heads, of.head_dim, by_q));
        result(found[1], rows(DK, of.kv_heads, of.head_dim, by_kv));
        result(found[2], rows(DV, of.kv_heads, of.head_dim, by_kv));
    }
};

bool build(Plan& plan, cudnnHandle_t handle, const QloraAttention& of, QloraText* text) {
    fe::graph::Graph& graph = plan.graph;
    graph.set_io_data_type(fe::DataType_t::BFLOAT16).set_intermediate_data_type(fe::DataType_t::FLOAT);
    graph.set_compute_data_type(fe::DataType_t::FLOAT).set_sm_version(of.capability);
    Builder{graph, of}.describe();
    if (failed(graph.validate(), text)) return false;
    if (failed(handle == nullptr ? graph.build_operation_graph() : graph.build_operation_graph(handle), text)) return false;
    return !failed(graph.create_execution_plans({fe::HeurMode_t::A}), text) && !failed(graph.check_support(), text) &&
           !failed(graph.build_plans(), text);
}

}  // namespace

extern "C" {

// cuDNN's version, as it counts, or 0 with the reason in `text`.
size_t qlora_cudnn_open(const char* library, QloraText* text) {
    // The headers would take the runtime of CUDA 12 where there are both.
    setenv("CUDNN_FRONTEND_CUDART_LIB_NAME", "libcudart.so.13", 0);
    if (fe::cudnn_dlhandle == nullptr) fe::cudnn_dlhandle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (fe::cudnn_dlhandle == nullptr) return refused(text, dlerror()), 0;
    // One for another CUDA would look for that one's libraries, and end the program where they are missing.
    const auto made_for = reinterpret_cast<size_t (*)()>(dlsym(fe::cudnn_dlhandle, "cudnnGetCudartVersion"));
    const size_t cuda = made_for == nullptr ? 0 : made_for() / 1000;
    if (cuda != CUDA) {
        std::snprintf(text->bytes, sizeof text->bytes, "%s is made for CUDA %zu, not %zu", library, cuda, CUDA);
        return 0;
    }
    try {
        return fe::detail::get_backend_version();
    } catch (const std::exception& e) {
        return refused(text, e.what()), 0;
    }
}

// A handle for the GPU of the thread's context, whose work goes to `stream`; null with the reason in `text`.
void* qlora_cudnn_handle(void* stream, QloraText* text) {
    try {
        cudnnHandle_t handle = nullptr;
        auto status = fe::detail::create_handle(&handle);
        if (status == CUDNN_STATUS_SUCCESS) status = fe::detail::set_stream(handle, static_cast<cudaStream_t>(stream));
        if (status == CUDNN_STATUS_SUCCESS) return handle;
        refused(text, fe::detail::get_error_string(status));
    } catch (const std::exception& e) {
        refused(text, e.what());
    }
    return nullptr;
}

// Lets a handle go whose plans are gone.
void qlora_cudnn_close(void* handle) {
    try {
        (void)fe::detail::destroy_handle(static_cast<cudnnHandle_t>(handle));
    } catch (const std::exception&) {
        // A library that is not there any more holds no handle either.
    }
}

// A plan, to be let go by `qlora_cudnn_free`, and the bytes that it works with, or null with the reason in `text`.
// Without a handle `properties`, of `size` bytes, describe the GPU, and the plan cannot be run.
void* qlora_cudnn_plan(void* handle, const QloraAttention* of, const uint8_t* properties, size_t size,
                       int64_t* workspace, QloraText* text) {
    try {
        auto plan = std::make_unique<Plan>();
        plan->backward = of->backward != 0;
        if (handle == nullptr) {
            auto device = std::make_shared<fe::DeviceProperties>();
            if (failed(device->deserialize({properties, properties + size}), text)) return nullptr;
            plan->graph.set_device_properties(device);
        }
        if (!build(*plan, static_cast<cudnnHandle_t>(handle), *of, text)) return nullptr;
        if (failed(plan->graph.get_workspace_size(*workspace), text)) return nullptr;
        return plan.release();
    } catch (const std::exception& e) {
        refused(text, e.what());
        return nullptr;
    }
}

// Lets a plan go that no work uses any more.
void qlora_cudnn_free(void* plan) { delete static_cast<Plan*>(plan); }

// Puts a plan's work on the handle's stream; `pointers` are in the order of `Id`. 0, or 1 with the reason in `text`.
int32_t qlora_cudnn_run(void* handle, void* plan, void* const* pointers, void* workspace, QloraText* text) {
    try {
        Plan& own = *static_cast<Plan*>(plan);
        std::unordered_map<int64_t, void*> pack;
        for (int64_t id = Q; id < COUNT; ++id) {
            if (own.backward || id < DO || id > DV) pack[id] = pointers[id - Q];
        }
        return failed(own.graph.execute(static_cast<cudnnHandle_t>(handle), pack, workspace), text);
    } catch (const std::exception& e) {
        refused(text, e.what());
        return 1;
    }
}
}
