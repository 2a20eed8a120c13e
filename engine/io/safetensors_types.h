// safetensors_types.h: the dtypes of the format and their counterparts here, shared by reader and writer.
#ifndef PG_IO_SAFETENSORS_TYPES_H
#define PG_IO_SAFETENSORS_TYPES_H

#include "engine/perigee.h"

#define PG_SAFETENSORS_CRC "perigee.crc32"
#define PG_SAFETENSORS_DTYPE "perigee.dtype:" // followed by the tensor's name
#define PG_SAFETENSORS_HEADER_MAX ((uint64_t)100000000)

typedef struct pg_safetensors_type {
  const char *name;
  size_t size;
  int dtype; // -1: known to the format, not to us
} pg_safetensors_type;

// The row of a name, or NULL.
const pg_safetensors_type *pg_safetensors_type_named(const char *name);
// The name a dtype is written under; keys are written as I64.
const char *pg_safetensors_type_name(pg_dtype dtype);

#endif
