// matrices.h: what the operations of dense linear algebra share. Matrices lie on the last two axes; axes before those
// make a stack of them, each handled by itself, with the bits it would have alone.
#ifndef PG_OPS_MATRICES_H
#define PG_OPS_MATRICES_H

#include "engine/ops/batching.h"

// Fail unless x is a tensor of matrices in f32 or f64; square ones.
pg_status pg_want_matrices(const char *op, const pg_node *x);
pg_status pg_want_square(const char *op, const pg_node *x);

// ---- for derivative rules; a PG_NONE operand gives PG_NONE ----

pg_value pg_product(pg_graph *g, pg_value a, pg_value b);
pg_value pg_flip(pg_graph *g, pg_value x);                               // each matrix transposed
pg_value pg_lower_part(pg_graph *g, pg_value x, double diagonal);        // its diagonal times a number; zeros above
pg_value pg_on_diagonal(pg_graph *g, pg_value x);                        // zeros off the diagonal
pg_value pg_symmetric_part(pg_graph *g, pg_value x);                     // (x + x^T) / 2
pg_value pg_rows(pg_graph *g, pg_value x, int64_t first, int64_t count); // of each matrix
pg_value pg_below(pg_graph *g, int n, const pg_value *parts);            // matrices below one another
pg_value pg_sum_rows(pg_graph *g, pg_value x);                           // [.., m, n] → [.., 1, n]
pg_value pg_quotient(pg_graph *g, pg_value a, pg_value b);               // a / b, and 0 where b is 0
// a^-1 b by TRIANGULAR_SOLVE or SOLVE (op); transposed: a^-T b.
pg_value pg_solved(pg_graph *g, int op, pg_value a, pg_value b, bool transposed);

// The rules of TRIANGULAR_SOLVE and SOLVE: shapes [n, n] and [n], or [.., n, n] and [.., n, k]; flags 1: a^-T b.
enum { PG_SOLVE_TRANSPOSED = 1 };
pg_status pg_shape_solve(const pg_graph *g, pg_node *node);
pg_status pg_vjp_solve(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in);
pg_status pg_jvp_solve(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out);
pg_status pg_batch_solve(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched, pg_value *out);

// ---- for kernels ----

int64_t pg_matrix_count(const pg_operand *x);
pg_operand pg_matrix_of(const pg_operand *x, int64_t i); // matrix i of a contiguous stack; [n] is a column
void pg_fill_nan(const pg_operand *x);                   // of a matrix

// Scratch in pieces, each on a cache line, so that LAPACK always finds its arrays alike. at NULL: only counts.
typedef struct pg_pieces {
  char *at;
  size_t bytes;
} pg_pieces;
void *pg_piece(pg_pieces *pieces, int64_t count, size_t unit); // NULL while counting

#endif
