// stream.c: one sequential reader over three encodings. Each encoding is a row of a table: its magic, and functions to
// begin, decode and end. See stream.h for the promises.
#include "engine/io/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <lzma.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "engine/core/error.h"
#include "engine/core/memory.h"

enum { CHUNK = 1 << 16 };

// An xz header can ask for a 4 GiB dictionary; -9 needs 64 MiB.
static const uint64_t XZ_MEMORY = (uint64_t)256 << 20;
static const uint64_t DEFAULT_LIMIT = (uint64_t)16 << 30;

typedef struct codec {
  const char *name;
  uint8_t magic[6];
  size_t magic_size;
  pg_status (*begin)(pg_stream *s);
  // Decode from s->in into dst. *got > 0 unless the end is reached (s->done) or more input is needed.
  pg_status (*decode)(pg_stream *s, uint8_t *dst, size_t n, size_t *got);
  void (*end)(pg_stream *s);
} codec;

struct pg_stream {
  char *path;
  int fd;
  const codec *codec;
  uint8_t *in; // CHUNK bytes of the file
  size_t in_at, in_size;
  bool in_end;   // the file has no more bytes
  bool done;     // the content has no more bytes
  uint64_t at;   // decoded bytes delivered
  bool z_member; // gzip: inside a member
  z_stream z;
  lzma_stream x;
};

// ---- the file ----

// Read the next chunk if the last one is used up.
static pg_status fill_input(pg_stream *s) {
  if (s->in_at < s->in_size || s->in_end) return PG_OK;
  ssize_t n;
  do n = read(s->fd, s->in, CHUNK);
  while (n < 0 && errno == EINTR);
  if (n < 0) return pg_fail(PG_ERR_IO, "%s: cannot read: %s", s->path, strerror(errno));
  s->in_at = 0;
  s->in_size = (size_t)n;
  s->in_end = n == 0;
  return PG_OK;
}

static pg_status fail_decode(const pg_stream *s, const char *why) {
  return pg_fail(PG_ERR_FORMAT, "%s: byte %llu of the content: %s data: %s", s->path, (unsigned long long)s->at,
                 s->codec->name, why);
}

// ---- plain ----

static pg_status plain_begin(pg_stream *s) {
  (void)s;
  return PG_OK;
}

static pg_status plain_decode(pg_stream *s, uint8_t *dst, size_t n, size_t *got) {
  size_t have = s->in_size - s->in_at;
  *got = have < n ? have : n;
  if (*got) memcpy(dst, s->in + s->in_at, *got);
  s->in_at += *got;
  s->done = s->in_end && *got == have;
  return PG_OK;
}

static void plain_end(pg_stream *s) {
  (void)s;
}

// ---- gzip: one or more members (RFC 1952), zero padding after the last one allowed ----

static pg_status gzip_begin(pg_stream *s) {
  s->z_member = true;
  if (inflateInit2(&s->z, 15 + 16) == Z_OK) return PG_OK;
  return pg_fail(PG_ERR_MEMORY, "%s: no memory for the gzip decoder", s->path);
}

// Between members: another one begins, or padding, or the end.
static pg_status gzip_between(pg_stream *s) {
  while (s->in_at < s->in_size && s->in[s->in_at] == 0) s->in_at++;
  if (s->in_at < s->in_size) {
    if (s->in[s->in_at] != s->codec->magic[0]) return fail_decode(s, "something that is not gzip follows its end");
    inflateReset(&s->z);
    s->z_member = true;
  } else if (s->in_end) {
    s->done = true;
  }
  return PG_OK;
}

static pg_status gzip_decode(pg_stream *s, uint8_t *dst, size_t n, size_t *got) {
  *got = 0;
  if (!s->z_member) {
    PG_TRY(gzip_between(s));
    if (!s->z_member) return PG_OK;
  }
  if (s->in_end && s->in_at == s->in_size) return fail_decode(s, "the file is cut off");
  uInt room = n < CHUNK ? (uInt)n : CHUNK;
  s->z.next_in = s->in + s->in_at;
  s->z.avail_in = (uInt)(s->in_size - s->in_at);
  s->z.next_out = dst;
  s->z.avail_out = room;
  int rc = inflate(&s->z, Z_NO_FLUSH);
  s->in_at = s->in_size - s->z.avail_in;
  *got = room - s->z.avail_out;
  if (rc == Z_STREAM_END) s->z_member = false;
  if (rc == Z_OK || rc == Z_STREAM_END || rc == Z_BUF_ERROR) return PG_OK;
  if (rc == Z_MEM_ERROR) return pg_fail(PG_ERR_MEMORY, "%s: no memory for the gzip decoder", s->path);
  return fail_decode(s, s->z.msg ? s->z.msg : "broken");
}

