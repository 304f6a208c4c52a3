// Splats to pixels, front to back, and the gradients back (Kerbl et al. 2023, equations 2 and 3, section 6).
// A block draws one tile of 16×16 pixels, PIXELS of them a thread: a warp holds rows of 16 pixels, two at a time.
#include "rasterizer.cuh"

#define THREADS (TILE * TILE / PIXELS)
#define BATCH (THREADS < 64 ? 64 : THREADS)
#define ALL_LANES 0xffffffffu

struct Place {  // of a thread's first pixel; the others are two rows further down each
    int x, y;
    bool column_inside;
};

__device__ __forceinline__ Place my_place(int64 width) {
    Place p;
    p.x = blockIdx.x * TILE + threadIdx.x % TILE;
    p.y = blockIdx.y * TILE + (threadIdx.x / 32) * (2 * PIXELS) + (threadIdx.x % 32) / TILE;
    p.column_inside = p.x < width;
    return p;
}

// One batch of the tile's splats into shared memory: `count` from position `first` on.
__device__ __forceinline__ void load_batch(
    const float4* __restrict__ splats, const uint32* __restrict__ gaussians, uint32 first, int count, float4* batch,
    uint32* ids) {
    for (int j = threadIdx.x; j < count; j += THREADS) {
        const uint32 id = gaussians[first + j];
        const float4* s = splats + 3 * (int64)id;
        batch[3 * j] = s[0];
        batch[3 * j + 1] = s[1];
        batch[3 * j + 2] = s[2];
        if (ids) ids[j] = id;
    }
}

// colour (3, H, W), inverse depth (H, W); for the way back, what light passes a pixel and how many splats of the tile
// it has seen up to the last that it was drawn with.
extern "C" __global__ void __launch_bounds__(THREADS) blend(
    const float4* __restrict__ splats, const uint32* __restrict__ gaussians, const uint32* __restrict__ starts,
    const float* __restrict__ background, int64 width, int64 height, float* __restrict__ colour,
    float* __restrict__ inverse_depth, float* __restrict__ passing, int* __restrict__ last_drawn) {
    __shared__ float4 batch[3 * BATCH];
    const Place place = my_place(width);
    const float x = (float)place.x, y = (float)place.y;
    const uint32* range = starts + blockIdx.y * gridDim.x + blockIdx.x;
    const uint32 begin = range[0], end = range[1];
    float T[PIXELS], red[PIXELS], green[PIXELS], blue[PIXELS], depth[PIXELS];
    int last[PIXELS];
    uint32 alive = 0;
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) {
        T[k] = 1.f;
        red[k] = green[k] = blue[k] = depth[k] = 0.f;
        last[k] = 0;
        if (place.column_inside && place.y + 2 * k < height) alive |= 1u << k;
    }
    for (uint32 first = begin; first < end; first += BATCH) {
        if (!__syncthreads_or(alive)) break;
        const int count = (int)min((uint32)BATCH, end - first);
        load_batch(splats, gaussians, first, count, batch, nullptr);
        __syncthreads();
        if (!__any_sync(ALL_LANES, alive)) continue;
        const int seen = (int)(first - begin) + 1;
        for (int j = 0; j < count; ++j) {
            const float4 a = batch[3 * j];      // x, y, xx, xy
            const float4 b = batch[3 * j + 1];  // yy, cut, opacity, inverse depth
            const float dx = a.x - x;
            const float across = __fmul_rn(__fmul_rn(a.z, dx), dx), slope = __fmul_rn(a.w, dx);
            float power[PIXELS];
            uint32 hit = 0;
#pragma unroll
            for (int k = 0; k < PIXELS; ++k) {
                power[k] = falloff(across, slope, b.x, a.y - (y + 2 * k));
                if (power[k] <= 0.f && power[k] >= b.y) hit |= 1u << k;
            }
            hit &= alive;
            if (!__any_sync(ALL_LANES, hit)) continue;
            const float4 c = batch[3 * j + 2];
#pragma unroll
            for (int k = 0; k < PIXELS; ++k) {
                if (!(hit & (1u << k))) continue;
                const float alpha = fminf(MAX_ALPHA, b.z * exp2_fast(power[k]));
                const float next = T[k] * (1.f - alpha);
                if (next < MIN_TRANSMITTANCE) {
                    alive &= ~(1u << k);
                    continue;
                }
                const float weight = alpha * T[k];
                red[k] += weight * c.x;
                green[k] += weight * c.y;
                blue[k] += weight * c.z;
                depth[k] += weight * b.w;
                T[k] = next;
                last[k] = seen + j;
            }
            if (!__any_sync(ALL_LANES, alive)) break;
        }
    }
    if (!place.column_inside) return;
    const int64 plane = width * height;
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) {
        if (place.y + 2 * k >= height) continue;
        const int64 pixel = (place.y + 2 * k) * width + place.x;
        colour[pixel] = red[k] + T[k] * background[0];
        colour[plane + pixel] = green[k] + T[k] * background[1];
        colour[2 * plane + pixel] = blue[k] + T[k] * background[2];
        inverse_depth[pixel] = depth[k];
        passing[pixel] = T[k];
        last_drawn[pixel] = last[k];
    }
}

