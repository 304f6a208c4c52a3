// Mean squared distance of each point to its three nearest neighbours, exactly.
//
// Points are sorted along a Morton curve; each 32 of them make a leaf with a bounding box, each 32 boxes a box of the
// next level. A warp looks for the neighbours of one leaf's points together: boxes that none of its points can gain
// from are passed over. Rounding keeps the order of distances (all are computed in the same way), so nothing is lost.

typedef long long int64;
typedef unsigned long long uint64;
typedef unsigned int uint32;

#define ALL_LANES 0xffffffffu
#define THREADS 128
#define MAX_LEVELS 6  // 32^7 points
#define INFINITE __int_as_float(0x7f800000)

struct __align__(16) Box { float4 low, high; };

__device__ __forceinline__ bool finite(float v) { return fabsf(v) < INFINITE; }

// A pattern whose unsigned order is the value's.
__device__ __forceinline__ uint32 ordered(float v) {
    const uint32 u = __float_as_uint(v);
    return (u & 0x80000000u) ? ~u : (u | 0x80000000u);
}
__device__ __forceinline__ float from_ordered(uint32 u) {
    return __uint_as_float((u & 0x80000000u) ? (u & 0x7fffffffu) : ~u);
}

__device__ __forceinline__ bool usable(float x, float y, float z) { return finite(x) && finite(y) && finite(z); }

// bounds (6,), zero before: the highest of -x, -y, -z, x, y, z over the points that are finite, as ordered patterns.
extern "C" __global__ void __launch_bounds__(THREADS) find_bounds(
    const float* __restrict__ points, int64 N, uint32* bounds) {
    uint32 best[6] = {0, 0, 0, 0, 0, 0};
    for (int64 i = (int64)blockIdx.x * THREADS + threadIdx.x; i < N; i += (int64)gridDim.x * THREADS) {
        const float p[3] = {points[3 * i], points[3 * i + 1], points[3 * i + 2]};
        if (!usable(p[0], p[1], p[2])) continue;
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            best[k] = max(best[k], ordered(-p[k]));
            best[k + 3] = max(best[k + 3], ordered(p[k]));
        }
    }
#pragma unroll
    for (int k = 0; k < 6; ++k) {
        for (int step = 16; step > 0; step /= 2) best[k] = max(best[k], __shfl_xor_sync(ALL_LANES, best[k], step));
        if (threadIdx.x % 32 == 0 && best[k]) atomicMax(&bounds[k], best[k]);
    }
}

// Two zeros between each of 21 bits.
__device__ __forceinline__ uint64 spread(uint32 v) {
    uint64 x = v & 0x1fffffu;
    x = (x | x << 32) & 0x001f00000000ffffull;
    x = (x | x << 16) & 0x001f0000ff0000ffull;
    x = (x | x << 8) & 0x100f00f00f00f00full;
    x = (x | x << 4) & 0x10c30c30c30c30c3ull;
    x = (x | x << 2) & 0x1249249249249249ull;
    return x;
}

// Place on a Morton curve of 2^21 steps along each side of the bounding cube; points that are not finite come last.
extern "C" __global__ void morton_keys(
    const float* __restrict__ points, int64 N, const uint32* __restrict__ bounds, int64* __restrict__ keys) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= N) return;
    const float p[3] = {points[3 * i], points[3 * i + 1], points[3 * i + 2]};
    uint64 key = 0x7fffffffffffffffull;
    if (usable(p[0], p[1], p[2])) {
        float low[3], side = 0.f;
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            low[k] = -from_ordered(bounds[k]);
            side = fmaxf(side, 0.5f * from_ordered(bounds[k + 3]) - 0.5f * low[k]);  // halves: no overflow
        }
        const float scale = side > 0.f ? 2097151.f / side : 0.f;
        key = 0;
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            const float steps = (0.5f * p[k] - 0.5f * low[k]) * scale;
            key |= spread((uint32)fminf(fmaxf(steps, 0.f), 2097151.f)) << k;
        }
    }
    keys[i] = (int64)key;
}

__device__ __forceinline__ void unite(Box& b) {
    float* low = &b.low.x;
    float* high = &b.high.x;
#pragma unroll
    for (int k = 0; k < 3; ++k)
        for (int step = 16; step > 0; step /= 2) {
            low[k] = fminf(low[k], __shfl_xor_sync(ALL_LANES, low[k], step));
            high[k] = fmaxf(high[k], __shfl_xor_sync(ALL_LANES, high[k], step));
        }
}

__device__ __forceinline__ Box empty_box() {
    Box b;
    b.low = make_float4(INFINITE, INFINITE, INFINITE, 0.f);
    b.high = make_float4(-INFINITE, -INFINITE, -INFINITE, 0.f);
    return b;
}

// Points in the order of their keys, four floats each, and the leaves' boxes. A warp a leaf.
extern "C" __global__ void __launch_bounds__(THREADS) make_leaves(
    const float* __restrict__ points, const int64* __restrict__ order, int64 N, float4* __restrict__ sorted,
    Box* __restrict__ boxes) {
    const int64 leaf = ((int64)blockIdx.x * THREADS + threadIdx.x) / 32;
    const int lane = threadIdx.x % 32;
    if (leaf * 32 >= N) return;
    const int64 at = leaf * 32 + lane;
    Box box = empty_box();
    if (at < N) {
        const int64 i = order[at];
        const float4 p = make_float4(points[3 * i], points[3 * i + 1], points[3 * i + 2], 0.f);
        sorted[at] = p;
        if (usable(p.x, p.y, p.z)) box.low = box.high = p;
    }
    unite(box);
    if (lane == 0) boxes[leaf] = box;
}

