// Trilinear interpolation of a volume (C, D, H, W) at points (P, 3) of (x, y, z) → (P, C). As torchmcubes: the whole
// part of a coordinate is cut off towards zero, the two neighbours are clamped to the volume, the rest is linear.
#include "scalars.cuh"

struct Along {
    int64 lower, upper;
    float share;
};

__device__ __forceinline__ Along along(float position, int64 length) {
    const float whole = truncf(position);
    const float bounded = fminf(fmaxf(whole, -1.f), (float)length);  // NaN becomes -1
    const int64 index = (int64)bounded;
    Along a;
    a.lower = index < 0 ? 0 : index >= length ? length - 1 : index;
    a.upper = index + 1 >= length ? length - 1 : index + 1;
    a.share = position - whole;
    return a;
}

extern "C" __global__ void __launch_bounds__(256) grid_interp(
    const float* __restrict__ volume, const float* __restrict__ points, float* __restrict__ out, int64 total, int64 C,
    int64 D, int64 H, int64 W) {
    const int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int64 none, p, c;
    split(i, 1ll << 31, C, none, p, c);
    const Along x = along(points[3 * p], W), y = along(points[3 * p + 1], H), z = along(points[3 * p + 2], D);
    const float* v = volume + c * D * H * W;
    float sum = 0.f;
#pragma unroll
    for (int corner = 0; corner < 8; ++corner) {
        const bool dx = corner & 1, dy = corner & 2, dz = corner & 4;
        const float weight =
            (dx ? x.share : 1.f - x.share) * (dy ? y.share : 1.f - y.share) * (dz ? z.share : 1.f - z.share);
        const int64 at = ((dz ? z.upper : z.lower) * H + (dy ? y.upper : y.lower)) * W + (dx ? x.upper : x.lower);
        sum += weight * v[at];
    }
    out[i] = sum;
}
