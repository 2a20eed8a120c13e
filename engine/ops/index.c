// index.c: the rows that read or write by index tensors: GATHER, SCATTER_ADD, ARGMAX. Indices count from 0 and are
// clamped to the axis. Additions at one place happen in index order, so the result does not depend on threads.
#include <string.h>

#include "engine/core/parallel.h"
#include "engine/ops/batching.h"

// x of shape [outer…, extent, inner…] seen from the indexed axis, and `count` indices.
typedef struct axis_task {
  const pg_operand *out, *in;
  int64_t outer, extent, inner, count, columns;
} axis_task;

enum { COLUMNS = 64 }; // inner elements that one task of a scatter owns

static int64_t product(int n, const int64_t *shape) {
  int64_t size = 1;
  for (int i = 0; i < n; i++) size *= shape[i];
  return size;
}

static axis_task find_axis(const pg_operand *out, const pg_operand *in, int64_t axis) {
  axis_task t = {.out = out, .in = in};
  t.outer = product((int)axis, in[0].shape);
  t.extent = in[0].shape[axis];
  t.inner = product(in[0].ndim - (int)axis - 1, in[0].shape + axis + 1);
  t.count = product(in[1].ndim, in[1].shape);
  return t;
}

static int64_t read_index(const pg_operand *indices, int64_t i, int64_t extent) {
  int64_t at = indices->dtype == PG_I64   ? ((const int64_t *)indices->data)[i]
               : indices->dtype == PG_I32 ? ((const int32_t *)indices->data)[i]
                                          : ((const uint8_t *)indices->data)[i];
  return at < 0 ? 0 : at >= extent ? extent - 1 : at;
}

// The shape of x with axis a[0] replaced by the axes of the indices.
static pg_status indexed_shape(const char *op, const pg_graph *g, pg_node *node, int *ndim, int64_t *shape) {
  const pg_node *x = pg_in(g, node, 0), *indices = pg_in(g, node, 1);
  int axis;
  char a[200], b[200];
  PG_TRY(pg_want_plain(op, x));
  PG_TRY(pg_want_plain(op, indices));
  if (!pg_dtype_is_int((pg_dtype)indices->dtype))
    return pg_fail(PG_ERR_DTYPE, "%s: indices are whole numbers, not %s", op, pg_shape_text(indices, a, sizeof a));
  PG_TRY(pg_want_axis(op, node->attrs.a[0], x->ndim, &axis));
  if (x->shape[axis] == 0 && pg_node_size(indices) > 0)
    return pg_fail(PG_ERR_SHAPE, "%s: axis %d of %s is empty", op, axis + 1, pg_shape_text(x, a, sizeof a));
  *ndim = x->ndim - 1 + indices->ndim;
  if (*ndim > PG_MAX_NDIM)
    return pg_fail(PG_ERR_SHAPE, "%s: %s indexed by %s has too many axes", op, pg_shape_text(x, a, sizeof a),
                   pg_shape_text(indices, b, sizeof b));
  node->attrs.a[0] = axis;
  int n = 0;
  for (int i = 0; i < axis; i++) shape[n++] = x->shape[i];
  for (int i = 0; i < indices->ndim; i++) shape[n++] = indices->shape[i];
  for (int i = axis + 1; i < x->ndim; i++) shape[n++] = x->shape[i];
  return PG_OK;
}

// ---- GATHER --------------------------------------------------------------------------------------------------------

static pg_status shape_gather(const pg_graph *g, pg_node *node) {
  int ndim = 0;
  int64_t shape[PG_MAX_NDIM];
  PG_TRY(indexed_shape("gather", g, node, &ndim, shape));
  PG_TRY(pg_want_shape("gather", ndim, shape));
  pg_set_type(node, (pg_dtype)pg_in(g, node, 0)->dtype, ndim, shape, NULL);
  return PG_OK;
}

static pg_value scatter(pg_graph *g, pg_value x, pg_value indices, pg_value updates, int64_t axis) {
  pg_attrs attrs = {.n = 1, .a = {axis}};
  return pg_node_make(g, PG_OP_SCATTER_ADD, 3, (pg_value[]){x, indices, updates}, &attrs, NULL);
}

