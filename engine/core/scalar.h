// scalar.h: what each elementwise operation does to one element: pg_<operation>_<dtype> for every row of PG_MAP_OPS
// (engine/ops/ops.h) and every dtype f32, f64, i32, i64, u8, b8 it makes sense for. The interpreter and generated code
// call these, so they give the same bits; the text is embedded in front of generated code and includes nothing else.
//
// Everything is defined for every input. Integers wrap; dividing them truncates, and by zero gives 0; their powers wrap
// too, and a negative exponent gives the truncated quotient. Floating point to integer truncates and saturates, NaN
// giving 0; integer to narrower integer wraps; anything to bool is x != 0. maximum, minimum, relu and sign hand NaN on.
// round is to nearest, ties to even.
//
// The families below differ in nothing but the type, hence the macros; S is the suffix, T the C type, U its unsigned
// twin.
#ifndef PG_CORE_SCALAR_H
#define PG_CORE_SCALAR_H

#include "engine/core/vmath.h"

// clang-format off

// ---- every dtype --------------------------------------------------------------------------------------------------

#define PG_DEFINE_COMPARISONS(S, T)                                                   \
  PG_INLINE bool pg_lt_##S(T a, T b) { return a < b; }                                \
  PG_INLINE bool pg_le_##S(T a, T b) { return a <= b; }                               \
  PG_INLINE bool pg_gt_##S(T a, T b) { return a > b; }                                \
  PG_INLINE bool pg_ge_##S(T a, T b) { return a >= b; }                               \
  PG_INLINE bool pg_eq_##S(T a, T b) { return a == b; }                               \
  PG_INLINE bool pg_ne_##S(T a, T b) { return a != b; }                               \
  PG_INLINE T pg_where_##S(bool condition, T a, T b) { return condition ? a : b; }

PG_DEFINE_COMPARISONS(f32, float)
PG_DEFINE_COMPARISONS(f64, double)
PG_DEFINE_COMPARISONS(i32, int32_t)
PG_DEFINE_COMPARISONS(i64, int64_t)
PG_DEFINE_COMPARISONS(u8, uint8_t)
PG_DEFINE_COMPARISONS(b8, bool)

// ---- bool ---------------------------------------------------------------------------------------------------------

PG_INLINE bool pg_not_b8(bool a) { return !a; }
PG_INLINE bool pg_and_b8(bool a, bool b) { return a & b; }
PG_INLINE bool pg_or_b8(bool a, bool b) { return a | b; }
PG_INLINE bool pg_maximum_b8(bool a, bool b) { return a | b; }
PG_INLINE bool pg_minimum_b8(bool a, bool b) { return a & b; }

// ---- floating point -----------------------------------------------------------------------------------------------

// B is the suffix of the compiler's builtins. sign keeps -0, so that it is odd.
#define PG_DEFINE_FLOATS(S, T, B)                                                     \
  PG_INLINE T pg_neg_##S(T a) { return -a; }                                          \
  PG_INLINE T pg_abs_##S(T a) { return __builtin_fabs##B(a); }                        \
  PG_INLINE T pg_sign_##S(T a) { return a > 0 ? (T)1 : (a < 0 ? (T)-1 : a); }         \
  PG_INLINE T pg_floor_##S(T a) { return __builtin_floor##B(a); }                     \
  PG_INLINE T pg_ceil_##S(T a) { return __builtin_ceil##B(a); }                       \
  PG_INLINE T pg_round_##S(T a) { return __builtin_rint##B(a); }                      \
  PG_INLINE T pg_sqrt_##S(T a) { return __builtin_sqrt##B(a); }                       \
  PG_INLINE T pg_rsqrt_##S(T a) { return (T)1 / __builtin_sqrt##B(a); }               \
  PG_INLINE T pg_relu_##S(T a) { return a < 0 ? (T)0 : a; }                           \
  PG_INLINE bool pg_isfinite_##S(T a) { return a - a == 0; }                          \
  PG_INLINE T pg_add_##S(T a, T b) { return a + b; }                                  \
  PG_INLINE T pg_sub_##S(T a, T b) { return a - b; }                                  \
  PG_INLINE T pg_mul_##S(T a, T b) { return a * b; }                                  \
  PG_INLINE T pg_div_##S(T a, T b) { return a / b; }                                  \
  PG_INLINE T pg_maximum_##S(T a, T b) { return ((a > b) | (a != a)) ? a : b; }       \
  PG_INLINE T pg_minimum_##S(T a, T b) { return ((a < b) | (a != a)) ? a : b; }