// One level of boxes from the one below it. A warp a box.
extern "C" __global__ void __launch_bounds__(THREADS) make_level(
    const Box* __restrict__ below, int64 count_below, Box* __restrict__ boxes) {
    const int64 node = ((int64)blockIdx.x * THREADS + threadIdx.x) / 32;
    const int lane = threadIdx.x % 32;
    if (node * 32 >= count_below) return;
    Box box = node * 32 + lane < count_below ? below[node * 32 + lane] : empty_box();
    unite(box);
    if (lane == 0) boxes[node] = box;
}

__device__ __forceinline__ float squared(float x, float y, float z) {
    return __fmaf_rn(z, z, __fmaf_rn(y, y, __fmul_rn(x, x)));
}

// Never more than the squared distance to any point in the box, as computed.
__device__ __forceinline__ float to_box(float4 p, const Box& b) {
    return squared(
        fmaxf(fmaxf(b.low.x - p.x, p.x - b.high.x), 0.f), fmaxf(fmaxf(b.low.y - p.y, p.y - b.high.y), 0.f),
        fmaxf(fmaxf(b.low.z - p.z, p.z - b.high.z), 0.f));
}
__device__ __forceinline__ float between(const Box& a, const Box& b) {
    return squared(
        fmaxf(fmaxf(b.low.x - a.high.x, a.low.x - b.high.x), 0.f),
        fmaxf(fmaxf(b.low.y - a.high.y, a.low.y - b.high.y), 0.f),
        fmaxf(fmaxf(b.low.z - a.high.z, a.low.z - b.high.z), 0.f));
}

struct Best { float first, second, third; };

__device__ __forceinline__ void take(Best& b, float d) {
    b.third = fminf(b.third, fmaxf(b.second, d));
    b.second = fminf(b.second, fmaxf(b.first, d));
    b.first = fminf(b.first, d);
}

__device__ __forceinline__ void take_leaf(
    Best& best, float4 p, const float4* __restrict__ sorted, int64 leaf, int64 N, int own) {
    const int count = (int)min((int64)32, N - leaf * 32);
    for (int j = 0; j < count; ++j) {
        const float4 q = __ldg(sorted + leaf * 32 + j);
        float d = squared(q.x - p.x, q.y - p.y, q.z - p.z);
        if (j == own || !(d < INFINITE)) d = INFINITE;
        take(best, d);
    }
}

// A warp a leaf: means (N,) in the points' first order. Of fewer than three neighbours, the mean of those there are;
// 0 for a point without any, NaN for one that is not finite.
extern "C" __global__ void __launch_bounds__(THREADS) mean_distances(
    const float4* __restrict__ sorted, const int64* __restrict__ order, const Box* __restrict__ boxes, int64 N,
    float* __restrict__ means) {
    const int64 leaf = ((int64)blockIdx.x * THREADS + threadIdx.x) / 32;
    const int lane = threadIdx.x % 32;
    if (leaf * 32 >= N) return;
    const int64 at = leaf * 32 + lane;
    int64 counts[MAX_LEVELS], firsts[MAX_LEVELS];  // boxes of each level, and where they begin
    int levels = 0;
    int64 begin = 0, boxes_of_level = (N + 31) / 32;
    do {
        counts[levels] = boxes_of_level;
        firsts[levels] = begin;
        begin += boxes_of_level;
        boxes_of_level = (boxes_of_level + 31) / 32;
    } while (counts[levels++] > 32);

    const float4 p = at < N ? sorted[at] : make_float4(0.f, 0.f, 0.f, 0.f);
    const bool asking = at < N && usable(p.x, p.y, p.z);
    Best best = {INFINITE, INFINITE, INFINITE};
    take_leaf(best, p, sorted, leaf, N, lane);
    if (leaf > 0) take_leaf(best, p, sorted, leaf - 1, N, -1);
    if (leaf + 1 < counts[0]) take_leaf(best, p, sorted, leaf + 1, N, -1);
    if (!asking) best.third = 0.f;  // gains from nothing

    const Box mine = boxes[leaf];
    uint32 pending[MAX_LEVELS];
    int64 base[MAX_LEVELS];
    int level = levels - 1;
    int64 child = 0;
    bool entering = true;
    while (true) {
        if (entering) {
            float bound = best.third;
            for (int step = 16; step > 0; step /= 2) bound = fmaxf(bound, __shfl_xor_sync(ALL_LANES, bound, step));
            bool near = false;
            if (child + lane < counts[level]) near = between(mine, boxes[firsts[level] + child + lane]) < bound;
            base[level] = child;
            pending[level] = __ballot_sync(ALL_LANES, near);
            entering = false;
        }
        if (pending[level] == 0) {
            if (++level == levels) break;
            continue;
        }
        const int bit = __ffs(pending[level]) - 1;
        pending[level] &= pending[level] - 1;
        const int64 node = base[level] + bit;
        const Box box = boxes[firsts[level] + node];
        if (!__any_sync(ALL_LANES, to_box(p, box) < best.third)) continue;
        if (level > 0) {
            --level;
            child = node * 32;
            entering = true;
        } else if (node < leaf - 1 || node > leaf + 1) {
            take_leaf(best, p, sorted, node, N, -1);
            if (!asking) best.third = 0.f;
        }
    }
    if (at >= N) return;
    float sum = 0.f;
    int found = 0;
    const float d[3] = {best.first, best.second, best.third};
#pragma unroll
    for (int k = 0; k < 3; ++k)
        if (d[k] < INFINITE) {
            sum += d[k];
            ++found;
        }
    means[order[at]] = asking ? (found ? sum / found : 0.f) : __int_as_float(0x7fffffff);
}
