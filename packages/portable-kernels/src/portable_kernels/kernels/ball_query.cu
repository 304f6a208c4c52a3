// The first K points within a radius of each query, in the order of their indices. SCALAR: float or double.
// DIMENSIONS: of a point, 1 to 8 with tiles of points in shared memory, or 0 for any number.
#define NORM 2
#define K_REGISTERS 1
#include "knn_lists.cuh"

#define FULL 0xffffffffu
#define WARPS 16
#define TILE 512

// One warp a query, 32 points at a time; a block stops when all of its queries have K.
extern "C" __global__ void __launch_bounds__(32 * WARPS) ball_query(
    const SCALAR* __restrict__ p1, const SCALAR* __restrict__ p2, const int64* __restrict__ lengths1,
    const int64* __restrict__ lengths2, SCALAR* __restrict__ dists, int64* __restrict__ idx, int64 blocks_a_cloud,
    int64 P1, int64 P2, int64 dimensions, int64 K, int64 radius_bits, int64 inside_cube, int64* flag) {
    const int64 n = blockIdx.x / blocks_a_cloud, block = blockIdx.x - n * blocks_a_cloud;
    const int64 p = block * WARPS + threadIdx.x / 32;
    const uint32 lane = threadIdx.x & 31u;
    const bool reporter = block == 0 && threadIdx.x == 0;
    const int64 length1 = length_of(lengths1, n, P1, reporter, flag);
    const int64 length2 = length_of(lengths2, n, P2, reporter, flag);
    const SCALAR radius = (SCALAR)__longlong_as_double(radius_bits), radius2 = radius * radius;
    const bool exists = p < P1;
    const int64 row = n * P1 + (exists ? p : 0);
    const SCALAR *query = p1 + row * dimensions, *cloud = p2 + n * P2 * dimensions;
    bool done = p >= length1 || K == 0;
    int64 found = 0;
#if DIMENSIONS > 0
    __shared__ SCALAR tile[TILE * DIMENSIONS];
    SCALAR at[DIMENSIONS];
#pragma unroll
    for (int c = 0; c < DIMENSIONS; ++c) at[c] = query[c];
#else
    const SCALAR* at = query;
#endif
    for (int64 first = 0; first < length2; first += TILE) {
        if (__syncthreads_and(done)) break;
        const int count = (int)(length2 - first < TILE ? length2 - first : TILE);
#if DIMENSIONS > 0
        for (int e = threadIdx.x; e < count * DIMENSIONS; e += 32 * WARPS) tile[e] = cloud[first * DIMENSIONS + e];
        __syncthreads();
        const SCALAR* points = tile;
        const int width = DIMENSIONS;
#else
        const SCALAR* points = cloud + first * dimensions;
        const int64 width = dimensions;
#endif
        for (int start = 0; start < count && !done; start += 32) {
            const int j = start + (int)lane;
            bool within = j < count;
            SCALAR sum = 0;
            if (within) {
#pragma unroll
                for (int c = 0; c < width; ++c) {
                    const SCALAR difference = at[c] - points[j * width + c];
                    if (inside_cube && !(difference <= radius && -difference <= radius)) within = false;
                    sum = grow(sum, difference);
                }
                within = within && sum < radius2;
            }
            const uint32 mask = __ballot_sync(FULL, within);
            const int64 k = found + __popc(mask & ((1u << lane) - 1u));
            if (within && k < K) {
                dists[row * K + k] = sum;
                idx[row * K + k] = first + j;
            }
            found += __popc(mask);
            done = found >= K;
        }
    }
    if (!exists) return;
    for (int64 k = found + lane; k < K; k += 32) {
        dists[row * K + k] = 0;
        idx[row * K + k] = -1;
    }
}
