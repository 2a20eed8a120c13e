// table.c: the op table, gathered from the rows that the files of this folder define (a row that nobody wrote does not
// link), and the helpers that shape rules share.
#include "engine/ops/rules.h"

#include <stdio.h>
#include <string.h>

#define M(NAME, name, arity) extern const pg_op_info pg_op_info_##NAME;
PG_MAP_OPS(M)
PG_OTHER_OPS(M)
#undef M

const pg_op_info *const pg_op_table[PG_NUM_OPS] = {
#define M(NAME, name, arity) &pg_op_info_##NAME,
    PG_MAP_OPS(M) PG_OTHER_OPS(M)
#undef M
};

// ---- messages ------------------------------------------------------------------------------------------------------

const char *pg_dims_text(int ndim, const int64_t *shape, char *buf, size_t size) {
  size_t n = (size_t)snprintf(buf, size, "[");
  for (int i = 0; i < ndim && n < size; i++)
    n += (size_t)snprintf(buf + n, size - n, i ? ", %lld" : "%lld", (long long)shape[i]);
  if (n < size) snprintf(buf + n, size - n, "]");
  return buf;
}

const char *pg_shape_text(const pg_node *node, char *buf, size_t size) {
  if (node->weak) {
    snprintf(buf, size, "a number");
  } else if (node->layout) {
    snprintf(buf, size, "%s vector of %lld in %d tensors", pg_dtype_name((pg_dtype)node->dtype),
             (long long)pg_layout_size(node->layout), pg_layout_count(node->layout));
  } else {
    char dims[160];
    snprintf(buf, size, "%s %s", pg_dtype_name((pg_dtype)node->dtype),
             pg_dims_text(node->ndim, node->shape, dims, sizeof dims));
  }
  return buf;
}

int64_t pg_node_size(const pg_node *node) {
  int64_t size = 1;
  for (int i = 0; i < node->ndim; i++) size *= node->shape[i];
  return size;
}

// ---- checks --------------------------------------------------------------------------------------------------------

void pg_set_type(pg_node *node, pg_dtype dtype, int ndim, const int64_t *shape, const pg_layout *layout) {
  int64_t copy[PG_MAX_NDIM] = {0}; // shape may be node->shape
  if (ndim > 0) memcpy(copy, shape, (size_t)ndim * sizeof *shape);
  memcpy(node->shape, copy, sizeof copy);
  node->dtype = (uint8_t)dtype;
  node->weak = false;
  node->ndim = (int8_t)ndim;
  node->layout = layout;
}

void pg_copy_type(pg_node *node, const pg_node *from) {
  pg_set_type(node, (pg_dtype)from->dtype, from->ndim, from->shape, from->layout);
  node->weak = from->weak;
}

pg_status pg_want_plain(const char *op, const pg_node *x) {
  if (x->weak) return pg_fail(PG_ERR_ARGUMENT, "%s: expected a tensor, got a number", op);
  if (x->layout) {
    char a[200];
    return pg_fail(PG_ERR_SHAPE, "%s: expected a tensor, got an %s; take its tensors one by one", op,
                   pg_shape_text(x, a, sizeof a));
  }
  return PG_OK;
}

pg_status pg_want_vector(const char *op, const pg_node *x) {
  char a[200];
  if (x->layout) return PG_OK;
  return pg_fail(PG_ERR_SHAPE, "%s: expected a vector, got %s", op, pg_shape_text(x, a, sizeof a));
}

pg_status pg_want_shape(const char *op, int ndim, const int64_t *shape) {
  if (ndim < 0 || ndim > PG_MAX_NDIM)
    return pg_fail(PG_ERR_SHAPE, "%s: %d axes, but tensors have at most %d", op, ndim, PG_MAX_NDIM);
  int64_t size = 1;
  for (int i = 0; i < ndim; i++)
    if (shape[i] < 0 || __builtin_mul_overflow(size, shape[i] ? shape[i] : 1, &size) || size > INT64_MAX / 16)
      return pg_fail(PG_ERR_SHAPE, "%s: extent %lld of axis %d is not possible", op, (long long)shape[i], i + 1);
  return PG_OK;
}

pg_status pg_want_axis(const char *op, int64_t axis, int ndim, int *out) {
  int64_t at = axis < 0 ? axis + ndim : axis;
  if (at < 0 || at >= ndim)
    return pg_fail(PG_ERR_SHAPE, "%s: axis %lld of a tensor of %d axes", op, (long long)(axis < 0 ? axis : axis + 1),
                   ndim);
  *out = (int)at;
  return PG_OK;
}

static pg_status fail_broadcast(const char *op, const pg_node *a, const pg_node *b, int axis, int64_t m, int64_t n) {
  char ta[200], tb[200];
  return pg_fail(PG_ERR_SHAPE, "%s: shapes %s and %s do not broadcast (axis %d: %lld against %lld)", op,
                 pg_shape_text(a, ta, sizeof ta), pg_shape_text(b, tb, sizeof tb), axis, (long long)m, (long long)n);
}

