// K nearest neighbours in one to three dimensions through a tree of boxes over the points in Morton order.
// Five steps: cloud_bounds → morton_keys → (a sort) → leaf_boxes → upper_boxes → knn_tree.
//
// 32 points in a row are a leaf, 32 leaves a node of level 1, and so on to level 3; every box keeps the smallest index
// in it. 32 queries in a row are one warp's, which walks the tree once for all of them: a node is opened while one
// of the queries may have a neighbour in it. Exact: a box's distance is made by the steps of a point's (`grow`) from
// differences that are no greater, so no point in the box is nearer, and of equal distances the smaller index wins.
#include "knn_lists.cuh"

#define FULL 0xffffffffu
#define WIDTH 32
#define LEVELS 4
#define CODE_BITS 16  // of each coordinate
#define BATCH_SHIFT (3 * CODE_BITS + 1)
#define SET_SHIFT (BATCH_SHIFT + 13)

struct __align__(4 * sizeof(SCALAR)) Point {
    SCALAR x, y, z;
    SCALAR index_bits;  // the point's index; the first four bytes hold it
};

struct __align__(4 * sizeof(SCALAR)) Box {
    SCALAR low[3], high[3];
    int index, unused;
};

__device__ __forceinline__ SCALAR coordinate(const SCALAR* __restrict__ point, int c, int dimensions) {
    return c < dimensions ? point[c] : (SCALAR)0;
}

// ------------------------------------------------------------------------------------------------- Morton order

__device__ __forceinline__ float from_ordered(uint32 u) {
    return __uint_as_float((u & 0x80000000u) ? u ^ 0x80000000u : ~u);
}

// bounds[6 n + c]: the largest finite coordinate of cloud n, as its ordered bits; bounds[6 n + 3 + c]: the complement of
// the smallest. Starts as 0. Blocks (a share of the points, a cloud).
extern "C" __global__ void __launch_bounds__(256) cloud_bounds(
    const SCALAR* __restrict__ p2, const int64* __restrict__ lengths2, uint32* __restrict__ bounds, int64 P2,
    int64 dimensions, int64* flag) {
    const int64 n = blockIdx.y;
    const int64 length = length_of(lengths2, n, P2, blockIdx.x == 0 && threadIdx.x == 0, flag);
    uint32 extreme[6] = {0u, 0u, 0u, 0u, 0u, 0u};
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < length; i += (int64)gridDim.x * blockDim.x) {
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            const float v = (float)coordinate(p2 + (n * P2 + i) * dimensions, c, (int)dimensions);
            if (!isfinite(v)) continue;
            const uint32 bits = (uint32)ordered(v);
            extreme[c] = max(extreme[c], bits);
            extreme[3 + c] = max(extreme[3 + c], ~bits);
        }
    }
#pragma unroll
    for (int e = 0; e < 6; ++e) {
        for (int step = 16; step; step /= 2) extreme[e] = max(extreme[e], __shfl_xor_sync(FULL, extreme[e], step));
        if ((threadIdx.x & 31) == 0) atomicMax(bounds + 6 * n + e, extreme[e]);
    }
}

// Bit b of the 16 goes to bit 3 b.
__device__ __forceinline__ uint64 spread_bits(uint64 v) {
    v = (v | v << 32) & 0x1f00000000ffffull;
    v = (v | v << 16) & 0x1f0000ff0000ffull;
    v = (v | v << 8) & 0x100f00f00f00f00full;
    v = (v | v << 4) & 0x10c30c30c30c30c3ull;
    return (v | v << 2) & 0x1249249249249249ull;
}

