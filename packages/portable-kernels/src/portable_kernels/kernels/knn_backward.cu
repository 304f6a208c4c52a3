// Gradients of the distances of K neighbours (knn_points, ball_query). SCALAR: float or double. NORM: 1 or 2.
#include "scalars.cuh"

// One thread a coordinate of a query: it sums over the neighbours what is its own, and adds to each neighbour's. grad_p2
// starts as 0. A neighbour of -1 is none, nor is any from position `length` of the other cloud on.
extern "C" __global__ void __launch_bounds__(256) knn_backward(
    const SCALAR* __restrict__ p1, const SCALAR* __restrict__ p2, const int64* __restrict__ lengths1,
    const int64* __restrict__ lengths2, const int64* __restrict__ idx, const SCALAR* __restrict__ grad,
    SCALAR* __restrict__ grad_p1, SCALAR* __restrict__ grad_p2, int64 total, int64 P1, int64 P2, int64 K,
    int64 dimensions) {
    const int64 t = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= total) return;
    int64 n, p, c;
    split(t, P1, dimensions, n, p, c);
    SCALAR sum = 0;
    if (!lengths1 || p < lengths1[n]) {
        const int64 length2 = lengths2 ? lengths2[n] : P2;
        const int64 count = K < length2 ? K : length2, row = (n * P1 + p) * K;
        const SCALAR here = p1[t];
        for (int64 k = 0; k < count; ++k) {
            const int64 j = idx[row + k];
            if (j < 0 || j >= P2) continue;
            const int64 there = (n * P2 + j) * dimensions + c;
#if NORM == 2
            const SCALAR share = (SCALAR)2 * grad[row + k] * (here - p2[there]);
#else
            const SCALAR share = here > p2[there] ? grad[row + k] : -grad[row + k];
#endif
            sum += share;
            atomicAdd(grad_p2 + there, -share);
        }
    }
    grad_p1[t] = sum;
}
