// The gradient of products by index. SCALAR: element type. VECTOR: elements of K a thread takes.
#include "scalars.cuh"

struct __align__(sizeof(SCALAR) * VECTOR) Pack { SCALAR v[VECTOR]; };

// grad_src[b, e, k] = product[b, n, k] / src[b, e, k], n = index[b, e, k], `product` being the gradient times the result;
// 0 where that is no number, or the index is bad (reported on the way there). total and K in packs.
extern "C" __global__ void __launch_bounds__(256) scatter_multiply_backward(
    const Pack* __restrict__ product, const Pack* __restrict__ src, const int64* __restrict__ index,
    Pack* __restrict__ grad_src, int64 total, int64 E, int64 K, int64 N, int64 sb, int64 se, int64 sk) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int64 b, e, k;
    split(i, E, K, b, e, k);
    const int64 n = index[b * sb + e * se + k * sk];
    Pack result = {};
    if (n >= 0 && n < N) {
        const Pack factor = src[i], whole = product[(b * N + n) * K + k];
#pragma unroll
        for (int j = 0; j < VECTOR; ++j) {
            const accumulator<SCALAR>::type v = load(whole.v[j]) / load(factor.v[j]);
            if (v == v) result.v[j] = Store<SCALAR>::from(v);
        }
    }
    grad_src[i] = result;
}