// keys: of the points of all clouds, then of the queries: (set, cloud, beyond its length, Morton code). Sorting them
// keeps every cloud where it was, the points that don't count at its end.
extern "C" __global__ void __launch_bounds__(256) morton_keys(
    const SCALAR* __restrict__ p1, const SCALAR* __restrict__ p2, const int64* __restrict__ lengths1,
    const int64* __restrict__ lengths2, const uint32* __restrict__ bounds, int64* __restrict__ keys, int64 total,
    int64 points, int64 P1, int64 P2, int64 dimensions, int64* flag) {
    const int64 t = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= total) return;
    const bool query = t >= points;
    const int64 at = query ? t - points : t, P = query ? P1 : P2, n = at / P, i = at - n * P;
    const int64 length = length_of(query ? lengths1 : lengths2, n, P, i == 0, flag);
    const SCALAR* point = (query ? p1 : p2) + at * dimensions;
    uint64 code = 0;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        const float high = from_ordered(bounds[6 * n + c]), low = from_ordered(~bounds[6 * n + 3 + c]);
        const float extent = high - low;
        float share = ((float)coordinate(point, c, (int)dimensions) - low) / extent;
        share = fminf(fmaxf(share, 0.f), 1.f);  // NaN becomes 0
        code |= spread_bits((uint64)(share * (float)((1 << CODE_BITS) - 1))) << c;
    }
    keys[t] = (int64)((uint64)query << SET_SHIFT | (uint64)n << BATCH_SHIFT | (uint64)(i >= length) << (3 * CODE_BITS) | code);
}

// ------------------------------------------------------------------------------------------------- the boxes

__device__ __forceinline__ Box empty_box() {
    Box b;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        b.low[c] = infinite();
        b.high[c] = -infinite();
    }
    b.index = NO_INDEX;
    b.unused = 0;
    return b;
}

__device__ __forceinline__ Box warp_box(Box b) {
    for (int step = 16; step; step /= 2) {
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            b.low[c] = smaller(b.low[c], __shfl_xor_sync(FULL, b.low[c], step));
            b.high[c] = larger(b.high[c], __shfl_xor_sync(FULL, b.high[c], step));
        }
        b.index = min(b.index, __shfl_xor_sync(FULL, b.index, step));
    }
    return b;
}

// A block of 32 warps makes 32 boxes of one level and the box of those one level up. Each warp brings its own box.
__device__ __forceinline__ void write_two_levels(
    const Box& own, int64 boxes, int64 above, Box* __restrict__ level, Box* __restrict__ next) {
    __shared__ __align__(16) unsigned char memory[WIDTH * sizeof(Box)];
    Box* shared = (Box*)memory;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64 cloud = blockIdx.y, at = (int64)blockIdx.x * WIDTH + warp;
    if (lane == 0) {
        shared[warp] = own;
        if (at < boxes) level[cloud * boxes + at] = own;
    }
    __syncthreads();
    if (warp == 0) {
        const Box all = warp_box(shared[lane]);
        if (lane == 0) next[cloud * above + blockIdx.x] = all;
    }
}

// Points in their order, with the boxes of leaves and of level 1. Blocks of 1024 threads: (level-1 node, cloud).
extern "C" __global__ void __launch_bounds__(1024) leaf_boxes(
    const SCALAR* __restrict__ p2, const int64* __restrict__ lengths2, const int64* __restrict__ order,
    Point* __restrict__ points, Box* __restrict__ leaves, Box* __restrict__ nodes, int64 P2, int64 leaf_count,
    int64 node_count, int64 dimensions, int64* flag) {
    const int64 n = blockIdx.y, i = (int64)blockIdx.x * 1024 + threadIdx.x;
    const int64 length = length_of(lengths2, n, P2, false, flag);
    Box box = empty_box();
    if (i < length) {
        const int64 source = order[n * P2 + i];
        Point point;
        point.x = coordinate(p2 + source * dimensions, 0, (int)dimensions);
        point.y = coordinate(p2 + source * dimensions, 1, (int)dimensions);
        point.z = coordinate(p2 + source * dimensions, 2, (int)dimensions);
        point.index_bits = 0;
        *(int*)&point.index_bits = (int)(source - n * P2);
        points[n * P2 + i] = point;
        const SCALAR c[3] = {point.x, point.y, point.z};
#pragma unroll
        for (int a = 0; a < 3; ++a) {
            box.low[a] = smaller(box.low[a], c[a]);
            box.high[a] = larger(box.high[a], c[a]);
        }
        box.index = (int)(source - n * P2);
    }
    write_two_levels(warp_box(box), leaf_count, node_count, leaves, nodes);
}

