// matrices.c: builders for the derivatives of dense linear algebra, the rules that its two solvers share, and single
// matrices out of stacks of them.
#include "engine/ops/matrices.h"

#include <math.h>

// ---- shapes --------------------------------------------------------------------------------------------------------

pg_status pg_want_matrices(const char *op, const pg_node *x) {
  char text[200];
  PG_TRY(pg_want_plain(op, x));
  if (!pg_dtype_is_float((pg_dtype)x->dtype))
    return pg_fail(PG_ERR_DTYPE, "%s: f32 or f64, not %s; convert it with :to", op,
                   pg_shape_text(x, text, sizeof text));
  if (x->ndim < 2)
    return pg_fail(PG_ERR_SHAPE, "%s: a matrix was expected, got %s", op, pg_shape_text(x, text, sizeof text));
  return PG_OK;
}

pg_status pg_want_square(const char *op, const pg_node *x) {
  char text[200];
  if (!x->weak && !x->layout && pg_dtype_is_float((pg_dtype)x->dtype) &&
      (x->ndim < 2 || x->shape[x->ndim - 2] != x->shape[x->ndim - 1]))
    return pg_fail(PG_ERR_SHAPE, "%s: a square matrix was expected, got %s", op, pg_shape_text(x, text, sizeof text));
  return pg_want_matrices(op, x);
}

static bool fits_right_side(const pg_node *a, const pg_node *b) {
  if (b->ndim == 1) return a->ndim == 2 && b->shape[0] == a->shape[0];
  if (b->ndim != a->ndim) return false;
  for (int i = 0; i < a->ndim - 1; i++)
    if (a->shape[i] != b->shape[i]) return false;
  return true;
}

pg_status pg_shape_solve(const pg_graph *g, pg_node *node) {
  const char *op = pg_op_table[node->op]->name;
  const pg_node *a = pg_in(g, node, 0), *b = pg_in(g, node, 1);
  char ta[200], tb[200];
  PG_TRY(pg_want_square(op, a));
  PG_TRY(pg_want_plain(op, b));
  if (b->dtype != a->dtype)
    return pg_fail(PG_ERR_DTYPE, "%s: %s and %s; both must be f32 or f64, convert one with :to", op,
                   pg_shape_text(a, ta, sizeof ta), pg_shape_text(b, tb, sizeof tb));
  if (!fits_right_side(a, b)) {
    const long long n = (long long)a->shape[a->ndim - 1];
    if (a->ndim == 2)
      return pg_fail(PG_ERR_SHAPE, "%s: %s for a matrix %s; [%lld] or [%lld, columns] was expected", op,
                     pg_shape_text(b, tb, sizeof tb), pg_shape_text(a, ta, sizeof ta), n, n);
    return pg_fail(PG_ERR_SHAPE, "%s: %s for matrices %s; the same leading axes and [%lld, columns] were expected", op,
                   pg_shape_text(b, tb, sizeof tb), pg_shape_text(a, ta, sizeof ta), n);
  }
  pg_copy_type(node, b);
  return PG_OK;
}

// ---- builders ------------------------------------------------------------------------------------------------------

pg_value pg_product(pg_graph *g, pg_value a, pg_value b) {
  return pg_op2(g, PG_OP_MATMUL, a, b);
}

pg_value pg_flip(pg_graph *g, pg_value x) {
  if (x == PG_NONE) return x;
  int order[PG_MAX_NDIM];
  const int ndim = pg_at(g, x)->ndim;
  for (int i = 0; i < ndim; i++) order[i] = i;
  order[ndim - 2] = ndim - 1;
  order[ndim - 1] = ndim - 2;
  return pg_transpose(g, x, order);
}

// The mask row (op) column, of the shape of x.
static pg_value compare_places(pg_graph *g, int op, pg_value x) {
  const pg_node node = *pg_at(g, x);
  pg_value row = pg_iota(g, PG_I32, node.ndim, node.shape, node.ndim - 2);
  return pg_op2(g, op, row, pg_iota(g, PG_I32, node.ndim, node.shape, node.ndim - 1));
}

