// What the worker asks of NVML, about the emulated GPU.

#include <cstdio>
#include <cstdlib>
#include <unistd.h>

namespace {

constexpr int SUCCESS = 0, NOT_FOUND = 6, TIMEOUT = 10;
constexpr unsigned long long XID = 8;

// As many as `QLORA_EMULATED_GPUS` says; all of them are the one CPU.
unsigned there() {
    const char* text = std::getenv("QLORA_EMULATED_GPUS");
    return text == nullptr ? 1 : unsigned(std::atoi(text));
}
char gpus[64];

struct Event {
    void* device;
    unsigned long long kind, number;
    unsigned gpu_instance, compute_instance;
};

struct Memory {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

}  // namespace

extern "C" {

int nvmlInit_v2() { return SUCCESS; }
int nvmlInitWithFlags(unsigned) { return SUCCESS; }
int nvmlShutdown() { return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned* count) { return *count = there(), SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void** device) { return *device = &gpus[i % sizeof gpus], SUCCESS; }
int nvmlDeviceGetUUID(void* device, char* id, unsigned size) {
    return std::snprintf(id, size, "GPU-emulated-%d", int(static_cast<char*>(device) - gpus)), SUCCESS;
}
int nvmlDeviceGetHandleByUUID(const char* id, void** device) {
    unsigned i = 0;
    if (std::sscanf(id, "GPU-emulated-%u", &i) != 1 || i >= there()) return NOT_FOUND;
    return *device = &gpus[i], SUCCESS;
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
// The fault whose number the file `QLORA_EMULATED_XID` holds, as soon as it does.
int nvmlEventSetCreate(void** set) { return *set = gpus, SUCCESS; }
int nvmlEventSetFree(void*) { return SUCCESS; }
int nvmlDeviceRegisterEvents(void*, unsigned long long, void*) { return SUCCESS; }
int nvmlEventSetWait_v2(void*, Event* event, unsigned milliseconds) {
    const char* path = std::getenv("QLORA_EMULATED_XID");
    for (unsigned waited = 0; waited < milliseconds; waited += 20) {
        unsigned long long number = 0;
        if (std::FILE* file = path == nullptr ? nullptr : std::fopen(path, "r")) {
            const int read = std::fscanf(file, "%llu", &number);
            std::fclose(file);
            if (read == 1) return *event = {gpus, XID, number, 0, 0}, SUCCESS;
        }
        usleep(20'000);
    }
    return TIMEOUT;
}
int nvmlSystemGetDriverVersion(char* version, unsigned size) { return std::snprintf(version, size, "580.0"), SUCCESS; }
}
