// Scatter with atomics, for an index that differs along K or where a sort would not pay. (B, E, K) as in scatter.cu; the index is
// read through its strides, so that a broadcast one is never written out. SCALAR: element type.
#include "scalars.cuh"

typedef accumulator<SCALAR>::type acc_t;

__device__ __forceinline__ bool locate(
    int64 i, int64 E, int64 K, int64 N, const int64* __restrict__ index, int64 sb, int64 se, int64 sk, int64* flag,
    int64& e, int64& target) {
    int64 b, k;
    split(i, E, K, b, e, k);
    const int64 n = index[b * sb + e * se + k * sk];
    if (n < 0 || n >= N) {
        report_bad_index(flag, 1, n, e, N);
        return false;
    }
    target = (b * N + n) * K + k;
    return true;
}

__device__ __forceinline__ void atomic_add(float* p, float v) { atomicAdd(p, v); }
__device__ __forceinline__ void atomic_add(double* p, double v) { atomicAdd(p, v); }
__device__ __forceinline__ void atomic_add(int* p, int v) { atomicAdd(p, v); }
__device__ __forceinline__ void atomic_add(int64* p, int64 v) { atomicAdd((uint64*)p, (uint64)v); }

// No instruction multiplies atomically: compare and swap, in words of 4 or 8 bytes.
template <typename T> __device__ __forceinline__ void atomic_multiply(T* p, T v) {
    if (sizeof(T) == 4) {
        uint32* word = (uint32*)p;
        uint32 seen = *(volatile uint32*)word, expected;
        do {
            expected = seen;
            T product = *(T*)&expected * v;
            seen = atomicCAS(word, expected, *(uint32*)&product);
        } while (seen != expected);
    } else {
        uint64* word = (uint64*)p;
        uint64 seen = *(volatile uint64*)word, expected;
        do {
            expected = seen;
            T product = *(T*)&expected * v;
            seen = atomicCAS(word, expected, *(uint64*)&product);
        } while (seen != expected);
    }
}

template <typename T> __device__ __forceinline__ void atomic_add_4(T* p, const T (&v)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) atomic_add(p + i, v[i]);
}
#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ void atomic_add_4(float* p, const float (&v)[4]) {
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3])
                 : "memory");
}
#endif

// Sums are kept in SUM_TYPE: float for the 16-bit floats, int for the 8- and 16-bit integers.
extern "C" __global__ void __launch_bounds__(256) scatter_add(
    const SCALAR* __restrict__ src, const int64* __restrict__ index, SUM_TYPE* __restrict__ out, int64 total, int64 E,
    int64 K, int64 N, int64 sb, int64 se, int64 sk, int64* flag) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int64 e, target;
    const SCALAR v = src[i];
    if (locate(i, E, K, N, index, sb, se, sk, flag, e, target)) atomic_add(out + target, (SUM_TYPE)load(v));
}

// The same, four elements of K a thread, which share an index: total / 4 threads, K a multiple of 4, all aligned.
struct __align__(sizeof(SCALAR) * 4 > 16 ? 16 : sizeof(SCALAR) * 4) Four { SCALAR v[4]; };

extern "C" __global__ void __launch_bounds__(256) scatter_add_4(
    const Four* __restrict__ src, const int64* __restrict__ index, SUM_TYPE* __restrict__ out, int64 total, int64 E,
    int64 K, int64 N, int64 sb, int64 se, int64 sk, int64* flag) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int64 e, target;
    const Four four = src[i];
    if (!locate(i, E, K / 4, N, index, sb, se, sk, flag, e, target)) return;
    SUM_TYPE values[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) values[j] = (SUM_TYPE)load(four.v[j]);
    atomic_add_4(out + target * 4, values);
}

extern "C" __global__ void scatter_multiply(
    const SCALAR* __restrict__ src, const int64* __restrict__ index, SUM_TYPE* __restrict__ out, int64 total, int64 E,
    int64 K, int64 N, int64 sb, int64 se, int64 sk, int64* flag) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int64 e, target;
    if (locate(i, E, K, N, index, sb, se, sk, flag, e, target)) atomic_multiply(out + target, (SUM_TYPE)load(src[i]));
}

// How many elements each target gets: one thread an element of the index (Bi, E, Ki).
template <typename T> __device__ __forceinline__ void count_target(
    const int64* __restrict__ index, T* __restrict__ out, int64 total, int64 E, int64 K, int64 N, int64 sb, int64 se,
    int64 sk, int64* flag) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int64 e, target;
    if (locate(i, E, K, N, index, sb, se, sk, flag, e, target)) atomicAdd(out + target, (T)1);
}

