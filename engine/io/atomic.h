// atomic.h: files that are either whole or not there. Bytes go to a temporary name in the same directory; commit syncs
// them, renames over the destination and syncs the directory, so a reader (or a machine that lost power) sees the old
// content or the new one, never a part.
#ifndef PG_IO_ATOMIC_H
#define PG_IO_ATOMIC_H

#include "engine/perigee.h"

typedef struct pg_atomic pg_atomic;

// Begin to write `path`. Errors: PG_ERR_IO, PG_ERR_MEMORY.
pg_status pg_atomic_begin(const char *path, pg_atomic **out);
// Append n bytes. After a failure only abort (or commit, which then fails and aborts) is useful.
pg_status pg_atomic_write(pg_atomic *a, const void *data, size_t n);
// Make the file appear under its name. Frees `a` either way; on failure the temporary file is gone and the destination
// untouched, unless the message says that only syncing the directory failed.
pg_status pg_atomic_commit(pg_atomic *a);
// Give up: removes the temporary file and frees `a`. NULL is allowed.
void pg_atomic_abort(pg_atomic *a);

// The three steps for content that is at hand.
pg_status pg_write_file_atomic(const char *path, const void *data, size_t n);

// Write all n bytes to a descriptor, through short writes and EINTR. `path` is for the message.
pg_status pg_write_all(int fd, const void *data, size_t n, const char *path);
// Sync the directory that holds `path`, so that a name made or renamed there survives a loss of power.
pg_status pg_sync_directory_of(const char *path);

#endif
