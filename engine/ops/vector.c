// vector.c: the rows that know layouts: VIEW and PACK between a vector and its tensors, and the per-tensor reductions
// SEGSUM, SEGMAX, SEGMIN with their counterpart SEGBROADCAST. Pads never take part.
#include <string.h>

#include "engine/ops/batching.h"

static pg_status shape_view(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  const int64_t i = node->attrs.a[0];
  PG_TRY(pg_want_vector("view", x));
  if (i < 0 || i >= pg_layout_count(x->layout))
    return pg_fail(PG_ERR_ARGUMENT, "view: tensor %lld of a vector of %d", (long long)i + 1,
                   pg_layout_count(x->layout));
  const pg_segment *s = pg_layout_segment(x->layout, (int)i);
  pg_set_type(node, (pg_dtype)x->dtype, s->ndim, s->shape, NULL);
  return PG_OK;
}

static pg_status vjp_view(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v), x = *pg_at(g, node.in[0]);
  const int n = pg_layout_count(x.layout);
  pg_value *parts = pg_alloc((size_t)n, sizeof *parts);
  if (!parts) return PG_ERR_MEMORY;
  for (int i = 0; i < n; i++)
    parts[i] = i == node.attrs.a[0] ? ct : pg_segment_zeros(g, (pg_dtype)x.dtype, x.layout, i);
  ct_in[0] = pg_pack(g, x.layout, parts);
  pg_free(parts);
  return pg_built(ct_in[0]);
}

static pg_status jvp_view(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  *out = pg_view_of(g, tangents[0], (int)pg_at(g, v)->attrs.a[0]);
  return pg_built(*out);
}

static pg_status shape_pack(const pg_graph *g, pg_node *node) {
  const pg_layout *layout = node->attrs.layout;
  if (!layout) return pg_fail(PG_ERR_ARGUMENT, "pack: needs a layout");
  if (node->nin != pg_layout_count(layout))
    return pg_fail(PG_ERR_SHAPE, "pack: %d tensors for a layout of %d", node->nin, pg_layout_count(layout));
  if (node->nin == 0) return pg_fail(PG_ERR_SHAPE, "pack: a layout without tensors");
  for (int i = 0; i < node->nin; i++) {
    const pg_node *x = pg_in(g, node, i);
    const pg_segment *s = pg_layout_segment(layout, i);
    bool fits = x->ndim == s->ndim && !x->weak && !x->layout;
    for (int d = 0; fits && d < s->ndim; d++) fits = x->shape[d] == s->shape[d];
    char a[200], b[200];
    if (!fits)
      return pg_fail(PG_ERR_SHAPE, "pack: tensor %d ('%s') is %s, the layout has %s", i + 1, s->name,
                     pg_shape_text(x, a, sizeof a), pg_dims_text(s->ndim, s->shape, b, sizeof b));
    if (x->dtype != pg_in(g, node, 0)->dtype)
      return pg_fail(PG_ERR_DTYPE, "pack: tensors of %s and %s", pg_dtype_name((pg_dtype)pg_in(g, node, 0)->dtype),
                     pg_dtype_name((pg_dtype)x->dtype));
  }
  int64_t padded = pg_layout_padded(layout);
  pg_set_type(node, (pg_dtype)pg_in(g, node, 0)->dtype, 1, &padded, layout);
  return PG_OK;
}

static pg_status vjp_pack(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const int n = pg_at(g, v)->nin;
  for (int i = 0; i < n; i++) {
    if (ct_in[i] == PG_UNWANTED) continue;
    ct_in[i] = pg_view_of(g, ct, i);
    PG_TRY(pg_built(ct_in[i]));
  }
  return PG_OK;
}

// ---- per-tensor reductions -----------------------------------------------------------------------------------------

static pg_status shape_segreduce(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  const char *op = pg_op_table[node->op]->name;
  PG_TRY(pg_want_vector(op, x));
  if (x->dtype > (node->op == PG_OP_SEGSUM ? PG_I64 : PG_U8))
    return pg_fail(PG_ERR_DTYPE, "%s: convert %s vectors first", op, pg_dtype_name((pg_dtype)x->dtype));
  int64_t count = pg_layout_count(x->layout);
  pg_set_type(node, (pg_dtype)x->dtype, 1, &count, NULL);
  return PG_OK;
}

