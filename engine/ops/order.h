// order.h: the order of the elements of rows, found by sorting or by selection (order.c). There is one order: ascending
// (or descending), equal elements in the order in which they stand, -0 equal to 0, every NaN equal to every other and
// larger than any number. So what is found is unique, whatever the algorithm and the number of threads.
#ifndef PG_OPS_ORDER_H
#define PG_OPS_ORDER_H

#include "engine/perigee.h"

enum { PG_LONGEST_ROW = 0x7fffffff }; // elements; places within a row are kept in 32 bits

typedef struct pg_ordering {
  pg_dtype dtype; // f32, f64, i32, i64, u8 or bool
  int64_t rows, n;
  bool descending;
  int64_t wanted;       // indices written for each row, at most n, or any number of ranks
  bool ranked;          // not the first `wanted` of the order but those of the ranks
  const void *x;        // [rows, n]
  const int64_t *ranks; // [rows, wanted], or [wanted] where rank_stride is 0; taken to the nearest rank there is
  int64_t rank_stride;
  int64_t *out; // [rows, wanted], indices from 0
} pg_ordering;

// Bytes that pg_find_order wants as scratch; follows from dtype, rows, n, wanted and ranked.
size_t pg_order_scratch(const pg_ordering *o);

// Write the indices. n = 0 is allowed where nothing is wanted.
void pg_find_order(const pg_ordering *o, void *scratch);

// Elements smaller than (or, upper: at most as large as) x[at] of an array `sorted` [n] in ascending order.
int64_t pg_count_below(pg_dtype dtype, const void *sorted, int64_t n, const void *x, int64_t at, bool upper);

// Roughly the scalar operations that one element of a row of n takes to sort, or to find one rank in.
double pg_order_cost(int64_t n);

#endif
