// cumulate.c: the rows that go along an axis and remember: CUMSUM, ARGCUMMAX and RECUR, the linear recurrence of which
// running products, discounted sums and logarithms of running sums are made. Each goes forwards or from the end.
// Running sums are cut into blocks of 4096 along the axis, sums within a block being added to the sum before it, so
// that threads can share a long row; bits follow from the shape alone.
#include <string.h>

#include "engine/core/integers.h"
#include "engine/core/parallel.h"
#include "engine/ops/batching.h"

enum {
  FROM_END = 1,     // a flag
  SUM_BLOCK = 4096, // part of the numerics
  STREAMS = 4,      // blocks that are summed side by side
  COLUMNS = 256     // inner elements that one task takes at once
};

static pg_status want_axis_of_numbers(const char *op, const pg_node *x) {
  char text[200];
  PG_TRY(pg_want_plain(op, x));
  if (x->dtype > PG_I64)
    return pg_fail(PG_ERR_DTYPE, "%s: %s; convert it with :to", op, pg_shape_text(x, text, sizeof text));
  if (x->ndim == 0) return pg_fail(PG_ERR_SHAPE, "%s: a single number has no axis to go along", op);
  return PG_OK;
}

static int64_t product(int n, const int64_t *shape) {
  int64_t size = 1;
  for (int i = 0; i < n; i++) size *= shape[i];
  return size;
}

// ---- CUMSUM --------------------------------------------------------------------------------------------------------

static pg_status shape_cumsum(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  int axis;
  PG_TRY(want_axis_of_numbers("cumsum", x));
  PG_TRY(pg_want_axis("cumsum", node->attrs.a[0], x->ndim, &axis));
  node->attrs.a[0] = axis;
  pg_copy_type(node, x);
  return PG_OK;
}

static pg_value cumsum(pg_graph *g, pg_value x, int64_t axis, int flags) {
  pg_attrs attrs = {.n = 1, .a = {axis}, .flags = flags};
  return pg_node_make(g, PG_OP_CUMSUM, 1, &x, &attrs, NULL);
}

// y_i = sum of x_j for j <= i: the cotangent of x_j is the sum of those of y_i for i >= j.
static pg_status vjp_cumsum(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_attrs attrs = pg_at(g, v)->attrs;
  ct_in[0] = cumsum(g, ct, attrs.a[0], attrs.flags ^ FROM_END);
  return pg_built(ct_in[0]);
}

static pg_status jvp_cumsum(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_attrs attrs = pg_at(g, v)->attrs;
  *out = cumsum(g, tangents[0], attrs.a[0], attrs.flags);
  return pg_built(*out);
}

static pg_status batch_cumsum(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                              pg_value *out) {
  (void)batched;
  *out = cumsum(b->g, in[0], node->attrs.a[0] + 1, node->attrs.flags);
  return pg_built(*out);
}

// x as [outer, n, inner]. A step along the axis is `step` elements, negative from the end; start: where it begins.
typedef struct sum_task {
  const pg_operand *out, *in;
  int64_t n, inner, step, start, blocks, pieces; // blocks along the axis, pieces of COLUMNS of the inner elements
} sum_task;

// Where column `first` of block number `at` begins, and how long and how wide the part is that begins there.
typedef struct sum_part {
  int64_t origin, block, length, width;
} sum_part;

static sum_part find_part(const sum_task *t, int64_t outer, int64_t block, int64_t piece) {
  const int64_t first = piece * COLUMNS, at = block * SUM_BLOCK;
  return (sum_part){.origin = outer * t->n * t->inner + t->start + at * t->step + first,
                    .block = block,
                    .length = pg_smaller(SUM_BLOCK, t->n - at),
                    .width = pg_smaller(COLUMNS, t->inner - first)};
}

