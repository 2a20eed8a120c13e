// cache.c: the table of eager plans: open addressing over entries that do not move; see cache.h.
#include "bindings/cache.h"

#include <stdlib.h>
#include <string.h>

#include "engine/core/memory.h"

enum { MAX_ENTRIES = 2048, TABLE_SIZE = 4096 };

struct pgl_cache {
  size_t count;
  uint64_t clock;
  pgl_entry *table[TABLE_SIZE];
};

uint64_t pgl_hash_words(const uint64_t *words, size_t n) {
  uint64_t h = 0x9e3779b97f4a7c15u + n;
  for (size_t i = 0; i < n; i++) {
    h = (h ^ words[i]) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
  }
  return h;
}

pgl_entry *pgl_cache_find(pgl_cache *cache, uint64_t hash, const uint64_t *words, size_t n) {
  if (!cache) return NULL;
  for (size_t i = hash % TABLE_SIZE;; i = (i + 1) % TABLE_SIZE) {
    pgl_entry *e = cache->table[i];
    if (!e) return NULL;
    if (e->hash == hash && e->nwords == n && memcmp(e->words, words, n * sizeof *words) == 0) {
      e->stamp = ++cache->clock;
      return e;
    }
  }
}

static void free_entry(pgl_entry *e) {
  pg_plan_free(e->plan);
  pg_layout_release(e->layout);
  for (int i = 0; i < e->nheld; i++) pg_layout_release(e->held[i]);
  pg_free(e->held);
  pg_free(e->words);
  pg_free(e);
}

static void put(pgl_cache *cache, pgl_entry *e) {
  size_t i = e->hash % TABLE_SIZE;
  while (cache->table[i]) i = (i + 1) % TABLE_SIZE;
  cache->table[i] = e;
  cache->count++;
}

static int newest_first(const void *a, const void *b) {
  const pgl_entry *p = *(pgl_entry *const *)a, *q = *(pgl_entry *const *)b;
  return (p->stamp < q->stamp) - (p->stamp > q->stamp);
}

static void drop_oldest(pgl_cache *cache) {
  pgl_entry *all[MAX_ENTRIES];
  size_t n = 0;
  for (size_t i = 0; i < TABLE_SIZE; i++)
    if (cache->table[i]) all[n++] = cache->table[i];
  qsort(all, n, sizeof *all, newest_first);
  memset(cache->table, 0, sizeof cache->table);
  cache->count = 0;
  for (size_t i = 0; i < n; i++)
    if (i < MAX_ENTRIES / 2)
      put(cache, all[i]);
    else
      free_entry(all[i]);
}

pgl_entry *pgl_cache_add(pgl_cache **cache, const uint64_t *words, size_t n, pg_plan *plan, const pg_layout **held,
                         int nheld) {
  if (!*cache) *cache = pg_alloc(1, sizeof **cache);
  pgl_entry *e = pg_alloc(1, sizeof *e);
  if (!e) {
    pg_plan_free(plan);
    for (int i = 0; i < nheld; i++) pg_layout_release(held[i]);
    pg_free(held);
    return NULL;
  }
  *e = (pgl_entry){.hash = pgl_hash_words(words, n), .nwords = n, .plan = plan, .held = held, .nheld = nheld};
  e->ndim = pg_plan_output_shape(plan, 0, &e->dtype, e->shape);
  const pg_layout *layout = pg_plan_output_layout(plan, 0);
  e->layout = layout ? pg_layout_retain(layout) : NULL;
  e->words = pg_alloc(n, sizeof *words);
  if (!*cache || !e->words) {
    free_entry(e);
    return NULL;
  }
  memcpy(e->words, words, n * sizeof *words);
  if ((*cache)->count >= MAX_ENTRIES) drop_oldest(*cache);
  e->stamp = ++(*cache)->clock;
  put(*cache, e);
  return e;
}

void pgl_free_cache(pgl_cache *cache) {
  if (!cache) return;
  for (size_t i = 0; i < TABLE_SIZE; i++)
    if (cache->table[i]) free_entry(cache->table[i]);
  pg_free(cache);
}
