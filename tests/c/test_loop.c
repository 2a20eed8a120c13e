// test_loop.c: regions: scan against the same loop unrolled (values bit for bit, derivatives of first and second order
// to rounding), carries that change in place, while_loop, rematerialization (same bits, less memory).
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/graph/graph.h"
#include "engine/ops/ops.h"
#include "tests/c/check.h"

enum { STEPS = 7, N = 5 };

static pg_graph *new_graph(void) {
  pg_graph *g = NULL;
  CHECK_STATUS(pg_graph_new(&g), PG_OK);
  return g;
}

static pg_value vec(pg_graph *g, int64_t n) {
  return pg_input(g, PG_F64, 1, &n, NULL);
}

// h' = tanh(W h + x) * s; y = sum(h' * h')
static void cell(pg_graph *g, pg_value w, pg_value s, pg_value h, pg_value x, pg_value *next, pg_value *y) {
  *next = pg_call2(g, "mul", pg_call1(g, "tanh", pg_call2(g, "add", pg_call2(g, "matmul", w, h), x)), s);
  *y = pg_reduce(g, "sum", pg_call2(g, "mul", *next, *next), 0, NULL, false);
}

// Inputs W [N,N], h [N], xs [STEPS,N]; scalar s. Results: last h, ys [STEPS].
typedef struct model {
  pg_graph *g;
  pg_value w, h, xs, s, last, ys;
} model;

static model start(void) {
  model m = {.g = new_graph()};
  m.w = pg_input(m.g, PG_F64, 2, (int64_t[]){N, N}, NULL);
  m.h = vec(m.g, N);
  m.xs = pg_input(m.g, PG_F64, 2, (int64_t[]){STEPS, N}, NULL);
  m.s = pg_scalar(m.g);
  return m;
}

static model scanned(bool reverse) {
  model m = start();
  pg_graph *b = new_graph();
  pg_value w = pg_input(b, PG_F64, 2, (int64_t[]){N, N}, NULL), h = vec(b, N), x = vec(b, N), s = pg_scalar(b), outs[2],
           r[2];
  cell(b, w, s, h, x, &outs[0], &outs[1]);
  pg_value in[] = {m.w, m.h, m.xs, m.s};
  CHECK_STATUS(pg_scan(m.g, b, 2, outs, 1, 1, in, STEPS, reverse, r), PG_OK);
  m.last = r[0];
  m.ys = r[1];
  return m;
}

static model unrolled(bool reverse) {
  model m = start();
  pg_value h = m.h, ys[STEPS];
  for (int k = 0; k < STEPS; k++) {
    int t = reverse ? STEPS - 1 - k : k;
    pg_attrs slice = {.n = 2, .a = {t, 0}, .b = {1, N}, .c = {1, 1}}, one = {.n = 1, .a = {1}};
    pg_value x = pg_node_make(m.g, PG_OP_SLICE, 1, &m.xs, &slice, NULL), y;
    x = pg_reshape(m.g, x, 1, (int64_t[]){N});
    cell(m.g, m.w, m.s, h, x, &h, &y);
    ys[t] = pg_node_make(m.g, PG_OP_RESHAPE, 1, &y, &one, NULL);
  }
  pg_attrs axis = {.n = 1};
  m.last = h;
  m.ys = pg_node_make(m.g, PG_OP_CONCAT, STEPS, ys, &axis, NULL);
  return m;
}

// loss = sum(last^2) + <ys, ys>; results: loss, last, ys, dW, dh, dxs, and d/dW of |dW|^2 + |dh|^2 + |dxs|^2.
static void run_model(model m, pg_executor executor, double out[9][64]) {
  pg_graph *g = m.g;
  pg_value loss = pg_call2(g, "add", pg_reduce(g, "sum", pg_call2(g, "mul", m.last, m.last), 0, NULL, false),
                           pg_reduce(g, "sum", pg_call2(g, "mul", m.ys, m.ys), 0, NULL, false));
  pg_value wrt[] = {m.w, m.h, m.xs}, grads[3], none = PG_NONE, second, norm = pg_number(g, 0), tangent;
  CHECK_STATUS(pg_vjp(g, 1, &loss, &none, 3, wrt, grads), PG_OK);
  for (int i = 0; i < 3; i++)
    norm = pg_call2(g, "add", norm, pg_reduce(g, "sum", pg_call2(g, "mul", grads[i], grads[i]), 0, NULL, false));
  CHECK_STATUS(pg_vjp(g, 1, &norm, &none, 1, &m.w, &second), PG_OK);
  pg_value dirs[] = {m.w, m.h, PG_NONE};
  CHECK_STATUS(pg_jvp(g, 3, wrt, dirs, 1, &loss, &tangent), PG_OK);
  pg_value outs[] = {loss, m.last, m.ys, grads[0], grads[1], grads[2], second, tangent};
  pg_compile_options options = {.executor = executor};
  pg_plan *plan = NULL;
  CHECK_STATUS(pg_compile(g, 8, outs, &options, &plan), PG_OK);
  double w[N * N], h[N], xs[STEPS * N], s = 0.9;
  for (int i = 0; i < N * N; i++) w[i] = sin(1.3 * i) * 0.6;
  for (int i = 0; i < N; i++) h[i] = cos(0.7 * i);
  for (int i = 0; i < STEPS * N; i++) xs[i] = sin(0.37 * i + 1);
  void *in[] = {w, h, xs}, *to[8];
  for (int k = 0; k < 8; k++) to[k] = out[k];
  CHECK_STATUS(pg_plan_run(plan, in, &s, to), PG_OK);
  pg_plan_free(plan);
  pg_graph_free(g);
}

