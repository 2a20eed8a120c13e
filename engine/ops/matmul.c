// matmul.c: the row of MATMUL and its CPU kernel. The result is cut into tiles by its shape alone and K is never
// split, so the bits do not depend on threads; each tile is one serial BLAS call. Vectors go through loops of our own
// (matvec.h), which cost no call overhead.
#include <string.h>

#include "engine/codegen/kernel_abi.h"
#include "engine/core/blas.h"
#include "engine/core/parallel.h"
#include "engine/ops/rules.h"

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

// ---- kernel --------------------------------------------------------------------------------------------------------

// One matrix of an operand: element (r, c) at r * rs + c * cs.
typedef struct matrix {
  const void *data;
  int64_t rs, cs;
} matrix;

typedef struct product {
  const pg_operand *out, *a, *b;
  int64_t m, n, k, batch;
  int64_t mstep, nstep, mtiles, ntiles;
} product;

static int64_t tile_step(int64_t extent) {
  return extent >= 512 ? 256 : extent >= 256 ? 128 : extent >= 128 ? 64 : extent > 0 ? extent : 1;
}

static void choose_tiles(product *p) {
  p->mstep = tile_step(p->m);
  p->nstep = tile_step(p->n);
  if (p->m >= 128 && p->m < 256 && p->n >= 512) { // a batch: as many tiles, but squarer, of which BLAS packs less
    p->mstep = p->m;
    p->nstep = 128;
  }
  p->mtiles = (p->m + p->mstep - 1) / p->mstep;
  p->ntiles = (p->n + p->nstep - 1) / p->nstep;
}

// The matrix of operand x that belongs to matrix i of the result, at row and column (r, c).
static matrix find_matrix(const pg_operand *out, const pg_operand *x, int64_t i, int64_t r, int64_t c) {
  const int n = x->ndim;
  matrix m = {NULL, x->stride[n - 2], x->stride[n - 1]};
  int64_t at = r * m.rs + c * m.cs;
  for (int d = out->ndim - 3; d >= 0; d--) {
    const int own = d - (out->ndim - n);
    if (own >= 0 && x->shape[own] != 1) at += i % out->shape[d] * x->stride[own];
    i /= out->shape[d];
  }
  m.data = (const char *)x->data + at * (int64_t)pg_dtype_size(x->dtype);
  return m;
}

// How BLAS reads a matrix: stored transposed or not, leading dimension; ld 0 if it cannot, for want of a stride of 1.
// An extent of 1 has no stride to speak of.
typedef struct layout {
  bool transposed;
  int64_t ld;
} layout;

static layout find_layout(const matrix *x, int64_t rows, int64_t columns) {
  const int64_t by_rows = rows == 1 ? columns : x->rs, by_columns = columns == 1 ? rows : x->cs;
  if ((columns == 1 || x->cs == 1) && by_rows >= columns) return (layout){false, by_rows};
  if ((rows == 1 || x->rs == 1) && by_columns >= rows) return (layout){true, by_columns};
  return (layout){false, 0};
}

static void multiply_tiles(void *arg, int64_t first, int64_t last) {
  const product *p = arg;
  for (int64_t t = first; t < last; t++) {
    const int64_t i = t / (p->mtiles * p->ntiles), r = t / p->ntiles % p->mtiles * p->mstep,
                  c = t % p->ntiles * p->nstep;
    const int64_t m = p->m - r < p->mstep ? p->m - r : p->mstep, n = p->n - c < p->nstep ? p->n - c : p->nstep;
    const matrix a = find_matrix(p->out, p->a, i, r, 0), b = find_matrix(p->out, p->b, i, 0, c);
    const layout la = find_layout(&a, m, p->k), lb = find_layout(&b, p->k, n);
    const int64_t at = i * p->m * p->n + r * p->n + c;
    if (p->out->dtype == PG_F32)
      pg_blas_gemm_f32(la.transposed, lb.transposed, m, n, p->k, a.data, la.ld, b.data, lb.ld,
                       (float *)p->out->data + at, p->n);
    else
      pg_blas_gemm_f64(la.transposed, lb.transposed, m, n, p->k, a.data, la.ld, b.data, lb.ld,
                       (double *)p->out->data + at, p->n);
  }
}

// Rows of results by matrix-vector products: y = B^T a for a row a of A, or y = A b where the result is one column.
static void multiply_vectors(void *arg, int64_t first, int64_t last) {
  const product *p = arg;
  const bool column = p->n == 1;
  const int64_t length = column ? p->m : p->n, vectors = column ? 1 : p->m;
  for (int64_t t = first; t < last; t++) {
    const int64_t i = t / (p->mtiles * p->ntiles), v = t / p->ntiles % p->mtiles, c = t % p->ntiles * p->nstep;
    const int64_t rows = length - c < p->nstep ? length - c : p->nstep;
    const matrix a = find_matrix(p->out, p->a, i, column ? c : v, 0),
                 b = find_matrix(p->out, p->b, i, 0, column ? 0 : c);
    const matrix many = column ? a : (matrix){b.data, b.cs, b.rs};
    const matrix one = column ? (matrix){b.data, b.rs, 0} : (matrix){a.data, a.cs, 0};
    const int64_t at = (i * vectors + v) * length + c;
    if (p->out->dtype == PG_F32)
      matvec_f32(rows, p->k, many.data, many.rs, many.cs, one.data, one.rs, (float *)p->out->data + at);
    else
      matvec_f64(rows, p->k, many.data, many.rs, many.cs, one.data, one.rs, (double *)p->out->data + at);
  }
}

