// atomic.c: write to a temporary name, sync, rename, sync the directory. See atomic.h.
#include "engine/io/atomic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/core/error.h"
#include "engine/core/memory.h"

struct pg_atomic {
  char *path, *temporary;
  int fd;
  bool failed;
};

// Bytes of `path` before its last component, the slash included.
static size_t directory_length(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? (size_t)(slash - path) + 1 : 0;
}

// A name beside `path` that no one else uses: hidden, with our process id and a count. The name is cut so that it stays
// within what file systems allow.
static char *make_temporary_name(const char *path) {
  static unsigned count;
  size_t directory = directory_length(path), cap = strlen(path) + 64;
  char *name = pg_alloc(cap, 1);
  if (!name) return NULL;
  snprintf(name, cap, "%.*s.%.180s.%ld.%u.tmp", (int)directory, path, path + directory, (long)getpid(),
           __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED));
  return name;
}

static void free_atomic(pg_atomic *a) {
  if (a->fd >= 0) close(a->fd);
  pg_free(a->path);
  pg_free(a->temporary);
  pg_free(a);
}

// A stale temporary file of a dead process with our id is in the way at most; O_EXCL then tries the next count.
static pg_status create_temporary(pg_atomic *a) {
  for (int attempt = 0; attempt < 100; attempt++) {
    a->temporary = make_temporary_name(a->path);
    if (!a->temporary) return PG_ERR_MEMORY;
    a->fd = open(a->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (a->fd >= 0) return PG_OK;
    if (errno != EEXIST && errno != EINTR) break;
    pg_free(a->temporary);
    a->temporary = NULL;
  }
  return pg_fail(PG_ERR_IO, "%s: cannot create a file beside it: %s", a->path, strerror(errno));
}

pg_status pg_atomic_begin(const char *path, pg_atomic **out) {
  *out = NULL;
  pg_atomic *a = pg_alloc(1, sizeof *a);
  if (!a) return PG_ERR_MEMORY;
  a->fd = -1;
  a->path = pg_strdup(path);
  pg_status status = a->path ? create_temporary(a) : PG_ERR_MEMORY;
  if (status == PG_OK) {
    *out = a;
  } else {
    free_atomic(a);
  }
  return status;
}

pg_status pg_write_all(int fd, const void *data, size_t n, const char *path) {
  const char *p = data;
  while (n > 0) {
    ssize_t put = write(fd, p, n < (1u << 30) ? n : (1u << 30));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return pg_fail(PG_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    p += put;
    n -= (size_t)put;
  }
  return PG_OK;
}

pg_status pg_atomic_write(pg_atomic *a, const void *data, size_t n) {
  pg_status status = pg_write_all(a->fd, data, n, a->path);
  if (status != PG_OK) a->failed = true;
  return status;
}

static int sync_descriptor(int fd) {
  int rc;
  do rc = fsync(fd);
  while (rc < 0 && errno == EINTR);
  return rc;
}

pg_status pg_sync_directory_of(const char *path) {
  size_t n = directory_length(path);
  char *directory = pg_strdup(n ? path : ".");
  if (!directory) return PG_ERR_MEMORY;
  if (n) directory[n] = 0;
  int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int rc = fd < 0 ? -1 : sync_descriptor(fd);
  // Some file systems cannot sync directories (EINVAL); the rename itself is then all there is.
  pg_status status = rc == 0 || errno == EINVAL
                         ? PG_OK
                         : pg_fail(PG_ERR_IO, "%s: cannot sync its directory: %s", path, strerror(errno));
  if (fd >= 0) close(fd);
  pg_free(directory);
  return status;
}

// close() can report a write error of its own (NFS), so it stands before the rename.
static pg_status finish_temporary(pg_atomic *a) {
  if (a->failed) return pg_fail(PG_ERR_IO, "%s: not replaced: an earlier write failed", a->path);
  int rc = sync_descriptor(a->fd), why = errno;
  int closed = close(a->fd);
  a->fd = -1;
  if (rc < 0) return pg_fail(PG_ERR_IO, "%s: cannot sync: %s", a->path, strerror(why));
  if (closed < 0 && errno != EINTR) return pg_fail(PG_ERR_IO, "%s: cannot close: %s", a->path, strerror(errno));
  if (rename(a->temporary, a->path) == 0) return PG_OK;
  return pg_fail(PG_ERR_IO, "%s: cannot rename the finished file: %s", a->path, strerror(errno));
}

pg_status pg_atomic_commit(pg_atomic *a) {
  pg_status status = finish_temporary(a);
  if (status != PG_OK) {
    pg_atomic_abort(a);
    return status;
  }
  status = pg_sync_directory_of(a->path);
  free_atomic(a);
  return status;
}

void pg_atomic_abort(pg_atomic *a) {
  if (!a) return;
  unlink(a->temporary);
  free_atomic(a);
}

pg_status pg_write_file_atomic(const char *path, const void *data, size_t n) {
  pg_atomic *a;
  PG_TRY(pg_atomic_begin(path, &a));
  pg_status status = pg_atomic_write(a, data, n);
  if (status == PG_OK) return pg_atomic_commit(a);
  pg_atomic_abort(a);
  return status;
}
