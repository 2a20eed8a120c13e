// reduce.c: the rows of SUM, MAX and MIN over a run of adjacent axes. The order of additions is the canonical tree of
// codegen/kernel.h, fixed by shapes alone. Equal extrema share the derivative equally.
#include "engine/ops/batching.h"

static pg_status shape_reduce(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  const char *op = pg_op_table[node->op]->name;
  const int64_t first = node->attrs.a[0], last = node->attrs.a[1];
  char text[200];
  PG_TRY(pg_want_plain(op, x));
  // A sum of u8 would wrap around at once: the function "sum" converts to i64 first.
  if (x->dtype > (node->op == PG_OP_SUM ? PG_I64 : PG_U8))
    return pg_fail(PG_ERR_DTYPE, "%s: convert %s first", op, pg_shape_text(x, text, sizeof text));
  if (first < 0 || first >= last || last > x->ndim)
    return pg_fail(PG_ERR_SHAPE, "%s: axes %lld to %lld of %s", op, (long long)first + 1, (long long)last,
                   pg_shape_text(x, text, sizeof text));
  int64_t shape[PG_MAX_NDIM], reduced = 1;
  int ndim = 0;
  for (int i = 0; i < x->ndim; i++) {
    bool inside = i >= first && i < last;
    if (inside) reduced *= x->shape[i];
    if (!inside || (node->attrs.flags & 1)) shape[ndim++] = inside ? 1 : x->shape[i];
  }
  if (reduced == 0 && node->op != PG_OP_SUM)
    return pg_fail(PG_ERR_SHAPE, "%s: nothing to choose from in %s", op, pg_shape_text(x, text, sizeof text));
  pg_set_type(node, (pg_dtype)x->dtype, ndim, shape, NULL);
  return PG_OK;
}

// y, whose type is that of the reduction `v`, spread over the shape of what was reduced.
static pg_value spread_back(pg_graph *g, pg_value v, pg_value y) {
  if (y == PG_NONE) return PG_NONE;
  const pg_node node = *pg_at(g, v), x = *pg_at(g, node.in[0]);
  int64_t kept[PG_MAX_NDIM];
  for (int i = 0; i < x.ndim; i++) kept[i] = i >= node.attrs.a[0] && i < node.attrs.a[1] ? 1 : x.shape[i];
  return pg_broadcast(g, pg_reshape(g, y, x.ndim, kept), x.ndim, x.shape);
}

static pg_value reduce_alike(pg_graph *g, pg_value v, int op, pg_value x) {
  const pg_attrs attrs = pg_at(g, v)->attrs;
  return pg_reduce_run(g, op, x, (int)attrs.a[0], (int)attrs.a[1], attrs.flags & 1);
}

static pg_status vjp_sum(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  ct_in[0] = spread_back(g, v, ct);
  return pg_built(ct_in[0]);
}

static pg_status jvp_sum(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  *out = reduce_alike(g, v, PG_OP_SUM, tangents[0]);
  return pg_built(*out);
}

// Where the operand equals the extremum, and how many such places each result has.
static void find_ties(pg_graph *g, pg_value v, pg_value *tie, pg_value *count) {
  pg_value x = pg_at(g, v)->in[0];
  *tie = pg_op2(g, PG_OP_EQ, x, spread_back(g, v, v));
  *count = reduce_alike(g, v, PG_OP_SUM, pg_cast(g, *tie, (pg_dtype)pg_at(g, v)->dtype));
}

static pg_status vjp_extremum(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  pg_value tie, count;
  find_ties(g, v, &tie, &count);
  pg_value share = spread_back(g, v, pg_op2(g, PG_OP_DIV, ct, count));
  ct_in[0] = pg_op3(g, PG_OP_WHERE, tie, share, pg_number(g, 0));
  return pg_built(ct_in[0]);
}

static pg_status jvp_extremum(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  pg_value tie, count;
  find_ties(g, v, &tie, &count);
  pg_value chosen = pg_op3(g, PG_OP_WHERE, tie, tangents[0], pg_number(g, 0));
  *out = pg_op2(g, PG_OP_DIV, reduce_alike(g, v, PG_OP_SUM, chosen), count);
  return pg_built(*out);
}

static pg_status batch_reduce(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                              pg_value *out) {
  (void)batched;
  const pg_attrs *a = &node->attrs;
  *out = pg_reduce_run(b->g, node->op, in[0], (int)a->a[0] + 1, (int)a->a[1] + 1, a->flags & 1);
  return pg_built(*out);
}

static double cost_reduce(const pg_graph *g, const pg_node *node) {
  return (double)pg_node_size(pg_in(g, node, 0));
}

#define ROW(NAME, op, vjp_rule, jvp_rule)                                                                              \
  const pg_op_info pg_op_info_##NAME = {.name = #op,                                                                   \
                                        .arity = 1,                                                                    \
                                        .cls = PG_CLASS_REDUCE,                                                        \
                                        .shape = shape_reduce,                                                         \
                                        .vjp = vjp_rule,                                                               \
                                        .jvp = jvp_rule,                                                               \
                                        .batch = batch_reduce,                                                         \
                                        .cost_of = cost_reduce};
ROW(SUM, sum, vjp_sum, jvp_sum)
ROW(MAX, max, vjp_extremum, jvp_extremum)
ROW(MIN, min, vjp_extremum, jvp_extremum)
