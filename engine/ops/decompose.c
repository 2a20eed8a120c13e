// decompose.c: the rows of QR, SVD and EIGH, of matrices in f32 and f64, by LAPACK, which core/blas.c keeps to one
// thread. A row-major matrix is its transpose to LAPACK; what comes back is put below one another in one result. Where
// LAPACK finds nothing, or an operand is not finite, the result is NaN.
#include <math.h>
#include <string.h>

#include "engine/core/blas.h"
#include "engine/ops/matrices.h"

enum { MOST_COLUMNS = 16383, MOST_ROWS = 10000000 }; // LAPACK counts its scratch in 32 bits

// ---- shapes --------------------------------------------------------------------------------------------------------

// The result has as many columns as the operand and so many rows.
static pg_status set_rows(pg_node *node, const pg_node *x, int64_t rows) {
  const int64_t most = x->shape[x->ndim - 1] > MOST_COLUMNS ? MOST_COLUMNS : MOST_ROWS;
  char text[200];
  if (x->shape[x->ndim - 1] > MOST_COLUMNS || x->shape[x->ndim - 2] > MOST_ROWS)
    return pg_fail(PG_ERR_SHAPE, "%s: at most %lld %s, got %s", pg_op_table[node->op]->name, (long long)most,
                   most == MOST_COLUMNS ? "columns" : "rows", pg_shape_text(x, text, sizeof text));
  pg_copy_type(node, x);
  node->shape[x->ndim - 2] = rows;
  return PG_OK;
}

// Matrices [m, n] with m >= n.
static pg_status want_tall(const char *op, const pg_node *x) {
  char text[200];
  PG_TRY(pg_want_matrices(op, x));
  if (x->shape[x->ndim - 2] >= x->shape[x->ndim - 1]) return PG_OK;
  return pg_fail(PG_ERR_SHAPE, "%s: at least as many rows as columns were expected, got %s", op,
                 pg_shape_text(x, text, sizeof text));
}

static pg_status shape_qr(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  PG_TRY(want_tall("qr", x));
  return set_rows(node, x, x->shape[x->ndim - 2] + x->shape[x->ndim - 1]);
}

static pg_status shape_svd(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  PG_TRY(want_tall("svd", x));
  return set_rows(node, x, x->shape[x->ndim - 2] + 1 + x->shape[x->ndim - 1]);
}

static pg_status shape_eigh(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  PG_TRY(pg_want_square("eigh", x));
  return set_rows(node, x, x->shape[x->ndim - 1] + 1);
}

static int64_t rows_of(const pg_graph *g, pg_value x) {
  return pg_at(g, x)->shape[pg_at(g, x)->ndim - 2];
}

static int64_t columns_of(const pg_graph *g, pg_value x) {
  return pg_at(g, x)->shape[pg_at(g, x)->ndim - 1];
}

static pg_value add(pg_graph *g, pg_value a, pg_value b) {
  return pg_op2(g, PG_OP_ADD, a, b);
}

static pg_value sub(pg_graph *g, pg_value a, pg_value b) {
  return pg_op2(g, PG_OP_SUB, a, b);
}

static pg_value mul(pg_graph *g, pg_value a, pg_value b) {
  return pg_op2(g, PG_OP_MUL, a, b);
}

// ---- derivatives of QR ---------------------------------------------------------------------------------------------

// x R^-1 or, transposed, x R^-T.
static pg_value over_r(pg_graph *g, pg_value x, pg_value r, bool transposed) {
  return pg_flip(g, pg_solved(g, PG_OP_TRIANGULAR_SOLVE, pg_flip(g, r), pg_flip(g, x), transposed));
}

// With W = dA R^-1 and C = Q^T W = X + dR R^-1, where X = Q^T dQ is antisymmetric: below the diagonal C is X's.
static pg_status jvp_qr(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_value a = pg_at(g, v)->in[0];
  const int64_t m = rows_of(g, a), n = columns_of(g, a);
  pg_value q = pg_rows(g, v, 0, m), r = pg_rows(g, v, m, n);
  pg_value w = over_r(g, tangents[0], r, false), c = pg_product(g, pg_flip(g, q), w);
  pg_value upper = pg_flip(g, add(g, pg_lower_part(g, pg_flip(g, c), 1), pg_lower_part(g, c, 0)));
  pg_value parts[2] = {sub(g, w, pg_product(g, q, upper)), pg_product(g, upper, r)};
  *out = pg_below(g, 2, parts);
  return pg_built(*out);
}

// Walter and Lehmann 2010, arXiv 1001.1654: (ct_Q + Q copyltu(R ct_R^T - ct_Q^T Q)) R^-T, where copyltu copies the
// lower triangle onto the upper one.
static pg_status vjp_qr(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_value a = pg_at(g, v)->in[0];
  const int64_t m = rows_of(g, a), n = columns_of(g, a);
  pg_value q = pg_rows(g, v, 0, m), r = pg_rows(g, v, m, n), ct_q = pg_rows(g, ct, 0, m);
  pg_value ct_rt = pg_lower_part(g, pg_flip(g, pg_rows(g, ct, m, n)), 1); // zeros of R do not move
  pg_value inner = sub(g, pg_product(g, r, ct_rt), pg_product(g, pg_flip(g, ct_q), q));
  pg_value half = pg_lower_part(g, inner, 0.5);
  pg_value whole = add(g, ct_q, pg_product(g, q, add(g, half, pg_flip(g, half))));
  ct_in[0] = over_r(g, whole, r, true);
  return pg_built(ct_in[0]);
}

