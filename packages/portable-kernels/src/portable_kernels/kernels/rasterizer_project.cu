// From Gaussians to splats (EWA splatting, equations 26 to 31) and the way back of their gradients.
#include "rasterizer.cuh"
#include "rasterizer_harmonics.cuh"

// What both directions compute of one Gaussian. `sharp`: projected covariance in pixels² before the low-pass filter.
struct Projection {
    float px, py, pz;           // world
    float tx, ty, tz;           // view space
    float clip_x, clip_y, inverse_w;
    float cov3D[6];
    float slope_x, slope_y;     // x/z and y/z, held within the guard band
    bool held_x, held_y;
    float jx[3], jy[3];         // rows of the linearised projection
    float sharp_xx, sharp_xy, sharp_yy;
    float xx, xy, yy, determinant;
    float compensation, ratio;  // of the opacity, under antialiasing
};

struct View {
    const float* view;
    const float* projection;
    float tan_x, tan_y, focal_x, focal_y;
    bool antialiasing;
};

__device__ __forceinline__ void covariance_3d(const float* scale, const float* q, float modifier, float* cov) {
    const float w = q[0], x = q[1], y = q[2], z = q[3];
    const float R[9] = {1.f - 2.f * (y * y + z * z), 2.f * (x * y - w * z),       2.f * (x * z + w * y),
                        2.f * (x * y + w * z),       1.f - 2.f * (x * x + z * z), 2.f * (y * z - w * x),
                        2.f * (x * z - w * y),       2.f * (y * z + w * x),       1.f - 2.f * (x * x + y * y)};
    float M[9];
#pragma unroll
    for (int k = 0; k < 9; ++k) M[k] = R[k] * (modifier * scale[k % 3]);
    cov[0] = M[0] * M[0] + M[1] * M[1] + M[2] * M[2];
    cov[1] = M[0] * M[3] + M[1] * M[4] + M[2] * M[5];
    cov[2] = M[0] * M[6] + M[1] * M[7] + M[2] * M[8];
    cov[3] = M[3] * M[3] + M[4] * M[4] + M[5] * M[5];
    cov[4] = M[3] * M[6] + M[4] * M[7] + M[5] * M[8];
    cov[5] = M[6] * M[6] + M[7] * M[7] + M[8] * M[8];
}

// symmetric matrix · vector
__device__ __forceinline__ void times(const float* c, const float* v, float* out) {
    out[0] = c[0] * v[0] + c[1] * v[1] + c[2] * v[2];
    out[1] = c[1] * v[0] + c[3] * v[1] + c[4] * v[2];
    out[2] = c[2] * v[0] + c[4] * v[1] + c[5] * v[2];
}

__device__ __forceinline__ float dot3(const float* a, const float* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

__device__ __forceinline__ void transform_centre(Projection& p, const View& v) {
    const float* V = v.view;
    p.tx = p.px * V[0] + p.py * V[4] + p.pz * V[8] + V[12];
    p.ty = p.px * V[1] + p.py * V[5] + p.pz * V[9] + V[13];
    p.tz = p.px * V[2] + p.py * V[6] + p.pz * V[10] + V[14];
}

// Everything that follows from the centre in view space and cov3D.
__device__ __forceinline__ void project_one(Projection& p, const View& v) {
    const float* V = v.view;
    const float* P = v.projection;
    p.clip_x = p.px * P[0] + p.py * P[4] + p.pz * P[8] + P[12];
    p.clip_y = p.px * P[1] + p.py * P[5] + p.pz * P[9] + P[13];
    p.inverse_w = 1.f / (p.px * P[3] + p.py * P[7] + p.pz * P[11] + P[15] + 1e-7f);
    const float limit_x = GUARD_BAND * v.tan_x, limit_y = GUARD_BAND * v.tan_y;
    const float ratio_x = p.tx / p.tz, ratio_y = p.ty / p.tz;
    p.slope_x = fminf(fmaxf(ratio_x, -limit_x), limit_x);
    p.slope_y = fminf(fmaxf(ratio_y, -limit_y), limit_y);
    p.held_x = p.slope_x != ratio_x;
    p.held_y = p.slope_y != ratio_y;
    const float sx = v.focal_x / p.tz, sy = v.focal_y / p.tz;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
        p.jx[i] = sx * (V[4 * i] - p.slope_x * V[4 * i + 2]);
        p.jy[i] = sy * (V[4 * i + 1] - p.slope_y * V[4 * i + 2]);
    }
    float cx[3], cy[3];
    times(p.cov3D, p.jx, cx);
    times(p.cov3D, p.jy, cy);
    p.sharp_xx = dot3(p.jx, cx);
    p.sharp_xy = dot3(p.jx, cy);
    p.sharp_yy = dot3(p.jy, cy);
    p.xx = p.sharp_xx + LOW_PASS;
    p.xy = p.sharp_xy;
    p.yy = p.sharp_yy + LOW_PASS;
    p.determinant = p.xx * p.yy - p.xy * p.xy;
    p.ratio = 1.f;
    p.compensation = 1.f;
    if (v.antialiasing) {
        p.ratio = (p.sharp_xx * p.sharp_yy - p.sharp_xy * p.sharp_xy) / p.determinant;
        p.compensation = sqrtf(fmaxf(p.ratio, MIN_COMPENSATION));
    }
}