// A vector meets vectors of its own layout and single numbers.
static pg_status broadcast_vectors(const char *op, int n, const pg_node *const *in, const pg_node *vector, int *ndim,
                                   int64_t *shape, const pg_layout **layout) {
  for (int i = 0; i < n; i++) {
    char a[200], b[200];
    if (in[i]->layout && !pg_layout_equal(in[i]->layout, vector->layout))
      return pg_fail(PG_ERR_SHAPE, "%s: vectors of different layouts (%s and %s)", op,
                     pg_shape_text(vector, a, sizeof a), pg_shape_text(in[i], b, sizeof b));
    if (!in[i]->layout && in[i]->ndim > 0)
      return pg_fail(PG_ERR_SHAPE,
                     "%s: a vector meets vectors of its layout and single numbers, not tensors (%s and %s)", op,
                     pg_shape_text(vector, a, sizeof a), pg_shape_text(in[i], b, sizeof b));
  }
  *ndim = 1;
  shape[0] = vector->shape[0];
  *layout = vector->layout;
  return PG_OK;
}

pg_status pg_broadcast_shapes(const char *op, int n, const pg_node *const *in, int *ndim, int64_t *shape,
                              const pg_layout **layout) {
  *ndim = 0;
  *layout = NULL;
  for (int i = 0; i < n; i++)
    if (in[i]->layout) return broadcast_vectors(op, n, in, in[i], ndim, shape, layout);
  for (int i = 0; i < n; i++)
    if (in[i]->ndim > *ndim) *ndim = in[i]->ndim;
  for (int d = 0; d < *ndim; d++) {
    const pg_node *first = NULL; // the operand that fixed the extent
    shape[d] = 1;
    for (int i = 0; i < n; i++) {
      int own = d - (*ndim - in[i]->ndim);
      if (own < 0 || in[i]->shape[own] == 1) continue;
      if (first && in[i]->shape[own] != shape[d])
        return fail_broadcast(op, first, in[i], d + 1, shape[d], in[i]->shape[own]);
      first = in[i];
      shape[d] = in[i]->shape[own];
    }
  }
  return PG_OK;
}

// ---- builders ------------------------------------------------------------------------------------------------------

bool pg_is_number(const pg_graph *g, pg_value v, double x) {
  const pg_node *node = pg_at(g, v);
  return node->op == PG_OP_NUMBER && node->attrs.x == x;
}

bool pg_is_vector(const pg_graph *g, pg_value v) {
  return v != PG_NONE && pg_at(g, v)->layout;
}

pg_value pg_as(pg_graph *g, pg_value x, pg_dtype dtype) {
  if (x == PG_NONE || pg_at(g, x)->weak || pg_at(g, x)->dtype == dtype) return x;
  return pg_cast(g, x, dtype);
}

pg_value pg_spread(pg_graph *g, pg_value x, pg_value like) {
  if (x == PG_NONE || like == PG_NONE) return PG_NONE;
  pg_node to = *pg_at(g, like);
  if (to.weak) return x;
  if (pg_at(g, x)->weak) return pg_full_like(g, like, x);
  x = pg_as(g, x, (pg_dtype)to.dtype);
  if (x == PG_NONE || pg_same_type(pg_at(g, x), &to)) return x;
  if (to.layout) return pg_full_like(g, like, x);
  return pg_broadcast(g, x, to.ndim, to.shape);
}

pg_value pg_or_zeros(pg_graph *g, pg_value x, pg_value like) {
  return x != PG_NONE ? x : pg_zeros_like(g, like);
}

pg_value pg_iota(pg_graph *g, pg_dtype dtype, int ndim, const int64_t *shape, int axis) {
  pg_attrs attrs = {.n = ndim, .b = {axis}, .dtype = (int)dtype};
  memcpy(attrs.a, shape, (size_t)ndim * sizeof *shape);
  return pg_node_make(g, PG_OP_IOTA, 0, NULL, &attrs, NULL);
}

pg_value pg_reduce_run(pg_graph *g, int op, pg_value x, int first, int last, bool keepdims) {
  pg_attrs attrs = {.n = 2, .a = {first, last}, .flags = keepdims};
  return pg_node_make(g, op, 1, &x, &attrs, NULL);
}

pg_value pg_view_of(pg_graph *g, pg_value vector, int i) {
  if (vector == PG_NONE) return PG_NONE;
  pg_attrs attrs = {.n = 1, .a = {i}};
  return pg_node_make(g, PG_OP_VIEW, 1, &vector, &attrs, NULL);
}

pg_value pg_filled(pg_graph *g, double x, pg_dtype dtype, int ndim, const int64_t *shape) {
  pg_attrs attrs = {.n = ndim, .dtype = (int)dtype};
  if (ndim > 0) memcpy(attrs.a, shape, (size_t)ndim * sizeof *shape);
  pg_value number = pg_number(g, x);
  return pg_node_make(g, PG_OP_FULL, 1, &number, &attrs, NULL);
}

pg_value pg_segment_zeros(pg_graph *g, pg_dtype dtype, const pg_layout *layout, int i) {
  const pg_segment *s = pg_layout_segment(layout, i);
  return pg_filled(g, 0, dtype, s->ndim, s->shape);
}

pg_value pg_pack(pg_graph *g, const pg_layout *layout, const pg_value *parts) {
  pg_attrs attrs = {.layout = layout};
  return pg_node_make(g, PG_OP_PACK, pg_layout_count(layout), parts, &attrs, NULL);
}
