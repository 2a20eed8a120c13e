// create.c: composites that make or rearrange tensors: shapes with a free extent, stacking, taking, one-hot rows,
// filled tensors, ranges, masks for dropout, and the way between a vector and a plain tensor of its elements.
#include <string.h>

#include "engine/ops/composite.h"

#define COMPOSITE(name) pg_value pg_composite_##name(pg_graph *g, int n, const pg_value *in, const pg_attrs *attrs)

// ---- shapes --------------------------------------------------------------------------------------------------------

// n,a = shape; one extent may be -1: what is left.
COMPOSITE(reshape) {
  (void)n;
  const pg_node x = *pg_at(g, in[0]);
  int64_t shape[PG_MAX_NDIM], known = 1;
  int open = -1;
  char a[200], b[200];
  memcpy(shape, attrs->a, sizeof shape);
  for (int i = 0; i < attrs->n; i++) {
    if (shape[i] != -1) {
      known *= shape[i];
      continue;
    }
    if (open >= 0) return pg_fail(PG_ERR_SHAPE, "reshape: only one extent can be left open"), PG_NONE;
    open = i;
  }
  if (open >= 0) {
    if (known <= 0 || pg_node_size(&x) % known != 0)
      return pg_fail(PG_ERR_SHAPE, "reshape: %s does not fit %s", pg_shape_text(&x, a, sizeof a),
                     pg_dims_text(attrs->n, attrs->a, b, sizeof b)),
             PG_NONE;
    shape[open] = pg_node_size(&x) / known;
  }
  return pg_reshape(g, in[0], attrs->n, shape);
}

// n,a = permutation, negative from the end; none: the axes reversed.
COMPOSITE(transpose) {
  (void)n;
  const pg_node x = *pg_at(g, in[0]);
  pg_attrs perm = {.n = x.ndim};
  if (attrs->n && attrs->n != x.ndim)
    return pg_fail(PG_ERR_SHAPE, "transpose: %d axes named of %d", attrs->n, x.ndim), PG_NONE;
  for (int i = 0; i < x.ndim; i++) {
    const int64_t from = attrs->n ? attrs->a[i] : x.ndim - 1 - i;
    perm.a[i] = from < 0 ? from + x.ndim : from;
  }
  return pg_node_make(g, PG_OP_TRANSPOSE, 1, in, &perm, NULL);
}

COMPOSITE(broadcast_to) {
  (void)n;
  return pg_broadcast(g, in[0], attrs->n, attrs->a);
}

// n,a = axes of extent 1 to take out; none: all of them.
COMPOSITE(squeeze) {
  (void)n;
  const pg_node x = *pg_at(g, in[0]);
  bool out[PG_MAX_NDIM] = {false};
  int64_t shape[PG_MAX_NDIM];
  int ndim = 0;
  for (int i = 0; i < attrs->n; i++) {
    int axis;
    if (pg_want_axis("squeeze", attrs->a[i], x.ndim, &axis) != PG_OK) return PG_NONE;
    if (x.shape[axis] != 1)
      return pg_fail(PG_ERR_SHAPE, "squeeze: axis %d has extent %lld, not 1", axis + 1, (long long)x.shape[axis]),
             PG_NONE;
    out[axis] = true;
  }
  for (int i = 0; i < x.ndim; i++)
    if (attrs->n ? !out[i] : x.shape[i] != 1) shape[ndim++] = x.shape[i];
  return pg_reshape(g, in[0], ndim, shape);
}

// a[0] = where the new axis of extent 1 stands in the result, negative from its end.
COMPOSITE(expand_dims) {
  (void)n;
  const pg_node x = *pg_at(g, in[0]);
  int64_t shape[PG_MAX_NDIM];
  int axis;
  if (x.ndim == PG_MAX_NDIM)
    return pg_fail(PG_ERR_SHAPE, "expand_dims: tensors have at most %d axes", PG_MAX_NDIM), PG_NONE;
  if (pg_want_axis("expand_dims", attrs->a[0], x.ndim + 1, &axis) != PG_OK) return PG_NONE;
  for (int i = 0; i <= x.ndim; i++) shape[i] = i == axis ? 1 : x.shape[i - (i > axis)];
  return pg_reshape(g, in[0], x.ndim + 1, shape);
}

