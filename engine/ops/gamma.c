// gamma.c: the rows of gamma draws: LOG_GAMMA, the logarithm of a draw, from which beta, Dirichlet and Student's draws
// are made as well, and GAMMA_SLOPE, its derivative by the shape. The mathematics is that of core/gamma.h; draws depend
// on key, index and shape alone.
#include <string.h>

#include "engine/core/gamma.h"
#include "engine/core/integers.h"
#include "engine/core/parallel.h"
#include "engine/ops/batching.h"

enum { BLOCK = 64 };

static int64_t product(int n, const int64_t *shape) {
  int64_t size = 1;
  for (int i = 0; i < n; i++) size *= shape[i];
  return size;
}

// ---- LOG_GAMMA -----------------------------------------------------------------------------------------------------

static pg_status shape_log_gamma(const pg_graph *g, pg_node *node) {
  const pg_node *key = pg_in(g, node, 0), *shape = pg_in(g, node, 1);
  char a[200], b[200];
  if (key->weak || key->dtype != PG_KEY)
    return pg_fail(PG_ERR_DTYPE, "log_gamma: expected a key, got %s", pg_shape_text(key, a, sizeof a));
  PG_TRY(pg_want_plain("log_gamma", shape));
  if (!pg_dtype_is_float((pg_dtype)shape->dtype))
    return pg_fail(PG_ERR_DTYPE, "log_gamma: shapes are f32 or f64, not %s", pg_shape_text(shape, b, sizeof b));
  if (key->ndim > shape->ndim || memcmp(key->shape, shape->shape, (size_t)key->ndim * sizeof *key->shape) != 0)
    return pg_fail(PG_ERR_SHAPE, "log_gamma: keys %s are not for the leading axes of %s",
                   pg_shape_text(key, a, sizeof a), pg_shape_text(shape, b, sizeof b));
  pg_copy_type(node, shape);
  return PG_OK;
}

static pg_value slope_times(pg_graph *g, pg_value v, pg_value t) {
  pg_value slope = pg_op2(g, PG_OP_GAMMA_SLOPE, pg_at(g, v)->in[1], v);
  return pg_op2(g, PG_OP_MUL, t, slope);
}

static pg_status vjp_log_gamma(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  ct_in[1] = slope_times(g, v, ct);
  return pg_built(ct_in[1]);
}

static pg_status jvp_log_gamma(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  *out = slope_times(g, v, tangents[1]);
  return pg_built(*out);
}

typedef struct gamma_task {
  const pg_operand *out, *in;
  int64_t per_key, blocks; // elements of a key, and blocks of them
} gamma_task;

// Elements first … first + n - 1 of x as f64, and back.
static void read_f64(const pg_operand *x, int64_t first, int64_t n, double *to) {
  for (int64_t i = 0; i < n; i++)
    to[i] = x->dtype == PG_F64 ? ((const double *)x->data)[first + i] : (double)((const float *)x->data)[first + i];
}

static void write_f64(const pg_operand *x, int64_t first, int64_t n, const double *from) {
  for (int64_t i = 0; i < n; i++) {
    if (x->dtype == PG_F64)
      ((double *)x->data)[first + i] = from[i];
    else
      ((float *)x->data)[first + i] = (float)from[i];
  }
}

static void draw_blocks(void *arg, int64_t first, int64_t last) {
  const gamma_task *t = arg;
  double shapes[BLOCK], drawn[BLOCK];
  for (int64_t i = first; i < last; i++) {
    const int64_t k = i / t->blocks, index = i % t->blocks * BLOCK, at = k * t->per_key + index;
    const int64_t n = pg_smaller(BLOCK, t->per_key - index);
    read_f64(&t->in[1], at, n, shapes);
    pg_draw_log_gamma(((const pg_key *)t->in[0].data)[k], (uint64_t)index, n, shapes, drawn);
    write_f64(t->out, at, n, drawn);
  }
}

static void run_log_gamma(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)attrs, (void)scratch;
  const int64_t keys = product(in[0].ndim, in[0].shape);
  gamma_task t = {.out = out, .in = in, .per_key = product(out->ndim - in[0].ndim, out->shape + in[0].ndim)};
  t.blocks = pg_divide_up(t.per_key, BLOCK);
  pg_parallel_for(keys * t.blocks, 200.0 * (double)keys * (double)t.per_key, draw_blocks, &t);
}

// ---- GAMMA_SLOPE ---------------------------------------------------------------------------------------------------

static pg_status shape_gamma_slope(const pg_graph *g, pg_node *node) {
  const pg_node *shape = pg_in(g, node, 0), *x = pg_in(g, node, 1);
  char a[200], b[200];
  PG_TRY(pg_want_plain("gamma_slope", x));
  if (!pg_same_type(shape, x) || !pg_dtype_is_float((pg_dtype)x->dtype))
    return pg_fail(PG_ERR_SHAPE, "gamma_slope: two tensors of f32 or f64 of one shape were expected, got %s and %s",
                   pg_shape_text(shape, a, sizeof a), pg_shape_text(x, b, sizeof b));
  pg_copy_type(node, x);
  return PG_OK;
}

static pg_status fail_second(void) {
  return pg_fail(PG_ERR_UNSUPPORTED, "gamma: the derivative of draws by their shape has no derivative itself; put "
                                     "pg.stop_gradient around the shape");
}

static pg_status vjp_gamma_slope(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  (void)g, (void)v, (void)ct, (void)ct_in;
  return fail_second();
}

static pg_status jvp_gamma_slope(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  (void)g, (void)v, (void)tangents, (void)out;
  return fail_second();
}

static void find_slopes(void *arg, int64_t first, int64_t last) {
  const gamma_task *t = arg;
  for (int64_t i = first; i < last; i++) {
    double shape, x;
    read_f64(&t->in[0], i, 1, &shape);
    read_f64(&t->in[1], i, 1, &x);
    const double slope = pg_gamma_slope(shape, x);
    write_f64(t->out, i, 1, &slope);
  }
}

static void run_gamma_slope(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs,
                            void *scratch) {
  (void)nin, (void)attrs, (void)scratch;
  gamma_task t = {.out = out, .in = in};
  const int64_t size = product(out->ndim, out->shape);
  pg_parallel_for(size, 1000.0 * (double)size, find_slopes, &t);
}

#define ROW(NAME, op, flops)                                                                                           \
  const pg_op_info pg_op_info_##NAME = {.name = #op,                                                                   \
                                        .arity = 2,                                                                    \
                                        .cls = PG_CLASS_LIBRARY,                                                       \
                                        .shape = shape_##op,                                                           \
                                        .vjp = vjp_##op,                                                               \
                                        .jvp = jvp_##op,                                                               \
                                        .batch = pg_batch_rows,                                                        \
                                        .cpu = run_##op,                                                               \
                                        .cost = flops};
ROW(LOG_GAMMA, log_gamma, 200)
ROW(GAMMA_SLOPE, gamma_slope, 500)