// ---- derivatives of EIGH and SVD -----------------------------------------------------------------------------------

// x over f_j - f_i, elementwise, for a row f [1, n]: how vectors turn towards one another. 0 where two values are
// equal, for which no vectors are special: derivatives of the values alone, and of symmetric functions of them, are
// right.
static pg_value over_gaps(pg_graph *g, pg_value x, pg_value f) {
  return pg_quotient(g, x, sub(g, f, pg_flip(g, f)));
}

// The diagonal of square matrices as rows [1, n].
static pg_value diagonal_of(pg_graph *g, pg_value x) {
  return pg_sum_rows(g, pg_on_diagonal(g, x));
}

// x plus a row [1, n] on its diagonal.
static pg_value add_diagonal(pg_graph *g, pg_value x, pg_value row) {
  if (x == PG_NONE || row == PG_NONE) return PG_NONE;
  return add(g, x, pg_on_diagonal(g, pg_spread(g, row, x)));
}

// A V = V diag(w) gives dw = diag(P) and dV = V (P over gaps), P = V^T dA V (Giles 2008). W = V^T is what the node has.
static pg_status jvp_eigh(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const int64_t n = columns_of(g, v);
  pg_value values = pg_rows(g, v, 0, 1), w = pg_rows(g, v, 1, n);
  pg_value p = pg_product(g, pg_product(g, w, pg_symmetric_part(g, tangents[0])), pg_flip(g, w));
  pg_value parts[2] = {diagonal_of(g, p), pg_product(g, pg_flip(g, over_gaps(g, p, values)), w)};
  *out = pg_below(g, 2, parts);
  return pg_built(*out);
}

static pg_status vjp_eigh(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const int64_t n = columns_of(g, v);
  pg_value values = pg_rows(g, v, 0, 1), w = pg_rows(g, v, 1, n);
  pg_value turned = over_gaps(g, pg_product(g, w, pg_flip(g, pg_rows(g, ct, 1, n))), values);
  pg_value inner = add_diagonal(g, turned, pg_rows(g, ct, 0, 1));
  ct_in[0] = pg_symmetric_part(g, pg_product(g, pg_product(g, pg_flip(g, w), inner), w));
  return pg_built(ct_in[0]);
}

typedef struct parts {
  int64_t m, n;
  pg_value u, s, vt;
} parts;

static parts parts_of(pg_graph *g, pg_value v, pg_value a) {
  const int64_t m = rows_of(g, a), n = columns_of(g, a);
  return (parts){m, n, pg_rows(g, v, 0, m), pg_rows(g, v, m, 1), pg_rows(g, v, m + 1, n)};
}

// With P = U^T dA V: ds = diag(P), dU = U ((P S + S P^T) over gaps of s^2) + (dA V - U P) S^-1, dV likewise (Townsend
// 2016, Differentiating the singular value decomposition). The second term is what leaves the space of U.
static pg_status jvp_svd(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const parts x = parts_of(g, v, pg_at(g, v)->in[0]);
  pg_value av = pg_product(g, tangents[0], pg_flip(g, x.vt)), p = pg_product(g, pg_flip(g, x.u), av);
  pg_value squares = mul(g, x.s, x.s), ps = mul(g, p, x.s), sp = mul(g, pg_flip(g, x.s), p);
  pg_value du = pg_product(g, x.u, over_gaps(g, add(g, ps, pg_flip(g, ps)), squares));
  if (x.m > x.n) du = add(g, du, pg_quotient(g, sub(g, av, pg_product(g, x.u, p)), x.s));
  pg_value turned = over_gaps(g, add(g, sp, pg_flip(g, sp)), squares);
  pg_value rows[3] = {du, diagonal_of(g, p), pg_product(g, pg_flip(g, turned), x.vt)};
  *out = pg_below(g, 3, rows);
  return pg_built(*out);
}

static pg_value antisymmetric(pg_graph *g, pg_value x) {
  return sub(g, x, pg_flip(g, x));
}

static pg_status vjp_svd(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_value a = pg_at(g, v)->in[0];
  const parts x = parts_of(g, v, a), c = parts_of(g, ct, a);
  pg_value squares = mul(g, x.s, x.s), k = pg_product(g, pg_flip(g, x.u), c.u);
  pg_value of_u = over_gaps(g, antisymmetric(g, k), squares);
  pg_value of_v = over_gaps(g, antisymmetric(g, pg_product(g, x.vt, pg_flip(g, c.vt))), squares);
  pg_value inner = add(g, mul(g, of_u, x.s), mul(g, pg_flip(g, x.s), of_v));
  pg_value left = pg_product(g, x.u, add_diagonal(g, inner, c.s));
  if (x.m > x.n) left = add(g, left, pg_quotient(g, sub(g, c.u, pg_product(g, x.u, k)), x.s));
  ct_in[0] = pg_product(g, left, x.vt);
  return pg_built(ct_in[0]);
}