static pg_value gather(pg_graph *g, pg_value x, pg_value indices, int64_t axis) {
  pg_attrs attrs = {.n = 1, .a = {axis}};
  return pg_node_make(g, PG_OP_GATHER, 2, (pg_value[]){x, indices}, &attrs, NULL);
}

static pg_status vjp_gather(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v);
  ct_in[0] = scatter(g, pg_zeros_like(g, node.in[0]), node.in[1], ct, node.attrs.a[0]);
  return pg_built(ct_in[0]);
}

static pg_status jvp_gather(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_node node = *pg_at(g, v);
  *out = tangents[0] == PG_NONE ? PG_NONE : gather(g, tangents[0], node.in[1], node.attrs.a[0]);
  return tangents[0] == PG_NONE ? PG_OK : pg_built(*out);
}

// ---- batching: indices into one axis that holds the axes of all entries --------------------------------------------

// x [size, outer…, extent, inner…] with its batch and the indexed axis as one in front.
static pg_value merge_extents(pg_graph *g, pg_value x, int axis) {
  return pg_batch_merge(g, pg_batch_move_axis(g, x, axis + 1, 1, 0), 0, 2);
}

// Indices of each entry [size, …], clamped as the operation does, as places in that axis.
static pg_value offset_indices(pg_batching *b, pg_value indices, int64_t extent) {
  pg_graph *g = b->g;
  pg_value x = pg_as(g, indices, PG_I64);
  if (x == PG_NONE) return x;
  x = pg_op2(g, PG_OP_MAXIMUM, pg_op2(g, PG_OP_MINIMUM, x, pg_number(g, (double)(extent - 1))), pg_number(g, 0));
  pg_value start = pg_op2(g, PG_OP_MUL, pg_iota(g, PG_I64, 1, &b->size, 0), pg_number(g, (double)extent));
  if (x == PG_NONE || start == PG_NONE) return PG_NONE;
  return pg_op2(g, PG_OP_ADD, x, pg_batch_align(b, start, true, pg_at(g, x)->ndim - 1));
}

// Axes [at, at + n) of x moved to place `to`, in order.
static pg_value move_axes(pg_graph *g, pg_value x, int at, int n, int to) {
  for (int i = 0; i < n; i++)
    x = at < to ? pg_batch_move_axis(g, x, at, to + n - 1, 0) : pg_batch_move_axis(g, x, at + i, to + i, 0);
  return x;
}

static pg_status batch_gather(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                              pg_value *out) {
  pg_graph *g = b->g;
  const int axis = (int)node->attrs.a[0];
  if (!batched[1]) {
    *out = gather(g, in[0], in[1], axis + 1);
  } else if (!batched[0]) {
    *out = pg_batch_move_axis(g, gather(g, in[0], in[1], axis), axis, 0, 0);
  } else {
    const int count = pg_at(g, in[1])->ndim - 1; // axes of an entry's indices
    const pg_value at = offset_indices(b, in[1], pg_at(g, in[0])->shape[axis + 1]);
    *out = at == PG_NONE ? at : move_axes(g, gather(g, merge_extents(g, in[0], axis), at, 0), 1 + count, axis, 1);
  }
  return pg_built(*out);
}

static pg_status batch_scatter_add(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                                   pg_value *out) {
  pg_graph *g = b->g;
  const int axis = (int)node->attrs.a[0];
  const pg_value x = pg_batch_spread(b, in[0], batched[0]), updates = pg_batch_spread(b, in[2], batched[2]);
  if (x == PG_NONE || updates == PG_NONE) return pg_built(PG_NONE);
  if (!batched[1]) {
    *out = scatter(g, x, in[1], updates, axis + 1);
    return pg_built(*out);
  }
  const int count = pg_at(g, in[1])->ndim - 1;
  const int64_t extent = pg_at(g, x)->shape[axis + 1];
  const pg_value at = offset_indices(b, in[1], extent), each = move_axes(g, updates, 1, axis, 1 + count);
  if (at == PG_NONE || each == PG_NONE) return pg_built(PG_NONE);
  pg_value sum = pg_batch_split(g, scatter(g, merge_extents(g, x, axis), at, each, 0), 0, b->size, extent);
  *out = pg_batch_move_axis(g, sum, 1, axis + 1, 0);
  return pg_built(*out);
}

