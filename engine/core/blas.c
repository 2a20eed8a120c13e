// blas.c: the guard around OpenBLAS, and what is known about the library that was loaded. See blas.h.
//
// OpenBLAS's OpenMP flavour asks omp_get_max_threads() at each call and runs serially at 1 (and inside a parallel
// region); openblas_set_num_threads() is ignored by it, and `parallel if(0)` does not count as a region. The other
// flavours share its SONAME but bring a thread pool of their own, or none that is safe to call from several threads.
#define _GNU_SOURCE
#include "engine/core/blas.h"

#include <cblas.h>
#include <dlfcn.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "engine/core/error.h"

// Of OpenBLAS; not declared by every cblas.h.
char *openblas_get_config(void);
char *openblas_get_corename(void);
int openblas_get_parallel(void);

enum { FLAVOUR_OPENMP = 2 };

int pg_blas_begin(void) {
  int saved = omp_get_max_threads();
  omp_set_num_threads(1);
  return saved;
}

void pg_blas_end(int saved) {
  omp_set_num_threads(saved);
}

// C is cleared here and added to by BLAS, whose own clearing is several times slower than memset.
void pg_blas_gemm_f32(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                      int64_t ldb, float *c, int64_t ldc) {
  int saved = pg_blas_begin();
  for (int64_t i = 0; i < m; i++) memset(c + i * ldc, 0, (size_t)n * sizeof *c);
  cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, 1,
              a, (int)lda, b, (int)ldb, 1, c, (int)ldc);
  pg_blas_end(saved);
}

void pg_blas_gemm_f64(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda, const double *b,
                      int64_t ldb, double *c, int64_t ldc) {
  int saved = pg_blas_begin();
  for (int64_t i = 0; i < m; i++) memset(c + i * ldc, 0, (size_t)n * sizeof *c);
  cblas_dgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, 1,
              a, (int)lda, b, (int)ldb, 1, c, (int)ldc);
  pg_blas_end(saved);
}

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

pg_status pg_blas_check(void) {
  if (openblas_get_parallel() == FLAVOUR_OPENMP) return PG_OK;
  return pg_fail(
      PG_ERR_UNSUPPORTED,
      "the OpenBLAS that was loaded is not its OpenMP flavour, so results would depend on the number of threads "
      "(%s); install libopenblas0-openmp and point LD_LIBRARY_PATH at its folder",
      pg_blas_description());
}
