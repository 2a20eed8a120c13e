// gemm.c: how a product of matrices is cut up. See gemm.h. One block of K at a time, the operands are packed into
// panels (where that pays) and multiplied panel by panel; both are loops over tasks that follow from shapes alone.
#include "engine/ops/gemm.h"

#include <string.h>

#include "engine/core/integers.h"
#include "engine/core/parallel.h"
#include "engine/core/simd.h"

enum {
  PG_GEMM_DEPTH = 256, // part of the numerics
  GEMM_NV = 2,         // vectors of columns of a tile
#if PG_VECTOR_BYTES == 64
  GEMM_MAX_M = 14, // rows of a tile: as many as there are registers for
#else
  GEMM_MAX_M = 6,
#endif
  GEMM_BLOCK = 10,       // row panels of a task
  GEMM_FEW_ROWS = 48,    // fewer do not pay for packing b
  GEMM_FEW_COLUMNS = 32, // nor fewer columns for packing a
};
#if PG_VECTOR_BYTES == 64
#define GEMM_ROWS(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14)
#else
#define GEMM_ROWS(F) F(1) F(2) F(3) F(4) F(5) F(6)
#endif

// Strides of a tile, in elements. add: to what the result holds.
typedef struct gemm_strides {
  int64_t a_row, a_column, b_row, c_row;
  bool add;
} gemm_strides;

typedef struct gemm {
  const pg_operand *out, *a, *b;
  void *packed_a, *packed_b;
  int64_t batch, rows, columns;
  int64_t m, row_panels, row_blocks, column_panels; // m: rows of a panel
  int64_t k0, depth;                                // the block of K at hand
  int64_t a_size, b_size;                           // elements of one packed matrix
  bool pack_a, pack_b;
} gemm;

pg_matrix pg_matrix_at(const pg_operand *out, const pg_operand *x, int64_t i, int64_t r, int64_t c) {
  const int n = x->ndim;
  pg_matrix m = {NULL, x->stride[n - 2], x->stride[n - 1]};
  int64_t at = r * m.rs + c * m.cs;
  for (int d = out->ndim - 3; d >= 0; d--) {
    const int own = d - (out->ndim - n);
    if (own >= 0 && x->shape[own] != 1) at += i % out->shape[d] * x->stride[own];
    i /= out->shape[d];
  }
  m.data = (const char *)x->data + at * (int64_t)pg_dtype_size(x->dtype);
  return m;
}

#define T float
#define S(f) f##_f32
#include "engine/ops/gemm_kernel.h"
#define T double
#define S(f) f##_f64
#include "engine/ops/gemm_kernel.h"

static int64_t columns_of_panel(pg_dtype dtype) {
  return dtype == PG_F32 ? PANEL_f32 : PANEL_f64;
}

// K in blocks of equal length.
static int64_t block_length(int64_t k) {
  return pg_divide_up(k, pg_divide_up(k, PG_GEMM_DEPTH));
}

static size_t round_up(size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

static void choose_panels(gemm *g, pg_dtype dtype, int64_t depth) {
  g->row_panels = pg_divide_up(g->rows, GEMM_MAX_M);
  g->m = pg_divide_up(g->rows, g->row_panels);
  g->row_panels = pg_divide_up(g->rows, g->m);
  g->row_blocks = pg_divide_up(g->row_panels, GEMM_BLOCK);
  g->column_panels = pg_divide_up(g->columns, columns_of_panel(dtype));
  g->a_size = g->rows * depth;
  g->b_size = g->column_panels * columns_of_panel(dtype) * depth;
}

size_t pg_gemm_scratch(int64_t batch, int64_t m, int64_t n, int64_t k, pg_dtype dtype) {
  gemm g = {.rows = m, .columns = n};
  if (batch * m * n * k == 0) return 0;
  choose_panels(&g, dtype, block_length(k));
  return round_up((size_t)(batch * g.a_size) * pg_dtype_size(dtype)) +
         round_up((size_t)(batch * g.b_size) * pg_dtype_size(dtype));
}

void pg_gemm_run(const pg_operand *out, const pg_operand *a, const pg_operand *b, void *scratch) {
  gemm g = {.out = out, .a = a, .b = b, .batch = 1};
  const int64_t k = a->shape[a->ndim - 1], depth = block_length(k);
  g.rows = out->shape[out->ndim - 2];
  g.columns = out->shape[out->ndim - 1];
  for (int d = 0; d < out->ndim - 2; d++) g.batch *= out->shape[d];
  choose_panels(&g, out->dtype, depth);
  g.pack_a = g.columns > GEMM_FEW_COLUMNS;
  g.pack_b = b->stride[b->ndim - 1] != 1 || g.rows > GEMM_FEW_ROWS;
  g.packed_a = scratch;
  g.packed_b = (char *)scratch + round_up((size_t)(g.batch * g.a_size) * pg_dtype_size(out->dtype));
  const bool f32 = out->dtype == PG_F32;
  const double size = (double)g.batch * (double)depth;
  for (g.k0 = 0; g.k0 < k; g.k0 += depth) {
    g.depth = pg_smaller(depth, k - g.k0);
    const int64_t panels = g.batch * ((g.pack_a ? g.row_panels : 0) + (g.pack_b ? g.column_panels : 0));
    pg_parallel_for(panels, size * (double)((g.pack_a ? g.rows : 0) + (g.pack_b ? g.columns : 0)),
                    f32 ? pack_panels_f32 : pack_panels_f64, &g);
    pg_parallel_for(g.batch * g.row_blocks * g.column_panels, size * (double)g.rows * (double)g.columns / 16,
                    f32 ? multiply_panels_f32 : multiply_panels_f64, &g);
  }
}
