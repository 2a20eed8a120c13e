// test_vmap.c: pg_vmap of every operation: for each case of op_cases.h, with its derivatives of first and second order,
// and for what has none, a batch of three gives what its entries give one by one: to 1e-12 in f64, and exactly for what
// is not floating point, draws among it. Operands are batched in all combinations. The last test fails where an
// operation of the table has no case here, or no batching rule.
#include "tests/c/op_cases.h"

#include "engine/core/error.h"
#include "engine/graph/graph.h"
#include "engine/ops/batching.h"

enum { ENTRIES = 3 };

static bool seen[PG_NUM_OPS]; // operations that a batched operand entered

// ---- cases without derivatives, or that are not one call -----------------------------------------------------------

typedef pg_value (*builder)(pg_graph *g, const pg_value *x);

typedef struct value_case {
  op_case call;     // with a builder, what the case is called here
  bool uses_layout; // attrs.layout is the test's
  builder build;
} value_case;

static pg_value new_body(pg_graph **h, int n, const operand *in, pg_value *x) {
  CHECK_STATUS(pg_graph_new(h), PG_OK);
  for (int i = 0; i < n; i++) x[i] = pg_input(*h, PG_F64, in[i].ndim, in[i].shape, NULL);
  return x[0];
}

// carry = tanh(carry w + slice), and w * carry stacked: → last carry and the sum of what was stacked.
static pg_value build_scan(pg_graph *g, const pg_value *x) {
  const operand in[] = {S1(ANY, 4), S1(ANY, 4), S1(ANY, 4)}; // w, carry, slice
  pg_graph *h;
  pg_value a[3], outs[2], results[2];
  new_body(&h, 3, in, a);
  outs[0] = pg_call1(h, "tanh", pg_call2(h, "add", pg_call2(h, "mul", a[1], a[0]), a[2]));
  outs[1] = pg_call2(h, "mul", a[0], a[1]);
  CHECK_STATUS(pg_scan(g, h, 2, outs, 1, 1, x, 3, true, results), PG_OK);
  return pg_call2(g, "add", results[0], pg_reduce(g, "sum", results[1], 1, (int[]){0}, false));
}

// carry = carry * 1.5 + w while its sum is below 20.
static pg_value build_while(pg_graph *g, const pg_value *x) {
  const operand in[] = {S1(ANY, 4), S1(ANY, 4)};
  pg_graph *cond, *body;
  pg_value a[2], result;
  new_body(&cond, 2, in, a);
  pg_value going = pg_call2(cond, "lt", pg_reduce(cond, "sum", a[1], 0, NULL, false), pg_number(cond, 20));
  new_body(&body, 2, in, a);
  pg_value next = pg_call2(body, "add", pg_call2(body, "mul", a[1], pg_number(body, 1.5)), a[0]);
  CHECK_STATUS(pg_while(g, cond, going, body, 1, &next, 1, x, &result), PG_OK);
  return result;
}

// A call with two outputs, one of which the first operand does not enter.
static pg_value build_call(pg_graph *g, const pg_value *x) {
  const operand in[] = {S1(ANY, 4), S1(ANY, 4)};
  pg_graph *h;
  pg_value a[2], outs[2], results[2];
  new_body(&h, 2, in, a);
  outs[0] = pg_call2(h, "mul", a[0], a[1]);
  outs[1] = pg_call1(h, "exp", a[1]);
  CHECK_STATUS(pg_remat(g, h, 2, outs, x, results), PG_OK);
  return pg_call2(g, "sub", results[0], results[1]);
}

static pg_value keep(pg_graph *g, pg_value cotangent, void *user) {
  (void)g, (void)user;
  return cotangent;
}

static pg_value build_tap(pg_graph *g, const pg_value *x) {
  pg_region *region = pg_alloc(1, sizeof *region);
  CHECK(region);
  *region = (pg_region){.references = 1, .tap = keep};
  const pg_value out = pg_node_make(g, PG_OP_TAP, 1, x, NULL, region);
  pg_region_release(region);
  return out;
}

// A mark and a stop on a vector that is made here.
static pg_value build_marked(pg_graph *g, const pg_value *x) {
  return pg_call1(g, "stop", pg_call(g, "mark", 1, (pg_value[]){pg_call2(g, "mul", x[0], x[1])}, &(pg_attrs){.n = 1}));
}

// Gradients of single images, as a batch of them.
static pg_value build_weigh_each(pg_graph *g, const pg_value *x) {
  const pg_attrs window = {.n = 7, .a = {1, 2, 1, 0, 1, 1, 2}, .b = {4, 5, 3, 2}, .flags = 1};
  return pg_call(g, "conv_weights", 2, x, &window);
}

