// matmul.c: the row of MATMUL and its CPU kernel: products of matrices by gemm.c, products with a vector by the loops
// of matvec.h. Which of the two follows from the shapes, since they round differently.
#include <string.h>

#include "engine/codegen/kernel_abi.h"
#include "engine/core/parallel.h"
#include "engine/ops/gemm.h"
#include "engine/ops/batching.h"

enum { MATVEC_ROWS = 64 }; // results of one task of a matrix-vector product

#define T float
#define NAME(f) f##_f32
#include "engine/ops/matvec.h"
#define T double
#define NAME(f) f##_f64
#include "engine/ops/matvec.h"

// ---- shape and derivatives -----------------------------------------------------------------------------------------

static pg_status fail_fit(const pg_node *a, const pg_node *b) {
  char ta[160], tb[160];
  pg_dims_text(a->ndim, a->shape, ta, sizeof ta);
  pg_dims_text(b->ndim, b->shape, tb, sizeof tb);
  if (a->shape[a->ndim - 1] != b->shape[b->ndim - 2])
    return pg_fail(PG_ERR_SHAPE, "matmul: %s and %s do not fit: %lld columns against %lld rows", ta, tb,
                   (long long)a->shape[a->ndim - 1], (long long)b->shape[b->ndim - 2]);
  return pg_fail(PG_ERR_SHAPE, "matmul: the batch axes of %s and %s do not broadcast", ta, tb);
}

static pg_status shape_matmul(const pg_graph *g, pg_node *node) {
  const pg_node *a = pg_in(g, node, 0), *b = pg_in(g, node, 1);
  char ta[200], tb[200];
  PG_TRY(pg_want_plain("matmul", a));
  PG_TRY(pg_want_plain("matmul", b));
  if (a->ndim < 2 || b->ndim < 2)
    return pg_fail(PG_ERR_SHAPE, "matmul: needs matrices, got %s and %s", pg_shape_text(a, ta, sizeof ta),
                   pg_shape_text(b, tb, sizeof tb));
  if (a->dtype != b->dtype || !pg_dtype_is_float((pg_dtype)a->dtype))
    return pg_fail(PG_ERR_DTYPE, "matmul: %s and %s; both must be f32 or f64, convert one with :to",
                   pg_shape_text(a, ta, sizeof ta), pg_shape_text(b, tb, sizeof tb));
  const int ndim = a->ndim > b->ndim ? a->ndim : b->ndim;
  int64_t shape[PG_MAX_NDIM];
  if (a->shape[a->ndim - 1] != b->shape[b->ndim - 2]) return fail_fit(a, b);
  for (int d = 0; d < ndim - 2; d++) {
    const int da = d - (ndim - a->ndim), db = d - (ndim - b->ndim);
    const int64_t ea = da >= 0 ? a->shape[da] : 1, eb = db >= 0 ? b->shape[db] : 1;
    if (ea != eb && ea != 1 && eb != 1) return fail_fit(a, b);
    shape[d] = ea == 1 ? eb : ea;
  }
  shape[ndim - 2] = a->shape[a->ndim - 2];
  shape[ndim - 1] = b->shape[b->ndim - 1];
  PG_TRY(pg_want_shape("matmul", ndim, shape));
  pg_set_type(node, (pg_dtype)a->dtype, ndim, shape, NULL);
  return PG_OK;
}

static pg_value flip(pg_graph *g, pg_value x) {
  int perm[PG_MAX_NDIM];
  const int n = pg_at(g, x)->ndim;
  for (int i = 0; i < n; i++) perm[i] = i;
  perm[n - 2] = n - 1;
  perm[n - 1] = n - 2;
  return pg_transpose(g, x, perm);
}

static pg_status vjp_matmul(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_value a = pg_at(g, v)->in[0], b = pg_at(g, v)->in[1];
  if (ct_in[0] != PG_UNWANTED) {
    ct_in[0] = pg_sum_to(g, pg_op2(g, PG_OP_MATMUL, ct, flip(g, b)), a);
    PG_TRY(pg_built(ct_in[0]));
  }
  if (ct_in[1] != PG_UNWANTED) {
    ct_in[1] = pg_sum_to(g, pg_op2(g, PG_OP_MATMUL, flip(g, a), ct), b);
    PG_TRY(pg_built(ct_in[1]));
  }
  return PG_OK;
}

static pg_status jvp_matmul(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_value a = pg_at(g, v)->in[0], b = pg_at(g, v)->in[1];
  pg_value left = PG_NONE, right = PG_NONE;
  if (tangents[0] != PG_NONE) {
    left = pg_op2(g, PG_OP_MATMUL, tangents[0], b);
    PG_TRY(pg_built(left));
  }
  if (tangents[1] != PG_NONE) {
    right = pg_op2(g, PG_OP_MATMUL, a, tangents[1]);
    PG_TRY(pg_built(right));
  }
  *out = left == PG_NONE ? right : right == PG_NONE ? left : pg_op2(g, PG_OP_ADD, left, right);
  return pg_built(*out);
}

// ---- batching ------------------------------------------------------------------------------------------------------

// A batch of left matrices against one right matrix: the rows of all of them, as one product.
static pg_value multiply_rows(pg_graph *g, pg_value a, pg_value b) {
  const pg_node left = *pg_at(g, a), right = *pg_at(g, b);
  int64_t shape[PG_MAX_NDIM];
  memcpy(shape, left.shape, sizeof shape);
  shape[left.ndim - 1] = right.shape[1];
  return pg_reshape(g, pg_op2(g, PG_OP_MATMUL, pg_batch_merge(g, a, 0, left.ndim - 1), b), left.ndim, shape);
}

