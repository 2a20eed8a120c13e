// test_ops.c: derivatives of every differentiable function of the engine. For random operands x, cotangent c and
// directions u:
//   * the gradient of <c, y(x)> agrees with 4-point central differences in f64 to 1e-7 (relative to max(1e-3,
//   |gradient|));
//   * so does the gradient of <u, gradient>, to 1e-6;
//   * <c, jvp(u)> = <gradient, u>, and forward over reverse equals reverse over reverse.
#include "tests/c/op_cases.h"

static double output(const bench *b, int k, int64_t i) {
  return ((double *)pg_tensor_data(b->outputs[k]))[place(b->outputs[k], i)];
}

static double *variable(bench *b, int k, int64_t i) {
  if (b->scalar_of[k] >= 0) return &b->scalars[b->scalar_of[k]];
  pg_tensor *t = b->tensors[b->input_of[k]];
  return (double *)pg_tensor_data(t) + place(t, i);
}

// d outputs[which] / dx by 4-point central differences, both at once.
static void difference(bench *b, double *x, double *first, double *second) {
  static const double weight[4] = {1.0 / 12, -8.0 / 12, 8.0 / 12, -1.0 / 12}, step[4] = {-2, -1, 1, 2};
  const double x0 = *x, h = 1e-3;
  *first = *second = 0;
  for (int i = 0; i < 4; i++) {
    *x = x0 + step[i] * h;
    run(b);
    *first += weight[i] * output(b, 0, 0) / h;
    *second += weight[i] * output(b, 1, 0) / h;
  }
  *x = x0;
}

enum { LARGEST = 1000 };

static void compare(const double *found, const double *expected, int64_t n, double tolerance, const char *what) {
  double error = 0, scale = 1e-3;
  for (int64_t i = 0; i < n; i++) {
    error = fmax(error, fabs(found[i] - expected[i]));
    scale = fmax(scale, fabs(expected[i]));
    CHECK_THAT(isfinite(found[i]), "%s: element %d is %g", what, (int)i, found[i]);
  }
  CHECK_THAT(error <= tolerance * scale, "%s: off by %.3g of %.3g", what, error, scale);
}

static void check_bench(bench *b) {
  static double found[2][LARGEST], expected[2][LARGEST];
  double scale = 1e-3;
  run(b);
  double product = 0, curvature = 0;
  for (int i = 0; i < b->nvar; i++) {
    pg_tensor *u = b->tensors[b->direction_of[i]];
    for (int64_t e = 0; e < logical_size(u); e++) {
      const double ue = ((double *)pg_tensor_data(u))[place(u, e)];
      product += ue * output(b, 4 + i, e);
      curvature += ue * output(b, 4 + b->nvar + i, e);
      scale += fabs(ue * output(b, 4 + i, e)) + fabs(ue * output(b, 4 + b->nvar + i, e));
    }
  }
  CHECK_THAT(fabs(output(b, 2, 0) - product) <= 1e-11 * scale, "jvp %.17g, vjp %.17g", output(b, 2, 0), product);
  CHECK_THAT(fabs(output(b, 1, 0) - product) <= 1e-11 * scale, "<u, gradient>");
  CHECK_THAT(fabs(output(b, 3, 0) - curvature) <= 1e-11 * scale, "forward over reverse %.17g, reverse twice %.17g",
             output(b, 3, 0), curvature);
  for (int i = 0; i < b->nvar; i++) {
    const int64_t n = logical_size(b->outputs[4 + i]);
    CHECK(n <= LARGEST);
    for (int64_t e = 0; e < n; e++) {
      found[0][e] = output(b, 4 + i, e);
      found[1][e] = output(b, 4 + b->nvar + i, e);
    }
    for (int64_t e = 0; e < n; e++) {
      difference(b, variable(b, b->var[i], e), &expected[0][e], &expected[1][e]);
      run(b);
    }
    compare(found[0], expected[0], n, 1e-7, "gradient");
    compare(found[1], expected[1], n, 1e-6, "second derivative");
  }
}

static const op_case *current;
static bench the_bench;

static void check_case(void) {
  bench *b = &the_bench;
  open_bench(b, 12345, current->n, current->in);
  b->y = pg_call(b->g, current->function, b->n, b->x, &current->attrs);
  add_derivatives(b);
  check_bench(b);
}

int main(int argc, char **argv) {
  if (make_layout() != PG_OK) return 1;
  for (int i = 0; i < NCASES; i++) {
    const op_case *c = current = &cases[i];
    char text[200];
    if (argc > 1 && strcmp(argv[1], c->function) != 0) continue;
    check_run(describe("derivatives of ", c->function, c->n, c->in, text, sizeof text), check_case);
    bench_close(&the_bench);
  }
  pg_layout_release(layout);
  return check_result();
}
