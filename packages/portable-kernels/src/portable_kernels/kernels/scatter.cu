// Reductions by index. Every tensor is seen as (B, E, K): B outer, E along the reduced dimension, K inner.
// SCALAR: element type. REDUCTION: 0 sum, 1 mean, 2 product, 3 minimum, 4 maximum. VECTOR: elements of K a thread takes.
#include "scalars.cuh"

#ifndef VECTOR
#define VECTOR 1
#endif

typedef accumulator<SCALAR>::type acc_t;
struct __align__(sizeof(SCALAR) * VECTOR) Pack { SCALAR v[VECTOR]; };

#define IS_ARG (REDUCTION >= 3)

__device__ __forceinline__ acc_t identity(int64 start) {
    if (REDUCTION == 2) return (acc_t)1;
    if (REDUCTION >= 3) return start_of<SCALAR>(REDUCTION == 4, start);
    return (acc_t)0;
}

#define NONE ((int64)1 << 62)  // a position that nothing has

// Take an element. Of equal values the smaller position stays, whatever the order; NaN never wins.
__device__ __forceinline__ void take(acc_t& best, int64& arg, acc_t v, int64 e) {
    if (REDUCTION <= 1) best = (acc_t)(best + v);
    else if (REDUCTION == 2) best = (acc_t)(best * v);
    else if (REDUCTION == 3 ? v < best : v > best) { best = v; arg = e; }
    else if (v == best && e < arg && arg != NONE) arg = e;
}

// Merge two lanes by the same rule.
__device__ __forceinline__ void merge(acc_t& best, int64& arg, acc_t v, int64 e) {
    if (!IS_ARG) take(best, arg, v, e);
    else if (e != NONE && (arg == NONE || (REDUCTION == 3 ? v < best : v > best) || (v == best && e < arg))) {
        best = v;
        arg = e;
    }
}

// What lane + distance of the warp has.
template <typename T> __device__ __forceinline__ T shuffled_down(T v, int distance) {
    return (T)__shfl_down_sync(0xffffffffu, v, distance);
}

// Segments given by pointers: row n of batch b reduces positions pointers[n] … pointers[n+1]-1, read through `order`
// when there is one, in any order. A block's threads are rows × L lanes along the segment × X lanes along K, X and L
// powers of two. Consecutive blocks take the `chunks` of K, then the next rows.
// Where nothing beat the start, a minimum or maximum is 0; for segments of START_ACCUMULATOR that have elements it is
// the start itself.
extern "C" __global__ void segment_reduce(
    const SCALAR* __restrict__ src, const int64* __restrict__ pointers, const int64* __restrict__ order,
    SCALAR* __restrict__ out, int64* __restrict__ arg_out, int64 rows, int64 N, int64 E, int64 K,
    int64 pointer_stride, int64 start_from, int64 chunks, int64 log_x, int64 log_l, int64* flag) {
    __shared__ acc_t values[VECTOR * 256];
    __shared__ int64 args[IS_ARG ? VECTOR * 256 : 1];
    const int X = 1 << log_x, L = 1 << log_l;
    const int lane = (threadIdx.x >> log_x) & (L - 1);
    const uint32 group = blockIdx.x / (uint32)chunks, chunk = blockIdx.x - group * (uint32)chunks;  // of K
    const int64 row = (int64)group * (blockDim.x >> (log_x + log_l)) + (threadIdx.x >> (log_x + log_l));
    const int64 k = ((int64)chunk * X + (threadIdx.x & (X - 1))) * VECTOR;
    const bool active = row < rows && k < K;
    acc_t best[VECTOR];
    int64 arg[VECTOR];
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) { best[i] = identity(start_from); arg[i] = NONE; }
    int64 start = 0, end = 0;
    if (active) {
        int64 b, n;
        split(row, N, b, n);
        start = pointers[b * pointer_stride + n];
        end = pointers[b * pointer_stride + n + 1];
        if (start < 0 || end > E || start > end) {
            if (lane == 0 && k == 0) report_bad_index(flag, 2, start < 0 ? start : end, n, E);
            start = min(max(start, 0ll), E);
            end = min(max(end, 0ll), E);
        }
        const SCALAR* base = src + b * E * K + k;
#pragma unroll 4
        for (int64 p = start + lane; p < end; p += L) {
            const int64 e = order ? order[p] : p;
            const Pack pack = *reinterpret_cast<const Pack*>(base + e * K);
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                take(best[i], arg[i], (acc_t)load(pack.v[i]), e);
            }
        }
    }
    if (log_x + log_l <= 5) {  // within a warp
        for (int half = L / 2; half > 0; half /= 2) {
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                const acc_t value = shuffled_down(best[i], half * X);
                const int64 where = IS_ARG ? shuffled_down(arg[i], half * X) : 0;
                if (lane < half) merge(best[i], arg[i], value, where);
            }
        }
    } else if (L > 1) {
        const int thread = threadIdx.x;
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            values[thread * VECTOR + i] = best[i];
            if (IS_ARG) args[thread * VECTOR + i] = arg[i];
        }
        for (int half = L / 2; half > 0; half /= 2) {
            __syncthreads();
            if (lane < half) {
                const int other = (thread + half * X) * VECTOR;
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    merge(best[i], arg[i], values[other + i], IS_ARG ? args[IS_ARG ? other + i : 0] : 0);
                    values[thread * VECTOR + i] = best[i];
                    if (IS_ARG) args[thread * VECTOR + i] = arg[i];
                }
            }
        }
    }
    if (!active || lane != 0) return;
    const int64 count = end > start ? end - start : 0;
    Pack result;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        acc_t v = best[i];
        if (REDUCTION == 1) v = (acc_t)(v / (acc_t)(count > 0 ? count : 1));
        if (IS_ARG) {
            if (arg[i] == NONE && (start_from != START_ACCUMULATOR || count == 0)) v = (acc_t)0;
            arg_out[row * K + k + i] = arg[i] == NONE ? E : arg[i];
        }
        result.v[i] = Store<SCALAR>::from(v);
    }
    *reinterpret_cast<Pack*>(out + row * K + k) = result;
}
