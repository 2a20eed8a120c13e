// memory.c: allocation for the whole engine; see memory.h. Tensor memory is counted so that a limit can be put on it
// and so that the Lua side can tell its collector.
#define _GNU_SOURCE
#include "engine/core/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/core/error.h"

enum { PG_ALIGN = 64, PG_HUGE = 2 << 20 };

static size_t used_bytes, limit_bytes;
static void *arena;
static size_t arena_bytes;

void *pg_alloc(size_t count, size_t size) {
  size_t total;
  if (__builtin_mul_overflow(count, size, &total)) {
    pg_fail(PG_ERR_MEMORY, "out of memory: %zu elements of %zu bytes overflow", count, size);
    return NULL;
  }
  void *p = calloc(1, total ? total : 1);
  if (!p) pg_fail(PG_ERR_MEMORY, "out of memory: %zu bytes", total);
  return p;
}

pg_status pg_grow(void *array_pointer, size_t *cap, size_t need, size_t size) {
  if (need <= *cap) return PG_OK;
  size_t next = *cap ? *cap : 8, total;
  while (next < need) {
    if (next > SIZE_MAX / 2) return pg_fail(PG_ERR_MEMORY, "out of memory: an array of %zu elements", need);
    next *= 2;
  }
  if (__builtin_mul_overflow(next, size, &total))
    return pg_fail(PG_ERR_MEMORY, "out of memory: %zu elements of %zu bytes overflow", next, size);
  void *old, *p;
  memcpy(&old, array_pointer, sizeof old);
  p = realloc(old, total);
  if (!p) return pg_fail(PG_ERR_MEMORY, "out of memory: %zu bytes", total);
  memset((char *)p + *cap * size, 0, (next - *cap) * size);
  memcpy(array_pointer, &p, sizeof p);
  *cap = next;
  return PG_OK;
}

void pg_free(void *p) {
  free(p);
}

char *pg_strdup(const char *s) {
  size_t n = strlen(s) + 1;
  char *copy = pg_alloc(n, 1);
  if (copy) memcpy(copy, s, n);
  return copy;
}

static double gib(size_t bytes) {
  return (double)bytes / (double)(1 << 30);
}

void *pg_aligned_alloc(size_t bytes) {
  size_t size = (bytes + PG_ALIGN - 1) / PG_ALIGN * PG_ALIGN;
  if (size < bytes || (limit_bytes && (used_bytes > limit_bytes || size > limit_bytes - used_bytes))) {
    pg_fail(PG_ERR_MEMORY, "out of memory: %.2f GiB of tensors on top of %.2f exceed the limit of %.2f", gib(bytes),
            gib(used_bytes), gib(limit_bytes));
    return NULL;
  }
  if (size == 0) size = PG_ALIGN;
  // Large blocks sit on huge pages: walking 25M parameters through 4 KiB pages costs a tenth of the bandwidth.
  void *p = aligned_alloc(size >= PG_HUGE ? PG_HUGE : PG_ALIGN,
                          size >= PG_HUGE ? (size + PG_HUGE - 1) / PG_HUGE * PG_HUGE : size);
  if (!p) {
    pg_fail(PG_ERR_MEMORY, "out of memory: %zu bytes", bytes);
    return NULL;
  }
  if (size >= PG_HUGE) madvise(p, (size + PG_HUGE - 1) / PG_HUGE * PG_HUGE, MADV_HUGEPAGE);
  memset(p, 0, size);
  used_bytes += bytes;
  return p;
}

void pg_aligned_free(void *p, size_t bytes) {
  if (!p) return;
  used_bytes -= bytes;
  free(p);
}

// A new file without a name in a directory, or -1.
static int open_nameless(const char *directory) {
  char path[4096];
  int n = snprintf(path, sizeof path, "%s/perigee-XXXXXX", directory);
  if (n < 0 || (size_t)n >= sizeof path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  int fd = mkostemp(path, O_CLOEXEC);
  if (fd >= 0) unlink(path);
  return fd;
}

pg_status pg_file_alloc(size_t bytes, const char *directory, void **out) {
  *out = NULL;
  int fd = open_nameless(directory);
  if (fd < 0) return pg_fail(PG_ERR_IO, "%s: cannot create a file there: %s", directory, strerror(errno));
  int failure = posix_fallocate(fd, 0, bytes ? (off_t)bytes : 1);
  void *p = failure ? MAP_FAILED : mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (!failure && p == MAP_FAILED) failure = errno;
  close(fd);
  if (failure) return pg_fail(PG_ERR_IO, "%s: no file of %.2f GiB there: %s", directory, gib(bytes), strerror(failure));
  *out = p;
  return PG_OK;
}

void pg_file_free(void *p, size_t bytes) {
  if (p) munmap(p, bytes ? bytes : 1);
}

size_t pg_memory_used(void) {
  return used_bytes;
}

void pg_memory_limit(size_t bytes) {
  limit_bytes = bytes;
}

pg_status pg_arena_reserve(size_t bytes) {
  if (bytes <= arena_bytes) return PG_OK;
  void *p = pg_aligned_alloc(bytes);
  if (!p) return PG_ERR_MEMORY;
  pg_aligned_free(arena, arena_bytes);
  arena = p;
  arena_bytes = bytes;
  return PG_OK;
}

void *pg_arena(void) {
  return arena;
}