static void scan_is_its_loop_unrolled(void) {
  static const int sizes[] = {1, N, STEPS, N * N, N, STEPS * N, N * N, 1};
  for (int reverse = 0; reverse < 2; reverse++)
    for (pg_executor e = PG_EXEC_INTERPRET; e <= PG_EXEC_GENERATE; e++) {
      static double a[9][64], b[9][64];
      run_model(scanned(reverse), e, a);
      run_model(unrolled(reverse), e, b);
      CHECK(memcmp(a[1], b[1], N * sizeof(double)) == 0); // values: the same bits
      CHECK(memcmp(a[2], b[2], STEPS * sizeof(double)) == 0);
      for (int k = 0; k < 8; k++)
        for (int i = 0; i < sizes[k]; i++) CHECK_NEAR(a[k][i], b[k][i], 1e-11 * (1 + fabs(b[k][i])));
    }
}

// a, b = b, a + b * x, and where `kept`, y = a: a carry that must not change before it is read, and one that an output
// keeps as it was.
static void carries_may_swap_and_be_kept(bool kept) {
  pg_graph *g = new_graph(), *body = new_graph();
  pg_value in[] = {vec(g, N), vec(g, N), pg_input(g, PG_F64, 2, (int64_t[]){STEPS, N}, NULL)}, r[3];
  pg_value a = vec(body, N), b = vec(body, N), x = vec(body, N);
  pg_value outs[] = {b, pg_call2(body, "add", a, pg_call2(body, "mul", b, x)), a};
  CHECK_STATUS(pg_scan(g, body, kept ? 3 : 2, outs, 0, 2, in, STEPS, false, r), PG_OK);
  pg_plan *plan = NULL;
  CHECK_STATUS(pg_compile(g, kept ? 3 : 2, r, NULL, &plan), PG_OK);
  double av[N], bv[N], xv[STEPS * N], last_a[N], last_b[N], ys[STEPS * N];
  for (int i = 0; i < N; i++) av[i] = i, bv[i] = 1 - i;
  for (int i = 0; i < STEPS * N; i++) xv[i] = sin(i);
  void *ip[] = {av, bv, xv}, *op[] = {last_a, last_b, ys};
  for (int run = 0; run < 2; run++) CHECK_STATUS(pg_plan_run(plan, ip, NULL, op), PG_OK); // the inputs stay as they are
  for (int i = 0; i < N; i++) {
    double first = i, second = 1 - i;
    for (int k = 0; k < STEPS; k++) {
      if (kept) CHECK(ys[k * N + i] == first);
      double next = first + second * xv[k * N + i];
      first = second, second = next;
    }
    CHECK(last_a[i] == first && last_b[i] == second);
  }
  pg_plan_free(plan);
  pg_graph_free(g);
}

static void carries_swap_in_place(void) {
  carries_may_swap_and_be_kept(false);
}

static void a_carry_that_an_output_keeps_is_not_overwritten(void) {
  carries_may_swap_and_be_kept(true);
}

static void a_sum_takes_no_memory_beside_its_result(void) {
  enum { SIZE = 4096 };
  pg_graph *g = new_graph(), *b = new_graph();
  pg_value in[] = {vec(g, SIZE), pg_input(g, PG_F64, 2, (int64_t[]){STEPS, SIZE}, NULL)}, r;
  pg_value carry = vec(b, SIZE), out = pg_call2(b, "add", carry, vec(b, SIZE));
  CHECK_STATUS(pg_scan(g, b, 1, &out, 0, 1, in, STEPS, false, &r), PG_OK);
  pg_plan *plan = NULL;
  CHECK_STATUS(pg_compile(g, 1, &r, NULL, &plan), PG_OK);
  pg_plan_info info;
  pg_plan_describe(plan, &info);
  CHECK_THAT(info.arena_bytes < SIZE * sizeof(double), "%zu bytes", info.arena_bytes);
  pg_plan_free(plan);
  pg_graph_free(g);
}

