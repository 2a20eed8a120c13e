// lu.c: the rows of SOLVE and SLOGDET, of square matrices in f32 and f64, by LAPACK's factors with partial pivoting,
// which core/blas.c keeps to one thread. A row-major matrix is its transpose to LAPACK, so the factors are those of the
// transpose.
#include <math.h>
#include <string.h>

#include "engine/core/blas.h"
#include "engine/core/scalar.h"
#include "engine/ops/matrices.h"

enum { LARGEST = 16383, MOST_COLUMNS = 10000000 }; // LAPACK counts in 32 bits

// ---- rules ---------------------------------------------------------------------------------------------------------

static pg_status want_small(const char *op, const pg_node *a) {
  if (a->shape[a->ndim - 1] <= LARGEST) return PG_OK;
  return pg_fail(PG_ERR_SHAPE, "%s: at most %d rows, got %lld", op, LARGEST, (long long)a->shape[a->ndim - 1]);
}

static pg_status shape_solve(const pg_graph *g, pg_node *node) {
  PG_TRY(pg_shape_solve(g, node));
  PG_TRY(want_small("solve", pg_in(g, node, 0)));
  if (node->ndim == 1 || node->shape[node->ndim - 1] <= MOST_COLUMNS) return PG_OK;
  return pg_fail(PG_ERR_SHAPE, "solve: at most %d columns, got %lld", MOST_COLUMNS,
                 (long long)node->shape[node->ndim - 1]);
}

static pg_status shape_slogdet(const pg_graph *g, pg_node *node) {
  const pg_node *a = pg_in(g, node, 0);
  PG_TRY(pg_want_square("slogdet", a));
  PG_TRY(want_small("slogdet", a));
  int64_t shape[PG_MAX_NDIM];
  for (int i = 0; i < a->ndim - 2; i++) shape[i] = a->shape[i];
  shape[a->ndim - 2] = 2;
  pg_set_type(node, (pg_dtype)a->dtype, a->ndim - 1, shape, NULL);
  return PG_OK;
}

// A^-T.
static pg_value inverse_transposed(pg_graph *g, pg_value a) {
  const pg_node node = *pg_at(g, a);
  pg_value ones = pg_filled(g, 1, (pg_dtype)node.dtype, node.ndim, node.shape);
  return pg_solved(g, PG_OP_SOLVE, a, pg_on_diagonal(g, ones), true);
}

// log |det A| moves by <A^-T, dA>, and the sign does not.
static pg_status vjp_slogdet(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_value a = pg_at(g, v)->in[0];
  pg_node node = *pg_at(g, v);
  node.shape[node.ndim] = 1;
  pg_value of_log = pg_rows(g, pg_reshape(g, ct, node.ndim + 1, node.shape), 1, 1);
  ct_in[0] = pg_op2(g, PG_OP_MUL, inverse_transposed(g, a), of_log);
  return pg_built(ct_in[0]);
}

static pg_status jvp_slogdet(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_node node = *pg_at(g, v), in = *pg_at(g, node.in[0]);
  pg_value all = pg_op2(g, PG_OP_MUL, inverse_transposed(g, node.in[0]), tangents[0]);
  pg_value moved = pg_reduce_run(g, PG_OP_SUM, all, in.ndim - 2, in.ndim, true);
  if (moved == PG_NONE) return pg_last_status();
  *out = pg_reshape(g, pg_below(g, 2, (pg_value[]){pg_zeros_like(g, moved), moved}), node.ndim, node.shape);
  return pg_built(*out);
}

// ---- kernels -------------------------------------------------------------------------------------------------------

typedef struct arrays {
  void *a, *b;
  int *pivots;
  size_t bytes;
} arrays;

static arrays place_arrays(void *scratch, int64_t n, int64_t columns, pg_dtype dtype) {
  pg_pieces pieces = {.at = scratch};
  arrays s;
  s.a = pg_piece(&pieces, n * n, pg_dtype_size(dtype));
  s.b = pg_piece(&pieces, n * columns, pg_dtype_size(dtype));
  s.pivots = pg_piece(&pieces, n, sizeof(int));
  s.bytes = pieces.bytes;
  return s;
}

#define KERNELS(T, S)                                                                                                  \
  /* to [columns, rows] becomes from [rows, columns], transposed. */                                                   \
  static void transpose_##S(T *to, const T *from, int64_t rows, int64_t columns) {                                     \
    for (int64_t r = 0; r < rows; r++)                                                                                 \
      for (int64_t c = 0; c < columns; c++) to[c * rows + r] = from[r * columns + c];                                  \
  }                                                                                                                    \
  /* The sign and log |det| from the factors; a zero pivot: 0 and -inf. */                                             \
  static void read_determinant_##S(T *out, const T *lu, const int *pivots, int64_t n, bool singular) {                 \
    double sign = singular ? 0 : 1, log = singular ? -INFINITY : 0;                                                    \
    for (int64_t i = 0; i < n && !singular; i++) {                                                                     \
      const double u = (double)lu[i * n + i];                                                                          \
      sign *= (u < 0) == (pivots[i] != i + 1) ? 1 : -1;                                                                \
      log += pg_log_f64(fabs(u));                                                                                      \
    }                                                                                                                  \
    out[0] = isnan(log) ? (T)NAN : (T)sign;                                                                            \
    out[1] = (T)log;                                                                                                   \
  }