PG_DEFINE_FLOATS(f32, float, f)
PG_DEFINE_FLOATS(f64, double, )

// ---- integers -----------------------------------------------------------------------------------------------------

// Arithmetic goes through U, a type without sign at least as wide as int, where overflow is defined.
#define PG_DEFINE_INTEGERS(S, T, U)                                                   \
  PG_INLINE T pg_neg_##S(T a) { return (T)((U)0 - (U)a); }                            \
  PG_INLINE T pg_floor_##S(T a) { return a; }                                         \
  PG_INLINE T pg_ceil_##S(T a) { return a; }                                          \
  PG_INLINE T pg_round_##S(T a) { return a; }                                         \
  PG_INLINE bool pg_isfinite_##S(T a) { return (void)a, true; }                       \
  PG_INLINE T pg_add_##S(T a, T b) { return (T)((U)a + (U)b); }                       \
  PG_INLINE T pg_sub_##S(T a, T b) { return (T)((U)a - (U)b); }                       \
  PG_INLINE T pg_mul_##S(T a, T b) { return (T)((U)a * (U)b); }                       \
  PG_INLINE T pg_maximum_##S(T a, T b) { return a > b ? a : b; }                      \
  PG_INLINE T pg_minimum_##S(T a, T b) { return a < b ? a : b; }                      \
  PG_INLINE T pg_relu_##S(T a) { return a > 0 ? a : (T)0; }                           \
  PG_INLINE T pg_power_bits_##S(U base, U exponent) {                                 \
    U result = 1;                                                                     \
    for (unsigned bit = 0; bit < 8 * sizeof(T); bit++) {                              \
      result = (exponent >> bit) & 1 ? result * base : result;                        \
      base *= base;                                                                   \
    }                                                                                 \
    return (T)result;                                                                 \
  }

// The most negative number cannot be divided by -1; a negative power is 1 / a^|b|, which is 0 but for a = 1 and -1.
#define PG_DEFINE_SIGNED(S, T, U)                                                     \
  PG_INLINE T pg_abs_##S(T a) { return a < 0 ? pg_neg_##S(a) : a; }                   \
  PG_INLINE T pg_sign_##S(T a) { return (T)((a > 0) - (a < 0)); }                     \
  PG_INLINE T pg_div_##S(T a, T b) {                                                  \
    T quotient = a / (((b == 0) | (b == -1)) ? (T)1 : b);                             \
    quotient = b == -1 ? pg_neg_##S(a) : quotient;                                    \
    return b == 0 ? (T)0 : quotient;                                                  \
  }                                                                                   \
  PG_INLINE T pg_pow_##S(T a, T b) {                                                  \
    T power = pg_power_bits_##S((U)a, (U)b);                                          \
    return ((b >= 0) | (a == 1) | (a == -1)) ? power : (T)0;                          \
  }

PG_DEFINE_INTEGERS(i32, int32_t, uint32_t)
PG_DEFINE_SIGNED(i32, int32_t, uint32_t)
PG_DEFINE_INTEGERS(i64, int64_t, uint64_t)
PG_DEFINE_SIGNED(i64, int64_t, uint64_t)

