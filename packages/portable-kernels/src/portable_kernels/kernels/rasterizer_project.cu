// From Gaussians to splats.
#include "rasterizer_projection.cuh"
#include "rasterizer_harmonics.cuh"

__device__ __forceinline__ bool finite(float v) { return fabsf(v) <= 3.402823466e+38f; }

// The colour of Gaussian i as it is seen from `campos`, never below 0.
__device__ __forceinline__ void colour_from_harmonics(
    Splat& s, const Projection& p, const float* __restrict__ shs, int64 i, int64 coefficients, int64 degree,
    const float* __restrict__ campos) {
    float c[48], Y[16];
    const int used = (int)((degree + 1) * (degree + 1));
    const bool by_four = (coefficients * 3) % 4 == 0 && ((uint64)shs & 15) == 0;
    load_harmonics(shs, i, (int)coefficients, used, by_four, c);
    const float x = p.px - campos[0], y = p.py - campos[1], z = p.pz - campos[2];
    const float scale = 1.f / fmaxf(sqrtf(x * x + y * y + z * z), 1e-12f);
    harmonics((int)degree, x * scale, y * scale, z * scale, Y);
    s.red = s.green = s.blue = 0.5f;
#pragma unroll
    for (int k = 0; k < 16; ++k) {
        s.red += Y[k] * c[3 * k];
        s.green += Y[k] * c[3 * k + 1];
        s.blue += Y[k] * c[3 * k + 2];
    }
    s.red = s.red < 0.f ? 0.f : s.red;
    s.green = s.green < 0.f ? 0.f : s.green;
    s.blue = s.blue < 0.f ? 0.f : s.blue;
}

// One thread a Gaussian. Writes its splat, radius (0: not drawn), sorting key and how many tiles it is drawn in; adds
// the latter up in `total`.
extern "C" __global__ void __launch_bounds__(256) project(
    const float* __restrict__ means3D, const float* __restrict__ opacities, const float* __restrict__ shs,
    const float* __restrict__ colors, const float* __restrict__ scales, const float* __restrict__ rotations,
    const float* __restrict__ cov3D, const float* __restrict__ view, const float* __restrict__ projection,
    const float* __restrict__ campos, int64 N, int64 coefficients, int64 degree, int64 width, int64 height, float tan_x,
    float tan_y, float modifier, int64 antialiasing, Splat* __restrict__ splats, float2* __restrict__ extents,
    int* __restrict__ radii, uint32* __restrict__ keys, uint32* __restrict__ tile_counts, uint64* total) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    uint32 count = 0;
    if (i < N) {
        const View v = make_view(view, projection, width, height, tan_x, tan_y, antialiasing);
        const int tiles_x = (int)((width + TILE - 1) / TILE), tiles_y = (int)((height + TILE - 1) / TILE);
        Projection p;
        p.px = means3D[i * 3];
        p.py = means3D[i * 3 + 1];
        p.pz = means3D[i * 3 + 2];
        transform_centre(p, v);
        int radius = 0;
        uint32 key = NO_DEPTH;
        if (p.tz > NEAR && finite(p.tz)) {
            load_covariance(p, i, scales, rotations, cov3D, modifier);
            project_one(p, v);
            Splat s;
            s.opacity = opacities[i] * p.compensation;
            s.x = ((p.clip_x * p.inverse_w + 1.f) * width - 1.f) * 0.5f;
            s.y = ((p.clip_y * p.inverse_w + 1.f) * height - 1.f) * 0.5f;
            const float middle = 0.5f * (p.xx + p.yy);
            const float spread = sqrtf(fmaxf(middle * middle - p.determinant, 0.1f));
            const float reach = ceilf(3.f * sqrtf(middle + spread));
            const float inverse = 1.f / p.determinant;
            const bool drawn = p.determinant > 0.f && finite(inverse) && finite(reach) && finite(s.x) && finite(s.y) &&
                               finite(s.opacity) && finite(p.xy * inverse);
            const Rectangle r = tile_rectangle(s.x, s.y, reach, tiles_x, tiles_y);
            if (drawn && r.x1 > r.x0 && r.y1 > r.y0) {
                radius = (int)fminf(reach, 1e9f);
                s.xx = -0.5f * LOG2_E * p.yy * inverse;
                s.xy = LOG2_E * p.xy * inverse;
                s.yy = -0.5f * LOG2_E * p.xx * inverse;
                s.cut = s.opacity > 0.f ? -LOG2_255 - log2f(s.opacity) : 1.f;
                s.inverse_depth = 1.f / p.tz;
                s.unused = 0.f;
                if (s.cut <= 0.f) {
                    const float around = reach_of(s.cut);
                    const float2 extent = make_float2(sqrtf(around * p.xx), sqrtf(around * p.yy));
                    for (int ty = r.y0; ty < r.y1; ++ty) {
                        int x0, x1;
                        row_span(s, extent.x, extent.y, r, ty, x0, x1);
                        count += x1 - x0;
                    }
                    extents[i] = extent;
                }
                if (count) {
                    key = __float_as_uint(p.tz);
                    if (colors) {
                        s.red = colors[i * 3];
                        s.green = colors[i * 3 + 1];
                        s.blue = colors[i * 3 + 2];
                    } else {
                        colour_from_harmonics(s, p, shs, i, coefficients, degree, campos);
                    }
                    splats[i] = s;
                }
            }
        }
        radii[i] = radius;
        keys[i] = key;
        tile_counts[i] = count;
    }
    __shared__ uint64 sum;
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    for (int step = 16; step > 0; step /= 2) count += __shfl_xor_sync(0xffffffffu, count, step);
    if (threadIdx.x % 32 == 0 && count) atomicAdd(&sum, (uint64)count);
    __syncthreads();
    if (threadIdx.x == 0 && sum) atomicAdd(total, sum);
}

// Which centres lie in front of the near plane.
extern "C" __global__ void mark_visible(
    const float* __restrict__ means3D, const float* __restrict__ view, int64 N, bool* __restrict__ visible) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= N) return;
    const float z = means3D[i * 3] * view[2] + means3D[i * 3 + 1] * view[6] + means3D[i * 3 + 2] * view[10] + view[14];
    visible[i] = z > NEAR;
}
