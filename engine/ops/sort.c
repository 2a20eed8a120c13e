// sort.c: the rows of order along the last axis: ARGSORT, RANKED, SEARCHSORTED. What the order is, NaNs included, and
// how it is found stands in order.h. Results are indices, which have no derivative: values are taken by TAKE_ALONG,
// which has.
#include <string.h>

#include "engine/core/parallel.h"
#include "engine/ops/order.h"
#include "engine/ops/batching.h"

static pg_status want_ordered(const char *op, const pg_node *x) {
  char text[200];
  PG_TRY(pg_want_plain(op, x));
  if (x->dtype == PG_KEY) return pg_fail(PG_ERR_DTYPE, "%s: keys have no order", op);
  if (x->ndim == 0) return pg_fail(PG_ERR_SHAPE, "%s: a single number has no axis to order", op);
  if (x->shape[x->ndim - 1] > PG_LONGEST_ROW)
    return pg_fail(PG_ERR_SHAPE, "%s: rows of at most %d elements, got %s", op, PG_LONGEST_ROW,
                   pg_shape_text(x, text, sizeof text));
  return PG_OK;
}

static int64_t last_extent(const pg_operand *x) {
  return x->shape[x->ndim - 1];
}

static int64_t count_rows(const pg_operand *x) {
  int64_t rows = 1;
  for (int i = 0; i < x->ndim - 1; i++) rows *= x->shape[i];
  return rows;
}

// x [..., n] and y [..., m] or [m]: the same leading axes, or none.
static bool fit_in_front(const pg_node *x, const pg_node *y) {
  return y->ndim == 1 ||
         (y->ndim == x->ndim && memcmp(x->shape, y->shape, (size_t)(x->ndim - 1) * sizeof *x->shape) == 0);
}

// ---- ARGSORT -------------------------------------------------------------------------------------------------------

static pg_status shape_argsort(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  int64_t shape[PG_MAX_NDIM];
  char text[200];
  PG_TRY(want_ordered("argsort", x));
  memcpy(shape, x->shape, sizeof shape);
  int64_t *last = &shape[x->ndim - 1];
  if (node->attrs.a[0] < 0 || node->attrs.a[0] > *last)
    return pg_fail(PG_ERR_SHAPE, "argsort: the first %lld of %s", (long long)node->attrs.a[0],
                   pg_shape_text(x, text, sizeof text));
  *last = node->attrs.a[0];
  pg_set_type(node, PG_I64, x->ndim, shape, NULL);
  return PG_OK;
}

static pg_ordering plan_argsort(const pg_operand *out, const pg_operand *x, const pg_attrs *attrs) {
  return (pg_ordering){.dtype = x->dtype,
                       .rows = count_rows(x),
                       .n = last_extent(x),
                       .descending = attrs->flags & 1,
                       .wanted = attrs->a[0],
                       .x = x->data,
                       .out = out->data};
}

static void run_argsort(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin;
  const pg_ordering o = plan_argsort(out, in, attrs);
  pg_find_order(&o, scratch);
}

// The operand that a node will be, without its memory.
static pg_operand shape_as_operand(const pg_node *node) {
  pg_operand x = {.dtype = (pg_dtype)node->dtype, .ndim = node->ndim};
  memcpy(x.shape, node->shape, sizeof x.shape);
  return x;
}

static size_t scratch_argsort(const pg_graph *g, const pg_node *node) {
  const pg_operand out = shape_as_operand(node), x = shape_as_operand(pg_in(g, node, 0));
  const pg_ordering o = plan_argsort(&out, &x, &node->attrs);
  return pg_order_scratch(&o);
}

// ---- RANKED --------------------------------------------------------------------------------------------------------

static pg_status shape_ranked(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0), *ranks = pg_in(g, node, 1);
  int64_t shape[PG_MAX_NDIM];
  char a[200], b[200];
  PG_TRY(want_ordered("ranked", x));
  PG_TRY(pg_want_plain("ranked", ranks));
  if (ranks->dtype != PG_I64 || ranks->ndim == 0 || !fit_in_front(x, ranks))
    return pg_fail(PG_ERR_SHAPE, "ranked: ranks are i64 [ranks] or one list for each row of %s, got %s",
                   pg_shape_text(x, a, sizeof a), pg_shape_text(ranks, b, sizeof b));
  if (x->shape[x->ndim - 1] == 0 && ranks->shape[ranks->ndim - 1] > 0)
    return pg_fail(PG_ERR_SHAPE, "ranked: the rows of %s are empty", pg_shape_text(x, a, sizeof a));
  memcpy(shape, x->shape, sizeof shape);
  shape[x->ndim - 1] = ranks->shape[ranks->ndim - 1];
  pg_set_type(node, PG_I64, x->ndim, shape, NULL);
  return PG_OK;
}

static pg_ordering plan_ranked(const pg_operand *out, const pg_operand *x, const pg_operand *ranks) {
  const int64_t wanted = last_extent(ranks);
  return (pg_ordering){.dtype = x->dtype,
                       .rows = count_rows(x),
                       .n = last_extent(x),
                       .wanted = wanted,
                       .ranked = true,
                       .x = x->data,
                       .ranks = ranks->data,
                       .rank_stride = ranks->ndim == x->ndim ? wanted : 0,
                       .out = out->data};
}

static void run_ranked(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)attrs;
  const pg_ordering o = plan_ranked(out, &in[0], &in[1]);
  pg_find_order(&o, scratch);
}

