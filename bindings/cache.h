// cache.h: the eager plans of one Lua state, found by what an operation is applied to (DESIGN idea 3: eager operations
// are one-op plans through the same kernels).
#ifndef PGL_CACHE_H
#define PGL_CACHE_H

#include "engine/perigee.h"

typedef struct pgl_entry {
  uint64_t hash, stamp;
  size_t nwords;
  uint64_t *words; // the key
  pg_plan *plan;
  pg_dtype dtype; // of the result
  int ndim;
  int64_t shape[PG_MAX_NDIM];
  const pg_layout *layout;
  const pg_layout **held; // layouts whose addresses stand in the key
  int nheld;
} pgl_entry;

typedef struct pgl_cache pgl_cache;

uint64_t pgl_hash_words(const uint64_t *words, size_t n);
// The entry with this key, made the most recently used, or NULL.
pgl_entry *pgl_cache_find(pgl_cache *cache, uint64_t hash, const uint64_t *words, size_t n);
// Add an entry under the key (copied); takes the plan and `held` in every case. *cache is made if NULL. The least
// recently used half is dropped when the cache is full. NULL with the message set if memory runs out.
pgl_entry *pgl_cache_add(pgl_cache **cache, const uint64_t *words, size_t n, pg_plan *plan, const pg_layout **held,
                         int nheld);
void pgl_free_cache(pgl_cache *cache);

#endif