// A vector in codes and back, with scales that a batched number enters.
static pg_value build_block_values(pg_graph *g, const pg_value *x) {
  const pg_attrs attrs = {.a = {2}, .flags = 1, .layout = pg_value_layout(g, x[0])};
  const pg_value codes = pg_call(g, "block_codes", 1, x, &attrs), scales = pg_call(g, "block_scales", 1, x, &attrs);
  return pg_call(g, "block_values", 2, (pg_value[]){codes, pg_call2(g, "mul", scales, x[1])}, &attrs);
}

#define CALL(...)                                                                                                      \
  {                                                                                                                    \
    .call = { __VA_ARGS__ }                                                                                            \
  }
#define WITH_LAYOUT(...)                                                                                               \
  { .call = {__VA_ARGS__}, .uses_layout = true }
#define BUILT(f, ...)                                                                                                  \
  { .call = {__VA_ARGS__}, .build = f }
#define COMPARISON(name) CALL(name, 2, {S2(GRID, 3, 4), S1(GRID, 4)}, {0}), CALL(name, 2, {V(GRID), S0(GRID)}, {0})

static const value_case value_cases[] = {
    COMPARISON("lt"),
    COMPARISON("le"),
    COMPARISON("gt"),
    COMPARISON("ge"),
    COMPARISON("eq"),
    COMPARISON("ne"),
    CALL("floor", 1, {S2(ANY, 2, 3)}, {0}),
    CALL("ceil", 1, {V(ANY)}, {0}),
    CALL("round", 1, {S0(ANY)}, {0}),
    CALL("sign", 1, {S1(GRID, 9)}, {0}),
    CALL("isfinite", 1, {S1(ANY, 3)}, {0}),
    CALL("not", 1, {S1(MASK, 3)}, {0}),
    CALL("and", 2, {S2(MASK, 2, 3), S1(MASK, 3)}, {0}),
    CALL("or", 2, {S1(MASK, 3), S0(MASK)}, {0}),
    CALL("cast", 1, {V(ANY)}, {.dtype = PG_I32}),
    CALL("sum", 1, {S2(INDEX, 3, 4)}, {.n = 1, .a = {0}}),
    CALL("argsort", 1, {S2(GRID, 3, 6)}, {.a = {4}}),
    CALL("ranked", 2, {S2(ANY, 2, 5), S1(INDEX, 3)}, {0}),
    CALL("ranked", 2, {S2(ANY, 2, 5), S2(INDEX, 2, 3)}, {0}),
    CALL("ranked", 2, {S1(ANY, 5), S1(INDEX, 3)}, {0}),
    CALL("searchsorted", 2, {S1(DISTINCT, 5), S0(ANY)}, {0}),
    CALL("searchsorted", 2, {S1(DISTINCT, 5), S3(ANY, 2, 2, 3)}, {0}),
    CALL("searchsorted", 2, {S2(DISTINCT, 2, 5), S2(ANY, 2, 3)}, {.flags = 1}),
    CALL("argcummax", 1, {S2(ANY, 3, 4)}, {0}),
    CALL("argmax", 1, {S2(ANY, 3, 4)}, {0}),
    CALL("stop", 1, {S1(ANY, 3)}, {0}),
    WITH_LAYOUT("full", 1, {S0(ANY)}, {.dtype = PG_F64}),
    WITH_LAYOUT("segbroadcast", 1, {S1(ANY, 4)}, {0}),
    WITH_LAYOUT("block_codes", 1, {V(ANY)}, {.a = {2}}),
    WITH_LAYOUT("block_scales", 1, {V(ANY)}, {.a = {4}}),
    BUILT(build_block_values, "values of blocks", 2, {V(UNIT), S0(ANY)}, {0}),
    WITH_LAYOUT("pack", 4, {S2(ANY, 2, 3), S1(ANY, 5), S2(ANY, 1, 4), S0(ANY)}, {0}),
    CALL("normal", 1, {S0(KEYS)}, {SHAPED(2, 3), .dtype = PG_F64}),
    WITH_LAYOUT("normal", 1, {S0(KEYS)}, {.dtype = PG_F32}),
    CALL("uniform", 1, {S1(KEYS, 4)}, {SHAPED(5), .dtype = PG_F32}),
    WITH_LAYOUT("uniform", 1, {S0(KEYS)}, {.dtype = PG_F64}),
    CALL("key_fold", 2, {S1(KEYS, 4), S0(INDEX)}, {0}),
    CALL("key_fold", 2, {S0(KEYS), S2(INDEX, 2, 3)}, {0}),
    CALL("permutation", 1, {S0(KEYS)}, {.a = {7}}),
    CALL("log_gamma", 2, {S0(KEYS), S2(POSITIVE, 2, 3)}, {0}),
    CALL("log_gamma", 2, {S1(KEYS, 2), S2(POSITIVE, 2, 3)}, {0}),
    CALL("gamma_slope", 2, {S1(POSITIVE, 4), S1(ANY, 4)}, {0}),
    CALL("gather", 2, {S2(KEYS, 4, 3), S1(INDEX, 5)}, {.n = 1, .a = {0}}),
    CALL("gather", 2, {S3(ANY, 2, 4, 3), S2(INDEX, 2, 5)}, {.n = 1, .a = {1}}),
    CALL("scatter_add", 3, {S3(ANY, 2, 4, 3), S2(INDEX, 2, 5), S4(ANY, 2, 2, 5, 3)}, {.n = 1, .a = {1}}),
    CALL("concat", 2, {S1(KEYS, 2), S1(KEYS, 3)}, {.n = 1, .a = {0}}),
    BUILT(build_weigh_each, "gradients of images", 2, {S4(ANY, 4, 4, 5, 3), S4(ANY, 2, 4, 2, 3)}, {0}),
    BUILT(build_scan, "a scan", 3, {S1(ANY, 4), S1(ANY, 4), S2(ANY, 3, 4)}, {0}),
    BUILT(build_while, "a while", 2, {S1(UNIT, 4), S1(UNIT, 4)}, {0}),
    BUILT(build_call, "a call", 2, {S1(ANY, 4), S1(ANY, 4)}, {0}),
    BUILT(build_tap, "a tap", 1, {S1(ANY, 4)}, {0}),
    BUILT(build_marked, "a marked product", 2, {V(ANY), S0(ANY)}, {0}),
};
enum { NVALUES = sizeof value_cases / sizeof value_cases[0] };

