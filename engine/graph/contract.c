// contract.c: sums of outer products that are never formed. The gradient of a linear layer's weights for each example
// of a batch is an outer product, and batching makes an elementwise product of it that is marked as one
// (PG_OUTER_PRODUCT): x [..., K, 1] times y [..., 1, N]. As nodes are made, a sum over a product with marked factors
// becomes sums of the parts that vary with K and with N, or a product of matrices:
//   over K and N:             sum(x y x' y' s) = sum(x x') sum(y y') s          norms of gradients
//   over all axes in front:   sum(x y s) = x^T (y s)                            weighted averages of gradients
// where s varies along the axes in front only. That is the same number by other additions, so it is done to marked
// products alone; a product that a user writes is computed as written.
#include "engine/graph/graph.h"
#include "engine/ops/ops.h"

enum { MOST_FACTORS = 12 };

typedef enum variation { IN_FRONT, ALONG_K, ALONG_N, ALONG_BOTH } variation;

typedef struct product {
  pg_graph *g;
  int ndim; // of the whole
  int count;
  bool marked; // one of the factors is part of a marked product
  struct {
    pg_value x;
    variation along;
    bool divides;
  } factor[MOST_FACTORS];
} product;

static variation find_variation(const pg_node *x) {
  const int k = x->ndim - 2, n = x->ndim - 1; // K and N are the last two axes, if it has so many
  const bool along_k = k >= 0 && x->shape[k] != 1, along_n = n >= 0 && x->shape[n] != 1;
  return along_k && along_n ? ALONG_BOTH : along_k ? ALONG_K : along_n ? ALONG_N : IN_FRONT;
}

static bool add_factor(product *p, pg_value v, bool divides) {
  while (pg_at(p->g, v)->op == PG_OP_BROADCAST) v = pg_at(p->g, v)->in[0];
  const variation along = find_variation(pg_at(p->g, v));
  if (p->count == MOST_FACTORS || along == ALONG_BOTH || (divides && along != IN_FRONT)) return false;
  p->factor[p->count].x = v;
  p->factor[p->count].along = along;
  p->factor[p->count++].divides = divides;
  return true;
}

// The factors of v, or false if it is not such a product.
static bool collect(product *p, pg_value v) {
  const pg_node *n = pg_at(p->g, v);
  if (n->op == PG_OP_MUL && (n->attrs.flags & PG_OUTER_PRODUCT)) {
    p->marked = true;
    return add_factor(p, n->in[0], false) && add_factor(p, n->in[1], false);
  }
  const bool whole = !n->weak && n->ndim == p->ndim && find_variation(n) == ALONG_BOTH;
  if (whole && n->op == PG_OP_MUL) return collect(p, n->in[0]) && collect(p, n->in[1]);
  if (whole && n->op == PG_OP_DIV) return collect(p, n->in[0]) && add_factor(p, n->in[1], true);
  return add_factor(p, v, false);
}

// The product of the factors that vary so: as a tensor of all axes, with extents of 1 where it does not vary. PG_NONE
// if there are none.
static pg_value gather(const product *p, variation along) {
  pg_value out = PG_NONE;
  for (int i = 0; i < p->count; i++) {
    if (p->factor[i].along != along) continue;
    const pg_value x = p->factor[i].x;
    if (out == PG_NONE)
      out = p->factor[i].divides ? pg_op2(p->g, PG_OP_DIV, pg_number(p->g, 1), x) : x;
    else
      out = pg_op2(p->g, p->factor[i].divides ? PG_OP_DIV : PG_OP_MUL, out, x);
    if (out == PG_NONE) return out;
  }
  return out;
}

static pg_value scale(pg_graph *g, pg_value x, pg_value s) {
  return s == PG_NONE ? x : pg_op2(g, PG_OP_MUL, x, s);
}

// Over one axis, counted from the end.
static pg_value sum_axis(pg_graph *g, pg_value x, int from_end) {
  const int axis = pg_at(g, x)->ndim - from_end;
  const pg_attrs attrs = {.n = 2, .a = {axis, axis + 1}, .flags = 1};
  return pg_node_make(g, PG_OP_SUM, 1, &x, &attrs, NULL);
}

// Over the last two axes, which stay as extents of 1.
static pg_value sum_behind(const product *p, pg_value left, pg_value right, pg_value s) {
  const pg_value k = sum_axis(p->g, left, 2), n = sum_axis(p->g, right, 1);
  return k == PG_NONE || n == PG_NONE ? PG_NONE : scale(p->g, pg_op2(p->g, PG_OP_MUL, k, n), s);
}

// x, which varies in front and along one of the last two axes, as a matrix with `rows` in front.
static pg_value as_matrix(pg_graph *g, pg_value x, const pg_node *whole, int64_t rows, int axis) {
  if (x == PG_NONE) return x;
  int64_t full[PG_MAX_NDIM];
  for (int i = 0; i < whole->ndim; i++) full[i] = i < whole->ndim - 2 || i == axis ? whole->shape[i] : 1;
  return pg_reshape(g, pg_broadcast(g, x, whole->ndim, full), 2, (int64_t[]){rows, whole->shape[axis]});
}

static pg_value sum_in_front(const product *p, const pg_node *whole, pg_value left, pg_value right, pg_value s) {
  int64_t rows = 1;
  for (int i = 0; i < p->ndim - 2; i++) rows *= whole->shape[i];
  const pg_value k = as_matrix(p->g, left, whole, rows, p->ndim - 2),
                 n = as_matrix(p->g, scale(p->g, right, s), whole, rows, p->ndim - 1);
  return pg_op2(p->g, PG_OP_MATMUL, pg_transpose(p->g, k, (int[]){1, 0}), n);
}

bool pg_contract(pg_graph *g, const pg_node *n, pg_value *out) {
  if (n->op != PG_OP_SUM) return false;
  const pg_node whole = *pg_at(g, n->in[0]);
  const int front = whole.ndim - 2, first = (int)n->attrs.a[0], last = (int)n->attrs.a[1];
  const bool behind = first == front && last == whole.ndim, before = first == 0 && last == front;
  if ((whole.op != PG_OP_MUL && whole.op != PG_OP_DIV) || (!behind && !before)) return false;
  product p = {.g = g, .ndim = whole.ndim};
  if (!collect(&p, n->in[0]) || !p.marked) return false;
  const int ndim = n->ndim;
  int64_t shape[PG_MAX_NDIM];
  for (int i = 0; i < ndim; i++) shape[i] = n->shape[i];
  const pg_value left = gather(&p, ALONG_K), right = gather(&p, ALONG_N), s = gather(&p, IN_FRONT);
  if (left == PG_NONE || right == PG_NONE) return false;
  *out = pg_reshape(g, behind ? sum_behind(&p, left, right, s) : sum_in_front(&p, &whole, left, right, s), ndim, shape);
  return true;
}
