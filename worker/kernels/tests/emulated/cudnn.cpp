// cuDNN as its C++ headers call it, for the graphs of attention that `cudnn.cpp` describes: descriptors are kept as they
// are set, and a plan that is run computes causal attention over packed sequences, within a window where its graph has
// one and with its scale, from the tensors of its graph, by their numbers, sizes, strides and offsets. The other
// operations of the graph are not looked at; whether cuDNN itself takes them, only cuDNN can tell.
//
// A cuDNN that fails is had by `QLORA_EMULATED_CUDNN_REFUSES=SIZE`, which has no plans for heads of that size, and one
// that is wrong by `QLORA_EMULATED_CUDNN_IGNORES=windows`.

#include "emulator.h"

#include <limits>
#include <map>
#include <optional>
#include <set>

#include "streams.h"

namespace {

constexpr int SUCCESS = 0, NOT_SUPPORTED = 3000;
// Attributes, kinds of descriptors and types of values, as cuDNN counts them.
constexpr int HEURISTIC_RESULTS = 202, SHARED_MEMORY = 304, PLAN_WORKSPACE = 402, DIMENSIONS = 902, STRIDES = 903, NUMBER = 906;
constexpr int RAGGED_OFFSET = 913, PACK_NUMBERS = 1000, PACK_POINTERS = 1001, PACK_WORKSPACE = 1003;
constexpr int POINTWISE_MODE = 0, POINTWISE = 750, LEFT = 751, RIGHT = 752, RESULT = 753;
constexpr int PLAN = 5, TENSOR = 17, BACKEND_DESCRIPTOR = 15;
constexpr int ADD = 0, MULTIPLY = 1, GREATER = 302;
// Numbers of tensors, as in `cudnn.cpp`.
enum Id : int64_t { Q = 1001, K, V, O, LSE, DO, DQ, DK, DV, LENGTHS, Q_OFFSETS, KV_OFFSETS, LSE_OFFSETS };
// What a backward pass says that it works with, and really writes to.
constexpr size_t WORKSPACE = 1000;

struct Descriptor {
    int kind;
    std::map<int, std::vector<char>> values;
    std::map<int, std::vector<std::shared_ptr<Descriptor>>> others;

    template <typename T>
    std::vector<T> all(int attribute) const {
        const auto found = values.find(attribute);
        if (found == values.end()) return {};
        const T* data = reinterpret_cast<const T*>(found->second.data());
        return std::vector<T>(data, data + found->second.size() / sizeof(T));
    }
};
using Handle = std::shared_ptr<Descriptor>*;

size_t size_of(int type) {
    switch (type) {
        case 0: case 3: case 5: case 6: return 8;
        case 2: case 24: return 1;
        case 26: return 16;
        default: return 4;
    }
}

bool is(const char* variable, const std::string& value) {
    const char* text = std::getenv(variable);
    return text != nullptr && value == text;
}

// What a plan's descriptors lead to.
struct Found {
    std::set<const Descriptor*> all;
    // By their numbers.
    std::map<int64_t, const Descriptor*> tensors;

    explicit Found(const Descriptor& from) { collect(from); }

    void collect(const Descriptor& from) {
        if (!all.insert(&from).second) return;
        if (from.kind == TENSOR) tensors[from.all<int64_t>(NUMBER).at(0)] = &from;
        for (const auto& [_, others] : from.others)
            for (const auto& other : others) collect(*other);
    }

    static const Descriptor* other(const Descriptor& of, int attribute) {
        const auto found = of.others.find(attribute);
        return found == of.others.end() ? nullptr : found->second.at(0).get();
    }
    static int64_t number(const Descriptor& of, int attribute) {
        return other(of, attribute)->all<int64_t>(NUMBER).at(0);
    }
    static bool computes(const Descriptor& operation, int mode) {
        const Descriptor* how = other(operation, POINTWISE);
        return how != nullptr && how->all<int>(POINTWISE_MODE).at(0) == mode;
    }

    // The number of the window: keys are seen where column + window > row. None where the graph compares nothing so.
    std::optional<int64_t> window() const {
        for (const Descriptor* comparison : all) {
            if (!computes(*comparison, GREATER)) continue;
            for (const Descriptor* sum : all) {
                if (!computes(*sum, ADD) || number(*sum, RESULT) != number(*comparison, LEFT)) continue;
                return number(*sum, RIGHT);
            }
        }
        return std::nullopt;
    }

    // The number of the scale: the one element that scores are multiplied with. None where there is none.
    std::optional<int64_t> scale() const {
        for (const Descriptor* product : all) {
            // A sum of a query is one element of its row.
            if (!computes(*product, MULTIPLY) || other(*product, LEFT)->all<int64_t>(DIMENSIONS).back() == 1) continue;
            const auto sizes = other(*product, RIGHT)->all<int64_t>(DIMENSIONS);
            if (std::all_of(sizes.begin(), sizes.end(), [](int64_t size) { return size == 1; })) {
                return number(*product, RIGHT);
            }
        }
        return std::nullopt;
    }
};

// A tensor [sequences, heads, length, width] whose sequences begin where its offsets say.
struct Rows {
    void* data;
    const int* offsets;
    std::vector<int64_t> stride;
    int64_t heads, width;

