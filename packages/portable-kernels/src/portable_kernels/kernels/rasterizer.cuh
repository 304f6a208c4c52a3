// What the rasteriser's kernels share: the constants of rasterizer/camera.py and the splat.

typedef long long int64;
typedef unsigned int uint32;
typedef unsigned long long uint64;

#define TILE 16
#define NEAR 0.2f
#define LOW_PASS 0.3f
#define GUARD_BAND 1.3f
#define MAX_ALPHA 0.99f
#define MIN_TRANSMITTANCE 1e-4f
#define MIN_COMPENSATION 0.000025f
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f
#define LOG2_255 7.994353436858858f
#define NO_DEPTH 0xffffffffu  // the sorting key of a Gaussian that is not drawn: behind all others

// A Gaussian on the image plane, 48 bytes. exponent(d) = xx dx² + xy dx dy + yy dy² is the logarithm of its falloff to
// the base 2 (never positive); where it is below `cut`, alpha is below 1/255 and nothing is drawn.
struct __align__(16) Splat {
    float x, y;      // centre, pixels
    float xx, xy;    // -log2(e)/2 and -log2(e) times the inverse covariance
    float yy, cut;
    float opacity, inverse_depth;
    float red, green, blue, unused;
};

// The tiles that the square around a splat touches: first, and past the last.
struct Rectangle { int x0, y0, x1, y1; };

__device__ __forceinline__ int tile_at(float pixel, int tiles) {
    return (int)fminf(fmaxf(floorf(pixel * (1.f / TILE)), 0.f), (float)tiles);
}

__device__ __forceinline__ Rectangle tile_rectangle(float x, float y, float radius, int tiles_x, int tiles_y) {
    Rectangle r;
    r.x0 = tile_at(x - radius, tiles_x);
    r.y0 = tile_at(y - radius, tiles_y);
    r.x1 = tile_at(x + radius + (TILE - 1), tiles_x);
    r.y1 = tile_at(y + radius + (TILE - 1), tiles_y);
    return r;
}

// Half the extents of the ellipse in which a splat is drawn, a little enlarged against rounding: squared Mahalanobis
// radius `reach`, and `extent_x`, `extent_y` in pixels.
__device__ __forceinline__ float reach_of(float cut) { return fmaf(-2.f * LN_2, cut, 0.02f); }

// The tiles of row `ty` that hold a pixel inside the ellipse: columns [x0, x1) within the rectangle, perhaps none.
// At height dy above the centre the ellipse spans -xy/xx dy ± sqrt(reach/xx) sqrt(1 - (dy/extent_y)²); over the rows of
// pixels of one row of tiles each end is furthest out at its own dy, clamped to them.
__device__ __forceinline__ void row_span(
    const Splat& s, float extent_x, float extent_y, const Rectangle& r, int ty, int& x0, int& x1) {
    x0 = x1 = 0;
    const float low = fmaxf(ty * TILE - s.y, -extent_y), high = fminf(ty * TILE + (TILE - 1) - s.y, extent_y);
    if (!(low <= high)) return;
    const float slope_x = -0.5f * s.xy / s.xx;  // of the ends' midpoint along dy
    const float tip = -0.5f * s.xy / s.yy * extent_x;  // dy of the rightmost point
    const float half = sqrtf(reach_of(s.cut) / (-2.f * LN_2 * s.xx));
    const float right_dy = fminf(fmaxf(tip, low), high), left_dy = fminf(fmaxf(-tip, low), high);
    const float u = right_dy / extent_y, v = left_dy / extent_y;
    const float right = fmaf(slope_x, right_dy, half * sqrtf(fmaxf(1.f - u * u, 0.f)));
    const float left = fmaf(slope_x, left_dy, -half * sqrtf(fmaxf(1.f - v * v, 0.f)));
    const float first = ceilf(s.x + left - 0.01f), last = floorf(s.x + right + 0.01f);
    if (!(first <= last)) return;
    const float columns = (float)r.x1;
    x0 = max(r.x0, (int)fminf(fmaxf(floorf(first * (1.f / TILE)), 0.f), columns));
    x1 = min(r.x1, (int)fminf(fmaxf(floorf(last * (1.f / TILE)) + 1.f, 0.f), columns));
    if (x1 < x0) x1 = x0;
}

// ln of the falloff at an offset, to the base 2; the same bits wherever it is called.
__device__ __forceinline__ float falloff(float across, float slope, float yy, float dy) {
    return __fmaf_rn(dy, __fmaf_rn(yy, dy, slope), across);
}

__device__ __forceinline__ float exp2_fast(float v) {
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(v));
    return e;
}
