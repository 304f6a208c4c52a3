// Structural similarity of two images (Wang et al. 2004) with a separable Gaussian window of 11×11, and its gradient.
// A block goes down a strip of COLUMNS columns, a thread a column: each new row is filtered across from shared memory,
// the last eleven rows' results stay in registers and are filtered down there.

typedef long long int64;

#define COLUMNS 128
#define WINDOW 11
#define RADIUS 5
#define STRIP (COLUMNS + 2 * RADIUS)
#define ROWS 34  // of output a block makes; ROWS + 10 is a multiple of the window
#define C1 1e-4f
#define C2 9e-4f

// exp(-d²/(2 · 1.5²)), normalised over the window.
__device__ constexpr float WEIGHTS[WINDOW] = {
    0.0010283801f, 0.0075987581f, 0.0360007721f, 0.1093606895f, 0.2130055377f, 0.2660117246f,
    0.2130055377f, 0.1093606895f, 0.0360007721f, 0.0075987581f, 0.0010283801f};

struct Strip {
    int64 plane;  // of this block's first element
    int left, top;
};

__device__ __forceinline__ Strip my_strip(int64 height, int64 width) {
    const int64 across = (width + COLUMNS - 1) / COLUMNS;
    Strip s;
    s.plane = (blockIdx.x / across) * height * width;
    s.left = (int)(blockIdx.x % across) * COLUMNS;
    s.top = blockIdx.y * ROWS;
    return s;
}

__device__ __forceinline__ float block_sum(float v, float* warps) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = 0.f;
#pragma unroll
    for (int w = 0; w < COLUMNS / 32; ++w) sum += warps[w];
    return sum;
}

// Each block's share of the mean similarity over the pixels within `margin` of no border, (blocks,), and where
// `partials` is given, its derivatives by the local means of x, of x² and of x y: (3, planes, H, W).
//
// Everything follows from the sums s = x + y and differences d = x - y: their means and variances, four filtered
// numbers a pixel instead of five.
extern "C" __global__ void __launch_bounds__(COLUMNS, 6) ssim(
    const float* __restrict__ first, const float* __restrict__ second, int64 planes, int64 height, int64 width,
    int64 margin, float inverse_count, float* __restrict__ sums, float* __restrict__ partials) {
    __shared__ float2 row[2][STRIP];
    __shared__ float warps[COLUMNS / 32];
    const Strip strip = my_strip(height, width);
    const int t = threadIdx.x, x = strip.left + t;
    const int64 all = planes * height * width;
    const bool second_column = t < 2 * RADIUS;  // the strip's last columns are loaded by the first threads
    const int x0 = x - RADIUS, x1 = x0 + COLUMNS;
    const bool in0 = x0 >= 0 && x0 < width, in1 = second_column && x1 < width;
    float mean_s[WINDOW], mean_d[WINDOW], mean_ss[WINDOW], mean_dd[WINDOW];
    float sum = 0.f;
    float2 a, b;  // the next row's, on their way while this one is filtered
    const auto fetch = [&](int y) {
        a = b = make_float2(0.f, 0.f);
        if (y < 0 || y >= height) return;
        const int64 at = strip.plane + (int64)y * width;
        if (in0) a = make_float2(first[at + x0], second[at + x0]);
        if (in1) b = make_float2(first[at + x1], second[at + x1]);
    };
    fetch(strip.top - RADIUS);
    for (int base = 0; base < ROWS + 2 * RADIUS; base += WINDOW) {
        if (strip.top + base - 2 * RADIUS >= height) break;
#pragma unroll
        for (int j = 0; j < WINDOW; ++j) {
            const int y = strip.top + base + j - RADIUS;
            float2* line = row[(base + j) & 1];
            line[t] = make_float2(a.x + a.y, a.x - a.y);
            if (second_column) line[t + COLUMNS] = make_float2(b.x + b.y, b.x - b.y);
            fetch(y + 1);
            __syncthreads();  // two lines in turn: one barrier a row is enough
            float s = 0.f, d = 0.f, ss = 0.f, dd = 0.f;
#pragma unroll
            for (int k = 0; k < WINDOW; ++k) {
                const float2 v = line[t + k];
                const float p = WEIGHTS[k] * v.x, q = WEIGHTS[k] * v.y;
                s += p;
                d += q;
                ss += p * v.x;
                dd += q * v.y;
            }
            mean_s[j] = s;
            mean_d[j] = d;
            mean_ss[j] = ss;
            mean_dd[j] = dd;
            const int out = y - RADIUS;
            if (base + j < 2 * RADIUS || out >= height || x >= width) continue;
            s = d = ss = dd = 0.f;
#pragma unroll
            for (int k = 0; k < WINDOW; ++k) {
                const int from = (j + 1 + k) % WINDOW;
                s += WEIGHTS[k] * mean_s[from];
                d += WEIGHTS[k] * mean_d[from];
                ss += WEIGHTS[k] * mean_ss[from];
                dd += WEIGHTS[k] * mean_dd[from];
            }
            const float variance_s = ss - s * s, variance_d = dd - d * d;
            const float A1 = 0.5f * (s * s - d * d) + C1, A2 = 0.5f * (variance_s - variance_d) + C2;
            const float B1 = 0.5f * (s * s + d * d) + C1, B2 = 0.5f * (variance_s + variance_d) + C2;
            const float inverse = 1.f / (B1 * B2), similarity = A1 * A2 * inverse;
            if (out >= margin && out < height - margin && x >= margin && x < width - margin) sum += similarity;
            if (partials) {
                const float m1 = 0.5f * (s + d), m2 = 0.5f * (s - d);
                const float by_variance = -similarity * B1 * inverse;
                const float by_covariance = 2.f * A1 * inverse;
                const float by_mean = 2.f * (m2 * A2 - m1 * similarity * B2) * inverse - 2.f * m1 * by_variance -
                                      m2 * by_covariance;
                const int64 pixel = strip.plane + (int64)out * width + x;
                partials[pixel] = by_mean;
                partials[all + pixel] = by_variance;
                partials[2 * all + pixel] = by_covariance;
            }
        }
    }
    __syncthreads();
    sum = block_sum(sum, warps);
    if (t == 0) sums[(int64)blockIdx.y * gridDim.x + blockIdx.x] = sum * inverse_count;
}

