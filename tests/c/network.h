// network.h: one whole training step as a plan, for tests that look at plans from outside: a multilayer perceptron
// with dropout, its gradient, and AdamW, all on flat vectors with a layout.
#ifndef PG_TESTS_NETWORK_H
#define PG_TESTS_NETWORK_H

#include "tests/c/check.h"

#include <string.h>

typedef struct network {
  pg_dtype dtype; // of everything but labels and key
  int64_t batch, in, hidden, classes;
} network;

enum { NETWORK_INPUTS = 6, NETWORK_OUTPUTS = 4, NETWORK_TENSORS = 6 }; // theta, m, v, x, y, key; theta, m, v, loss

static pg_status network_layout(const network *n, pg_layout **out) {
  const char *names[] = {"1.weight", "1.bias", "2.weight", "2.bias", "3.weight", "3.bias"};
  const int ndims[] = {2, 1, 2, 1, 2, 1};
  const int64_t shapes[NETWORK_TENSORS][PG_MAX_NDIM] = {
      {n->in, n->hidden}, {n->hidden}, {n->hidden, n->hidden}, {n->hidden}, {n->hidden, n->classes}, {n->classes}};
  return pg_layout_new(NETWORK_TENSORS, names, ndims, shapes, out);
}

static pg_value network_linear(pg_graph *g, pg_value theta, int layer, pg_value x) {
  pg_value weight = pg_call(g, "view", 1, &theta, &(pg_attrs){.a = {2 * layer}});
  pg_value bias = pg_call(g, "view", 1, &theta, &(pg_attrs){.a = {2 * layer + 1}});
  return pg_call2(g, "add", pg_call2(g, "matmul", x, weight), bias);
}

static pg_value network_dropout(pg_graph *g, const network *n, pg_value key, pg_value x) {
  const pg_attrs shape = {.n = 2, .a = {n->batch, n->hidden}, .dtype = (int)n->dtype};
  pg_value keep = pg_call2(g, "ge", pg_call(g, "uniform", 1, &key, &shape), pg_number(g, 0.25));
  pg_value chosen[] = {keep, pg_call2(g, "div", x, pg_number(g, 0.75)), pg_number(g, 0)};
  return pg_call(g, "where", 3, chosen, NULL);
}

static pg_value network_loss(pg_graph *g, const network *n, pg_value theta, pg_value x, pg_value y, pg_value key) {
  x = pg_call1(g, "relu", network_linear(g, theta, 0, x));
  x = network_dropout(g, n, key, x);
  x = pg_call1(g, "tanh", network_linear(g, theta, 1, x));
  pg_value in[] = {network_linear(g, theta, 2, x), y};
  return pg_call(g, "cross_entropy", 2, in, NULL);
}

// b * old + (1 - b) * now
static pg_value network_blend(pg_graph *g, double b, pg_value old, pg_value now) {
  return pg_call2(g, "add", pg_call2(g, "mul", pg_number(g, b), old), pg_call2(g, "mul", pg_number(g, 1 - b), now));
}

// 1 - b^t
static pg_value network_debias(pg_graph *g, double b, pg_value t) {
  return pg_call2(g, "sub", pg_number(g, 1), pg_call2(g, "pow", pg_number(g, b), t));
}

// outs: theta, m, v after the step, and the loss before it. Scalars: lr, t.
static pg_status network_build(pg_graph *g, const network *n, const pg_layout *layout, pg_value outs[NETWORK_OUTPUTS]) {
  pg_value theta = pg_input(g, n->dtype, 0, NULL, layout), m = pg_input(g, n->dtype, 0, NULL, layout);
  pg_value v = pg_input(g, n->dtype, 0, NULL, layout);
  pg_value x = pg_input(g, n->dtype, 2, (int64_t[]){n->batch, n->in}, NULL);
  pg_value y = pg_input(g, PG_U8, 1, (int64_t[]){n->batch}, NULL), key = pg_input(g, PG_KEY, 0, NULL, NULL);
  pg_value lr = pg_scalar(g), t = pg_scalar(g), none = PG_NONE, grad;
  pg_value loss = network_loss(g, n, theta, x, y, key);
  pg_status status = pg_vjp(g, 1, &loss, &none, 1, &theta, &grad);
  if (status != PG_OK) return status;
  m = network_blend(g, 0.9, m, grad);
  v = network_blend(g, 0.999, v, pg_call2(g, "mul", grad, grad));
  pg_value scale = pg_call1(g, "sqrt", pg_call2(g, "div", v, network_debias(g, 0.999, t)));
  pg_value move = pg_call2(g, "div", pg_call2(g, "div", m, network_debias(g, 0.9, t)),
                           pg_call2(g, "add", scale, pg_number(g, 1e-8)));
  pg_value decay = pg_call2(g, "sub", pg_number(g, 1), pg_call2(g, "mul", lr, pg_number(g, 0.01)));
  theta = pg_call2(g, "sub", pg_call2(g, "mul", theta, decay), pg_call2(g, "mul", lr, move));
  pg_value all[NETWORK_OUTPUTS] = {theta, m, v, loss};
  memcpy(outs, all, sizeof all);
  return PG_OK;
}