static void gzip_end(pg_stream *s) {
  inflateEnd(&s->z);
}

// ---- xz ----

static pg_status xz_begin(pg_stream *s) {
  s->x = (lzma_stream)LZMA_STREAM_INIT;
  if (lzma_stream_decoder(&s->x, XZ_MEMORY, LZMA_CONCATENATED) == LZMA_OK) return PG_OK;
  return pg_fail(PG_ERR_MEMORY, "%s: no memory for the xz decoder", s->path);
}

static const char *describe_xz_error(lzma_ret rc) {
  static const struct {
    lzma_ret rc;
    const char *text;
  } texts[] = {{LZMA_MEMLIMIT_ERROR, "its dictionary is larger than 256 MiB"},
               {LZMA_FORMAT_ERROR, "not the xz format"},
               {LZMA_OPTIONS_ERROR, "unsupported options"},
               {LZMA_BUF_ERROR, "the file is cut off"}};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
    if (texts[i].rc == rc) return texts[i].text;
  return "broken";
}

static pg_status xz_decode(pg_stream *s, uint8_t *dst, size_t n, size_t *got) {
  s->x.next_in = s->in + s->in_at;
  s->x.avail_in = s->in_size - s->in_at;
  s->x.next_out = dst;
  s->x.avail_out = n;
  lzma_ret rc = lzma_code(&s->x, s->in_end ? LZMA_FINISH : LZMA_RUN);
  s->in_at = s->in_size - s->x.avail_in;
  *got = n - s->x.avail_out;
  s->done = rc == LZMA_STREAM_END;
  if (rc == LZMA_OK || rc == LZMA_STREAM_END) return PG_OK;
  if (rc == LZMA_BUF_ERROR && !s->in_end) return PG_OK; // it only wants more input
  if (rc == LZMA_MEM_ERROR) return pg_fail(PG_ERR_MEMORY, "%s: no memory for the xz decoder", s->path);
  return fail_decode(s, describe_xz_error(rc));
}

static void xz_end(pg_stream *s) {
  lzma_end(&s->x);
}

static const codec CODECS[] = {
    {"gzip", {0x1f, 0x8b}, 2, gzip_begin, gzip_decode, gzip_end},
    {"xz", {0xfd, '7', 'z', 'X', 'Z', 0}, 6, xz_begin, xz_decode, xz_end},
    {"plain", {0}, 0, plain_begin, plain_decode, plain_end}, // matches everything
};

// ---- opening ----

