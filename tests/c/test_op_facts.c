// test_op_facts.c: single facts about operations that test_ops.c cannot state: values, conventions at kinks and ties,
// what messages say, what no argument may do.
#include "tests/c/check.h"

#include <stdlib.h>
#include <string.h>

#include "engine/graph/graph.h"
#include "engine/ops/ops.h"

// ---- a graph with a few arguments, and running it -------------------------------------------------------------------

enum { MOST = 16 };

static struct {
  pg_graph *g;
  pg_tensor *in[MOST];
  int nin;
  double scalars[MOST];
  int nscalars;
} s;

static void reset(void) {
  for (int i = 0; i < s.nin; i++) pg_tensor_release(s.in[i]);
  pg_graph_free(s.g);
  memset(&s, 0, sizeof s);
  CHECK_STATUS(pg_graph_new(&s.g), PG_OK);
}

static void put(pg_tensor *t, int64_t i, double x) {
  void *p = pg_tensor_data(t);
  switch (pg_tensor_dtype(t)) {
  case PG_F32:
    ((float *)p)[i] = (float)x;
    break;
  case PG_F64:
    ((double *)p)[i] = x;
    break;
  case PG_I32:
    ((int32_t *)p)[i] = (int32_t)x;
    break;
  case PG_I64:
    ((int64_t *)p)[i] = (int64_t)x;
    break;
  case PG_U8:
    ((uint8_t *)p)[i] = (uint8_t)x;
    break;
  case PG_BOOL:
    ((bool *)p)[i] = x != 0;
    break;
  case PG_KEY:
    ((pg_key *)p)[i] = pg_key_seed((uint64_t)x);
    break;
  default:
    break;
  }
}

static double get(const pg_tensor *t, int64_t i) {
  const void *p = pg_tensor_data(t);
  switch (pg_tensor_dtype(t)) {
  case PG_F32:
    return (double)((const float *)p)[i];
  case PG_F64:
    return ((const double *)p)[i];
  case PG_I32:
    return ((const int32_t *)p)[i];
  case PG_I64:
    return (double)((const int64_t *)p)[i];
  case PG_U8:
    return ((const uint8_t *)p)[i];
  case PG_BOOL:
    return ((const bool *)p)[i];
  default:
    return NAN;
  }
}

// An argument of shape [a] (b < 0) or [a, b], or 0-d (a < 0), with the values given in order and repeated.
static pg_value input(pg_dtype dtype, int64_t a, int64_t b, int n, const double *values) {
  const int64_t shape[2] = {a, b};
  const int ndim = a < 0 ? 0 : b < 0 ? 1 : 2;
  CHECK_STATUS(pg_tensor_new(dtype, ndim, shape, NULL, &s.in[s.nin]), PG_OK);
  for (int64_t i = 0; i < pg_tensor_size(s.in[s.nin]); i++) put(s.in[s.nin], i, values[i % n]);
  s.nin++;
  return pg_input(s.g, dtype, ndim, shape, NULL);
}

#define VALUES(...)                                                                                                    \
  (int)(sizeof((double[]){__VA_ARGS__}) / sizeof(double)), (double[]) {                                                \
    __VA_ARGS__                                                                                                        \
  }

static pg_value scalar(double x) {
  s.scalars[s.nscalars++] = x;
  return pg_scalar(s.g);
}

static pg_value vector(const pg_layout *layout, pg_dtype dtype, double first) {
  CHECK_STATUS(pg_tensor_new(dtype, 0, NULL, layout, &s.in[s.nin]), PG_OK);
  for (int i = 0; i < pg_layout_count(layout); i++) {
    const pg_segment *segment = pg_layout_segment(layout, i);
    for (int64_t e = 0; e < segment->size; e++)
      put(s.in[s.nin], segment->offset + e, first + (double)(segment->logical + e));
  }
  s.nin++;
  return pg_input(s.g, dtype, 0, NULL, layout);
}

static pg_tensor *run(pg_value y) {
  pg_plan *plan;
  pg_tensor *out;
  pg_compile_options options = {.executor = PG_EXEC_INTERPRET};
  CHECK_THAT(y != PG_NONE, "%s", pg_last_error());
  if (pg_value_is_weak(s.g, y)) y = pg_call(s.g, "full", 1, &y, &(pg_attrs){.dtype = PG_F64});
  CHECK_STATUS(pg_compile(s.g, 1, &y, &options, &plan), PG_OK);
  CHECK_STATUS(pg_tensor_new(pg_value_dtype(s.g, y), pg_value_ndim(s.g, y), pg_value_shape(s.g, y),
                             pg_value_layout(s.g, y), &out),
               PG_OK);
  pg_status status = pg_run(plan, s.in, s.scalars, &out);
  pg_plan_free(plan);
  CHECK_STATUS(status, PG_OK);
  return out;
}

