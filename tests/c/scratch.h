// scratch.h: what the tests of file formats share: a scratch directory, writing bytes, damaging them, and a fixed
// stream of random numbers whose seed is printed.
#ifndef PG_TESTS_SCRATCH_H
#define PG_TESTS_SCRATCH_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/c/check.h"

enum { SCRATCH_SEED = 20240607 };
static char scratch_directory[256];
static uint64_t scratch_state = SCRATCH_SEED;

__attribute__((unused)) static uint64_t scratch_random(void) { // splitmix64
  uint64_t z = scratch_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

__attribute__((unused)) static void scratch_begin(void) {
  const char *base = getenv("TMPDIR");
  snprintf(scratch_directory, sizeof scratch_directory, "%s/perigee-test-XXXXXX", base && *base ? base : P_tmpdir);
  if (!mkdtemp(scratch_directory)) exit((perror(scratch_directory), 2));
  printf("# seed %d\n", SCRATCH_SEED);
}

__attribute__((unused)) static int scratch_count_files(void) {
  int n = 0;
  DIR *d = opendir(scratch_directory);
  while (readdir(d)) n++;
  closedir(d);
  return n - 2;
}

__attribute__((unused)) static void scratch_end(void) {
  char path[600];
  DIR *d = opendir(scratch_directory);
  for (struct dirent *e; (e = readdir(d));) {
    snprintf(path, sizeof path, "%s/%s", scratch_directory, e->d_name);
    if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) remove(path);
  }
  closedir(d);
  rmdir(scratch_directory);
}

// The path of a scratch file; four may be in use at a time.
__attribute__((unused)) static const char *scratch_path(const char *name) {
  static char paths[4][512];
  static int next;
  next = (next + 1) % 4;
  snprintf(paths[next], sizeof paths[next], "%s/%s", scratch_directory, name);
  return paths[next];
}

__attribute__((unused)) static const char *scratch_write(const char *name, const void *bytes, size_t n) {
  const char *path = scratch_path(name);
  FILE *f = fopen(path, "wb");
  if (f && n) fwrite(bytes, 1, n, f);
  if (f) fclose(f);
  return path;
}

__attribute__((unused)) static uint8_t *scratch_read(const char *path, size_t *n) {
  *n = 0;
  FILE *f = fopen(path, "rb");
  CHECK_THAT(f, "%s", path);
  fseek(f, 0, SEEK_END);
  *n = (size_t)ftell(f);
  rewind(f);
  uint8_t *bytes = malloc(*n + 1);
  *n = fread(bytes, 1, *n, f);
  fclose(f);
  return bytes;
}

// A failure whose message names the file.
#define CHECK_REFUSED(call, path)                                                                                      \
  do {                                                                                                                 \
    pg_status refused_ = (call);                                                                                       \
    CHECK_THAT(refused_ != PG_OK, "accepted");                                                                         \
    CHECK_THAT(strstr(pg_last_error(), path) == pg_last_error(), "message '%s'", pg_last_error());                     \
    CHECK_THAT(!strchr(pg_last_error(), '\n'), "message '%s'", pg_last_error());                                       \
  } while (0)

__attribute__((unused)) static bool same_tensor(const pg_tensor *a, const pg_tensor *b) {
  if (pg_tensor_dtype(a) != pg_tensor_dtype(b) || pg_tensor_ndim(a) != pg_tensor_ndim(b)) return false;
  for (int i = 0; i < pg_tensor_ndim(a); i++)
    if (pg_tensor_shape(a)[i] != pg_tensor_shape(b)[i]) return false;
  return !memcmp(pg_tensor_data(a), pg_tensor_data(b), pg_tensor_bytes(a));
}

// A tensor of random bytes (0 and 1 for bool).
__attribute__((unused)) static pg_tensor *random_tensor(pg_dtype dtype, int ndim, const int64_t *shape) {
  pg_tensor *t;
  CHECK_STATUS(pg_tensor_new(dtype, ndim, shape, NULL, &t), PG_OK);
  uint8_t *p = pg_tensor_data(t);
  for (size_t i = 0; i < pg_tensor_bytes(t); i++) p[i] = (uint8_t)(scratch_random() & (dtype == PG_BOOL ? 1 : 255));
  return t;
}

#endif
