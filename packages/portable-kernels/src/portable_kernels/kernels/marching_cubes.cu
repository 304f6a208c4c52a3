// Marching cubes on a grid (D, H, W), in three steps: below_bits → count_words → (a prefix sum) → emit.
// Grid points are taken in words of 32 along x, W' = ceil(W / 32) words a row. After the first step only bits are read.
// Lane (bit) l of word g is the point (x = 32 · (g mod W') + l, y = g / W' mod H, z = g / W' / H); a cell is named by
// the corner with the smallest coordinates. Tables, edges and corners as in marching_cubes/table.py.
#include "scalars.cuh"

#define FULL 0xffffffffu
#define WORDS_A_WARP 8

struct Grid {
    uint32 W_words, H, D, W;
};

// Where a word lies: its row, and whether there are points after it along x, y and z.
struct Place {
    uint32 word_in_row, y, z;
};

__device__ __forceinline__ Place place_of(uint32 g, const Grid& s) {
    const uint32 row = g / s.W_words;
    Place p;
    p.word_in_row = g - row * s.W_words;
    p.z = row / s.H;
    p.y = row - p.z * s.H;
    return p;
}

// The bits of the points that exist, of word w when the row has `length` points.
__device__ __forceinline__ uint32 first_bits(uint32 length, uint32 w) {
    const uint32 start = w * 32u;
    if (length <= start) return 0u;
    return length - start >= 32u ? FULL : (1u << (length - start)) - 1u;
}

// below[g]: points with value < threshold; known[g]: points that are not NaN. One warp makes 8 words.
extern "C" __global__ void __launch_bounds__(256) below_bits(
    const float* __restrict__ volume, float threshold, uint32* __restrict__ below, uint32* __restrict__ known,
    int64 words_64, int64 W_words, int64 W_64) {
    const uint32 lane = threadIdx.x & 31u, words = (uint32)words_64, W = (uint32)W_64;
    const uint64 first = ((uint64)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5)) * WORDS_A_WARP;
    float values[WORDS_A_WARP];
    bool there[WORDS_A_WARP];
#pragma unroll
    for (int i = 0; i < WORDS_A_WARP; ++i) {
        const uint64 g = first + i;
        there[i] = false;
        values[i] = 0.f;
        if (g < words) {
            const uint32 row = (uint32)g / (uint32)W_words;
            const uint32 x = ((uint32)g - row * (uint32)W_words) * 32u + lane;
            there[i] = x < W;
            if (there[i]) values[i] = volume[(uint64)row * W + x];
        }
    }
    uint32 my_below = 0, my_known = 0;
#pragma unroll
    for (int i = 0; i < WORDS_A_WARP; ++i) {
        const uint32 b = __ballot_sync(FULL, there[i] && values[i] < threshold);
        const uint32 k = __ballot_sync(FULL, there[i] && values[i] == values[i]);
        if (lane == i) {
            my_below = b;
            my_known = k;
        }
    }
    if (lane < WORDS_A_WARP && first + lane < words) {
        below[first + lane] = my_below;
        known[first + lane] = my_known;
    }
}

// The bits of a row's word and of the points one further along x.
struct Pair {
    uint32 here, next;
};

__device__ __forceinline__ Pair row_pair(const uint32* __restrict__ bits, uint32 g, bool more) {
    Pair p;
    p.here = bits[g];
    const uint32 following = more ? bits[g + 1] : 0u;
    p.next = (p.here >> 1) | (following << 31);
    return p;
}

struct Corners {
    uint32 bit[8];
};

// The corners' bits of the 32 cells of a word; rows beyond the grid read as 0.
__device__ __forceinline__ Corners corners_of(const uint32* __restrict__ bits, uint32 g, const Place& p, const Grid& s) {
    Corners c;
    const bool more = p.word_in_row + 1 < s.W_words;
#pragma unroll
    for (int yz = 0; yz < 4; ++yz) {
        const uint32 dy = yz & 1, dz = yz >> 1;
        Pair pair = {0u, 0u};
        if (p.y + dy < s.H && p.z + dz < s.D) pair = row_pair(bits, g + (dy + dz * s.H) * s.W_words, more);
        c.bit[2 * yz] = pair.here;
        c.bit[2 * yz + 1] = pair.next;
    }
    return c;
}