static void expect(pg_value y, double tolerance, int n, const double *values) {
  pg_tensor *out = run(y);
  static double found[256];
  const int64_t size = pg_tensor_size(out);
  for (int64_t i = 0; i < size && i < 256; i++) found[i] = get(out, i);
  pg_tensor_release(out);
  CHECK_THAT(size == n, "%d elements, expected %d", (int)size, n);
  for (int i = 0; i < n; i++)
    CHECK_THAT(found[i] == values[i] || fabs(found[i] - values[i]) <= tolerance, "element %d is %.9g, expected %.9g", i,
               found[i], values[i]);
}

static pg_value call(const char *name, int n, const pg_value *in, pg_attrs attrs) {
  return pg_call(s.g, name, n, in, &attrs);
}

static pg_value call1(const char *name, pg_value x) {
  return pg_call1(s.g, name, x);
}

static pg_value call2(const char *name, pg_value x, pg_value y) {
  return pg_call2(s.g, name, x, y);
}

static pg_value gradient(pg_value y, pg_value x) {
  pg_value found;
  CHECK_STATUS(pg_vjp(s.g, 1, &y, NULL, 1, &x, &found), PG_OK);
  return found;
}

static void expect_error(pg_value y, const char *message) {
  CHECK(y == PG_NONE);
  CHECK_THAT(strcmp(pg_last_error(), message) == 0, "%s", pg_last_error());
}

static pg_layout *make_layout(int64_t extra) {
  pg_layout *layout;
  const char *names[] = {"w", "b"};
  const int64_t shapes[][PG_MAX_NDIM] = {{2, 3}, {2 + extra}};
  CHECK_STATUS(pg_layout_new(2, names, (int[]){2, 1}, shapes, &layout), PG_OK);
  return layout;
}

// ---- conventions ----------------------------------------------------------------------------------------------------

static void kinks_have_the_stated_derivatives(void) {
  static const char *const names[] = {"relu", "abs", "sign", "floor", "round"};
  for (int i = 0; i < 5; i++) {
    reset();
    pg_value x = input(PG_F64, 2, -1, VALUES(0, -0.0));
    expect(gradient(call1("sum", call1(names[i], x)), x), 0, VALUES(0, 0));
  }
  reset();
  pg_value x = input(PG_F64, 3, -1, VALUES(1, 2, 3)), y = input(PG_F64, 3, -1, VALUES(1, 5, 0));
  expect(gradient(call1("sum", call2("maximum", x, y)), x), 0, VALUES(0.5, 0, 1));
  expect(gradient(call1("sum", call2("minimum", x, y)), x), 0, VALUES(0.5, 1, 0));
  reset();
  x = input(PG_F64, 4, -1, VALUES(7, 1, 7, 7));
  expect(gradient(call1("max", x), x), 1e-15, VALUES(1.0 / 3, 0, 1.0 / 3, 1.0 / 3));
}

static void powers_have_derivatives_at_zero(void) {
  for (int p = 0; p <= 3; p++) {
    reset();
    pg_value x = input(PG_F64, 1, -1, VALUES(0)), e = scalar(p);
    pg_value first = call1("sum", gradient(call1("sum", call2("pow", x, e)), x));
    expect(first, 0, VALUES(p == 1));
    expect(gradient(first, x), 0, VALUES(p == 2 ? 2 : 0));
    expect(gradient(call1("sum", call2("pow", x, e)), e), 0, VALUES(0));
  }
}

static void numbers_that_met_both_dtypes_have_f64_derivatives(void) {
  reset();
  pg_value x = input(PG_F32, 2, -1, VALUES(1, 2)), y = input(PG_F64, 2, -1, VALUES(3, 4)), w = scalar(5);
  pg_value sum =
      call2("add", call("cast", 1, (pg_value[]){call1("sum", call2("mul", x, w))}, (pg_attrs){.dtype = PG_F64}),
            call1("sum", call2("mul", y, call2("mul", w, w))));
  pg_value d = gradient(sum, w);
  CHECK(pg_value_dtype(s.g, d) == PG_F64 && pg_value_ndim(s.g, d) == 0);
  expect(d, 0, VALUES(3 + 2 * 5 * 7));
}

