// test_fuse.c: fusion, placement and both executors against the meaning of a graph. Random graphs are run as one plan
// and node by node (each node a plan of its own, as eager mode does); every result must have the same bits, for the
// interpreter and for generated code, for 1, 2 and 3 threads, and when a result takes the place of an input.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/c/replay.h"

enum { MAX_VALUES = 64 };

static uint64_t state;

static uint32_t roll(uint32_t n) { // 0..n-1
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((state >> 33) % n);
}

static pg_layout *make_layout(void) {
  const char *names[] = {"a", "b", "c"};
  const int ndims[] = {2, 1, 0};
  const int64_t shapes[3][PG_MAX_NDIM] = {{5, 7}, {4500}, {0}};
  pg_layout *layout = NULL;
  if (pg_layout_new(3, names, ndims, shapes, &layout) != PG_OK) abort();
  return layout;
}

// ---- random graphs ----

static pg_value pick(const pg_graph *g, pg_dtype dtype, bool vector) {
  for (int tries = 0; tries < 200; tries++) {
    pg_value v = (pg_value)roll((uint32_t)pg_graph_size(g));
    const pg_node *n = pg_at(g, v);
    if (!n->weak && n->dtype == dtype && (n->layout != NULL) == vector) return v;
  }
  return PG_NONE;
}

static const int unary[] = {PG_OP_NEG, PG_OP_ABS,  PG_OP_TANH, PG_OP_SIGMOID,
                            PG_OP_SIN, PG_OP_RELU, PG_OP_SIGN, PG_OP_SOFTPLUS};
static const int binary[] = {PG_OP_ADD, PG_OP_SUB, PG_OP_MUL, PG_OP_MAXIMUM, PG_OP_MINIMUM};

static pg_value weak_factor(pg_graph *g) {
  if (roll(2)) return pg_number(g, 0.25 * (1 + roll(7)));
  return pg_op2(g, PG_OP_MUL, g->scalars[roll((uint32_t)g->nscalars)], pg_number(g, 0.5 + roll(3)));
}

static pg_value random_reduce(pg_graph *g, pg_value x) {
  const pg_node n = *pg_at(g, x);
  if (n.layout) return pg_op1(g, roll(2) ? PG_OP_SEGSUM : PG_OP_SEGMAX, x);
  if (n.ndim == 0) return x;
  int first = (int)roll((uint32_t)n.ndim), last = first + 1 + (int)roll((uint32_t)(n.ndim - first));
  pg_attrs attrs = {.n = 2, .a = {first, last}, .flags = 1};
  x = pg_node_make(g, roll(3) ? PG_OP_SUM : PG_OP_MAX, 1, &x, &attrs, NULL);
  return roll(2) ? pg_broadcast(g, x, n.ndim, n.shape) : x;
}

static pg_value random_view(pg_graph *g, pg_value x) {
  const pg_node n = *pg_at(g, x);
  if (n.layout) {
    pg_attrs attrs = {.n = 1, .a = {(int64_t)roll((uint32_t)pg_layout_count(n.layout))}};
    return pg_node_make(g, PG_OP_VIEW, 1, &x, &attrs, NULL);
  }
  if (n.ndim == 0) return x;
  int perm[PG_MAX_NDIM];
  int64_t flat = 1;
  for (int i = 0; i < n.ndim; i++) {
    perm[i] = n.ndim - 1 - i;
    flat *= n.shape[i];
  }
  pg_attrs attrs = {.n = n.ndim};
  for (int i = 0; i < n.ndim; i++) {
    attrs.c[i] = 1;
    attrs.b[i] = n.shape[i] > 1 ? n.shape[i] - 1 : n.shape[i];
    attrs.a[i] = n.shape[i] > 1 ? roll(2) : 0;
  }
  switch (roll(5)) {
  case 0:
    return pg_transpose(g, x, perm);
  case 1:
    return pg_reshape(g, x, 1, &flat);
  case 2:
    return pg_op1(g, PG_OP_STOP, x);
  case 3:
    return pg_node_make(g, PG_OP_SLICE, 1, &x, &attrs, NULL);
  default: {
    pg_attrs cat = {.n = 1, .a = {(int64_t)roll((uint32_t)n.ndim)}};
    return pg_node_make(g, PG_OP_CONCAT, 2, (pg_value[]){x, x}, &cat, NULL);
  }
  }
}