__device__ __forceinline__ void load_covariance(
    Projection& p, int64 i, const float* __restrict__ scales, const float* __restrict__ rotations,
    const float* __restrict__ cov3D, float modifier) {
    if (cov3D) {
#pragma unroll
        for (int k = 0; k < 6; ++k) p.cov3D[k] = cov3D[i * 6 + k];
    } else {
        const float scale[3] = {scales[i * 3], scales[i * 3 + 1], scales[i * 3 + 2]};
        const float q[4] = {rotations[i * 4], rotations[i * 4 + 1], rotations[i * 4 + 2], rotations[i * 4 + 3]};
        covariance_3d(scale, q, modifier, p.cov3D);
    }
}

__device__ __forceinline__ View make_view(
    const float* view, const float* projection, int64 width, int64 height, float tan_x, float tan_y, int64 antialiasing) {
    View v;
    v.view = view;
    v.projection = projection;
    v.tan_x = tan_x;
    v.tan_y = tan_y;
    v.focal_x = width / (2.f * tan_x);
    v.focal_y = height / (2.f * tan_y);
    v.antialiasing = antialiasing != 0;
    return v;
}

__device__ __forceinline__ bool finite(float v) { return fabsf(v) <= 3.402823466e+38f; }

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

// Gradients of one splat, from the moments that blend_backward adds up (see there).
struct SplatGradient {
    float x, y, xx, xy, yy, opacity, inverse_depth;
    float colour[3];
};

__device__ __forceinline__ SplatGradient read_moments(const float* __restrict__ moments, int64 i, const Projection& p, float opacity) {
    const float4* row = reinterpret_cast<const float4*>(moments) + 3 * i;
    const float4 a = row[0], b = row[1], c = row[2];
    const float inverse = 1.f / p.determinant;
    const float A = p.yy * inverse, B = -p.xy * inverse, C = p.xx * inverse;
    SplatGradient g;
    g.x = -(A * a.y + B * a.z);
    g.y = -(B * a.y + C * a.z);
    g.opacity = a.x / opacity;
    // By the inverse covariance (its off-diagonal entries counted apart), then by the covariance: -K G K.
    const float GA = -0.5f * a.w, GB = -0.5f * b.x, GC = -0.5f * b.y;
    const float u00 = A * GA + B * GB, u01 = A * GB + B * GC, u10 = B * GA + C * GB, u11 = B * GB + C * GC;
    g.xx = -(u00 * A + u01 * B);
    g.xy = -(u00 * B + u01 * C) - (u10 * A + u11 * B);
    g.yy = -(u10 * B + u11 * C);
    g.colour[0] = b.z;
    g.colour[1] = b.w;
    g.colour[2] = c.x;
    g.inverse_depth = c.y;
    return g;
}

