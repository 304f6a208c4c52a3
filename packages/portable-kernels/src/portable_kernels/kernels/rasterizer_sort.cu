// Splats into the order in which they are drawn: by depth, then, stably, by tile.
//
// Sorting the Gaussians by depth first and their tiles afterwards moves far less than sorting all (tile, depth) pairs:
// 32-bit keys, and only as many digits of the second sort as tiles have. Each pass is a least-significant-digit radix
// pass that reads and writes everything once, the blocks finding their places by looking back at the blocks before
// them (Adinets and Merrill, «Onesweep», 2022).
#include "rasterizer.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
#define ITEMS 12
#define BLOCK_ITEMS (THREADS * ITEMS)
#define BINS 256
// A status word: what a block knows, in its two highest bits, and a count.
#define AGGREGATE 0x40000000u
#define INCLUSIVE 0x80000000u
#define COUNT_MASK 0x3fffffffu

// A word that other blocks see change. Nothing else is passed along by it, so that it orders nothing.
#if __CUDA_ARCH__ >= 700
__device__ __forceinline__ uint32 load_relaxed(const uint32* p) {
    uint32 v;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ void store_relaxed(uint32* p, uint32 v) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
#else
__device__ __forceinline__ uint32 load_relaxed(const uint32* p) { return *(const volatile uint32*)p; }
__device__ __forceinline__ void store_relaxed(uint32* p, uint32 v) { *(volatile uint32*)p = v; }
#endif

// How many of `capacity` items there are: `*total` where it is given, never more than there is room for.
__device__ __forceinline__ uint32 item_count(const uint64* total, int64 capacity) {
    return (uint32)(total ? min(*total, (uint64)capacity) : (uint64)capacity);
}

// Sum over the threads before this one; `sum` of all. THREADS threads; every thread must call it.
__device__ __forceinline__ uint32 exclusive_scan(uint32 value, uint32& sum, uint32* warp_sums) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32 inclusive = value;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const uint32 other = __shfl_up_sync(0xffffffffu, inclusive, step);
        if (lane >= step) inclusive += other;
    }
    __syncthreads();
    if (lane == 31) warp_sums[warp] = inclusive;
    __syncthreads();
    uint32 before = 0;
    sum = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        if (w < warp) before += warp_sums[w];
        sum += warp_sums[w];
    }
    return before + inclusive - value;
}

// How often each digit occurs, for all passes at once: counts (passes, 256), zero before.
extern "C" __global__ void __launch_bounds__(THREADS) count_digits(
    const uint32* __restrict__ keys, const uint64* __restrict__ total, int64 capacity, int64 passes,
    uint32* __restrict__ counts) {
    __shared__ uint32 bins[4 * BINS];
    for (int b = threadIdx.x; b < 4 * BINS; b += THREADS) bins[b] = 0;
    __syncthreads();
    const uint32 n = item_count(total, capacity);
    for (int64 i = (int64)blockIdx.x * THREADS + threadIdx.x; i < n; i += (int64)gridDim.x * THREADS) {
        const uint32 key = keys[i];
        for (int pass = 0; pass < passes; ++pass) atomicAdd(&bins[pass * BINS + ((key >> (8 * pass)) & 255)], 1u);
    }
    __syncthreads();
    for (int b = threadIdx.x; b < passes * BINS; b += THREADS)
        if (bins[b]) atomicAdd(&counts[b], bins[b]);
}

