// test_scalar: engine/core/scalar.h. Integer arithmetic against exact arithmetic in 128 bits, conversions at the ends
// of their ranges, what NaN and signed zeros do, and that a call by itself gives the bits of a vectorized loop.
#include "engine/core/scalar.h"
#include "tests/c/check.h"

#include <float.h>

typedef __int128 wide;

static const int64_t integers[] = {0,
                                   1,
                                   -1,
                                   2,
                                   -2,
                                   3,
                                   7,
                                   10,
                                   -13,
                                   127,
                                   128,
                                   255,
                                   256,
                                   -128,
                                   -129,
                                   65535,
                                   INT32_MAX,
                                   INT32_MIN,
                                   INT32_MAX - 1,
                                   INT32_MIN + 1,
                                   (int64_t)INT32_MAX + 1,
                                   INT64_MAX,
                                   INT64_MIN,
                                   INT64_MAX - 1,
                                   INT64_MIN + 1,
                                   0x123456789abcdef};
enum { INTEGERS = sizeof integers / sizeof *integers };

// Wrapping is reduction modulo 2^bits, which is what converting to the narrower type does here.
static wide divide(wide a, wide b) {
  return b == 0 ? 0 : a / b;
}
static wide power(wide a, wide b, uint64_t mask) { // modulo mask + 1
  if (b < 0) return a == 1 ? 1 : a == -1 ? (b % 2 ? -1 : 1) : 0;
  unsigned __int128 result = 1;
  for (unsigned __int128 base = (unsigned __int128)a & mask; b > 0; b /= 2, base = base * base & mask) {
    if (b % 2) result = result * base & mask;
  }
  return (wide)result;
}

