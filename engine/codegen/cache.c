// cache.c: the directory where compiled code is kept: private to the user, every entry sealed with a hash, every entry
// written under a temporary name and renamed. See compile.c for what is in it.
#include "engine/codegen/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/core/sha256.h"

// What follows the shared object in an entry: a mark and the SHA-256 of all before the mark.
static const char mark[8] = "PGSEAL01";
enum { SEAL = sizeof mark + 32 };

// ---- the directory -------------------------------------------------------------------------------------------------

// Create `path` and the directories above it that are missing.
static bool make_directories(const char *path) {
  char part[PG_CACHE_PATH];
  snprintf(part, sizeof part, "%s", path);
  for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    if (mkdir(part, 0700) != 0 && errno != EEXIST) return false;
    *slash = '/';
  }
  return mkdir(path, 0700) == 0 || errno == EEXIST;
}

static pg_status check_directory(const char *path) {
  struct stat s;
  if (lstat(path, &s) != 0) return pg_fail(PG_ERR_IO, "code cache %s: %s", path, strerror(errno));
  if (!S_ISDIR(s.st_mode)) return pg_fail(PG_ERR_IO, "code cache %s: not a directory", path);
  if (s.st_uid != geteuid()) return pg_fail(PG_ERR_IO, "code cache %s: belongs to another user", path);
  if (s.st_mode & (S_IWGRP | S_IWOTH))
    return pg_fail(PG_ERR_IO, "code cache %s: others may write to it (mode %03o); chmod it to 700", path,
                   (unsigned)s.st_mode & 0777);
  return PG_OK;
}

static pg_status open_temporary(pg_cache *cache) {
  snprintf(cache->directory, sizeof cache->directory, "/tmp/perigee-XXXXXX");
  if (!mkdtemp(cache->directory)) return pg_fail(PG_ERR_IO, "code cache: no place for it: %s", strerror(errno));
  cache->temporary = true;
  return PG_OK;
}

pg_status pg_cache_open(pg_cache *cache) {
  const struct {
    const char *variable, *below;
    bool strict; // the user named this very directory: no other will do
  } places[] = {{"PERIGEE_CACHE", "", true}, {"XDG_CACHE_HOME", "/perigee", false}, {"HOME", "/.cache/perigee", false}};
  cache->temporary = false;
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    const char *base = getenv(places[i].variable);
    if (!base || !*base) continue;
    int n = snprintf(cache->directory, sizeof cache->directory, "%s%s", base, places[i].below);
    bool usable = base[0] == '/' && n < (int)sizeof cache->directory;
    if (!usable && places[i].strict) return pg_fail(PG_ERR_IO, "PERIGEE_CACHE is not an absolute path of fair length");
    if (usable && make_directories(cache->directory)) return check_directory(cache->directory);
    if (places[i].strict) return pg_fail(PG_ERR_IO, "code cache %s: %s", cache->directory, strerror(errno));
  }
  return open_temporary(cache);
}

void pg_cache_close(const pg_cache *cache) {
  if (cache->temporary) rmdir(cache->directory);
}

// ---- entries -------------------------------------------------------------------------------------------------------

// SHA-256 of the file's first `size` bytes. False if they cannot be read.
static bool hash_file(int fd, int64_t size, uint8_t digest[32]) {
  char part[1 << 14];
  pg_sha256 sha;
  pg_sha256_begin(&sha);
  for (int64_t at = 0; at < size;) {
    size_t want = size - at < (int64_t)sizeof part ? (size_t)(size - at) : sizeof part;
    ssize_t n = pread(fd, part, want, at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    pg_sha256_add(&sha, part, (size_t)n);
    at += n;
  }
  pg_sha256_end(&sha, digest);
  return true;
}

static void make_seal(const uint8_t digest[32], char seal[SEAL]) {
  memcpy(seal, mark, sizeof mark);
  memcpy(seal + sizeof mark, digest, 32);
}

bool pg_cache_check(const char *path) {
  struct stat s;
  uint8_t digest[32];
  char wanted[SEAL], found[SEAL];
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return false;
  bool good = fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && s.st_size > SEAL && hash_file(fd, s.st_size - SEAL, digest) &&
              pread(fd, found, SEAL, s.st_size - SEAL) == SEAL;
  close(fd);
  if (!good) return false;
  make_seal(digest, wanted);
  return memcmp(wanted, found, SEAL) == 0;
}

static bool seal_file(int fd) {
  struct stat s;
  uint8_t digest[32];
  char seal[SEAL];
  if (fstat(fd, &s) != 0 || !hash_file(fd, s.st_size, digest)) return false;
  make_seal(digest, seal);
  return pwrite(fd, seal, SEAL, s.st_size) == SEAL && fsync(fd) == 0;
}

static void sync_directory(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
  if (fd < 0) return; // the entry is whole either way; at worst it is built again after a crash
  fsync(fd);
  close(fd);
}

pg_status pg_cache_keep(const pg_cache *cache, const char *made, const char *path) {
  int fd = open(made, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  bool good = fd >= 0 && seal_file(fd);
  if (fd >= 0) good = close(fd) == 0 && good;
  good = good && rename(made, path) == 0;
  if (!good) return pg_fail(PG_ERR_IO, "code cache %s: %s", cache->directory, strerror(errno));
  sync_directory(cache->directory);
  return PG_OK;
}
