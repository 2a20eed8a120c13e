// weak.c: one double-precision function per elementwise operation, through the same definitions that kernels use.
#include "engine/graph/weak.h"

#include "engine/core/scalar.h"
#include "engine/ops/ops.h"

typedef double (*weak_fn)(double, double, double);

#define WEAK1(name)                                                                                                    \
  static double weak_##name(double a, double b, double c) {                                                            \
    (void)b, (void)c;                                                                                                  \
    return pg_##name##_f64(a);                                                                                         \
  }
#define WEAK2(name)                                                                                                    \
  static double weak_##name(double a, double b, double c) {                                                            \
    (void)c;                                                                                                           \
    return pg_##name##_f64(a, b);                                                                                      \
  }
// clang-format off
WEAK1(neg) WEAK1(abs) WEAK1(sign) WEAK1(floor) WEAK1(ceil) WEAK1(round) WEAK1(sqrt) WEAK1(rsqrt) WEAK1(exp)
WEAK1(expm1) WEAK1(log) WEAK1(log1p) WEAK1(sin) WEAK1(cos) WEAK1(tanh) WEAK1(erf) WEAK1(sigmoid) WEAK1(softplus)
WEAK1(relu) WEAK1(isfinite) WEAK2(add) WEAK2(sub) WEAK2(mul) WEAK2(div) WEAK2(pow) WEAK2(maximum) WEAK2(minimum)
WEAK2(lt) WEAK2(le) WEAK2(gt) WEAK2(ge) WEAK2(eq) WEAK2(ne)

static double weak_not(double a, double b, double c) {
  (void)b, (void)c;
  return a == 0;
}
// clang-format on

static double weak_and(double a, double b, double c) {
  (void)c;
  return a != 0 && b != 0;
}

static double weak_or(double a, double b, double c) {
  (void)c;
  return a != 0 || b != 0;
}

static double weak_where(double a, double b, double c) {
  return a != 0 ? b : c;
}

static double weak_cast(double a, double b, double c) {
  (void)b, (void)c;
  return a;
}

static const weak_fn functions[PG_NUM_OPS] = {
#define M(NAME, name, arity) [PG_OP_##NAME] = weak_##name,
    PG_MAP_OPS(M)
#undef M
};

double pg_weak_apply(int op, double a, double b, double c) {
  return functions[op](a, b, c);
}