static size_t scratch_ranked(const pg_graph *g, const pg_node *node) {
  const pg_operand out = shape_as_operand(node), x = shape_as_operand(pg_in(g, node, 0));
  const pg_operand ranks = shape_as_operand(pg_in(g, node, 1));
  const pg_ordering o = plan_ranked(&out, &x, &ranks);
  return pg_order_scratch(&o);
}

// ---- SEARCHSORTED --------------------------------------------------------------------------------------------------

static pg_status shape_searchsorted(const pg_graph *g, pg_node *node) {
  const pg_node *sorted = pg_in(g, node, 0), *x = pg_in(g, node, 1);
  char a[200], b[200];
  PG_TRY(want_ordered("searchsorted", sorted));
  PG_TRY(pg_want_plain("searchsorted", x));
  if (sorted->dtype != x->dtype)
    return pg_fail(PG_ERR_DTYPE, "searchsorted: %s in %s; convert one with :to", pg_shape_text(x, a, sizeof a),
                   pg_shape_text(sorted, b, sizeof b));
  if (sorted->ndim != 1 && (x->ndim == 0 || !fit_in_front(x, sorted)))
    return pg_fail(PG_ERR_SHAPE, "searchsorted: %s in %s; one list of numbers, or one for each row, was expected",
                   pg_shape_text(x, a, sizeof a), pg_shape_text(sorted, b, sizeof b));
  pg_set_type(node, PG_I64, x->ndim, x->shape, NULL);
  return PG_OK;
}

typedef struct search_task {
  const pg_operand *out, *in;
  int64_t n, per_row; // elements of a sorted row; of x that are searched in one row
  bool upper;
} search_task;

static void search_range(void *arg, int64_t first, int64_t last) {
  const search_task *t = arg;
  const pg_operand *sorted = &t->in[0];
  const size_t bytes = pg_dtype_size(sorted->dtype) * (size_t)t->n;
  for (int64_t i = first; i < last; i++) {
    const char *row = (const char *)sorted->data + (size_t)(i / t->per_row) * bytes;
    ((int64_t *)t->out->data)[i] = pg_count_below(sorted->dtype, row, t->n, t->in[1].data, i, t->upper);
  }
}

static void run_searchsorted(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs,
                             void *scratch) {
  (void)nin, (void)scratch;
  search_task t = {.out = out, .in = in, .n = last_extent(&in[0]), .upper = attrs->flags & 1};
  const int64_t size = out->ndim ? count_rows(out) * last_extent(out) : 1;
  t.per_row = in[0].ndim == 1 ? size : last_extent(out);
  pg_parallel_for(size, (double)size * pg_order_cost(t.n), search_range, &t);
}

// ---- rows ----------------------------------------------------------------------------------------------------------

static double cost_per_element(const pg_graph *g, const pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  return pg_order_cost(x->shape[x->ndim - 1]);
}

static double cost_of_order(const pg_graph *g, const pg_node *node) {
  return (double)pg_node_size(pg_in(g, node, 0)) * cost_per_element(g, node);
}

static double cost_of_search(const pg_graph *g, const pg_node *node) {
  return (double)pg_node_size(node) * cost_per_element(g, node);
}

// ---- batching ------------------------------------------------------------------------------------------------------

// Operand `list` may be one list for all rows of the other one; a list of each entry of the batch is one for its rows.
static pg_status batch_listed(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched, int list,
                              pg_value *out) {
  const int rank = pg_at(b->g, in[1 - list])->ndim - batched[1 - list];
  pg_value x[2] = {in[0], in[1]};
  if (batched[list] || pg_at(b->g, in[list])->ndim != 1) {
    x[0] = pg_batch_spread(b, in[0], batched[0]);
    x[1] = pg_batch_spread(b, in[1], batched[1]);
    if (x[0] == PG_NONE || x[1] == PG_NONE) return pg_built(PG_NONE);
    if (rank == 0) x[1 - list] = pg_reshape(b->g, x[1 - list], 2, (int64_t[]){b->size, 1});
    if (rank > 1 && pg_at(b->g, x[list])->ndim == 2) {
      pg_node like = *pg_at(b->g, x[1 - list]);
      like.shape[rank] = pg_at(b->g, x[list])->shape[1];
      x[list] = pg_broadcast(b->g, pg_batch_align(b, x[list], true, rank), rank + 1, like.shape);
    }
  }
  *out = pg_node_make(b->g, node->op, 2, x, &node->attrs, NULL);
  if (rank == 0) *out = pg_reshape(b->g, *out, 1, &b->size);
  return pg_built(*out);
}

static pg_status batch_ranked(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                              pg_value *out) {
  return batch_listed(b, node, in, batched, 1, out);
}

static pg_status batch_searchsorted(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                                    pg_value *out) {
  return batch_listed(b, node, in, batched, 0, out);
}

#define ROW(NAME, op, count, ...)                                                                                      \
  const pg_op_info pg_op_info_##NAME = {                                                                               \
      .name = #op, .arity = count, .cls = PG_CLASS_LIBRARY, .shape = shape_##op, .cpu = run_##op, __VA_ARGS__};
ROW(ARGSORT, argsort, 1, .batch = pg_batch_rows, .scratch = scratch_argsort, .cost_of = cost_of_order)
ROW(RANKED, ranked, 2, .batch = batch_ranked, .scratch = scratch_ranked, .cost_of = cost_of_order)
ROW(SEARCHSORTED, searchsorted, 2, .batch = batch_searchsorted, .cost_of = cost_of_search)