static pg_value random_draw(pg_graph *g, pg_value key, const pg_layout *layout) {
  pg_attrs attrs = {.n = 2, .a = {3, 5}, .dtype = PG_F32};
  if (roll(2)) attrs = (pg_attrs){.dtype = PG_F32, .layout = layout};
  return pg_node_make(g, roll(2) ? PG_OP_NORMAL : PG_OP_UNIFORM, 1, &key, &attrs, NULL);
}

static pg_value random_node(pg_graph *g, pg_value key, const pg_layout *layout) {
  bool vector = roll(3) == 0;
  pg_value x = pick(g, PG_F32, vector), y = pick(g, PG_F32, vector);
  if (x == PG_NONE || y == PG_NONE) return PG_NONE;
  switch (roll(10)) {
  case 0:
  case 1:
    return pg_op1(g, unary[roll(sizeof unary / sizeof *unary)], x);
  case 2:
  case 3:
  case 4:
    return pg_op2(g, binary[roll(sizeof binary / sizeof *binary)], x, y);
  case 5:
    return pg_op2(g, PG_OP_MUL, x, weak_factor(g));
  case 6:
    return random_reduce(g, x);
  case 7:
    return random_view(g, x);
  case 8:
    return pg_op3(g, PG_OP_WHERE, pg_op2(g, PG_OP_LT, x, y), x, roll(2) ? y : pg_number(g, 0.5));
  default:
    return random_draw(g, key, layout);
  }
}

static pg_tensor *random_tensor(pg_dtype dtype, int ndim, const int64_t *shape, const pg_layout *layout) {
  pg_tensor *t = NULL;
  if (pg_tensor_new(dtype, ndim, shape, layout, &t) != PG_OK) abort();
  if (dtype == PG_KEY) {
    pg_key *k = pg_tensor_data(t);
    for (int64_t i = 0; i < pg_tensor_size(t); i++) k[i] = pg_key_fold(pg_key_seed(state), (uint64_t)i);
    return t;
  }
  float *x = pg_tensor_data(t);
  if (!layout)
    for (int64_t i = 0; i < pg_tensor_size(t); i++) x[i] = (float)roll(2001) / 1000.0f - 1.0f;
  for (int s = 0; layout && s < pg_layout_count(layout); s++)
    for (int64_t i = 0; i < pg_layout_segment(layout, s)->size; i++)
      x[pg_layout_segment(layout, s)->offset + i] = (float)roll(2001) / 1000.0f - 1.0f;
  return t;
}