// The boxes of levels 2 and 3 from those of level 1. Blocks of 1024 threads: (level-3 node, cloud).
extern "C" __global__ void __launch_bounds__(1024) upper_boxes(
    const Box* __restrict__ below, Box* __restrict__ level, Box* __restrict__ next, int64 below_count, int64 level_count,
    int64 next_count) {
    const int64 i = (int64)blockIdx.x * 1024 + threadIdx.x;
    const Box box = i < below_count ? below[(int64)blockIdx.y * below_count + i] : empty_box();
    write_two_levels(warp_box(box), level_count, next_count, level, next);
}

// ------------------------------------------------------------------------------------------------- the search

// How far a box is, at least, from the nearest point of another: low ≤ high may both be a single point.
__device__ __forceinline__ SCALAR gap(const Box& box, const SCALAR* low, const SCALAR* high) {
    SCALAR sum = 0;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        const SCALAR difference = larger(larger(box.low[c] - high[c], low[c] - box.high[c]), (SCALAR)0);
        sum = grow(sum, difference);
    }
    return sum;
}

struct Tree {
    const Point* points;
    const Box* boxes[LEVELS];
    int64 count[LEVELS];
    int64 length;
};

// 32 queries, one a lane, and the worst neighbour that any of them still has.
struct Packet {
    SCALAR at[3], low[3], high[3];
    Nearest nearest;
    bool counts;
    SCALAR worst_distance;
    int worst_index;

    __device__ __forceinline__ void refresh() {
        const SCALAR mine = counts ? nearest.worst_distance() : (SCALAR)-1;
        SCALAR most = mine;
        for (int step = 16; step; step /= 2) most = larger(most, __shfl_xor_sync(FULL, most, step));
        int index = mine == most ? nearest.worst_index() : -1;
        for (int step = 16; step; step /= 2) index = max(index, __shfl_xor_sync(FULL, index, step));
        worst_distance = most;
        worst_index = index;
    }

    // Which of a node's up to 32 children may hold a neighbour of some query.
    __device__ __forceinline__ uint32 promising(const Box* __restrict__ boxes, int64 first, int64 count) const {
        const int64 child = first + (threadIdx.x & 31);
        bool wanted = false;
        if (child < count) {
            const Box box = boxes[child];
            wanted = nearer(gap(box, low, high), box.index, worst_distance, worst_index);
        }
        return __ballot_sync(FULL, wanted);
    }

    __device__ __forceinline__ void visit(const Tree& tree, int64 leaf) {
        const Box box = tree.boxes[0][leaf];
        const bool wanted =
            counts && nearer(gap(box, at, at), box.index, nearest.worst_distance(), nearest.worst_index());
        if (!__any_sync(FULL, wanted)) return;
        const Point* __restrict__ points = tree.points + leaf * WIDTH;
        const int64 rest = tree.length - leaf * WIDTH;
        const int count = rest < WIDTH ? (int)rest : WIDTH;
        if (wanted) {
            for (int j = 0; j < count; j += 4) {
                SCALAR sums[4];
                int index[4];
#pragma unroll
                for (int m = 0; m < 4; ++m) {
                    const Point point = points[min(j + m, count - 1)];
                    sums[m] = grow(grow(grow((SCALAR)0, at[0] - point.x), at[1] - point.y), at[2] - point.z);
                    index[m] = *(const int*)&point.index_bits;
                }
                consider_four(nearest, sums, index, min(4, count - j), false);
            }
        }
        __syncwarp();
        refresh();
    }

    // The leaf under the nearest child of the nearest child …: a first guess that makes everything else shorter.
    __device__ __forceinline__ int64 first_leaf(const Tree& tree) const {
        int64 node = 0;
        for (int level = LEVELS - 1; level >= 0; --level) {
            const int64 first = level == LEVELS - 1 ? 0 : node * WIDTH;
            const int64 child = first + (threadIdx.x & 31);
            SCALAR best = infinite();
            int64 which = first;
            if (child < tree.count[level]) {
                best = gap(tree.boxes[level][child], low, high);
                which = child;
            }
            for (int step = 16; step; step /= 2) {
                const SCALAR other = __shfl_xor_sync(FULL, best, step);
                const int64 other_which = __shfl_xor_sync(FULL, which, step);
                if (nearer(other, other_which, best, which)) {
                    best = other;
                    which = other_which;
                }
            }
            node = which;
        }
        return node;
    }