// By scales and rotations from the gradient by R S² Rᵀ (six numbers, off-diagonal ones counted for both places).
__device__ __forceinline__ void covariance_gradient(
    const float* scale, const float* q, float modifier, const float* g, float* d_scale, float* d_q) {
    const float w = q[0], x = q[1], y = q[2], z = q[3];
    const float R[9] = {1.f - 2.f * (y * y + z * z), 2.f * (x * y - w * z),       2.f * (x * z + w * y),
                        2.f * (x * y + w * z),       1.f - 2.f * (x * x + z * z), 2.f * (y * z - w * x),
                        2.f * (x * z - w * y),       2.f * (y * z + w * x),       1.f - 2.f * (x * x + y * y)};
    float dR[9];
#pragma unroll
    for (int k = 0; k < 3; ++k) {  // column k of M = R S: dM = 2 G M with G symmetric
        const float s = modifier * scale[k];
        const float m0 = R[k] * s, m1 = R[3 + k] * s, m2 = R[6 + k] * s;
        const float d0 = 2.f * g[0] * m0 + g[1] * m1 + g[2] * m2;
        const float d1 = g[1] * m0 + 2.f * g[3] * m1 + g[4] * m2;
        const float d2 = g[2] * m0 + g[4] * m1 + 2.f * g[5] * m2;
        d_scale[k] = modifier * (R[k] * d0 + R[3 + k] * d1 + R[6 + k] * d2);
        dR[k] = s * d0;
        dR[3 + k] = s * d1;
        dR[6 + k] = s * d2;
    }
    d_q[0] = 2.f * (z * (dR[3] - dR[1]) + y * (dR[2] - dR[6]) + x * (dR[7] - dR[5]));
    d_q[1] = 2.f * (y * (dR[1] + dR[3]) + z * (dR[2] + dR[6]) + w * (dR[7] - dR[5])) - 4.f * x * (dR[4] + dR[8]);
    d_q[2] = 2.f * (x * (dR[1] + dR[3]) + w * (dR[2] - dR[6]) + z * (dR[5] + dR[7])) - 4.f * y * (dR[0] + dR[8]);
    d_q[3] = 2.f * (w * (dR[3] - dR[1]) + x * (dR[2] + dR[6]) + y * (dR[5] + dR[7])) - 4.f * z * (dR[0] + dR[4]);
}