// One value per tensor spread over the tensors; where all of them are one number spread out, that number fills the
// vector.
static pg_value spread_segments(pg_graph *g, pg_value x, const pg_layout *layout) {
  pg_attrs attrs = {.layout = layout};
  if (x == PG_NONE) return PG_NONE;
  const pg_node node = *pg_at(g, x);
  if (node.op == PG_OP_BROADCAST && pg_node_size(pg_at(g, node.in[0])) == 1) {
    attrs.dtype = node.dtype;
    pg_value one = pg_reshape(g, node.in[0], 0, NULL);
    return pg_node_make(g, PG_OP_FULL, 1, &one, &attrs, NULL);
  }
  return pg_node_make(g, PG_OP_SEGBROADCAST, 1, &x, &attrs, NULL);
}

static pg_status vjp_segsum(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  ct_in[0] = spread_segments(g, ct, pg_at(g, pg_at(g, v)->in[0])->layout);
  return pg_built(ct_in[0]);
}

static pg_status jvp_segsum(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  (void)v;
  *out = pg_op1(g, PG_OP_SEGSUM, tangents[0]);
  return pg_built(*out);
}

static void find_ties(pg_graph *g, pg_value v, pg_value *tie, pg_value *count) {
  const pg_node node = *pg_at(g, v);
  *tie = pg_op2(g, PG_OP_EQ, node.in[0], spread_segments(g, v, pg_at(g, node.in[0])->layout));
  *count = pg_op1(g, PG_OP_SEGSUM, pg_cast(g, *tie, (pg_dtype)node.dtype));
}

static pg_status vjp_segextremum(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  pg_value tie, count;
  find_ties(g, v, &tie, &count);
  pg_value share = spread_segments(g, pg_op2(g, PG_OP_DIV, ct, count), pg_at(g, pg_at(g, v)->in[0])->layout);
  ct_in[0] = pg_op3(g, PG_OP_WHERE, tie, share, pg_number(g, 0));
  return pg_built(ct_in[0]);
}

static pg_status jvp_segextremum(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  pg_value tie, count;
  find_ties(g, v, &tie, &count);
  pg_value chosen = pg_op3(g, PG_OP_WHERE, tie, tangents[0], pg_number(g, 0));
  *out = pg_op2(g, PG_OP_DIV, pg_op1(g, PG_OP_SEGSUM, chosen), count);
  return pg_built(*out);
}

static pg_status shape_segbroadcast(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  const pg_layout *layout = node->attrs.layout;
  char text[200];
  PG_TRY(pg_want_plain("segbroadcast", x));
  if (!layout) return pg_fail(PG_ERR_ARGUMENT, "segbroadcast: needs a layout");
  if (x->dtype == PG_KEY) return pg_fail(PG_ERR_DTYPE, "segbroadcast: there are no vectors of keys");
  if (x->ndim != 1 || x->shape[0] != pg_layout_count(layout))
    return pg_fail(PG_ERR_SHAPE, "segbroadcast: %s for a layout of %d tensors", pg_shape_text(x, text, sizeof text),
                   pg_layout_count(layout));
  int64_t padded = pg_layout_padded(layout);
  pg_set_type(node, (pg_dtype)x->dtype, 1, &padded, layout);
  return PG_OK;
}

static pg_status vjp_segbroadcast(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  (void)v;
  ct_in[0] = pg_op1(g, PG_OP_SEGSUM, ct);
  return pg_built(ct_in[0]);
}

static pg_status jvp_segbroadcast(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  *out = spread_segments(g, tangents[0], pg_at(g, v)->layout);
  return pg_built(*out);
}

// ---- batching: a vector's tensors carry the batch ------------------------------------------------------------------

static pg_status batch_view(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                            pg_value *out) {
  (void)batched;
  *out = pg_view_of(b->g, in[0], (int)node->attrs.a[0]);
  return pg_built(*out);
}

static pg_status batch_pack(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                            pg_value *out) {
  pg_value *parts = pg_alloc((size_t)node->nin, sizeof *parts);
  if (!parts) return PG_ERR_MEMORY;
  for (int i = 0; i < node->nin; i++) parts[i] = pg_batch_spread(b, in[i], batched[i]);
  *out = pg_batch_pack(b, node->layout, parts);
  pg_free(parts);
  return pg_built(*out);
}

