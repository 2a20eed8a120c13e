// npy.h: NumPy's .npy format, versions 1, 2 and 3: arrays of <f4 <f8 <i4 <i8 |u1 |b1. Fortran order is read (and
// transposed into our row-major order), C order is written.
#ifndef PG_IO_NPY_H
#define PG_IO_NPY_H

#include "engine/perigee.h"

// Read a file, plain or compressed. Errors: PG_ERR_IO, PG_ERR_FORMAT, PG_ERR_UNSUPPORTED (a dtype we have not),
// PG_ERR_MEMORY.
pg_status pg_npy_read(const char *path, pg_tensor **out);
// Write atomically. Keys are refused.
pg_status pg_npy_write(const char *path, const pg_tensor *t);

#endif