pg_value pg_on_diagonal(pg_graph *g, pg_value x) {
  if (x == PG_NONE) return x;
  return pg_op3(g, PG_OP_WHERE, compare_places(g, PG_OP_EQ, x), x, pg_number(g, 0));
}

pg_value pg_lower_part(pg_graph *g, pg_value x, double diagonal) {
  if (x == PG_NONE) return x;
  pg_value edge = diagonal == 1 ? x : pg_op2(g, PG_OP_MUL, x, pg_number(g, diagonal));
  return pg_op3(g, PG_OP_WHERE, compare_places(g, PG_OP_GT, x), x, pg_on_diagonal(g, edge));
}

pg_value pg_symmetric_part(pg_graph *g, pg_value x) {
  return pg_op2(g, PG_OP_MUL, pg_op2(g, PG_OP_ADD, x, pg_flip(g, x)), pg_number(g, 0.5));
}

pg_value pg_rows(pg_graph *g, pg_value x, int64_t first, int64_t count) {
  if (x == PG_NONE) return x;
  const pg_node node = *pg_at(g, x);
  pg_attrs attrs = {.n = node.ndim};
  for (int i = 0; i < node.ndim; i++) {
    const bool is_row = i == node.ndim - 2;
    attrs.a[i] = is_row ? first : 0;
    attrs.b[i] = is_row ? count : node.shape[i];
    attrs.c[i] = 1;
  }
  return pg_node_make(g, PG_OP_SLICE, 1, &x, &attrs, NULL);
}

pg_value pg_below(pg_graph *g, int n, const pg_value *parts) {
  for (int i = 0; i < n; i++)
    if (parts[i] == PG_NONE) return PG_NONE;
  pg_attrs attrs = {.n = 1, .a = {pg_at(g, parts[0])->ndim - 2}};
  return pg_node_make(g, PG_OP_CONCAT, n, parts, &attrs, NULL);
}

pg_value pg_sum_rows(pg_graph *g, pg_value x) {
  if (x == PG_NONE) return x;
  const int ndim = pg_at(g, x)->ndim;
  return pg_reduce_run(g, PG_OP_SUM, x, ndim - 2, ndim - 1, true);
}

// Nothing is divided by 0, so that derivatives of the quotient are finite too.
pg_value pg_quotient(pg_graph *g, pg_value a, pg_value b) {
  pg_value zero = pg_op2(g, PG_OP_EQ, b, pg_number(g, 0));
  pg_value safe = pg_op3(g, PG_OP_WHERE, zero, pg_number(g, 1), b);
  return pg_op3(g, PG_OP_WHERE, zero, pg_number(g, 0), pg_op2(g, PG_OP_DIV, a, safe));
}

pg_value pg_solved(pg_graph *g, int op, pg_value a, pg_value b, bool transposed) {
  pg_attrs attrs = {.flags = transposed ? PG_SOLVE_TRANSPOSED : 0};
  return pg_node_make(g, op, 2, (pg_value[]){a, b}, &attrs, NULL);
}

// ---- derivatives of solutions --------------------------------------------------------------------------------------

// X of [n] as a column.
static pg_value as_column(pg_graph *g, pg_value x) {
  if (x == PG_NONE || pg_at(g, x)->ndim >= 2) return x;
  const int64_t shape[2] = {pg_at(g, x)->shape[0], 1};
  return pg_reshape(g, x, 2, shape);
}

// What of a change of the matrix counts: of a triangular one the lower triangle.
static pg_value counted(pg_graph *g, int op, pg_value x) {
  return op == PG_OP_TRIANGULAR_SOLVE ? pg_lower_part(g, x, 1) : x;
}

// A X = B gives dX = A^-1 (dB - dA X); likewise for A^T.
pg_status pg_vjp_solve(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v);
  const bool transposed = node.attrs.flags & PG_SOLVE_TRANSPOSED;
  pg_value back = pg_solved(g, node.op, node.in[0], ct, !transposed);
  if (ct_in[0] != PG_UNWANTED) {
    pg_value x = as_column(g, v), y = as_column(g, back);
    pg_value outer = transposed ? pg_product(g, x, pg_flip(g, y)) : pg_product(g, y, pg_flip(g, x));
    ct_in[0] = pg_op1(g, PG_OP_NEG, counted(g, node.op, outer));
    PG_TRY(pg_built(ct_in[0]));
  }
  ct_in[1] = back;
  return pg_built(back);
}