KERNELS(float, f32)
KERNELS(double, f64)

static void copy_transposed(void *to, const void *from, int64_t rows, int64_t columns, pg_dtype dtype) {
  if (dtype == PG_F32)
    transpose_f32(to, from, rows, columns);
  else
    transpose_f64(to, from, rows, columns);
}

static void run_solve(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin;
  const int64_t count = pg_matrix_count(out);
  for (int64_t i = 0; i < count; i++) {
    const pg_operand x = pg_matrix_of(out, i), a = pg_matrix_of(&in[0], i), b = pg_matrix_of(&in[1], i);
    const int64_t n = x.shape[0], columns = x.shape[1];
    const arrays s = place_arrays(scratch, n, columns, out->dtype);
    if (n == 0 || columns == 0) continue;
    memcpy(s.a, a.data, (size_t)(n * n) * pg_dtype_size(out->dtype));
    copy_transposed(s.b, b.data, n, columns, out->dtype);
    if (pg_factor_lu(out->dtype, (int)n, s.a, s.pivots) == 0) {
      pg_solve_lu(out->dtype, !(attrs->flags & PG_SOLVE_TRANSPOSED), (int)n, (int)columns, s.a, s.pivots, s.b);
      copy_transposed(x.data, s.b, columns, n, out->dtype);
    } else {
      pg_fill_nan(&x);
    }
  }
}

static void run_slogdet(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)attrs;
  const int64_t count = pg_matrix_count(in);
  for (int64_t i = 0; i < count; i++) {
    const pg_operand a = pg_matrix_of(in, i);
    const int64_t n = a.shape[0];
    const arrays s = place_arrays(scratch, n, 0, in->dtype);
    if (n > 0) memcpy(s.a, a.data, (size_t)(n * n) * pg_dtype_size(in->dtype)); // 0 numbers may lie at NULL
    const bool singular = n > 0 && pg_factor_lu(in->dtype, (int)n, s.a, s.pivots) != 0;
    if (out->dtype == PG_F32)
      read_determinant_f32((float *)out->data + 2 * i, s.a, s.pivots, n, singular);
    else
      read_determinant_f64((double *)out->data + 2 * i, s.a, s.pivots, n, singular);
  }
}

static size_t scratch_solve(const pg_graph *g, const pg_node *node) {
  const pg_node *a = pg_in(g, node, 0);
  const int64_t columns = node->ndim == 1 ? 1 : node->shape[node->ndim - 1];
  return place_arrays(NULL, a->shape[a->ndim - 1], columns, (pg_dtype)a->dtype).bytes;
}

static size_t scratch_slogdet(const pg_graph *g, const pg_node *node) {
  const pg_node *a = pg_in(g, node, 0);
  return place_arrays(NULL, a->shape[a->ndim - 1], 0, (pg_dtype)a->dtype).bytes;
}

// ---- rows ----------------------------------------------------------------------------------------------------------

static double cost_slogdet(const pg_graph *g, const pg_node *node) {
  const pg_node *a = pg_in(g, node, 0);
  return (double)pg_node_size(a) * (double)a->shape[a->ndim - 1] * 2 / 3;
}

static double cost_solve(const pg_graph *g, const pg_node *node) {
  const pg_node *a = pg_in(g, node, 0);
  return cost_slogdet(g, node) + 2 * (double)pg_node_size(node) * (double)a->shape[a->ndim - 1];
}

const pg_op_info pg_op_info_SOLVE = {.name = "solve",
                                     .arity = 2,
                                     .cls = PG_CLASS_LIBRARY,
                                     .shape = shape_solve,
                                     .vjp = pg_vjp_solve,
                                     .jvp = pg_jvp_solve,
                                     .batch = pg_batch_solve,
                                     .cpu = run_solve,
                                     .scratch = scratch_solve,
                                     .cost_of = cost_solve};

const pg_op_info pg_op_info_SLOGDET = {.name = "slogdet",
                                       .arity = 1,
                                       .cls = PG_CLASS_LIBRARY,
                                       .shape = shape_slogdet,
                                       .vjp = vjp_slogdet,
                                       .jvp = jvp_slogdet,
                                       .batch = pg_batch_rows,
                                       .cpu = run_slogdet,
                                       .scratch = scratch_slogdet,
                                       .cost_of = cost_slogdet};
