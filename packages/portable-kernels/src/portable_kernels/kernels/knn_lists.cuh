// The K nearest neighbours found so far of one query, and what a distance is. SCALAR: float or double. NORM: 1 or 2.
// K_REGISTERS: K, for a sorted list in registers; 0 for a heap of any K, kept in the query's part of the outputs.
// Neighbours are ordered by (distance, index), a NaN distance counting as infinite: no two are equal, so the K nearest
// are the same set in whatever order the points come.
#include "scalars.cuh"

#define NO_INDEX 0x7fffffff

__device__ __forceinline__ float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ double fused(double a, double b, double c) { return __fma_rn(a, b, c); }
__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }  // of a NaN and a number: the number
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }
__device__ __forceinline__ float smaller(float a, float b) { return fminf(a, b); }
__device__ __forceinline__ double smaller(double a, double b) { return fmin(a, b); }
__device__ __forceinline__ SCALAR infinite() { return (SCALAR)__int_as_float(0x7f800000); }

// A distance grows by one coordinate's difference. Rounded results never fall when |difference| or sum rise: that is
// why the same steps from a box's nearest corner bound the distances of all points in the box, to the last bit.
__device__ __forceinline__ SCALAR grow(SCALAR sum, SCALAR difference) {
#if NORM == 2
    return fused(difference, difference, sum);
#else
    return sum + (difference < (SCALAR)0 ? -difference : difference);
#endif
}

__device__ __forceinline__ SCALAR distance(const SCALAR* __restrict__ a, const SCALAR* __restrict__ b, int64 dimensions) {
    SCALAR sum = 0;
    for (int64 c = 0; c < dimensions; ++c) sum = grow(sum, a[c] - b[c]);
    return sum;
}

__device__ __forceinline__ bool nearer(SCALAR d, int i, SCALAR other_d, int other_i) {
    return d < other_d || (d == other_d && i < other_i);
}
__device__ __forceinline__ bool nearer(SCALAR d, int64 i, SCALAR other_d, int64 other_i) {
    return d < other_d || (d == other_d && i < other_i);
}

// A cloud's length: the user's, bounded, or all of it. `reporter` is one thread a cloud.
__device__ __forceinline__ int64 length_of(const int64* __restrict__ lengths, int64 n, int64 most, bool reporter, int64* flag) {
    if (!lengths) return most;
    const int64 length = lengths[n];
    if (length >= 0 && length <= most) return length;
    if (reporter) report_bad_index(flag, 4, length, n, most);
    return length < 0 ? 0 : most;
}

// Where one query's results go, and what its distances are made of again where a NaN must be told from an infinity.
struct Output {
    SCALAR* dists;
    int64* idx;
    const SCALAR* query;
    const SCALAR* cloud;
    int64 dimensions, K, found;  // found: how many neighbours exist, at most K

    __device__ __forceinline__ void put(int64 k, SCALAR d, int64 i) const {
        const bool exists = k < found;
        if (exists && d == infinite()) d = distance(query, cloud + i * dimensions, dimensions);
        dists[k] = exists ? d : (SCALAR)0;
        idx[k] = exists ? i : 0;
    }
};

#if K_REGISTERS > 0

struct Nearest {
    SCALAR d[K_REGISTERS];
    int i[K_REGISTERS];

    __device__ __forceinline__ void start(const Output&) {
#pragma unroll
        for (int j = 0; j < K_REGISTERS; ++j) {
            d[j] = infinite();
            i[j] = NO_INDEX;
        }
    }
    __device__ __forceinline__ SCALAR worst_distance() const { return d[K_REGISTERS - 1]; }
    __device__ __forceinline__ int worst_index() const { return i[K_REGISTERS - 1]; }

    __device__ __forceinline__ void consider(SCALAR distance, int index) {
        if (distance > worst_distance()) return;  // a NaN goes on
        if (distance != distance) distance = infinite();
        if (nearer(distance, index, worst_distance(), worst_index())) insert(distance, index);
    }