static pg_status network_compile(const network *n, const pg_layout *layout, pg_executor executor, pg_plan **plan) {
  *plan = NULL;
  pg_graph *g;
  pg_status status = pg_graph_new(&g);
  if (status != PG_OK) return status;
  pg_value outs[NETWORK_OUTPUTS];
  status = network_build(g, n, layout, outs);
  const pg_compile_options options = {.executor = executor, .donate = (int[]){0, 1, 2, -1}};
  if (status == PG_OK) status = pg_compile(g, NETWORK_OUTPUTS, outs, &options, plan);
  pg_graph_free(g);
  return status;
}

// The tensors a step runs on, in the order of the plan's inputs; then the loss.
typedef struct network_data {
  pg_tensor *t[NETWORK_INPUTS + 1];
} network_data;

static void network_set(pg_tensor *t, int64_t i, double x) {
  if (pg_tensor_dtype(t) == PG_F32)
    ((float *)pg_tensor_data(t))[i] = (float)x;
  else
    ((double *)pg_tensor_data(t))[i] = x;
}

static double network_wave(int64_t i, double scale) {
  return scale * ((double)(i * 7919 % 2003) / 1001.5 - 1);
}

static void network_free_data(network_data *d) {
  for (int i = 0; i <= NETWORK_INPUTS; i++) pg_tensor_release(d->t[i]);
  *d = (network_data){0};
}

// Parameters, state and a batch, the same at every call.
static pg_status network_make_data(const network *n, const pg_layout *layout, network_data *d) {
  *d = (network_data){0};
  pg_status status = PG_OK;
  for (int i = 0; i < 3 && status == PG_OK; i++) status = pg_tensor_new(n->dtype, 0, NULL, layout, &d->t[i]);
  if (status == PG_OK) status = pg_tensor_new(n->dtype, 2, (int64_t[]){n->batch, n->in}, NULL, &d->t[3]);
  if (status == PG_OK) status = pg_tensor_new(PG_U8, 1, (int64_t[]){n->batch}, NULL, &d->t[4]);
  if (status == PG_OK) status = pg_tensor_new(PG_KEY, 0, NULL, NULL, &d->t[5]);
  if (status == PG_OK) status = pg_tensor_new(n->dtype, 0, NULL, NULL, &d->t[6]);
  if (status != PG_OK) {
    network_free_data(d);
    return status;
  }
  for (int s = 0; s < NETWORK_TENSORS; s++) {
    const pg_segment *seg = pg_layout_segment(layout, s);
    for (int64_t i = 0; i < seg->size; i++) network_set(d->t[0], seg->offset + i, network_wave(i + 17 * s, 0.1));
  }
  for (int64_t i = 0; i < pg_tensor_size(d->t[3]); i++) network_set(d->t[3], i, network_wave(i, 1));
  for (int64_t i = 0; i < n->batch; i++) ((uint8_t *)pg_tensor_data(d->t[4]))[i] = (uint8_t)(i * 31 % n->classes);
  return PG_OK;
}

// Step number t, from 1. Allocates nothing of its own.
static pg_status network_step(pg_plan *plan, network_data *d, int t) {
  void *in[NETWORK_INPUTS], *out[NETWORK_OUTPUTS];
  for (int i = 0; i < NETWORK_INPUTS; i++) in[i] = pg_tensor_data(d->t[i]);
  for (int k = 0; k < 3; k++) out[k] = in[k];
  out[3] = pg_tensor_data(d->t[6]);
  *(pg_key *)pg_tensor_data(d->t[5]) = pg_key_fold(pg_key_seed(1), (uint64_t)t);
  return pg_plan_run(plan, in, (double[]){1e-3, t}, out);
}

#endif
