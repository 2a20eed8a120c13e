// integers.h: the arithmetic of sizes.
#ifndef PG_CORE_INTEGERS_H
#define PG_CORE_INTEGERS_H

#include <stdint.h>

static inline int64_t pg_smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// How many pieces of size b cover a: a >= 0, b > 0.
static inline int64_t pg_divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

#endif
