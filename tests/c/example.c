// example.c: the engine from C alone: build a graph, differentiate it, run it. A ridge regression by gradient descent.
#include <stdio.h>

#include "engine/perigee.h"

int main(void) {
  enum { N = 64, D = 3 };
  pg_graph *g;
  if (pg_graph_new(&g) != PG_OK) return fprintf(stderr, "%s\n", pg_last_error()), 1;
  pg_value w = pg_input(g, PG_F64, 1, (int64_t[]){D}, NULL), x = pg_input(g, PG_F64, 2, (int64_t[]){N, D}, NULL);
  pg_value y = pg_input(g, PG_F64, 1, (int64_t[]){N}, NULL), lr = pg_scalar(g);
  pg_value residual = pg_call2(g, "sub", pg_call2(g, "matmul", x, w), y);
  pg_value loss = pg_reduce(g, "mean", pg_call2(g, "mul", residual, residual), 0, NULL, false), none = PG_NONE, grad;
  if (pg_vjp(g, 1, &loss, &none, 1, &w, &grad) != PG_OK) return fprintf(stderr, "%s\n", pg_last_error()), 1;
  pg_value next = pg_call2(g, "sub", w, pg_call2(g, "mul", lr, grad)), outs[] = {next, loss};
  pg_compile_options options = {.donate = (int[]){0, -1}}; // the new w takes the place of the old
  pg_plan *plan;
  if (pg_compile(g, 2, outs, &options, &plan) != PG_OK) return fprintf(stderr, "%s\n", pg_last_error()), 1;
  _Alignas(64) double wv[D] = {0}, xv[N][D], yv[N], lossv = 0, rate = 0.1;
  for (int i = 0; i < N; i++) {
    for (int j = 0; j < D; j++) xv[i][j] = (double)((i * 37 + j * 101) % 64) / 32 - 1;
    yv[i] = 2 * xv[i][0] - xv[i][1] + 0.5 * xv[i][2];
  }
  void *in[] = {wv, xv, yv}, *out[] = {NULL, &lossv};
  for (int step = 0; step < 2000; step++)
    if (pg_plan_run(plan, in, &rate, out) != PG_OK) return fprintf(stderr, "%s\n", pg_last_error()), 1;
  printf("w = %.6f %.6f %.6f, loss %.3g\n", wv[0], wv[1], wv[2], lossv);
  pg_plan_free(plan);
  pg_graph_free(g);
  return 0;
}
