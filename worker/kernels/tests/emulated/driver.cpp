// What the trainer calls of CUDA's driver, on the CPU: memory is the CPU's, and every call is over when it returns, but
// for the work of a stream that began by waiting for another one: it is done as late as it may be, so that whoever does
// not wait for it reads or writes what he should not. A kernel is found by its name; one that is not in `kernels.cpp` is
// an error that names it, or does nothing with `QLORA_EMULATED_MISSING=skipped`.
//
// Fresh memory is full of NaN, and what lies behind an allocation is looked at when it is freed: a kernel that reads
// what nothing wrote, or writes where it should not, is found out. Sizes that an H100's driver refuses are refused.

#include "emulator.h"

#include <mutex>
#include <unordered_map>

#include "kernels.h"
#include "streams.h"

namespace {

using emulator::of;
using emulator::POISON;
using emulator::reads;
using emulator::Stream;
using emulator::writes;

constexpr size_t GUARD = 256;
constexpr int SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NOT_FOUND = 500, NOT_SUPPORTED = 801;

std::mutex allocations;
std::unordered_map<char*, size_t> sizes;
size_t used = 0, most = 0;

size_t limit() {
    const char* text = std::getenv("QLORA_EMULATED_BYTES");
    return text == nullptr ? size_t(8) << 30 : std::strtoull(text, nullptr, 10);
}

int allocate(void** out, size_t bytes, Stream* stream) {
    if (bytes == 0) {
        std::fprintf(stderr, "emulated GPU: no bytes are allocated, which the driver refuses\n");
        return INVALID_VALUE;
    }
    const std::lock_guard<std::mutex> held(allocations);
    if (used + bytes > limit()) return OUT_OF_MEMORY;
    char* memory = static_cast<char*>(std::aligned_alloc(GUARD, (bytes + 2 * GUARD - 1) / GUARD * GUARD));
    std::memset(memory, POISON, (bytes + 2 * GUARD - 1) / GUARD * GUARD);
    sizes[memory] = bytes;
    used += bytes;
    most = std::max(most, used);
    emulator::allocated(memory, bytes, stream);
    *out = memory;
    return SUCCESS;
}

int release(void* at, Stream* stream) {
    if (at == nullptr) return SUCCESS;
    const std::lock_guard<std::mutex> held(allocations);
    char* memory = static_cast<char*>(at);
    const auto found = sizes.find(memory);
    if (found == sizes.end()) {
        std::fprintf(stderr, "emulated GPU: freed what was not allocated\n");
        std::abort();
    }
    const size_t bytes = found->second, end = (bytes + 2 * GUARD - 1) / GUARD * GUARD;
    for (size_t i = bytes; i < end; ++i) {
        if (static_cast<unsigned char>(memory[i]) == POISON) continue;
        std::fprintf(stderr, "emulated GPU: byte %zu behind an allocation of %zu was written\n", i - bytes, bytes);
        std::abort();
    }
    emulator::released(memory, stream);
    used -= bytes;
    sizes.erase(found);
    std::free(memory);
    return SUCCESS;
}

int copy(void* stream, void* to, const void* from, size_t n) {
    emulator::use(*of(stream), "a copy", {reads(from), writes(to)});
    of(stream)->add([=] { std::memcpy(to, from, n); });
    return SUCCESS;
}

// A kernel of a module, and the shared memory that was asked for it beyond what every kernel may have.
struct Function {
    std::string name;
    Kernel kernel;
    unsigned shared = emulator::SHARED_UNASKED;
};
struct Module {
    std::mutex lock;
    std::map<std::string, Function> functions;
};
constexpr int DYNAMIC_SHARED_BYTES = 8;

// What was looked for and is not there, for the text of the error.
thread_local std::string missing;

int find(Module& module, const char* name, void** out) {
    const std::lock_guard<std::mutex> held(module.lock);
    const auto known = module.functions.find(name);
    if (known != module.functions.end()) return *out = &known->second, SUCCESS;
    const auto found = kernels().find(name);
    if (found == kernels().end()) {
        const char* wanted = std::getenv("QLORA_EMULATED_MISSING");
        const bool skipped = wanted != nullptr && std::string(wanted) == "skipped";
        std::fprintf(stderr, "emulated GPU: there is no kernel %s%s\n", name, skipped ? "; it does nothing" : "");
        missing = std::string("the emulated GPU has no kernel ") + name;
        if (!skipped) return NOT_FOUND;
    }
    const Kernel kernel = found == kernels().end() ? nullptr : found->second;
    return *out = &module.functions.emplace(name, Function{name, kernel}).first->second, SUCCESS;
}

// Why the driver would not launch so much; null where it would.
const char* refusal(const Function& function, Index grid, Index block, unsigned shared) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return "a grid without blocks";
    if (block.x == 0 || block.y == 0 || block.z == 0) return "a block without threads";
    if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) return "a grid beyond 2147483647, 65535 and 65535";
    if (block.x > 1024 || block.y > 1024 || block.z > 64) return "a block beyond 1024, 1024 and 64 threads";
    if (uint64_t(block.x) * block.y * block.z > emulator::MOST_THREADS) return "a block of more than 1024 threads";
    if (shared > function.shared) return "more shared memory than the function was allowed";
    return nullptr;
}

