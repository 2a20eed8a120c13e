// idx.c: the IDX format of MNIST (Y. LeCun): two zero bytes, a type, the number of axes, the sizes as big-endian 32-bit
// integers, then the elements, big-endian, row-major. Nothing may follow.
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/memory.h"
#include "engine/data/dataset.h"
#include "engine/io/stream.h"

static uint64_t load_big_endian(const uint8_t *p, int n) {
  uint64_t x = 0;
  for (int i = 0; i < n; i++) x = x << 8 | p[i];
  return x;
}

static void decode_u8(const uint8_t *src, void *dst, int64_t n) {
  memcpy(dst, src, (size_t)n);
}

static void decode_i8(const uint8_t *src, void *dst, int64_t n) {
  for (int64_t i = 0; i < n; i++) ((int32_t *)dst)[i] = (int8_t)src[i];
}

static void decode_i16(const uint8_t *src, void *dst, int64_t n) {
  for (int64_t i = 0; i < n; i++) ((int32_t *)dst)[i] = (int16_t)load_big_endian(src + 2 * i, 2);
}

static void decode_32(const uint8_t *src, void *dst, int64_t n) {
  for (int64_t i = 0; i < n; i++) ((uint32_t *)dst)[i] = (uint32_t)load_big_endian(src + 4 * i, 4);
}

static void decode_64(const uint8_t *src, void *dst, int64_t n) {
  for (int64_t i = 0; i < n; i++) ((uint64_t *)dst)[i] = load_big_endian(src + 8 * i, 8);
}

typedef struct idx_type {
  uint8_t code;
  int size; // bytes of an element in the file
  pg_dtype dtype;
  void (*decode)(const uint8_t *src, void *dst, int64_t n);
} idx_type;

static const idx_type TYPES[] = {
    {0x08, 1, PG_U8, decode_u8},  {0x09, 1, PG_I32, decode_i8}, {0x0B, 2, PG_I32, decode_i16},
    {0x0C, 4, PG_I32, decode_32}, {0x0D, 4, PG_F32, decode_32}, {0x0E, 8, PG_F64, decode_64},
};

typedef struct idx_header {
  const idx_type *type;
  int ndim;
  int64_t shape[PG_MAX_NDIM];
  uint64_t bytes; // of the elements in the file
} idx_header;

static pg_status read_magic(pg_stream *in, idx_header *h) {
  uint8_t magic[4];
  const char *path = pg_stream_path(in);
  PG_TRY(pg_stream_read_exact(in, magic, sizeof magic, "the magic number"));
  if (magic[0] || magic[1])
    return pg_fail(PG_ERR_FORMAT, "%s: byte 0: not an IDX file: magic %02x%02x%02x%02x does not begin with 0000", path,
                   magic[0], magic[1], magic[2], magic[3]);
  for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
    if (TYPES[i].code == magic[2]) h->type = &TYPES[i];
  if (!h->type)
    return pg_fail(PG_ERR_FORMAT, "%s: byte 2: type 0x%02x, expected 08, 09, 0b, 0c, 0d or 0e", path, magic[2]);
  if (magic[3] < 1 || magic[3] > PG_MAX_NDIM)
    return pg_fail(PG_ERR_FORMAT, "%s: byte 3: %d axes, expected 1 to %d", path, magic[3], PG_MAX_NDIM);
  h->ndim = magic[3];
  return PG_OK;
}

static pg_status read_sizes(pg_stream *in, idx_header *h) {
  uint8_t sizes[4 * PG_MAX_NDIM];
  PG_TRY(pg_stream_read_exact(in, sizes, 4 * (size_t)h->ndim, "the sizes"));
  h->bytes = (uint64_t)h->type->size;
  for (int i = 0; i < h->ndim; i++) {
    h->shape[i] = (int64_t)load_big_endian(sizes + 4 * i, 4);
    if (__builtin_mul_overflow(h->bytes, (uint64_t)h->shape[i], &h->bytes) || h->bytes > INT64_MAX / 4)
      return pg_fail(PG_ERR_FORMAT, "%s: byte %d: the sizes multiply to more than 2^61 bytes", pg_stream_path(in),
                     4 + 4 * i);
  }
  return PG_OK;
}

static pg_status read_array(pg_stream *in, pg_tensor **out) {
  idx_header h = {0};
  PG_TRY(read_magic(in, &h));
  PG_TRY(read_sizes(in, &h));
  uint8_t *data;
  PG_TRY(pg_stream_read_payload(in, h.bytes, "the elements", &data));
  pg_status status = pg_tensor_new(h.type->dtype, h.ndim, h.shape, NULL, out);
  if (status == PG_OK) h.type->decode(data, pg_tensor_data(*out), pg_tensor_size(*out));
  pg_free(data);
  return status;
}

pg_status pg_idx_read(const char *path, pg_tensor **out) {
  *out = NULL;
  pg_stream *in;
  PG_TRY(pg_stream_open(path, &in));
  pg_status status = read_array(in, out);
  pg_stream_close(in);
  return status;
}
