// What the worker asks of NVML, about the emulated GPU.

#include <cstdio>
#include <cstdlib>

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
// Memory errors that could not be corrected: as many as the file `QLORA_EMULATED_ECC` says, none where there is none.
int nvmlDeviceGetTotalEccErrors(void*, int, int, unsigned long long* errors) {
    *errors = 0;
    const char* path = std::getenv("QLORA_EMULATED_ECC");
    if (std::FILE* file = path == nullptr ? nullptr : std::fopen(path, "r")) {
        if (std::fscanf(file, "%llu", errors) != 1) *errors = 0;
        std::fclose(file);
    }
    return SUCCESS;
}
int nvmlSystemGetDriverVersion(char* version, unsigned size) { return std::snprintf(version, size, "580.0"), SUCCESS; }
}
