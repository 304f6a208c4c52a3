/* A driver library that answers as NVML does, for one GPU: NVIDIA, «NVML API Reference». Error 3: not supported. */
#include <string.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;

int nvmlInitWithFlags(unsigned int flags) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int error) { return "Not Supported"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return 0; }
/* The second GPU fell off the bus (error 15). */
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) { *handle = (void *)1; return index ? 15 : 0; }
int nvmlDeviceGetName(void *handle, char *name, unsigned int length) { strncpy(name, "NVIDIA RTX 5090", length); return 0; }
int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *rates) { rates->gpu = 97; rates->memory = 40; return 0; }
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    memory->total = 34000000000ULL; memory->used = 21500000000ULL; memory->free = 12500000000ULL; return 0;
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned int *milliwatts) { *milliwatts = 412340; return 0; }
int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned int *milliwatts) { return 3; }
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned int *celsius) { *celsius = 61; return 0; }
int nvmlDeviceGetClockInfo(void *handle, int kind, unsigned int *megahertz) { *megahertz = kind == 1 ? 2407 : 14001; return 0; }
/* 0x4: the software power cap. */
int nvmlDeviceGetCurrentClocksEventReasons(void *handle, unsigned long long *reasons) { *reasons = 0x4; return 0; }