// Gradient by the first image: the derivatives, weighted where they count, filtered back. `grad` (1,) is dL/dmean.
extern "C" __global__ void __launch_bounds__(COLUMNS) ssim_backward(
    const float* __restrict__ first, const float* __restrict__ second, const float* __restrict__ partials,
    const float* __restrict__ grad, int64 planes, int64 height, int64 width, int64 margin, float inverse_count,
    float* __restrict__ d_first) {
    __shared__ float2 row[2][STRIP];
    __shared__ float third[2][STRIP];
    const Strip strip = my_strip(height, width);
    const int t = threadIdx.x, x = strip.left + t;
    const int64 all = planes * height * width;
    const bool second_column = t < 2 * RADIUS;
    const int x0 = x - RADIUS, x1 = x0 + COLUMNS;
    const bool in0 = x0 >= margin && x0 < width - margin, in1 = second_column && x1 >= margin && x1 < width - margin;
    const float scale = grad[0] * inverse_count;
    float by_mean[WINDOW], by_variance[WINDOW], by_covariance[WINDOW];
    float3 a, b;
    const auto fetch = [&](int y) {
        a = b = make_float3(0.f, 0.f, 0.f);
        if (y < margin || y >= height - margin) return;
        const float* at = partials + strip.plane + (int64)y * width;
        if (in0) a = make_float3(at[x0], at[all + x0], at[2 * all + x0]);
        if (in1) b = make_float3(at[x1], at[all + x1], at[2 * all + x1]);
    };
    fetch(strip.top - RADIUS);
    for (int base = 0; base < ROWS + 2 * RADIUS; base += WINDOW) {
        if (strip.top + base - 2 * RADIUS >= height) break;
#pragma unroll
        for (int j = 0; j < WINDOW; ++j) {
            const int y = strip.top + base + j - RADIUS, out = y - RADIUS;
            const int buffer = (base + j) & 1;
            row[buffer][t] = make_float2(a.x, a.y);
            third[buffer][t] = a.z;
            if (second_column) {
                row[buffer][t + COLUMNS] = make_float2(b.x, b.y);
                third[buffer][t + COLUMNS] = b.z;
            }
            fetch(y + 1);
            const bool wanted = base + j >= 2 * RADIUS && out < height && x < width;
            const int64 pixel = strip.plane + (int64)out * width + x;
            const float here = wanted ? first[pixel] : 0.f, there = wanted ? second[pixel] : 0.f;
            __syncthreads();
            float p = 0.f, q = 0.f, r = 0.f;
#pragma unroll
            for (int k = 0; k < WINDOW; ++k) {
                const float2 v = row[buffer][t + k];
                p += WEIGHTS[k] * v.x;
                q += WEIGHTS[k] * v.y;
                r += WEIGHTS[k] * third[buffer][t + k];
            }
            by_mean[j] = p;
            by_variance[j] = q;
            by_covariance[j] = r;
            if (!wanted) continue;
            p = q = r = 0.f;
#pragma unroll
            for (int k = 0; k < WINDOW; ++k) {
                const int from = (j + 1 + k) % WINDOW;
                p += WEIGHTS[k] * by_mean[from];
                q += WEIGHTS[k] * by_variance[from];
                r += WEIGHTS[k] * by_covariance[from];
            }
            d_first[pixel] = scale * (p + 2.f * here * q + there * r);
        }
    }
}