#define CUMSUM(T, U)                                                                                                   \
  static void sum_part_##T(const sum_task *t, const sum_part *p) {                                                     \
    const T *x = (const T *)t->in->data + p->origin;                                                                   \
    T *y = (T *)t->out->data + p->origin;                                                                              \
    if (p->width == 1) {                                                                                               \
      U sum = 0;                                                                                                       \
      for (int64_t i = 0; i < p->length; i++) y[i * t->step] = (T)(sum += (U)x[i * t->step]);                          \
      return;                                                                                                          \
    }                                                                                                                  \
    memcpy(y, x, (size_t)p->width * sizeof *y);                                                                        \
    for (int64_t i = 1; i < p->length; i++) {                                                                          \
      x += t->step, y += t->step;                                                                                      \
      for (int64_t c = 0; c < p->width; c++) y[c] = (T)((U)y[c - t->step] + (U)x[c]);                                  \
    }                                                                                                                  \
  }                                                                                                                    \
  /* STREAMS whole blocks of one row side by side, so that an addition need not wait for the one before. */            \
  static void sum_blocks_##T(const sum_task *t, const sum_part *p) {                                                   \
    const T *x = (const T *)t->in->data + p->origin;                                                                   \
    T *y = (T *)t->out->data + p->origin;                                                                              \
    U sum[STREAMS] = {0};                                                                                              \
    for (int64_t i = 0; i < SUM_BLOCK; i++, x += t->step, y += t->step)                                                \
      for (int k = 0; k < STREAMS; k++) y[k * SUM_BLOCK * t->step] = (T)(sum[k] += (U)x[k * SUM_BLOCK * t->step]);     \
  }                                                                                                                    \
  /* The last sums of the blocks become sums from the beginning. */                                                    \
  static void join_parts_##T(const sum_task *t, const sum_part *p) {                                                   \
    for (int64_t block = 1, at = SUM_BLOCK; block < t->blocks; block++, at += SUM_BLOCK) {                             \
      const T *before = (const T *)t->out->data + p->origin + (at - 1) * t->step;                                      \
      T *last = (T *)t->out->data + p->origin + (pg_smaller(at + SUM_BLOCK, t->n) - 1) * t->step;                      \
      for (int64_t c = 0; c < p->width; c++) last[c] = (T)((U)before[c] + (U)last[c]);                                 \
    }                                                                                                                  \
  }                                                                                                                    \
  /* And so do the others. */                                                                                          \
  static void lift_part_##T(const sum_task *t, const sum_part *p) {                                                    \
    if (p->block == 0) return;                                                                                         \
    T *y = (T *)t->out->data + p->origin;                                                                              \
    const T *before = y - t->step;                                                                                     \
    const int64_t count = p->length - 1;                                                                               \
    if (t->inner == 1) {                                                                                               \
      T *lowest = t->step > 0 ? y : y - count + 1;                                                                     \
      const U sum = (U)*before;                                                                                        \
      for (int64_t i = 0; i < count; i++) lowest[i] = (T)(sum + (U)lowest[i]);                                         \
      return;                                                                                                          \
    }                                                                                                                  \
    for (int64_t i = 0; i < count; i++, y += t->step)                                                                  \
      for (int64_t c = 0; c < p->width; c++) y[c] = (T)((U)before[c] + (U)y[c]);                                       \
  }
CUMSUM(float, float)
CUMSUM(double, double)
CUMSUM(int32_t, uint32_t)
CUMSUM(int64_t, uint64_t)

typedef void (*sum_fn)(const sum_task *t, const sum_part *p);
#define SUMS(T)                                                                                                        \
  { sum_part_##T, sum_blocks_##T, join_parts_##T, lift_part_##T }
static const struct {
  sum_fn sum, sum_blocks, join, lift;
} sums[] = {[PG_F32] = SUMS(float), [PG_F64] = SUMS(double), [PG_I32] = SUMS(int32_t), [PG_I64] = SUMS(int64_t)};

static void each_part(const sum_task *t, int64_t first, int64_t last, sum_fn f) {
  for (int64_t i = first; i < last; i++) {
    const int64_t piece = i % t->pieces, block = i / t->pieces % t->blocks, outer = i / t->pieces / t->blocks;
    const sum_part p = find_part(t, outer, block, piece);
    f(t, &p);
  }
}

static void sum_parts(void *arg, int64_t first, int64_t last) {
  const sum_task *t = arg;
  const int64_t whole = t->n / SUM_BLOCK;
  int64_t i = first;
  while (t->inner == 1 && i < last) {
    const int64_t block = i % t->blocks;
    const bool several = block + STREAMS <= whole && i + STREAMS <= last;
    const sum_part p = find_part(t, i / t->blocks, block, 0);
    (several ? sums[t->out->dtype].sum_blocks : sums[t->out->dtype].sum)(t, &p);
    i += several ? STREAMS : 1;
  }
  each_part(t, i, last, sums[t->out->dtype].sum);
}

static void lift_parts(void *arg, int64_t first, int64_t last) {
  const sum_task *t = arg;
  each_part(t, first, last, sums[t->out->dtype].lift);
}

static void join_parts(void *arg, int64_t first, int64_t last) {
  const sum_task *t = arg;
  for (int64_t i = first; i < last; i++) {
    const sum_part p = find_part(t, i / t->pieces, 0, i % t->pieces);
    sums[t->out->dtype].join(t, &p);
  }
}

static void run_cumsum(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)scratch;
  const int axis = (int)attrs->a[0];
  const int64_t outer = product(axis, in->shape), n = in->shape[axis];
  const int64_t inner = product(in->ndim - axis - 1, in->shape + axis + 1);
  const bool backwards = attrs->flags & FROM_END;
  sum_task t = {.out = out, .in = in, .n = n, .inner = inner, .step = backwards ? -inner : inner};
  const double work = (double)outer * (double)n * (double)inner;
  if (work == 0) return;
  t.start = backwards ? (n - 1) * inner : 0;
  t.blocks = pg_divide_up(n, SUM_BLOCK);
  t.pieces = pg_divide_up(inner, COLUMNS);
  pg_parallel_for(outer * t.blocks * t.pieces, 2 * work, sum_parts, &t);
  if (t.blocks == 1) return;
  pg_parallel_for(outer * t.pieces, 2 * work / SUM_BLOCK, join_parts, &t);
  pg_parallel_for(outer * t.blocks * t.pieces, work, lift_parts, &t);
}