// As the primitives; steps left at 0 mean 1.
static pg_value with_steps(pg_graph *g, int op, const pg_value *in, const pg_attrs *attrs) {
  pg_attrs full = *attrs;
  for (int i = 0; i < full.n && i < PG_MAX_NDIM; i++)
    if (full.c[i] == 0) full.c[i] = 1;
  return pg_node_make(g, op, 1, in, &full, NULL);
}

COMPOSITE(slice) {
  (void)n;
  return with_steps(g, PG_OP_SLICE, in, attrs);
}

COMPOSITE(pad) {
  (void)n;
  return with_steps(g, PG_OP_PAD, in, attrs);
}

// Tensors of one shape along a new axis a[0].
COMPOSITE(stack) {
  pg_value *parts = pg_alloc((size_t)n, sizeof *parts);
  if (!parts) return PG_NONE;
  for (int i = 0; i < n; i++) parts[i] = pg_composite_expand_dims(g, 1, &in[i], attrs);
  int axis = 0;
  pg_value y = PG_NONE;
  if (parts[0] != PG_NONE && pg_want_axis("stack", attrs->a[0], pg_at(g, parts[0])->ndim, &axis) == PG_OK)
    y = pg_node_make(g, PG_OP_CONCAT, n, parts, &(pg_attrs){.n = 1, .a = {axis}}, NULL);
  pg_free(parts);
  return y;
}

// ---- taking --------------------------------------------------------------------------------------------------------

// Rows (or a[0]: elements of another axis) of x by an index tensor.
COMPOSITE(take) {
  pg_attrs axis = {.n = 1, .a = {attrs->a[0]}};
  return pg_node_make(g, PG_OP_GATHER, n, in, &axis, NULL);
}

// Where `indices` [...] equal the position along the last axis of [..., extent].
static pg_value match_last(pg_graph *g, pg_value indices, int64_t extent) {
  const pg_node at = *pg_at(g, indices);
  int64_t shape[PG_MAX_NDIM];
  char text[200];
  if (!pg_dtype_is_int((pg_dtype)at.dtype) || at.ndim == PG_MAX_NDIM)
    return pg_fail(PG_ERR_DTYPE, "indices are tensors of whole numbers, not %s", pg_shape_text(&at, text, sizeof text)),
           PG_NONE;
  memcpy(shape, at.shape, sizeof shape);
  shape[at.ndim] = 1;
  pg_value column = pg_reshape(g, indices, at.ndim + 1, shape);
  pg_value range = pg_iota(g, (pg_dtype)at.dtype, 1, &extent, 0);
  return pg_op2(g, PG_OP_EQ, column, range);
}

// x [..., C] and indices [...] → [...]: x[..., indices[...]].
COMPOSITE(take_along_last) {
  (void)n, (void)attrs;
  const pg_node x = *pg_at(g, in[0]), at = *pg_at(g, in[1]);
  char a[200], b[200];
  if (x.layout || x.ndim != at.ndim + 1 || memcmp(x.shape, at.shape, (size_t)at.ndim * sizeof *at.shape) != 0)
    return pg_fail(PG_ERR_SHAPE, "take_along_last: %s and indices %s do not fit", pg_shape_text(&x, a, sizeof a),
                   pg_shape_text(&at, b, sizeof b)),
           PG_NONE;
  pg_value mine = match_last(g, in[1], x.shape[x.ndim - 1]);
  pg_value chosen = pg_op3(g, PG_OP_WHERE, mine, in[0], pg_number(g, 0));
  return pg_reduce_run(g, PG_OP_SUM, chosen, x.ndim - 1, x.ndim, false);
}

// a[0] = classes, dtype: labels [...] → [..., classes].
COMPOSITE(one_hot) {
  (void)n;
  if (attrs->a[0] < 0) return pg_fail(PG_ERR_ARGUMENT, "one_hot: %lld classes", (long long)attrs->a[0]), PG_NONE;
  return pg_cast(g, match_last(g, in[0], attrs->a[0]), (pg_dtype)attrs->dtype);
}

// ---- filled tensors and ranges: n,a = shape or layout, dtype -------------------------------------------------------

