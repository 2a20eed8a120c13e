// linalg.c: the rows of dense linear algebra: CHOLESKY, TRIANGULAR_SOLVE and EIGH, of matrices [n, n] in f32 and f64.
// The first two are blocked over products of gemm.h, because LAPACK's give other bits for other numbers of threads.
// EIGH is LAPACK's, which blas.c keeps to one thread. All take the symmetric part of a matrix that is to be symmetric.
#include <math.h>
#include <string.h>

#include "engine/core/blas.h"
#include "engine/core/integers.h"
#include "engine/core/parallel.h"
#include "engine/ops/gemm.h"
#include "engine/ops/batching.h"

enum {
  LINALG_BLOCK = 64,   // part of the numerics
  TRANSPOSED = 1,      // flags of TRIANGULAR_SOLVE
  LARGEST_EIGH = 16383 // LAPACK counts its 2 n^2 numbers of scratch in 32 bits
};

// ---- shapes --------------------------------------------------------------------------------------------------------

static pg_status want_square(const char *op, const pg_node *x) {
  char text[200];
  PG_TRY(pg_want_plain(op, x));
  if (!pg_dtype_is_float((pg_dtype)x->dtype))
    return pg_fail(PG_ERR_DTYPE, "%s: f32 or f64, not %s; convert it with :to", op,
                   pg_shape_text(x, text, sizeof text));
  if (x->ndim != 2 || x->shape[0] != x->shape[1])
    return pg_fail(PG_ERR_SHAPE, "%s: a square matrix was expected, got %s", op, pg_shape_text(x, text, sizeof text));
  return PG_OK;
}

static pg_status shape_cholesky(const pg_graph *g, pg_node *node) {
  PG_TRY(want_square("cholesky", pg_in(g, node, 0)));
  pg_copy_type(node, pg_in(g, node, 0));
  return PG_OK;
}

static pg_status shape_triangular_solve(const pg_graph *g, pg_node *node) {
  const pg_node *l = pg_in(g, node, 0), *b = pg_in(g, node, 1);
  char tl[200], tb[200];
  PG_TRY(want_square("triangular_solve", l));
  PG_TRY(pg_want_plain("triangular_solve", b));
  if (b->dtype != l->dtype)
    return pg_fail(PG_ERR_DTYPE, "triangular_solve: %s and %s; both must be f32 or f64, convert one with :to",
                   pg_shape_text(l, tl, sizeof tl), pg_shape_text(b, tb, sizeof tb));
  if ((b->ndim != 1 && b->ndim != 2) || b->shape[0] != l->shape[0])
    return pg_fail(PG_ERR_SHAPE, "triangular_solve: %s for a matrix %s; [%lld] or [%lld, columns] was expected",
                   pg_shape_text(b, tb, sizeof tb), pg_shape_text(l, tl, sizeof tl), (long long)l->shape[0],
                   (long long)l->shape[0]);
  pg_copy_type(node, b);
  return PG_OK;
}

static pg_status shape_eigh(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  PG_TRY(want_square("eigh", x));
  if (x->shape[0] > LARGEST_EIGH)
    return pg_fail(PG_ERR_SHAPE, "eigh: at most %d rows, got %lld", LARGEST_EIGH, (long long)x->shape[0]);
  pg_set_type(node, (pg_dtype)x->dtype, 2, (int64_t[]){x->shape[0] + 1, x->shape[0]}, NULL);
  return PG_OK;
}

// ---- derivatives ---------------------------------------------------------------------------------------------------

static pg_value product(pg_graph *g, pg_value a, pg_value b) {
  return pg_op2(g, PG_OP_MATMUL, a, b);
}

static pg_value flip(pg_graph *g, pg_value x) {
  return x == PG_NONE ? x : pg_transpose(g, x, (int[]){1, 0});
}

static pg_value solved(pg_graph *g, pg_value l, pg_value b, int flags) {
  pg_attrs attrs = {.flags = flags};
  return pg_node_make(g, PG_OP_TRIANGULAR_SOLVE, 2, (pg_value[]){l, b}, &attrs, NULL);
}

