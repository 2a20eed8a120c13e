// blas.h: what the engine takes from LAPACK. Matrices lie as Fortran has them, column after column, in f32 or f64; all
// run on one thread, so that the bits are the same for every number of threads. Each returns 0, or what LAPACK says.
#ifndef PG_CORE_BLAS_H
#define PG_CORE_BLAS_H

#include "engine/perigee.h"

// Numbers of scratch. Part of the numerics: LAPACK divides its work by what it is given.
int64_t pg_lapack_work_of_eigenvectors(int64_t n);
int64_t pg_lapack_work_of_singular_vectors(int64_t m, int64_t n);
int64_t pg_lapack_work_of_lq(int64_t m);

// Eigenvalues of a symmetric [n, n] matrix, ascending, and its eigenvectors as columns in place of the matrix (SYEVD).
// iwork: 3 + 5 n numbers.
int pg_find_eigenvectors(pg_dtype dtype, int n, void *matrix, void *values, void *work, int *iwork);

// The singular values of a [m, n], falling, with their vectors as columns of u [m, k] and rows of vt [k, n], k = min(m,
// n), by divide and conquer (GESDD). a is destroyed. iwork: 8 k numbers.
int pg_find_singular_vectors(pg_dtype dtype, int m, int n, void *a, void *values, void *u, void *vt, void *work,
                             int *iwork);

// The lower triangle of l in a = l q for a [m, n], m <= n, with the reflections that make q to its right (GELQF); tau:
// m numbers. Then q in place of them (ORGLQ).
int pg_factor_lq(pg_dtype dtype, int m, int n, void *a, void *tau, void *work);
int pg_form_q(pg_dtype dtype, int m, int n, void *a, const void *tau, void *work);

// a = p l u in place of a [n, n]; pivots: row i was exchanged with row pivots[i], from 1 (GETRF). Positive: a pivot is
// 0.
int pg_factor_lu(pg_dtype dtype, int n, void *a, int *pivots);
// x in place of b [n, columns]: a x = b, or a^T x = b, from the factors of a (GETRS).
int pg_solve_lu(pg_dtype dtype, bool transposed, int n, int columns, const void *a, const int *pivots, void *b);

#endif
