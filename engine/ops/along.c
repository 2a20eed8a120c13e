// along.c: the rows that read or write each row of a tensor, its last axis, by indices of that row's own: TAKE_ALONG
// and ADD_ALONG, which are each other's derivatives. Indices count from 0 and are clamped to the row. Additions at one
// place happen in the order of the indices, so the result does not depend on threads.
#include <string.h>

#include "engine/core/parallel.h"
#include "engine/ops/batching.h"

typedef struct along_task {
  const pg_operand *out, *x, *indices, *updates;
  int64_t n, count; // elements of a row, indices of a row
} along_task;

static int64_t read_index(const pg_operand *indices, int64_t i, int64_t n) {
  const int64_t at = indices->dtype == PG_I64   ? ((const int64_t *)indices->data)[i]
                     : indices->dtype == PG_I32 ? ((const int32_t *)indices->data)[i]
                                                : ((const uint8_t *)indices->data)[i];
  return at < 0 ? 0 : at >= n ? n - 1 : at;
}

// x [..., n] and indices [..., m] with the same leading axes.
static pg_status want_rows(const char *op, const pg_graph *g, const pg_node *node) {
  const pg_node *x = pg_in(g, node, 0), *indices = pg_in(g, node, 1);
  char a[200], b[200];
  PG_TRY(pg_want_plain(op, x));
  PG_TRY(pg_want_plain(op, indices));
  if (!pg_dtype_is_int((pg_dtype)indices->dtype))
    return pg_fail(PG_ERR_DTYPE, "%s: indices are whole numbers, not %s", op, pg_shape_text(indices, a, sizeof a));
  if (x->ndim == 0 || x->ndim != indices->ndim ||
      memcmp(x->shape, indices->shape, (size_t)(x->ndim - 1) * sizeof *x->shape) != 0)
    return pg_fail(PG_ERR_SHAPE, "%s: indices %s for %s; all axes but the indexed one must agree", op,
                   pg_shape_text(indices, a, sizeof a), pg_shape_text(x, b, sizeof b));
  if (x->shape[x->ndim - 1] == 0 && pg_node_size(indices) > 0)
    return pg_fail(PG_ERR_SHAPE, "%s: the rows of %s are empty", op, pg_shape_text(x, b, sizeof b));
  return PG_OK;
}

static int64_t count_rows(const pg_operand *x) {
  int64_t rows = 1;
  for (int i = 0; i < x->ndim - 1; i++) rows *= x->shape[i];
  return rows;
}

static along_task find_rows(const pg_operand *out, const pg_operand *in) {
  return (along_task){.out = out,
                      .x = &in[0],
                      .indices = &in[1],
                      .n = in[0].shape[in[0].ndim - 1],
                      .count = in[1].shape[in[1].ndim - 1]};
}

// ---- TAKE_ALONG ----------------------------------------------------------------------------------------------------

static pg_status shape_take_along(const pg_graph *g, pg_node *node) {
  PG_TRY(want_rows("take_along", g, node));
  const pg_node *indices = pg_in(g, node, 1);
  pg_set_type(node, (pg_dtype)pg_in(g, node, 0)->dtype, indices->ndim, indices->shape, NULL);
  return PG_OK;
}

static pg_status vjp_take_along(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v);
  ct_in[0] = pg_op3(g, PG_OP_ADD_ALONG, pg_zeros_like(g, node.in[0]), node.in[1], ct);
  return pg_built(ct_in[0]);
}

static pg_status jvp_take_along(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_node node = *pg_at(g, v);
  *out = tangents[0] == PG_NONE ? PG_NONE : pg_op2(g, PG_OP_TAKE_ALONG, tangents[0], node.in[1]);
  return tangents[0] == PG_NONE ? PG_OK : pg_built(*out);
}

// Elements first … last - 1 of the result.
#define TAKE(T)                                                                                                        \
  static void take_##T(void *arg, int64_t first, int64_t last) {                                                       \
    const along_task *t = arg;                                                                                         \
    for (int64_t i = first; i < last;) {                                                                               \
      const int64_t row = i / t->count, end = (row + 1) * t->count < last ? (row + 1) * t->count : last;               \
      const T *x = (const T *)t->x->data + row * t->n;                                                                 \
      for (; i < end; i++) ((T *)t->out->data)[i] = x[read_index(t->indices, i, t->n)];                                \
    }                                                                                                                  \
  }