// Copy an operand that BLAS cannot read into scratch, contiguous.
static void make_contiguous(pg_operand *x, char *scratch) {
  const size_t bytes = pg_dtype_size(x->dtype);
  int64_t index[PG_MAX_NDIM] = {0}, size = 1, at = 0;
  for (int d = 0; d < x->ndim; d++) size *= x->shape[d];
  for (int64_t i = 0; i < size; i++) {
    memcpy(scratch + (size_t)i * bytes, (const char *)x->data + at * (int64_t)bytes, bytes);
    for (int d = x->ndim - 1; d >= 0; d--) {
      at += x->stride[d];
      if (++index[d] < x->shape[d]) break;
      at -= x->stride[d] * x->shape[d];
      index[d] = 0;
    }
  }
  x->data = scratch;
  int64_t stride = 1;
  for (int d = x->ndim - 1; d >= 0; d--) {
    x->stride[d] = stride;
    stride *= x->shape[d];
  }
}

static size_t operand_bytes(int ndim, const int64_t *shape, pg_dtype dtype) {
  size_t size = pg_dtype_size(dtype);
  for (int d = 0; d < ndim; d++) size *= (size_t)shape[d];
  return (size + 63) / 64 * 64;
}

static void ready_for_blas(const product *p, pg_operand *x, int64_t rows, int64_t columns, char **scratch) {
  const matrix m = find_matrix(p->out, x, 0, 0, 0);
  const size_t bytes = operand_bytes(x->ndim, x->shape, x->dtype);
  if (find_layout(&m, rows, columns).ld == 0) make_contiguous(x, *scratch);
  *scratch += bytes;
}

// From shapes alone: the two paths round differently.
static bool goes_by_vectors(int64_t m, int64_t n) {
  return m == 1 || n == 1;
}

static void run_matmul(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)attrs;
  pg_operand a = in[0], b = in[1];
  product p = {.out = out, .a = &a, .b = &b, .batch = 1};
  p.m = out->shape[out->ndim - 2];
  p.n = out->shape[out->ndim - 1];
  p.k = a.shape[a.ndim - 1];
  for (int d = 0; d < out->ndim - 2; d++) p.batch *= out->shape[d];
  if (p.batch * p.m * p.n == 0) return;
  if (p.k == 0) {
    memset(out->data, 0, (size_t)(p.batch * p.m * p.n) * pg_dtype_size(out->dtype));
    return;
  }
  const double work = (double)p.batch * (double)p.m * (double)p.n * (double)p.k;
  if (goes_by_vectors(p.m, p.n)) {
    p.mtiles = p.n == 1 ? 1 : p.m;
    p.nstep = MATVEC_ROWS;
    p.ntiles = ((p.n == 1 ? p.m : p.n) + MATVEC_ROWS - 1) / MATVEC_ROWS;
    pg_parallel_for(p.batch * p.mtiles * p.ntiles, work / 4, multiply_vectors, &p);
    return;
  }
  char *place = scratch;
  ready_for_blas(&p, &a, p.m, p.k, &place);
  ready_for_blas(&p, &b, p.k, p.n, &place);
  choose_tiles(&p);
  pg_parallel_for(p.batch * p.mtiles * p.ntiles, work / 16, multiply_tiles, &p);
}

// Can a view of v have no stride of 1 in its last two axes? "No" for what is stored, sliced without steps, reshaped,
// and transposed once after that; "yes" when in doubt.
static bool may_scatter(const pg_graph *g, pg_value v) {
  bool transposed = false, reshaped = false;
  for (;; v = pg_at(g, v)->in[0]) {
    const pg_node *node = pg_at(g, v);
    const int n = node->ndim;
    switch (node->op) {
    case PG_OP_STOP:
    case PG_OP_TAP:
    case PG_OP_MARK:
    case PG_OP_VIEW:
      break;
    case PG_OP_RESHAPE:
      reshaped = true;
      break;
    case PG_OP_TRANSPOSE:
      if (transposed || reshaped || (node->attrs.a[n - 1] != n - 1 && node->attrs.a[n - 2] != n - 1)) return true;
      transposed = true;
      break;
    case PG_OP_SLICE:
      if (reshaped || node->attrs.c[n - 1] != 1) return true;
      break;
    case PG_OP_BROADCAST:
    case PG_OP_FULL:
      return true;
    default:
      return false;
    }
  }
}

static size_t scratch_matmul(const pg_graph *g, const pg_node *node) {
  const pg_node *a = pg_in(g, node, 0), *b = pg_in(g, node, 1);
  if (goes_by_vectors(node->shape[node->ndim - 2], node->shape[node->ndim - 1])) return 0;
  if (!may_scatter(g, node->in[0]) && !may_scatter(g, node->in[1])) return 0;
  return operand_bytes(a->ndim, a->shape, (pg_dtype)a->dtype) + operand_bytes(b->ndim, b->shape, (pg_dtype)b->dtype);
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
                                      .cpu = run_matmul,
                                      .scratch = scratch_matmul,
                                      .strided = true,
                                      .cost_of = cost_matmul};
