// What the trainer calls of CUDA's driver, on the processor: memory is the processor's, and every call is over when it
// returns, but for the work of a stream that began by waiting for another one: it is done as late as it may be, so that
// whoever does not wait for it reads or writes what he should not. A kernel is found by its name; one that is not in `kernels.cpp` is an error.
//
// Fresh memory is full of NaN, and what lies behind an allocation is looked at when it is freed: a kernel that reads
// what nothing wrote, or writes where it should not, is found out.

#include "emulator.h"

#include <mutex>
#include <unordered_map>

#include "kernels.h"

namespace {

constexpr size_t GUARD = 256;
constexpr unsigned char POISON = 0xff;
constexpr int SUCCESS = 0, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NOT_FOUND = 500;

std::mutex allocations;
std::unordered_map<char*, size_t> sizes;
size_t used = 0, most = 0;

size_t limit() {
    const char* text = std::getenv("QLORA_EMULATED_BYTES");
    return text == nullptr ? size_t(8) << 30 : std::strtoull(text, nullptr, 10);
}

int allocate(void** out, size_t bytes) {
    const std::lock_guard<std::mutex> held(allocations);
    if (used + bytes > limit()) return OUT_OF_MEMORY;
    char* memory = static_cast<char*>(std::aligned_alloc(GUARD, (bytes + 2 * GUARD - 1) / GUARD * GUARD));
    std::memset(memory, POISON, (bytes + 2 * GUARD - 1) / GUARD * GUARD);
    sizes[memory] = bytes;
    used += bytes;
    most = std::max(most, used);
    *out = memory;
    return SUCCESS;
}

int release(void* at) {
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
    used -= bytes;
    sizes.erase(found);
    std::free(memory);
    return SUCCESS;
}

// A stream and the work that it still owes.
struct Stream {
    bool used = false, late = false;
    size_t done = 0;
    std::vector<std::function<void()>> work;

    int add(std::function<void()> more) {
        used = true;
        if (!late) return more(), SUCCESS;
        work.push_back(std::move(more));
        return SUCCESS;
    }
    int copy(void* to, const void* from, size_t n) {
        return add([=] { std::memcpy(to, from, n); });
    }
    int catch_up(size_t until) {
        for (; done < until; ++done) {
            work[done]();
            work[done] = nullptr;
        }
        return SUCCESS;
    }
};
Stream by_default;
Stream* of(void* stream) { return stream == nullptr ? &by_default : static_cast<Stream*>(stream); }

// A point on a stream.
struct Event {
    Stream* stream = &by_default;
    size_t until = 0;
};

// A handle that is never looked into.
int handle(void** out) {
    static int somewhere;
    *out = &somewhere;
    return SUCCESS;
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return SUCCESS; }
int cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
int cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, ordinal == 0 ? SUCCESS : NO_DEVICE; }
// A Hopper GPU: 75 and 76 are the parts of its compute capability.
int cuDeviceGetAttribute(int* value, int which, int) {
    return *value = which == 75 ? 9 : which == 76 ? 0 : 1, SUCCESS;
}
int cuDevicePrimaryCtxRetain(void** context, int) { return handle(context); }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxGetCurrent(void** context) { return handle(context); }
int cuCtxSetCurrent(void*) { return SUCCESS; }
int cuCtxSynchronize() { return SUCCESS; }
int cuCtxDestroy_v2(void*) { return SUCCESS; }
int cuGetErrorString(int error, const char** text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : error == NOT_FOUND ? "named symbol not found" : "no device";
    return SUCCESS;
}

int cuStreamCreate(void** stream, unsigned) { return *stream = new Stream, SUCCESS; }
// It stays, as events may speak of it.
int cuStreamDestroy_v2(void* stream) { return of(stream)->catch_up(of(stream)->work.size()); }
int cuStreamSynchronize(void* stream) { return of(stream)->catch_up(of(stream)->work.size()); }
int cuStreamWaitEvent(void* stream, void* at, unsigned) {
    if (!of(stream)->used) of(stream)->late = true;
    of(stream)->used = true;
    const Event* event = static_cast<Event*>(at);
    return event->stream->catch_up(event->until);
}
int cuStreamIsCapturing(void*, int* status) { return *status = 0, SUCCESS; }
int cuEventCreate(void** event, unsigned) { return *event = new Event, SUCCESS; }
int cuEventDestroy_v2(void* event) { return delete static_cast<Event*>(event), SUCCESS; }
int cuEventRecord(void* event, void* stream) {
    return *static_cast<Event*>(event) = {of(stream), of(stream)->work.size()}, SUCCESS;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) { return *total = limit(), *free = limit() - used, SUCCESS; }
int cuMemAlloc_v2(void** out, size_t bytes) { return allocate(out, bytes); }
int cuMemAllocAsync(void** out, size_t bytes, void* stream) { return of(stream)->used = true, allocate(out, bytes); }
int cuMemFree_v2(void* at) { return release(at); }
int cuMemFreeAsync(void* at, void*) { return release(at); }
int cuMemHostAlloc(void** out, size_t bytes, unsigned) {
    *out = std::malloc(bytes);
    std::memset(*out, POISON, bytes);
    return SUCCESS;
}
int cuMemFreeHost(void* at) { return std::free(at), SUCCESS; }
int cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t n, void* stream) { return of(stream)->copy(to, from, n); }
int cuMemcpyDtoHAsync_v2(void* to, const void* from, size_t n, void* stream) { return of(stream)->copy(to, from, n); }
int cuMemcpyDtoDAsync_v2(void* to, const void* from, size_t n, void* stream) { return of(stream)->copy(to, from, n); }
int cuMemcpyPeerAsync(void* to, void*, const void* from, void*, size_t n, void*) {
    return std::memcpy(to, from, n), SUCCESS;
}
int cuMemsetD8Async(void* to, unsigned char value, size_t n, void*) { return std::memset(to, value, n), SUCCESS; }
int cuDeviceGetDefaultMemPool(void** pool, int) { return handle(pool); }
int cuMemPoolSetAttribute(void*, int, void*) { return most = used, SUCCESS; }
int cuMemPoolGetAttribute(void*, int, void* value) { return *static_cast<size_t*>(value) = most, SUCCESS; }

// A module is all kernels: the image is not looked at.
int cuModuleLoad(void** module, const char*) { return handle(module); }
int cuModuleLoadData(void** module, const void*) { return handle(module); }
int cuModuleUnload(void*) { return SUCCESS; }
int cuModuleGetFunction(void** function, void*, const char* name) {
    const auto found = kernels().find(name);
    if (found == kernels().end()) {
        std::fprintf(stderr, "emulated GPU: there is no kernel %s\n", name);
        return NOT_FOUND;
    }
    *function = reinterpret_cast<void*>(found->second);
    return SUCCESS;
}
int cuFuncSetAttribute(void*, int, int) { return SUCCESS; }
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned threads, unsigned, unsigned,
                   unsigned shared, void* stream, void** arguments, void**) {
    if (shared > emulator::SHARED) return OUT_OF_MEMORY;
    return of(stream)->add(reinterpret_cast<Kernel>(function)({gx, gy, gz}, threads, arguments));
}
}
