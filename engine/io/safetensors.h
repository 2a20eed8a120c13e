// safetensors.h: the safetensors format: 8 bytes little-endian header length, a JSON header, the tensors' bytes.
//
// The reader is strict: the header is at most 100 MB, names appear once, offsets tile the data with no hole or overlap,
// and sizes agree with shapes. Opening reads the header alone; tensors are read one by one into memory of the caller.
// Files we write carry in their metadata "perigee.crc32", the CRC-32 of the data region in hexadecimal. Keys are stored
// as I64 [..., 2] with the metadata entry "perigee.dtype:NAME" = "key".
#ifndef PG_IO_SAFETENSORS_H
#define PG_IO_SAFETENSORS_H

#include "engine/perigee.h"

typedef struct pg_safetensors pg_safetensors; // an open file

typedef struct pg_safetensors_entry {
  const char *name;        // owned by the file
  const char *stored_type; // as the file names it: "F32", "BF16", …
  bool loadable;           // its dtype is one of ours; else dtype below means nothing
  pg_dtype dtype;
  int ndim; // of the tensor as loaded: a key's last axis of 2 is not counted
  int64_t shape[PG_MAX_NDIM];
  uint64_t begin, end; // bytes in the data region
} pg_safetensors_entry;

// Open and check the header. Errors: PG_ERR_IO, PG_ERR_FORMAT, PG_ERR_MEMORY.
pg_status pg_safetensors_open(const char *path, pg_safetensors **out);
void pg_safetensors_close(pg_safetensors *s); // NULL is allowed

int pg_safetensors_count(const pg_safetensors *s);
const pg_safetensors_entry *pg_safetensors_at(const pg_safetensors *s, int i); // in the order of their bytes
int pg_safetensors_find(const pg_safetensors *s, const char *name);            // index or -1
int pg_safetensors_metadata_count(const pg_safetensors *s);
// Entry i of the metadata in the file's order; strings owned by the file.
void pg_safetensors_metadata_at(const pg_safetensors *s, int i, const char **key, const char **value);
const char *pg_safetensors_metadata(const pg_safetensors *s, const char *key); // NULL if absent

// Compare the data with the CRC-32 in the metadata; PG_OK if there is none.
pg_status pg_safetensors_verify(pg_safetensors *s);
// Read tensor i into dst of `bytes` bytes, which must be its exact size.
pg_status pg_safetensors_read(pg_safetensors *s, int i, void *dst, size_t bytes);
// Read tensor i into a new tensor.
pg_status pg_safetensors_load(pg_safetensors *s, int i, pg_tensor **out);

typedef struct pg_named_tensor {
  const char *name;
  const pg_tensor *tensor;
} pg_named_tensor;

typedef struct pg_string_pair {
  const char *key, *value;
} pg_string_pair;

// Write the tensors in the order given, atomically. Names must differ, not be "__metadata__", and be UTF-8, as the
// metadata must; the keys "perigee.crc32" and "perigee.dtype:…" are ours.
pg_status pg_safetensors_write(const char *path, int n, const pg_named_tensor *tensors, int nmetadata,
                               const pg_string_pair *metadata);

#endif