    __device__ __forceinline__ void insert(SCALAR distance, int index) {
#pragma unroll
        for (int j = K_REGISTERS - 1; j > 0; --j) {
            if (nearer(distance, index, d[j - 1], i[j - 1])) {
                d[j] = d[j - 1];
                i[j] = i[j - 1];
            } else if (nearer(distance, index, d[j], i[j])) {
                d[j] = distance;
                i[j] = index;
            }
        }
        if (nearer(distance, index, d[0], i[0])) {
            d[0] = distance;
            i[0] = index;
        }
    }

    // The same where every index so far was smaller: a tie never wins, and one comparison a place is enough.
    __device__ __forceinline__ void consider_next(SCALAR distance, int index) {
        if (!(distance < infinite())) {
            consider(distance, index);
        } else if (distance < worst_distance()) {
#pragma unroll
            for (int j = K_REGISTERS - 1; j > 0; --j) {
                const bool moves = distance < d[j - 1], here = distance < d[j];
                d[j] = moves ? d[j - 1] : here ? distance : d[j];
                i[j] = moves ? i[j - 1] : here ? index : i[j];
            }
            const bool here = distance < d[0];
            d[0] = here ? distance : d[0];
            i[0] = here ? index : i[0];
        }
    }

    // Merge the lists of `lanes` neighbouring lanes (a power of two): each ends with the K nearest of all.
    __device__ __forceinline__ void merge(int lanes) {
        if (lanes == 1) return;
        Nearest all;
#pragma unroll 1
        for (int k = 0; k < K_REGISTERS; ++k) {
            SCALAR best = d[0];
            int which = i[0];
            for (int step = lanes / 2; step; step /= 2) {
                const SCALAR other = __shfl_xor_sync(0xffffffffu, best, step);
                const int other_which = __shfl_xor_sync(0xffffffffu, which, step);
                if (nearer(other, other_which, best, which)) {
                    best = other;
                    which = other_which;
                }
            }
            const bool mine = which == i[0];
#pragma unroll
            for (int j = 0; j + 1 < K_REGISTERS; ++j) {
                all.d[j] = all.d[j + 1];
                all.i[j] = all.i[j + 1];
                if (mine) {
                    d[j] = d[j + 1];
                    i[j] = i[j + 1];
                }
            }
            all.d[K_REGISTERS - 1] = best;
            all.i[K_REGISTERS - 1] = which;
            if (mine) {
                d[K_REGISTERS - 1] = infinite();
                i[K_REGISTERS - 1] = NO_INDEX;
            }
        }
        *this = all;
    }

    __device__ __forceinline__ void sort_by_index() {
#pragma unroll 1
        for (int round = 0; round < K_REGISTERS; ++round) {
#pragma unroll
            for (int parity = 0; parity < 2; ++parity) {
#pragma unroll
                for (int j = parity; j + 1 < K_REGISTERS; j += 2) {
                    if (i[j + 1] < i[j]) {
                        const int which = i[j];
                        const SCALAR far = d[j];
                        i[j] = i[j + 1];
                        d[j] = d[j + 1];
                        i[j + 1] = which;
                        d[j + 1] = far;
                    }
                }
            }
        }
    }

    __device__ __forceinline__ void finish(const Output& out, bool by_distance) {
        if (!by_distance) sort_by_index();
        SCALAR far[K_REGISTERS];  // a copy, so that the list itself is never indexed and stays in registers
        int which[K_REGISTERS];
#pragma unroll
        for (int k = 0; k < K_REGISTERS; ++k) {
            far[k] = d[k];
            which[k] = i[k];
        }
#pragma unroll 1
        for (int k = 0; k < K_REGISTERS; ++k) out.put(k, far[k], which[k]);
    }
};

#else

struct Nearest {
    SCALAR* d;
    int64* i;
    int64 size, K;
    SCALAR worst_d;
    int worst_i;

