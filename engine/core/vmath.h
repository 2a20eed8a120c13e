// vmath.h: the engine's own elementary functions in f32 and f64: exp, expm1, log, log1p, sin, cos, tanh, erf, sigmoid,
// softplus, pow. Plain branch-free C that gcc vectorizes inside loops, so a scalar call, a vector loop, the interpreter
// and generated code give the same bits. The text is embedded in front of generated code: it may include nothing but
// <stdint.h> and <stdbool.h>, and needs -ffp-contract=off (fma stands where it is meant).
//
// The worst error seen against long double is at most 1.7 ulp in f32 and 1.8 in f64; 2.3 for sigmoid, 2.5 for tanh in
// f64 (tests/c/test_vmath.c states and checks the bounds). Domains are complete: subnormals count, overflow gives inf,
// NaN stays NaN. sin and cos keep their bounds while |x| < 2^30, and an absolute error below 1e-13 (f32: 3e-7) while
// |x| < 2^51; from there on a finite argument counts as 0, since the spacing of f64 numbers nears a period and f32 goes
// the same way.
//
// Polynomials were fitted in 50 digits at Chebyshev nodes of the reduced intervals; the reductions are the classic ones
// (Cody and Waite; Muller, Elementary Functions, 3rd ed.; fdlibm for the log; N. Juffa's two-range erf in f32).
#ifndef PG_CORE_VMATH_H
#define PG_CORE_VMATH_H

#include <stdbool.h>
#include <stdint.h>

#define PG_INLINE static inline __attribute__((always_inline))

// ---- bits ---------------------------------------------------------------------------------------------------------