// The lower triangle of x, its diagonal times a number, zeros above.
static pg_value lower_part(pg_graph *g, pg_value x, double diagonal) {
  if (x == PG_NONE) return x;
  const pg_node node = *pg_at(g, x);
  pg_value row = pg_iota(g, PG_I32, 2, node.shape, 0), column = pg_iota(g, PG_I32, 2, node.shape, 1);
  pg_value edge = diagonal == 1 ? x : pg_op2(g, PG_OP_MUL, x, pg_number(g, diagonal));
  pg_value rest = pg_op3(g, PG_OP_WHERE, pg_op2(g, PG_OP_EQ, row, column), edge, pg_number(g, 0));
  return pg_op3(g, PG_OP_WHERE, pg_op2(g, PG_OP_GT, row, column), x, rest);
}

static pg_value symmetric_part(pg_graph *g, pg_value x) {
  return pg_op2(g, PG_OP_MUL, pg_op2(g, PG_OP_ADD, x, flip(g, x)), pg_number(g, 0.5));
}

// A = L L^T gives dA = dL L^T + L dL^T, so L^-1 dA L^-T is the symmetric matrix whose lower half, with half the
// diagonal, is L^-1 dL (Murray 2016, arXiv 1602.07527).
static pg_status jvp_cholesky(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  pg_value left = solved(g, v, symmetric_part(g, tangents[0]), 0);
  *out = product(g, v, lower_part(g, solved(g, v, flip(g, left), 0), 0.5));
  return pg_built(*out);
}

static pg_status vjp_cholesky(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  pg_value inner = lower_part(g, product(g, flip(g, v), ct), 0.5);
  pg_value left = solved(g, v, inner, TRANSPOSED);
  ct_in[0] = symmetric_part(g, solved(g, v, flip(g, left), TRANSPOSED));
  return pg_built(ct_in[0]);
}

// X of [n] as a column.
static pg_value as_column(pg_graph *g, pg_value x) {
  if (x == PG_NONE || pg_at(g, x)->ndim == 2) return x;
  const int64_t shape[2] = {pg_at(g, x)->shape[0], 1};
  return pg_reshape(g, x, 2, shape);
}

// L X = B gives dX = L^-1 (dB - dL X), and only the lower triangle of dL counts; likewise for L^T.
static pg_status vjp_triangular_solve(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v);
  pg_value back = solved(g, node.in[0], ct, node.attrs.flags ^ TRANSPOSED);
  if (ct_in[0] != PG_UNWANTED) {
    pg_value x = as_column(g, v), y = as_column(g, back);
    pg_value outer = node.attrs.flags & TRANSPOSED ? product(g, x, flip(g, y)) : product(g, y, flip(g, x));
    ct_in[0] = pg_op1(g, PG_OP_NEG, lower_part(g, outer, 1));
    PG_TRY(pg_built(ct_in[0]));
  }
  ct_in[1] = back;
  return pg_built(back);
}

static pg_status jvp_triangular_solve(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_node node = *pg_at(g, v);
  pg_value right = tangents[1];
  if (tangents[0] != PG_NONE) {
    pg_value dl = lower_part(g, tangents[0], 1);
    pg_value moved = product(g, node.attrs.flags & TRANSPOSED ? flip(g, dl) : dl, as_column(g, v));
    if (moved == PG_NONE) return pg_last_status();
    moved = pg_reshape(g, moved, node.ndim, node.shape);
    right = right == PG_NONE ? pg_op1(g, PG_OP_NEG, moved) : pg_op2(g, PG_OP_SUB, right, moved);
    PG_TRY(pg_built(right));
  }
  *out = solved(g, node.in[0], right, node.attrs.flags);
  return pg_built(*out);
}

static pg_status fail_eigh(void) {
  return pg_fail(PG_ERR_UNSUPPORTED, "eigh: has no derivative; put pg.stop_gradient around its argument");
}

static pg_status vjp_eigh(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  (void)g, (void)v, (void)ct, (void)ct_in;
  return fail_eigh();
}

