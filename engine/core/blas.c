// blas.c: what is known about the OpenBLAS that was loaded. See blas.h. All flavours share a SONAME, but only the
// OpenMP one lives in the engine's thread pool; the others bring a pool of their own, or none that is safe to call from
// several threads.
#define _GNU_SOURCE
#include "engine/core/blas.h"

#include <cblas.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "engine/core/error.h"

// Of OpenBLAS; not declared by every cblas.h.
char *openblas_get_config(void);
char *openblas_get_corename(void);
int openblas_get_parallel(void);

enum { FLAVOUR_OPENMP = 2 };

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
      "the OpenBLAS that was loaded is not its OpenMP flavour, so its threads would fight with the engine's (%s); "
      "install libopenblas0-openmp and point LD_LIBRARY_PATH at its folder",
      pg_blas_description());
}