// One thread a Gaussian: every gradient is written, zeros for a Gaussian that was not drawn.
extern "C" __global__ void __launch_bounds__(128) project_backward(
    const float* __restrict__ means3D, const float* __restrict__ opacities, const float* __restrict__ shs,
    const float* __restrict__ colors, const float* __restrict__ scales, const float* __restrict__ rotations,
    const float* __restrict__ cov3D, const float* __restrict__ view, const float* __restrict__ projection,
    const float* __restrict__ campos, int64 N, int64 coefficients, int64 degree, int64 width, int64 height, float tan_x,
    float tan_y, float modifier, int64 antialiasing, const uint32* __restrict__ tile_counts,
    const float* __restrict__ moments, float* __restrict__ d_means3D, float* __restrict__ d_means2D, int64 columns2D,
    float* __restrict__ d_opacities, float* __restrict__ d_shs, float* __restrict__ d_colors,
    float* __restrict__ d_scales, float* __restrict__ d_rotations, float* __restrict__ d_cov3D) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= N) return;
    float d_mean[3] = {0.f, 0.f, 0.f}, d_cov[6] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    float d_ndc_x = 0.f, d_ndc_y = 0.f, d_opacity = 0.f, d_colour[3] = {0.f, 0.f, 0.f};
    const bool by_four = shs && (coefficients * 3) % 4 == 0 && (((uint64)shs | (uint64)d_shs) & 15) == 0;
    const bool drawn = tile_counts[i] != 0;
    if (drawn) {
        const View v = make_view(view, projection, width, height, tan_x, tan_y, antialiasing);
        const float* V = view;
        const float* P = projection;
        Projection p;
        p.px = means3D[i * 3];
        p.py = means3D[i * 3 + 1];
        p.pz = means3D[i * 3 + 2];
        transform_centre(p, v);
        load_covariance(p, i, scales, rotations, cov3D, modifier);
        project_one(p, v);
        SplatGradient g = read_moments(moments, i, p, opacities[i] * p.compensation);
#pragma unroll
        for (int c = 0; c < 3; ++c) d_colour[c] = g.colour[c];

        // The centre on the screen, by normalised device coordinates.
        d_ndc_x = g.x * 0.5f * width;
        d_ndc_y = g.y * 0.5f * height;
        const float nx = p.clip_x * p.inverse_w, ny = p.clip_y * p.inverse_w;
#pragma unroll
        for (int k = 0; k < 3; ++k)
            d_mean[k] += p.inverse_w * (d_ndc_x * (P[4 * k] - nx * P[4 * k + 3]) + d_ndc_y * (P[4 * k + 1] - ny * P[4 * k + 3]));

        d_opacity = g.opacity * p.compensation;
        float d_xx = g.xx, d_xy = g.xy, d_yy = g.yy;
        if (v.antialiasing && p.ratio > MIN_COMPENSATION) {
            const float d_ratio = g.opacity * opacities[i] / (2.f * p.compensation) / p.determinant;
            d_xx += d_ratio * (p.sharp_yy - p.ratio * p.yy);
            d_xy += d_ratio * 2.f * (p.ratio * p.xy - p.sharp_xy);
            d_yy += d_ratio * (p.sharp_xx - p.ratio * p.xx);
        }

        // The covariance: xx = jx·C·jx, xy = jx·C·jy, yy = jy·C·jy.
        const float* a = p.jx;
        const float* b = p.jy;
        d_cov[0] = d_xx * a[0] * a[0] + d_xy * a[0] * b[0] + d_yy * b[0] * b[0];
        d_cov[1] = 2.f * d_xx * a[0] * a[1] + d_xy * (a[0] * b[1] + a[1] * b[0]) + 2.f * d_yy * b[0] * b[1];
        d_cov[2] = 2.f * d_xx * a[0] * a[2] + d_xy * (a[0] * b[2] + a[2] * b[0]) + 2.f * d_yy * b[0] * b[2];
        d_cov[3] = d_xx * a[1] * a[1] + d_xy * a[1] * b[1] + d_yy * b[1] * b[1];
        d_cov[4] = 2.f * d_xx * a[1] * a[2] + d_xy * (a[1] * b[2] + a[2] * b[1]) + 2.f * d_yy * b[1] * b[2];
        d_cov[5] = d_xx * a[2] * a[2] + d_xy * a[2] * b[2] + d_yy * b[2] * b[2];

        float cx[3], cy[3];
        times(p.cov3D, a, cx);
        times(p.cov3D, b, cy);
        float d_slope_x = 0.f, d_slope_y = 0.f, d_log_z = 0.f;  // d_log_z: by ln z at fixed slopes, rows ∝ 1/z
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            const float d_ax = 2.f * d_xx * cx[k] + d_xy * cy[k], d_ay = 2.f * d_yy * cy[k] + d_xy * cx[k];
            d_slope_x -= d_ax * v.focal_x / p.tz * V[4 * k + 2];
            d_slope_y -= d_ay * v.focal_y / p.tz * V[4 * k + 2];
            d_log_z -= d_ax * a[k] + d_ay * b[k];
        }
        const float inverse_z = 1.f / p.tz;
        float d_tx = 0.f, d_ty = 0.f;
        float d_tz = d_log_z * inverse_z - g.inverse_depth * inverse_z * inverse_z;
        if (!p.held_x) {
            d_tx = d_slope_x * inverse_z;
            d_tz -= d_slope_x * p.slope_x * inverse_z;
        }
        if (!p.held_y) {
            d_ty = d_slope_y * inverse_z;
            d_tz -= d_slope_y * p.slope_y * inverse_z;
        }
