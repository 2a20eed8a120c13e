// blas.c: the OpenBLAS that was loaded, of which the engine uses LAPACK's decompositions; products and triangular
// systems are its own (ops/gemm.c, ops/linalg.c). All flavours share a SONAME, but only the OpenMP one lives in the
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
#define DECLARE(T, p)                                                                                                  \
  void p##syevd_(const char *job, const char *half, const int *n, T *a, const int *lda, T *values, T *work,            \
                 const int *lwork, int *iwork, const int *liwork, int *info, size_t, size_t);                          \
  void p##gesdd_(const char *job, const int *m, const int *n, T *a, const int *lda, T *s, T *u, const int *ldu, T *vt, \
                 const int *ldvt, T *work, const int *lwork, int *iwork, int *info, size_t);                           \
  void p##gelqf_(const int *m, const int *n, T *a, const int *lda, T *tau, T *work, const int *lwork, int *info);      \
  void p##orglq_(const int *m, const int *n, const int *k, T *a, const int *lda, const T *tau, T *work,                \
                 const int *lwork, int *info);                                                                         \
  void p##getrf_(const int *m, const int *n, T *a, const int *lda, int *pivots, int *info);                            \
  void p##getrs_(const char *trans, const int *n, const int *columns, const T *a, const int *lda, const int *pivots,   \
                 T *b, const int *ldb, int *info, size_t);
DECLARE(float, s)
DECLARE(double, d)

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

// ---- one thread ----------------------------------------------------------------------------------------------------

// OpenBLAS takes as many threads as OpenMP would, and rounds differently for different ones. Between the two, it is
// one.
static int begin_serial(void) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  return threads;
}

static void end_serial(int threads) {
  omp_set_num_threads(threads);
}

// Calls the routine of the dtype.
#define CALL(name, ...)                                                                                                \
  do {                                                                                                                 \
    const int threads = begin_serial();                                                                                \
    if (dtype == PG_F32)                                                                                               \
      s##name##_(__VA_ARGS__);                                                                                         \
    else                                                                                                               \
      d##name##_(__VA_ARGS__);                                                                                         \
    end_serial(threads);                                                                                               \
  } while (0)

enum { WIDTH = 64 }; // columns that LAPACK takes at a time, where it may choose

int64_t pg_lapack_work_of_eigenvectors(int64_t n) {
  return 1 + 6 * n + 2 * n * n;
}

int64_t pg_lapack_work_of_singular_vectors(int64_t m, int64_t n) {
  const int64_t k = m < n ? m : n;
  return 4 * k * k + 7 * k + WIDTH * (m + n) + 1;
}

int64_t pg_lapack_work_of_lq(int64_t m) {
  return WIDTH * m + 1;
}

int pg_find_eigenvectors(pg_dtype dtype, int n, void *matrix, void *values, void *work, int *iwork) {
  const int lwork = (int)pg_lapack_work_of_eigenvectors(n), liwork = 3 + 5 * n;
  int info = -1;
  CALL(syevd, "V", "L", &n, matrix, &n, values, work, &lwork, iwork, &liwork, &info, 1, 1);
  return info;
}

int pg_find_singular_vectors(pg_dtype dtype, int m, int n, void *a, void *values, void *u, void *vt, void *work,
                             int *iwork) {
  const int k = m < n ? m : n, lwork = (int)pg_lapack_work_of_singular_vectors(m, n);
  int info = -1;
  CALL(gesdd, "S", &m, &n, a, &m, values, u, &m, vt, &k, work, &lwork, iwork, &info, 1);
  return info;
}

int pg_factor_lq(pg_dtype dtype, int m, int n, void *a, void *tau, void *work) {
  const int lwork = (int)pg_lapack_work_of_lq(m);
  int info = -1;
  CALL(gelqf, &m, &n, a, &m, tau, work, &lwork, &info);
  return info;
}

int pg_form_q(pg_dtype dtype, int m, int n, void *a, const void *tau, void *work) {
  const int lwork = (int)pg_lapack_work_of_lq(m);
  int info = -1;
  CALL(orglq, &m, &n, &m, a, &m, tau, work, &lwork, &info);
  return info;
}

int pg_factor_lu(pg_dtype dtype, int n, void *a, int *pivots) {
  int info = -1;
  CALL(getrf, &n, &n, a, &n, pivots, &info);
  return info;
}

int pg_solve_lu(pg_dtype dtype, bool transposed, int n, int columns, const void *a, const int *pivots, void *b) {
  int info = -1;
  CALL(getrs, transposed ? "T" : "N", &n, &columns, a, &n, pivots, b, &n, &info, 1);
  return info;
}