// One left matrix against a batch of columns: the columns, as rows, against its transpose.
static pg_value multiply_columns(pg_graph *g, pg_value a, pg_value b) {
  const int64_t size = pg_at(g, b)->shape[0], k = pg_at(g, b)->shape[1], m = pg_at(g, a)->shape[0];
  pg_value rows = pg_reshape(g, b, 2, (int64_t[]){size, k});
  return pg_reshape(g, pg_op2(g, PG_OP_MATMUL, rows, flip(g, a)), 3, (int64_t[]){size, m, 1});
}

// Outer products are elementwise, and marked: gradients of the weights of linear layers, one example's each, need not
// be formed where they are summed up (graph/contract.c).
static pg_status batch_matmul(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                              pg_value *out) {
  const pg_node left = *pg_at(b->g, in[0]), right = *pg_at(b->g, in[1]);
  const bool outer = left.shape[left.ndim - 1] == 1;
  if (!outer && !batched[1] && right.ndim == 2) {
    *out = multiply_rows(b->g, in[0], in[1]);
  } else if (!outer && !batched[0] && left.ndim == 2 && right.ndim == 3 && right.shape[2] == 1) {
    *out = multiply_columns(b->g, in[0], in[1]);
  } else {
    const pg_value x = pg_batch_align(b, in[0], batched[0], node->ndim),
                   y = pg_batch_align(b, in[1], batched[1], node->ndim);
    const pg_attrs attrs = {.flags = outer ? PG_OUTER_PRODUCT : 0};
    *out = pg_node_make(b->g, outer ? PG_OP_MUL : PG_OP_MATMUL, 2, (pg_value[]){x, y}, &attrs, NULL);
  }
  return pg_built(*out);
}

// ---- kernel --------------------------------------------------------------------------------------------------------

// Products with vectors: of each matrix of the batch `vectors` vectors, in pieces of MATVEC_ROWS results.
typedef struct product {
  const pg_operand *out, *a, *b;
  int64_t m, n, k, vectors, pieces;
} product;

// Rows of results by matrix-vector products: y = B^T a for a row a of A, or y = A b where the result is one column.
static void multiply_vectors(void *arg, int64_t first, int64_t last) {
  const product *p = arg;
  const bool column = p->n == 1;
  const int64_t length = column ? p->m : p->n;
  for (int64_t t = first; t < last; t++) {
    const int64_t i = t / (p->vectors * p->pieces), v = t / p->pieces % p->vectors, c = t % p->pieces * MATVEC_ROWS;
    const int64_t rows = length - c < MATVEC_ROWS ? length - c : MATVEC_ROWS;
    const pg_matrix a = pg_matrix_at(p->out, p->a, i, column ? c : v, 0),
                    b = pg_matrix_at(p->out, p->b, i, 0, column ? 0 : c);
    const pg_matrix many = column ? a : (pg_matrix){b.data, b.cs, b.rs};
    const pg_matrix one = column ? (pg_matrix){b.data, b.rs, 0} : (pg_matrix){a.data, a.cs, 0};
    const int64_t at = (i * p->vectors + v) * length + c;
    if (p->out->dtype == PG_F32)
      matvec_f32(rows, p->k, many.data, many.rs, many.cs, one.data, one.rs, (float *)p->out->data + at);
    else
      matvec_f64(rows, p->k, many.data, many.rs, many.cs, one.data, one.rs, (double *)p->out->data + at);
  }
}

// From shapes alone: the two paths round differently.
static bool goes_by_vectors(int64_t m, int64_t n) {
  return m == 1 || n == 1;
}

static void run_matmul(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)attrs;
  product p = {.out = out, .a = &in[0], .b = &in[1]};
  int64_t size = 1;
  for (int d = 0; d < out->ndim; d++) size *= out->shape[d];
  p.m = out->shape[out->ndim - 2];
  p.n = out->shape[out->ndim - 1];
  p.k = in[0].shape[in[0].ndim - 1];
  if (size == 0) return;
  if (p.k == 0) {
    memset(out->data, 0, (size_t)size * pg_dtype_size(out->dtype));
  } else if (goes_by_vectors(p.m, p.n)) {
    p.vectors = p.n == 1 ? 1 : p.m;
    p.pieces = ((p.n == 1 ? p.m : p.n) + MATVEC_ROWS - 1) / MATVEC_ROWS;
    pg_parallel_for(size / (p.m * p.n) * p.vectors * p.pieces, (double)size * (double)p.k / 4, multiply_vectors, &p);
  } else {
    pg_gemm_run(out, &in[0], &in[1], scratch);
  }
}

static size_t scratch_matmul(const pg_graph *g, const pg_node *node) {
  const pg_node *a = pg_in(g, node, 0);
  const int64_t m = node->shape[node->ndim - 2], n = node->shape[node->ndim - 1];
  if (goes_by_vectors(m, n) || m * n == 0) return 0;
  return pg_gemm_scratch(pg_node_size(node) / (m * n), m, n, a->shape[a->ndim - 1], (pg_dtype)node->dtype);
}

static double cost_matmul(const pg_graph *g, const pg_node *node) {
  const pg_node *a = pg_in(g, node, 0);
  return 2.0 * (double)a->shape[a->ndim - 1] * (double)pg_node_size(node);
}

const pg_op_info pg_op_info_MATMUL = {.name = "matmul",
                                      .arity = 2,
                                      .cls = PG_CLASS_LIBRARY,
                                      .shape = shape_matmul,
                                      .vjp = vjp_matmul,
                                      .jvp = jvp_matmul,
                                      .batch = batch_matmul,
                                      .cpu = run_matmul,
                                      .scratch = scratch_matmul,
                                      .strided = true,
                                      .cost_of = cost_matmul};