// Newton's square root: while |x*x - a| > 1e-12 * a: x = (x + a/x) / 2, counting turns.
static void while_loops_until_its_condition_fails(void) {
  pg_graph *g = new_graph(), *b = new_graph(), *c = new_graph();
  pg_value a = pg_input(g, PG_F64, 0, NULL, NULL), x = pg_input(g, PG_F64, 0, NULL, NULL);
  pg_value n = pg_cast(g, pg_number(g, 0), PG_I32);
  pg_value ca = pg_input(c, PG_F64, 0, NULL, NULL), cx = pg_input(c, PG_F64, 0, NULL, NULL);
  pg_input(c, PG_I32, 0, NULL, NULL);
  pg_value error = pg_call1(c, "abs", pg_call2(c, "sub", pg_call2(c, "mul", cx, cx), ca));
  pg_value keep = pg_call2(c, "gt", error, pg_call2(c, "mul", pg_number(c, 1e-12), ca));
  pg_value ba = pg_input(b, PG_F64, 0, NULL, NULL), bx = pg_input(b, PG_F64, 0, NULL, NULL);
  pg_value bn = pg_input(b, PG_I32, 0, NULL, NULL);
  pg_value half = pg_number(b, 0.5);
  pg_value outs[] = {pg_call2(b, "mul", half, pg_call2(b, "add", bx, pg_call2(b, "div", ba, bx))),
                     pg_call2(b, "add", bn, pg_number(b, 1))};
  pg_value in[] = {a, x, n}, r[2], grad, none = PG_NONE;
  CHECK_STATUS(pg_while(g, c, keep, b, 2, outs, 1, in, r), PG_OK);
  CHECK_STATUS(pg_vjp(g, 1, &r[0], &none, 1, &a, &grad), PG_ERR_UNSUPPORTED);
  CHECK(strstr(pg_last_error(), "while_loop") != NULL);
  pg_plan *plan = NULL;
  CHECK_STATUS(pg_compile(g, 2, r, NULL, &plan), PG_OK);
  double av = 2, xv = 1, root;
  int32_t turns;
  void *ip[] = {&av, &xv}, *op[] = {&root, &turns};
  CHECK_STATUS(pg_plan_run(plan, ip, NULL, op), PG_OK);
  CHECK_NEAR(root, sqrt(2), 1e-12);
  CHECK(turns == 5 || turns == 4);
  av = xv = 1; // nothing to do
  CHECK_STATUS(pg_plan_run(plan, ip, NULL, op), PG_OK);
  CHECK(root == 1 && turns == 0);
  pg_plan_free(plan);
  pg_graph_free(g);
}

// A chain of blocks h = tanh(h * h + x) of four maps each, plain or rematerialized.
static size_t chain(bool remat, double *grad) {
  enum { BLOCKS = 6, SIZE = 4096 };
  pg_graph *g = new_graph();
  pg_value x = vec(g, SIZE), h = x, loss, d, none = PG_NONE;
  for (int k = 0; k < BLOCKS; k++) {
    pg_graph *b = remat ? new_graph() : g;
    pg_value y = remat ? vec(b, SIZE) : h;
    for (int i = 0; i < 4; i++) // transposes keep the maps apart, so that each result is in memory
      y = pg_transpose(b, pg_reshape(b, pg_call1(b, "sin", y), 2, (int64_t[]){64, 64}), (int[]){1, 0}),
      y = pg_reshape(b, y, 1, (int64_t[]){SIZE});
    if (remat)
      CHECK_STATUS(pg_remat(g, b, 1, &y, &h, &h), PG_OK);
    else
      h = y;
  }
  loss = pg_reduce(g, "sum", h, 0, NULL, false);
  CHECK_STATUS(pg_vjp(g, 1, &loss, &none, 1, &x, &d), PG_OK);
  pg_plan *plan = NULL;
  CHECK_STATUS(pg_compile(g, 1, &d, NULL, &plan), PG_OK);
  static double xv[SIZE];
  for (int i = 0; i < SIZE; i++) xv[i] = sin(i);
  void *in[] = {xv}, *out[] = {grad};
  CHECK_STATUS(pg_plan_run(plan, in, NULL, out), PG_OK);
  pg_plan_info info;
  pg_plan_describe(plan, &info);
  pg_plan_free(plan);
  pg_graph_free(g);
  return info.arena_bytes;
}

static void rematerialization_keeps_bits_and_saves_memory(void) {
  static double plain[4096], again[4096];
  size_t kept = chain(false, plain), less = chain(true, again);
  CHECK(memcmp(plain, again, sizeof plain) == 0);
  CHECK_THAT(less < kept * 2 / 3, "%zu bytes against %zu", less, kept);
}

static void mistakes_are_errors(void) {
  pg_graph *g = new_graph(), *b = new_graph();
  pg_value h = vec(g, 3), bh = vec(b, 3), out = pg_reduce(b, "sum", bh, 0, NULL, false), r;
  CHECK_STATUS(pg_scan(g, b, 1, &out, 0, 1, &h, 4, false, &r), PG_ERR_SHAPE);
  CHECK_THAT(strstr(pg_last_error(), "carry 1") != NULL, "%s", pg_last_error());
  pg_graph_free(g);
}

int main(void) {
  CHECK_RUN(scan_is_its_loop_unrolled);
  CHECK_RUN(carries_swap_in_place);
  CHECK_RUN(a_carry_that_an_output_keeps_is_not_overwritten);
  CHECK_RUN(a_sum_takes_no_memory_beside_its_result);
  CHECK_RUN(while_loops_until_its_condition_fails);
  CHECK_RUN(rematerialization_keeps_bits_and_saves_memory);
  CHECK_RUN(mistakes_are_errors);
  return check_result();
}