// ---- rows ----------------------------------------------------------------------------------------------------------

typedef struct row_task {
  const pg_operand *out, *in;
  int64_t n, first, step; // a row is gone through from element `first` in steps of 1 or -1
} row_task;

static row_task find_rows(const pg_operand *out, const pg_operand *in, const pg_attrs *attrs) {
  const bool backwards = attrs->flags & FROM_END;
  row_task t = {.out = out, .in = in, .n = in->shape[in->ndim - 1], .step = backwards ? -1 : 1};
  t.first = backwards ? t.n - 1 : 0;
  return t;
}

static void for_rows(row_task *t, double cost, pg_tile_fn fn) {
  const int64_t rows = product(t->in->ndim - 1, t->in->shape);
  if (t->n > 0) pg_parallel_for(rows, cost * (double)rows * (double)t->n, fn, t);
}

// ---- ARGCUMMAX -----------------------------------------------------------------------------------------------------

static pg_status shape_argcummax(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  PG_TRY(want_axis_of_numbers("argcummax", x));
  pg_set_type(node, PG_I64, x->ndim, x->shape, NULL);
  return PG_OK;
}

// The one met first of equal elements; a NaN counts as larger than any number.
#define ARGCUMMAX(T)                                                                                                   \
  static void argcummax_##T(void *arg, int64_t first, int64_t last) {                                                  \
    const row_task *t = arg;                                                                                           \
    for (int64_t row = first; row < last; row++) {                                                                     \
      const T *x = (const T *)t->in->data + row * t->n;                                                                \
      int64_t *y = (int64_t *)t->out->data + row * t->n, best = t->first, i = t->first;                                \
      for (int64_t k = 0; k < t->n; k++, i += t->step) {                                                               \
        if (x[i] > x[best] || (x[i] != x[i] && x[best] == x[best])) best = i;                                          \
        y[i] = best;                                                                                                   \
      }                                                                                                                \
    }                                                                                                                  \
  }
ARGCUMMAX(float)
ARGCUMMAX(double)
ARGCUMMAX(int32_t)
ARGCUMMAX(int64_t)

static void run_argcummax(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  static const pg_tile_fn functions[] = {[PG_F32] = argcummax_float,
                                         [PG_F64] = argcummax_double,
                                         [PG_I32] = argcummax_int32_t,
                                         [PG_I64] = argcummax_int64_t};
  (void)nin, (void)scratch;
  row_task t = find_rows(out, in, attrs);
  for_rows(&t, 2, functions[in->dtype]);
}

// ---- RECUR ---------------------------------------------------------------------------------------------------------

static pg_status shape_recur(const pg_graph *g, pg_node *node) {
  const pg_node *a = pg_in(g, node, 0), *b = pg_in(g, node, 1);
  char ta[200], tb[200];
  PG_TRY(want_axis_of_numbers("recur", a));
  PG_TRY(want_axis_of_numbers("recur", b));
  if (!pg_same_type(a, b) || !pg_dtype_is_float((pg_dtype)a->dtype))
    return pg_fail(PG_ERR_SHAPE, "recur: two tensors of f32 or f64 of one shape were expected, got %s and %s",
                   pg_shape_text(a, ta, sizeof ta), pg_shape_text(b, tb, sizeof tb));
  pg_copy_type(node, a);
  return PG_OK;
}