PG_DEFINE_INTEGERS(u8, uint8_t, uint32_t)
PG_INLINE uint8_t pg_abs_u8(uint8_t a) { return a; }
PG_INLINE uint8_t pg_sign_u8(uint8_t a) { return a > 0; }
PG_INLINE uint8_t pg_div_u8(uint8_t a, uint8_t b) { return b == 0 ? 0 : (uint8_t)(a / (b == 0 ? 1 : b)); }
PG_INLINE uint8_t pg_pow_u8(uint8_t a, uint8_t b) { return pg_power_bits_u8(a, b); }

// ---- casts: pg_cast_<to>_<from> -----------------------------------------------------------------------------------

#define PG_DEFINE_CAST(TO, T, FROM, F) PG_INLINE T pg_cast_##TO##_##FROM(F a) { return (T)a; }
#define PG_DEFINE_CASTS_FROM(FROM, F)                                                 \
  PG_DEFINE_CAST(f32, float, FROM, F)                                                 \
  PG_DEFINE_CAST(f64, double, FROM, F)                                                \
  PG_INLINE bool pg_cast_b8_##FROM(F a) { return a != 0; }
#define PG_DEFINE_CASTS_FROM_INTEGER(FROM, F)                                         \
  PG_DEFINE_CASTS_FROM(FROM, F)                                                       \
  PG_DEFINE_CAST(i32, int32_t, FROM, F)                                               \
  PG_DEFINE_CAST(i64, int64_t, FROM, F)                                               \
  PG_DEFINE_CAST(u8, uint8_t, FROM, F)

PG_DEFINE_CASTS_FROM(f32, float)
PG_DEFINE_CASTS_FROM(f64, double)
PG_DEFINE_CASTS_FROM_INTEGER(i32, int32_t)
PG_DEFINE_CASTS_FROM_INTEGER(i64, int64_t)
PG_DEFINE_CASTS_FROM_INTEGER(u8, uint8_t)
PG_DEFINE_CAST(b8, bool, b8, bool)

// gcc does not vectorize the conversion of a comparison, but a choice by it.
#define PG_DEFINE_CAST_OF_MASK(TO, T) PG_INLINE T pg_cast_##TO##_b8(bool a) { return a ? (T)1 : (T)0; }
PG_DEFINE_CAST_OF_MASK(f32, float)
PG_DEFINE_CAST_OF_MASK(f64, double)
PG_DEFINE_CAST_OF_MASK(i32, int32_t)
PG_DEFINE_CAST_OF_MASK(i64, int64_t)
PG_DEFINE_CAST_OF_MASK(u8, uint8_t)

// LOW <= x < END are the values of F that fit T after truncation; outside, the conversion is not defined in C.
#define PG_DEFINE_SATURATING_CAST(TO, T, FROM, F, LOW, END, LOWEST, HIGHEST)          \
  PG_INLINE T pg_cast_##TO##_##FROM(F a) {                                            \
    T inside = (T)(((a >= (F)(LOW)) & (a < (F)(END))) ? a : (F)0);                    \
    return a >= (F)(END) ? HIGHEST : (a < (F)(LOW) ? LOWEST : inside);                \
  }

PG_DEFINE_SATURATING_CAST(i32, int32_t, f32, float, -0x1p31, 0x1p31, INT32_MIN, INT32_MAX)
PG_DEFINE_SATURATING_CAST(i32, int32_t, f64, double, -0x1p31, 0x1p31, INT32_MIN, INT32_MAX)
PG_DEFINE_SATURATING_CAST(i64, int64_t, f32, float, -0x1p63, 0x1p63, INT64_MIN, INT64_MAX)
PG_DEFINE_SATURATING_CAST(i64, int64_t, f64, double, -0x1p63, 0x1p63, INT64_MIN, INT64_MAX)
PG_DEFINE_SATURATING_CAST(u8, uint8_t, f32, float, 0, 256, 0, 255)
PG_DEFINE_SATURATING_CAST(u8, uint8_t, f64, double, 0, 256, 0, 255)

// clang-format on
#endif