static void stopped_and_unrelated_values_have_zero_derivatives(void) {
  reset();
  pg_value x = input(PG_F32, 2, -1, VALUES(3)), y = input(PG_F32, 3, -1, VALUES(1));
  expect(gradient(call1("sum", call2("mul", x, call1("stop", x))), x), 0, VALUES(3, 3));
  expect(gradient(call1("sum", x), y), 0, VALUES(0, 0, 0));
  pg_value w = scalar(2);
  expect(gradient(call1("sum", x), w), 0, VALUES(0));
}

static pg_value triple(pg_graph *g, pg_value ct, void *user) {
  ++*(int *)user;
  return pg_call2(g, "mul", ct, pg_number(g, 3));
}

static void a_tap_edits_what_flows_back(void) {
  reset();
  static int calls;
  static pg_region region; // outlives the graph
  calls = 0;
  region = (pg_region){.references = 1, .tap = triple, .user = &calls};
  pg_value x = input(PG_F64, 2, -1, VALUES(3, 4));
  pg_value y = pg_node_make(s.g, PG_OP_TAP, 1, &x, NULL, &region);
  expect(y, 0, VALUES(3, 4));
  expect(gradient(call1("sum", call2("mul", y, y)), x), 0, VALUES(18, 24));
  CHECK(calls == 1);
}

static void marks_are_apart(void) {
  reset();
  pg_value x = input(PG_F64, 2, -1, VALUES(3, 4));
  pg_value a = call("mark", 1, &x, (pg_attrs){.n = 1, .a = {1}}), b = call("mark", 1, &x, (pg_attrs){.n = 1, .a = {2}});
  CHECK(a != b);
  pg_value y = call1("sum", call2("mul", a, call2("mul", b, b)));
  expect(gradient(y, a), 0, VALUES(9, 16));
  expect(gradient(y, b), 0, VALUES(18, 32));
  expect(gradient(y, x), 0, VALUES(27, 48));
}

static void gradients_of_views_are_packed_once(void) {
  reset();
  pg_layout *layout = make_layout(0);
  pg_value v = vector(layout, PG_F64, 1), sum = pg_number(s.g, 0);
  for (int i = 0; i < 6; i++) {
    pg_value part = call("view", 1, &v, (pg_attrs){.n = 1, .a = {i % 2}});
    sum = call2("add", sum, call1("sum", call2("mul", part, pg_number(s.g, i))));
  }
  const int before = pg_graph_size(s.g);
  pg_value d = gradient(sum, v);
  int packs = 0, sums = 0;
  for (int i = before; i < pg_graph_size(s.g); i++) {
    packs += pg_at(s.g, i)->op == PG_OP_PACK;
    sums += pg_at(s.g, i)->op == PG_OP_ADD && pg_at(s.g, i)->layout;
  }
  CHECK(packs == 1 && sums == 0);
  pg_tensor *t = run(d);
  for (int i = 0; i < 6; i++) CHECK(get(t, i) == 0 + 2 + 4);
  CHECK(get(t, 16) == 1 + 3 + 5 && get(t, 6) == 0);
  pg_tensor_release(t);
  pg_layout_release(layout);
}

// ---- values ---------------------------------------------------------------------------------------------------------

static void softmax_and_its_kin_stay_finite(void) {
  reset();
  pg_value x = input(PG_F32, 2, 3, VALUES(1e30, 1e30, -1e30, -INFINITY, 0, -INFINITY));
  expect(call1("softmax", x), 1e-7, VALUES(0.5, 0.5, 0, 0, 1, 0));
  expect(call1("logsumexp", x), 1e24, VALUES(1e30, 0));
  pg_value labels = input(PG_I64, 2, -1, VALUES(0, 1));
  expect(call("cross_entropy", 2, (pg_value[]){x, labels}, (pg_attrs){.flags = 2}), 1e-6, VALUES(log(2), 0));
  pg_value none = input(PG_F32, 2, -1, VALUES(-INFINITY));
  expect(call1("logsumexp", none), 0, VALUES(-INFINITY));
  pg_value z = input(PG_F32, 3, -1, VALUES(0, 80, -80)), y = input(PG_F32, 3, -1, VALUES(0, 1, 1));
  pg_value loss = call("binary_cross_entropy_with_logits", 2, (pg_value[]){z, y}, (pg_attrs){.flags = 2});
  expect(loss, 1e-6, VALUES(log(2), 0, 80));
  expect(gradient(call1("sum", loss), z), 1e-6, VALUES(0.5, 0, -1));
}

