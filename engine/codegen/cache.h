// cache.h: the directory where compiled code is kept.
#ifndef PG_CODEGEN_CACHE_H
#define PG_CODEGEN_CACHE_H

#include "engine/core/error.h"

enum { PG_CACHE_PATH = 4096 };

typedef struct pg_cache {
  char directory[PG_CACHE_PATH - 128]; // leaves room for the names inside
  bool temporary;                      // there was no lasting place; goes away with pg_cache_close
} pg_cache;

// Find and if need be create the directory: $PERIGEE_CACHE, else $XDG_CACHE_HOME/perigee, else ~/.cache/perigee, else a
// temporary one. PG_ERR_IO with the message set if it belongs to somebody else or others may write to it.
pg_status pg_cache_open(pg_cache *cache);
void pg_cache_close(const pg_cache *cache);

// Is there an undamaged entry at `path`?
bool pg_cache_check(const char *path);
// Seal the shared object at `made` with its hash and move it to `path`. Readers see the whole entry or none.
pg_status pg_cache_keep(const pg_cache *cache, const char *made, const char *path);

#endif