    // Visit the first guess, then every other leaf that is promising when its turn comes. One loop, not four nested
    // ones: so the code of a visit stands in the program once.
    __device__ __forceinline__ void search(const Tree& tree) {
        const int64 guess = first_leaf(tree);
        uint32 threes = 0, twos = 0, ones = 0, leaves = 0;
        int64 next = 0, base = 0, three = 0, two = 0, one = 0, leaf = guess;
        for (;;) {
            if (leaf >= 0) visit(tree, leaf);
            leaf = -1;
            if (leaves) {
                leaf = one * WIDTH + pop(leaves);
                if (leaf == guess) leaf = -1;
            } else if (ones) {
                one = two * WIDTH + pop(ones);
                leaves = promising(tree.boxes[0], one * WIDTH, tree.count[0]);
            } else if (twos) {
                two = three * WIDTH + pop(twos);
                ones = promising(tree.boxes[1], two * WIDTH, tree.count[1]);
            } else if (threes) {
                three = base + pop(threes);
                twos = promising(tree.boxes[2], three * WIDTH, tree.count[2]);
            } else if (next < tree.count[3]) {
                base = next;
                threes = promising(tree.boxes[3], base, tree.count[3]);
                next += WIDTH;
            } else {
                return;
            }
        }
    }

    static __device__ __forceinline__ int pop(uint32& bits) {
        const int first = __ffs(bits) - 1;
        bits &= bits - 1;
        return first;
    }
};

// One warp takes 32 queries of a cloud, in Morton order.
extern "C" __global__ void __launch_bounds__(128) knn_tree(
    const SCALAR* __restrict__ p1, const SCALAR* __restrict__ p2, const int64* __restrict__ lengths1,
    const int64* __restrict__ lengths2, const int64* __restrict__ query_order, int64 query_offset,
    const Point* __restrict__ points, const Box* __restrict__ leaves, const Box* __restrict__ ones,
    const Box* __restrict__ twos, const Box* __restrict__ threes, SCALAR* __restrict__ dists, int64* __restrict__ idx,
    int64 packets, int64 packets_a_cloud, int64 P1, int64 P2, int64 dimensions, int64 K, int64 by_distance, int64* flag) {
    const int64 packet = ((int64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (packet >= packets) return;
    const int64 n = packet / packets_a_cloud;
    const int64 slot = (packet - n * packets_a_cloud) * 32 + (threadIdx.x & 31);
    const int64 length1 = length_of(lengths1, n, P1, false, flag);
    Tree tree;
    tree.length = length_of(lengths2, n, P2, false, flag);
    int64 count = P2;
    const Box* levels[LEVELS] = {leaves, ones, twos, threes};
#pragma unroll
    for (int level = 0; level < LEVELS; ++level) {
        count = (count + WIDTH - 1) / WIDTH;
        tree.count[level] = count;
        tree.boxes[level] = levels[level] + n * count;
    }
    tree.points = points + n * P2;

    const bool exists = slot < P1;
    const int64 row = exists ? query_order[n * P1 + slot] - query_offset : n * P1;
    Packet p;
    p.counts = exists && row - n * P1 < length1;
    const Output out = {dists + row * K, idx + row * K, p1 + row * dimensions, p2 + n * P2 * dimensions, dimensions, K,
                        !p.counts ? 0 : K < tree.length ? K : tree.length};
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        p.at[c] = coordinate(out.query, c, (int)dimensions);
        p.low[c] = p.counts ? p.at[c] : infinite();
        p.high[c] = p.counts ? p.at[c] : -infinite();
        for (int step = 16; step; step /= 2) {
            p.low[c] = smaller(p.low[c], __shfl_xor_sync(FULL, p.low[c], step));
            p.high[c] = larger(p.high[c], __shfl_xor_sync(FULL, p.high[c], step));
        }
    }
    p.nearest.start(out);
    p.refresh();
    if (tree.length > 0 && __any_sync(FULL, p.counts)) p.search(tree);
    if (exists) p.nearest.finish(out, by_distance != 0);
}