static void sums_of_masks_and_bytes_do_not_wrap(void) {
  reset();
  pg_value mask = input(PG_BOOL, 300, -1, VALUES(1)), bytes = input(PG_U8, 300, -1, VALUES(255));
  CHECK(pg_value_dtype(s.g, call1("sum", mask)) == PG_I64);
  expect(call1("sum", mask), 0, VALUES(300));
  expect(call1("sum", bytes), 0, VALUES(76500));
  expect(call1("all", mask), 0, VALUES(1));
  expect(call1("any", call1("not", mask)), 0, VALUES(0));
  expect(call1("max", bytes), 0, VALUES(255));
}

static void indices_pick_and_add(void) {
  reset();
  pg_value x = input(PG_F32, 3, 2, VALUES(0, 1, 10, 11, 20, 21)), at = input(PG_I32, 4, -1, VALUES(2, 0, 99, -7));
  expect(call2("take", x, at), 0, VALUES(20, 21, 0, 1, 20, 21, 0, 1));
  expect(call("gather", 2, (pg_value[]){x, at}, (pg_attrs){.n = 1, .a = {1}}), 0,
         VALUES(1, 0, 1, 0, 11, 10, 11, 10, 21, 20, 21, 20));
  pg_value ones = input(PG_F32, 4, 2, VALUES(1, 2));
  expect(call("scatter_add", 3, (pg_value[]){x, at, ones}, (pg_attrs){.n = 1}), 0, VALUES(2, 5, 10, 11, 22, 25));
  expect(call2("take_along_last", x, input(PG_U8, 3, -1, VALUES(1, 0, 1))), 0, VALUES(1, 10, 21));
  expect(call1("argmax", input(PG_F32, 2, 3, VALUES(1, 3, 3, NAN, 9, NAN))), 0, VALUES(1, 0));
  expect(call1("argmin", input(PG_F32, 2, 3, VALUES(3, 1, 1, 0, 9, 5))), 0, VALUES(1, 0));
  expect(call("one_hot", 1, (pg_value[]){input(PG_I64, 2, -1, VALUES(2, 0))}, (pg_attrs){.a = {3}}), 0,
         VALUES(0, 0, 1, 1, 0, 0));
}

static void filled_tensors(void) {
  reset();
  expect(call("eye", 0, NULL, (pg_attrs){.n = 2, .a = {2, 3}}), 0, VALUES(1, 0, 0, 0, 1, 0));
  expect(call("arange", 2, (pg_value[]){pg_number(s.g, 5), pg_number(s.g, -2)},
              (pg_attrs){.n = 1, .a = {3}, .dtype = PG_I64}),
         0, VALUES(5, 3, 1));
  expect(call("arange", 0, NULL, (pg_attrs){.n = 1, .a = {3}, .dtype = PG_F64}), 0, VALUES(0, 1, 2));
  expect(call("ones", 0, NULL, (pg_attrs){.n = 1, .a = {2}}), 0, VALUES(1, 1));
  pg_value x = input(PG_F64, 2, 2, VALUES(1, 2, 3, 4));
  expect(call("stack", 2, (pg_value[]){x, x}, (pg_attrs){.a = {-1}}), 0, VALUES(1, 1, 2, 2, 3, 3, 4, 4));
  expect(call("pad", 1, &x, (pg_attrs){.n = 2, .a = {0, 1}, .b = {2, 4}, .c = {1, 2}}), 0,
         VALUES(0, 1, 0, 2, 0, 3, 0, 4));
  expect(call("var", 1, &x, (pg_attrs){.x = 1}), 1e-15, VALUES(5.0 / 3));
}

static void gelu_and_friends_have_known_values(void) {
  reset();
  pg_value x = input(PG_F64, 3, -1, VALUES(-1, 0, 2));
  expect(call1("gelu", x), 1e-12, VALUES(-0.15865525393145707, 0, 1.9544997361036416));
  expect(call("gelu", 1, &x, (pg_attrs){.flags = 1}), 1e-12, VALUES(-0.15880800939172324, 0, 1.9545976940877752));
  expect(call1("silu", x), 1e-12, VALUES(-0.2689414213699951, 0, 1.7615941559557646));
  expect(call("elu", 1, &x, (pg_attrs){.x = 1}), 1e-12, VALUES(expm1(-1), 0, 2));
  expect(call("clamp", 3, (pg_value[]){x, pg_number(s.g, -0.5), pg_number(s.g, 1)}, (pg_attrs){0}), 0,
         VALUES(-0.5, 0, 1));
  expect(call("norm", 1, &x, (pg_attrs){0}), 1e-15, VALUES(sqrt(5)));
}

