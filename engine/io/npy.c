// npy.c: after NumPy's own description (numpy/lib/format.py). The header is a Python dictionary literal; exactly the
// literals NumPy writes are understood: strings, True, False, tuples of integers.
#include "engine/io/npy.h"

#include <stdio.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/memory.h"
#include "engine/io/atomic.h"
#include "engine/io/text.h"
#include "engine/io/stream.h"

static const struct {
  const char *descr;
  pg_dtype dtype;
} TYPES[] = {{"<f4", PG_F32}, {"<f8", PG_F64}, {"<i4", PG_I32}, {"<i8", PG_I64}, {"|u1", PG_U8}, {"|b1", PG_BOOL}};
enum { TYPE_COUNT = sizeof TYPES / sizeof *TYPES };

static const uint8_t MAGIC[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
enum { HEADER_MAX = 1 << 16 };

// ---- the header's dictionary ----

typedef struct scanner {
  const char *path, *begin, *at, *end;
  uint64_t base; // offset of `begin` in the file
} scanner;

typedef struct header {
  pg_dtype dtype;
  bool fortran;
  int ndim;
  int64_t shape[PG_MAX_NDIM];
  unsigned seen; // bit per field
} header;

static pg_status fail_header(const scanner *s, const char *expected) {
  char quoted[PG_QUOTE_SIZE];
  return pg_fail(PG_ERR_FORMAT, "%s: byte %llu: header: expected %s, found '%s'", s->path,
                 (unsigned long long)(s->base + (uint64_t)(s->at - s->begin)), expected,
                 pg_quote(s->at, (size_t)(s->end - s->at), quoted));
}

static void skip_blanks(scanner *s) {
  while (s->at < s->end && (*s->at == ' ' || *s->at == '\n')) s->at++;
}

static bool accept_text(scanner *s, const char *text) {
  skip_blanks(s);
  size_t n = strlen(text);
  if ((size_t)(s->end - s->at) < n || memcmp(s->at, text, n)) return false;
  s->at += n;
  return true;
}

// A quoted string without escapes; borrowed.
static pg_status scan_string(scanner *s, const char **text, size_t *n) {
  skip_blanks(s);
  char quote = s->at < s->end ? *s->at : 0;
  if (quote != '\'' && quote != '"') return fail_header(s, "a string");
  const char *close = memchr(s->at + 1, quote, (size_t)(s->end - s->at - 1));
  if (!close) return fail_header(s, "a string that ends");
  *text = s->at + 1;
  *n = (size_t)(close - *text);
  s->at = close + 1;
  return PG_OK;
}

static pg_status scan_descr(scanner *s, header *h) {
  const char *text;
  char quoted[PG_QUOTE_SIZE];
  size_t n;
  skip_blanks(s);
  if (s->at < s->end && *s->at == '[')
    return pg_fail(PG_ERR_UNSUPPORTED, "%s: field descr: structured arrays cannot be loaded", s->path);
  PG_TRY(scan_string(s, &text, &n));
  for (int i = 0; i < TYPE_COUNT; i++) {
    if (n != 3 || memcmp(text, TYPES[i].descr, 3)) continue;
    h->dtype = TYPES[i].dtype;
    return PG_OK;
  }
  return pg_fail(PG_ERR_UNSUPPORTED, "%s: field descr: '%s' cannot be loaded; expected <f4, <f8, <i4, <i8, |u1 or |b1",
                 s->path, pg_quote(text, n, quoted));
}

static pg_status scan_fortran(scanner *s, header *h) {
  h->fortran = accept_text(s, "True");
  if (h->fortran || accept_text(s, "False")) return PG_OK;
  return fail_header(s, "True or False for fortran_order");
}

static pg_status scan_shape(scanner *s, header *h) {
  if (!accept_text(s, "(")) return fail_header(s, "a tuple for shape");
  bool comma = true;
  while (!accept_text(s, ")")) {
    if (h->ndim == PG_MAX_NDIM) return fail_header(s, "at most 8 axes");
    if (!comma) return fail_header(s, "',' or ')'");
    const char *next = pg_parse_index(s->at, s->end, INT64_MAX, &h->shape[h->ndim]);
    if (!next) return fail_header(s, "a size below 2^63");
    s->at = next;
    h->ndim++;
    comma = accept_text(s, ",");
  }
  if (h->ndim == 1 && !comma) return fail_header(s, "a tuple: (n,)");
  return PG_OK;
}

static const struct {
  const char *name;
  pg_status (*scan)(scanner *s, header *h);
} FIELDS[] = {{"descr", scan_descr}, {"fortran_order", scan_fortran}, {"shape", scan_shape}};
enum { FIELD_COUNT = sizeof FIELDS / sizeof *FIELDS };

static pg_status scan_field(scanner *s, header *h) {
  const char *name;
  size_t n;
  PG_TRY(scan_string(s, &name, &n));
  int i = 0;
  while (i < FIELD_COUNT && (strlen(FIELDS[i].name) != n || memcmp(FIELDS[i].name, name, n))) i++;
  if (i == FIELD_COUNT || h->seen >> i & 1)
    return fail_header(s, "the fields descr, fortran_order and shape, once each");
  h->seen |= 1u << i;
  if (!accept_text(s, ":")) return fail_header(s, "':'");
  return FIELDS[i].scan(s, h);
}

static pg_status scan_header(scanner *s, header *h) {
  if (!accept_text(s, "{")) return fail_header(s, "'{'");
  bool comma = true;
  while (!accept_text(s, "}")) {
    if (!comma) return fail_header(s, "',' or '}'");
    PG_TRY(scan_field(s, h));
    comma = accept_text(s, ",");
  }
  skip_blanks(s);
  if (s->at != s->end) return fail_header(s, "nothing after the dictionary");
  if (h->seen != (1u << FIELD_COUNT) - 1) return fail_header(s, "descr, fortran_order and shape");
  return PG_OK;
}

static pg_status read_header(pg_stream *in, header *h) {
  uint8_t start[8], size_bytes[4];
  const char *path = pg_stream_path(in);
  PG_TRY(pg_stream_read_exact(in, start, sizeof start, "the magic number"));
  if (memcmp(start, MAGIC, sizeof MAGIC))
    return pg_fail(PG_ERR_FORMAT, "%s: byte 0: not a .npy file (no \\x93NUMPY)", path);
  if (start[6] < 1 || start[6] > 3)
    return pg_fail(PG_ERR_FORMAT, "%s: byte 6: version %d.%d, expected 1, 2 or 3", path, start[6], start[7]);
  int n = start[6] == 1 ? 2 : 4;
  PG_TRY(pg_stream_read_exact(in, size_bytes, (size_t)n, "the header's length"));
  uint64_t length = 0;
  for (int i = n - 1; i >= 0; i--) length = length << 8 | size_bytes[i];
  if (length > HEADER_MAX)
    return pg_fail(PG_ERR_FORMAT, "%s: byte 8: a header of %llu bytes, expected at most %d", path,
                   (unsigned long long)length, HEADER_MAX);
  char text[HEADER_MAX];
  scanner s = {path, text, text, text + length, pg_stream_offset(in)};
  PG_TRY(pg_stream_read_exact(in, text, length, "the header"));
  return scan_header(&s, h);
}

// ---- the data ----

// dst (row-major) from src (column-major), by counting through dst's indices.
static void transpose_fortran(const header *h, const uint8_t *src, uint8_t *dst, size_t item, int64_t count) {
  int64_t index[PG_MAX_NDIM] = {0}, stride[PG_MAX_NDIM];
  for (int64_t i = 0, s = 1; i < h->ndim; i++) {
    stride[i] = s;
    s *= h->shape[i];
  }
  for (int64_t k = 0, from = 0; k < count; k++) {
    memcpy(dst + (size_t)k * item, src + (size_t)from * item, item);
    for (int i = h->ndim - 1; i >= 0; i--) {
      from += stride[i];
      if (++index[i] < h->shape[i]) break;
      from -= stride[i] * h->shape[i];
      index[i] = 0;
    }
  }
}

static pg_status count_bytes(const char *path, const header *h, uint64_t *bytes) {
  *bytes = pg_dtype_size(h->dtype);
  for (int i = 0; i < h->ndim; i++)
    if (__builtin_mul_overflow(*bytes, (uint64_t)h->shape[i], bytes) || *bytes > PTRDIFF_MAX)
      return pg_fail(PG_ERR_FORMAT, "%s: field shape: more than 2^63 bytes", path);
  return PG_OK;
}

static pg_status make_tensor(const char *path, const header *h, const uint8_t *data, uint64_t at, pg_tensor **out) {
  PG_TRY(pg_tensor_new(h->dtype, h->ndim, h->shape, NULL, out));
  size_t bytes = pg_tensor_bytes(*out);
  if (h->fortran && h->ndim > 1) {
    transpose_fortran(h, data, pg_tensor_data(*out), pg_dtype_size(h->dtype), pg_tensor_size(*out));
  } else if (bytes) {
    memcpy(pg_tensor_data(*out), data, bytes);
  }
  for (size_t i = 0; h->dtype == PG_BOOL && i < bytes; i++) {
    if (data[i] <= 1) continue;
    pg_tensor_release(*out);
    *out = NULL;
    return pg_fail(PG_ERR_FORMAT, "%s: byte %llu: %d is not a boolean", path, (unsigned long long)(at + i), data[i]);
  }
  return PG_OK;
}

static pg_status read_array(pg_stream *in, pg_tensor **out) {
  header h = {0};
  uint64_t bytes;
  const char *path = pg_stream_path(in);
  PG_TRY(read_header(in, &h));
  PG_TRY(count_bytes(path, &h, &bytes));
  uint64_t at = pg_stream_offset(in);
  uint8_t *data;
  PG_TRY(pg_stream_read_payload(in, bytes, "the array", &data));
  pg_status status = make_tensor(path, &h, data, at, out);
  pg_free(data);
  return status;
}

pg_status pg_npy_read(const char *path, pg_tensor **out) {
  *out = NULL;
  pg_stream *in;
  PG_TRY(pg_stream_open(path, &in));
  pg_status status = read_array(in, out);
  pg_stream_close(in);
  return status;
}

// ---- writing ----

// The dictionary as NumPy prints it, padded with spaces so that the data begin at a multiple of 64 bytes.
static size_t format_header(const pg_tensor *t, const char *descr, char *text, size_t cap) {
  char shape[PG_MAX_NDIM * 24] = "";
  size_t at = 0;
  int ndim = pg_tensor_ndim(t);
  for (int i = 0; i < ndim; i++)
    at += (size_t)snprintf(shape + at, sizeof shape - at, "%s%lld%s", i ? " " : "", (long long)pg_tensor_shape(t)[i],
                           i + 1 < ndim || ndim == 1 ? "," : "");
  int n = snprintf(text, cap, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, shape);
  size_t total = (10 + (size_t)n + 1 + 63) / 64 * 64 - 10;
  memset(text + n, ' ', total - (size_t)n - 1);
  text[total - 1] = '\n';
  return total;
}

static pg_status write_array(pg_atomic *file, const pg_tensor *t, const char *descr) {
  char text[512];
  size_t n = format_header(t, descr, text, sizeof text);
  uint8_t start[10] = {MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], MAGIC[4], MAGIC[5], 1, 0, (uint8_t)n, (uint8_t)(n >> 8)};
  PG_TRY(pg_atomic_write(file, start, sizeof start));
  PG_TRY(pg_atomic_write(file, text, n));
  return pg_atomic_write(file, pg_tensor_data(t), pg_tensor_bytes(t));
}

pg_status pg_npy_write(const char *path, const pg_tensor *t) {
  int type = 0;
  while (type < TYPE_COUNT && TYPES[type].dtype != pg_tensor_dtype(t)) type++;
  if (type == TYPE_COUNT)
    return pg_fail(PG_ERR_DTYPE, "%s: a %s tensor cannot be written as .npy", path, pg_dtype_name(pg_tensor_dtype(t)));
  pg_atomic *file;
  PG_TRY(pg_atomic_begin(path, &file));
  pg_status status = write_array(file, t, TYPES[type].descr);
  if (status == PG_OK) return pg_atomic_commit(file);
  pg_atomic_abort(file);
  return status;
}
