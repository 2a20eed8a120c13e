// compiler.h: the C compiler of the machine, and what the machine's processor can do.
#ifndef PG_CODEGEN_COMPILER_H
#define PG_CODEGEN_COMPILER_H

#include "engine/core/error.h"

// Everything about the compiler and the processor that compiled code depends on: path, version, time of change, flags,
// processor model and features. "" if there is no compiler. Found once and kept.
const char *pg_compiler_identity(void);

// Compile the C file `source` into the shared object `object`. On failure the message holds the first error line.
pg_status pg_compiler_run(const char *source, const char *object);

// The processor's features as the operating system names them.
const char *pg_cpu_features(void);

#endif