static void vectors_flatten_and_reduce_without_pads(void) {
  reset();
  pg_layout *layout = make_layout(0);
  pg_value v = vector(layout, PG_F32, 1);
  expect(call1("sum", v), 0, VALUES(36));
  expect(call1("mean", v), 0, VALUES(4.5));
  expect(call1("min", call2("add", v, pg_number(s.g, 1))), 0, VALUES(2));
  expect(call1("max", call1("neg", v)), 0, VALUES(-1));
  expect(call1("segmean", v), 1e-6, VALUES(3.5, 7.5));
  pg_value flat = call1("flatten_vector", v);
  expect(flat, 0, VALUES(1, 2, 3, 4, 5, 6, 7, 8));
  pg_value back = call("pack_flat", 1, &flat, (pg_attrs){.layout = layout});
  expect(call1("sum", call2("ne", back, v)), 0, VALUES(0));
  expect(call("segsize", 0, NULL, (pg_attrs){.layout = layout}), 0, VALUES(6, 2));
  pg_value each = call("segfull", 2, (pg_value[]){pg_number(s.g, 3), pg_number(s.g, 4)}, (pg_attrs){.layout = layout});
  expect(call1("flatten_vector", each), 0, VALUES(3, 3, 3, 3, 3, 3, 4, 4));
  pg_layout_release(layout);
}

// ---- randomness -----------------------------------------------------------------------------------------------------

static void keys_fold_as_on_the_host(void) {
  reset();
  pg_value keys = input(PG_KEY, 3, 1, VALUES(1, 2, 3)), data = input(PG_I32, 2, -1, VALUES(-1, 7));
  pg_tensor *t = run(call2("key_fold", keys, data));
  const pg_key *found = pg_tensor_data(t);
  for (int i = 0; i < 6; i++) {
    const pg_key want = pg_key_fold(pg_key_seed((uint64_t)(1 + i / 2)), i % 2 ? 7 : (uint64_t)-1);
    CHECK(found[i].a == want.a && found[i].b == want.b);
  }
  pg_tensor_release(t);
  t = run(call2("key_fold", keys, scalar(41)));
  const pg_key want = pg_key_fold(pg_key_seed(3), 41);
  CHECK(((pg_key *)pg_tensor_data(t))[2].a == want.a && ((pg_key *)pg_tensor_data(t))[2].b == want.b);
  pg_tensor_release(t);
}

static void permutations_are_permutations(void) {
  reset();
  pg_value key = input(PG_KEY, 2, -1, VALUES(1, 2));
  pg_tensor *t = run(call("permutation", 1, &key, (pg_attrs){.n = 1, .a = {100}}));
  CHECK(pg_tensor_size(t) == 200);
  int seen[2][100] = {{0}}, fixed = 0, same = 0;
  for (int i = 0; i < 200; i++) {
    const int x = (int)get(t, i);
    CHECK(x >= 0 && x < 100);
    seen[i / 100][x]++;
    fixed += x == i % 100;
    same += i < 100 && x == (int)get(t, i + 100);
  }
  for (int i = 0; i < 200; i++) CHECK(seen[i / 100][i % 100] == 1);
  CHECK(fixed < 15 && same < 10);
  pg_tensor_release(t);
}

static void dropout_depends_on_each_examples_key_alone(void) {
  reset();
  pg_value x = input(PG_F32, 3, 40, VALUES(1)), keys = input(PG_KEY, 3, -1, VALUES(5, 6, 7));
  pg_value one = input(PG_F32, 40, -1, VALUES(1)), key = input(PG_KEY, -1, -1, VALUES(6));
  pg_tensor *all = run(call("dropout", 2, (pg_value[]){x, keys}, (pg_attrs){.x = 0.25}));
  pg_tensor *alone = run(call("dropout", 2, (pg_value[]){one, key}, (pg_attrs){.x = 0.25}));
  int kept = 0;
  for (int i = 0; i < 40; i++) {
    CHECK(get(all, 40 + i) == get(alone, i));
    CHECK(get(alone, i) == 0 || get(alone, i) == (double)(float)(4.0 / 3));
    kept += get(alone, i) != 0;
  }
  CHECK(kept > 20 && kept < 39);
  pg_tensor_release(all), pg_tensor_release(alone);
  pg_tensor *coins = run(call("bernoulli", 1, &key, (pg_attrs){.n = 1, .a = {10000}, .x = 0.3, .dtype = PG_BOOL}));
  int heads = 0;
  for (int i = 0; i < 10000; i++) heads += (int)get(coins, i);
  CHECK(heads > 2800 && heads < 3200);
  pg_tensor_release(coins);
}

