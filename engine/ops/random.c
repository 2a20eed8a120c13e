// random.c: the rows of keyed draws and key folding. A draw depends on its key and its logical index alone
// (core/random.h), so it is made wherever it is used, and a vector's pads take no index. Nothing here has a
// derivative.
#include <string.h>

#include "engine/core/parallel.h"
#include "engine/core/random.h"
#include "engine/ops/batching.h"

static pg_status want_key(const char *op, const pg_node *x) {
  char text[200];
  if (!x->weak && x->dtype == PG_KEY) return PG_OK;
  return pg_fail(PG_ERR_DTYPE, "%s: expected a key, got %s", op, pg_shape_text(x, text, sizeof text));
}

static pg_status shape_draw(const pg_graph *g, pg_node *node) {
  const pg_node *key = pg_in(g, node, 0);
  const char *op = pg_op_table[node->op]->name;
  const pg_attrs *a = &node->attrs;
  char text[200];
  PG_TRY(want_key(op, key));
  if (!pg_dtype_is_float((pg_dtype)a->dtype)) return pg_fail(PG_ERR_DTYPE, "%s: draws are f32 or f64", op);
  if (a->layout) {
    if (key->ndim != 0)
      return pg_fail(PG_ERR_SHAPE, "%s: a vector is drawn from one key, not %s", op,
                     pg_shape_text(key, text, sizeof text));
    int64_t padded = pg_layout_padded(a->layout);
    pg_set_type(node, (pg_dtype)a->dtype, 1, &padded, a->layout);
    return PG_OK;
  }
  int64_t shape[PG_MAX_NDIM];
  if (a->n < 0 || key->ndim + a->n > PG_MAX_NDIM)
    return pg_fail(PG_ERR_SHAPE, "%s: %d axes, but tensors have at most %d", op, key->ndim + a->n, PG_MAX_NDIM);
  memcpy(shape, key->shape, (size_t)key->ndim * sizeof *shape);
  memcpy(shape + key->ndim, a->a, (size_t)a->n * sizeof *shape);
  PG_TRY(pg_want_shape(op, key->ndim + a->n, shape));
  pg_set_type(node, (pg_dtype)a->dtype, key->ndim + a->n, shape, NULL);
  return PG_OK;
}

// ---- KEY_FOLD ------------------------------------------------------------------------------------------------------

static pg_status shape_fold(const pg_graph *g, pg_node *node) {
  const pg_node *in[2] = {pg_in(g, node, 0), pg_in(g, node, 1)};
  int ndim = 0;
  int64_t shape[PG_MAX_NDIM];
  const pg_layout *layout;
  char text[200];
  PG_TRY(want_key("key_fold", in[0]));
  if (!in[1]->weak && !pg_dtype_is_int((pg_dtype)in[1]->dtype))
    return pg_fail(PG_ERR_DTYPE, "key_fold: a key is folded with whole numbers, not %s",
                   pg_shape_text(in[1], text, sizeof text));
  if (in[1]->layout) PG_TRY(pg_want_plain("key_fold", in[1]));
  PG_TRY(pg_broadcast_shapes("key_fold", 2, in, &ndim, shape, &layout));
  pg_set_type(node, PG_KEY, ndim, shape, NULL);
  return PG_OK;
}

static uint64_t read_whole(const pg_operand *x, int64_t at) {
  switch (x->dtype) {
  case PG_I32:
    return (uint64_t)((const int32_t *)x->data)[at];
  case PG_I64:
    return (uint64_t)((const int64_t *)x->data)[at];
  case PG_U8:
    return ((const uint8_t *)x->data)[at];
  case PG_F64:
    return (uint64_t)(int64_t)((const double *)x->data)[at]; // a weak number
  default:
    return 0;
  }
}

// Element of x that result element i reads, where x broadcasts to the result's shape.
static int64_t broadcast_offset(const pg_operand *out, const pg_operand *x, int64_t i) {
  int64_t at = 0;
  for (int d = out->ndim - 1; d >= 0; d--) {
    const int own = d - (out->ndim - x->ndim);
    if (own >= 0 && x->shape[own] != 1) at += i % out->shape[d] * x->stride[own];
    i /= out->shape[d];
  }
  return at;
}

typedef struct fold_task {
  const pg_operand *out, *in;
} fold_task;