    size_t at(int b, int64_t head, int64_t token, int64_t i) const {
        return offsets[b] + head * stride[1] + token * stride[2] + i * stride[3];
    }
    float get(int b, int64_t head, int64_t token, int64_t i) const {
        return __bfloat162float(static_cast<__nv_bfloat16*>(data)[at(b, head, token, i)]);
    }
    void set(int b, int64_t head, int64_t token, int64_t i, float value) const {
        static_cast<__nv_bfloat16*>(data)[at(b, head, token, i)] = __float2bfloat16(value);
    }
    float& sum(int b, int64_t head, int64_t token) const {
        return static_cast<float*>(data)[at(b, head, token, 0)];
    }
};

struct Run {
    std::map<int64_t, const Descriptor*> tensors;
    std::map<int64_t, void*> pointers;
    int64_t window = std::numeric_limits<int64_t>::max();
    float scale = 1.0f;

    Rows rows(Id id) const {
        const Descriptor& tensor = *tensors.at(id);
        const Descriptor& offsets = *tensor.others.at(RAGGED_OFFSET).at(0);
        auto dimensions = tensor.all<int64_t>(DIMENSIONS), strides = tensor.all<int64_t>(STRIDES);
        // A graph has keys and values turned over where it multiplies with them so.
        if (strides.at(3) != 1) {
            std::swap(dimensions.at(2), dimensions.at(3));
            std::swap(strides.at(2), strides.at(3));
        }
        return {pointers.at(id), static_cast<const int*>(pointers.at(offsets.all<int64_t>(NUMBER).at(0))), strides,
                dimensions.at(1), dimensions.at(3)};
    }
    int64_t sequences() const { return tensors.at(Q)->all<int64_t>(DIMENSIONS).at(0); }
    int length(int b) const { return static_cast<const int*>(pointers.at(LENGTHS))[b]; }

    // The first key that query i sees.
    int64_t first(int64_t i) const { return i < window ? 0 : i + 1 - window; }

    float score(const Rows& q, const Rows& k, int b, int64_t head, int64_t i, int64_t j) const {
        float sum = 0.0f;
        for (int64_t e = 0; e < q.width; ++e) sum += q.get(b, head, i, e) * k.get(b, head / (q.heads / k.heads), j, e);
        return sum * scale;
    }

    void forward() const {
        const Rows q = rows(Q), k = rows(K), v = rows(V), o = rows(O), lse = rows(LSE);
        for (int b = 0; b < sequences(); ++b)
            for (int64_t head = 0; head < q.heads; ++head)
                for (int64_t i = 0; i < length(b); ++i) {
                    std::vector<float> p(i + 1, -INFINITY);
                    float total = 0.0f;
                    for (int64_t j = first(i); j <= i; ++j) p[j] = score(q, k, b, head, i, j);
                    const float top = *std::max_element(p.begin(), p.end());
                    for (float& value : p) total += value = std::exp(value - top);
                    lse.sum(b, head, i) = top + std::log(total);
                    for (int64_t e = 0; e < v.width; ++e) {
                        float sum = 0.0f;
                        for (int64_t j = first(i); j <= i; ++j) sum += p[j] * v.get(b, head / (q.heads / v.heads), j, e);
                        o.set(b, head, i, e, sum / total);
                    }
                }
    }

    void backward() const {
        const Rows q = rows(Q), k = rows(K), v = rows(V), o = rows(O), lse = rows(LSE), d_o = rows(DO);
        const Rows dq = rows(DQ), dk = rows(DK), dv = rows(DV);
        const int64_t group = q.heads / k.heads, width = q.width;
        for (int b = 0; b < sequences(); ++b)
            for (int64_t shared = 0; shared < k.heads; ++shared) {
                const int64_t n = length(b);
                std::vector<float> sum_k(n * width), sum_v(n * width);
                for (int64_t head = shared * group; head < (shared + 1) * group; ++head)
                    for (int64_t i = 0; i < n; ++i) {
                        std::vector<float> sum_q(width);
                        float delta = 0.0f;
                        for (int64_t e = 0; e < width; ++e) delta += o.get(b, head, i, e) * d_o.get(b, head, i, e);
                        for (int64_t j = first(i); j <= i; ++j) {
                            const float p = std::exp(score(q, k, b, head, i, j) - lse.sum(b, head, i));
                            float dp = 0.0f;
                            for (int64_t e = 0; e < width; ++e) dp += d_o.get(b, head, i, e) * v.get(b, shared, j, e);
                            const float ds = p * (dp - delta) * scale;
                            for (int64_t e = 0; e < width; ++e) {
                                sum_q[e] += ds * k.get(b, shared, j, e);
                                sum_k[j * width + e] += ds * q.get(b, head, i, e);
                                sum_v[j * width + e] += p * d_o.get(b, head, i, e);
                            }
                        }
                        for (int64_t e = 0; e < width; ++e) dq.set(b, head, i, e, sum_q[e]);
                    }
                for (int64_t j = 0; j < n; ++j)
                    for (int64_t e = 0; e < width; ++e) {
                        dk.set(b, shared, j, e, sum_k[j * width + e]);
                        dv.set(b, shared, j, e, sum_v[j * width + e]);
                    }
            }
    }
};

}  // namespace