static pg_status jvp_eigh(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  (void)g, (void)v, (void)tangents, (void)out;
  return fail_eigh();
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

static int64_t length_of_work(int64_t n) {
  return 1 + 6 * n + 2 * n * n;
}

static int64_t length_of_iwork(int64_t n) {
  return 3 + 5 * n;
}

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

static pg_operand transposed(pg_operand x) {
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

static void run_cholesky(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)attrs;
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
      const pg_operand top = transposed(part_of(out, f.n, f.at, 0, f.width, f.at));
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
  const int64_t n = node->shape[0];
  const pg_dtype dtype = (pg_dtype)node->dtype;
  return (size_t)(n + LINALG_BLOCK) * LINALG_BLOCK * pg_dtype_size(dtype) +
         scratch_of_products(n, LINALG_BLOCK, n, dtype);
}

static void run_triangular_solve(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs,
                                 void *scratch) {
  (void)nin;
  solve s = {.out = out, .l = &in[0], .b = &in[1], .n = in[0].shape[0], .product = scratch};
  s.columns = out->ndim == 2 ? out->shape[1] : 1;
  s.scratch = (char *)scratch + (size_t)s.columns * LINALG_BLOCK * pg_dtype_size(out->dtype);
  s.transposed = attrs->flags & TRANSPOSED;
  const int64_t blocks = pg_divide_up(s.n, LINALG_BLOCK), pieces = pg_divide_up(s.columns, LINALG_BLOCK);
  if (s.columns == 0) return;
  for (int64_t i = 0; i < blocks; i++) {
    s.at = (s.transposed ? blocks - 1 - i : i) * LINALG_BLOCK;
    s.width = pg_smaller(LINALG_BLOCK, s.n - s.at);
    s.first = i == 0;
    const int64_t end = s.at + s.width, known = s.transposed ? s.n - end : s.at, from = s.transposed ? end : 0;
    if (known) {
      const pg_operand l = s.transposed ? transposed(part_of(s.l, s.n, end, s.at, known, s.width))
                                        : part_of(s.l, s.n, s.at, 0, s.width, known);
      const pg_operand x = part_of(out, s.columns, from, 0, known, s.columns);
      multiply(s.product, &l, &x, s.scratch);
    }
    pg_parallel_for(pieces, (double)s.columns * LINALG_BLOCK * LINALG_BLOCK / 8,
                    out->dtype == PG_F32 ? solve_columns_f32 : solve_columns_f64, &s);
  }
}

static size_t scratch_triangular_solve(const pg_graph *g, const pg_node *node) {
  (void)g;
  const int64_t n = node->shape[0], columns = node->ndim == 2 ? node->shape[1] : 1;
  const pg_dtype dtype = (pg_dtype)node->dtype;
  return (size_t)columns * LINALG_BLOCK * pg_dtype_size(dtype) + scratch_of_products(LINALG_BLOCK, columns, n, dtype);
}

static void run_eigh(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)attrs;
  if (in->shape[0] == 0) return;
  if (out->dtype == PG_F32)
    find_eigenvectors_f32(out, in, scratch);
  else
    find_eigenvectors_f64(out, in, scratch);
}

static size_t scratch_eigh(const pg_graph *g, const pg_node *node) {
  (void)g;
  const int64_t n = node->shape[1];
  return (size_t)length_of_work(n) * pg_dtype_size((pg_dtype)node->dtype) + (size_t)length_of_iwork(n) * sizeof(int);
}

// ---- rows ----------------------------------------------------------------------------------------------------------

static double cost_cholesky(const pg_graph *g, const pg_node *node) {
  (void)g;
  return (double)pg_node_size(node) * (double)node->shape[0] / 3;
}

static double cost_triangular_solve(const pg_graph *g, const pg_node *node) {
  (void)g;
  return (double)pg_node_size(node) * (double)node->shape[0];
}

static double cost_eigh(const pg_graph *g, const pg_node *node) {
  (void)g;
  return 9 * (double)pg_node_size(node) * (double)node->shape[1];
}

#define ROW(NAME, op, count, ...)                                                                                      \
  const pg_op_info pg_op_info_##NAME = {.name = #op,                                                                   \
                                        .arity = count,                                                                \
                                        .cls = PG_CLASS_LIBRARY,                                                       \
                                        .shape = shape_##op,                                                           \
                                        .vjp = vjp_##op,                                                               \
                                        .jvp = jvp_##op,                                                               \
                                        .batch = pg_batch_by_scan,                                                     \
                                        .cpu = run_##op,                                                               \
                                        .scratch = scratch_##op,                                                       \
                                        .cost_of = cost_##op};
ROW(CHOLESKY, cholesky, 1)
ROW(TRIANGULAR_SOLVE, triangular_solve, 2)
ROW(EIGH, eigh, 1)