static void fold_range(void *arg, int64_t first, int64_t last) {
  const fold_task *t = arg;
  for (int64_t i = first; i < last; i++) {
    const pg_key key = ((const pg_key *)t->in[0].data)[broadcast_offset(t->out, &t->in[0], i)];
    ((pg_key *)t->out->data)[i] = pg_key_fold(key, read_whole(&t->in[1], broadcast_offset(t->out, &t->in[1], i)));
  }
}

static void run_fold(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)attrs, (void)scratch;
  int64_t n = 1;
  for (int d = 0; d < out->ndim; d++) n *= out->shape[d];
  fold_task task = {out, in};
  pg_parallel_for(n, 60.0 * (double)n, fold_range, &task);
}

// ---- PERMUTATION ---------------------------------------------------------------------------------------------------

static pg_status shape_permutation(const pg_graph *g, pg_node *node) {
  const pg_node *key = pg_in(g, node, 0);
  int64_t shape[PG_MAX_NDIM];
  PG_TRY(want_key("permutation", key));
  if (key->ndim == PG_MAX_NDIM) return pg_fail(PG_ERR_SHAPE, "permutation: keys of %d axes", key->ndim);
  memcpy(shape, key->shape, sizeof shape);
  shape[key->ndim] = node->attrs.a[0];
  PG_TRY(pg_want_shape("permutation", key->ndim + 1, shape));
  pg_set_type(node, PG_I64, key->ndim + 1, shape, NULL);
  return PG_OK;
}

static void run_permutation(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs,
                            void *scratch) {
  (void)nin, (void)scratch;
  const int64_t n = attrs->a[0];
  int64_t keys = 1;
  for (int d = 0; d < in[0].ndim; d++) keys *= in[0].shape[d];
  for (int64_t k = 0; k < keys; k++) pg_permutation(((const pg_key *)in[0].data)[k], n, (int64_t *)out->data + k * n);
}

// ---- batching: each entry's key, wherever it stands -----------------------------------------------------------------

// A key for each entry: each draws what it draws alone. A vector's numbers are those of a tensor of its size, cut up.
static pg_status batch_draw(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                            pg_value *out) {
  if (!node->layout) return pg_batch_rows(b, node, in, batched, out);
  const int n = pg_layout_count(node->layout);
  const pg_attrs attrs = {.n = 1, .a = {pg_layout_size(node->layout)}, .dtype = node->attrs.dtype};
  const pg_value all = pg_node_make(b->g, node->op, 1, in, &attrs, NULL);
  pg_value *parts = pg_alloc((size_t)n, sizeof *parts);
  if (!parts) return PG_ERR_MEMORY;
  for (int i = 0; i < n; i++) {
    const pg_segment *s = pg_layout_segment(node->layout, i);
    const pg_attrs range = {.n = 2, .a = {0, s->logical}, .b = {b->size, s->size}, .c = {1, 1}};
    int64_t shape[PG_MAX_NDIM + 1] = {b->size};
    memcpy(shape + 1, s->shape, (size_t)s->ndim * sizeof *shape);
    parts[i] = pg_reshape(b->g, pg_node_make(b->g, PG_OP_SLICE, 1, &all, &range, NULL), s->ndim + 1, shape);
  }
  *out = pg_batch_pack(b, node->layout, parts);
  pg_free(parts);
  return pg_built(*out);
}

const pg_op_info pg_op_info_NORMAL = {
    .name = "normal", .arity = 1, .cls = PG_CLASS_DRAW, .shape = shape_draw, .batch = batch_draw, .cost = 60};
const pg_op_info pg_op_info_UNIFORM = {
    .name = "uniform", .arity = 1, .cls = PG_CLASS_DRAW, .shape = shape_draw, .batch = batch_draw, .cost = 15};
const pg_op_info pg_op_info_KEY_FOLD = {.name = "key_fold",
                                        .arity = 2,
                                        .cls = PG_CLASS_LIBRARY,
                                        .shape = shape_fold,
                                        .batch = pg_batch_map,
                                        .cpu = run_fold,
                                        .strided = true,
                                        .cost = 60};
const pg_op_info pg_op_info_PERMUTATION = {.name = "permutation",
                                           .arity = 1,
                                           .cls = PG_CLASS_LIBRARY,
                                           .shape = shape_permutation,
                                           .batch = pg_batch_rows,
                                           .cpu = run_permutation,
                                           .cost = 30};
