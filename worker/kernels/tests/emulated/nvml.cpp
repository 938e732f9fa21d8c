// What the worker asks of NVML, about the emulated GPU.

#include <cstdio>

namespace {

constexpr int SUCCESS = 0;

struct Memory {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

}  // namespace

extern "C" {

int nvmlInit_v2() { return SUCCESS; }
int nvmlInitWithFlags(unsigned) { return SUCCESS; }
int nvmlShutdown() { return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned* count) { return *count = 1, SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned, void** device) {
    static int somewhere;
    return *device = &somewhere, SUCCESS;
}
int nvmlDeviceGetName(void*, char* name, unsigned size) { return std::snprintf(name, size, "emulated GPU"), SUCCESS; }
int nvmlDeviceGetMemoryInfo_v2(void*, Memory* memory) {
    return *memory = {memory->version, 8ull << 30, 0, 8ull << 30, 0}, SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(void*, int* major, int* minor) { return *major = 9, *minor = 0, SUCCESS; }
int nvmlSystemGetDriverVersion(char* version, unsigned size) { return std::snprintf(version, size, "580.0"), SUCCESS; }
}
