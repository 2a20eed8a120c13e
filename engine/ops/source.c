// source.c: the rows of what has no tensor operands: run-time inputs, weak numbers, filled tensors and indices along
// an axis.
#include <string.h>

#include "engine/ops/batching.h"

static pg_status shape_argument(const pg_graph *g, pg_node *node) {
  (void)g;
  return pg_fail(PG_ERR_INTERNAL, "%s: arguments are made by pg_input, pg_scalar and pg_number",
                 pg_op_table[node->op]->name);
}

static pg_status shape_full(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  const pg_attrs *a = &node->attrs;
  char text[200];
  if (x->ndim != 0)
    return pg_fail(PG_ERR_SHAPE, "full: expected one number, got %s", pg_shape_text(x, text, sizeof text));
  if (a->dtype < 0 || a->dtype >= PG_KEY)
    return pg_fail(PG_ERR_DTYPE, "full: tensors of dtype %d have no numbers", a->dtype);
  if (!x->weak && x->dtype != a->dtype)
    return pg_fail(PG_ERR_DTYPE, "full: a %s tensor filled with %s; convert it with :to(\"%s\")",
                   pg_dtype_name((pg_dtype)a->dtype), pg_shape_text(x, text, sizeof text),
                   pg_dtype_name((pg_dtype)a->dtype));
  if (a->layout) {
    int64_t padded = pg_layout_padded(a->layout);
    pg_set_type(node, (pg_dtype)a->dtype, 1, &padded, a->layout);
    return PG_OK;
  }
  PG_TRY(pg_want_shape("full", a->n, a->a));
  pg_set_type(node, (pg_dtype)a->dtype, a->n, a->a, NULL);
  return PG_OK;
}

static pg_status vjp_full(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  ct_in[0] = pg_sum_to(g, ct, pg_at(g, v)->in[0]);
  return pg_built(ct_in[0]);
}

static pg_status jvp_full(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  *out = pg_full_like(g, v, pg_as(g, tangents[0], (pg_dtype)pg_at(g, v)->dtype));
  return pg_built(*out);
}

// One number per entry: each fills its own.
static pg_status batch_full(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                            pg_value *out) {
  int64_t shape[PG_MAX_NDIM] = {b->size};
  pg_value x = pg_batch_align(b, in[0], batched[0], node->ndim);
  PG_TRY(pg_built(x));
  memcpy(shape + 1, node->shape, (size_t)node->ndim * sizeof *shape);
  *out = pg_broadcast(b->g, x, node->ndim + 1, shape);
  return pg_built(*out);
}

static pg_status shape_iota(const pg_graph *g, pg_node *node) {
  (void)g;
  pg_attrs *a = &node->attrs;
  int axis;
  if (a->dtype < 0 || a->dtype >= PG_BOOL)
    return pg_fail(PG_ERR_DTYPE, "iota: indices are numbers, not %s", a->dtype == PG_BOOL ? "bool" : "keys");
  PG_TRY(pg_want_shape("iota", a->n, a->a));
  PG_TRY(pg_want_axis("iota", a->b[0], a->n, &axis));
  a->b[0] = axis;
  pg_set_type(node, (pg_dtype)a->dtype, a->n, a->a, NULL);
  return PG_OK;
}

const pg_op_info pg_op_info_INPUT = {.name = "input", .cls = PG_CLASS_SOURCE, .shape = shape_argument};
const pg_op_info pg_op_info_SCALAR = {.name = "scalar", .cls = PG_CLASS_SOURCE, .shape = shape_argument};
const pg_op_info pg_op_info_NUMBER = {.name = "number", .cls = PG_CLASS_SOURCE, .shape = shape_argument};
const pg_op_info pg_op_info_FULL = {.name = "full",
                                    .arity = 1,
                                    .cls = PG_CLASS_MAP,
                                    .shape = shape_full,
                                    .vjp = vjp_full,
                                    .jvp = jvp_full,
                                    .batch = batch_full};
const pg_op_info pg_op_info_IOTA = {.name = "iota", .cls = PG_CLASS_MAP, .shape = shape_iota, .cost = 1};
