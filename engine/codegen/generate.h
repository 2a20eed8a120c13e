// generate.h: printing kernels as C.
#ifndef PG_CODEGEN_GENERATE_H
#define PG_CODEGEN_GENERATE_H

#include "engine/codegen/kernel.h"

// One C translation unit that defines `pg_kernel_fn` functions pg_kernel_0 … pg_kernel_(n-1). It depends on the
// structure of the kernels only, not on sizes, strides other than 0 and 1 along the inner dimension, or addresses, and
// holds no text from users. The caller owns the string (pg_free); NULL with the message set if memory ran out or a
// kernel is malformed.
char *pg_generate_source(int n, const pg_kernel *const *kernels);

#endif
