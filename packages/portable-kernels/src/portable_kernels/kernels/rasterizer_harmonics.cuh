// Real spherical harmonics to degree 3 and their derivatives by the direction, as in rasterizer/harmonics.py.

#define SH_C0 0.28209479177387814f
#define SH_C1 0.4886025119029199f
#define SH_C20 1.0925484305920792f
#define SH_C21 0.31539156525252005f
#define SH_C22 0.5462742152960396f
#define SH_C30 0.5900435899266435f
#define SH_C31 2.890611442640554f
#define SH_C32 0.4570457994644658f
#define SH_C33 0.3731763325901154f
#define SH_C34 1.445305721320277f

// Values of the basis at a unit direction; those above `degree` are 0.
__device__ __forceinline__ void harmonics(int degree, float x, float y, float z, float* Y) {
#pragma unroll
    for (int k = 1; k < 16; ++k) Y[k] = 0.f;
    Y[0] = SH_C0;
    if (degree < 1) return;
    Y[1] = -SH_C1 * y;
    Y[2] = SH_C1 * z;
    Y[3] = -SH_C1 * x;
    if (degree < 2) return;
    const float xx = x * x, yy = y * y, zz = z * z;
    Y[4] = SH_C20 * x * y;
    Y[5] = -SH_C20 * y * z;
    Y[6] = SH_C21 * (2.f * zz - xx - yy);
    Y[7] = -SH_C20 * x * z;
    Y[8] = SH_C22 * (xx - yy);
    if (degree < 3) return;
    Y[9] = -SH_C30 * y * (3.f * xx - yy);
    Y[10] = SH_C31 * x * y * z;
    Y[11] = -SH_C32 * y * (4.f * zz - xx - yy);
    Y[12] = SH_C33 * z * (2.f * zz - 3.f * xx - 3.f * yy);
    Y[13] = -SH_C32 * x * (4.f * zz - xx - yy);
    Y[14] = SH_C34 * z * (xx - yy);
    Y[15] = -SH_C30 * x * (xx - 3.f * yy);
}

// Gradient by the direction of sum over k of Y_k(direction) d[k].
__device__ __forceinline__ void harmonics_gradient(
    int degree, float x, float y, float z, const float* d, float& gx, float& gy, float& gz) {
    gx = gy = gz = 0.f;
    if (degree < 1) return;
    gx = -SH_C1 * d[3];
    gy = -SH_C1 * d[1];
    gz = SH_C1 * d[2];
    if (degree < 2) return;
    gx += SH_C20 * y * d[4] - 2.f * SH_C21 * x * d[6] - SH_C20 * z * d[7] + 2.f * SH_C22 * x * d[8];
    gy += SH_C20 * x * d[4] - SH_C20 * z * d[5] - 2.f * SH_C21 * y * d[6] - 2.f * SH_C22 * y * d[8];
    gz += -SH_C20 * y * d[5] + 4.f * SH_C21 * z * d[6] - SH_C20 * x * d[7];
    if (degree < 3) return;
    const float xx = x * x, yy = y * y, zz = z * z, xy = x * y, xz = x * z, yz = y * z;
    gx += -6.f * SH_C30 * xy * d[9] + SH_C31 * yz * d[10] + 2.f * SH_C32 * xy * d[11] - 6.f * SH_C33 * xz * d[12] -
          SH_C32 * (4.f * zz - 3.f * xx - yy) * d[13] + 2.f * SH_C34 * xz * d[14] - 3.f * SH_C30 * (xx - yy) * d[15];
    gy += -3.f * SH_C30 * (xx - yy) * d[9] + SH_C31 * xz * d[10] - SH_C32 * (4.f * zz - xx - 3.f * yy) * d[11] -
          6.f * SH_C33 * yz * d[12] + 2.f * SH_C32 * xy * d[13] - 2.f * SH_C34 * yz * d[14] +
          6.f * SH_C30 * xy * d[15];
    gz += SH_C31 * xy * d[10] - 8.f * SH_C32 * yz * d[11] + SH_C33 * (6.f * zz - 3.f * xx - 3.f * yy) * d[12] -
          8.f * SH_C32 * xz * d[13] + SH_C34 * (xx - yy) * d[14];
}

// The coefficients of Gaussian i of `coefficients` triples, the first `used` of them, into buffer[48].
__device__ __forceinline__ void load_harmonics(
    const float* __restrict__ shs, int64 i, int coefficients, int used, bool by_four, float* buffer) {
    const float* row = shs + i * coefficients * 3;
    if (by_four) {
#pragma unroll
        for (int q = 0; q < 12; ++q) {
            float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
            if (4 * q < used * 3) v = __ldg(reinterpret_cast<const float4*>(row) + q);
            buffer[4 * q] = v.x;
            buffer[4 * q + 1] = v.y;
            buffer[4 * q + 2] = v.z;
            buffer[4 * q + 3] = v.w;
        }
    } else {
#pragma unroll
        for (int q = 0; q < 48; ++q) buffer[q] = q < used * 3 ? __ldg(row + q) : 0.f;
    }
}