// One pass: items in the stable order of eight bits of their keys from `shift` on. `values_in` null: the items' own
// positions. `status` (blocks, 256) and `ticket` are zero before.
extern "C" __global__ void __launch_bounds__(THREADS) sort_by_digit(
    const uint32* __restrict__ keys_in, const uint32* __restrict__ values_in, uint32* __restrict__ keys_out,
    uint32* __restrict__ values_out, const uint64* __restrict__ total, int64 capacity, int64 shift,
    const uint32* __restrict__ counts, uint32* status, uint32* ticket) {
    __shared__ uint32 warp_bins[WARPS][BINS];
    __shared__ uint32 first[BINS];        // of a digit within the block
    __shared__ uint32 destination[BINS];  // of a digit's items, minus `first`
    __shared__ uint32 sorted_keys[BLOCK_ITEMS], sorted_values[BLOCK_ITEMS];
    __shared__ uint32 warp_sums[WARPS];
    __shared__ uint32 block_id;
    const uint32 n = item_count(total, capacity);
    // Blocks are numbered as they start, so that those before a block are running or done.
    if (threadIdx.x == 0) block_id = atomicAdd(ticket, 1u);
    for (int b = threadIdx.x; b < WARPS * BINS; b += THREADS) (&warp_bins[0][0])[b] = 0;
    __syncthreads();
    const uint32 block = block_id;
    const int64 start = (int64)block * BLOCK_ITEMS;
    if (start >= n) return;
    const int held = (int)min((int64)BLOCK_ITEMS, (int64)n - start);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    uint32 key[ITEMS], value[ITEMS], rank[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const int at = warp * (32 * ITEMS) + i * 32 + lane;
        key[i] = at < held ? keys_in[start + at] : 0xffffffffu;
        value[i] = at < held ? (values_in ? values_in[start + at] : (uint32)(start + at)) : 0;
    }
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const int at = warp * (32 * ITEMS) + i * 32 + lane;
        const uint32 digit = (key[i] >> shift) & 255;
        uint32 peers = __ballot_sync(0xffffffffu, at < held);
#pragma unroll
        for (int bit = 0; bit < 8; ++bit) {
            const bool set = (digit >> bit) & 1;
            const uint32 with = __ballot_sync(0xffffffffu, set);
            peers &= set ? with : ~with;
        }
        const uint32 before = warp_bins[warp][digit];
        rank[i] = before + __popc(peers & ((1u << lane) - 1));
        __syncwarp();
        if (at < held && lane == __ffs(peers) - 1) warp_bins[warp][digit] = before + __popc(peers);
        __syncwarp();
    }
    __syncthreads();

    // Thread b looks after digit b.
    const int b = threadIdx.x;
    uint32 here = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        const uint32 count = warp_bins[w][b];
        warp_bins[w][b] = here;
        here += count;
    }
    store_relaxed(&status[(int64)block * BINS + b], (block == 0 ? INCLUSIVE : AGGREGATE) | here);
    uint32 sum;
    const uint32 block_first = exclusive_scan(here, sum, warp_sums);
    const uint32 digit_first = exclusive_scan(counts[b], sum, warp_sums);
    uint32 before = 0;
    if (block > 0) {
        for (int64 other = (int64)block - 1;; --other) {
            uint32 word;
            do word = load_relaxed(&status[other * BINS + b]);
            while (word == 0);
            before += word & COUNT_MASK;
            if (word & INCLUSIVE) break;
        }
        store_relaxed(&status[(int64)block * BINS + b], INCLUSIVE | (before + here));
    }
    first[b] = block_first;
    destination[b] = digit_first + before - block_first;
    __syncthreads();

    // Into order within the block, so that neighbours are written by neighbours.
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const int at = warp * (32 * ITEMS) + i * 32 + lane;
        if (at < held) {
            const uint32 digit = (key[i] >> shift) & 255;
            const uint32 place = first[digit] + warp_bins[warp][digit] + rank[i];
            sorted_keys[place] = key[i];
            sorted_values[place] = value[i];
        }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < held; at += THREADS) {
        const uint32 k = sorted_keys[at];
        const uint32 to = destination[(k >> shift) & 255] + at;
        keys_out[to] = k;
        values_out[to] = sorted_values[at];
    }
}

