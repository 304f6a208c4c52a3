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

// How often each target of index (E,) occurs, counts (N + 1,) with the first one 0, and which of them each is.
extern "C" __global__ void rank_by_index(
    const int64* __restrict__ index, int64 stride_e, int* __restrict__ counts, int* __restrict__ rank, int64 E,
    int64 N, int64* flag) {
    const int64 e = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (e >= E) return;
    const int64 n = index[e * stride_e];
    if (n >= 0 && n < N) rank[e] = atomicAdd(counts + n + 1, 1);
    else report_bad_index(flag, 1, n, e, N);
}

// Positions grouped by target: order[pointers[n] + rank[e]] = e.
extern "C" __global__ void order_by_rank(
    const int64* __restrict__ index, int64 stride_e, const int64* __restrict__ pointers, const int* __restrict__ rank,
    int64* __restrict__ order, int64 E, int64 N) {
    const int64 e = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (e >= E) return;
    const int64 n = index[e * stride_e];
    if (n >= 0 && n < N) order[pointers[n] + rank[e]] = e;
}

// out[b, e, k] = src[b, index[b, e, k], k], and 0 where the index is bad.
extern "C" __global__ void gather(
    const ELEMENT* __restrict__ src, const int64* __restrict__ index, ELEMENT* __restrict__ out, int64 total, int64 E,
    int64 K, int64 N, int64 sb, int64 se, int64 sk, int64* flag) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int64 b, e, k;
    split(i, E, K, b, e, k);
    const int64 n = index[b * sb + e * se + k * sk];
    ELEMENT v = {};
    if (n >= 0 && n < N) v = src[(b * N + n) * K + k];
    else report_bad_index(flag, 1, n, e, N);
    out[i] = v;
}

// out[b, e, k] = src[b, n, k] for pointers[b, n] <= e < pointers[b, n + 1], and 0 before the first pointer and after
// the last. Lanes as in scatter.cu: X along K, L along a segment. Each row writes its own segment, the first and the
// last row also what lies outside.
extern "C" __global__ void gather_segments(
    const ELEMENT* __restrict__ src, const int64* __restrict__ pointers, ELEMENT* __restrict__ out, int64 rows,
    int64 N, int64 E, int64 K, int64 pointer_stride, int64 chunks, int64 log_x, int64 log_l, int64* flag) {
    const int X = 1 << log_x, L = 1 << log_l;
    const int lane = (threadIdx.x >> log_x) & (L - 1);
    const uint32 group = blockIdx.x / (uint32)chunks, chunk = blockIdx.x - group * (uint32)chunks;
    const int64 row = (int64)group * (blockDim.x >> (log_x + log_l)) + (threadIdx.x >> (log_x + log_l));
    const int64 k = (int64)chunk * X + (threadIdx.x & (X - 1));
    if (row >= rows || k >= K) return;
    int64 b, n;
    split(row, N, b, n);
    int64 start = pointers[b * pointer_stride + n], end = pointers[b * pointer_stride + n + 1];
    if (start < 0 || end > E || start > end) {
        if (lane == 0 && k == 0) report_bad_index(flag, 2, start < 0 ? start : end, n, E);
        start = min(max(start, 0ll), E);
        end = min(max(end, 0ll), E);
    }
    ELEMENT* base = out + b * E * K + k;
    const ELEMENT v = src[row * K + k];
    for (int64 e = start + lane; e < end; e += L) base[e * K] = v;
    const ELEMENT zero = {};
    if (n == 0) for (int64 e = lane; e < start; e += L) base[e * K] = zero;
    if (n == N - 1) for (int64 e = end + lane; e < E; e += L) base[e * K] = zero;
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