pg_status pg_jvp_solve(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_node node = *pg_at(g, v);
  const bool transposed = node.attrs.flags & PG_SOLVE_TRANSPOSED;
  pg_value right = tangents[1];
  if (tangents[0] != PG_NONE) {
    pg_value da = counted(g, node.op, tangents[0]);
    pg_value moved = pg_product(g, transposed ? pg_flip(g, da) : da, as_column(g, v));
    if (moved == PG_NONE) return pg_last_status();
    moved = pg_reshape(g, moved, node.ndim, node.shape);
    right = right == PG_NONE ? pg_op1(g, PG_OP_NEG, moved) : pg_op2(g, PG_OP_SUB, right, moved);
    PG_TRY(pg_built(right));
  }
  *out = pg_solved(g, node.op, node.in[0], right, transposed);
  return pg_built(*out);
}

// ---- batches of solutions ------------------------------------------------------------------------------------------

// One matrix for all: the batch becomes columns, so that there is one factor.
static pg_status batch_columns(pg_batching *b, const pg_node *node, const pg_value *in, pg_value *out) {
  const bool single = node->ndim == 1;
  pg_value right = pg_batch_move_axis(b->g, in[1], 0, 1, 0);
  if (!single) right = pg_batch_merge(b->g, right, 1, 3);
  pg_value x = pg_node_make(b->g, node->op, 2, (pg_value[]){in[0], right}, &node->attrs, NULL);
  if (!single) x = pg_batch_split(b->g, x, 1, b->size, node->shape[1]);
  *out = pg_batch_move_axis(b->g, x, 1, 0, 0);
  return pg_built(*out);
}

pg_status pg_batch_solve(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched, pg_value *out) {
  if (!batched[0] && node->ndim <= 2) return batch_columns(b, node, in, out);
  if (node->ndim > 1) return pg_batch_rows(b, node, in, batched, out);
  const int64_t column[3] = {b->size, node->shape[0], 1};
  pg_value a = pg_batch_spread(b, in[0], batched[0]);
  pg_value right = pg_reshape(b->g, pg_batch_spread(b, in[1], batched[1]), 3, column);
  pg_value x = pg_node_make(b->g, node->op, 2, (pg_value[]){a, right}, &node->attrs, NULL);
  *out = pg_reshape(b->g, x, 2, column);
  return pg_built(*out);
}

// ---- kernels -------------------------------------------------------------------------------------------------------

int64_t pg_matrix_count(const pg_operand *x) {
  int64_t count = 1;
  for (int i = 0; i < x->ndim - 2; i++) count *= x->shape[i];
  return count;
}

pg_operand pg_matrix_of(const pg_operand *x, int64_t i) {
  const int64_t rows = x->ndim == 1 ? x->shape[0] : x->shape[x->ndim - 2];
  const int64_t columns = x->ndim == 1 ? 1 : x->shape[x->ndim - 1];
  return (pg_operand){.data = (char *)x->data + i * rows * columns * (int64_t)pg_dtype_size(x->dtype),
                      .dtype = x->dtype,
                      .ndim = 2,
                      .shape = {rows, columns},
                      .stride = {columns, 1}};
}

void pg_fill_nan(const pg_operand *x) {
  const int64_t count = x->shape[0] * x->shape[1];
  for (int64_t i = 0; i < count; i++)
    if (x->dtype == PG_F32)
      ((float *)x->data)[i] = NAN;
    else
      ((double *)x->data)[i] = NAN;
}

void *pg_piece(pg_pieces *pieces, int64_t count, size_t unit) {
  const size_t line = 64, start = (pieces->bytes + line - 1) / line * line;
  pieces->bytes = start + (size_t)count * unit;
  return pieces->at ? pieces->at + start : NULL;
}
