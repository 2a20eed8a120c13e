// memory.h: the one way to allocate. Small bookkeeping goes through pg_alloc/pg_realloc (zero-filled, sizes checked for
// overflow); tensor memory and the arena through pg_aligned_alloc (64 bytes, huge pages where large).
#ifndef PG_CORE_MEMORY_H
#define PG_CORE_MEMORY_H

#include "engine/perigee.h"

// Zero-filled count * size bytes, or NULL with the message set. count 0 gives a valid pointer.
void *pg_alloc(size_t count, size_t size);
// Grow an array to hold at least `need` elements of `size`, doubling; *cap is updated. New elements are zero.
// On failure returns PG_ERR_MEMORY and leaves the array as it was.
pg_status pg_grow(void *array_pointer, size_t *cap, size_t need, size_t size);
void pg_free(void *p); // NULL is allowed
char *pg_strdup(const char *s);

// 64-byte aligned, zero-filled, counted in pg_memory_used(); NULL with the message set.
void *pg_aligned_alloc(size_t bytes);
void pg_aligned_free(void *p, size_t bytes);

// Zero-filled memory over a file in `directory` that has no name, so that it goes with the process: for tables larger
// than memory. Its room on the disk is reserved here, since a write that finds the disk full would kill the process.
// Not counted in pg_memory_used(). Errors: PG_ERR_IO.
pg_status pg_file_alloc(size_t bytes, const char *directory, void **out);
void pg_file_free(void *p, size_t bytes);

// The arena that all plans share for what lives only during a run; contents do not survive a run. Reserving may move
// it.
pg_status pg_arena_reserve(size_t bytes);
void *pg_arena(void);

#endif