static pg_value recur(pg_graph *g, pg_value a, pg_value b, int flags) {
  pg_attrs attrs = {.flags = flags};
  return pg_node_make(g, PG_OP_RECUR, 2, (pg_value[]){a, b}, &attrs, NULL);
}

// Each element's neighbour along the last axis, on the side from which the recurrence with these flags comes; 0 at the
// end.
static pg_value neighbours(pg_graph *g, pg_value x, int flags) {
  if (x == PG_NONE) return x;
  const pg_node node = *pg_at(g, x);
  const int last = node.ndim - 1;
  if (node.shape[last] == 0) return x;
  pg_attrs part = {.n = node.ndim}, whole = {.n = node.ndim};
  for (int i = 0; i < node.ndim; i++) {
    part.b[i] = whole.b[i] = node.shape[i];
    part.c[i] = whole.c[i] = 1;
  }
  part.b[last]--;
  (flags & FROM_END ? &part : &whole)->a[last] = 1;
  pg_value inner = pg_node_make(g, PG_OP_SLICE, 1, &x, &part, NULL);
  return pg_node_make(g, PG_OP_PAD, 1, &inner, &whole, NULL);
}

// The cotangents l of b obey l[i] = ct[i] + a[i + 1] l[i + 1]; those of a are l[i] y[i - 1].
static pg_status vjp_recur(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v);
  const int flags = node.attrs.flags, other = flags ^ FROM_END;
  ct_in[1] = recur(g, neighbours(g, node.in[0], other), ct, other);
  PG_TRY(pg_built(ct_in[1]));
  if (ct_in[0] == PG_UNWANTED) return PG_OK;
  ct_in[0] = pg_op2(g, PG_OP_MUL, ct_in[1], neighbours(g, v, flags));
  return pg_built(ct_in[0]);
}

static pg_status jvp_recur(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_node node = *pg_at(g, v);
  pg_value moved = pg_or_zeros(g, tangents[1], node.in[1]);
  if (tangents[0] != PG_NONE) {
    pg_value by_a = pg_op2(g, PG_OP_MUL, tangents[0], neighbours(g, v, node.attrs.flags));
    moved = pg_op2(g, PG_OP_ADD, moved, by_a);
  }
  *out = recur(g, node.in[0], moved, node.attrs.flags);
  return pg_built(*out);
}

#define RECUR(T)                                                                                                       \
  static void recur_##T(void *arg, int64_t first, int64_t last) {                                                      \
    const row_task *t = arg;                                                                                           \
    for (int64_t row = first; row < last; row++) {                                                                     \
      const T *a = (const T *)t->in[0].data + row * t->n, *b = (const T *)t->in[1].data + row * t->n;                  \
      T *y = (T *)t->out->data + row * t->n;                                                                           \
      int64_t i = t->first;                                                                                            \
      y[i] = b[i];                                                                                                     \
      for (int64_t k = 1; k < t->n; k++) {                                                                             \
        const T before = y[i];                                                                                         \
        i += t->step;                                                                                                  \
        y[i] = a[i] * before + b[i];                                                                                   \
      }                                                                                                                \
    }                                                                                                                  \
  }
RECUR(float)
RECUR(double)

static void run_recur(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)scratch;
  row_task t = find_rows(out, in, attrs);
  for_rows(&t, 4, in->dtype == PG_F64 ? recur_double : recur_float);
}

#define ROW(NAME, op, count, flops, ...)                                                                               \
  const pg_op_info pg_op_info_##NAME = {.name = #op,                                                                   \
                                        .arity = count,                                                                \
                                        .cls = PG_CLASS_LIBRARY,                                                       \
                                        .shape = shape_##op,                                                           \
                                        .cpu = run_##op,                                                               \
                                        .cost = flops,                                                                 \
                                        __VA_ARGS__};
ROW(CUMSUM, cumsum, 1, 1, .vjp = vjp_cumsum, .jvp = jvp_cumsum, .batch = batch_cumsum)
const pg_op_info pg_op_info_ARGCUMMAX = {.name = "argcummax",
                                         .arity = 1,
                                         .cls = PG_CLASS_LIBRARY,
                                         .shape = shape_argcummax,
                                         .batch = pg_batch_rows,
                                         .cpu = run_argcummax,
                                         .cost = 1};
ROW(RECUR, recur, 2, 2, .vjp = vjp_recur, .jvp = jvp_recur, .batch = pg_batch_rows)