__device__ __forceinline__ int case_of(const Corners& below, uint32 lane) {
    int result = 0;
#pragma unroll
    for (int c = 0; c < 8; ++c) result |= (int)(below.bit[c] >> lane & 1u) << c;
    return result;
}

// masks[4 g + 0…2]: the crossed edges along x, y, z that start in word g; masks[4 g + 3]: its cells with triangles.
// counts[3 g + axis]: vertices; counts[3 · words + g]: triangles.
extern "C" __global__ void __launch_bounds__(256) count_words(
    const uint32* __restrict__ below, const uint32* __restrict__ known, const unsigned char* __restrict__ triangle_counts,
    uint4* __restrict__ masks, int64* __restrict__ counts, int64 words_64, int64 W_words, int64 H, int64 D, int64 W) {
    const uint64 thread = (uint64)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= (uint64)words_64) return;
    const uint32 g = (uint32)thread;
    const Grid s = {(uint32)W_words, (uint32)H, (uint32)D, (uint32)W};
    const Place p = place_of(g, s);
    const Corners b = corners_of(below, g, p, s), k = corners_of(known, g, p, s);
    const bool more_y = p.y + 1 < s.H, more_z = p.z + 1 < s.D;
    const uint32 more_x = first_bits(s.W - 1, p.word_in_row);
    uint4 mask;
    mask.x = (b.bit[0] ^ b.bit[1]) & k.bit[0] & k.bit[1] & more_x;
    mask.y = more_y ? (b.bit[0] ^ b.bit[2]) & k.bit[0] & k.bit[2] : 0u;
    mask.z = more_z ? (b.bit[0] ^ b.bit[4]) & k.bit[0] & k.bit[4] : 0u;
    uint32 some = 0, all = FULL, sure = FULL;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
        some |= b.bit[c];
        all &= b.bit[c];
        sure &= k.bit[c];
    }
    mask.w = more_y && more_z ? some & ~all & sure & more_x : 0u;
    int triangles = 0;
    for (uint32 left = mask.w; left; left &= left - 1) triangles += triangle_counts[case_of(b, __ffs(left) - 1)];
    masks[g] = mask;
    counts[3ull * g] = __popc(mask.x);
    counts[3ull * g + 1] = __popc(mask.y);
    counts[3ull * g + 2] = __popc(mask.z);
    counts[3ull * (uint64)words_64 + g] = triangles;
}

// Where the threshold lies between the values of two neighbours, as a share of the way from the first.
__device__ __forceinline__ double crossing(float a, float b, float threshold) {
    if (isinf(a)) return isinf(b) ? 0.5 : 1.0;
    if (isinf(b)) return 0.0;
    return ((double)threshold - (double)a) / ((double)b - (double)a);
}

__device__ __forceinline__ uint32 mask_along(const uint4& mask, int axis) {
    return axis == 0 ? mask.x : axis == 1 ? mask.y : mask.z;
}

struct Mesh {
    const uint4* masks;
    const int64* sums;  // the inclusive prefix sum over counts
};

__device__ __forceinline__ int64 before(const int64* __restrict__ sums, uint64 i) { return i ? sums[i - 1] : 0; }

// The vertices of a word: lane l writes those on the edges that start at its point.
__device__ __forceinline__ void emit_vertices(
    const float* __restrict__ volume, float threshold, const Mesh& mesh, uint32 g, const Place& p, const Grid& s,
    uint32 lane, float* __restrict__ vertices) {
    const uint4 mask = mesh.masks[g];
    const uint32 x = p.word_in_row * 32u + lane;
    const uint64 at = ((uint64)p.z * s.H + p.y) * s.W + x;
    const bool any = ((mask.x | mask.y | mask.z) >> lane) & 1u;
    if (!any) return;
    const float a = volume[at];
    const uint64 step[3] = {1ull, s.W, (uint64)s.H * s.W};
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        const uint32 crossed = mask_along(mask, axis);
        if (!(crossed >> lane & 1u)) continue;
        const double share = crossing(a, volume[at + step[axis]], threshold);
        const int64 v = before(mesh.sums, 3ull * g + axis) + __popc(crossed & ((1u << lane) - 1u));
        vertices[3 * v] = axis == 0 ? (float)((double)x + share) : (float)x;
        vertices[3 * v + 1] = axis == 1 ? (float)((double)p.y + share) : (float)p.y;
        vertices[3 * v + 2] = axis == 2 ? (float)((double)p.z + share) : (float)p.z;
    }
}