int launch(const Function& function, Index grid, Index block, unsigned shared, Stream& stream, void** arguments) {
    if (const char* why = refusal(function, grid, block, shared)) {
        std::fprintf(stderr,
                     "emulated GPU: %s is not launched: %s (grid %u, %u, %u, block %u, %u, %u, %u bytes of shared memory, "
                     "%u allowed)\n",
                     function.name.c_str(), why, grid.x, grid.y, grid.z, block.x, block.y, block.z, shared,
                     function.shared);
        return INVALID_VALUE;
    }
    if (block.y != 1 || block.z != 1) return NOT_SUPPORTED;
    if (function.kernel == nullptr) return SUCCESS;
    const char* name = kernels().find(function.name)->first.c_str();
    Work work = function.kernel({name, grid, block.x, shared}, arguments);
    emulator::use(stream, name, work.uses);
    stream.add(std::move(work.run));
    return SUCCESS;
}

// A handle that is never looked into.
int handle(void** out) {
    static int somewhere;
    *out = &somewhere;
    return SUCCESS;
}

// QLORA_EMULATED_CAPABILITY, 90 for 9.0 where it is not set.
int capability() {
    const char* set = std::getenv("QLORA_EMULATED_CAPABILITY");
    return set == nullptr ? 90 : std::atoi(set);
}

// Shared memory that a block may ask for (CUDA C++ Programming Guide, technical specifications per compute capability).
size_t most_shared() {
    switch (capability()) {
        case 80: return 163 << 10;
        case 86: case 89: case 120: return 99 << 10;
        default: return emulator::SHARED;
    }
}

// Parts of the compute capability, and limits, of an H100; of the rest that it is there.
int attribute(int which) {
    switch (which) {
        case 1: return emulator::MOST_THREADS;
        case 8: return emulator::SHARED_UNASKED;
        case 10: return emulator::WARP;
        case 75: return capability() / 10;
        case 76: return capability() % 10;
        case 97: return int(most_shared());
        default: return 1;
    }
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return SUCCESS; }
int cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
int cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal == 0 ? SUCCESS : NO_DEVICE; }
int cuDeviceGetAttribute(int* value, int which, int) { return *value = attribute(which), SUCCESS; }
int cuDevicePrimaryCtxRetain(void** context, int) { return handle(context); }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxGetCurrent(void** context) { return handle(context); }
int cuCtxSetCurrent(void*) { return SUCCESS; }
int cuCtxSynchronize() { return SUCCESS; }
int cuCtxDestroy_v2(void*) { return SUCCESS; }
int cuGetErrorString(int error, const char** text) {
    switch (error) {
        case INVALID_VALUE: return *text = "invalid argument", SUCCESS;
        case OUT_OF_MEMORY: return *text = "out of memory", SUCCESS;
        case NOT_FOUND: return *text = missing.c_str(), SUCCESS;
        case NOT_SUPPORTED: return *text = "operation not supported", SUCCESS;
        default: return *text = "no device", SUCCESS;
    }
}

