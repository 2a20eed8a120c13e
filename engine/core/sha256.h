// sha256.h: SHA-256 (FIPS 180-4), for names of contents: recipes, data sets, bundles. Not for secrets.
#ifndef PG_CORE_SHA256_H
#define PG_CORE_SHA256_H

#include "engine/perigee.h"

typedef struct pg_sha256 {
  uint32_t h[8];
  uint64_t bytes;
  uint8_t block[64];
} pg_sha256;

void pg_sha256_begin(pg_sha256 *s);
void pg_sha256_add(pg_sha256 *s, const void *data, size_t n);
void pg_sha256_end(pg_sha256 *s, uint8_t digest[32]);
void pg_sha256_hex(const uint8_t digest[32], char hex[65]);

// The digest in hexadecimal of a file's bytes as they are stored (compressed files are not decoded).
pg_status pg_sha256_file(const char *path, char hex[65]);

#endif
