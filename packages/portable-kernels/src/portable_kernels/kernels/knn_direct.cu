// K nearest neighbours by comparing every query with every point, tiles of points in shared memory.
// DIMENSIONS: of a point, 1 to 8, or 0 for any number (`knn_wide`).
#include "knn_lists.cuh"

#define BLOCK 128

#define ARGUMENTS                                                                                                     \
    const SCALAR *__restrict__ p1, const SCALAR *__restrict__ p2, const int64 *__restrict__ lengths1,                \
        const int64 *__restrict__ lengths2, SCALAR *__restrict__ dists, int64 *__restrict__ idx, int64 blocks_a_cloud, \
        int64 P1, int64 P2, int64 dimensions, int64 K, int64 lanes_a_query, int64 by_distance, int64 *flag

// A query of this thread, or of `lanes_a_query` neighbouring threads together.
struct Query {
    int64 n, p, length2;
    bool exists, counts;  // within P1; within lengths1
    Output out;
};

__device__ __forceinline__ Query query_of(ARGUMENTS) {
    Query q;
    q.n = blockIdx.x / blocks_a_cloud;
    const int64 block = blockIdx.x - q.n * blocks_a_cloud;
    q.p = block * (BLOCK / lanes_a_query) + threadIdx.x / lanes_a_query;
    const bool reporter = block == 0 && threadIdx.x == 0;
    const int64 length1 = length_of(lengths1, q.n, P1, reporter, flag);
    q.length2 = length_of(lengths2, q.n, P2, reporter, flag);
    q.exists = q.p < P1;
    q.counts = q.p < length1;
    const int64 row = q.n * P1 + (q.exists ? q.p : 0);
    q.out = {dists + row * K, idx + row * K, p1 + row * dimensions, p2 + q.n * P2 * dimensions, dimensions, K,
             !q.counts ? 0 : K < q.length2 ? K : q.length2};
    return q;
}

// Only the first of a query's lanes writes; where the list is in the output it already stands there.
__device__ __forceinline__ void write(Query& q, Nearest& nearest, int lanes_a_query, bool by_distance) {
    nearest.merge(lanes_a_query);
    if (q.exists && threadIdx.x % lanes_a_query == 0) nearest.finish(q.out, by_distance);
}

#if DIMENSIONS > 0

#define TILE 256
#define STRIDE (DIMENSIONS == 3 ? 4 : DIMENSIONS)
#define ALIGNMENT (STRIDE % 4 == 0 ? 4 : STRIDE % 2 == 0 ? 2 : 1)

struct __align__(ALIGNMENT * sizeof(SCALAR)) Point {
    SCALAR c[STRIDE];
};

extern "C" __global__ void __launch_bounds__(BLOCK) knn_direct(ARGUMENTS) {
    __shared__ Point tile[TILE];
    Query q = query_of(
        p1, p2, lengths1, lengths2, dists, idx, blocks_a_cloud, P1, P2, DIMENSIONS, K, lanes_a_query, by_distance, flag);
    const int lanes = (int)lanes_a_query, lane = threadIdx.x % lanes;
    Nearest nearest;
    nearest.start(q.out);
    SCALAR at[DIMENSIONS];
#pragma unroll
    for (int c = 0; c < DIMENSIONS; ++c) at[c] = q.out.query[c];
    for (int64 first = 0; first < q.length2; first += TILE) {
        const int count = (int)(q.length2 - first < TILE ? q.length2 - first : TILE);
        __syncthreads();
        for (int j = threadIdx.x; j < count; j += BLOCK)
#pragma unroll
            for (int c = 0; c < DIMENSIONS; ++c) tile[j].c[c] = q.out.cloud[(first + j) * DIMENSIONS + c];
        __syncthreads();
        if (!q.counts) continue;
        for (int j = lane; j < count; j += 4 * lanes) {
            SCALAR sums[4];
            int index[4];
#pragma unroll
            for (int m = 0; m < 4; ++m) {
                index[m] = (int)first + j + m * lanes;
                const Point point = tile[(j + m * lanes) % TILE];  // past `count`: some other point, not looked at
                sums[m] = 0;
#pragma unroll
                for (int c = 0; c < DIMENSIONS; ++c) sums[m] = grow(sums[m], at[c] - point.c[c]);
            }
            consider_four(nearest, sums, index, min(4, (count - j + lanes - 1) / lanes), true);
        }
    }
    write(q, nearest, lanes, by_distance != 0);
}

#else

#define TILE 16
#define CHUNK 32

extern "C" __global__ void __launch_bounds__(BLOCK) knn_wide(ARGUMENTS) {
    __shared__ __align__(16) SCALAR tile[CHUNK][TILE];  // [dimension][point]
    Query q = query_of(
        p1, p2, lengths1, lengths2, dists, idx, blocks_a_cloud, P1, P2, dimensions, K, 1, by_distance, flag);
    Nearest nearest;
    nearest.start(q.out);
    for (int64 first = 0; first < q.length2; first += TILE) {
        const int count = (int)(q.length2 - first < TILE ? q.length2 - first : TILE);
        SCALAR sum[TILE];
#pragma unroll
        for (int j = 0; j < TILE; ++j) sum[j] = 0;
        for (int64 start = 0; start < dimensions; start += CHUNK) {
            const int width = (int)(dimensions - start < CHUNK ? dimensions - start : CHUNK);
            __syncthreads();
            for (int e = threadIdx.x; e < TILE * CHUNK; e += BLOCK) {
                const int j = e / CHUNK, c = e % CHUNK;
                tile[c][j] = j < count && c < width ? q.out.cloud[(first + j) * dimensions + start + c] : (SCALAR)0;
            }
            __syncthreads();
            for (int c = 0; c < width; ++c) {
                const SCALAR at = q.out.query[start + c];
#pragma unroll
                for (int j = 0; j < TILE; ++j) sum[j] = grow(sum[j], at - tile[c][j]);
            }
        }
        bool any = false;
        SCALAR far[TILE];  // a copy, so that the sums themselves are never indexed and stay in registers
#pragma unroll
        for (int j = 0; j < TILE; ++j) any = any || !(sum[j] > nearest.worst_distance());
        if (!any || !q.counts) continue;
#pragma unroll
        for (int j = 0; j < TILE; ++j) far[j] = sum[j];
#pragma unroll 1
        for (int j = 0; j < count; ++j) nearest.consider_next(far[j], (int)first + j);
    }
    write(q, nearest, 1, by_distance != 0);
}

#endif
