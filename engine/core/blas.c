// blas.c: what is known about the OpenBLAS that was loaded. It is there for factorizations (LAPACK), which nothing uses
// yet; products of matrices are the engine's own (ops/gemm.c). All flavours share a SONAME, but only the OpenMP one
// lives in the engine's thread pool; the others bring a pool of their own, or none that is safe to call from several
// threads.
#define _GNU_SOURCE
#include "engine/perigee.h"

#include <cblas.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

// Of OpenBLAS; not declared by every cblas.h.
char *openblas_get_config(void);
char *openblas_get_corename(void);
int openblas_get_parallel(void);

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
