// test_vmath: the elementary functions of engine/core/vmath.h against long double libm, over whole domains and around
// the places where a method changes; their special values; and that a call by itself gives the bits of a vectorized
// loop.
#include "engine/core/vmath.h"
#include "tests/c/check.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

// ---- what is tested -----------------------------------------------------------------------------------------------

#define UNARY(M) M(exp) M(expm1) M(log) M(log1p) M(sin) M(cos) M(tanh) M(erf) M(sigmoid) M(softplus)
#define NOINLINE __attribute__((noinline))

static float fixed_power_f32(float x) {
  return pg_pow_f32(x, 1.7f);
}
static double fixed_power_f64(double x) {
  return pg_pow_f64(x, 1.7);
}

// One call by itself, and the loop that the compiler vectorizes.
#define DEFINE_CALLS(name, f32, f64)                                                                                   \
  static NOINLINE float one_##name##_f32(float x) {                                                                    \
    return f32(x);                                                                                                     \
  }                                                                                                                    \
  static NOINLINE double one_##name##_f64(double x) {                                                                  \
    return f64(x);                                                                                                     \
  }                                                                                                                    \
  static NOINLINE void many_##name##_f32(int n, const float *x, float *y) {                                            \
    for (int i = 0; i < n; i++) y[i] = f32(x[i]);                                                                      \
  }                                                                                                                    \
  static NOINLINE void many_##name##_f64(int n, const double *x, double *y) {                                          \
    for (int i = 0; i < n; i++) y[i] = f64(x[i]);                                                                      \
  }
#define M(name) DEFINE_CALLS(name, pg_##name##_f32, pg_##name##_f64)
UNARY(M)
#undef M
DEFINE_CALLS(power, fixed_power_f32, fixed_power_f64)

static long double sigmoidl(long double x) {
  return x < 0 ? expl(x) / (1 + expl(x)) : 1 / (1 + expl(-x));
}
static long double softplusl(long double x) {
  return x > 0 ? x + log1pl(expl(-x)) : log1pl(expl(x));
}

typedef struct function {
  const char *name;
  float (*one_f32)(float);
  void (*many_f32)(int, const float *, float *);
  double (*one_f64)(double);
  void (*many_f64)(int, const double *, double *);
  long double (*exact)(long double); // NULL: only compared with itself
  double largest;                    // |x| up to here
  double turns[4];                   // where methods change: tested densely around, on both sides of 0
  double allowed_f32, allowed_f64;   // ulp
} function;

#define CALLS(name) #name, one_##name##_f32, many_##name##_f32, one_##name##_f64, many_##name##_f64
static const function functions[] = {
    {CALLS(exp), expl, INFINITY, {0.3465, 1, 104, 745}, 1.1, 1.1},
    {CALLS(expm1), expm1l, INFINITY, {0.3465, 1.04, 17.3, 37}, 1.75, 1.9},
    {CALLS(log), logl, INFINITY, {0.7071, 1, 1.41421, 2}, 1.1, 1},
    {CALLS(log1p), log1pl, INFINITY, {0.29289, 0.41421, 1, 0.99}, 1.6, 1.6},
    {CALLS(sin), sinl, 0x1p30, {0.7854, 1.5708, 3.14159, 6.2832}, 1.6, 1.6},
    {CALLS(cos), cosl, 0x1p30, {0.7854, 1.5708, 3.14159, 6.2832}, 1.6, 1.6},
    {CALLS(tanh), tanhl, INFINITY, {0.2, 0.6, 9, 19}, 1.6, 2.6},
    {CALLS(erf), erfl, INFINITY, {0.9277, 1, 4, 6}, 1.2, 1.4},
    {CALLS(sigmoid), sigmoidl, INFINITY, {0.2, 2.75, 88, 709}, 2.5, 2.5},
    {CALLS(softplus), softplusl, INFINITY, {0.8, 4, 17, 37}, 1.9, 1.9},
    {CALLS(power), NULL, INFINITY, {0.5, 1, 1.5, 2}, 0, 0},
};
enum { FUNCTIONS = sizeof functions / sizeof *functions, POINTS = 1 << 16 };

static const function *tested; // by the running test

// ---- sampling and measuring ---------------------------------------------------------------------------------------

static uint64_t sample_state;
static uint64_t sample(void) { // splitmix64
  uint64_t z = (sample_state += 0x9E3779B97F4A7C15);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}
static double sample_unit(void) {
  return (double)(sample() >> 11) * 0x1p-53;
}