PG_INLINE uint32_t pg_bits_f32(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, sizeof u);
  return u;
}
PG_INLINE float pg_from_bits_f32(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, sizeof x);
  return x;
}
PG_INLINE uint64_t pg_bits_f64(double x) {
  uint64_t u;
  __builtin_memcpy(&u, &x, sizeof u);
  return u;
}
PG_INLINE double pg_from_bits_f64(uint64_t u) {
  double x;
  __builtin_memcpy(&x, &u, sizeof x);
  return x;
}
PG_INLINE float pg_fma_f32(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
PG_INLINE double pg_fma_f64(double a, double b, double c) {
  return __builtin_fma(a, b, c);
}

// Adding 1.5 * 2^(mantissa bits) leaves the nearest integer in the low bits of the sum.
#define PG_ROUNDER_F32 0x1.8p23f
#define PG_ROUNDER_F64 0x1.8p52

// ---- exp ----------------------------------------------------------------------------------------------------------

// (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2
PG_INLINE float pg_exp_tail_f32(float r) {
  float p = 0.00139269268f;
  p = pg_fma_f32(p, r, 0.00836377405f);
  p = pg_fma_f32(p, r, 0.0416665487f);
  p = pg_fma_f32(p, r, 0.166665733f);
  return pg_fma_f32(p, r, 0.5f);
}
PG_INLINE double pg_exp_tail_f64(double r) {
  double p = 2.0915442297780116e-09;
  p = pg_fma_f64(p, r, 2.5106274733573296e-08);
  p = pg_fma_f64(p, r, 2.75572718102198e-07);
  p = pg_fma_f64(p, r, 2.7557252833516911e-06);
  p = pg_fma_f64(p, r, 2.4801587327007187e-05);
  p = pg_fma_f64(p, r, 0.00019841269876864356);
  p = pg_fma_f64(p, r, 0.0013888888888883327);
  p = pg_fma_f64(p, r, 0.0083333333333255443);
  p = pg_fma_f64(p, r, 0.041666666666666671);
  p = pg_fma_f64(p, r, 0.16666666666666671);
  return pg_fma_f64(p, r, 0.5);
}

// x * 2^n for the n that `rounded` (= n + the rounder) carries; in two factors, so that subnormals are rounded once.
PG_INLINE float pg_scale_f32(float x, float rounded) {
  uint32_t twice = pg_bits_f32(rounded) - pg_bits_f32(PG_ROUNDER_F32) + 2 * 127;
  uint32_t half = twice >> 1;
  return x * pg_from_bits_f32(half << 23) * pg_from_bits_f32((twice - half) << 23);
}
PG_INLINE double pg_scale_f64(double x, double rounded) {
  uint64_t twice = pg_bits_f64(rounded) - pg_bits_f64(PG_ROUNDER_F64) + 2 * 1023;
  uint64_t half = twice >> 1;
  return x * pg_from_bits_f64(half << 52) * pg_from_bits_f64((twice - half) << 52);
}

PG_INLINE float pg_exp_f32(float x) {
  x = x > 89.5f ? 89.5f : x;
  x = x < -104.5f ? -104.5f : x;
  float rounded = pg_fma_f32(x, 0x1.715476p+0f, PG_ROUNDER_F32), n = rounded - PG_ROUNDER_F32;
  float r = pg_fma_f32(n, -0.693145752f, x);
  r = pg_fma_f32(n, -1.42860682e-06f, r);
  return pg_scale_f32(pg_fma_f32(r * r, pg_exp_tail_f32(r), r) + 1.0f, rounded);
}

// exp(x + low), |low| tiny beside x
PG_INLINE double pg_exp_sum_f64(double x, double low) {
  x = x > 710.0 ? 710.0 : x;
  x = x < -746.0 ? -746.0 : x;
  double rounded = pg_fma_f64(x, 0x1.71547652b82fep+0, PG_ROUNDER_F64), n = rounded - PG_ROUNDER_F64;
  double r = pg_fma_f64(n, -0x1.62e42fefa39efp-1, x);
  r = pg_fma_f64(n, -0x1.abc9e3b39803fp-56, r) + low;
  return pg_scale_f64(pg_fma_f64(r * r, pg_exp_tail_f64(r), r) + 1.0, rounded);
}
PG_INLINE double pg_exp_f64(double x) {
  return pg_exp_sum_f64(x, 0.0);
}

// e^x - 1 = 2^n (e^r - 1) + (2^n - 1), in halves so that 2^n does not overflow before its time. Tiny x is its own
// value, which also keeps -0 and subnormals.
PG_INLINE float pg_expm1_f32(float x) {
  float c = x > 89.5f ? 89.5f : x;
  c = c < -18.0f ? -18.0f : c;
  float rounded = pg_fma_f32(c, 0x1.715476p+0f, PG_ROUNDER_F32), n = rounded - PG_ROUNDER_F32;
  float r = pg_fma_f32(n, -0.693145752f, c);
  r = pg_fma_f32(n, -1.42860682e-06f, r);
  float e = pg_fma_f32(r * r, pg_exp_tail_f32(r), r);
  float half = pg_from_bits_f32((pg_bits_f32(rounded) - pg_bits_f32(PG_ROUNDER_F32) + 126) << 23);
  float y = 2.0f * pg_fma_f32(e, half, half - 0.5f);
  y = c > 89.0f ? __builtin_inff() : y;
  return __builtin_fabsf(x) < 0x1p-26f ? x : y;
}
PG_INLINE double pg_expm1_f64(double x) {
  double c = x > 710.0 ? 710.0 : x;
  c = c < -40.0 ? -40.0 : c;
  double rounded = pg_fma_f64(c, 0x1.71547652b82fep+0, PG_ROUNDER_F64), n = rounded - PG_ROUNDER_F64;
  double r = pg_fma_f64(n, -0x1.62e42fefa39efp-1, c);
  r = pg_fma_f64(n, -0x1.abc9e3b39803fp-56, r);
  double e = pg_fma_f64(r * r, pg_exp_tail_f64(r), r);
  double half = pg_from_bits_f64((pg_bits_f64(rounded) - pg_bits_f64(PG_ROUNDER_F64) + 1022) << 52);
  double y = 2.0 * pg_fma_f64(e, half, half - 0.5);
  return __builtin_fabs(x) < 0x1p-55 ? x : y;
}

// ---- log ----------------------------------------------------------------------------------------------------------

// log(1 + f) + n log(2) for 1 + f in [sqrt(1/2), sqrt(2)]
PG_INLINE float pg_log_reduced_f32(float f, float n) {
  float f2 = f * f;
  float even = pg_fma_f32(0.0697161183f, f2, 0.116854198f), odd = pg_fma_f32(-0.114797339f, f2, -0.124256872f);
  even = pg_fma_f32(even, f2, 0.142490581f), odd = pg_fma_f32(odd, f2, -0.166678026f);
  even = pg_fma_f32(even, f2, 0.200007156f), odd = pg_fma_f32(odd, f2, -0.24999997f);
  even = pg_fma_f32(even, f2, 0.333333313f), odd = pg_fma_f32(odd, f2, -0.5f);
  float tail = pg_fma_f32(f2, pg_fma_f32(even, f, odd), n * 1.42860682e-06f);
  return pg_fma_f32(n, 0.693145752f, f + tail);
}
PG_INLINE double pg_log_reduced_f64(double f, double n) {
  double s = f / (2.0 + f), z = s * s;
  double p = 0.13100721383503491;
  p = pg_fma_f64(p, z, 0.13267418596474884);
  p = pg_fma_f64(p, z, 0.15386290534658992);
  p = pg_fma_f64(p, z, 0.18181794700897799);
  p = pg_fma_f64(p, z, 0.22222222400547759);
  p = pg_fma_f64(p, z, 0.28571428570764451);
  p = pg_fma_f64(p, z, 0.4000000000000094);
  p = pg_fma_f64(p, z, 0.66666666666666663);
  double half_square = 0.5 * f * f;
  double tail = pg_fma_f64(n, 2.8235290563031577e-13, s * pg_fma_f64(p, z, half_square));
  return pg_fma_f64(n, 0.69314718055966296, f - (half_square - tail));
}

// Exponent n and f = mantissa - 1 with the mantissa in [sqrt(1/2), sqrt(2)); x positive and normal.
typedef struct pg_split_f32 {
  float f, n;
} pg_split_f32;
typedef struct pg_split_f64 {
  double f, n;
} pg_split_f64;
PG_INLINE pg_split_f32 pg_split_exponent_f32(float x) {
  uint32_t u = pg_bits_f32(x) + (0x3f800000u - 0x3f3504f3u);
  float mantissa = pg_from_bits_f32((u & 0x007fffffu) + 0x3f3504f3u);
  return (pg_split_f32){mantissa - 1.0f, (float)((int32_t)(u >> 23) - 127)};
}
PG_INLINE pg_split_f64 pg_split_exponent_f64(double x) {
  uint64_t u = pg_bits_f64(x) + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu);
  double mantissa = pg_from_bits_f64((u & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu);
  // AVX2 cannot convert 64-bit integers: put the biased exponent into the mantissa of 2^52 instead.
  double n = pg_from_bits_f64((u >> 52) | 0x4330000000000000u) - (0x1p52 + 1023.0);
  return (pg_split_f64){mantissa - 1.0, n};
}

// The values of log(x) that the reduction cannot give.
PG_INLINE float pg_log_special_f32(float x, float y) {
  y = x == 0.0f ? -__builtin_inff() : y;
  y = x < 0.0f ? __builtin_nanf("") : y;
  return x < __builtin_inff() ? y : x; // inf and NaN
}
PG_INLINE double pg_log_special_f64(double x, double y) {
  y = x == 0.0 ? -__builtin_inf() : y;
  y = x < 0.0 ? __builtin_nan("") : y;
  return x < __builtin_inf() ? y : x;
}

PG_INLINE float pg_log_f32(float x) {
  bool subnormal = x < 0x1p-126f;
  pg_split_f32 s = pg_split_exponent_f32(subnormal ? x * 0x1p23f : x);
  return pg_log_special_f32(x, pg_log_reduced_f32(s.f, subnormal ? s.n - 23.0f : s.n));
}
PG_INLINE double pg_log_f64(double x) {
  bool subnormal = x < 0x1p-1022;
  pg_split_f64 s = pg_split_exponent_f64(subnormal ? x * 0x1p52 : x);
  return pg_log_special_f64(x, pg_log_reduced_f64(s.f, subnormal ? s.n - 52.0 : s.n));
}

// With 2^n from the rounded sum 1 + x, the mantissa of the exact sum is x 2^-n + (2^-n - 1), rounded once. Where 2^-n
// would be below the normal numbers, the 1 no longer matters.
PG_INLINE float pg_log1p_f32(float x) {
  float u = 1.0f + x;
  pg_split_f32 s = pg_split_exponent_f32(u);
  float scale = pg_from_bits_f32((uint32_t)(127 - (int32_t)s.n) << 23);
  float f = x > 0x1p40f ? s.f : pg_fma_f32(x, scale, scale - 1.0f);
  float y = pg_log_special_f32(u, pg_log_reduced_f32(f, s.n));
  return __builtin_fabsf(x) < 0x1p-26f ? x : y;
}
PG_INLINE double pg_log1p_f64(double x) {
  double u = 1.0 + x;
  pg_split_f64 s = pg_split_exponent_f64(u);
  double scale = pg_from_bits_f64(pg_bits_f64(PG_ROUNDER_F64 + 1023.0 - s.n) << 52);
  double f = x > 0x1p70 ? s.f : pg_fma_f64(x, scale, scale - 1.0);
  double y = pg_log_special_f64(u, pg_log_reduced_f64(f, s.n));
  return __builtin_fabs(x) < 0x1p-55 ? x : y;
}

// ---- sin, cos -----------------------------------------------------------------------------------------------------

// sin and cos on |r| <= pi / 4 (a little beyond is harmless)
PG_INLINE float pg_sin_reduced_f32(float r) {
  float z = r * r, p = -0.000195873872f;
  p = pg_fma_f32(p, z, 0.0083327461f);
  p = pg_fma_f32(p, z, -0.166666642f);
  return pg_fma_f32(r * z, p, r);
}
PG_INLINE float pg_cos_reduced_f32(float r) {
  float z = r * r, p = 2.45474366e-05f;
  p = pg_fma_f32(p, z, -0.00138883002f);
  p = pg_fma_f32(p, z, 0.0416666642f);
  return pg_fma_f32(z, pg_fma_f32(p, z, -0.5f), 1.0f);
}
PG_INLINE double pg_sin_reduced_f64(double r) {
  double z = r * r, p = 1.5917848524808262e-10;
  p = pg_fma_f64(p, z, -2.5051127944014188e-08);
  p = pg_fma_f64(p, z, 2.7557316083816358e-06);
  p = pg_fma_f64(p, z, -0.00019841269836722418);
  p = pg_fma_f64(p, z, 0.0083333333333309254);
  p = pg_fma_f64(p, z, -0.16666666666666666);
  return pg_fma_f64(r * z, p, r);
}
PG_INLINE double pg_cos_reduced_f64(double r) {
  double z = r * r, p = -1.1382456778061306e-11;
  p = pg_fma_f64(p, z, 2.0876143827993133e-09);
  p = pg_fma_f64(p, z, -2.7557317260008837e-07);
  p = pg_fma_f64(p, z, 2.480158729874307e-05);
  p = pg_fma_f64(p, z, -0.0013888888888887382);
  p = pg_fma_f64(p, z, 0.041666666666666664);
  return pg_fma_f64(z, pg_fma_f64(p, z, -0.5), 1.0);
}

// r = x - n pi/2 and the quadrant n (its low two bits). x - n * (pi/2 in f64) is exact in an fma; two more words of pi
// follow. Finite x outside the range counts as 0.
typedef struct pg_angle {
  double r;
  uint64_t quadrant;
} pg_angle;
PG_INLINE pg_angle pg_reduce_angle(double x) {
  x = __builtin_fabs(x) < 0x1p51 ? x : x - x;
  double rounded = pg_fma_f64(x, 0x1.45f306dc9c883p-1, PG_ROUNDER_F64), n = rounded - PG_ROUNDER_F64;
  double r = pg_fma_f64(n, -0x1.921fb54442d18p+0, x);
  r = pg_fma_f64(n, -0x1.1a62633145c07p-54, r);
  return (pg_angle){pg_fma_f64(n, 1.4973849048591698e-33, r), pg_bits_f64(rounded)};
}

// sin in even quadrants, cos in odd ones, negative in the second half of the turn
PG_INLINE float pg_sin_of_angle_f32(double r64, uint32_t quadrant) {
  float r = (float)r64;
  float y = quadrant & 1 ? pg_cos_reduced_f32(r) : pg_sin_reduced_f32(r);
  return pg_from_bits_f32(pg_bits_f32(y) ^ ((quadrant & 2) << 30));
}
PG_INLINE double pg_sin_of_angle_f64(double r, uint64_t quadrant) {
  double y = quadrant & 1 ? pg_cos_reduced_f64(r) : pg_sin_reduced_f64(r);
  return pg_from_bits_f64(pg_bits_f64(y) ^ ((quadrant & 2) << 62));
}
PG_INLINE float pg_sin_f32(float x) {
  pg_angle a = pg_reduce_angle(x);
  float y = pg_sin_of_angle_f32(a.r, (uint32_t)a.quadrant);
  return x == 0.0f ? x : y;
}
PG_INLINE float pg_cos_f32(float x) {
  pg_angle a = pg_reduce_angle(x);
  return pg_sin_of_angle_f32(a.r, (uint32_t)a.quadrant + 1);
}
PG_INLINE double pg_sin_f64(double x) {
  pg_angle a = pg_reduce_angle(x);
  double y = pg_sin_of_angle_f64(a.r, a.quadrant);
  return x == 0.0 ? x : y;
}
PG_INLINE double pg_cos_f64(double x) {
  pg_angle a = pg_reduce_angle(x);
  return pg_sin_of_angle_f64(a.r, a.quadrant + 1);
}

// ---- tanh, erf, sigmoid, softplus ---------------------------------------------------------------------------------

// Near 0 an odd polynomial, else 1 - 2 / (e^(2|x|) + 1), where the error of e^(2|x|) no longer shows.
PG_INLINE float pg_tanh_f32(float x) {
  float a = __builtin_fabsf(x), z = x * x;
  float p = -0.00626911968f;
  p = pg_fma_f32(p, z, 0.0211109594f);
  p = pg_fma_f32(p, z, -0.0538739488f);
  p = pg_fma_f32(p, z, 0.133329153f);
  p = pg_fma_f32(p, z, -0.333333313f);
  float near = pg_fma_f32(p * z, a, a);
  float far = 1.0f - 2.0f / (pg_exp_f32(2.0f * a) + 1.0f);
  return __builtin_copysignf(a > 0.6f ? far : near, x);
}
// tanh |x| = t / (t + 2) with t = e^(2|x|) - 1
PG_INLINE double pg_tanh_f64(double x) {
  double a = __builtin_fabs(x), t = pg_expm1_f64(2.0 * (a > 20.0 ? 20.0 : a));
  return __builtin_copysign(t / (t + 2.0), x);
}

// Near 0 an odd polynomial, else 1 - exp(-polynomial).
PG_INLINE float pg_erf_f32(float x) {
  float t = __builtin_fabsf(x), z = x * x;
  float p = -5.96761703e-4f;
  p = pg_fma_f32(p, z, 4.99119423e-3f);
  p = pg_fma_f32(p, z, -2.67681349e-2f);
  p = pg_fma_f32(p, z, 1.12819925e-1f);
  p = pg_fma_f32(p, z, -3.76125336e-1f);
  p = pg_fma_f32(p, z, 1.28379166e-1f);
  float near = pg_fma_f32(p, x, x);
  float c = t > 4.0f ? 4.0f : t;
  float q = pg_fma_f32(-1.72853470e-5f, c, 3.83197126e-4f);
  q = pg_fma_f32(q, c, -3.88396438e-3f);
  q = pg_fma_f32(q, c, 2.42546219e-2f);
  q = pg_fma_f32(q, c, -1.06777877e-1f);
  q = pg_fma_f32(q, c, -6.34846687e-1f);
  q = pg_fma_f32(q, c, -1.28717512e-1f);
  float far = __builtin_copysignf(1.0f - pg_exp_f32(pg_fma_f32(q, c, -c)), x);
  return t > 0.927734375f ? far : near;
}
// Near 0 an odd polynomial; else 1 - exp(-x^2) P(u) with u = (x - 2) / (x + 2), where erfc is small enough that
// the error of x^2 does not show. From 6 on erf is 1.
PG_INLINE double pg_erf_f64(double x) {
  double t = __builtin_fabs(x), z = x * x;
  double p = -7.7958988270021425e-10;
  p = pg_fma_f64(p, z, 1.3720064546777686e-08);
  p = pg_fma_f64(p, z, -1.6208483801871705e-07);
  p = pg_fma_f64(p, z, 1.6447424703317362e-06);
  p = pg_fma_f64(p, z, -1.4924736907419661e-05);
  p = pg_fma_f64(p, z, 0.00012055294904839707);
  p = pg_fma_f64(p, z, -0.00085483259753896918);
  p = pg_fma_f64(p, z, 0.0052239776071164225);
  p = pg_fma_f64(p, z, -0.02686617064323777);
  p = pg_fma_f64(p, z, 0.11283791670945006);
  p = pg_fma_f64(p, z, -0.37612638903183543);
  p = pg_fma_f64(p, z, 0.12837916709551256);
  double near = pg_fma_f64(p, x, x);
  double c = t > 6.0 ? 6.0 : t, u = (c - 2.0) / (c + 2.0);
  double q = 3.9170592999253886e-06;
  q = pg_fma_f64(q, u, 1.8201431959750091e-06);
  q = pg_fma_f64(q, u, -1.4067532694582058e-05);
  q = pg_fma_f64(q, u, -2.7647305443610053e-05);
  q = pg_fma_f64(q, u, 2.7543128185666719e-05);
  q = pg_fma_f64(q, u, 0.00017436697232946864);
  q = pg_fma_f64(q, u, 4.3554202452705896e-05);
  q = pg_fma_f64(q, u, -0.00098197732081310219);
  q = pg_fma_f64(q, u, -0.0008471431980760424);
  q = pg_fma_f64(q, u, 0.0069974617477535734);
  q = pg_fma_f64(q, u, 0.0037328924034922399);
  q = pg_fma_f64(q, u, -0.078978581015852534);
  q = pg_fma_f64(q, u, 0.24165819424246987);
  q = pg_fma_f64(q, u, -0.42718584741395788);
  q = pg_fma_f64(q, u, 0.25539567631050575);
  double far = __builtin_copysign(pg_fma_f64(-q, pg_exp_f64(-c * c), 1.0), x);
  return t > 1.0 ? far : near;
}

// 1 / (1 + e^-x), from e^-|x| so that neither side overflows
PG_INLINE float pg_sigmoid_f32(float x) {
  float e = pg_exp_f32(-__builtin_fabsf(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}
PG_INLINE double pg_sigmoid_f64(double x) {
  double e = pg_exp_f64(-__builtin_fabs(x));
  return (x < 0.0 ? e : 1.0) / (1.0 + e);
}

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|)
PG_INLINE float pg_softplus_f32(float x) {
  return (x < 0.0f ? 0.0f : x) + pg_log1p_f32(pg_exp_f32(-__builtin_fabsf(x)));
}
PG_INLINE double pg_softplus_f64(double x) {
  return (x < 0.0 ? 0.0 : x) + pg_log1p_f64(pg_exp_f64(-__builtin_fabs(x)));
}

// ---- pow ----------------------------------------------------------------------------------------------------------

// Give |x|^y its sign, and the cases that C Annex F fixes. Squares are exact roundings of x * x.
PG_INLINE double pg_pow_special_f64(double x, double y, double magnitude) {
  bool integer = __builtin_floor(y) == y, odd = integer & (__builtin_floor(0.5 * y) != 0.5 * y);
  bool negative = (pg_bits_f64(x) >> 63) != 0;
  double r = (odd & negative) ? -magnitude : magnitude;
  r = ((x < 0.0) & (x > -__builtin_inf()) & !integer) ? __builtin_nan("") : r;
  r = ((__builtin_fabs(x) == 1.0) & integer & !odd) ? 1.0 : r; // also -1 to an infinite power
  r = ((x == 1.0) | (y == 0.0)) ? 1.0 : r;
  return y == 2.0 ? x * x : r;
}

PG_INLINE float pg_pow_f32(float x, float y) {
  double wide = pg_exp_f64((double)y * pg_log_f64(__builtin_fabs((double)x)));
  return (float)pg_pow_special_f64(x, y, wide);
}

// log(x) as an unevaluated sum, about 2^-65 relative: 2 atanh(s), s = (m - 1) / (m + 1), whose first two coefficients
// and arguments are carried in two words.
typedef struct pg_sum_f64 {
  double high, low;
} pg_sum_f64;
PG_INLINE pg_sum_f64 pg_log_sum_f64(double x) {
  bool subnormal = x < 0x1p-1022;
  pg_split_f64 split = pg_split_exponent_f64(subnormal ? x * 0x1p52 : x);
  double n = subnormal ? split.n - 52.0 : split.n, f = split.f;
  double d = f + 2.0, d_low = f - (d - 2.0), inverse = 1.0 / d;
  double s = f * inverse;
  double s_low = pg_fma_f64(-s, d_low, pg_fma_f64(-s, d, f)) * inverse;
  double z = s * s, z_low = pg_fma_f64(s, s, -z) + 2.0 * s * s_low;
  double p = 0.05867909427756484;
  p = pg_fma_f64(p, z, 0.058525107837693137);
  p = pg_fma_f64(p, z, 0.066674251412735572);
  p = pg_fma_f64(p, z, 0.076922970600631843);
  p = pg_fma_f64(p, z, 0.090909091716580626);
  p = pg_fma_f64(p, z, 0.1111111111081038);
  p = pg_fma_f64(p, z, 0.14285714285714712);
  p = pg_fma_f64(p, z, 0.20000000000000001);
  double third = 0x1.5555555555555p-2, t = z * p;
  double w = third + t, w_low = (third - w) + t + 1.8503717077085941e-17;
  double v = z * w, v_low = pg_fma_f64(z, w, -v) + (z * w_low + z_low * w);
  double a = 2.0 * s, b = a * v;
  double b_low = pg_fma_f64(a, v, -b) + (a * v_low + 2.0 * s_low * (1.0 + v));
  double h = a + b, h_low = (a - h) + b + b_low;
  double kh = n * 0.69314718055966296, sum = kh + h;
  double low = (kh - sum) + h + (h_low + n * 2.8235290563031577e-13);
  double high = sum + low;
  return (pg_sum_f64){high, (sum - high) + low};
}

PG_INLINE double pg_pow_f64(double x, double y) {
  double a = __builtin_fabs(x);
  pg_sum_f64 l = pg_log_sum_f64(a);
  // Beyond 1e25 every base but 1 has overflowed or vanished; clamped, products stay finite.
  double c = y > 1e25 ? 1e25 : y;
  c = c < -1e25 ? -1e25 : c;
  double high = c * l.high, low = pg_fma_f64(c, l.high, -high) + c * l.low;
  low = __builtin_fabs(high) < 800.0 ? low : 0.0;
  bool edge = (a == 0.0) | (a == __builtin_inf());
  double grown = (a == 0.0) == (y < 0.0) ? __builtin_inf() : 0.0;
  double r = edge ? grown : pg_exp_sum_f64(high, low);
  r = ((x == x) & (y == y)) ? r : x + y;
  return pg_pow_special_f64(x, y, r);
}

#endif
