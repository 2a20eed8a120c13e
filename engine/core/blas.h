// blas.h: the one door to BLAS. OpenBLAS does not give the same bits for different numbers of threads, so every call
// through here is serial; what is parallel is the tile grid above it. Matrices are row-major, C = op(A) op(B) is
// overwritten.
#ifndef PG_CORE_BLAS_H
#define PG_CORE_BLAS_H

#include "engine/perigee.h"

// C[m,n] = op(A)[m,k] op(B)[k,n]; leading dimensions in elements. A is stored [m,k], or [k,m] if ta; B likewise.
void pg_blas_gemm_f32(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                      int64_t ldb, float *c, int64_t ldc);
void pg_blas_gemm_f64(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda, const double *b,
                      int64_t ldb, double *c, int64_t ldc);

// Between these two the calling thread's BLAS and LAPACK calls are serial. begin returns what end wants.
int pg_blas_begin(void);
void pg_blas_end(int saved);

// PG_ERR_UNSUPPORTED with an explanation unless the OpenBLAS that was loaded is the OpenMP flavour. Call once at
// start.
pg_status pg_blas_check(void);

#endif