extern "C" __global__ void __launch_bounds__(256) scatter_count(
    const int64* __restrict__ index, uint64* __restrict__ out, int64 total, int64 E, int64 K, int64 N, int64 sb, int64 se,
    int64 sk, int64* flag) {
    count_target(index, out, total, E, K, N, sb, se, sk, flag);
}

// In 32 bits, for fewer than 2^31 elements: half the bytes.
extern "C" __global__ void __launch_bounds__(256) scatter_count_short(
    const int64* __restrict__ index, int* __restrict__ out, int64 total, int64 E, int64 K, int64 N, int64 sb, int64 se,
    int64 sk, int64* flag) {
    count_target(index, out, total, E, K, N, sb, se, sk, flag);
}

// Sums (B, N, K) and the counts (N,) of an index that all share → means, and the counts, at least 1.
extern "C" __global__ void __launch_bounds__(256) scatter_mean_finish(
    const SUM_TYPE* sums, const int* __restrict__ counts, SCALAR* means, int64* __restrict__ counts_out, int64 total,
    int64 N, int64 K) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int64 b, n, k;
    split(i, N, K, b, n, k);
    const int count = max(counts[n], 1);
    if (b == 0 && k == 0) counts_out[n] = count;
    means[i] = Store<SCALAR>::from((acc_t)(sums[i] / (SUM_TYPE)count));
}

// Value and position in one word of 64 bits (values of at most 32 bits, E < 2^32 - 1): the largest word wins, of equal
// values the smallest position. 0 stays where nothing won. `largest` chooses maximum or minimum.
extern "C" __global__ void scatter_extreme_packed(
    const SCALAR* __restrict__ src, const int64* __restrict__ index, uint64* __restrict__ best, int64 total, int64 E,
    int64 K, int64 N, int64 sb, int64 se, int64 sk, int64 largest, int64 start_from, int64* flag) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int64 e, target;
    if (!locate(i, E, K, N, index, sb, se, sk, flag, e, target)) return;
    const acc_t v = (acc_t)load(src[i]);
    const acc_t start = start_of<SCALAR>(largest, start_from);
    if (!(largest ? v > start : v < start)) return;  // NaN, or no better than the start
    const uint32 key = (uint32)ordered(v);
    const uint64 word = ((uint64)(largest ? key : ~key) << 32) | (uint32)~(uint32)e;
    if (best[target] < word) atomicMax(best + target, word);
}

// The same in two passes for values of 64 bits: first the value, then the smallest position that has it.
extern "C" __global__ void scatter_extreme_value(
    const SCALAR* __restrict__ src, const int64* __restrict__ index, uint64* __restrict__ best, int64 total, int64 E,
    int64 K, int64 N, int64 sb, int64 se, int64 sk, int64 largest, int64 start_from, int64* flag) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int64 e, target;
    if (!locate(i, E, K, N, index, sb, se, sk, flag, e, target)) return;
    const acc_t v = (acc_t)load(src[i]);
    const acc_t start = start_of<SCALAR>(largest, start_from);
    if (!(largest ? v > start : v < start)) return;
    const uint64 key = largest ? ordered(v) : ~ordered(v);
    if (best[target] < key) atomicMax(best + target, key);
}

extern "C" __global__ void scatter_extreme_position(
    const SCALAR* __restrict__ src, const int64* __restrict__ index, const uint64* __restrict__ best,
    int64* __restrict__ arg, int64 total, int64 E, int64 K, int64 N, int64 sb, int64 se, int64 sk, int64 largest,
    int64 start_from, int64* flag) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int64 e, target;
    if (!locate(i, E, K, N, index, sb, se, sk, flag, e, target)) return;
    const acc_t v = (acc_t)load(src[i]);
    const acc_t start = start_of<SCALAR>(largest, start_from);
    if (!(largest ? v > start : v < start)) return;
    if (best[target] == (largest ? ordered(v) : ~ordered(v))) atomicMin((uint64*)(arg + target), (uint64)e);
}

// Turn the winners into positions (packed: out of the words) and values, read back from the source: exact to the bit.
extern "C" __global__ void scatter_extreme_finish(
    const SCALAR* __restrict__ src, const uint64* __restrict__ best, SCALAR* __restrict__ out, int64* __restrict__ arg,
    int64 total, int64 E, int64 K, int64 N, int64 packed) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int64 b, n, k, e;
    split(i, N, K, b, n, k);
    if (packed) e = best[i] ? (int64)(uint32)~(uint32)best[i] : E;
    else e = arg[i];
    arg[i] = e;
    if (e < E) out[i] = src[(b * E + e) * K + k];
    else out[i] = Store<SCALAR>::from((acc_t)0);
}