#pragma unroll
        for (int k = 0; k < 3; ++k) d_mean[k] += d_tx * V[4 * k] + d_ty * V[4 * k + 1] + d_tz * V[4 * k + 2];

        if (shs) {
            float c[48], Y[16], weight[16];
            const int used = (int)((degree + 1) * (degree + 1));
            load_harmonics(shs, i, (int)coefficients, used, by_four, c);
            float x = p.px - campos[0], y = p.py - campos[1], z = p.pz - campos[2];
            const float length = fmaxf(sqrtf(x * x + y * y + z * z), 1e-12f), scale = 1.f / length;
            x *= scale;
            y *= scale;
            z *= scale;
            harmonics((int)degree, x, y, z, Y);
            float colour[3] = {0.5f, 0.5f, 0.5f};
#pragma unroll
            for (int k = 0; k < 48; ++k) colour[k % 3] += Y[k / 3] * c[k];
#pragma unroll
            for (int channel = 0; channel < 3; ++channel)
                if (colour[channel] < 0.f) d_colour[channel] = 0.f;
#pragma unroll
            for (int k = 0; k < 16; ++k)
                weight[k] = c[3 * k] * d_colour[0] + c[3 * k + 1] * d_colour[1] + c[3 * k + 2] * d_colour[2];
            float gx, gy, gz;
            harmonics_gradient((int)degree, x, y, z, weight, gx, gy, gz);
            const float along = gx * x + gy * y + gz * z;  // a direction's length does not change
            d_mean[0] += (gx - along * x) * scale;
            d_mean[1] += (gy - along * y) * scale;
            d_mean[2] += (gz - along * z) * scale;
            float* row = d_shs + i * coefficients * 3;
            if (by_four) {
#pragma unroll
                for (int q = 0; q < 12; ++q)
                    if (4 * q < coefficients * 3)
                        reinterpret_cast<float4*>(row)[q] = make_float4(
                            Y[(4 * q) / 3] * d_colour[(4 * q) % 3], Y[(4 * q + 1) / 3] * d_colour[(4 * q + 1) % 3],
                            Y[(4 * q + 2) / 3] * d_colour[(4 * q + 2) % 3], Y[(4 * q + 3) / 3] * d_colour[(4 * q + 3) % 3]);
            } else {
#pragma unroll
                for (int q = 0; q < 48; ++q)
                    if (q < coefficients * 3) row[q] = Y[q / 3] * d_colour[q % 3];
            }
            for (int64 q = 48; q < coefficients * 3; ++q) row[q] = 0.f;
        }
    } else if (shs) {
        float* row = d_shs + i * coefficients * 3;
        if (by_four)
            for (int64 q = 0; q < coefficients * 3 / 4; ++q) reinterpret_cast<float4*>(row)[q] = make_float4(0.f, 0.f, 0.f, 0.f);
        else
            for (int64 q = 0; q < coefficients * 3; ++q) row[q] = 0.f;
    }
    d_opacities[i] = d_opacity;
    for (int64 k = 0; k < columns2D; ++k) d_means2D[i * columns2D + k] = k == 0 ? d_ndc_x : k == 1 ? d_ndc_y : 0.f;
#pragma unroll
    for (int k = 0; k < 3; ++k) d_means3D[i * 3 + k] = d_mean[k];
    if (d_colors)
#pragma unroll
        for (int k = 0; k < 3; ++k) d_colors[i * 3 + k] = d_colour[k];
    if (d_cov3D)
#pragma unroll
        for (int k = 0; k < 6; ++k) d_cov3D[i * 6 + k] = d_cov[k];
    if (d_scales) {
        float d_scale[3] = {0.f, 0.f, 0.f}, d_q[4] = {0.f, 0.f, 0.f, 0.f};
        if (drawn) {
            const float scale[3] = {scales[i * 3], scales[i * 3 + 1], scales[i * 3 + 2]};
            const float q[4] = {rotations[i * 4], rotations[i * 4 + 1], rotations[i * 4 + 2], rotations[i * 4 + 3]};
            covariance_gradient(scale, q, modifier, d_cov, d_scale, d_q);
        }
#pragma unroll
        for (int k = 0; k < 3; ++k) d_scales[i * 3 + k] = d_scale[k];
#pragma unroll
        for (int k = 0; k < 4; ++k) d_rotations[i * 4 + k] = d_q[k];
    }
}
