// safetensors_read.c: the strict reader. Everything the header says is checked against the size of the file before
// anything is allocated for it; see safetensors.h.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "engine/core/error.h"
#include "engine/core/memory.h"
#include "engine/io/json.h"
#include "engine/io/safetensors.h"
#include "engine/io/safetensors_types.h"
#include "engine/io/text.h"

static const pg_safetensors_type TYPES[] = {
    {"F32", 4, PG_F32},   {"F64", 8, PG_F64}, {"I32", 4, PG_I32}, {"I64", 8, PG_I64}, {"U8", 1, PG_U8},
    {"BOOL", 1, PG_BOOL}, {"I8", 1, -1},      {"I16", 2, -1},     {"U16", 2, -1},     {"U32", 4, -1},
    {"U64", 8, -1},       {"F16", 2, -1},     {"BF16", 2, -1},    {"F8_E4M3", 1, -1}, {"F8_E5M2", 1, -1},
};
enum { TYPE_COUNT = sizeof TYPES / sizeof *TYPES };

struct pg_safetensors {
  char *path;
  int fd;
  json_t *header; // owns every string
  pg_safetensors_entry *entries;
  int count;
  uint64_t data_at, data_size; // of the data region in the file
};

const pg_safetensors_type *pg_safetensors_type_named(const char *name) {
  for (int i = 0; i < TYPE_COUNT; i++)
    if (!strcmp(TYPES[i].name, name)) return &TYPES[i];
  return NULL;
}

const char *pg_safetensors_type_name(pg_dtype dtype) {
  for (int i = 0; i < TYPE_COUNT; i++)
    if (TYPES[i].dtype == (int)dtype) return TYPES[i].name;
  return "I64";
}

// ---- bytes ----

