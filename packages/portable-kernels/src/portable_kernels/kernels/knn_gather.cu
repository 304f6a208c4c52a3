// Rows of a cloud by the indices of neighbours: x (N, M, U), idx (N, L, K) → (N, L, K, U). A group of `lanes` threads (a
// power of two, at most 32) takes a row. A neighbour from position lengths[n] on gives 0, and so does -1 where that
// means none.
#include "scalars.cuh"

// The neighbour of this thread's group, and the row of x that it is, or -1.
__device__ __forceinline__ bool row_of(
    const int64* __restrict__ idx, const int64* __restrict__ lengths, int64 rows, int64 L, int64 K, int64 M, int64 lanes,
    int64 none_is_minus_one, int64* flag, int64& row, int64& source) {
    row = (int64)blockIdx.x * (blockDim.x / (int)lanes) + threadIdx.x / (int)lanes;
    if (row >= rows) return false;
    int64 n, l, k;
    split(row, L, K, n, l, k);
    source = -1;
    if (k >= (lengths ? lengths[n] : M)) return true;
    const int64 j = idx[row];
    if (j == -1 && none_is_minus_one) return true;
    if (j < 0 || j >= M) report_bad_index(flag, 1, j, l * K + k, M);
    else source = n * M + j;
    return true;
}

#ifdef ELEMENT

// ELEMENT: a word of up to 16 bytes that divides a row; U: words a row.
extern "C" __global__ void __launch_bounds__(256) knn_gather(
    const ELEMENT* __restrict__ x, const int64* __restrict__ idx, const int64* __restrict__ lengths,
    ELEMENT* __restrict__ out, int64 rows, int64 L, int64 K, int64 U, int64 M, int64 lanes, int64 none_is_minus_one,
    int64* flag) {
    int64 row, source;
    if (!row_of(idx, lengths, rows, L, K, M, lanes, none_is_minus_one, flag, row, source)) return;
    const ELEMENT zero = {};
    const ELEMENT* from = x + (source < 0 ? 0 : source) * U;
    ELEMENT* to = out + row * U;
#pragma unroll 4
    for (int64 u = threadIdx.x % (int)lanes; u < U; u += lanes) to[u] = source < 0 ? zero : from[u];
}

#else

// The gradient of x, in SUM_TYPE (float for 16-bit floats), which starts as 0.
extern "C" __global__ void __launch_bounds__(256) knn_gather_backward(
    const SCALAR* __restrict__ grad, const int64* __restrict__ idx, const int64* __restrict__ lengths,
    SUM_TYPE* __restrict__ grad_x, int64 rows, int64 L, int64 K, int64 U, int64 M, int64 lanes, int64 none_is_minus_one,
    int64* flag) {
    int64 row, source;
    if (!row_of(idx, lengths, rows, L, K, M, lanes, none_is_minus_one, flag, row, source) || source < 0) return;
    const SCALAR* from = grad + row * U;
    SUM_TYPE* to = grad_x + source * U;
#pragma unroll 4
    for (int64 u = threadIdx.x % (int)lanes; u < U; u += lanes) atomicAdd(to + u, (SUM_TYPE)load(from[u]));
}

#endif
