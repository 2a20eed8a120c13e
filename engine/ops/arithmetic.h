// arithmetic.h: short names for building arithmetic, for the files that write formulas: derivative rules and
// composites.
#ifndef PG_OPS_ARITHMETIC_H
#define PG_OPS_ARITHMETIC_H

#include "engine/ops/ops.h"

static inline pg_value num(pg_graph *g, double x) {
  return pg_number(g, x);
}

static inline pg_value add(pg_graph *g, pg_value a, pg_value b) {
  return pg_op2(g, PG_OP_ADD, a, b);
}

static inline pg_value sub(pg_graph *g, pg_value a, pg_value b) {
  return pg_op2(g, PG_OP_SUB, a, b);
}

static inline pg_value mul(pg_graph *g, pg_value a, pg_value b) {
  return pg_op2(g, PG_OP_MUL, a, b);
}

static inline pg_value divide(pg_graph *g, pg_value a, pg_value b) {
  return pg_op2(g, PG_OP_DIV, a, b);
}

#endif
