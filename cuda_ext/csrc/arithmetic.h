// The arithmetic of sampling, one scalar at a time, for host and device alike.
//
// Everything here is free of branches that depend on data, so that a loop over lanes of a vector
// register becomes vector instructions on the host, and a warp does not diverge on the device.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define GP_HD __host__ __device__ __forceinline__
#else
#define GP_HD inline __attribute__((always_inline))
#endif

namespace genpolicy {

template <class To, class From>
GP_HD To bits_of(From value) {
  static_assert(sizeof(To) == sizeof(From), "only types of the same size have the same bits");
  To out;
  memcpy(&out, &value, sizeof(To));
  return out;
}

// a * b + c, rounded once.
GP_HD float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

// Limits that let a NaN through, as torch.clamp does.
template <class T>
GP_HD T limited(T value, T lo, T hi) {
  T out = value < lo ? lo : value;
  return out > hi ? hi : out;
}

// Activations are templates: of a float, or on the host of a vector of floats (of the compiler's kind).
template <class T>
struct Bits {
  typedef uint32_t Unsigned;
  typedef int32_t Signed;
};

// Limits of opposite sign, for numbers: on the host by the order of floats as integers, which compilers
// turn into two vector instructions where they make comparisons and copies of the other form.
template <class T>
GP_HD T limited_numbers(T value, float lo, float hi) {
#if defined(__CUDACC__)
  return limited(value, lo, hi);
#else
  typedef typename Bits<T>::Unsigned Unsigned;
  typedef typename Bits<T>::Signed Signed;
  Signed below = bits_of<Signed>(value), top = bits_of<Signed>(T{} + hi);
  Unsigned both = bits_of<Unsigned>(below < top ? below : top), bottom = bits_of<Unsigned>(T{} + lo);
  return bits_of<T>(both < bottom ? both : bottom);
#endif
}

// x log2(e) - n for the whole number n next to it, to the last place of x log2(e) where the product is not
// rounded, else in two parts of n ln 2.
template <class T>
GP_HD T rest_of_power(T x, T n) {
  const float log2_e = 1.44269504088896341f;
#if defined(__CUDACC__)
  return fused(x, log2_e, -n);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return x * log2_e - n;  // contracted
#else
  T rest = x - n * 0.693359375f;
  return (rest - n * -2.12194440e-4f) * log2_e;
#endif
}

// exp(x) to 2 units in the last place for x in [-87, hi], hi <= 88, limited to that range outside of it.
// x log2(e) = n + r with |r| <= 1/2; 2^r by the polynomial of degree 6 that has the least relative error, 2e-9.
template <class T>
GP_HD T exp_limited(T x, float hi = 88.0f) {
  typedef typename Bits<T>::Unsigned Unsigned;
  const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to whole numbers
  T inside = limited_numbers(x, -87.0f, hi);
  T shifted = inside * 1.44269504088896341f + shift;
  T r = rest_of_power(inside, shifted - shift);
  T p = 1.535336196e-4f * r + 1.339887385e-3f;
  p = p * r + 9.618436918e-3f;
  p = p * r + 5.550332367e-2f;
  p = p * r + 2.402264774e-1f;
  p = p * r + 6.931471825e-1f;
  p = p * r + 1.0f;
  Unsigned exponent = bits_of<Unsigned>(shifted) << 23;  // n, in the place of the exponent
  return bits_of<T>(bits_of<Unsigned>(p) + exponent);
}

// 1 / x for x in [1, 8e37], to 1 unit in the last place with fused multiply-adds, 2 without. A processor
// divides vectors at a tenth of the rate at which it multiplies them; a GPU has no vectors.
template <class T>
struct Inverse {
  static GP_HD T of(T x) {
#if defined(__CUDACC__)
    return 1.0f / x;
#else
    // Halving and negating the exponent's bits is 1 / x to 12%; each turn cubes the error.
    T y = bits_of<T>(0x7EF311C7u - bits_of<typename Bits<T>::Unsigned>(x));
    T rest = 1.0f - x * y;
    y = y + y * (rest * rest + rest);
    rest = 1.0f - x * y;
    return y + y * (rest * rest + rest);
#endif
  }
};

template <class T>
GP_HD T reciprocal(T x) {
  return Inverse<T>::of(x);
}

enum Activation : int64_t { kNone = 0, kMish = 1, kSilu = 2, kRelu = 3, kGelu = 4, kNumActivations };

// x tanh(log(1 + e^x)) = x m / (m + 2) with m = e^x (e^x + 2).
template <class T>
GP_HD T mish(T x) {
  T e = exp_limited(x, 40.0f);
  T m = e * (e + 2.0f);
  return x * (m * reciprocal(m + 2.0f));
}

template <class T>
GP_HD T silu(T x) {
  return x * reciprocal(1.0f + exp_limited(-x, 87.0f));
}

template <class T>
GP_HD T relu(T x) {
  return x < 0.0f ? T{} : x;
}

// x Phi(x), with erfc by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7).
template <class T>
GP_HD T gelu(T x) {
  T size = x < 0.0f ? -x : x;
  T z = limited(size * 0.70710678118654752f, T{}, T{} + 1e4f);
  T t = reciprocal(1.0f + 0.3275911f * z);
  T p = 1.061405429f * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  T upper = 0.5f * p * t * exp_limited(-z * z);  // 1 - Phi(|x|)
  return x * (x < 0.0f ? upper : 1.0f - upper);
}

template <int64_t kind, class T>
GP_HD T activated(T x) {
  if constexpr (kind == kMish) return mish(x);
  if constexpr (kind == kSilu) return silu(x);
  if constexpr (kind == kRelu) return relu(x);
  if constexpr (kind == kGelu) return gelu(x);
  return x;
}

// bfloat16 is the upper half of a float, rounded to the nearest, halves to even; NaN stays NaN.
GP_HD uint16_t to_bf16(float value) {
  uint32_t bits = bits_of<uint32_t>(value);
  uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  uint32_t quiet = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>(value != value ? quiet : rounded);
}

GP_HD float from_bf16(uint16_t value) { return bits_of<float>(static_cast<uint32_t>(value) << 16); }

// ---- Random numbers ------------------------------------------------------------------------

struct Words {
  uint32_t w[4];
};

// Philox4x32-10 (Salmon et al., SC 2011).
GP_HD Words philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    uint64_t first = 0xD2511F53ull * static_cast<uint64_t>(c0);
    uint64_t second = 0xCD9E8D57ull * static_cast<uint64_t>(c2);
    uint32_t d0 = static_cast<uint32_t>(second >> 32) ^ c1 ^ k0;
    uint32_t d2 = static_cast<uint32_t>(first >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(second);
    c3 = static_cast<uint32_t>(first);
    c0 = d0;
    c2 = d2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return Words{{c0, c1, c2, c3}};
}

// log(x) for normal x > 0, to 3e-16 relative: x = 2^n m with m in [sqrt(1/2), sqrt(2)), and
// log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| <= 0.1716, as a series up to s^21.
GP_HD double log_positive(double x) {
  const uint64_t half_root = 0x3FE6A09E667F3BCDull;  // bits of sqrt(1/2)
  uint64_t bits = bits_of<uint64_t>(x);
  // The exponent as a double without a conversion instruction, which old vector units lack.
  uint64_t n_bits = (bits - half_root) >> 52;                     // n modulo 2^12
  uint64_t m_bits = bits - (n_bits << 52);
  double n = bits_of<double>((n_bits ^ 0x800ull) + 0x4330000000000000ull) - 4503599627372544.0;
  double m = bits_of<double>(m_bits);
  double s = (m - 1.0) / (m + 1.0);
  double z = s * s;
  double p = 1.0 / 21.0;
  p = p * z + 1.0 / 19.0;
  p = p * z + 1.0 / 17.0;
  p = p * z + 1.0 / 15.0;
  p = p * z + 1.0 / 13.0;
  p = p * z + 1.0 / 11.0;
  p = p * z + 1.0 / 9.0;
  p = p * z + 1.0 / 7.0;
  p = p * z + 1.0 / 5.0;
  p = p * z + 1.0 / 3.0;
  return n * 0.69314718055994531 + (2.0 * s + 2.0 * s * z * p);
}

struct Pair {
  double cosine, sine;
};

// cos and sin of 2 pi turns for turns in [0, 1): a quarter turn q is taken off, then Taylor series.
GP_HD Pair cos_sin_turns(double turns) {
  const double shift = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to whole numbers
  double shifted = turns * 4.0 + shift;
  uint64_t quarter = bits_of<uint64_t>(shifted) & 3ull;
  double r = (turns - (shifted - shift) * 0.25) * 6.2831853071795865;  // |r| <= pi / 4
  double z = r * r;
  double c = -1.1470745597729725e-11;
  c = c * z + 2.0876756987868099e-9;
  c = c * z - 2.7557319223985891e-7;
  c = c * z + 2.4801587301587302e-5;
  c = c * z - 1.3888888888888889e-3;
  c = c * z + 4.1666666666666667e-2;
  c = c * z - 0.5;
  c = c * z + 1.0;
  double s = -7.6471637318198165e-13;
  s = s * z + 1.6059043836821615e-10;
  s = s * z - 2.5052108385441719e-8;
  s = s * z + 2.7557319223985891e-6;
  s = s * z - 1.9841269841269841e-4;
  s = s * z + 8.3333333333333333e-3;
  s = s * z - 1.6666666666666667e-1;
  s = r + r * z * s;
  bool swapped = (quarter & 1ull) != 0;
  double cosine = swapped ? s : c;
  double sine = swapped ? c : s;
  cosine = (quarter == 1ull || quarter == 2ull) ? -cosine : cosine;
  sine = quarter >= 2ull ? -sine : sine;
  return Pair{cosine, sine};
}

// The square root is the instruction of the machine, exact on host and device.
GP_HD double root(double x) {
#if defined(__CUDA_ARCH__)
  return sqrt(x);
#else
  return __builtin_sqrt(x);
#endif
}

GP_HD float root(float x) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(x);
#else
  return __builtin_sqrtf(x);
#endif
}

// Two words to two standard normals (Box-Muller), uniforms at the centres of 2^32 cells.
GP_HD void two_normals(uint32_t radius_word, uint32_t angle_word, float* first, float* second) {
  double u = (static_cast<double>(radius_word) + 0.5) * 2.3283064365386963e-10;
  double radius = root(-2.0 * log_positive(u));
  Pair turn = cos_sin_turns((static_cast<double>(angle_word) + 0.5) * 2.3283064365386963e-10);
  *first = static_cast<float>(radius * turn.cosine);
  *second = static_cast<float>(radius * turn.sine);
}

}  // namespace genpolicy
