// stream.h: reading files from outside, plain or compressed, without trusting what they say about their size.
//
// The compression is found by its magic bytes (gzip, xz; anything else is plain). Memory grows only as decoded bytes
// really arrive, doubling, up to a limit, so neither a lying header nor a decompression bomb makes us allocate more
// than twice what was delivered. Reading is sequential; offsets count decoded bytes.
#ifndef PG_IO_STREAM_H
#define PG_IO_STREAM_H

#include "engine/perigee.h"

typedef struct pg_stream pg_stream;

// Open `path` for reading. Directories and devices without an end are refused. Errors: PG_ERR_IO, PG_ERR_MEMORY.
pg_status pg_stream_open(const char *path, pg_stream **out);
void pg_stream_close(pg_stream *s); // NULL is allowed
const char *pg_stream_path(const pg_stream *s);
uint64_t pg_stream_offset(const pg_stream *s); // decoded bytes delivered so far

// Read up to n bytes into dst; *got < n only at the end of the content. Broken compressed data is PG_ERR_FORMAT with
// the decoded offset. A missing end of a compressed file is an error, not an end.
pg_status pg_stream_read(pg_stream *s, void *dst, size_t n, size_t *got);

// Read exactly n bytes; fewer is PG_ERR_FORMAT "FILE: byte OFFSET: ends inside WHAT (...)".
pg_status pg_stream_read_exact(pg_stream *s, void *dst, size_t n, const char *what);

// Read at most `limit` bytes into new memory that grows as they arrive. *data is the caller's (pg_free); one zero byte
// follows the content.
pg_status pg_stream_read_some(pg_stream *s, uint64_t limit, uint8_t **data, size_t *size);

// The `bytes` bytes up to the end of the content, where a header promises exactly so many; fewer or more is
// PG_ERR_FORMAT, more than pg_stream_limit() PG_ERR_MEMORY. *data is the caller's (pg_free).
pg_status pg_stream_read_payload(pg_stream *s, uint64_t bytes, const char *what, uint8_t **data);

// Check that the content ends here; more bytes are PG_ERR_FORMAT.
pg_status pg_stream_expect_end(pg_stream *s);

// The whole decoded content of `path` (pg_free). More than the limit below is PG_ERR_MEMORY.
pg_status pg_read_file(const char *path, uint8_t **data, size_t *size);

// The most bytes of content we take from one file; 0 restores the default: 16 GiB or half the machine's memory, the
// smaller.
void pg_stream_set_limit(uint64_t bytes);
uint64_t pg_stream_limit(void);

#endif