extern "C" {

size_t cudnnGetVersion() { return 91900; }
size_t cudnnGetCudartVersion() { return 13000; }
// A handle is the place of its stream.
int cudnnCreate(void*** handle) { return *handle = new void*(nullptr), SUCCESS; }
int cudnnSetStream(void** handle, void* stream) { return *handle = stream, SUCCESS; }
int cudnnGetStream(void** handle, void** stream) { return *stream = *handle, SUCCESS; }
const char* cudnnGetErrorString(int) { return "not supported by the emulated cuDNN"; }
void cudnnGetLastErrorString(char* message, size_t size) { std::snprintf(message, size, "emulated cuDNN"); }

int cudnnBackendCreateDescriptor(int kind, void** out) {
    *out = new std::shared_ptr<Descriptor>(new Descriptor{kind, {}, {}});
    return SUCCESS;
}
int cudnnBackendDestroyDescriptor(void* handle) { return delete static_cast<Handle>(handle), SUCCESS; }
int cudnnBackendFinalize(void* handle) {
    const std::shared_ptr<Descriptor>& own = *static_cast<Handle>(handle);
    if (own->kind != PLAN) return SUCCESS;
    const auto sizes = Found(*own).tensors.at(Q)->all<int64_t>(DIMENSIONS);
    return is("QLORA_EMULATED_CUDNN_REFUSES", std::to_string(sizes.at(3))) ? NOT_SUPPORTED : SUCCESS;
}

int cudnnBackendSetAttribute(void* handle, int name, int type, int64_t count, const void* elements) {
    Descriptor& own = **static_cast<Handle>(handle);
    if (type == BACKEND_DESCRIPTOR) {
        auto& others = own.others[name];
        others.clear();
        for (int64_t i = 0; i < count; ++i) others.push_back(*static_cast<const Handle*>(elements)[i]);
    } else {
        const char* bytes = static_cast<const char*>(elements);
        own.values[name].assign(bytes, bytes + count * size_of(type));
    }
    return SUCCESS;
}

// One engine for every graph; of the rest there is nothing to tell.
int cudnnBackendGetAttribute(void* handle, int name, int, int64_t wanted, int64_t* count, void* elements) {
    const std::shared_ptr<Descriptor>& own = *static_cast<Handle>(handle);
    if (count != nullptr) *count = 0;
    if (name == HEURISTIC_RESULTS) {
        *count = 1;
        if (elements != nullptr && wanted > 0) (*static_cast<Handle*>(elements)[0])->others[name] = {own};
    } else if (name == PLAN_WORKSPACE) {
        *static_cast<int64_t*>(elements) = WORKSPACE;
        if (count != nullptr) *count = 1;
    } else if (name == SHARED_MEMORY) {
        *static_cast<int*>(elements) = 0;
        if (count != nullptr) *count = 1;
    } else if (elements == nullptr || wanted == 0) {
        return SUCCESS;
    } else if (const auto found = own->others.find(name); found != own->others.end()) {
        **static_cast<Handle*>(elements) = found->second.at(0);
        *count = 1;
    }
    return SUCCESS;
}

int cudnnBackendExecute(void** handle, void* plan, void* pack) {
    const Descriptor& given = **static_cast<Handle>(pack);
    const Found found(**static_cast<Handle>(plan));
    Run run{found.tensors, {}};
    const auto numbers = given.all<int64_t>(PACK_NUMBERS);
    const auto pointers = given.all<void*>(PACK_POINTERS);
    for (size_t i = 0; i < numbers.size(); ++i) run.pointers[numbers[i]] = pointers.at(i);
    // Numbers that are no tensors lie in the program's memory.
    const auto window = is("QLORA_EMULATED_CUDNN_IGNORES", "windows") ? std::nullopt : found.window();
    if (window) run.window = int64_t(*static_cast<const float*>(run.pointers.at(*window)));
    if (const auto scale = found.scale()) run.scale = *static_cast<const float*>(run.pointers.at(*scale));
    const bool backward = run.pointers.count(DO) != 0;
    std::vector<emulator::Use> uses;
    for (const auto& [number, at] : run.pointers) {
        const bool result = backward ? number >= DQ && number <= DV : number == O || number == LSE;
        uses.push_back({at, result});
    }
    void* const workspace = given.all<void*>(PACK_WORKSPACE).at(0);
    uses.push_back(emulator::writes(workspace));
    emulator::use(*emulator::of(*handle), "cuDNN's attention", uses);
    std::memset(workspace, 0, WORKSPACE);
    if (backward) {
        run.backward();
    } else {
        run.forward();
    }
    return SUCCESS;
}
}