__device__ __forceinline__ int warp_max(int v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v = max(v, __shfl_xor_sync(ALL_LANES, v, step));
    return v;
}

// Sum over a warp's lanes of ten values each. Lane 4 i receives the sum of value i (0 to 7), lanes 1 and 17 those of 8
// and 9: each step halves what a lane still carries, so that fourteen exchanges do the work of fifty.
__device__ __forceinline__ float warp_sums(float* v) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 4; half > 0; half /= 2) {
        const bool upper = lane & (4 * half);
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const float keep = upper ? v[i + half] : v[i], give = upper ? v[i] : v[i + half];
            v[i] = keep + __shfl_xor_sync(ALL_LANES, give, 4 * half);
        }
    }
    v[0] += __shfl_xor_sync(ALL_LANES, v[0], 2);
    v[0] += __shfl_xor_sync(ALL_LANES, v[0], 1);
    const bool upper = lane & 16;
    float rest = (upper ? v[9] : v[8]) + __shfl_xor_sync(ALL_LANES, upper ? v[8] : v[9], 16);
#pragma unroll
    for (int step = 8; step > 0; step /= 2) rest += __shfl_xor_sync(ALL_LANES, rest, step);
    return lane % 16 == 1 ? rest : v[0];
}

// Gradients of every splat as moments of its pixels. With v = alpha dL/dalpha and d the offset of its centre from a
// pixel, sums over all pixels of: v, v dx, v dy, v dx², v dx dy, v dy², three of the colour, one of the inverse depth,
// and two unused. ORDERED: not added up by atomics but written for each place of the list, (places, 12), to be added
// in order afterwards; one warp draws a tile then (PIXELS 8).
extern "C" __global__ void __launch_bounds__(THREADS) blend_backward(
    const float4* __restrict__ splats, const uint32* __restrict__ gaussians, const uint32* __restrict__ starts,
    const float* __restrict__ background, const float* __restrict__ passing, const int* __restrict__ last_drawn,
    const float* __restrict__ d_colour, const float* __restrict__ d_inverse_depth, int64 width, int64 height,
    float* __restrict__ moments) {
    __shared__ float4 batch[3 * BATCH];
    __shared__ uint32 ids[BATCH];
    __shared__ int deepest;
    const Place place = my_place(width);
    const float x = (float)place.x, y = (float)place.y;
    const uint32* range = starts + blockIdx.y * gridDim.x + blockIdx.x;
    const uint32 begin = range[0], end = range[1];
    const int64 plane = width * height;
    const int lane = threadIdx.x % 32;
    float T[PIXELS], red[PIXELS], green[PIXELS], blue[PIXELS], depth[PIXELS];
    float behind[PIXELS];  // dL/dcolour · what lies behind, as much of it as is seen
    int last[PIXELS], mine = 0;
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) {
        T[k] = red[k] = green[k] = blue[k] = depth[k] = behind[k] = 0.f;
        last[k] = 0;
        if (!place.column_inside || place.y + 2 * k >= height) continue;
        const int64 pixel = (place.y + 2 * k) * width + place.x;
        T[k] = passing[pixel];
        last[k] = last_drawn[pixel];
        red[k] = d_colour[pixel];
        green[k] = d_colour[plane + pixel];
        blue[k] = d_colour[2 * plane + pixel];
        if (d_inverse_depth) depth[k] = d_inverse_depth[pixel];
        behind[k] = T[k] * (red[k] * background[0] + green[k] * background[1] + blue[k] * background[2]);
        mine = max(mine, last[k]);
    }
    if (threadIdx.x == 0) deepest = 0;
    __syncthreads();
    const int mine_in_warp = warp_max(mine);
    if (lane == 0) atomicMax(&deepest, mine_in_warp);
    __syncthreads();
    const int entries = deepest;  // of the list that any pixel was drawn with
    for (int top = entries; top > 0; top -= BATCH) {
        const int bottom = max(top - BATCH, 0), count = top - bottom;
        __syncthreads();
        load_batch(splats, gaussians, begin + bottom, count, batch, ids);
        __syncthreads();
        for (int j = min(count, mine_in_warp - bottom) - 1; j >= 0; --j) {
            const float4 a = batch[3 * j];
            const float4 b = batch[3 * j + 1];
            const float dx = a.x - x;
            const float across = __fmul_rn(__fmul_rn(a.z, dx), dx), slope = __fmul_rn(a.w, dx);
            float power[PIXELS];
            uint32 hit = 0;
#pragma unroll
            for (int k = 0; k < PIXELS; ++k) {
                power[k] = falloff(across, slope, b.x, a.y - (y + 2 * k));
                if (power[k] <= 0.f && power[k] >= b.y && bottom + j < last[k]) hit |= 1u << k;
            }
            if (!__any_sync(ALL_LANES, hit)) continue;
            const float4 c = batch[3 * j + 2];
            float v[10];
#pragma unroll
            for (int i = 0; i < 10; ++i) v[i] = 0.f;
#pragma unroll
            for (int k = 0; k < PIXELS; ++k) {
                if (!(hit & (1u << k))) continue;
                const float raw = b.z * exp2_fast(power[k]);
                const float alpha = fminf(MAX_ALPHA, raw);
                const float inverse = __fdividef(1.f, 1.f - alpha);
                T[k] *= inverse;
                const float weight = alpha * T[k];
                const float gain = c.x * red[k] + c.y * green[k] + c.z * blue[k] + b.w * depth[k];
                const float d_alpha = T[k] * gain - behind[k] * inverse;
                behind[k] += weight * gain;
                const float m = raw * d_alpha;  // by ln alpha, which the cap lets through
                const float dy = a.y - (y + 2 * k);
                v[0] += m;
                v[2] += m * dy;
                v[5] += m * dy * dy;
                v[6] += weight * red[k];
                v[7] += weight * green[k];
                v[8] += weight * blue[k];
                v[9] += weight * depth[k];
            }
            v[1] = v[0] * dx;
            v[3] = v[1] * dx;
            v[4] = v[2] * dx;
            const float sum = warp_sums(v);
            const int slot = lane % 16 == 1 ? 8 + lane / 16 : lane / 4;
            if (lane % 4 == 0 || lane % 16 == 1) {
#if ORDERED
                moments[12 * (int64)(begin + bottom + j) + slot] = sum;
#else
                atomicAdd(&moments[12 * (int64)ids[j] + slot], sum);
#endif
            }
        }
    }
}

// Moments by place (places, 12) → by Gaussian, each added up in the order of its places. `order` holds the places
// sorted by Gaussian, `starts` (N + 1) where each one's begin. One thread a Gaussian and moment.
extern "C" __global__ void sum_in_order(
    const float* __restrict__ by_place, const int64* __restrict__ order, const int64* __restrict__ starts, int64 N,
    float* __restrict__ moments) {
    const int64 t = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= N * 12) return;
    const int64 i = t / 12, slot = t - 12 * i;
    float sum = 0.f;
    for (int64 p = starts[i]; p < starts[i + 1]; ++p) sum += by_place[12 * order[p] + slot];
    moments[t] = sum;
}
