// The element types of torch, without any header: NVRTC's wheel brings none.
// SCALAR is the element type of a translation unit; accumulator<SCALAR> is what sums are kept in.

typedef long long int64;
typedef unsigned long long uint64;
typedef unsigned int uint32;

struct half_t { unsigned short bits; };
struct bfloat_t { unsigned short bits; };

template <typename T> struct accumulator { typedef T type; };
template <> struct accumulator<half_t> { typedef float type; };
template <> struct accumulator<bfloat_t> { typedef float type; };

template <typename T> __device__ __forceinline__ T load(T v) { return v; }
__device__ __forceinline__ float load(half_t v) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
    return f;
}
__device__ __forceinline__ float load(bfloat_t v) { return __uint_as_float((uint32)v.bits << 16); }

template <typename T> struct Store {
    static __device__ __forceinline__ T from(typename accumulator<T>::type v) { return (T)v; }
};
template <> struct Store<half_t> {
    static __device__ __forceinline__ half_t from(float v) {
        half_t h;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(v));
        return h;
    }
};
template <> struct Store<bfloat_t> {
    static __device__ __forceinline__ bfloat_t from(float v) {
        uint32 u = __float_as_uint(v);
        bfloat_t b;
        if ((u & 0x7fffffffu) > 0x7f800000u) b.bits = (unsigned short)((u >> 16) | 0x40);  // NaN stays NaN
        else b.bits = (unsigned short)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);            // to nearest, ties to even
        return b;
    }
};

// 16 bytes moved at once.
struct __align__(16) word16_t { uint64 low, high; };

// The smallest and largest finite value, in the type that sums are kept in: what a maximum or minimum starts from.
template <typename T> struct Lowest {
    static __device__ __forceinline__ T value() { return (T)(((T)-1 < (T)0) ? ((T)1 << (sizeof(T) * 8 - 1)) : 0); }
    static __device__ __forceinline__ T highest() { return (T)~value(); }
};
template <> struct Lowest<float> {
    static __device__ __forceinline__ float value() { return -3.402823466e+38f; }
    static __device__ __forceinline__ float highest() { return 3.402823466e+38f; }
};
template <> struct Lowest<double> {
    static __device__ __forceinline__ double value() { return -1.7976931348623157e+308; }
    static __device__ __forceinline__ double highest() { return 1.7976931348623157e+308; }
};

template <> struct Lowest<half_t> {
    static __device__ __forceinline__ float value() { return -65504.f; }
    static __device__ __forceinline__ float highest() { return 65504.f; }
};
template <> struct Lowest<bfloat_t> {
    static __device__ __forceinline__ float value() { return -3.3895313892515355e+38f; }
    static __device__ __forceinline__ float highest() { return 3.3895313892515355e+38f; }
};

// The infinities of a floating type, and the extremes of an integer type.
template <typename T> struct Infinite {
    static __device__ __forceinline__ T low() { return Lowest<T>::value(); }
    static __device__ __forceinline__ T high() { return Lowest<T>::highest(); }
};
template <> struct Infinite<float> {
    static __device__ __forceinline__ float low() { return __int_as_float(0xff800000); }
    static __device__ __forceinline__ float high() { return __int_as_float(0x7f800000); }
};
template <> struct Infinite<double> {
    static __device__ __forceinline__ double low() { return __longlong_as_double(0xfff0000000000000ll); }
    static __device__ __forceinline__ double high() { return __longlong_as_double(0x7ff0000000000000ll); }
};

// What a minimum or maximum must beat to count. torch_scatter starts scatter and segment_coo from the extreme of the
// element type (0), segment_csr from that of the type it computes in (1), and from `out` where that is given (2: any
// number may win, the comparison with `out` comes after).
enum Start { START_ELEMENT = 0, START_ACCUMULATOR = 1, START_INFINITE = 2 };

template <typename T> __device__ __forceinline__ typename accumulator<T>::type start_of(bool largest, int64 start) {
    typedef typename accumulator<T>::type acc;
    if (start == START_INFINITE) return largest ? Infinite<acc>::low() : Infinite<acc>::high();
    if (start == START_ACCUMULATOR) return largest ? Lowest<acc>::value() : Lowest<acc>::highest();
    return largest ? (acc)Lowest<T>::value() : (acc)Lowest<T>::highest();
}

// A bit pattern whose unsigned order is the value's order. Both zeros are one.
__device__ __forceinline__ uint64 ordered(float v) {
    uint32 u = __float_as_uint(v == 0.f ? 0.f : v);
    return (u & 0x80000000u) ? ~u : (u | 0x80000000u);
}
__device__ __forceinline__ uint64 ordered(double v) {
    uint64 u = (uint64)__double_as_longlong(v == 0.0 ? 0.0 : v);
    return (u >> 63) ? ~u : (u | 0x8000000000000000ull);
}
__device__ __forceinline__ uint64 ordered(int64 v) { return (uint64)v ^ 0x8000000000000000ull; }
__device__ __forceinline__ uint64 ordered(int v) { return (uint32)v ^ 0x80000000u; }
__device__ __forceinline__ uint64 ordered(short v) { return ordered((int)v); }
__device__ __forceinline__ uint64 ordered(signed char v) { return ordered((int)v); }
__device__ __forceinline__ uint64 ordered(unsigned char v) { return ordered((int)v); }

// i / n and the rest: in 32 bits where that holds them, and without a division where there is nothing to divide.
__device__ __forceinline__ void split(int64 i, int64 n, int64& quotient, int64& rest) {
    if (n == 1) quotient = i;
    else if (i < n) quotient = 0;
    else if (((i | n) >> 32) == 0) quotient = (uint32)i / (uint32)n;
    else quotient = i / n;
    rest = i - quotient * n;
}

// i = (b · E + e) · K + k taken apart.
__device__ __forceinline__ void split(int64 i, int64 E, int64 K, int64& b, int64& e, int64& k) {
    int64 be;
    split(i, K, be, k);
    split(be, E, b, e);
}

// Chips before 6.0 have no instruction for it: compare and swap.
#if __CUDA_ARCH__ < 600
__device__ __forceinline__ double atomicAdd(double* p, double v) {
    uint64* word = (uint64*)p;
    uint64 seen = *(volatile uint64*)word, expected;
    do {
        expected = seen;
        const double sum = __longlong_as_double((int64)expected) + v;
        seen = atomicCAS(word, expected, (uint64)__double_as_longlong(sum));
    } while (seen != expected);
    return __longlong_as_double((int64)seen);
}
#endif

// What is wrong with an index is written here, into host memory: flag[0] = code, flag[1] = the value, flag[2] = its
// position, flag[3] = the size that it should be below. The first writer of the code wins; nothing is read or written
// through a bad index.
__device__ __forceinline__ void report_bad_index(volatile int64* flag, int64 code, int64 value, int64 position, int64 size) {
    if (flag[0] == 0) {
        flag[1] = value;
        flag[2] = position;
        flag[3] = size;
        __threadfence_system();
        flag[0] = code;
    }
}
