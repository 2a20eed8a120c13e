// blas.h: the OpenBLAS that was loaded, for factorizations (LAPACK). Products of matrices are the engine's own
// (ops/gemm.h): BLAS rounds differently by version, by processor, by the operands' strides and by the number of
// threads.
#ifndef PG_CORE_BLAS_H
#define PG_CORE_BLAS_H

#include "engine/perigee.h"

// PG_ERR_UNSUPPORTED with an explanation unless the OpenBLAS that was loaded is the OpenMP flavour.
pg_status pg_blas_check(void);

#endif