    __device__ __forceinline__ void start(const Output& out) {
        d = out.dists;
        i = out.idx;
        size = 0;
        K = out.K;
        worst_d = infinite();
        worst_i = NO_INDEX;
    }
    __device__ __forceinline__ SCALAR worst_distance() const { return worst_d; }
    __device__ __forceinline__ int worst_index() const { return worst_i; }

    // The order of the heap: by (distance, index) while searching, by index alone for an unsorted result.
    static __device__ __forceinline__ bool above(SCALAR d, int64 i, SCALAR other_d, int64 other_i, bool by_distance) {
        return by_distance ? nearer(other_d, other_i, d, i) : i > other_i;
    }

    __device__ __forceinline__ void sink(int64 at, int64 count, SCALAR distance, int64 index, bool by_distance) {
        for (;;) {
            int64 child = 2 * at + 1;
            if (child >= count) break;
            SCALAR child_d = d[child];
            int64 child_i = i[child];
            if (child + 1 < count) {
                const SCALAR next_d = d[child + 1];
                const int64 next_i = i[child + 1];
                if (above(next_d, next_i, child_d, child_i, by_distance)) {
                    ++child;
                    child_d = next_d;
                    child_i = next_i;
                }
            }
            if (!above(child_d, child_i, distance, index, by_distance)) break;
            d[at] = child_d;
            i[at] = child_i;
            at = child;
        }
        d[at] = distance;
        i[at] = index;
    }

    __device__ __forceinline__ void rise(SCALAR distance, int index) {
        int64 at = size++;
        while (at > 0) {
            const int64 parent = (at - 1) / 2;
            if (!above(distance, index, d[parent], i[parent], true)) break;
            d[at] = d[parent];
            i[at] = i[parent];
            at = parent;
        }
        d[at] = distance;
        i[at] = index;
    }

    __device__ __forceinline__ void consider(SCALAR distance, int index) {
        if (distance > worst_d) return;
        if (distance != distance) distance = infinite();
        if (!nearer(distance, index, worst_d, worst_i)) return;
        if (size < K) {
            rise(distance, index);
            if (size < K) return;
        } else {
            sink(0, K, distance, index, true);
        }
        worst_d = d[0];
        worst_i = (int)i[0];
    }

    __device__ __forceinline__ void consider_next(SCALAR distance, int index) { consider(distance, index); }

    __device__ __forceinline__ void merge(int) {}

    __device__ __forceinline__ void finish(const Output& out, bool by_distance) {
        if (!by_distance)
            for (int64 at = size / 2; at-- > 0;) sink(at, size, d[at], i[at], false);
        for (int64 last = size - 1; last > 0; --last) {
            const SCALAR distance = d[last];
            const int64 index = i[last];
            d[last] = d[0];
            i[last] = i[0];
            sink(0, last, distance, index, by_distance);
        }
        for (int64 k = 0; k < K; ++k) out.put(k, k < size ? d[k] : (SCALAR)0, k < size ? i[k] : 0);
    }
};

#endif

// Four at once: their distances are made side by side, and the code of an insertion stands in the program once. The
// first `many` of them count. `ascending`: their indices are greater than all before, and in order.
__device__ __forceinline__ void consider_four(
    Nearest& nearest, const SCALAR (&sums)[4], const int (&index)[4], int many, bool ascending) {
    const SCALAR worst = nearest.worst_distance();
    if (sums[0] > worst && sums[1] > worst && sums[2] > worst && sums[3] > worst) return;
#pragma unroll 1
    for (int m = 0; m < many; ++m) {
        const SCALAR sum = m == 0 ? sums[0] : m == 1 ? sums[1] : m == 2 ? sums[2] : sums[3];
        const int which = m == 0 ? index[0] : m == 1 ? index[1] : m == 2 ? index[2] : index[3];
        if (ascending) nearest.consider_next(sum, which);
        else nearest.consider(sum, which);
    }
}