static pg_value fill(pg_graph *g, double x, const pg_attrs *attrs) {
  pg_attrs type = {.n = attrs->layout ? 0 : attrs->n, .dtype = attrs->dtype, .layout = attrs->layout};
  memcpy(type.a, attrs->a, sizeof type.a);
  if (type.layout) memset(type.a, 0, sizeof type.a);
  pg_value number = pg_number(g, x);
  return pg_node_make(g, PG_OP_FULL, 1, &number, &type, NULL);
}

COMPOSITE(zeros) {
  (void)n, (void)in;
  return fill(g, 0, attrs);
}

COMPOSITE(ones) {
  (void)n, (void)in;
  return fill(g, 1, attrs);
}

COMPOSITE(zeros_like) {
  (void)n, (void)attrs;
  return pg_zeros_like(g, in[0]);
}

COMPOSITE(ones_like) {
  (void)n, (void)attrs;
  return pg_full_like(g, in[0], pg_number(g, 1));
}

// n,a = [rows] or [rows, columns].
COMPOSITE(eye) {
  (void)n, (void)in;
  const int64_t shape[2] = {attrs->a[0], attrs->n > 1 ? attrs->a[1] : attrs->a[0]};
  pg_value row = pg_iota(g, PG_I64, 2, shape, 0), column = pg_iota(g, PG_I64, 2, shape, 1);
  return pg_cast(g, pg_op2(g, PG_OP_EQ, row, column), (pg_dtype)attrs->dtype);
}

// a[0] = count, dtype; operands: start and step as numbers, 0 and 1 by default.
COMPOSITE(arange) {
  pg_value x = pg_iota(g, (pg_dtype)attrs->dtype, 1, attrs->a, 0);
  if (n > 1) x = pg_op2(g, PG_OP_MUL, x, in[1]);
  return n > 0 ? pg_op2(g, PG_OP_ADD, x, in[0]) : x;
}

// ---- draws ---------------------------------------------------------------------------------------------------------

// Standard normals; attributes as NORMAL's.
COMPOSITE(randn) {
  return pg_node_make(g, PG_OP_NORMAL, n, in, attrs, NULL);
}

// 1 with probability x, else 0; attributes otherwise as UNIFORM's, any dtype.
COMPOSITE(bernoulli) {
  pg_attrs draw = *attrs;
  if (!(attrs->x >= 0 && attrs->x <= 1))
    return pg_fail(PG_ERR_ARGUMENT, "bernoulli: a probability of %.9g", attrs->x), PG_NONE;
  draw.x = 0;
  draw.dtype = attrs->dtype == PG_F64 ? PG_F64 : PG_F32;
  pg_value u = pg_node_make(g, PG_OP_UNIFORM, n, in, &draw, NULL);
  return pg_cast(g, pg_op2(g, PG_OP_LT, u, pg_number(g, attrs->x)), (pg_dtype)attrs->dtype);
}

// x with elements set to 0 with probability attrs x and the others scaled so that the mean stays. The second operand
// is one key, or keys [K…] where K… are the leading axes of x (one key per example).
COMPOSITE(dropout) {
  (void)n;
  const pg_node x = *pg_at(g, in[0]), key = *pg_at(g, in[1]);
  const double rate = attrs->x;
  char a[200], b[200];
  if (!(rate >= 0 && rate < 1)) return pg_fail(PG_ERR_ARGUMENT, "dropout: a rate of %.9g", rate), PG_NONE;
  if (rate == 0) return in[0];
  if (key.ndim > x.ndim || memcmp(key.shape, x.shape, (size_t)key.ndim * sizeof *key.shape) != 0)
    return pg_fail(PG_ERR_SHAPE, "dropout: keys %s are not for the leading axes of %s",
                   pg_shape_text(&key, b, sizeof b), pg_shape_text(&x, a, sizeof a)),
           PG_NONE;
  pg_attrs draw = {.n = x.layout ? 0 : x.ndim - key.ndim, .dtype = x.dtype, .layout = x.layout};
  for (int i = 0; i < draw.n; i++) draw.a[i] = x.shape[key.ndim + i];
  pg_value u = pg_node_make(g, PG_OP_UNIFORM, 1, &in[1], &draw, NULL);
  pg_value kept = pg_op2(g, PG_OP_GE, u, pg_number(g, rate));
  return pg_op3(g, PG_OP_WHERE, kept, pg_op2(g, PG_OP_MUL, in[0], pg_number(g, 1 / (1 - rate))), pg_number(g, 0));
}