static void gather_rows(void *arg, int64_t first, int64_t last) {
  const axis_task *t = arg;
  const size_t bytes = pg_dtype_size(t->out->dtype) * (size_t)t->inner;
  const char *x = t->in[0].data;
  char *out = t->out->data;
  for (int64_t i = first; i < last; i++) {
    const int64_t row = i / t->count * t->extent + read_index(&t->in[1], i % t->count, t->extent);
    memcpy(out + (size_t)i * bytes, x + (size_t)row * bytes, bytes);
  }
}

static void run_gather(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)scratch;
  axis_task t = find_axis(out, in, attrs->a[0]);
  pg_parallel_for(t.outer * t.count, (double)(t.outer * t.count) * (double)(t.inner + 4), gather_rows, &t);
}

// ---- SCATTER_ADD ---------------------------------------------------------------------------------------------------

static pg_status shape_scatter_add(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0), *updates = pg_in(g, node, 2);
  int ndim = 0;
  int64_t shape[PG_MAX_NDIM];
  char a[200], b[200];
  PG_TRY(indexed_shape("scatter_add", g, node, &ndim, shape));
  PG_TRY(pg_want_plain("scatter_add", updates));
  if (ndim != updates->ndim || memcmp(shape, updates->shape, (size_t)ndim * sizeof *shape) != 0)
    return pg_fail(PG_ERR_SHAPE, "scatter_add: updates are %s, expected %s", pg_shape_text(updates, a, sizeof a),
                   pg_dims_text(ndim, shape, b, sizeof b));
  if (x->dtype != updates->dtype || x->dtype > PG_I64)
    return pg_fail(PG_ERR_DTYPE, "scatter_add: %s with updates %s", pg_shape_text(x, a, sizeof a),
                   pg_shape_text(updates, b, sizeof b));
  pg_set_type(node, (pg_dtype)x->dtype, x->ndim, x->shape, NULL);
  return PG_OK;
}

static pg_status vjp_scatter_add(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v);
  if (ct_in[0] != PG_UNWANTED) ct_in[0] = ct;
  if (ct_in[2] == PG_UNWANTED) return PG_OK;
  ct_in[2] = gather(g, ct, node.in[1], node.attrs.a[0]);
  return pg_built(ct_in[2]);
}

static pg_status jvp_scatter_add(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_node node = *pg_at(g, v);
  pg_value x = pg_or_zeros(g, tangents[0], node.in[0]);
  *out = tangents[2] == PG_NONE ? x : scatter(g, x, node.in[1], tangents[2], node.attrs.a[0]);
  return pg_built(*out);
}

#define SCATTER(T)                                                                                                     \
  static void scatter_##T(const axis_task *t, int64_t outer, int64_t first, int64_t last) {                            \
    T *out = (T *)t->out->data + outer * t->extent * t->inner;                                                         \
    const T *updates = (const T *)t->in[2].data + outer * t->count * t->inner;                                         \
    for (int64_t j = 0; j < t->count; j++) {                                                                           \
      T *row = out + read_index(&t->in[1], j, t->extent) * t->inner;                                                   \
      const T *update = updates + j * t->inner;                                                                        \
      for (int64_t c = first; c < last; c++) row[c] += update[c];                                                      \
    }                                                                                                                  \
  }
SCATTER(float)
SCATTER(double)
SCATTER(int32_t)
SCATTER(int64_t)

static void (*const scatter_functions[])(const axis_task *, int64_t, int64_t, int64_t) = {
    [PG_F32] = scatter_float, [PG_F64] = scatter_double, [PG_I32] = scatter_int32_t, [PG_I64] = scatter_int64_t};

static void scatter_columns(void *arg, int64_t first, int64_t last) {
  const axis_task *t = arg;
  for (int64_t i = first; i < last; i++) {
    const int64_t from = i % t->columns * COLUMNS, to = from + COLUMNS < t->inner ? from + COLUMNS : t->inner;
    scatter_functions[t->out->dtype](t, i / t->columns, from, to);
  }
}

