// blocks.h: the interpreter's inner loops: for each elementwise operation and dtype one function over a block of
// elements.
#ifndef PG_CODEGEN_BLOCKS_H
#define PG_CODEGEN_BLOCKS_H

#include "engine/codegen/kernel.h"

// out[i] = op(a[i], b[i], c[i]) for i in [0, n); operands an operation does not have are not read. `out` may be one of
// the operands if the elements have the same size.
typedef void (*pg_block_fn)(int64_t n, const void *a, const void *b, const void *c, void *out);

// The function of an elementwise operation. `operand` is the dtype of the operands (of the choices, for WHERE),
// `result` of what it yields. NULL if the operation is not defined for them.
pg_block_fn pg_block_map(int op, pg_dtype operand, pg_dtype result);

// out[i] = start + i * step, converted.
typedef void (*pg_index_fn)(int64_t n, int64_t start, int64_t step, void *out);
extern const pg_index_fn pg_block_index[PG_NUM_DTYPES];

// out[0] = x, rounded once.
typedef void (*pg_number_fn)(double x, void *out);
extern const pg_number_fn pg_block_number[PG_NUM_DTYPES];

// The parts of a reduction over a row. Lanes are PG_LANES elements.
typedef struct pg_block_reduction {
  void (*identity)(int64_t n, void *out);
  void (*lanes)(void *lanes, const void *x, int64_t n);
  void (*fold)(void *lanes, void *out);
  pg_block_fn combine; // elementwise
} pg_block_reduction;
// NULL if it is not defined. op is PG_OP_SUM, PG_OP_MAX or PG_OP_MIN.
const pg_block_reduction *pg_block_reduce(int op, pg_dtype dtype);

// Moving elements of 1, 4 or 8 bytes between memory and blocks.
void pg_block_fill(size_t size, int64_t n, const void *one, void *out);
void pg_block_gather(size_t size, int64_t n, const void *from, int64_t stride, void *out);
void pg_block_scatter(size_t size, int64_t n, const void *a, int64_t stride, void *to);

#endif
