// shape.c: the rows that move elements without computing: RESHAPE, TRANSPOSE, BROADCAST, SLICE and their counterparts
// PAD and CONCAT. All but the last two are views. The derivative of each is another of them.
#include <string.h>

#include "engine/ops/batching.h"

// ---- RESHAPE, TRANSPOSE, BROADCAST ---------------------------------------------------------------------------------

static pg_status shape_reshape(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  const pg_attrs *to = &node->attrs;
  int64_t size = 1;
  PG_TRY(pg_want_plain("reshape", x));
  PG_TRY(pg_want_shape("reshape", to->n, to->a));
  for (int i = 0; i < to->n; i++) size *= to->a[i];
  if (size != pg_node_size(x)) {
    char a[200], b[200];
    return pg_fail(PG_ERR_SHAPE, "reshape: %s has %lld elements, %s has %lld", pg_shape_text(x, a, sizeof a),
                   (long long)pg_node_size(x), pg_dims_text(to->n, to->a, b, sizeof b), (long long)size);
  }
  pg_set_type(node, (pg_dtype)x->dtype, to->n, to->a, NULL);
  return PG_OK;
}

static pg_status vjp_reshape(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node x = *pg_at(g, pg_at(g, v)->in[0]);
  ct_in[0] = pg_reshape(g, ct, x.ndim, x.shape);
  return pg_built(ct_in[0]);
}

static pg_status shape_transpose(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  int64_t shape[PG_MAX_NDIM];
  bool seen[PG_MAX_NDIM] = {false}, fits = node->attrs.n == x->ndim;
  char text[200];
  PG_TRY(pg_want_plain("transpose", x));
  for (int i = 0; fits && i < x->ndim; i++) {
    const int64_t from = node->attrs.a[i];
    fits = from >= 0 && from < x->ndim && !seen[from];
    if (!fits) break;
    seen[from] = true;
    shape[i] = x->shape[from];
  }
  if (!fits)
    return pg_fail(PG_ERR_SHAPE, "transpose: needs a permutation of the %d axes of %s", x->ndim,
                   pg_shape_text(x, text, sizeof text));
  pg_set_type(node, (pg_dtype)x->dtype, x->ndim, shape, NULL);
  return PG_OK;
}

static pg_status vjp_transpose(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v);
  const int flags = node.attrs.flags;
  pg_attrs inverse = {.n = node.ndim};
  inverse.flags = flags == PG_OUT_OF_LAYOUT ? PG_INTO_LAYOUT : flags == PG_INTO_LAYOUT ? PG_OUT_OF_LAYOUT : 0;
  for (int i = 0; i < node.ndim; i++) inverse.a[node.attrs.a[i]] = i;
  ct_in[0] = pg_node_make(g, PG_OP_TRANSPOSE, 1, &ct, &inverse, NULL);
  return pg_built(ct_in[0]);
}

static pg_status shape_broadcast(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  const pg_attrs *to = &node->attrs;
  PG_TRY(pg_want_plain("broadcast", x));
  PG_TRY(pg_want_shape("broadcast", to->n, to->a));
  bool fits = x->ndim <= to->n;
  for (int i = 0; fits && i < x->ndim; i++) {
    const int64_t extent = x->shape[i];
    fits = extent == 1 || extent == to->a[to->n - x->ndim + i];
  }
  if (!fits) {
    char a[200], b[200];
    return pg_fail(PG_ERR_SHAPE, "broadcast: %s does not spread to %s", pg_shape_text(x, a, sizeof a),
                   pg_dims_text(to->n, to->a, b, sizeof b));
  }
  pg_set_type(node, (pg_dtype)x->dtype, to->n, to->a, NULL);
  return PG_OK;
}

static pg_status vjp_broadcast(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  ct_in[0] = pg_sum_to(g, ct, pg_at(g, v)->in[0]);
  return pg_built(ct_in[0]);
}

// The tangent of a view is the same view of the tangent.
static pg_status jvp_alike(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_node node = *pg_at(g, v);
  *out = pg_node_make(g, node.op, 1, tangents, &node.attrs, NULL);
  return pg_built(*out);
}

// ---- SLICE and PAD -------------------------------------------------------------------------------------------------

static pg_status shape_slice(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  const pg_attrs *a = &node->attrs;
  char text[200];
  PG_TRY(pg_want_plain("slice", x));
  if (a->n != x->ndim)
    return pg_fail(PG_ERR_SHAPE, "slice: %d ranges for %s", a->n, pg_shape_text(x, text, sizeof text));
  for (int i = 0; i < a->n; i++) {
    const int64_t start = a->a[i], length = a->b[i], step = a->c[i];
    const bool fits = start >= 0 && length >= 0 && step > 0 && start <= x->shape[i] &&
                      (length == 0 || (length - 1) <= (x->shape[i] - 1 - start) / step) &&
                      (length == 0 || start < x->shape[i]);
    if (!fits)
      return pg_fail(PG_ERR_SHAPE, "slice: %lld elements from %lld in steps of %lld do not lie in axis %d of %s",
                     (long long)length, (long long)start + 1, (long long)step, i + 1,
                     pg_shape_text(x, text, sizeof text));
  }
  pg_set_type(node, (pg_dtype)x->dtype, a->n, a->b, NULL);
  return PG_OK;
}