// Open the file and refuse what is not one: reading a FIFO or a device could wait or go on forever.
static pg_status open_regular(const char *path, int *fd) {
  do *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  while (*fd < 0 && errno == EINTR);
  if (*fd < 0) return pg_fail(PG_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
  struct stat st;
  if (fstat(*fd, &st) == 0 && S_ISREG(st.st_mode)) return PG_OK;
  close(*fd);
  *fd = -1;
  return pg_fail(PG_ERR_IO, "%s: not a regular file", path);
}

static pg_status open_parts(pg_stream *s, const char *path) {
  s->fd = -1;
  s->path = pg_strdup(path);
  s->in = pg_alloc(CHUNK, 1);
  if (!s->path || !s->in) return PG_ERR_MEMORY;
  PG_TRY(open_regular(path, &s->fd));
  PG_TRY(fill_input(s));
  const codec *c = CODECS;
  while (s->in_size < c->magic_size || memcmp(s->in, c->magic, c->magic_size)) c++;
  PG_TRY(c->begin(s));
  s->codec = c;
  return PG_OK;
}

pg_status pg_stream_open(const char *path, pg_stream **out) {
  *out = NULL;
  pg_stream *s = pg_alloc(1, sizeof *s);
  if (!s) return PG_ERR_MEMORY;
  pg_status status = open_parts(s, path);
  if (status == PG_OK) {
    *out = s;
  } else {
    pg_stream_close(s);
  }
  return status;
}

void pg_stream_close(pg_stream *s) {
  if (!s) return;
  if (s->codec) s->codec->end(s);
  if (s->fd >= 0) close(s->fd);
  pg_free(s->in);
  pg_free(s->path);
  pg_free(s);
}

const char *pg_stream_path(const pg_stream *s) {
  return s->path;
}

uint64_t pg_stream_offset(const pg_stream *s) {
  return s->at;
}

// ---- reading ----

pg_status pg_stream_read(pg_stream *s, void *dst, size_t n, size_t *got) {
  *got = 0;
  while (*got < n && !s->done) {
    size_t more = 0;
    PG_TRY(fill_input(s));
    PG_TRY(s->codec->decode(s, (uint8_t *)dst + *got, n - *got, &more));
    *got += more;
    s->at += more;
  }
  return PG_OK;
}

pg_status pg_stream_read_exact(pg_stream *s, void *dst, size_t n, const char *what) {
  size_t got;
  uint64_t at = s->at;
  PG_TRY(pg_stream_read(s, dst, n, &got));
  if (got == n) return PG_OK;
  return pg_fail(PG_ERR_FORMAT, "%s: byte %llu: the file ends inside %s (found %zu bytes, expected %zu)", s->path,
                 (unsigned long long)at, what, got, n);
}

pg_status pg_stream_read_some(pg_stream *s, uint64_t limit, uint8_t **data, size_t *size) {
  uint8_t *buffer = NULL;
  size_t cap = 0, at = 0, got = 0, room = 0;
  if (limit > SIZE_MAX / 4) limit = SIZE_MAX / 4;
  pg_status status = PG_OK;
  do {
    size_t first = limit < CHUNK ? (size_t)limit + 1 : CHUNK; // pg_grow doubles from there
    status = pg_grow(&buffer, &cap, at ? at + 2 : first, 1);
    if (status != PG_OK) break;
    room = cap - 1 - at < limit - at ? cap - 1 - at : (size_t)(limit - at);
    status = pg_stream_read(s, buffer + at, room, &got);
    at += got;
  } while (status == PG_OK && got == room && at < limit);
  if (status != PG_OK) {
    pg_free(buffer);
    return status;
  }
  buffer[at] = 0;
  *data = buffer;
  *size = at;
  return PG_OK;
}

pg_status pg_stream_expect_end(pg_stream *s) {
  uint8_t byte;
  size_t got;
  uint64_t at = s->at;
  PG_TRY(pg_stream_read(s, &byte, 1, &got));
  if (got == 0) return PG_OK;
  return pg_fail(PG_ERR_FORMAT, "%s: byte %llu: the file goes on after the end its header promises", s->path,
                 (unsigned long long)at);
}

// ---- whole files ----

static uint64_t limit_bytes;

void pg_stream_set_limit(uint64_t bytes) {
  limit_bytes = bytes;
}

uint64_t pg_stream_limit(void) {
  if (limit_bytes) return limit_bytes;
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  uint64_t half = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page / 2 : DEFAULT_LIMIT;
  return half < DEFAULT_LIMIT ? half : DEFAULT_LIMIT;
}

static pg_status fail_limit(const pg_stream *s) {
  return pg_fail(PG_ERR_MEMORY, "%s: the content is larger than the limit of %llu bytes", s->path,
                 (unsigned long long)pg_stream_limit());
}

static pg_status read_all(pg_stream *s, uint8_t **data, size_t *size) {
  uint64_t limit = pg_stream_limit();
  PG_TRY(pg_stream_read_some(s, limit, data, size));
  if (*size < limit || pg_stream_expect_end(s) == PG_OK) return PG_OK;
  pg_free(*data);
  *data = NULL;
  return fail_limit(s);
}

static pg_status check_payload(pg_stream *s, uint64_t begin, size_t size, uint64_t bytes, const char *what) {
  if (size == bytes) return pg_stream_expect_end(s);
  return pg_fail(PG_ERR_FORMAT, "%s: byte %llu: the file ends inside %s (found %zu bytes, expected %llu)", s->path,
                 (unsigned long long)(begin + size), what, size, (unsigned long long)bytes);
}

pg_status pg_stream_read_payload(pg_stream *s, uint64_t bytes, const char *what, uint8_t **data) {
  uint64_t begin = s->at, limit = pg_stream_limit();
  size_t size;
  PG_TRY(pg_stream_read_some(s, bytes < limit ? bytes : limit, data, &size));
  pg_status status = size < bytes && size == limit ? fail_limit(s) : check_payload(s, begin, size, bytes, what);
  if (status == PG_OK) return PG_OK;
  pg_free(*data);
  *data = NULL;
  return status;
}

pg_status pg_read_file(const char *path, uint8_t **data, size_t *size) {
  pg_stream *s;
  PG_TRY(pg_stream_open(path, &s));
  pg_status status = read_all(s, data, size);
  pg_stream_close(s);
  return status;
}
