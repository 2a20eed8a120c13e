// build.c: shorthands for building nodes: by name for users, by op for derivative rules and composites.
#include <string.h>

#include "engine/graph/graph.h"
#include "engine/ops/ops.h"

pg_value pg_call(pg_graph *g, const char *name, int n, const pg_value *in, const pg_attrs *attrs) {
  for (int i = 0; i < n; i++)
    if (in[i] == PG_NONE) return PG_NONE;
  const pg_function *f = pg_function_find(name);
  if (!f) return pg_fail(PG_ERR_ARGUMENT, "there is no function named '%s'", name), PG_NONE;
  if (n < f->min_arity || (f->max_arity >= 0 && n > f->max_arity))
    return pg_fail(PG_ERR_ARGUMENT, "%s takes %d%s operands, not %d", name, f->min_arity,
                   f->max_arity == f->min_arity ? "" : " or more", n),
           PG_NONE;
  if (f->composite) {
    static const pg_attrs none;
    return f->composite(g, n, in, attrs ? attrs : &none);
  }
  return pg_node_make(g, f->op, n, in, attrs, NULL);
}

pg_value pg_call1(pg_graph *g, const char *name, pg_value a) {
  return pg_call(g, name, 1, &a, NULL);
}

pg_value pg_call2(pg_graph *g, const char *name, pg_value a, pg_value b) {
  return pg_call(g, name, 2, (pg_value[]){a, b}, NULL);
}

pg_value pg_reduce(pg_graph *g, const char *name, pg_value x, int naxes, const int *axes, bool keepdims) {
  pg_attrs attrs = {.n = naxes, .flags = keepdims};
  if (naxes < 0 || naxes > PG_MAX_NDIM)
    return pg_fail(PG_ERR_ARGUMENT, "%s: %d axes, at most %d are possible", name, naxes, PG_MAX_NDIM), PG_NONE;
  for (int i = 0; i < naxes; i++) attrs.a[i] = axes[i];
  return pg_call(g, name, 1, &x, &attrs);
}

pg_value pg_op1(pg_graph *g, int op, pg_value a) {
  return pg_node_make(g, op, 1, &a, NULL, NULL);
}

pg_value pg_op2(pg_graph *g, int op, pg_value a, pg_value b) {
  return pg_node_make(g, op, 2, (pg_value[]){a, b}, NULL, NULL);
}

pg_value pg_op3(pg_graph *g, int op, pg_value a, pg_value b, pg_value c) {
  return pg_node_make(g, op, 3, (pg_value[]){a, b, c}, NULL, NULL);
}

// Of too many axes, which their shape rules refuse, as many as there is room for.
static pg_attrs shape_attrs(int ndim, const int64_t *shape) {
  pg_attrs attrs = {.n = ndim};
  for (int i = 0; i < ndim && i < PG_MAX_NDIM; i++) attrs.a[i] = shape[i];
  return attrs;
}

pg_value pg_reshape(pg_graph *g, pg_value x, int ndim, const int64_t *shape) {
  pg_attrs attrs = shape_attrs(ndim, shape);
  return pg_node_make(g, PG_OP_RESHAPE, 1, &x, &attrs, NULL);
}

pg_value pg_broadcast(pg_graph *g, pg_value x, int ndim, const int64_t *shape) {
  pg_attrs attrs = shape_attrs(ndim, shape);
  return pg_node_make(g, PG_OP_BROADCAST, 1, &x, &attrs, NULL);
}

pg_value pg_transpose(pg_graph *g, pg_value x, const int *perm) {
  if (x == PG_NONE) return PG_NONE;
  pg_attrs attrs = {.n = pg_at(g, x)->ndim};
  for (int i = 0; i < attrs.n; i++) attrs.a[i] = perm[i];
  return pg_node_make(g, PG_OP_TRANSPOSE, 1, &x, &attrs, NULL);
}

pg_value pg_cast(pg_graph *g, pg_value x, pg_dtype dtype) {
  if (x == PG_NONE) return PG_NONE;
  pg_attrs attrs = {.dtype = dtype};
  if (pg_at(g, x)->weak) return pg_node_make(g, PG_OP_FULL, 1, &x, &attrs, NULL);
  return pg_node_make(g, PG_OP_CAST, 1, &x, &attrs, NULL);
}

pg_value pg_full_like(pg_graph *g, pg_value x, pg_value number) {
  if (x == PG_NONE) return PG_NONE;
  const pg_node *n = pg_at(g, x);
  if (n->weak) return number;
  pg_attrs attrs = shape_attrs(n->layout ? 0 : n->ndim, n->shape);
  attrs.dtype = n->dtype;
  attrs.layout = n->layout;
  return pg_node_make(g, PG_OP_FULL, 1, &number, &attrs, NULL);
}

pg_value pg_zeros_like(pg_graph *g, pg_value x) {
  return pg_full_like(g, x, pg_number(g, 0));
}

bool pg_same_type(const pg_node *a, const pg_node *b) {
  return a->dtype == b->dtype && a->ndim == b->ndim &&
         memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape) == 0 && pg_layout_equal(a->layout, b->layout);
}

// Sum over axes [first, last), keeping them as size 1.
static pg_value sum_run(pg_graph *g, pg_value x, int first, int last) {
  pg_attrs attrs = {.n = 2, .a = {first, last}, .flags = 1};
  return pg_node_make(g, PG_OP_SUM, 1, &x, &attrs, NULL);
}

pg_value pg_sum_to(pg_graph *g, pg_value x, pg_value like) {
  if (x == PG_NONE || like == PG_NONE) return PG_NONE;
  const pg_node from = *pg_at(g, x), to = *pg_at(g, like);
  if (from.weak || (pg_same_type(&from, &to) && !to.weak)) return x;
  if (from.layout) {
    pg_value per_tensor = pg_op1(g, PG_OP_SEGSUM, x);
    if (per_tensor == PG_NONE) return PG_NONE;
    x = sum_run(g, per_tensor, 0, 1);
    return pg_reshape(g, x, to.ndim, to.shape);
  }
  // Reduce runs of axes that `like` lacks or has with size 1, from the last to the first.
  int extra = from.ndim - to.ndim;
  for (int last = from.ndim; last > 0;) {
    int axis = last - 1;
    bool reduced = axis < extra || (to.shape[axis - extra] == 1 && from.shape[axis] != 1);
    if (!reduced) {
      last--;
      continue;
    }
    int first = axis;
    while (first > 0 && (first - 1 < extra || (to.shape[first - 1 - extra] == 1 && from.shape[first - 1] != 1)))
      first--;
    x = sum_run(g, x, first, last);
    last = first;
  }
  return pg_reshape(g, x, to.ndim, to.shape);
}