static pg_status vjp_slice(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v), x = *pg_at(g, node.in[0]);
  pg_attrs attrs = {.n = x.ndim};
  memcpy(attrs.a, node.attrs.a, sizeof attrs.a);
  memcpy(attrs.b, x.shape, sizeof attrs.b);
  memcpy(attrs.c, node.attrs.c, sizeof attrs.c);
  ct_in[0] = pg_node_make(g, PG_OP_PAD, 1, &ct, &attrs, NULL);
  return pg_built(ct_in[0]);
}

static pg_status shape_pad(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  const pg_attrs *a = &node->attrs;
  char text[200];
  PG_TRY(pg_want_plain("pad", x));
  if (x->dtype == PG_KEY) return pg_fail(PG_ERR_DTYPE, "pad: keys have no zero to pad with");
  PG_TRY(pg_want_shape("pad", a->n, a->b));
  if (a->n != x->ndim)
    return pg_fail(PG_ERR_SHAPE, "pad: a result of %d axes for %s", a->n, pg_shape_text(x, text, sizeof text));
  for (int i = 0; i < a->n; i++) {
    const int64_t before = a->a[i], step = a->c[i], extent = x->shape[i];
    if (before < 0 || step <= 0 || (extent > 0 && (before >= a->b[i] || extent - 1 > (a->b[i] - 1 - before) / step)))
      return pg_fail(PG_ERR_SHAPE, "pad: axis %d of %s does not fit into %lld elements from %lld in steps of %lld",
                     i + 1, pg_shape_text(x, text, sizeof text), (long long)a->b[i], (long long)before + 1,
                     (long long)step);
  }
  pg_set_type(node, (pg_dtype)x->dtype, a->n, a->b, NULL);
  return PG_OK;
}

static pg_status vjp_pad(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v), x = *pg_at(g, node.in[0]);
  pg_attrs attrs = {.n = x.ndim};
  memcpy(attrs.a, node.attrs.a, sizeof attrs.a);
  memcpy(attrs.b, x.shape, sizeof attrs.b);
  memcpy(attrs.c, node.attrs.c, sizeof attrs.c);
  ct_in[0] = pg_node_make(g, PG_OP_SLICE, 1, &ct, &attrs, NULL);
  return pg_built(ct_in[0]);
}

// ---- CONCAT --------------------------------------------------------------------------------------------------------

static pg_status shape_concat(const pg_graph *g, pg_node *node) {
  int axis;
  int64_t total = 0;
  if (node->nin == 0) return pg_fail(PG_ERR_ARGUMENT, "concat: nothing to join");
  const pg_node *first = pg_in(g, node, 0);
  PG_TRY(pg_want_plain("concat", first));
  PG_TRY(pg_want_axis("concat", node->attrs.a[0], first->ndim, &axis));
  for (int i = 0; i < node->nin; i++) {
    const pg_node *x = pg_in(g, node, i);
    char a[200], b[200];
    PG_TRY(pg_want_plain("concat", x));
    bool fits = x->ndim == first->ndim;
    for (int d = 0; fits && d < x->ndim; d++) fits = d == axis || x->shape[d] == first->shape[d];
    if (!fits)
      return pg_fail(PG_ERR_SHAPE, "concat: %s and %s do not join along axis %d", pg_shape_text(first, a, sizeof a),
                     pg_shape_text(x, b, sizeof b), axis + 1);
    if (x->dtype != first->dtype)
      return pg_fail(PG_ERR_DTYPE, "concat: %s and %s have different dtypes; convert one with :to(\"%s\")",
                     pg_shape_text(first, a, sizeof a), pg_shape_text(x, b, sizeof b),
                     pg_dtype_name((pg_dtype)first->dtype));
    total += x->shape[axis];
  }
  pg_set_type(node, (pg_dtype)first->dtype, first->ndim, first->shape, NULL);
  node->shape[axis] = total;
  node->attrs.a[0] = axis;
  return PG_OK;
}

static pg_status vjp_concat(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v);
  const int axis = (int)node.attrs.a[0];
  int64_t start = 0;
  for (int i = 0; i < node.nin; i++) {
    const pg_node x = *pg_at(g, node.in[i]);
    pg_attrs attrs = {.n = x.ndim};
    for (int d = 0; d < x.ndim; d++) attrs.b[d] = x.shape[d], attrs.c[d] = 1;
    attrs.a[axis] = start;
    start += x.shape[axis];
    if (ct_in[i] == PG_UNWANTED) continue;
    ct_in[i] = pg_node_make(g, PG_OP_SLICE, 1, &ct, &attrs, NULL);
    PG_TRY(pg_built(ct_in[i]));
  }
  return PG_OK;
}