// ---- a batch beside its entries ------------------------------------------------------------------------------------

typedef struct batch {
  pg_graph *g;
  pg_plan *plan;
  pg_tensor *inputs[TENSORS], *expected[OUTPUTS], *found[OUTPUTS];
  bool batched[TENSORS + MOST];
} batch;

static bench the_bench;
static batch the_batch;

static void close_batch(const bench *b, batch *m) {
  for (int i = 0; i < b->ntensors; i++) pg_tensor_release(m->inputs[i]);
  for (int k = 0; k < b->nout; k++) {
    pg_tensor_release(m->expected[k]);
    pg_tensor_release(m->found[k]);
  }
  pg_plan_free(m->plan);
  pg_graph_free(m->g);
  memset(m, 0, sizeof *m);
}

// A tensor for ENTRIES of t.
static pg_tensor *new_stacked(const pg_tensor *t) {
  pg_layout *stacked = NULL;
  pg_tensor *out;
  int64_t shape[PG_MAX_NDIM] = {ENTRIES};
  const int ndim = pg_tensor_ndim(t);
  memcpy(shape + 1, pg_tensor_shape(t), (size_t)ndim * sizeof *shape);
  if (pg_tensor_layout(t)) CHECK_STATUS(pg_layout_stacked(pg_tensor_layout(t), ENTRIES, &stacked), PG_OK);
  CHECK_STATUS(pg_tensor_new(pg_tensor_dtype(t), ndim + 1, shape, stacked, &out), PG_OK);
  pg_layout_release(stacked);
  return out;
}

// Put t at place e of a stacked tensor.
static void put_entry(pg_tensor *stacked, int e, const pg_tensor *t) {
  const size_t size = pg_dtype_size(pg_tensor_dtype(t));
  const pg_layout *from = pg_tensor_layout(t), *to = pg_tensor_layout(stacked);
  char *out = pg_tensor_data(stacked);
  const char *in = pg_tensor_data(t);
  if (!from) memcpy(out + (size_t)e * pg_tensor_bytes(t), in, pg_tensor_bytes(t));
  for (int i = 0; from && i < pg_layout_count(from); i++) {
    const pg_segment *s = pg_layout_segment(from, i);
    memcpy(out + (size_t)(pg_layout_segment(to, i)->offset + e * s->size) * size, in + (size_t)s->offset * size,
           (size_t)s->size * size);
  }
}