TAKE(uint8_t)
TAKE(uint32_t)
TAKE(uint64_t)
TAKE(pg_key)

static void run_take_along(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)attrs, (void)scratch;
  along_task t = find_rows(out, in);
  const int64_t size = count_rows(out) * t.count;
  const size_t bytes = pg_dtype_size(out->dtype);
  const pg_tile_fn take = bytes == 1   ? take_uint8_t
                          : bytes == 4 ? take_uint32_t
                          : bytes == 8 ? take_uint64_t
                                       : take_pg_key;
  pg_parallel_for(size, 3.0 * (double)size, take, &t);
}

// ---- ADD_ALONG -----------------------------------------------------------------------------------------------------

static pg_status shape_add_along(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0), *indices = pg_in(g, node, 1), *updates = pg_in(g, node, 2);
  char a[200], b[200];
  PG_TRY(want_rows("add_along", g, node));
  PG_TRY(pg_want_plain("add_along", updates));
  if (updates->ndim != indices->ndim ||
      memcmp(updates->shape, indices->shape, (size_t)indices->ndim * sizeof *indices->shape) != 0)
    return pg_fail(PG_ERR_SHAPE, "add_along: updates %s for indices %s", pg_shape_text(updates, a, sizeof a),
                   pg_shape_text(indices, b, sizeof b));
  if (x->dtype != updates->dtype || x->dtype > PG_I64)
    return pg_fail(PG_ERR_DTYPE, "add_along: %s with updates %s", pg_shape_text(x, a, sizeof a),
                   pg_shape_text(updates, b, sizeof b));
  pg_copy_type(node, x);
  return PG_OK;
}

static pg_status vjp_add_along(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v);
  if (ct_in[0] != PG_UNWANTED) ct_in[0] = ct;
  if (ct_in[2] == PG_UNWANTED) return PG_OK;
  ct_in[2] = pg_op2(g, PG_OP_TAKE_ALONG, ct, node.in[1]);
  return pg_built(ct_in[2]);
}

static pg_status jvp_add_along(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_node node = *pg_at(g, v);
  pg_value x = pg_or_zeros(g, tangents[0], node.in[0]);
  *out = tangents[2] == PG_NONE ? x : pg_op3(g, PG_OP_ADD_ALONG, x, node.in[1], tangents[2]);
  return pg_built(*out);
}

// U: the type of the sum, unsigned for integers, which wrap.
#define ADD(T, U)                                                                                                      \
  static void add_##T(void *arg, int64_t first, int64_t last) {                                                        \
    const along_task *t = arg;                                                                                         \
    for (int64_t row = first; row < last; row++) {                                                                     \
      T *out = (T *)t->out->data + row * t->n;                                                                         \
      for (int64_t i = row * t->count; i < (row + 1) * t->count; i++) {                                                \
        T *at = &out[read_index(t->indices, i, t->n)];                                                                 \
        *at = (T)((U)*at + (U)((const T *)t->updates->data)[i]);                                                       \
      }                                                                                                                \
    }                                                                                                                  \
  }
ADD(float, float)
ADD(double, double)
ADD(int32_t, uint32_t)
ADD(int64_t, uint64_t)

static void run_add_along(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  static const pg_tile_fn functions[] = {
      [PG_F32] = add_float, [PG_F64] = add_double, [PG_I32] = add_int32_t, [PG_I64] = add_int64_t};
  (void)nin, (void)attrs, (void)scratch;
  along_task t = find_rows(out, in);
  t.updates = &in[2];
  const int64_t rows = count_rows(out);
  if (out->data != in[0].data) memcpy(out->data, in[0].data, (size_t)(rows * t.n) * pg_dtype_size(out->dtype));
  pg_parallel_for(rows, 3.0 * (double)rows * (double)t.count, functions[out->dtype], &t);
}

#define ROW(NAME, op, count)                                                                                           \
  const pg_op_info pg_op_info_##NAME = {.name = #op,                                                                   \
                                        .arity = count,                                                                \
                                        .cls = PG_CLASS_LIBRARY,                                                       \
                                        .shape = shape_##op,                                                           \
                                        .vjp = vjp_##op,                                                               \
                                        .jvp = jvp_##op,                                                               \
                                        .batch = pg_batch_rows,                                                        \
                                        .cpu = run_##op,                                                               \
                                        .cost = 1};
ROW(TAKE_ALONG, take_along, 2)
ROW(ADD_ALONG, add_along, 3)
