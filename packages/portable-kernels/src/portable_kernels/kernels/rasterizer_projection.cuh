// From a Gaussian to its projection (EWA splatting, equations 26 to 31): what both directions need.
#include "rasterizer.cuh"

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