// New numbers in the batched inputs for each entry, and what it gives by itself.
static void run_entries(bench *b, batch *m) {
  for (int i = 0; i < b->ntensors; i++)
    m->inputs[i] = m->batched[i] ? new_stacked(b->tensors[i]) : pg_tensor_retain(b->tensors[i]);
  for (int k = 0; k < b->nout; k++) m->expected[k] = new_stacked(b->outputs[k]);
  for (int e = 0; e < ENTRIES; e++) {
    for (int i = 0; i < b->ntensors; i++) {
      if (!m->batched[i]) continue;
      fill(b->tensors[i], b->values_of[i]);
      put_entry(m->inputs[i], e, b->tensors[i]);
    }
    run(b);
    for (int k = 0; k < b->nout; k++) put_entry(m->expected[k], e, b->outputs[k]);
  }
}

static void note_operations(const bench *b, const batch *m) {
  bool *reached = pg_alloc(b->g->count, sizeof *reached);
  CHECK(reached);
  for (size_t v = 0; v < b->g->count; v++) {
    const pg_node *n = &b->g->nodes[v];
    if (n->op == PG_OP_INPUT) reached[v] = m->batched[n->attrs.a[0]];
    for (int i = 0; i < n->nin; i++) reached[v] |= reached[n->in[i]];
    if (reached[v] && n->nin) seen[n->op] = true;
  }
  pg_free(reached);
}

static void run_batch(bench *b, batch *m) {
  pg_value args[TENSORS + MOST], results[OUTPUTS];
  CHECK_STATUS(pg_graph_new(&m->g), PG_OK);
  for (int i = 0; i < b->ntensors; i++) {
    const pg_tensor *t = m->inputs[i];
    args[i] = pg_input(m->g, pg_tensor_dtype(t), pg_tensor_ndim(t), pg_tensor_shape(t), pg_tensor_layout(t));
  }
  for (int i = 0; i < b->nscalars; i++) args[b->ntensors + i] = pg_scalar(m->g);
  CHECK_STATUS(pg_vmap(m->g, b->g, args, m->batched, ENTRIES, b->nout, b->outs, results), PG_OK);
  const pg_compile_options options = {.executor = PG_EXEC_INTERPRET};
  CHECK_STATUS(pg_compile(m->g, b->nout, results, &options, &m->plan), PG_OK);
  for (int k = 0; k < b->nout; k++) m->found[k] = new_stacked(b->outputs[k]);
  CHECK_STATUS(pg_run(m->plan, m->inputs, b->scalars, m->found), PG_OK);
}

static double number_at(const pg_tensor *t, int64_t i) {
  return pg_tensor_dtype(t) == PG_F64 ? ((double *)pg_tensor_data(t))[i] : (double)((float *)pg_tensor_data(t))[i];
}

static void compare_output(const pg_tensor *found, const pg_tensor *expected, int k) {
  const bool is_float = pg_dtype_is_float(pg_tensor_dtype(found));
  double scale = 1;
  if (!is_float) CHECK_THAT(!memcmp(pg_tensor_data(found), pg_tensor_data(expected), pg_tensor_bytes(found)), "%d", k);
  for (int64_t i = 0; is_float && i < pg_tensor_size(found); i++) scale = fmax(scale, fabs(number_at(expected, i)));
  for (int64_t i = 0; is_float && i < pg_tensor_size(found); i++) {
    const double x = number_at(found, i), y = number_at(expected, i);
    CHECK_THAT(fabs(x - y) <= 1e-12 * scale, "output %d, element %d: %.17g, by itself %.17g", k, (int)i, x, y);
  }
}

// The inputs batched as bits of `choice` say: those that a user gives, and the cotangent with all directions.
static bool choose(const bench *b, batch *m, int operands, int choice) {
  bool any = false;
  for (int i = 0; i < b->ntensors; i++) {
    m->batched[i] = choice >> (i < operands ? i : operands) & 1;
    any |= m->batched[i];
  }
  return any;
}

static void check_batches(bench *b, int operands) {
  for (int choice = 1; choice < 2 << operands; choice++) {
    close_batch(b, &the_batch);
    if (!choose(b, &the_batch, operands, choice)) continue;
    run_entries(b, &the_batch);
    run_batch(b, &the_batch);
    note_operations(b, &the_batch);
    for (int k = 0; k < b->nout; k++) compare_output(the_batch.found[k], the_batch.expected[k], k);
  }
}

static const op_case *current;
static const value_case *current_value;