#define CHECK_INTEGERS(S, T, MASK)                                                                                     \
  static void integer_arithmetic_wraps_##S(void) {                                                                     \
    for (int i = 0; i < INTEGERS; i++) {                                                                               \
      for (int j = 0; j < INTEGERS; j++) {                                                                             \
        T a = (T)integers[i], b = (T)integers[j];                                                                      \
        CHECK(pg_add_##S(a, b) == (T)((wide)a + b));                                                                   \
        CHECK(pg_sub_##S(a, b) == (T)((wide)a - b));                                                                   \
        CHECK(pg_mul_##S(a, b) == (T)((wide)a * b));                                                                   \
        CHECK_THAT(pg_div_##S(a, b) == (T)divide(a, b), "%lld / %lld", (long long)a, (long long)b);                    \
        CHECK_THAT(pg_pow_##S(a, b) == (T)power(a, b, MASK), "%lld ^ %lld", (long long)a, (long long)b);               \
        CHECK(pg_maximum_##S(a, b) == (a > b ? a : b) && pg_minimum_##S(a, b) == (a < b ? a : b));                     \
        CHECK(pg_lt_##S(a, b) == (a < b) && pg_ge_##S(a, b) == (a >= b) && pg_eq_##S(a, b) == (a == b));               \
        CHECK(pg_le_##S(a, b) == (a <= b) && pg_gt_##S(a, b) == (a > b) && pg_ne_##S(a, b) == (a != b));               \
        CHECK(pg_where_##S(true, a, b) == a && pg_where_##S(false, a, b) == b);                                        \
      }                                                                                                                \
      T a = (T)integers[i];                                                                                            \
      wide w = a;                                                                                                      \
      CHECK(pg_neg_##S(a) == (T)-w && pg_abs_##S(a) == (T)(w < 0 ? -w : w));                                           \
      CHECK(pg_sign_##S(a) == (T)((w > 0) - (w < 0)) && pg_relu_##S(a) == (w > 0 ? w : 0));                            \
      CHECK(pg_floor_##S(a) == a && pg_ceil_##S(a) == a && pg_round_##S(a) == a && pg_isfinite_##S(a));                \
    }                                                                                                                  \
  }
CHECK_INTEGERS(i32, int32_t, 0xffffffff)
CHECK_INTEGERS(i64, int64_t, 0xffffffffffffffff)
CHECK_INTEGERS(u8, uint8_t, 0xff)

static void integer_casts_wrap(void) {
  for (int i = 0; i < INTEGERS; i++) {
    int64_t x = integers[i];
    CHECK(pg_cast_i32_i64(x) == (int32_t)x && pg_cast_u8_i64(x) == (uint8_t)x && pg_cast_i64_i64(x) == x);
    CHECK(pg_cast_u8_i32((int32_t)x) == (uint8_t)x && pg_cast_i64_i32((int32_t)x) == (int32_t)x);
    CHECK(pg_cast_i32_u8((uint8_t)x) == (uint8_t)x && pg_cast_f32_u8((uint8_t)x) == (float)(uint8_t)x);
    CHECK(pg_cast_f32_i64(x) == (float)x && pg_cast_f64_i64(x) == (double)x &&
          pg_cast_f64_i32((int32_t)x) == (int32_t)x);
    CHECK(pg_cast_b8_i64(x) == (x != 0) && pg_cast_b8_u8((uint8_t)x) == ((uint8_t)x != 0));
  }
  CHECK(pg_cast_f32_b8(true) == 1 && pg_cast_i64_b8(true) == 1 && pg_cast_u8_b8(false) == 0 && pg_cast_b8_b8(true));
}

// The truncated value where it fits, else the end of the range on its side; NaN is 0.
static int64_t saturated(double x, int64_t lowest, int64_t highest) {
  if (isnan(x)) return 0;
  long double t = truncl((long double)x);
  return t <= (long double)lowest ? lowest : t >= (long double)highest ? highest : (int64_t)t;
}

static void casts_to_integers_truncate_and_saturate(void) {
  static const double values[] = {0.0,
                                  -0.0,
                                  0.99,
                                  -0.99,
                                  1.5,
                                  -1.5,
                                  254.99,
                                  255,
                                  255.99,
                                  256,
                                  -1,
                                  1e9,
                                  2147483646.5,
                                  2147483647,
                                  2147483647.5,
                                  2147483648.,
                                  -2147483648.,
                                  -2147483648.5,
                                  -2147483649.,
                                  2147483520,
                                  9007199254740993.,
                                  9.2233720368547748e18,
                                  0x1p63,
                                  -0x1p63,
                                  -9.3e18,
                                  1e300,
                                  -1e300,
                                  INFINITY,
                                  -INFINITY,
                                  NAN,
                                  5e-324};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    double x = values[i];
    float a = (float)x;
    CHECK_THAT(pg_cast_i32_f64(x) == saturated(x, INT32_MIN, INT32_MAX), "%.17g", x);
    CHECK_THAT(pg_cast_i64_f64(x) == saturated(x, INT64_MIN, INT64_MAX), "%.17g", x);
    CHECK_THAT(pg_cast_u8_f64(x) == saturated(x, 0, 255), "%.17g", x);
    CHECK_THAT(pg_cast_i32_f32(a) == saturated(a, INT32_MIN, INT32_MAX), "%.9g", a);
    CHECK_THAT(pg_cast_i64_f32(a) == saturated(a, INT64_MIN, INT64_MAX), "%.9g", a);
    CHECK_THAT(pg_cast_u8_f32(a) == saturated(a, 0, 255), "%.9g", a);
    CHECK(pg_cast_b8_f64(x) == (x != 0) && pg_cast_b8_f32(a) == (a != 0));
    CHECK(isnan(x) || pg_cast_f32_f64(x) == a);
  }
}

static void nan_is_handed_on(void) {
  float n = NAN;
  CHECK(isnan(pg_maximum_f32(n, 1)) && isnan(pg_maximum_f32(1, n)) && isnan(pg_minimum_f32(n, 1)) &&
        isnan(pg_minimum_f32(1, n)));
  CHECK(isnan(pg_maximum_f64(n, 1)) && isnan(pg_maximum_f64(1, n)) && isnan(pg_minimum_f64(n, 1)) &&
        isnan(pg_minimum_f64(1, n)));
  CHECK(isnan(pg_relu_f32(n)) && isnan(pg_relu_f64(n)) && isnan(pg_sign_f32(n)) && isnan(pg_sign_f64(n)));
  CHECK(isnan(pg_abs_f32(n)) && isnan(pg_sqrt_f32(-1)) && isnan(pg_rsqrt_f64(-1)) && isnan(pg_floor_f32(n)));
  CHECK(!pg_isfinite_f32(n) && !pg_isfinite_f32(INFINITY) && !pg_isfinite_f64(-INFINITY) && pg_isfinite_f32(FLT_MAX));
  CHECK(!pg_eq_f32(n, n) && pg_ne_f32(n, n) && !pg_lt_f32(n, 1) && !pg_ge_f32(n, 1));
  CHECK(pg_where_f32(true, 1, n) == 1 && isnan(pg_where_f32(false, 1, n)));
}

static void rounding_is_half_to_even(void) {
  CHECK(pg_round_f32(0.5f) == 0 && pg_round_f32(1.5f) == 2 && pg_round_f32(2.5f) == 2 && pg_round_f64(-2.5) == -2);
  CHECK(signbit(pg_round_f64(-0.25)) && pg_floor_f64(-0.5) == -1 && pg_ceil_f32(0.25f) == 1 &&
        pg_floor_f32(1e30f) == 1e30f);
  CHECK(pg_sign_f32(-3) == -1 && pg_sign_f64(1e-310) == 1 && pg_sign_f32(0) == 0 && pg_sign_f64(-0.0) == 0);
  CHECK(pg_relu_f32(-2) == 0 && pg_relu_f32(2) == 2 && isinf(pg_rsqrt_f32(0)) && pg_rsqrt_f32(4) == 0.5f);
}

static void truth_tables(void) {
  for (int i = 0; i < 4; i++) {
    bool a = i & 1, b = i >> 1;
    CHECK(pg_and_b8(a, b) == (a && b) && pg_or_b8(a, b) == (a || b) && pg_not_b8(a) == !a);
    CHECK(pg_eq_b8(a, b) == (a == b) && pg_ne_b8(a, b) == (a != b) && pg_where_b8(a, a, b) == (a ? a : b));
    CHECK(pg_maximum_b8(a, b) == (a || b) && pg_minimum_b8(a, b) == (a && b) && pg_lt_b8(a, b) == (!a && b));
  }
}

// A masked expression over a few dtypes, as the generator would print it, in a loop and call by call.
static float mixed_expression(float x, float y, int32_t k, uint8_t mask) {
  bool chosen = pg_and_b8(pg_lt_f32(x, y), pg_or_b8(pg_isfinite_f32(y), pg_cast_b8_u8(mask)));
  float a = pg_where_f32(chosen, pg_maximum_f32(x, y), pg_cast_f32_i32(pg_add_i32(k, pg_cast_i32_f32(y))));
  return pg_add_f32(pg_mul_f32(a, pg_sign_f32(x)), pg_where_f32(pg_not_b8(chosen), pg_round_f32(x), pg_rsqrt_f32(y)));
}
enum { MIXED = 4096 };
static __attribute__((noinline)) void mixed_loop(const float *x, const float *y, const int32_t *k, const uint8_t *mask,
                                                 float *out) {
  for (int i = 0; i < MIXED; i++) out[i] = mixed_expression(x[i], y[i], k[i], mask[i]);
}

static void one_call_gives_the_bits_of_a_loop(void) {
  static float x[MIXED], y[MIXED], out[MIXED];
  static int32_t k[MIXED];
  static uint8_t mask[MIXED];
  uint32_t state = 1;
  for (int i = 0; i < MIXED; i++) {
    x[i] = pg_from_bits_f32(state = state * 1664525 + 1013904223);
    y[i] = i % 2 ? pg_from_bits_f32(state = state * 1664525 + 1013904223) : (float)(int32_t)state * 1e-8f;
    k[i] = (int32_t)(state = state * 1664525 + 1013904223);
    mask[i] = (uint8_t)(state >> 24 & 3);
  }
  float (*volatile one)(float, float, int32_t, uint8_t) = mixed_expression;
  mixed_loop(x, y, k, mask, out);
  for (int i = 0; i < MIXED; i++) {
    float alone = one(x[i], y[i], k[i], mask[i]);
    CHECK_THAT(pg_bits_f32(alone) == pg_bits_f32(out[i]) || (isnan(alone) && isnan(out[i])), "element %d", i);
  }
}

int main(void) {
  CHECK_RUN(integer_arithmetic_wraps_i32);
  CHECK_RUN(integer_arithmetic_wraps_i64);
  CHECK_RUN(integer_arithmetic_wraps_u8);
  CHECK_RUN(integer_casts_wrap);
  CHECK_RUN(casts_to_integers_truncate_and_saturate);
  CHECK_RUN(nan_is_handed_on);
  CHECK_RUN(rounding_is_half_to_even);
  CHECK_RUN(truth_tables);
  CHECK_RUN(one_call_gives_the_bits_of_a_loop);
  return check_result();
}
