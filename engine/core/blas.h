// blas.h: what the engine takes from LAPACK.
#ifndef PG_CORE_BLAS_H
#define PG_CORE_BLAS_H

#include "engine/perigee.h"

// Eigenvalues of a symmetric [n, n] matrix in f32 or f64, ascending, and its eigenvectors as rows in place of the
// matrix. work: lwork >= 1 + 6 n + 2 n^2 numbers, iwork: liwork >= 3 + 5 n. Returns 0, or what LAPACK's SYEVD says. On
// one thread, so that the bits are the same for every number of threads.
int pg_find_eigenvectors(pg_dtype dtype, int n, void *matrix, void *values, void *work, int lwork, int *iwork,
                         int liwork);

#endif