// ---- vectors -------------------------------------------------------------------------------------------------------

// A vector → its elements without pads, [size].
COMPOSITE(flatten_vector) {
  (void)n, (void)attrs;
  if (pg_want_vector("flatten_vector", pg_at(g, in[0])) != PG_OK) return PG_NONE;
  const pg_layout *layout = pg_at(g, in[0])->layout;
  const int count = pg_layout_count(layout);
  pg_value *parts = pg_alloc((size_t)count, sizeof *parts);
  if (!parts) return PG_NONE;
  for (int i = 0; i < count; i++)
    parts[i] = pg_reshape(g, pg_view_of(g, in[0], i), 1, &pg_layout_segment(layout, i)->size);
  pg_value y = pg_node_make(g, PG_OP_CONCAT, count, parts, &(pg_attrs){.n = 1}, NULL);
  pg_free(parts);
  return y;
}

// The way back: [size] and a layout → vector.
COMPOSITE(pack_flat) {
  (void)n;
  const pg_layout *layout = attrs->layout;
  const pg_node x = *pg_at(g, in[0]);
  char text[200];
  if (!layout) return pg_fail(PG_ERR_ARGUMENT, "pack_flat: needs a layout"), PG_NONE;
  if (x.ndim != 1 || x.layout || x.shape[0] != pg_layout_size(layout))
    return pg_fail(PG_ERR_SHAPE, "pack_flat: %s for a layout of %lld elements", pg_shape_text(&x, text, sizeof text),
                   (long long)pg_layout_size(layout)),
           PG_NONE;
  const int count = pg_layout_count(layout);
  pg_value *parts = pg_alloc((size_t)count, sizeof *parts);
  if (!parts) return PG_NONE;
  for (int i = 0; i < count; i++) {
    const pg_segment *s = pg_layout_segment(layout, i);
    pg_attrs range = {.n = 1, .a = {s->logical}, .b = {s->size}, .c = {1}};
    parts[i] = pg_reshape(g, pg_node_make(g, PG_OP_SLICE, 1, in, &range, NULL), s->ndim, s->shape);
  }
  pg_value y = pg_pack(g, layout, parts);
  pg_free(parts);
  return y;
}

// One number (or 0-d tensor) per tensor of a layout, dtype → vector.
COMPOSITE(segfull) {
  if (!attrs->layout || n != pg_layout_count(attrs->layout))
    return pg_fail(PG_ERR_ARGUMENT, "segfull: needs a layout of %d tensors", n), PG_NONE;
  pg_value *parts = pg_alloc((size_t)n, sizeof *parts);
  if (!parts) return PG_NONE;
  const int64_t one = 1;
  for (int i = 0; i < n; i++) parts[i] = pg_reshape(g, pg_cast(g, in[i], (pg_dtype)attrs->dtype), 1, &one);
  pg_value values = pg_node_make(g, PG_OP_CONCAT, n, parts, &(pg_attrs){.n = 1}, NULL);
  pg_free(parts);
  return pg_node_make(g, PG_OP_SEGBROADCAST, 1, &values, &(pg_attrs){.layout = attrs->layout}, NULL);
}

// layout, dtype → [tensors]: elements in each.
COMPOSITE(segsize) {
  (void)n, (void)in;
  if (!attrs->layout) return pg_fail(PG_ERR_ARGUMENT, "segsize: needs a layout"), PG_NONE;
  return pg_op1(g, PG_OP_SEGSUM, fill(g, 1, attrs));
}

// vector → [tensors]: the mean of each.
COMPOSITE(segmean) {
  (void)n, (void)attrs;
  return pg_op2(g, PG_OP_DIV, pg_op1(g, PG_OP_SEGSUM, in[0]),
                pg_op1(g, PG_OP_SEGSUM, pg_full_like(g, in[0], pg_number(g, 1))));
}