// The number of the vertex on an edge of the cell at (word g, lane): it was counted by the word that the edge starts in.
__device__ __forceinline__ int vertex_on(const Mesh& mesh, uint32 g, uint32 lane, int edge, const Grid& s) {
    const int axis = edge >> 2, rank = edge & 3;
    // The corner without bit `axis` whose other two bits are those of `rank`.
    const uint32 low = rank & 1, high = rank >> 1;
    const uint32 dx = axis == 0 ? 0u : low;
    const uint32 dy = axis == 0 ? low : axis == 1 ? 0u : high;
    const uint32 dz = axis == 2 ? 0u : high;
    const uint32 x = lane + dx, bit = x & 31u;
    const uint32 word = g + (dy + dz * s.H) * s.W_words + (x >> 5);
    const uint32 crossed = mask_along(mesh.masks[word], axis);
    return (int)(before(mesh.sums, 3ull * word + axis) + __popc(crossed & ((1u << bit) - 1u)));
}

__device__ __forceinline__ void emit_faces(
    const Corners& below, uint32 cells, const unsigned char* __restrict__ triangle_counts,
    const signed char* __restrict__ triangle_edges, const Mesh& mesh, uint32 g, uint64 words, int64 vertex_count,
    const Grid& s, uint32 lane, int* __restrict__ faces) {
    const bool mine = cells >> lane & 1u;
    const int which = mine ? case_of(below, lane) : 0;
    const int triangles = mine ? triangle_counts[which] : 0;
    int sum = triangles;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(FULL, sum, step);
        if (lane >= step) sum += other;
    }
    const int64 first = mesh.sums[3ull * words + g - 1] - vertex_count + (sum - triangles);
    for (int corner = 0; corner < 3 * triangles; ++corner) {
        faces[3 * first + corner] = vertex_on(mesh, g, lane, triangle_edges[16 * which + corner], s);
    }
}

// One warp looks at 8 words and writes the vertices and triangles of those that have any.
extern "C" __global__ void __launch_bounds__(256) emit(
    const float* __restrict__ volume, float threshold, const uint32* __restrict__ below, const uint4* __restrict__ masks,
    const int64* __restrict__ sums, const unsigned char* __restrict__ triangle_counts,
    const signed char* __restrict__ triangle_edges, float* __restrict__ vertices, int* __restrict__ faces,
    int64 vertex_count, int64 words_64, int64 W_words, int64 H, int64 D, int64 W) {
    const uint32 lane = threadIdx.x & 31u;
    const uint64 words = (uint64)words_64;
    const uint64 first = ((uint64)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5)) * WORDS_A_WARP;
    const Grid s = {(uint32)W_words, (uint32)H, (uint32)D, (uint32)W};
    const Mesh mesh = {masks, sums};
    uint4 mask = {0u, 0u, 0u, 0u};
    if (lane < WORDS_A_WARP && first + lane < words) mask = masks[first + lane];
    uint32 active = __ballot_sync(FULL, (mask.x | mask.y | mask.z | mask.w) != 0u);
    for (; active; active &= active - 1) {
        const int i = __ffs(active) - 1;
        const uint32 g = (uint32)first + i;
        const Place p = place_of(g, s);
        emit_vertices(volume, threshold, mesh, g, p, s, lane, vertices);
        const uint32 cells = __shfl_sync(FULL, mask.w, i);
        if (cells)
            emit_faces(
                corners_of(below, g, p, s), cells, triangle_counts, triangle_edges, mesh, g, words, vertex_count, s, lane,
                faces);
    }
}