static bool run_one_graph(uint64_t seed) {
  state = seed;
  pg_layout *layout = make_layout();
  pg_graph *g = NULL;
  if (pg_graph_new(&g) != PG_OK) abort();
  const int64_t shapes[4][PG_MAX_NDIM] = {{3, 5}, {5}, {2, 3, 5}, {300, 40}};
  const int ndims[4] = {2, 1, 3, 2};
  pg_tensor *inputs[7];
  int nin = 0;
  for (int i = 0; i < 4; i++) {
    pg_input(g, PG_F32, ndims[i], shapes[i], NULL);
    inputs[nin++] = random_tensor(PG_F32, ndims[i], shapes[i], NULL);
  }
  for (int i = 0; i < 2; i++) {
    pg_input(g, PG_F32, 0, NULL, layout);
    inputs[nin++] = random_tensor(PG_F32, 0, NULL, layout);
  }
  pg_value key = pg_input(g, PG_KEY, 0, NULL, NULL);
  inputs[nin++] = random_tensor(PG_KEY, 0, NULL, NULL);
  pg_scalar(g);
  pg_scalar(g);
  const double scalars[2] = {0.3, -1.7};
  for (int i = 0; i < 400 && pg_graph_size(g) < MAX_VALUES; i++) random_node(g, key, layout);
  // Results: the last values and a few others; the first vector result takes the place of vector input 4.
  pg_value outs[8];
  int donate[8], nout = 0;
  for (int i = 0; i < 8; i++) {
    pg_value v = i < 3 ? pg_graph_size(g) - 1 - i : (pg_value)roll((uint32_t)pg_graph_size(g));
    if (pg_at(g, v)->weak || pg_at(g, v)->dtype == PG_KEY) continue;
    donate[nout] = -1;
    outs[nout++] = v;
  }
  for (int k = 0, slot = 4; k < nout && slot < 6; k++)
    if (pg_at(g, outs[k])->layout && pg_at(g, outs[k])->dtype == PG_F32 && roll(2)) donate[k] = slot++;
  char name[64];
  snprintf(name, sizeof name, "seed %llu", (unsigned long long)seed);
  bool ok = same_bits_everywhere(g, inputs, scalars, nout, outs, donate, name);
  for (int i = 0; i < nin; i++) pg_tensor_release(inputs[i]);
  pg_graph_free(g);
  pg_layout_release(layout);
  return ok;
}

static uint64_t first_seed = 20261122;
static int graphs = 40;

static void random_graphs_give_the_same_bits_however_they_run(void) {
  printf("# seeds %llu to %llu\n", (unsigned long long)first_seed,
         (unsigned long long)first_seed + (uint64_t)graphs - 1);
  int bad = 0;
  for (int i = 0; i < graphs; i++) bad += !run_one_graph(first_seed + (uint64_t)i);
  CHECK(bad == 0);
}

// The values of SEGBROADCAST may come as a column of a table.
static void per_tensor_values_may_be_a_strided_view(void) {
  const char *names[] = {"a", "b"};
  const int ndims[] = {1, 1};
  const int64_t shapes[2][PG_MAX_NDIM] = {{3}, {2}};
  pg_layout *layout = NULL;
  pg_graph *g = NULL;
  pg_plan *plan = NULL;
  CHECK_STATUS(pg_layout_new(2, names, ndims, shapes, &layout), PG_OK);
  CHECK_STATUS(pg_graph_new(&g), PG_OK);
  pg_value table = pg_input(g, PG_F32, 2, (int64_t[]){2, 2}, NULL), v = pg_input(g, PG_F32, 0, NULL, layout);
  pg_attrs second = {.n = 2, .a = {0, 1}, .b = {2, 1}, .c = {1, 1}}, spread = {.layout = layout};
  pg_value column = pg_reshape(g, pg_call(g, "slice", 1, &table, &second), 1, (int64_t[]){2});
  pg_value y = pg_call2(g, "mul", pg_call(g, "segbroadcast", 1, &column, &spread), v);
  CHECK_STATUS(pg_compile(g, 1, &y, NULL, &plan), PG_OK);
  _Alignas(64) float t[4] = {1, 2, 3, 4}, x[32] = {10, 10, 10, [16] = 10, 10}, out[32] = {0};
  void *in[] = {t, x}, *to[] = {out};
  CHECK_STATUS(pg_plan_run(plan, in, NULL, to), PG_OK);
  CHECK(out[0] == 20 && out[2] == 20 && out[16] == 40 && out[17] == 40 && out[3] == 0);
  pg_plan_free(plan);
  pg_graph_free(g);
  pg_layout_release(layout);
}

int main(int argc, char **argv) {
  if (argc > 1) first_seed = strtoull(argv[1], NULL, 10);
  if (argc > 2) graphs = atoi(argv[2]);
  CHECK_RUN(per_tensor_values_may_be_a_strided_view);
  CHECK_RUN(random_graphs_give_the_same_bits_however_they_run);
  return check_result();
}