// A third any bit pattern at all, a third within a factor of two of the turns, a third plain numbers below 10.
static double sample_argument(const function *f, bool narrow) {
  double x = narrow ? pg_from_bits_f32((uint32_t)sample()) : pg_from_bits_f64(sample());
  double sign = sample() & 1 ? 1 : -1;
  switch (sample() % 3) {
  case 0:
    return fabs(x) <= f->largest ? x : 0;
  case 1:
    return sign * f->turns[sample() % 4] * (0.5 + 1.5 * sample_unit());
  default:
    return sign * 10 * sample_unit();
  }
}

static bool same_f32(float a, float b) {
  return pg_bits_f32(a) == pg_bits_f32(b) || (isnan(a) && isnan(b));
}
static bool same_f64(double a, double b) {
  return pg_bits_f64(a) == pg_bits_f64(b) || (isnan(a) && isnan(b));
}

// |y - exact| in units in the last place of a format with `digits` binary digits and least exponent `least`. Beyond the
// range of the format an infinity is right.
static double ulps(long double y, long double exact, long double largest, int digits, int least) {
  if (isnan(exact)) return isnan(y) ? 0 : INFINITY;
  if (isinf(exact)) return y == exact ? 0 : INFINITY;
  int exponent;
  frexpl(exact, &exponent);
  long double unit = ldexpl(1, (exponent < least ? least : exponent) - digits);
  if (isinf(y)) return fabsl(exact) > largest - unit && (y > 0) == (exact > 0) ? 0 : INFINITY;
  return (double)(fabsl(y - exact) / unit);
}
static double ulps_f32(float y, long double exact) {
  return ulps(y, exact, FLT_MAX, FLT_MANT_DIG, FLT_MIN_EXP);
}
static double ulps_f64(double y, long double exact) {
  return ulps(y, exact, DBL_MAX, DBL_MANT_DIG, DBL_MIN_EXP);
}

// ---- accuracy -----------------------------------------------------------------------------------------------------

static float x32[POINTS], y32[POINTS];
static double x64[POINTS], y64[POINTS];

static void f32_is_accurate(void) {
  for (int i = 0; i < POINTS; i++) x32[i] = (float)sample_argument(tested, true);
  tested->many_f32(POINTS, x32, y32);
  double worst = 0;
  float where = 0;
  for (int i = 0; i < POINTS; i++) {
    double error = ulps_f32(y32[i], tested->exact(x32[i]));
    if (error > worst) worst = error, where = x32[i];
  }
  printf("# %s f32: worst error %.3f ulp (allowed %.2f) at %.9g\n", tested->name, worst, tested->allowed_f32, where);
  CHECK_THAT(worst <= tested->allowed_f32, "%s at %.9g", tested->name, where);
}

static void f64_is_accurate(void) {
  if (LDBL_MANT_DIG < 64) CHECK_SKIP("long double is no wider than double here");
  for (int i = 0; i < POINTS; i++) x64[i] = sample_argument(tested, false);
  tested->many_f64(POINTS, x64, y64);
  double worst = 0, where = 0;
  for (int i = 0; i < POINTS; i++) {
    double error = ulps_f64(y64[i], tested->exact(x64[i]));
    if (error > worst) worst = error, where = x64[i];
  }
  printf("# %s f64: worst error %.3f ulp (allowed %.2f) at %.17g\n", tested->name, worst, tested->allowed_f64, where);
  CHECK_THAT(worst <= tested->allowed_f64, "%s at %.17g", tested->name, where);
}

static void one_call_gives_the_bits_of_a_loop(void) {
  float (*volatile one_f32)(float) = tested->one_f32;
  double (*volatile one_f64)(double) = tested->one_f64;
  for (int i = 0; i < POINTS; i++) {
    x32[i] = i % 64 == 0 ? pg_from_bits_f32((uint32_t)sample()) : (float)sample_argument(tested, true);
    x64[i] = i % 64 == 0 ? pg_from_bits_f64(sample()) : sample_argument(tested, false);
  }
  tested->many_f32(POINTS, x32, y32);
  tested->many_f64(POINTS, x64, y64);
  for (int i = 0; i < POINTS; i++) {
    CHECK_THAT(same_f32(one_f32(x32[i]), y32[i]), "%s f32 at %.9g", tested->name, x32[i]);
    CHECK_THAT(same_f64(one_f64(x64[i]), y64[i]), "%s f64 at %.17g", tested->name, x64[i]);
  }
}

static void pow_is_accurate(void) {
  double worst32 = 0, worst64 = 0;
  for (int i = 0; i < POINTS; i++) {
    // Any base, with an exponent that leaves the result in range.
    double x = i % 2 ? 0.5 + sample_unit() : pg_from_bits_f64(sample() >> 1);
    double range = (i % 4 < 2 ? 2 : 1000) * sample_unit() - (i % 4 < 2 ? 1 : 500);
    double y = x == 1 ? range : range / fabs(log(x));
    if (!isfinite(x) || x == 0) continue;
    double error = ulps_f64(pg_pow_f64(x, y), powl(x, y));
    if (error > worst64) worst64 = error;
    float a = (float)x, b = (float)y;
    error = ulps_f32(pg_pow_f32(a, b), powl(a, b));
    if (error > worst32) worst32 = error;
  }
  printf("# pow: worst error f32 %.3f ulp (allowed 0.51), f64 %.3f ulp (allowed 1.3)\n", worst32, worst64);
  CHECK(worst32 <= 0.51);
  CHECK(worst64 <= 1.3);
}

