// The gradients of splats back to the Gaussians.
#include "rasterizer_projection.cuh"
#include "rasterizer_harmonics.cuh"

// Gradients of one splat, from the moments that blend_backward adds up (see there).
struct SplatGradient {
    float x, y, xx, xy, yy, opacity, inverse_depth;
    float colour[3];
};

__device__ __forceinline__ SplatGradient read_moments(
    const float* __restrict__ moments, int64 i, const Projection& p, float opacity) {
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

// By the opacity as it was given, and under antialiasing by the covariance through the compensation.
__device__ __forceinline__ float opacity_backward(
    SplatGradient& g, const Projection& p, bool antialiasing, float opacity) {
    if (antialiasing && p.ratio > MIN_COMPENSATION) {
        const float d_ratio = g.opacity * opacity / (2.f * p.compensation) / p.determinant;
        g.xx += d_ratio * (p.sharp_yy - p.ratio * p.yy);
        g.xy += d_ratio * 2.f * (p.ratio * p.xy - p.sharp_xy);
        g.yy += d_ratio * (p.sharp_xx - p.ratio * p.xx);
    }
    return g.opacity * p.compensation;
}

// By the 3-D covariance: xx = jx·C·jx, xy = jx·C·jy, yy = jy·C·jy.
__device__ __forceinline__ void covariance_backward(const SplatGradient& g, const Projection& p, float* d_cov) {
    const float* a = p.jx;
    const float* b = p.jy;
    d_cov[0] = g.xx * a[0] * a[0] + g.xy * a[0] * b[0] + g.yy * b[0] * b[0];
    d_cov[1] = 2.f * g.xx * a[0] * a[1] + g.xy * (a[0] * b[1] + a[1] * b[0]) + 2.f * g.yy * b[0] * b[1];
    d_cov[2] = 2.f * g.xx * a[0] * a[2] + g.xy * (a[0] * b[2] + a[2] * b[0]) + 2.f * g.yy * b[0] * b[2];
    d_cov[3] = g.xx * a[1] * a[1] + g.xy * a[1] * b[1] + g.yy * b[1] * b[1];
    d_cov[4] = 2.f * g.xx * a[1] * a[2] + g.xy * (a[1] * b[2] + a[2] * b[1]) + 2.f * g.yy * b[1] * b[2];
    d_cov[5] = g.xx * a[2] * a[2] + g.xy * a[2] * b[2] + g.yy * b[2] * b[2];
}

// By the mean: through the centre on the screen (gradient by its NDC), and through the place in view space, on which the
// linearisation and the inverse depth depend.
__device__ __forceinline__ void mean_backward(
    const SplatGradient& g, const Projection& p, const View& v, float d_ndc_x, float d_ndc_y, float* d_mean) {
    const float* V = v.view;
    const float* P = v.projection;
    const float nx = p.clip_x * p.inverse_w, ny = p.clip_y * p.inverse_w;
#pragma unroll
    for (int k = 0; k < 3; ++k)
        d_mean[k] = p.inverse_w * (d_ndc_x * (P[4 * k] - nx * P[4 * k + 3]) + d_ndc_y * (P[4 * k + 1] - ny * P[4 * k + 3]));
    float cx[3], cy[3];
    times(p.cov3D, p.jx, cx);
    times(p.cov3D, p.jy, cy);
    float d_slope_x = 0.f, d_slope_y = 0.f, d_log_z = 0.f;  // d_log_z: by ln z at fixed slopes, rows ∝ 1/z
#pragma unroll
    for (int k = 0; k < 3; ++k) {
        const float d_ax = 2.f * g.xx * cx[k] + g.xy * cy[k], d_ay = 2.f * g.yy * cy[k] + g.xy * cx[k];
        d_slope_x -= d_ax * v.focal_x / p.tz * V[4 * k + 2];
        d_slope_y -= d_ay * v.focal_y / p.tz * V[4 * k + 2];
        d_log_z -= d_ax * p.jx[k] + d_ay * p.jy[k];
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
}

// By the coefficients (written to `row`) and by the direction they are seen from (added to d_mean).
__device__ __forceinline__ void harmonics_backward(
    const Projection& p, const float* __restrict__ shs, int64 i, int64 coefficients, int64 degree, bool by_four,
    const float* __restrict__ campos, float* d_colour, float* __restrict__ row, float* d_mean) {
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

__device__ __forceinline__ void write_zeros(float* __restrict__ row, int64 count, bool by_four) {
    if (by_four)
        for (int64 q = 0; q < count / 4; ++q) reinterpret_cast<float4*>(row)[q] = make_float4(0.f, 0.f, 0.f, 0.f);
    else
        for (int64 q = 0; q < count; ++q) row[q] = 0.f;
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
        d_ndc_x = g.x * 0.5f * width;
        d_ndc_y = g.y * 0.5f * height;
        d_opacity = opacity_backward(g, p, v.antialiasing, opacities[i]);
        covariance_backward(g, p, d_cov);
        mean_backward(g, p, v, d_ndc_x, d_ndc_y, d_mean);
        if (shs)
            harmonics_backward(
                p, shs, i, coefficients, degree, by_four, campos, d_colour, d_shs + i * coefficients * 3, d_mean);
    } else if (shs) {
        write_zeros(d_shs + i * coefficients * 3, coefficients * 3, by_four);
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
