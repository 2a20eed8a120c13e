// linalg.c: the rows of CHOLESKY and TRIANGULAR_SOLVE, of matrices in f32 and f64. They are blocked over products of
// gemm.h, because LAPACK's give other bits for other numbers of threads. What LAPACK computes is in lapack.c.
#include <math.h>
#include <string.h>

#include "engine/core/integers.h"
#include "engine/core/parallel.h"
#include "engine/ops/gemm.h"
#include "engine/ops/matrices.h"

enum { LINALG_BLOCK = 64 }; // part of the numerics

// ---- Cholesky's rules ----------------------------------------------------------------------------------------------

static pg_status shape_cholesky(const pg_graph *g, pg_node *node) {
  PG_TRY(pg_want_square("cholesky", pg_in(g, node, 0)));
  pg_copy_type(node, pg_in(g, node, 0));
  return PG_OK;
}

static pg_value solved(pg_graph *g, pg_value l, pg_value b, bool transposed) {
  return pg_solved(g, PG_OP_TRIANGULAR_SOLVE, l, b, transposed);
}

// A = L L^T gives dA = dL L^T + L dL^T, so L^-1 dA L^-T is the symmetric matrix whose lower half, with half the
// diagonal, is L^-1 dL (Murray 2016, arXiv 1602.07527).
static pg_status jvp_cholesky(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  pg_value left = solved(g, v, pg_symmetric_part(g, tangents[0]), false);
  *out = pg_product(g, v, pg_lower_part(g, solved(g, v, pg_flip(g, left), false), 0.5));
  return pg_built(*out);
}

static pg_status vjp_cholesky(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  pg_value inner = pg_lower_part(g, pg_product(g, pg_flip(g, v), ct), 0.5);
  pg_value left = solved(g, v, inner, true);
  ct_in[0] = pg_symmetric_part(g, solved(g, v, pg_flip(g, left), true));
  return pg_built(ct_in[0]);
}

// ---- kernels -------------------------------------------------------------------------------------------------------

// The columns at … at + width - 1 of a factor. product: what the columns before them explain, [n - at, width]; corner:
// the block on the diagonal, transposed.
typedef struct factor {
  const pg_operand *out, *in;
  int64_t n, at, width;
  void *product, *corner, *scratch;
} factor;

// The rows at … at + width - 1 of a solution. product: what the rows before them (transposed: after them) explain,
// [width, columns], unless this is the first block.
typedef struct solve {
  const pg_operand *out, *l, *b;
  int64_t n, columns, at, width;
  bool transposed, first;
  void *product, *scratch;
} solve;

#define T float
#define S(f) f##_f32
#include "engine/ops/linalg_kernel.h"
#define T double
#define S(f) f##_f64
#include "engine/ops/linalg_kernel.h"

// Element (r, c) of a matrix stored in rows of length n, and what follows as an operand [rows, columns].
static pg_operand part_of(const pg_operand *x, int64_t n, int64_t r, int64_t c, int64_t rows, int64_t columns) {
  return (pg_operand){.data = (char *)x->data + (r * n + c) * (int64_t)pg_dtype_size(x->dtype),
                      .dtype = x->dtype,
                      .ndim = 2,
                      .shape = {rows, columns},
                      .stride = {n, 1}};
}

static pg_operand flipped(pg_operand x) {
  return (pg_operand){.data = x.data,
                      .dtype = x.dtype,
                      .ndim = 2,
                      .shape = {x.shape[1], x.shape[0]},
                      .stride = {x.stride[1], x.stride[0]}};
}

static void multiply(void *to, const pg_operand *a, const pg_operand *b, void *scratch) {
  const int64_t rows = a->shape[0], columns = b->shape[1];
  const pg_operand out = {.data = to, .dtype = a->dtype, .ndim = 2, .shape = {rows, columns}, .stride = {columns, 1}};
  pg_gemm_run(&out, a, b, scratch);
}

static void factor_matrix(const pg_operand *out, const pg_operand *in, void *scratch) {
  const size_t unit = pg_dtype_size(out->dtype);
  factor f = {.out = out, .in = in, .n = in->shape[0], .corner = scratch};
  f.product = (char *)scratch + LINALG_BLOCK * LINALG_BLOCK * unit;
  f.scratch = (char *)f.product + (size_t)f.n * LINALG_BLOCK * unit;
  const bool f32 = out->dtype == PG_F32;
  for (; f.at < f.n; f.at += LINALG_BLOCK) {
    f.width = pg_smaller(LINALG_BLOCK, f.n - f.at);
    const int64_t below = f.n - f.at - f.width;
    if (f.at) {
      const pg_operand left = part_of(out, f.n, f.at, 0, f.n - f.at, f.at);
      const pg_operand top = flipped(part_of(out, f.n, f.at, 0, f.width, f.at));
      multiply(f.product, &left, &top, f.scratch);
    }
    if (f32) {
      load_columns_f32(&f);
      factor_diagonal_f32(&f);
    } else {
      load_columns_f64(&f);
      factor_diagonal_f64(&f);
    }
    pg_parallel_for(below, (double)below * LINALG_BLOCK * LINALG_BLOCK / 8, f32 ? factor_rows_f32 : factor_rows_f64,
                    &f);
  }
}

