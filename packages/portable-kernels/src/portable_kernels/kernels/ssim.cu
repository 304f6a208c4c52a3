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
extern "C" __global__ void __launch_bounds__(COLUMNS) ssim(
    const float* __restrict__ first, const float* __restrict__ second, int64 planes, int64 height, int64 width,
    int64 margin, float inverse_count, float* __restrict__ sums, float* __restrict__ partials) {
    __shared__ float2 row[2][STRIP];
    __shared__ float warps[COLUMNS / 32];
    const Strip s = my_strip(height, width);
    const int t = threadIdx.x, x = s.left + t;
    const int64 all = planes * height * width;
    const bool second_column = t < 2 * RADIUS;  // the strip's last columns are loaded by the first threads
    const int x0 = x - RADIUS, x1 = x0 + COLUMNS;
    const bool in0 = x0 >= 0 && x0 < width, in1 = second_column && x1 < width;
    float mean_x[WINDOW], mean_y[WINDOW], mean_xx[WINDOW], mean_yy[WINDOW], mean_xy[WINDOW];
    float sum = 0.f;
    for (int base = 0; base < ROWS + 2 * RADIUS; base += WINDOW) {
        if (s.top + base - 2 * RADIUS >= height) break;
#pragma unroll
        for (int j = 0; j < WINDOW; ++j) {
            const int y = s.top + base + j - RADIUS;
            float2* line = row[(base + j) & 1];
            const bool inside = y >= 0 && y < height;
            const int64 at = s.plane + (int64)y * width;
            float2 a = make_float2(0.f, 0.f), b = a;
            if (inside && in0) a = make_float2(first[at + x0], second[at + x0]);
            if (inside && in1) b = make_float2(first[at + x1], second[at + x1]);
            line[t] = a;
            if (second_column) line[t + COLUMNS] = b;
            __syncthreads();  // two lines in turn: one barrier a row is enough
            float m1 = 0.f, m2 = 0.f, m11 = 0.f, m22 = 0.f, m12 = 0.f;
#pragma unroll
            for (int k = 0; k < WINDOW; ++k) {
                const float2 v = line[t + k];
                const float p = WEIGHTS[k] * v.x, q = WEIGHTS[k] * v.y;
                m1 += p;
                m2 += q;
                m11 += p * v.x;
                m22 += q * v.y;
                m12 += p * v.y;
            }
            mean_x[j] = m1;
            mean_y[j] = m2;
            mean_xx[j] = m11;
            mean_yy[j] = m22;
            mean_xy[j] = m12;
            const int out = y - RADIUS;
            if (base + j < 2 * RADIUS || out >= height || x >= width) continue;
            m1 = m2 = m11 = m22 = m12 = 0.f;
#pragma unroll
            for (int k = 0; k < WINDOW; ++k) {
                const int from = (j + 1 + k) % WINDOW;
                m1 += WEIGHTS[k] * mean_x[from];
                m2 += WEIGHTS[k] * mean_y[from];
                m11 += WEIGHTS[k] * mean_xx[from];
                m22 += WEIGHTS[k] * mean_yy[from];
                m12 += WEIGHTS[k] * mean_xy[from];
            }
            const float A1 = 2.f * m1 * m2 + C1, A2 = 2.f * (m12 - m1 * m2) + C2;
            const float B1 = m1 * m1 + m2 * m2 + C1, B2 = (m11 - m1 * m1) + (m22 - m2 * m2) + C2;
            const float inverse = 1.f / (B1 * B2), similarity = A1 * A2 * inverse;
            if (out >= margin && out < height - margin && x >= margin && x < width - margin) sum += similarity;
            if (partials) {
                const float by_variance = -similarity * B1 * inverse;
                const float by_covariance = 2.f * A1 * inverse;
                const float by_mean = 2.f * (m2 * A2 - m1 * similarity * B2) * inverse - 2.f * m1 * by_variance - m2 * by_covariance;
                const int64 pixel = s.plane + (int64)out * width + x;
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
    const Strip s = my_strip(height, width);
    const int t = threadIdx.x, x = s.left + t;
    const int64 all = planes * height * width;
    const bool second_column = t < 2 * RADIUS;
    const int x0 = x - RADIUS, x1 = x0 + COLUMNS;
    const bool in0 = x0 >= margin && x0 < width - margin, in1 = second_column && x1 >= margin && x1 < width - margin;
    const float scale = grad[0] * inverse_count;
    float by_mean[WINDOW], by_variance[WINDOW], by_covariance[WINDOW];
    for (int base = 0; base < ROWS + 2 * RADIUS; base += WINDOW) {
        if (s.top + base - 2 * RADIUS >= height) break;
#pragma unroll
        for (int j = 0; j < WINDOW; ++j) {
            const int y = s.top + base + j - RADIUS;
            const int buffer = (base + j) & 1;
            const bool inside = y >= margin && y < height - margin;
            const float* at = partials + s.plane + (int64)y * width;
            float2 a = make_float2(0.f, 0.f), b = a;
            float c = 0.f, d = 0.f;
            if (inside && in0) {
                a = make_float2(at[x0], at[all + x0]);
                c = at[2 * all + x0];
            }
            if (inside && in1) {
                b = make_float2(at[x1], at[all + x1]);
                d = at[2 * all + x1];
            }
            row[buffer][t] = a;
            third[buffer][t] = c;
            if (second_column) {
                row[buffer][t + COLUMNS] = b;
                third[buffer][t + COLUMNS] = d;
            }
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
            const int out = y - RADIUS;
            if (base + j < 2 * RADIUS || out >= height || x >= width) continue;
            p = q = r = 0.f;
#pragma unroll
            for (int k = 0; k < WINDOW; ++k) {
                const int from = (j + 1 + k) % WINDOW;
                p += WEIGHTS[k] * by_mean[from];
                q += WEIGHTS[k] * by_variance[from];
                r += WEIGHTS[k] * by_covariance[from];
            }
            const int64 pixel = s.plane + (int64)out * width + x;
            d_first[pixel] = scale * (p + 2.f * first[pixel] * q + second[pixel] * r);
        }
    }
}