// ---- calls ----------------------------------------------------------------------------------------------------------

// body(x, w) = sum(tanh(x w)²), called from g with its derivative taken through the call and through the same nodes
// inlined.
static void calls_have_the_derivatives_of_their_bodies(void) {
  reset();
  pg_graph *body;
  CHECK_STATUS(pg_graph_new(&body), PG_OK);
  pg_value bx = pg_input(body, PG_F64, 1, (int64_t[]){3}, NULL), bw = pg_scalar(body);
  pg_value t = pg_call1(body, "tanh", pg_call2(body, "mul", bx, bw));
  pg_value by = pg_call1(body, "sum", pg_call2(body, "mul", t, t));
  pg_region region = {.references = 1, .body = body, .nout = 1, .outs = &by};
  pg_value x = input(PG_F64, 3, -1, VALUES(0.1, 0.2, -0.3)), w = scalar(1.5), in[2] = {x, w};
  pg_value y = pg_node_make(s.g, PG_OP_CALL, 2, in, NULL, &region);
  CHECK_THAT(y != PG_NONE, "%s", pg_last_error());
  pg_value u = call1("tanh", call2("mul", x, w)), plain = call1("sum", call2("mul", u, u)), wrt[2] = {x, w}, a[2], b[2];
  CHECK_STATUS(pg_vjp(s.g, 1, &y, NULL, 2, wrt, a), PG_OK);
  CHECK_STATUS(pg_vjp(s.g, 1, &plain, NULL, 2, wrt, b), PG_OK);
  expect(call1("sum", call1("abs", call2("sub", a[0], b[0]))), 0, VALUES(0));
  expect(call2("sub", a[1], b[1]), 0, VALUES(0));
  pg_value ones[2] = {call1("ones_like", x), pg_number(s.g, 2)}, ta, tb;
  CHECK_STATUS(pg_jvp(s.g, 2, wrt, ones, 1, &y, &ta), PG_OK);
  CHECK_STATUS(pg_jvp(s.g, 2, wrt, ones, 1, &plain, &tb), PG_OK);
  expect(call2("sub", ta, tb), 1e-15, VALUES(0));
  pg_value wrong = input(PG_F64, 4, -1, VALUES(0));
  expect_error(pg_node_make(s.g, PG_OP_CALL, 2, (pg_value[]){wrong, w}, NULL, &region),
               "call: argument 1 is f64 [4], expected f64 [3]");
  reset(); // drops the graph's references; ours keeps the region from freeing what is on the stack
  pg_graph_free(body);
}

// ---- messages -------------------------------------------------------------------------------------------------------

