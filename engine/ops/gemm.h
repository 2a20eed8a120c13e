// gemm.h: products of matrices, the engine's own, so that the bits depend on the shapes and on nothing else: not on the
// operands' strides, the number of threads, the processor or the version of a library.
#ifndef PG_OPS_GEMM_H
#define PG_OPS_GEMM_H

#include "engine/ops/ops.h"

// Element (r, c) of a matrix at data + r * rs + c * cs.
typedef struct pg_matrix {
  const void *data;
  int64_t rs, cs;
} pg_matrix;

// The matrix of operand x that belongs to matrix i of the result `out` (batch axes broadcast), from row and column
// (r, c).
pg_matrix pg_matrix_at(const pg_operand *out, const pg_operand *x, int64_t i, int64_t r, int64_t c);

// out [batch…, M, N] = a [batch…, M, K] b [batch…, K, N], f32 or f64; batch axes broadcast; operands strided in any
// way, the result contiguous; M, N > 0. scratch: pg_gemm_scratch(…) bytes. The rounding stands in gemm_kernel.h.
void pg_gemm_run(const pg_operand *out, const pg_operand *a, const pg_operand *b, void *scratch);
size_t pg_gemm_scratch(int64_t batch, int64_t m, int64_t n, int64_t k, pg_dtype dtype);

#endif