// Read n bytes at offset `at` of the file.
static pg_status read_at(pg_safetensors *s, uint64_t at, void *dst, size_t n, const char *what) {
  char *p = dst;
  while (n > 0) {
    ssize_t got = pread(s->fd, p, n < (1u << 30) ? n : (1u << 30), (off_t)at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return pg_fail(PG_ERR_IO, "%s: cannot read: %s", s->path, strerror(errno));
    if (got == 0)
      return pg_fail(PG_ERR_FORMAT, "%s: byte %llu: the file ends inside %s", s->path, (unsigned long long)at, what);
    p += got;
    at += (uint64_t)got;
    n -= (size_t)got;
  }
  return PG_OK;
}

static uint64_t load_little_endian(const uint8_t *p, int n) {
  uint64_t x = 0;
  for (int i = n - 1; i >= 0; i--) x = x << 8 | p[i];
  return x;
}

// ---- one tensor of the header ----

// Put the file and the tensor's name in front of the message of `status`.
static pg_status name_tensor(const pg_safetensors *s, const char *name, pg_status status) {
  char quoted[PG_QUOTE_SIZE];
  return pg_fail_context(status, "%s: tensor \"%s\": ", s->path, pg_quote(name, strlen(name), quoted));
}

static pg_status fail_field(const pg_safetensors *s, const char *name, const char *field, const char *expected) {
  return name_tensor(s, name, pg_fail(PG_ERR_FORMAT, "field %s: expected %s", field, expected));
}

static pg_status parse_shape(const pg_safetensors *s, pg_safetensors_entry *e, const json_t *shape, size_t item) {
  if (!json_is_array(shape)) return fail_field(s, e->name, "shape", "an array of sizes");
  size_t n = json_array_size(shape);
  if (n > PG_MAX_NDIM) return fail_field(s, e->name, "shape", "at most 8 axes");
  uint64_t bytes = item;
  for (size_t i = 0; i < n; i++) {
    const json_t *size = json_array_get(shape, i);
    if (!json_is_integer(size) || json_integer_value(size) < 0)
      return fail_field(s, e->name, "shape", "non-negative integers");
    e->shape[i] = json_integer_value(size);
    if (__builtin_mul_overflow(bytes, (uint64_t)e->shape[i], &bytes))
      return fail_field(s, e->name, "shape", "a size below 2^64 bytes");
  }
  e->ndim = (int)n;
  if (bytes == e->end - e->begin) return PG_OK;
  return name_tensor(s, e->name,
                     pg_fail(PG_ERR_FORMAT, "shape and dtype %s make %llu bytes, but data_offsets span %llu",
                             e->stored_type, (unsigned long long)bytes, (unsigned long long)(e->end - e->begin)));
}

static pg_status parse_offsets(const pg_safetensors *s, pg_safetensors_entry *e, const json_t *offsets) {
  const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
  if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
      json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
    return fail_field(s, e->name, "data_offsets", "[begin, end] with 0 <= begin <= end");
  e->begin = (uint64_t)json_integer_value(begin);
  e->end = (uint64_t)json_integer_value(end);
  if (e->end <= s->data_size) return PG_OK;
  return name_tensor(s, e->name,
                     pg_fail(PG_ERR_FORMAT, "data_offsets end at byte %llu, but the data has %llu",
                             (unsigned long long)e->end, (unsigned long long)s->data_size));
}

// A key is stored as I64 [..., 2] and marked in the metadata.
static pg_status apply_key_mark(const pg_safetensors *s, pg_safetensors_entry *e) {
  size_t cap = strlen(e->name) + sizeof PG_SAFETENSORS_DTYPE;
  char *mark_name = pg_alloc(cap, 1);
  if (!mark_name) return PG_ERR_MEMORY;
  strcat(strcpy(mark_name, PG_SAFETENSORS_DTYPE), e->name);
  const char *mark = pg_safetensors_metadata(s, mark_name);
  pg_free(mark_name);
  if (!mark) return PG_OK;
  if (strcmp(mark, "key") || !e->loadable || e->dtype != PG_I64 || e->ndim < 1 || e->shape[e->ndim - 1] != 2)
    return fail_field(s, e->name, "dtype and shape", "I64 [..., 2], as the metadata call it a key");
  e->dtype = PG_KEY;
  e->ndim--;
  return PG_OK;
}

static pg_status parse_entry(const pg_safetensors *s, const char *name, const json_t *value, pg_safetensors_entry *e) {
  e->name = name;
  if (!json_is_object(value)) return fail_field(s, name, "(all)", "an object with dtype, shape and data_offsets");
  const char *type_name = json_string_value(json_object_get(value, "dtype"));
  const pg_safetensors_type *type = type_name ? pg_safetensors_type_named(type_name) : NULL;
  if (!type) return fail_field(s, name, "dtype", "a dtype of the format (F32, F64, I32, I64, U8, BOOL, …)");
  if (json_object_size(value) != 3) return fail_field(s, name, "(all)", "dtype, shape and data_offsets, and no more");
  e->stored_type = type->name;
  e->loadable = type->dtype >= 0;
  e->dtype = e->loadable ? (pg_dtype)type->dtype : PG_U8;
  PG_TRY(parse_offsets(s, e, json_object_get(value, "data_offsets")));
  PG_TRY(parse_shape(s, e, json_object_get(value, "shape"), type->size));
  return apply_key_mark(s, e);
}

// ---- the header ----

static int compare_entries(const void *pa, const void *pb) {
  const pg_safetensors_entry *a = pa, *b = pb;
  if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
  if (a->end != b->end) return a->end < b->end ? -1 : 1;
  return strcmp(a->name, b->name);
}

// Sorted by offset, each tensor must begin where the one before ended, and the last end with the file.
static pg_status check_tiling(const pg_safetensors *s) {
  uint64_t at = 0;
  for (int i = 0; i < s->count; i++) {
    const pg_safetensors_entry *e = &s->entries[i];
    if (e->begin != at)
      return name_tensor(s, e->name,
                         pg_fail(PG_ERR_FORMAT, "data_offsets begin at byte %llu, expected %llu: %s",
                                 (unsigned long long)e->begin, (unsigned long long)at,
                                 e->begin < at ? "tensors overlap" : "there is a hole"));
    at = e->end;
  }
  if (at == s->data_size) return PG_OK;
  return pg_fail(PG_ERR_FORMAT, "%s: byte %llu: the header accounts for %llu bytes of data, the file has %llu", s->path,
                 (unsigned long long)(s->data_at + at), (unsigned long long)at, (unsigned long long)s->data_size);
}

static pg_status check_metadata(const pg_safetensors *s) {
  json_t *metadata = json_object_get(s->header, "__metadata__"), *value;
  const char *key;
  if (!metadata) return PG_OK;
  if (!json_is_object(metadata)) return fail_field(s, "__metadata__", "(all)", "an object of strings");
  json_object_foreach(metadata, key, value) {
    if (!json_is_string(value)) return fail_field(s, "__metadata__", key, "a string");
  }
  return PG_OK;
}

static pg_status parse_entries(pg_safetensors *s) {
  if (!json_is_object(s->header)) return pg_fail(PG_ERR_FORMAT, "%s: byte 8: the header is not a JSON object", s->path);
  PG_TRY(check_metadata(s));
  s->entries = pg_alloc(json_object_size(s->header), sizeof *s->entries);
  if (!s->entries) return PG_ERR_MEMORY;
  const char *name;
  json_t *value;
  json_object_foreach(s->header, name, value) {
    if (!strcmp(name, "__metadata__")) continue;
    PG_TRY(parse_entry(s, name, value, &s->entries[s->count]));
    s->count++;
  }
  qsort(s->entries, (size_t)s->count, sizeof *s->entries, compare_entries);
  return check_tiling(s);
}

static pg_status read_header(pg_safetensors *s, uint64_t file_size) {
  uint8_t prefix[8];
  PG_TRY(read_at(s, 0, prefix, sizeof prefix, "the header's length"));
  uint64_t length = load_little_endian(prefix, 8);
  if (length > PG_SAFETENSORS_HEADER_MAX || length > file_size - 8)
    return pg_fail(PG_ERR_FORMAT,
                   "%s: byte 0: the header is said to have %llu bytes; expected at most %llu, and the file has %llu",
                   s->path, (unsigned long long)length, (unsigned long long)PG_SAFETENSORS_HEADER_MAX,
                   (unsigned long long)file_size);
  s->data_at = 8 + length;
  s->data_size = file_size - s->data_at;
  char *text = pg_alloc(length + 1, 1);
  if (!text) return PG_ERR_MEMORY;
  pg_status status = read_at(s, 8, text, length, "the header");
  if (status == PG_OK && text[0] != '{')
    status = pg_fail(PG_ERR_FORMAT, "%s: byte 8: the header does not begin with '{'", s->path);
  if (status == PG_OK) status = pg_json_parse(text, length, s->path, 8, &s->header);
  pg_free(text);
  PG_TRY(status);
  return parse_entries(s);
}

static pg_status open_parts(pg_safetensors *s, const char *path) {
  s->fd = -1;
  s->path = pg_strdup(path);
  if (!s->path) return PG_ERR_MEMORY;
  s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (s->fd < 0) return pg_fail(PG_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
  struct stat st;
  if (fstat(s->fd, &st) < 0 || !S_ISREG(st.st_mode)) return pg_fail(PG_ERR_IO, "%s: not a regular file", path);
  if (st.st_size < 8)
    return pg_fail(PG_ERR_FORMAT, "%s: byte 0: %lld bytes are too few for a safetensors file", path,
                   (long long)st.st_size);
  return read_header(s, (uint64_t)st.st_size);
}

pg_status pg_safetensors_open(const char *path, pg_safetensors **out) {
  *out = NULL;
  pg_safetensors *s = pg_alloc(1, sizeof *s);
  if (!s) return PG_ERR_MEMORY;
  pg_status status = open_parts(s, path);
  if (status == PG_OK) {
    *out = s;
  } else {
    pg_safetensors_close(s);
  }
  return status;
}

void pg_safetensors_close(pg_safetensors *s) {
  if (!s) return;
  if (s->fd >= 0) close(s->fd);
  json_decref(s->header);
  pg_free(s->entries);
  pg_free(s->path);
  pg_free(s);
}

// ---- what is in the file ----

int pg_safetensors_count(const pg_safetensors *s) {
  return s->count;
}

const pg_safetensors_entry *pg_safetensors_at(const pg_safetensors *s, int i) {
  return &s->entries[i];
}

int pg_safetensors_find(const pg_safetensors *s, const char *name) {
  for (int i = 0; i < s->count; i++)
    if (!strcmp(s->entries[i].name, name)) return i;
  return -1;
}

int pg_safetensors_metadata_count(const pg_safetensors *s) {
  return (int)json_object_size(json_object_get(s->header, "__metadata__"));
}

void pg_safetensors_metadata_at(const pg_safetensors *s, int i, const char **key, const char **value) {
  json_t *metadata = json_object_get(s->header, "__metadata__");
  void *at = json_object_iter(metadata);
  while (i-- > 0) at = json_object_iter_next(metadata, at);
  *key = json_object_iter_key(at);
  *value = json_string_value(json_object_iter_value(at));
}

const char *pg_safetensors_metadata(const pg_safetensors *s, const char *key) {
  return json_string_value(json_object_get(json_object_get(s->header, "__metadata__"), key));
}

// ---- data ----

static pg_status checksum_data(pg_safetensors *s, uint8_t *part, size_t part_size, uint32_t *sum) {
  uLong crc = crc32(0, NULL, 0);
  for (uint64_t at = 0; at < s->data_size; at += part_size) {
    uint64_t left = s->data_size - at;
    size_t n = left < part_size ? (size_t)left : part_size;
    PG_TRY(read_at(s, s->data_at + at, part, n, "the data"));
    crc = crc32(crc, part, (uInt)n);
  }
  *sum = (uint32_t)crc;
  return PG_OK;
}

pg_status pg_safetensors_verify(pg_safetensors *s) {
  enum { PART = 1 << 20 };
  const char *text = pg_safetensors_metadata(s, PG_SAFETENSORS_CRC);
  if (!text) return PG_OK;
  char *end;
  unsigned long expected = strtoul(text, &end, 16);
  if (strlen(text) != 8 || *end) return fail_field(s, "__metadata__", PG_SAFETENSORS_CRC, "8 hexadecimal digits");
  uint8_t *part = pg_alloc(PART, 1);
  if (!part) return PG_ERR_MEMORY;
  uint32_t found = 0;
  pg_status status = checksum_data(s, part, PART, &found);
  pg_free(part);
  if (status != PG_OK || found == expected) return status;
  return pg_fail(PG_ERR_FORMAT, "%s: the data are damaged: their CRC-32 is %08x, the header says %08lx", s->path, found,
                 expected);
}

// A bool in memory may only be 0 or 1.
static pg_status check_bools(const pg_safetensors *s, const pg_safetensors_entry *e, const uint8_t *data) {
  uint64_t n = e->end - e->begin;
  for (uint64_t i = 0; i < n; i++)
    if (data[i] > 1)
      return name_tensor(s, e->name,
                         pg_fail(PG_ERR_FORMAT, "byte %llu: %d is not a BOOL",
                                 (unsigned long long)(s->data_at + e->begin + i), data[i]));
  return PG_OK;
}

pg_status pg_safetensors_read(pg_safetensors *s, int i, void *dst, size_t bytes) {
  const pg_safetensors_entry *e = &s->entries[i];
  if (!e->loadable)
    return name_tensor(s, e->name,
                       pg_fail(PG_ERR_UNSUPPORTED, "it has dtype %s, which cannot be loaded", e->stored_type));
  if (bytes != e->end - e->begin)
    return name_tensor(s, e->name,
                       pg_fail(PG_ERR_ARGUMENT, "it has %llu bytes, the destination %zu",
                               (unsigned long long)(e->end - e->begin), bytes));
  PG_TRY(read_at(s, s->data_at + e->begin, dst, bytes, "a tensor"));
  return e->dtype == PG_BOOL ? check_bools(s, e, dst) : PG_OK;
}

pg_status pg_safetensors_load(pg_safetensors *s, int i, pg_tensor **out) {
  const pg_safetensors_entry *e = &s->entries[i];
  *out = NULL;
  if (!e->loadable) return pg_safetensors_read(s, i, NULL, 0);
  pg_tensor *t;
  PG_TRY(pg_tensor_new(e->dtype, e->ndim, e->shape, NULL, &t));
  pg_status status = pg_safetensors_read(s, i, pg_tensor_data(t), pg_tensor_bytes(t));
  if (status == PG_OK) {
    *out = t;
  } else {
    pg_tensor_release(t);
  }
  return status;
}