static void messages_name_what_was_met(void) {
  reset();
  pg_layout *a = make_layout(0), *b = make_layout(5);
  pg_value x = input(PG_F32, 64, 10, VALUES(0)), y = input(PG_F32, 64, 11, VALUES(0)),
           d = input(PG_F64, 10, -1, VALUES(0));
  pg_value i = input(PG_I64, 10, -1, VALUES(0)), m = input(PG_BOOL, 10, -1, VALUES(0)), n = pg_number(s.g, 1);
  pg_value v = vector(a, PG_F32, 0), w = vector(b, PG_F32, 0), key = input(PG_KEY, -1, -1, VALUES(0));
  expect_error(call2("add", x, y),
               "add: shapes f32 [64, 10] and f32 [64, 11] do not broadcast (axis 2: 10 against 11)");
  expect_error(call2("mul", x, d),
               "mul: f32 [64, 10] and f64 [10] have different dtypes; convert one with :to(\"f64\")");
  expect_error(call2("mul", i, d), "mul: i64 [10] and f64 [10] have different dtypes; convert one with :to(\"f64\")");
  expect_error(call2("add", m, m), "add: works on numeric tensors, got bool [10]; convert it with :to(\"f32\")");
  expect_error(call1("exp", i), "exp: works on floating-point tensors, got i64 [10]; convert it with :to(\"f32\")");
  expect_error(call2("add", v, w),
               "add: vectors of different layouts (f32 vector of 8 in 2 tensors and f32 vector of 13 in 2 tensors)");
  expect_error(call2("add", v, x),
               "add: a vector meets vectors of its layout and single numbers, not tensors (f32 vector of "
               "8 in 2 tensors and f32 [64, 10])");
  expect_error(call("sum", 1, &x, (pg_attrs){.n = 1, .a = {2}}), "sum: axis 3 of a tensor of 2 axes");
  expect_error(call("sum", 1, &x, (pg_attrs){.n = 2, .a = {1, -1}}), "sum: axis 2 is named twice");
  expect_error(call("reshape", 1, &x, (pg_attrs){.n = 1, .a = {7}}),
               "reshape: f32 [64, 10] has 640 elements, [7] has 7");
  expect_error(call("concat", 2, (pg_value[]){x, y}, (pg_attrs){.n = 1}),
               "concat: f32 [64, 10] and f32 [64, 11] do not join along axis 1");
  expect_error(call2("cross_entropy", x, m), "cross_entropy: labels are whole numbers (i32, i64, u8), not bool [10]");
  expect_error(call2("take", x, d), "gather: indices are whole numbers, not f64 [10]");
  expect_error(call("normal", 1, &x, (pg_attrs){.n = 1, .a = {3}}), "normal: expected a key, got f32 [64, 10]");
  expect_error(call2("add", key, n), "add: works on numeric tensors, got key []");
  pg_value found, bad = x;
  CHECK_STATUS(pg_vjp(s.g, 1, &bad, NULL, 1, &x, &found), PG_ERR_SHAPE);
  CHECK_STATUS(pg_vjp(s.g, 1, (pg_value[]){call1("sum", x)}, NULL, 1, &i, &found), PG_ERR_DTYPE);
  CHECK(strcmp(pg_last_error(), "variable 1 is i64 [10]; derivatives exist for floating-point values") == 0);
  pg_layout_release(a), pg_layout_release(b);
}

// ---- no argument does harm ------------------------------------------------------------------------------------------

static uint64_t state = 99;

static int64_t any(int64_t n) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (int64_t)((state >> 33) % (uint64_t)n);
}

