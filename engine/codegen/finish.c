// finish.c: the tile grid of a kernel and the last fold of its reductions. Both are part of the numerics (kernel.h):
// they depend on shapes alone, never on threads or on the executor.
#include "engine/codegen/kernel.h"
#include "engine/codegen/lanes.h"
#include "engine/core/integers.h"

int64_t pg_kernel_tiles(const pg_kernel *k, int64_t nvtiles, int64_t *rows, int64_t *rows_per_tile, int64_t *chunks) {
  *rows = *rows_per_tile = *chunks = 1;
  if (k->space == PG_SPACE_VECTOR) return nvtiles;
  int kept = k->reduction == PG_REDUCE_OUTER ? k->ndim - 2 : k->ndim - 1; // dimensions that make up the rows
  for (int d = 0; d < kept; d++) *rows *= k->dim[d];
  int64_t inner = k->dim[k->ndim - 1];
  if (k->reduction == PG_REDUCE_OUTER) {
    *chunks = pg_divide_up(k->dim[k->ndim - 2], PG_ROWS);
    return *rows * *chunks * pg_divide_up(inner, PG_COLUMNS);
  }
  *chunks = pg_divide_up(inner, PG_CHUNK);
  if (*chunks <= 1) *rows_per_tile = PG_CHUNK / (inner > 1 ? inner : 1);
  return pg_divide_up(*rows, *rows_per_tile) * *chunks;
}

// ---- the last fold -------------------------------------------------------------------------------------------------

typedef void (*finish_fn)(const void *partial, int64_t rows, int64_t n, int64_t columns, void *result);

// The loop over columns is innermost: an outer reduction folds many columns at once, an inner one has a single column.
#define DEFINE_FINISH(name, suffix, T, identity, combine)                                                              \
  static void finish_##name##_##suffix(const void *partial, int64_t rows, int64_t n, int64_t columns, void *result) {  \
    const T *from = partial;                                                                                           \
    T *restrict to = result;                                                                                           \
    for (int64_t r = 0; r < rows; r++, to += columns) {                                                                \
      for (int64_t c = 0; c < columns; c++) to[c] = identity;                                                          \
      for (int64_t j = 0; j < n; j++, from += columns)                                                                 \
        for (int64_t c = 0; c < columns; c++) to[c] = combine(to[c], from[c]);                                         \
    }                                                                                                                  \
  }
PG_REDUCTIONS(DEFINE_FINISH)

// Rows by operation, columns by dtype.
static const finish_fn finish_table[][PG_NUM_DTYPES] = {
    [PG_OP_SUM] = {finish_sum_f32, finish_sum_f64, finish_sum_i32, finish_sum_i64, finish_sum_u8},
    [PG_OP_MAX] = {finish_max_f32, finish_max_f64, finish_max_i32, finish_max_i64, finish_max_u8, finish_max_b8},
    [PG_OP_MIN] = {finish_min_f32, finish_min_f64, finish_min_i32, finish_min_i64, finish_min_u8, finish_min_b8},
};

void pg_finish_reduction(int op, pg_dtype dtype, const void *partial, int64_t rows, int64_t n, int64_t columns,
                         void *result) {
  finish_table[op][dtype](partial, rows, n, columns, result);
}