// Annex F of C: every pair of odd customers, against libm.
static void pow_has_the_special_values_of_c(void) {
  static const double values[] = {0.0,    -0.0,    1,        -1,          INFINITY, -INFINITY,     NAN,
                                  2,      -2,      3,        -3,          0.5,      -0.5,          1.5,
                                  -1.5,   1e-310,  -1e-310,  DBL_MIN,     DBL_MAX,  -DBL_MAX,      0x1p52 + 1,
                                  0x1p53, 1e300,   -1e300,   1 - 0x1p-53, 1e-40,    1 + 0x1p-52,   -1 - 0x1p-52,
                                  1e20,   FLT_MAX, -FLT_MAX, 0x1p24f + 1, FLT_MIN,  0x1p23f + 1.f, -0x1p23f - 1.f};
  enum { COUNT = sizeof values / sizeof *values };
  for (int i = 0; i < COUNT; i++) {
    for (int j = 0; j < COUNT; j++) {
      double x = values[i], y = values[j], got = pg_pow_f64(x, y), want = pow(x, y);
      CHECK_THAT(ulps_f64(got, want) <= 2 && (isnan(want) || !signbit(got) == !signbit(want)),
                 "pow(%.17g, %.17g) = %.17g, not %.17g", x, y, got, want);
      float a = (float)x, b = (float)y, got32 = pg_pow_f32(a, b), want32 = powf(a, b);
      CHECK_THAT(ulps_f32(got32, want32) <= 2 && (isnan(want32) || !signbit(got32) == !signbit(want32)),
                 "powf(%.9g, %.9g) = %.9g, not %.9g", a, b, got32, want32);
    }
  }
}

static void squares_are_products_rounded_once(void) {
  for (int i = 0; i < POINTS; i++) {
    float a = pg_from_bits_f32((uint32_t)sample());
    double x = pg_from_bits_f64(sample());
    CHECK_THAT(same_f32(pg_pow_f32(a, 2), a * a), "%.9g", a);
    CHECK_THAT(same_f64(pg_pow_f64(x, 2), x * x), "%.17g", x);
    CHECK(pg_pow_f32(a, 0) == 1 && pg_pow_f64(x, 0) == 1);
    CHECK(same_f32(pg_pow_f32(a, 1), a));
  }
}

// ---- special values -----------------------------------------------------------------------------------------------

// These hold exactly, zeros with their sign; NaN and the two zeros are checked of every function besides.
static const struct exact_value {
  const char *name;
  double x, f32, f64;
} exact_values[] = {
    {"exp", 0, 1, 1},
    {"exp", INFINITY, INFINITY, INFINITY},
    {"exp", -INFINITY, 0, 0},
    {"exp", 89, INFINITY, 4.4896128191743455e38},
    {"exp", -104, 0, 6.8135568215452984e-46},
    {"exp", 710, INFINITY, INFINITY},
    {"exp", -746, 0, 0},
    {"expm1", -0.0, -0.0, -0.0},
    {"expm1", 0x1p-149, 0x1p-149, 0x1p-149},
    {"expm1", INFINITY, INFINITY, INFINITY},
    {"expm1", -INFINITY, -1, -1},
    {"expm1", 1000, INFINITY, INFINITY},
    {"expm1", -1000, -1, -1},
    {"log", 0, -INFINITY, -INFINITY},
    {"log", -0.0, -INFINITY, -INFINITY},
    {"log", 1, 0, 0},
    {"log", INFINITY, INFINITY, INFINITY},
    {"log", -1, NAN, NAN},
    {"log", -INFINITY, NAN, NAN},
    {"log1p", -0.0, -0.0, -0.0},
    {"log1p", -1, -INFINITY, -INFINITY},
    {"log1p", -1.5, NAN, NAN},
    {"log1p", INFINITY, INFINITY, INFINITY},
    {"log1p", 0x1p-149, 0x1p-149, 0x1p-149},
    {"sin", -0.0, -0.0, -0.0},
    {"sin", INFINITY, NAN, NAN},
    {"sin", -INFINITY, NAN, NAN},
    {"sin", 0x1p-149, 0x1p-149, 0x1p-149},
    {"cos", 0, 1, 1},
    {"cos", -0.0, 1, 1},
    {"cos", INFINITY, NAN, NAN},
    {"tanh", -0.0, -0.0, -0.0},
    {"tanh", 30, 1, 1},
    {"tanh", INFINITY, 1, 1},
    {"tanh", -INFINITY, -1, -1},
    {"tanh", 0x1p-149, 0x1p-149, 0x1p-149},
    {"erf", -0.0, -0.0, -0.0},
    {"erf", 7, 1, 1},
    {"erf", INFINITY, 1, 1},
    {"erf", -INFINITY, -1, -1},
    {"sigmoid", 0, 0.5, 0.5},
    {"sigmoid", INFINITY, 1, 1},
    {"sigmoid", -INFINITY, 0, 0},
    {"softplus", INFINITY, INFINITY, INFINITY},
    {"softplus", -INFINITY, 0, 0},
    {"softplus", 200, 200, 200},
};