// Every function on random operands with random attributes gives a well-formed node or a message, and where it gives a
// floating-point node its derivatives can be built.
static void functions_refuse_nonsense(void) {
  pg_layout *layouts[2] = {make_layout(0), make_layout(3)};
  int made = 0, refused = 0, differentiated = 0;
  for (int round = 0; round < 400; round++) {
    reset();
    pg_value pool[14];
    int n = 0;
    pool[n++] = input(PG_F32, 3, 4, VALUES(1, 2));
    pool[n++] = input(PG_F32, 4, -1, VALUES(1, 2));
    pool[n++] = input(PG_F64, 4, 3, VALUES(1, 2));
    pool[n++] = input(PG_F32, -1, -1, VALUES(1));
    pool[n++] = input(PG_F32, 0, 4, VALUES(1));
    pool[n++] = input(PG_I64, 3, -1, VALUES(1));
    pool[n++] = input(PG_U8, 3, 4, VALUES(1));
    pool[n++] = input(PG_BOOL, 3, 4, VALUES(1));
    pool[n++] = input(PG_KEY, 3, -1, VALUES(1));
    pool[n++] = input(PG_KEY, -1, -1, VALUES(1));
    pool[n++] = vector(layouts[0], PG_F32, 0);
    pool[n++] = vector(layouts[1], PG_F64, 0);
    pool[n++] = pg_number(s.g, 2);
    pool[n++] = scalar(3);
    for (int f = 0; pg_function_at(f); f++) {
      const pg_function *function = pg_function_at(f);
      const int most = function->max_arity < 0 ? 3 : function->max_arity;
      const int count = function->min_arity + (int)any(most - function->min_arity + 1);
      pg_value in[4];
      for (int i = 0; i < count; i++) in[i] = pool[any(n)];
      if (count > 1 && any(2)) in[1] = in[0];
      pg_attrs attrs = {.n = (int)any(5), .x = (double)any(5) / 4, .dtype = (int)any(8), .flags = (int)any(3)};
      if (any(2)) attrs.dtype = PG_F32;
      if (any(4) == 0) attrs.layout = layouts[any(2)];
      for (int i = 0; i < 4; i++) {
        attrs.a[i] = any(8) - 2;
        attrs.b[i] = any(6) - 1;
        attrs.c[i] = any(4) - 1;
      }
      pg_value y = pg_call(s.g, function->name, count, in, &attrs);
      if (y == PG_NONE) {
        refused++;
        CHECK(pg_last_error()[0]);
        continue;
      }
      made++;
      const pg_node node = *pg_at(s.g, y);
      CHECK(node.ndim >= 0 && node.ndim <= PG_MAX_NDIM && node.dtype < PG_NUM_DTYPES);
      for (int d = 0; d < node.ndim; d++) CHECK(node.shape[d] >= 0);
      if (!node.weak && node.dtype > PG_F64) continue;
      pg_value ct = node.weak ? pg_number(s.g, 1) : pg_call1(s.g, "ones_like", y);
      for (int i = 0; i < count; i++) {
        pg_value found;
        if (!pg_value_is_weak(s.g, in[i]) && !pg_dtype_is_float(pg_value_dtype(s.g, in[i]))) continue;
        const pg_status status = pg_vjp(s.g, 1, &y, &ct, 1, &in[i], &found);
        if (status == PG_ERR_UNSUPPORTED) { // says that there is none
          CHECK_THAT(strstr(pg_last_error(), "has no derivative"), "%s: %s", function->name, pg_last_error());
          continue;
        }
        CHECK_STATUS(status, PG_OK);
        CHECK_THAT(pg_value_is_weak(s.g, in[i]) || pg_same_type(pg_at(s.g, found), pg_at(s.g, in[i])), "%s, operand %d",
                   function->name, i);
        pg_value t = pg_value_is_weak(s.g, in[i]) ? pg_number(s.g, 1) : pg_call1(s.g, "ones_like", in[i]);
        CHECK_STATUS(pg_jvp(s.g, 1, &in[i], &t, 1, &y, &found), PG_OK);
        CHECK_THAT(node.weak || pg_same_type(pg_at(s.g, found), &node), "%s, tangent of operand %d", function->name, i);
        differentiated++;
      }
    }
  }
  CHECK_THAT(made > 4000 && refused > 4000 && differentiated > 2000, "made %d, refused %d, differentiated %d", made,
             refused, differentiated);
  pg_layout_release(layouts[0]), pg_layout_release(layouts[1]);
}

static void functions_are_found_by_name(void) {
  int n = 0;
  for (; pg_function_at(n); n++) {
    CHECK(pg_function_find(pg_function_at(n)->name) == pg_function_at(n));
    CHECK(n == 0 || strcmp(pg_function_at(n - 1)->name, pg_function_at(n)->name) < 0);
  }
  CHECK(n > 100 && !pg_function_find("") && !pg_function_find("input") && !pg_function_find("softma"));
  CHECK(pg_function_find("sum")->composite && pg_function_find("exp")->op == PG_OP_EXP);
}

int main(void) {
  CHECK_RUN(functions_are_found_by_name);
  CHECK_RUN(messages_name_what_was_met);
  CHECK_RUN(kinks_have_the_stated_derivatives);
  CHECK_RUN(powers_have_derivatives_at_zero);
  CHECK_RUN(numbers_that_met_both_dtypes_have_f64_derivatives);
  CHECK_RUN(stopped_and_unrelated_values_have_zero_derivatives);
  CHECK_RUN(a_tap_edits_what_flows_back);
  CHECK_RUN(marks_are_apart);
  CHECK_RUN(gradients_of_views_are_packed_once);
  CHECK_RUN(softmax_and_its_kin_stay_finite);
  CHECK_RUN(sums_of_masks_and_bytes_do_not_wrap);
  CHECK_RUN(indices_pick_and_add);
  CHECK_RUN(filled_tensors);
  CHECK_RUN(gelu_and_friends_have_known_values);
  CHECK_RUN(vectors_flatten_and_reduce_without_pads);
  CHECK_RUN(keys_fold_as_on_the_host);
  CHECK_RUN(permutations_are_permutations);
  CHECK_RUN(dropout_depends_on_each_examples_key_alone);
  CHECK_RUN(calls_have_the_derivatives_of_their_bodies);
  CHECK_RUN(functions_refuse_nonsense);
  reset();
  pg_graph_free(s.g);
  return check_result();
}