// Each tensor's entries reduced, side by side: [size, tensors].
static pg_status batch_segreduce(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                                 pg_value *out) {
  (void)batched;
  const int op = node->op == PG_OP_SEGSUM ? PG_OP_SUM : node->op == PG_OP_SEGMAX ? PG_OP_MAX : PG_OP_MIN;
  const int n = (int)node->shape[0];
  const pg_attrs columns = {.n = 1, .a = {1}};
  pg_value *parts = pg_alloc((size_t)n, sizeof *parts);
  if (!parts) return PG_ERR_MEMORY;
  for (int i = 0; i < n; i++) {
    parts[i] = pg_view_of(b->g, in[0], i);
    const int ndim = parts[i] == PG_NONE ? 0 : pg_at(b->g, parts[i])->ndim;
    if (ndim > 1) parts[i] = pg_reduce_run(b->g, op, parts[i], 1, ndim, false);
    if (parts[i] != PG_NONE) parts[i] = pg_reshape(b->g, parts[i], 2, (int64_t[]){b->size, 1});
  }
  *out = pg_node_make(b->g, PG_OP_CONCAT, n, parts, &columns, NULL);
  pg_free(parts);
  return pg_built(*out);
}

static pg_status batch_segbroadcast(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                                    pg_value *out) {
  (void)batched;
  const pg_layout *layout = node->layout;
  const int n = pg_layout_count(layout);
  pg_value *parts = pg_alloc((size_t)n, sizeof *parts);
  if (!parts) return PG_ERR_MEMORY;
  for (int i = 0; i < n; i++) {
    const pg_segment *s = pg_layout_segment(layout, i);
    const pg_attrs column = {.n = 2, .a = {0, i}, .b = {b->size, 1}, .c = {1, 1}};
    pg_value x = pg_node_make(b->g, PG_OP_SLICE, 1, in, &column, NULL);
    x = pg_reshape(b->g, x, 1, &b->size);
    parts[i] = x == PG_NONE ? x : pg_batch_align(b, x, true, s->ndim);
    int64_t shape[PG_MAX_NDIM + 1] = {b->size};
    memcpy(shape + 1, s->shape, (size_t)s->ndim * sizeof *shape);
    if (parts[i] != PG_NONE) parts[i] = pg_broadcast(b->g, parts[i], s->ndim + 1, shape);
  }
  *out = pg_batch_pack(b, layout, parts);
  pg_free(parts);
  return pg_built(*out);
}

static double cost_segreduce(const pg_graph *g, const pg_node *node) {
  return (double)pg_layout_size(pg_in(g, node, 0)->layout);
}

#define ROW(NAME, op, count, class, ...)                                                                               \
  const pg_op_info pg_op_info_##NAME = {.name = #op, .arity = count, .cls = class, __VA_ARGS__};
ROW(VIEW, view, 1, PG_CLASS_VIEW, .shape = shape_view, .vjp = vjp_view, .jvp = jvp_view, .batch = batch_view)
ROW(PACK, pack, -1, PG_CLASS_PLACE, .shape = shape_pack, .vjp = vjp_pack, .jvp = pg_jvp_of_parts, .batch = batch_pack)
ROW(SEGSUM, segsum, 1, PG_CLASS_REDUCE, .shape = shape_segreduce, .vjp = vjp_segsum, .jvp = jvp_segsum,
    .batch = batch_segreduce, .cost_of = cost_segreduce)
ROW(SEGMAX, segmax, 1, PG_CLASS_REDUCE, .shape = shape_segreduce, .vjp = vjp_segextremum, .jvp = jvp_segextremum,
    .batch = batch_segreduce, .cost_of = cost_segreduce)
ROW(SEGMIN, segmin, 1, PG_CLASS_REDUCE, .shape = shape_segreduce, .vjp = vjp_segextremum, .jvp = jvp_segextremum,
    .batch = batch_segreduce, .cost_of = cost_segreduce)
// Made wherever it is read, as draws are.
ROW(SEGBROADCAST, segbroadcast, 1, PG_CLASS_DRAW, .shape = shape_segbroadcast, .vjp = vjp_segbroadcast,
    .jvp = jvp_segbroadcast, .batch = batch_segbroadcast)