static void special_values_are_exact(void) {
  CHECK(isnan(tested->one_f32(NAN)) && isnan(tested->one_f64(NAN)));
  for (size_t i = 0; i < sizeof exact_values / sizeof *exact_values; i++) {
    const struct exact_value *v = &exact_values[i];
    if (strcmp(v->name, tested->name) != 0) continue;
    float y32 = tested->one_f32((float)v->x);
    double y64 = tested->one_f64(v->x);
    CHECK_THAT(same_f32(y32, (float)v->f32), "%s f32 of %g is %.9g", v->name, v->x, y32);
    CHECK_THAT(same_f64(y64, v->f64), "%s f64 of %g is %.17g", v->name, v->x, y64);
  }
}

static void sin_and_cos_stay_within_one_for_any_finite_argument(void) {
  for (int i = 0; i < POINTS; i++) {
    float a = pg_from_bits_f32((uint32_t)sample());
    double x = pg_from_bits_f64(sample());
    if (isfinite(a)) CHECK_THAT(fabsf(pg_sin_f32(a)) <= 1 && fabsf(pg_cos_f32(a)) <= 1, "%.9g", a);
    if (isfinite(x)) CHECK_THAT(fabs(pg_sin_f64(x)) <= 1 && fabs(pg_cos_f64(x)) <= 1, "%.17g", x);
    double wide = ldexp(sample_unit(), 51); // past the range of the ulp bounds, the reduction is still right
    CHECK_NEAR(pg_sin_f64(wide), (double)sinl(wide), 1e-13);
    CHECK_NEAR(pg_cos_f64(wide), (double)cosl(wide), 1e-13);
    CHECK_NEAR(pg_sin_f32((float)wide), sin((float)wide), 3e-7);
  }
}

static void odd_functions_are_odd(void) {
  for (int i = 0; i < POINTS; i++) {
    float a = pg_from_bits_f32((uint32_t)sample());
    double x = pg_from_bits_f64(sample());
    CHECK(same_f32(pg_tanh_f32(-a), -pg_tanh_f32(a)) && same_f64(pg_tanh_f64(-x), -pg_tanh_f64(x)));
    CHECK(same_f32(pg_erf_f32(-a), -pg_erf_f32(a)) && same_f64(pg_erf_f64(-x), -pg_erf_f64(x)));
    a = (float)(100 * sample_unit()), x = 100 * sample_unit();
    CHECK(same_f32(pg_sin_f32(-a), -pg_sin_f32(a)) && same_f64(pg_sin_f64(-x), -pg_sin_f64(x)));
    CHECK(same_f32(pg_cos_f32(-a), pg_cos_f32(a)) && same_f64(pg_cos_f64(-x), pg_cos_f64(x)));
  }
}

static void run_for_every_function(const char *fact, void (*test)(void), bool needs_exact) {
  for (int i = 0; i < FUNCTIONS; i++) {
    tested = &functions[i];
    if (needs_exact && !tested->exact) continue;
    char name[100];
    snprintf(name, sizeof name, "%s: %s", tested->name, fact);
    check_run(name, test);
  }
}

int main(void) {
  sample_state = 20240607;
  printf("# seed %llu, %d points per check\n", (unsigned long long)sample_state, POINTS);
  run_for_every_function("f32 is accurate", f32_is_accurate, true);
  run_for_every_function("f64 is accurate", f64_is_accurate, true);
  run_for_every_function("one call gives the bits of a loop", one_call_gives_the_bits_of_a_loop, false);
  run_for_every_function("special values are exact", special_values_are_exact, false);
  CHECK_RUN(pow_is_accurate);
  CHECK_RUN(pow_has_the_special_values_of_c);
  CHECK_RUN(squares_are_products_rounded_once);
  CHECK_RUN(sin_and_cos_stay_within_one_for_any_finite_argument);
  CHECK_RUN(odd_functions_are_odd);
  return check_result();
}