// Gaussians in the order of their depth → a (tile, Gaussian) pair for each tile that each is drawn in, in that order.
// What does not fit into `capacity` is left out: the host sees `total` and calls again with room. `status` (blocks) and
// `ticket` are zero before.
extern "C" __global__ void __launch_bounds__(THREADS) list_tiles(
    const uint32* __restrict__ order, const uint32* __restrict__ tile_counts, const Splat* __restrict__ splats,
    const float2* __restrict__ extents, const int* __restrict__ radii, int64 N, int64 width, int64 height,
    int64 capacity, uint32* __restrict__ tiles, uint32* __restrict__ gaussians, uint32* status, uint32* ticket) {
    __shared__ uint32 warp_sums[WARPS];
    __shared__ uint32 block_id, block_before;
    if (threadIdx.x == 0) block_id = atomicAdd(ticket, 1u);
    __syncthreads();
    const uint32 block = block_id;
    const int64 at = (int64)block * THREADS + threadIdx.x;
    const uint32 i = at < N ? order[at] : 0;
    const uint32 count = at < N ? tile_counts[i] : 0;
    uint32 sum;
    const uint32 inside = exclusive_scan(count, sum, warp_sums);
    if (threadIdx.x < 32) {  // the first warp looks back, 32 blocks at a time
        uint32 before = 0;
        if (threadIdx.x == 0) store_relaxed(&status[block], (block == 0 ? INCLUSIVE : AGGREGATE) | sum);
        int64 nearest = (int64)block - 1;
        bool searching = block > 0;
        while (searching) {
            const int64 other = nearest - (int)threadIdx.x;
            uint32 word = INCLUSIVE;
            if (other >= 0)
                do word = load_relaxed(&status[other]);
                while (word == 0);
            const uint32 complete = __ballot_sync(0xffffffffu, (word & INCLUSIVE) != 0);
            const int last = complete ? __ffs(complete) - 1 : 31;
            uint32 part = (int)threadIdx.x <= last ? word & COUNT_MASK : 0;
            for (int step = 16; step > 0; step /= 2) part += __shfl_xor_sync(0xffffffffu, part, step);
            before += part;
            searching = complete == 0;
            nearest -= 32;
        }
        if (threadIdx.x == 0) {
            if (block > 0) store_relaxed(&status[block], INCLUSIVE | ((before + sum) & COUNT_MASK));
            block_before = before;
        }
    }
    __syncthreads();
    if (count == 0) return;
    int64 out = (int64)block_before + inside;
    const int64 end = min(out + count, capacity);
    const Splat s = splats[i];
    const float2 extent = extents[i];
    const int tiles_x = (int)((width + TILE - 1) / TILE), tiles_y = (int)((height + TILE - 1) / TILE);
    const Rectangle r = tile_rectangle(s.x, s.y, (float)radii[i], tiles_x, tiles_y);
    for (int ty = r.y0; ty < r.y1 && out < end; ++ty) {
        int x0, x1;
        row_span(s, extent.x, extent.y, r, ty, x0, x1);
        for (int tx = x0; tx < x1 && out < end; ++tx, ++out) {
            tiles[out] = (uint32)(ty * tiles_x + tx);
            gaussians[out] = i;
        }
    }
    // Were this kernel's rounding to differ from `project`'s, a pair that was counted and is not there goes to a tile
    // past the last one, which nobody draws.
    for (; out < end; ++out) {
        tiles[out] = (uint32)(tiles_x * tiles_y);
        gaussians[out] = i;
    }
}

// Sorted tiles → where each begins, and where the last ends: starts (tiles + 1), all of them written. One thread a pair
// and one more.
extern "C" __global__ void __launch_bounds__(THREADS) tile_starts(
    const uint32* __restrict__ tiles, const uint64* __restrict__ total, int64 capacity, int64 tile_count,
    uint32* __restrict__ starts) {
    const uint32 n = item_count(total, capacity);
    const int64 i = (int64)blockIdx.x * THREADS + threadIdx.x;
    if (i > n) return;
    const int64 first = i == 0 ? 0 : min((int64)tiles[i - 1], tile_count) + 1;
    const int64 last = i == n ? tile_count : min((int64)tiles[i], tile_count);
    for (int64 tile = first; tile <= last; ++tile) starts[tile] = (uint32)i;
}