// Streams stay, as events may speak of them.
int cuStreamCreate(void** stream, unsigned) { return *stream = emulator::new_stream(), SUCCESS; }
int cuStreamDestroy_v2(void* stream) { return of(stream)->catch_up(), SUCCESS; }
int cuStreamSynchronize(void* stream) { return emulator::synchronize(*of(stream)), SUCCESS; }
int cuStreamWaitEvent(void* stream, void* event, unsigned) {
    return emulator::wait(*of(stream), *static_cast<emulator::Event*>(event)), SUCCESS;
}
int cuStreamIsCapturing(void*, int* status) { return *status = 0, SUCCESS; }
int cuEventCreate(void** event, unsigned) { return *event = new emulator::Event, SUCCESS; }
int cuEventDestroy_v2(void* event) { return delete static_cast<emulator::Event*>(event), SUCCESS; }
int cuEventRecord(void* event, void* stream) {
    return emulator::record(*static_cast<emulator::Event*>(event), *of(stream)), SUCCESS;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) { return *total = limit(), *free = limit() - used, SUCCESS; }
int cuMemAlloc_v2(void** out, size_t bytes) { return allocate(out, bytes, nullptr); }
int cuMemAllocAsync(void** out, size_t bytes, void* stream) {
    of(stream)->used = true;
    return allocate(out, bytes, of(stream));
}
int cuMemFree_v2(void* at) { return release(at, nullptr); }
int cuMemFreeAsync(void* at, void* stream) { return release(at, of(stream)); }
int cuMemHostAlloc(void** out, size_t bytes, unsigned) {
    *out = std::malloc(bytes);
    std::memset(*out, POISON, bytes);
    emulator::allocated(*out, bytes, nullptr);
    return SUCCESS;
}
int cuMemFreeHost(void* at) { return emulator::released(at, nullptr), std::free(at), SUCCESS; }
int cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t n, void* stream) { return copy(stream, to, from, n); }
int cuMemcpyDtoHAsync_v2(void* to, const void* from, size_t n, void* stream) { return copy(stream, to, from, n); }
int cuMemcpyDtoDAsync_v2(void* to, const void* from, size_t n, void* stream) { return copy(stream, to, from, n); }
int cuMemcpyPeerAsync(void* to, void*, const void* from, void*, size_t n, void* stream) {
    return copy(stream, to, from, n);
}
int cuMemsetD8Async(void* to, unsigned char value, size_t n, void* stream) {
    emulator::use(*of(stream), "a fill", {writes(to)});
    of(stream)->add([=] { std::memset(to, value, n); });
    return SUCCESS;
}
int cuDeviceGetDefaultMemPool(void** pool, int) { return handle(pool); }
int cuMemPoolSetAttribute(void*, int, void*) { return most = used, SUCCESS; }
int cuMemPoolGetAttribute(void*, int, void* value) { return *static_cast<size_t*>(value) = most, SUCCESS; }

// A module is all kernels: the image is not looked at.
int cuModuleLoad(void** module, const char*) { return *module = new Module, SUCCESS; }
int cuModuleLoadData(void** module, const void*) { return *module = new Module, SUCCESS; }
int cuModuleUnload(void* module) { return delete static_cast<Module*>(module), SUCCESS; }
int cuModuleGetFunction(void** function, void* module, const char* name) {
    return find(*static_cast<Module*>(module), name, function);
}
int cuFuncSetAttribute(void* function, int which, int value) {
    if (which != DYNAMIC_SHARED_BYTES) return SUCCESS;
    if (value < 0 || size_t(value) > most_shared()) return INVALID_VALUE;
    static_cast<Function*>(function)->shared = unsigned(value);
    return SUCCESS;
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** arguments, void**) {
    return launch(*static_cast<Function*>(function), {gx, gy, gz}, {bx, by, bz}, shared, *of(stream), arguments);
}
}