pg_status pg_jvp_of_parts(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_node node = *pg_at(g, v);
  pg_value *parts = pg_alloc((size_t)node.nin, sizeof *parts);
  if (!parts) return PG_ERR_MEMORY;
  for (int i = 0; i < node.nin; i++) parts[i] = pg_or_zeros(g, tangents[i], node.in[i]);
  *out = pg_node_make(g, node.op, node.nin, parts, &node.attrs, NULL);
  pg_free(parts);
  return pg_built(*out);
}

// ---- batching: the batch stays the first axis ----------------------------------------------------------------------

static void shift(int n, const int64_t *from, int64_t *to, int64_t first, int64_t by) {
  int64_t copy[PG_MAX_NDIM];
  memcpy(copy, from, sizeof copy);
  to[0] = first;
  for (int i = 0; i < n && i + 1 < PG_MAX_NDIM; i++) to[i + 1] = copy[i] + by;
}

static pg_status want_room(const pg_node *node) {
  if (node->ndim < PG_MAX_NDIM) return PG_OK;
  return pg_fail(PG_ERR_SHAPE, "vmap: the result of %s has %d axes and no room for one more",
                 pg_op_table[node->op]->name, node->ndim);
}

// RESHAPE and BROADCAST to a shape.
static pg_status batch_to_shape(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                                pg_value *out) {
  pg_attrs attrs = {.n = node->ndim + 1};
  PG_TRY(want_room(node));
  shift(node->ndim, node->shape, attrs.a, b->size, 0);
  pg_value x = node->op == PG_OP_BROADCAST ? pg_batch_align(b, in[0], batched[0], node->ndim) : in[0];
  *out = pg_node_make(b->g, node->op, 1, &x, &attrs, NULL);
  return pg_built(*out);
}

static pg_status batch_transpose(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                                 pg_value *out) {
  (void)batched;
  pg_attrs attrs = {.n = node->ndim + 1, .flags = node->attrs.flags};
  PG_TRY(want_room(node));
  shift(node->ndim, node->attrs.a, attrs.a, 0, 1);
  *out = pg_node_make(b->g, PG_OP_TRANSPOSE, 1, in, &attrs, NULL);
  return pg_built(*out);
}

// SLICE and PAD.
static pg_status batch_range(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                             pg_value *out) {
  (void)batched;
  pg_attrs attrs = {.n = node->ndim + 1};
  PG_TRY(want_room(node));
  shift(node->ndim, node->attrs.a, attrs.a, 0, 0);
  shift(node->ndim, node->attrs.b, attrs.b, b->size, 0);
  shift(node->ndim, node->attrs.c, attrs.c, 1, 0);
  *out = pg_node_make(b->g, node->op, 1, in, &attrs, NULL);
  return pg_built(*out);
}

static pg_status batch_concat(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                              pg_value *out) {
  const pg_attrs attrs = {.n = 1, .a = {node->attrs.a[0] + 1}};
  pg_value *parts = pg_alloc((size_t)node->nin, sizeof *parts);
  if (!parts) return PG_ERR_MEMORY;
  for (int i = 0; i < node->nin; i++) parts[i] = pg_batch_spread(b, in[i], batched[i]);
  *out = pg_node_make(b->g, PG_OP_CONCAT, node->nin, parts, &attrs, NULL);
  pg_free(parts);
  return pg_built(*out);
}

#define ROW(NAME, op, count, class, vjp_rule, jvp_rule, batch_rule)                                                    \
  const pg_op_info pg_op_info_##NAME = {.name = #op,                                                                   \
                                        .arity = count,                                                                \
                                        .cls = class,                                                                  \
                                        .shape = shape_##op,                                                           \
                                        .vjp = vjp_rule,                                                               \
                                        .jvp = jvp_rule,                                                               \
                                        .batch = batch_rule};
ROW(RESHAPE, reshape, 1, PG_CLASS_VIEW, vjp_reshape, jvp_alike, batch_to_shape)
ROW(TRANSPOSE, transpose, 1, PG_CLASS_VIEW, vjp_transpose, jvp_alike, batch_transpose)
ROW(BROADCAST, broadcast, 1, PG_CLASS_VIEW, vjp_broadcast, jvp_alike, batch_to_shape)
ROW(SLICE, slice, 1, PG_CLASS_VIEW, vjp_slice, jvp_alike, batch_range)
ROW(PAD, pad, 1, PG_CLASS_PLACE, vjp_pad, jvp_alike, batch_range)
ROW(CONCAT, concat, -1, PG_CLASS_PLACE, vjp_concat, pg_jvp_of_parts, batch_concat)