static void check_case(void) {
  bench *b = &the_bench;
  open_bench(b, 54321, current->n, current->in);
  const int operands = b->ntensors;
  b->y = pg_call(b->g, current->function, b->n, b->x, &current->attrs);
  add_derivatives(b);
  check_batches(b, operands);
}

static void check_value_case(void) {
  bench *b = &the_bench;
  open_bench(b, 54321, current_value->call.n, current_value->call.in);
  pg_attrs attrs = current_value->call.attrs;
  if (current_value->uses_layout) attrs.layout = layout;
  b->y = current_value->build ? current_value->build(b->g, b->x)
                              : pg_call(b->g, current_value->call.function, b->n, b->x, &attrs);
  b->outs[0] = b->y;
  compile_outputs(b, 1);
  check_batches(b, b->ntensors);
}

// What an operation without a rule gets: a product of matrices, where the batch has one factor or both.
static void an_operation_without_a_rule_is_scanned(void) {
  enum { ROWS = 2, INNER = 3, COLUMNS = 4 };
  const int64_t left[] = {ENTRIES, ROWS, INNER}, right[] = {ENTRIES, INNER, COLUMNS};
  const pg_node product = {.op = PG_OP_MATMUL, .nin = 2, .ndim = 2, .where = ""};
  for (int both = 0; both < 2; both++) {
    pg_graph *g;
    CHECK_STATUS(pg_graph_new(&g), PG_OK);
    pg_batching b = {.g = g, .size = ENTRIES};
    const pg_value in[2] = {pg_input(g, PG_F64, 3, left, NULL), pg_input(g, PG_F64, 3 - !both, right + !both, NULL)};
    pg_value outs[2];
    CHECK_STATUS(pg_batch_by_scan(&b, &product, in, (bool[]){true, both}, &outs[0]), PG_OK);
    outs[1] = pg_call2(g, "matmul", in[0], in[1]);
    const pg_value off = pg_call1(g, "abs", pg_call2(g, "sub", outs[0], outs[1]));
    const pg_value most = pg_reduce(g, "max", off, 0, NULL, false);
    pg_plan *plan;
    const pg_compile_options options = {.executor = PG_EXEC_INTERPRET};
    CHECK_STATUS(pg_compile(g, 1, &most, &options, &plan), PG_OK);
    pg_tensor *inputs[2], *found;
    CHECK_STATUS(pg_tensor_new(PG_F64, 3, left, NULL, &inputs[0]), PG_OK);
    CHECK_STATUS(pg_tensor_new(PG_F64, 3 - !both, right + !both, NULL, &inputs[1]), PG_OK);
    CHECK_STATUS(pg_tensor_new(PG_F64, 0, NULL, NULL, &found), PG_OK);
    for (int i = 0; i < 2; i++) fill(inputs[i], ANY);
    CHECK_STATUS(pg_run(plan, inputs, NULL, &found), PG_OK);
    CHECK(*(double *)pg_tensor_data(found) <= 1e-14);
    pg_tensor_release(inputs[0]), pg_tensor_release(inputs[1]), pg_tensor_release(found);
    pg_plan_free(plan);
    pg_graph_free(g);
  }
}

static void every_operation_has_a_case(void) {
  for (int op = 0; op < PG_NUM_OPS; op++) {
    const pg_op_info *info = pg_op_table[op];
    if (info->arity == 0) continue; // nothing batched can enter it
    CHECK_THAT(info->batch, "%s has no batching rule", info->name);
    CHECK_THAT(seen[op], "%s was in no batch", info->name);
  }
}

static void close_case(void) {
  close_batch(&the_bench, &the_batch);
  bench_close(&the_bench);
}

int main(int argc, char **argv) {
  char text[200];
  const char *only = argc > 1 ? argv[1] : NULL;
  if (make_layout() != PG_OK) return 1;
  for (int i = 0; i < NCASES; i++) {
    const op_case *c = current = &cases[i];
    if (only && strcmp(only, c->function) != 0) continue;
    check_run(describe("a batch of ", c->function, c->n, c->in, text, sizeof text), check_case);
    close_case();
  }
  for (int i = 0; i < NVALUES; i++) {
    const value_case *c = current_value = &value_cases[i];
    if (only && strcmp(only, c->call.function) != 0) continue;
    check_run(describe("a batch of ", c->call.function, c->call.n, c->call.in, text, sizeof text), check_value_case);
    close_case();
  }
  if (!only) {
    CHECK_RUN(an_operation_without_a_rule_is_scanned);
    CHECK_RUN(every_operation_has_a_case);
  }
  pg_layout_release(layout);
  return check_result();
}
