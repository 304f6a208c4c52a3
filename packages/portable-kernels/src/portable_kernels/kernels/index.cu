// What turns indices into something else, whatever the element type. ELEMENT: an unsigned type as wide as the elements.
#include "scalars.cuh"

// Sorted index (B, E) → pointers (B, N + 1): one thread a position and one more a batch. INDEX: its type.
// Values outside [0, N) are reported and clamped, so that every pointer lies in [0, E].
extern "C" __global__ void pointers_from_sorted(
    const INDEX* __restrict__ index, int64* __restrict__ pointers, int64 B, int64 E, int64 N, int64 stride_b,
    int64 stride_e, int64* flag) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= B * (E + 1)) return;
    const int64 b = i / (E + 1), e = i - b * (E + 1);
    int64 before = -1, here = N;
    if (e > 0) before = (int64)index[b * stride_b + (e - 1) * stride_e];
    if (e < E) {
        here = (int64)index[b * stride_b + e * stride_e];
        if (here < 0 || here >= N) report_bad_index(flag, 1, here, e, N);
        if (here < before) report_bad_index(flag, 3, here, e, N);
    }
    before = min(max(before, -1ll), N);
    here = min(max(here, -1ll), N);
    for (int64 n = before + 1; n <= here; ++n) pointers[b * (N + 1) + n] = e;
}

// out[b, e, k] = src[b, index[b, e, k], k], and 0 where the index is bad, or N when N means «none».
extern "C" __global__ void gather(
    const ELEMENT* __restrict__ src, const int64* __restrict__ index, ELEMENT* __restrict__ out, int64 total, int64 E,
    int64 K, int64 N, int64 sb, int64 se, int64 sk, int64 n_is_none, int64* flag) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int64 b, e, k;
    split(i, E, K, b, e, k);
    const int64 n = index[b * sb + e * se + k * sk];
    ELEMENT v = {};
    if (n >= 0 && n < N) v = src[(b * N + n) * K + k];
    else if (!(n_is_none && n == N)) report_bad_index(flag, 1, n, e, N);
    out[i] = v;
}

// The segment of each position e < E of batch b by pointers (…, N + 1), N where none holds it: index (B, E).
extern "C" __global__ void segment_of_position(
    const int64* __restrict__ pointers, int64* __restrict__ index, int64 total, int64 E, int64 N,
    int64 pointer_stride) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    const int64 b = i / E, e = i - b * E;
    const int64* p = pointers + b * pointer_stride;
    int64 low = 0, high = N;  // the last n with p[n] <= e
    while (low < high) {
        const int64 middle = (low + high + 1) / 2;
        if (p[middle] <= e) low = middle;
        else high = middle - 1;
    }
    index[i] = low < N && p[low] <= e && e < p[low + 1] ? low : N;
}

// grad[b, arg[b, n, k], k] = values[b, n, k] for arg in [0, E): every target at most once, the rest is zero already.
extern "C" __global__ void spread(
    const ELEMENT* __restrict__ values, const int64* __restrict__ arg, ELEMENT* __restrict__ grad, int64 total,
    int64 E, int64 K, int64 N) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int64 b, n, k;
    split(i, N, K, b, n, k);
    const int64 e = arg[i];
    if (e >= 0 && e < E) grad[(b * E + e) * K + k] = values[i];
}