static void run_scatter_add(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs,
                            void *scratch) {
  (void)nin, (void)scratch;
  axis_task t = find_axis(out, in, attrs->a[0]);
  const int64_t size = t.outer * t.extent * t.inner;
  if (out->data != in[0].data) memcpy(out->data, in[0].data, (size_t)size * pg_dtype_size(out->dtype));
  t.columns = (t.inner + COLUMNS - 1) / COLUMNS;
  pg_parallel_for(t.outer * t.columns, (double)t.outer * (double)t.count * (double)t.inner, scatter_columns, &t);
}

// ---- ARGMAX --------------------------------------------------------------------------------------------------------

static pg_status shape_argmax(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  char text[200];
  PG_TRY(pg_want_plain("argmax", x));
  if (x->dtype > PG_U8) return pg_fail(PG_ERR_DTYPE, "argmax: %s has no order", pg_shape_text(x, text, sizeof text));
  if (x->ndim == 0 || x->shape[x->ndim - 1] == 0)
    return pg_fail(PG_ERR_SHAPE, "argmax: nothing to choose from in %s", pg_shape_text(x, text, sizeof text));
  pg_set_type(node, PG_I64, x->ndim - 1, x->shape, NULL);
  return PG_OK;
}

// The first largest element; a NaN counts as larger than any number.
#define ARGMAX(T)                                                                                                      \
  static int64_t argmax_##T(const void *data, int64_t n) {                                                             \
    const T *x = data;                                                                                                 \
    int64_t best = 0;                                                                                                  \
    for (int64_t i = 1; i < n; i++)                                                                                    \
      if (x[i] > x[best] || (x[i] != x[i] && x[best] == x[best])) best = i;                                            \
    return best;                                                                                                       \
  }
ARGMAX(float)
ARGMAX(double)
ARGMAX(int32_t)
ARGMAX(int64_t)
ARGMAX(uint8_t)

static int64_t (*const argmax_functions[])(const void *, int64_t) = {[PG_F32] = argmax_float,
                                                                     [PG_F64] = argmax_double,
                                                                     [PG_I32] = argmax_int32_t,
                                                                     [PG_I64] = argmax_int64_t,
                                                                     [PG_U8] = argmax_uint8_t};

static void argmax_rows(void *arg, int64_t first, int64_t last) {
  const axis_task *t = arg;
  const size_t bytes = pg_dtype_size(t->in[0].dtype) * (size_t)t->inner;
  for (int64_t i = first; i < last; i++)
    ((int64_t *)t->out->data)[i] =
        argmax_functions[t->in[0].dtype]((const char *)t->in[0].data + (size_t)i * bytes, t->inner);
}

static void run_argmax(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)attrs, (void)scratch;
  axis_task t = {.out = out, .in = in, .inner = in[0].shape[in[0].ndim - 1]};
  const int64_t rows = product(out->ndim, out->shape);
  pg_parallel_for(rows, (double)rows * (double)t.inner, argmax_rows, &t);
}

const pg_op_info pg_op_info_GATHER = {.name = "gather",
                                      .arity = 2,
                                      .cls = PG_CLASS_LIBRARY,
                                      .shape = shape_gather,
                                      .vjp = vjp_gather,
                                      .jvp = jvp_gather,
                                      .batch = batch_gather,
                                      .cpu = run_gather};
const pg_op_info pg_op_info_SCATTER_ADD = {.name = "scatter_add",
                                           .arity = 3,
                                           .cls = PG_CLASS_LIBRARY,
                                           .shape = shape_scatter_add,
                                           .vjp = vjp_scatter_add,
                                           .jvp = jvp_scatter_add,
                                           .batch = batch_scatter_add,
                                           .cpu = run_scatter_add,
                                           .cost = 1};
const pg_op_info pg_op_info_ARGMAX = {.name = "argmax",
                                      .arity = 1,
                                      .cls = PG_CLASS_LIBRARY,
                                      .shape = shape_argmax,
                                      .batch = pg_batch_rows,
                                      .cpu = run_argmax,
                                      .cost = 1};
