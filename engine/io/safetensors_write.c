// safetensors_write.c: the writer; see safetensors.h. The header is padded with spaces so that the data begin at a
// multiple of 8 bytes; tensors follow each other without gaps, as the format demands.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "engine/core/error.h"
#include "engine/core/memory.h"
#include "engine/io/atomic.h"
#include "engine/io/json.h"
#include "engine/io/safetensors.h"
#include "engine/io/safetensors_types.h"

static uint32_t checksum_tensors(int n, const pg_named_tensor *tensors) {
  uLong crc = crc32(0, NULL, 0);
  for (int i = 0; i < n; i++) crc = crc32_z(crc, pg_tensor_data(tensors[i].tensor), pg_tensor_bytes(tensors[i].tensor));
  return (uint32_t)crc;
}

// Add key = value to an object; steals `value`, which may be NULL after a failed construction.
static pg_status put_new(json_t *object, const char *path, const char *key, json_t *value) {
  if (json_object_get(object, key)) {
    json_decref(value);
    return pg_fail(PG_ERR_ARGUMENT, "%s: the name \"%.100s\" is used twice", path, key);
  }
  if (value && json_object_set_new(object, key, value) == 0) return PG_OK;
  return pg_fail(PG_ERR_ARGUMENT, "%s: \"%.100s\": not UTF-8, or out of memory", path, key);
}

static pg_status put_key_mark(json_t *metadata, const char *path, const char *name) {
  size_t cap = strlen(name) + sizeof PG_SAFETENSORS_DTYPE;
  char *mark = pg_alloc(cap, 1);
  if (!mark) return PG_ERR_MEMORY;
  strcat(strcpy(mark, PG_SAFETENSORS_DTYPE), name);
  pg_status status = put_new(metadata, path, mark, json_string("key"));
  pg_free(mark);
  return status;
}

static pg_status put_metadata(json_t *header, const char *path, int n, const pg_named_tensor *tensors, int nmetadata,
                              const pg_string_pair *pairs) {
  json_t *metadata = json_object();
  PG_TRY(put_new(header, path, "__metadata__", metadata));
  for (int i = 0; i < nmetadata; i++) PG_TRY(put_new(metadata, path, pairs[i].key, json_string(pairs[i].value)));
  char crc[16];
  snprintf(crc, sizeof crc, "%08x", checksum_tensors(n, tensors));
  PG_TRY(put_new(metadata, path, PG_SAFETENSORS_CRC, json_string(crc)));
  for (int i = 0; i < n; i++)
    if (pg_tensor_dtype(tensors[i].tensor) == PG_KEY) PG_TRY(put_key_mark(metadata, path, tensors[i].name));
  return PG_OK;
}

static json_t *describe_shape(const pg_tensor *t) {
  json_t *shape = json_array();
  for (int i = 0; i < pg_tensor_ndim(t); i++) json_array_append_new(shape, json_integer(pg_tensor_shape(t)[i]));
  if (pg_tensor_dtype(t) == PG_KEY) json_array_append_new(shape, json_integer(2));
  return shape;
}

static pg_status put_tensor(json_t *header, const char *path, const pg_named_tensor *named, uint64_t *at) {
  uint64_t end = *at + pg_tensor_bytes(named->tensor);
  json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", pg_safetensors_type_name(pg_tensor_dtype(named->tensor)),
                            "shape", describe_shape(named->tensor), "data_offsets", (json_int_t)*at, (json_int_t)end);
  *at = end;
  return put_new(header, path, named->name, entry);
}

static pg_status write_parts(pg_atomic *file, const char *path, const char *text, int n,
                             const pg_named_tensor *tensors) {
  static const char spaces[8] = "        ";
  size_t size = strlen(text), pad = (8 - size % 8) % 8;
  uint64_t length = size + pad;
  uint8_t prefix[8];
  for (int i = 0; i < 8; i++) prefix[i] = (uint8_t)(length >> (8 * i));
  if (length > PG_SAFETENSORS_HEADER_MAX)
    return pg_fail(PG_ERR_ARGUMENT, "%s: the header would have %llu bytes, more than the format's 100 MB", path,
                   (unsigned long long)length);
  PG_TRY(pg_atomic_write(file, prefix, sizeof prefix));
  PG_TRY(pg_atomic_write(file, text, size));
  PG_TRY(pg_atomic_write(file, spaces, pad));
  for (int i = 0; i < n; i++)
    PG_TRY(pg_atomic_write(file, pg_tensor_data(tensors[i].tensor), pg_tensor_bytes(tensors[i].tensor)));
  return PG_OK;
}

static pg_status write_file(const char *path, const char *text, int n, const pg_named_tensor *tensors) {
  pg_atomic *file;
  PG_TRY(pg_atomic_begin(path, &file));
  pg_status status = write_parts(file, path, text, n, tensors);
  if (status == PG_OK) return pg_atomic_commit(file);
  pg_atomic_abort(file);
  return status;
}

static pg_status describe_all(json_t *header, const char *path, int n, const pg_named_tensor *tensors, int nmetadata,
                              const pg_string_pair *metadata) {
  PG_TRY(put_metadata(header, path, n, tensors, nmetadata, metadata));
  uint64_t at = 0;
  for (int i = 0; i < n; i++) PG_TRY(put_tensor(header, path, &tensors[i], &at));
  return PG_OK;
}

pg_status pg_safetensors_write(const char *path, int n, const pg_named_tensor *tensors, int nmetadata,
                               const pg_string_pair *metadata) {
  json_t *header = json_object();
  if (!header) return pg_fail(PG_ERR_MEMORY, "%s: out of memory", path);
  pg_status status = describe_all(header, path, n, tensors, nmetadata, metadata);
  char *text = status == PG_OK ? json_dumps(header, JSON_COMPACT) : NULL;
  json_decref(header);
  PG_TRY(status);
  if (!text) return pg_fail(PG_ERR_MEMORY, "%s: out of memory for the header", path);
  status = write_file(path, text, n, tensors);
  free(text);
  return status;
}
