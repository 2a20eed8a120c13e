// blas.c: the OpenBLAS that was loaded, of which the engine uses LAPACK's eigenvectors; products and factors of
// matrices are its own (ops/gemm.c, ops/linalg.c). All flavours share a SONAME, but only the OpenMP one lives in the
// engine's thread pool; the others bring a pool of their own, or none that is safe to call from several threads.
#define _GNU_SOURCE
#include "engine/core/blas.h"

#include <cblas.h>
#include <dlfcn.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

// Of OpenBLAS; not declared by every cblas.h.
char *openblas_get_config(void);
char *openblas_get_corename(void);
int openblas_get_parallel(void);

// Fortran; the lengths of the strings come last.
void ssyevd_(const char *job, const char *half, const int *n, float *a, const int *lda, float *values, float *work,
             const int *lwork, int *iwork, const int *liwork, int *info, size_t, size_t);
void dsyevd_(const char *job, const char *half, const int *n, double *a, const int *lda, double *values, double *work,
             const int *lwork, int *iwork, const int *liwork, int *info, size_t, size_t);

const char *pg_blas_description(void) {
  static char text[512];
  static const char *const flavours[] = {"serial", "pthread", "OpenMP"};
  Dl_info where = {0};
  const int flavour = openblas_get_parallel();
  if (!dladdr((void *)cblas_sgemm, &where) || !where.dli_fname) where.dli_fname = "linked statically";
  snprintf(text, sizeof text, "%s: %s, core %s, %s flavour", where.dli_fname, openblas_get_config(),
           openblas_get_corename(), flavour >= 0 && flavour <= 2 ? flavours[flavour] : "unknown");
  return text;
}

// OpenBLAS takes as many threads as OpenMP would, and rounds differently for different ones.
int pg_find_eigenvectors(pg_dtype dtype, int n, void *matrix, void *values, void *work, int lwork, int *iwork,
                         int liwork) {
  const int threads = omp_get_max_threads();
  int info = -1;
  omp_set_num_threads(1);
  if (dtype == PG_F32)
    ssyevd_("V", "L", &n, matrix, &n, values, work, &lwork, iwork, &liwork, &info, 1, 1);
  else
    dsyevd_("V", "L", &n, matrix, &n, values, work, &lwork, iwork, &liwork, &info, 1, 1);
  omp_set_num_threads(threads);
  return info;
}