static void run_cholesky(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)attrs;
  const int64_t count = pg_matrix_count(out);
  for (int64_t i = 0; i < count; i++) {
    const pg_operand l = pg_matrix_of(out, i), a = pg_matrix_of(in, i);
    factor_matrix(&l, &a, scratch);
  }
}

// Bytes that any product [m, k] [k, n] with k < most asks for.
static size_t scratch_of_products(int64_t m, int64_t n, int64_t most, pg_dtype dtype) {
  size_t bytes = 0;
  for (int64_t k = 1; k < most; k++) {
    const size_t wanted = pg_gemm_scratch(1, m, n, k, dtype);
    if (wanted > bytes) bytes = wanted;
  }
  return bytes;
}

static size_t scratch_cholesky(const pg_graph *g, const pg_node *node) {
  (void)g;
  const int64_t n = node->shape[node->ndim - 1];
  const pg_dtype dtype = (pg_dtype)node->dtype;
  return (size_t)(n + LINALG_BLOCK) * LINALG_BLOCK * pg_dtype_size(dtype) +
         scratch_of_products(n, LINALG_BLOCK, n, dtype);
}

static void solve_matrix(const pg_operand *out, const pg_operand *l, const pg_operand *b, bool transposed,
                         void *scratch) {
  solve s = {.out = out, .l = l, .b = b, .n = l->shape[0], .transposed = transposed, .product = scratch};
  s.columns = out->shape[1];
  s.scratch = (char *)scratch + (size_t)s.columns * LINALG_BLOCK * pg_dtype_size(out->dtype);
  const int64_t blocks = pg_divide_up(s.n, LINALG_BLOCK), pieces = pg_divide_up(s.columns, LINALG_BLOCK);
  if (s.columns == 0) return;
  for (int64_t i = 0; i < blocks; i++) {
    s.at = (s.transposed ? blocks - 1 - i : i) * LINALG_BLOCK;
    s.width = pg_smaller(LINALG_BLOCK, s.n - s.at);
    s.first = i == 0;
    const int64_t end = s.at + s.width, known = s.transposed ? s.n - end : s.at, from = s.transposed ? end : 0;
    if (known) {
      const pg_operand left = s.transposed ? flipped(part_of(s.l, s.n, end, s.at, known, s.width))
                                           : part_of(s.l, s.n, s.at, 0, s.width, known);
      const pg_operand x = part_of(out, s.columns, from, 0, known, s.columns);
      multiply(s.product, &left, &x, s.scratch);
    }
    pg_parallel_for(pieces, (double)s.columns * LINALG_BLOCK * LINALG_BLOCK / 8,
                    out->dtype == PG_F32 ? solve_columns_f32 : solve_columns_f64, &s);
  }
}

static void run_triangular_solve(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs,
                                 void *scratch) {
  (void)nin;
  const int64_t count = pg_matrix_count(out);
  for (int64_t i = 0; i < count; i++) {
    const pg_operand x = pg_matrix_of(out, i), l = pg_matrix_of(&in[0], i), b = pg_matrix_of(&in[1], i);
    solve_matrix(&x, &l, &b, attrs->flags & PG_SOLVE_TRANSPOSED, scratch);
  }
}

static size_t scratch_triangular_solve(const pg_graph *g, const pg_node *node) {
  const int64_t n = pg_in(g, node, 0)->shape[pg_in(g, node, 0)->ndim - 1];
  const int64_t columns = node->ndim >= 2 ? node->shape[node->ndim - 1] : 1;
  const pg_dtype dtype = (pg_dtype)node->dtype;
  return (size_t)columns * LINALG_BLOCK * pg_dtype_size(dtype) + scratch_of_products(LINALG_BLOCK, columns, n, dtype);
}

// ---- rows ----------------------------------------------------------------------------------------------------------

static double cost_cholesky(const pg_graph *g, const pg_node *node) {
  (void)g;
  return (double)pg_node_size(node) * (double)node->shape[node->ndim - 1] / 3;
}

static double cost_triangular_solve(const pg_graph *g, const pg_node *node) {
  const pg_node *l = pg_in(g, node, 0);
  return (double)pg_node_size(node) * (double)l->shape[l->ndim - 1];
}

const pg_op_info pg_op_info_CHOLESKY = {.name = "cholesky",
                                        .arity = 1,
                                        .cls = PG_CLASS_LIBRARY,
                                        .shape = shape_cholesky,
                                        .vjp = vjp_cholesky,
                                        .jvp = jvp_cholesky,
                                        .batch = pg_batch_rows,
                                        .cpu = run_cholesky,
                                        .scratch = scratch_cholesky,
                                        .cost_of = cost_cholesky};

const pg_op_info pg_op_info_TRIANGULAR_SOLVE = {.name = "triangular_solve",
                                                .arity = 2,
                                                .cls = PG_CLASS_LIBRARY,
                                                .shape = pg_shape_solve,
                                                .vjp = pg_vjp_solve,
                                                .jvp = pg_jvp_solve,
                                                .batch = pg_batch_solve,
                                                .cpu = run_triangular_solve,
                                                .scratch = scratch_triangular_solve,
                                                .cost_of = cost_triangular_solve};
