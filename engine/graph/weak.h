// weak.h: arithmetic among weak scalars: doubles on the host, rounded once when they enter a kernel (DESIGN 6.3).
#ifndef PG_GRAPH_WEAK_H
#define PG_GRAPH_WEAK_H

// The value of elementwise operation `op` on doubles; masks are 0 or 1. Unused operands are ignored.
double pg_weak_apply(int op, double a, double b, double c);

#endif