// ---- kernels -------------------------------------------------------------------------------------------------------

// Arrays in scratch: a copy of the operand, what LAPACK finds, and its own scratch.
typedef struct arrays {
  void *a, *values, *u, *vt, *work;
  int *iwork;
  size_t bytes;
} arrays;

// Numbers of each array for a matrix [m, n].
typedef struct sizes {
  int64_t u, vt, work, iwork;
} sizes;

static sizes sizes_of_qr(int64_t m, int64_t n) {
  (void)m;
  return (sizes){.work = pg_lapack_work_of_lq(n)};
}

static sizes sizes_of_svd(int64_t m, int64_t n) {
  return (sizes){.u = n * n, .vt = m * n, .work = pg_lapack_work_of_singular_vectors(n, m), .iwork = 8 * n};
}

static sizes sizes_of_eigh(int64_t m, int64_t n) {
  (void)m;
  return (sizes){.work = pg_lapack_work_of_eigenvectors(n), .iwork = 3 + 5 * n};
}

static arrays place_arrays(void *scratch, sizes count, int64_t m, int64_t n, pg_dtype dtype) {
  pg_pieces pieces = {.at = scratch};
  const size_t unit = pg_dtype_size(dtype);
  arrays s;
  s.a = pg_piece(&pieces, m * n, unit);
  s.values = pg_piece(&pieces, n, unit);
  s.u = pg_piece(&pieces, count.u, unit);
  s.vt = pg_piece(&pieces, count.vt, unit);
  s.work = pg_piece(&pieces, count.work, unit);
  s.iwork = pg_piece(&pieces, count.iwork, sizeof(int));
  s.bytes = pieces.bytes;
  return s;
}

#define T float
#define S(f) f##_f32
#include "engine/ops/decompose_kernel.h"
#define T double
#define S(f) f##_f64
#include "engine/ops/decompose_kernel.h"

// An operation: its arrays, and its kernel for one matrix, which tells whether LAPACK found what it was to find.
typedef struct method {
  sizes (*sizes)(int64_t m, int64_t n);
  bool (*f32)(const pg_operand *out, const pg_operand *in, const arrays *s);
  bool (*f64)(const pg_operand *out, const pg_operand *in, const arrays *s);
} method;

static void decompose(const method *method, const pg_operand *out, const pg_operand *in, void *scratch) {
  const int64_t count = pg_matrix_count(in);
  for (int64_t i = 0; i < count; i++) {
    const pg_operand to = pg_matrix_of(out, i), from = pg_matrix_of(in, i);
    const int64_t m = from.shape[0], n = from.shape[1];
    if (n == 0) continue;
    const arrays s = place_arrays(scratch, method->sizes(m, n), m, n, in->dtype);
    if (!(in->dtype == PG_F32 ? method->f32 : method->f64)(&to, &from, &s)) pg_fill_nan(&to);
  }
}

static size_t count_scratch(const method *method, const pg_graph *g, const pg_node *node) {
  const int64_t m = rows_of(g, node->in[0]), n = columns_of(g, node->in[0]);
  return place_arrays(NULL, method->sizes(m, n), m, n, (pg_dtype)node->dtype).bytes;
}

// ---- rows ----------------------------------------------------------------------------------------------------------

// Floating-point operations: so many times the numbers of the operand times its columns.
static double count_operations(const pg_graph *g, const pg_node *node, double times) {
  return times * (double)pg_node_size(pg_in(g, node, 0)) * (double)node->shape[node->ndim - 1];
}

#define ROW(NAME, op, times)                                                                                           \
  static const method method_of_##op = {sizes_of_##op, find_##op##_f32, find_##op##_f64};                              \
  static void run_##op(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {   \
    (void)nin, (void)attrs;                                                                                            \
    decompose(&method_of_##op, out, in, scratch);                                                                      \
  }                                                                                                                    \
  static size_t scratch_##op(const pg_graph *g, const pg_node *node) {                                                 \
    return count_scratch(&method_of_##op, g, node);                                                                    \
  }                                                                                                                    \
  static double cost_##op(const pg_graph *g, const pg_node *node) {                                                    \
    return count_operations(g, node, times);                                                                           \
  }                                                                                                                    \
  const pg_op_info pg_op_info_##NAME = {.name = #op,                                                                   \
                                        .arity = 1,                                                                    \
                                        .cls = PG_CLASS_LIBRARY,                                                       \
                                        .shape = shape_##op,                                                           \
                                        .vjp = vjp_##op,                                                               \
                                        .jvp = jvp_##op,                                                               \
                                        .batch = pg_batch_rows,                                                        \
                                        .cpu = run_##op,                                                               \
                                        .scratch = scratch_##op,                                                       \
                                        .cost_of = cost_##op};
ROW(QR, qr, 4)
ROW(SVD, svd, 22)
ROW(EIGH, eigh, 9)
