// Rows of a cloud by the indices of neighbours: x (N, M, U), idx (N, L, K) → (N, L, K, U). ELEMENT: a word of x's size.
// A neighbour from position lengths[n] on gives 0, and so does -1 where that means none.
#include "scalars.cuh"

// Where element t of the result comes from: its row of x, or -1.
__device__ __forceinline__ int64 source_of(
    int64 t, const int64* __restrict__ idx, const int64* __restrict__ lengths, int64 LK, int64 K, int64 U, int64 M,
    int64 none_is_minus_one, int64* flag, int64& u) {
    int64 n, neighbour;
    split(t, LK, U, n, neighbour, u);
    const int64 k = neighbour - neighbour / K * K;
    if (k >= (lengths ? lengths[n] : M)) return -1;
    const int64 j = idx[n * LK + neighbour];
    if (j == -1 && none_is_minus_one) return -1;
    if (j < 0 || j >= M) {
        report_bad_index(flag, 1, j, neighbour, M);
        return -1;
    }
    return n * M + j;
}

#ifdef ELEMENT

extern "C" __global__ void __launch_bounds__(256) knn_gather(
    const ELEMENT* __restrict__ x, const int64* __restrict__ idx, const int64* __restrict__ lengths,
    ELEMENT* __restrict__ out, int64 total, int64 LK, int64 K, int64 U, int64 M, int64 none_is_minus_one, int64* flag) {
    const int64 t = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= total) return;
    int64 u;
    const int64 row = source_of(t, idx, lengths, LK, K, U, M, none_is_minus_one, flag, u);
    out[t] = row < 0 ? (ELEMENT)0 : x[row * U + u];
}

#else

// The gradient of x, in SUM_TYPE (float for 16-bit floats), which starts as 0.
extern "C" __global__ void __launch_bounds__(256) knn_gather_backward(
    const SCALAR* __restrict__ grad, const int64* __restrict__ idx, const int64* __restrict__ lengths,
    SUM_TYPE* __restrict__ grad_x, int64 total, int64 LK, int64 K, int64 U, int64 M, int64 none_is_minus_one, int64* flag) {
    const int64 t = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= total) return;
    int64 u;
    const int64 row = source_of(t, idx, lengths, LK, K, U, M, none_is_minus_one, flag, u);
    if (row >= 0) atomicAdd(grad_x + row * U + u, (SUM_TYPE)load(grad[t]));
}

#endif
