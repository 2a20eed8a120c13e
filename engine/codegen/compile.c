// compile.c: from kernels to machine code: finds a C compiler, runs it on the generated source, keeps the result in a
// private cache on disk keyed by content, and loads it. Code with the same content is shared inside the process.
//
// Generated code is native code that we load, so the cache is trusted only if nobody else can write to it: the
// directory must be ours and writable by us alone. Each entry ends with the SHA-256 of what stands before (a loader
// ignores what follows an ELF image); an entry that does not match is built again.
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/codegen/cache.h"
#include "engine/codegen/compiler.h"
#include "engine/codegen/generate.h"
#include "engine/core/sha256.h"

struct pg_code {
  char key[65];
  int references;
  void *library;
  char *source;
  int n;
  pg_kernel_fn *entries;
  double seconds;
  pg_code *next;
};

static pg_code *loaded; // all code in use; the engine is called from one thread at a time

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// What a cache entry depends on. Parts are separated by a byte that is in none of them.
static void make_key(const char *source, char key[65]) {
  const char *const parts[] = {source, pg_compiler_identity()};
  uint8_t digest[32];
  pg_sha256 sha;
  pg_sha256_begin(&sha);
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) pg_sha256_add(&sha, parts[i], strlen(parts[i]) + 1);
  pg_sha256_end(&sha, digest);
  pg_sha256_hex(digest, key);
}

static pg_code *find_loaded(const char *key) {
  pg_code *code = loaded;
  while (code && strcmp(code->key, key) != 0) code = code->next;
  return code;
}

static void unload(pg_code *code) {
  if (code->library) dlclose(code->library);
  pg_free(code->entries);
  code->library = NULL;
  code->entries = NULL;
}

static void destroy(pg_code *code) {
  unload(code);
  pg_free(code->source);
  pg_free(code);
}

static pg_status load(pg_code *code, const char *path) {
  code->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!code->library) return pg_fail(PG_ERR_INTERNAL, "generated code does not load: %s", dlerror());
  code->entries = pg_alloc((size_t)code->n, sizeof *code->entries);
  if (!code->entries) return PG_ERR_MEMORY;
  for (int i = 0; i < code->n; i++) {
    char name[32];
    snprintf(name, sizeof name, "pg_kernel_%d", i);
    *(void **)&code->entries[i] = dlsym(code->library, name);
    if (!code->entries[i]) return pg_fail(PG_ERR_INTERNAL, "generated code lacks %s", name);
  }
  return PG_OK;
}

// ---- building ------------------------------------------------------------------------------------------------------

static pg_status write_source(const char *path, const char *source) {
  FILE *f = fopen(path, "wx");
  bool good = f && fputs(source, f) >= 0;
  if (f) good = fclose(f) == 0 && good;
  return good ? PG_OK : pg_fail(PG_ERR_IO, "writing %s: %s", path, strerror(errno));
}

// Compile beside the entry under names of our own, then move the result to its place.
static pg_status build_entry(const pg_cache *cache, const char *source, const char *path) {
  char c[PG_CACHE_PATH], object[PG_CACHE_PATH];
  static int counter;
  int number = counter++;
  snprintf(c, sizeof c, "%s/build-%ld-%d.c", cache->directory, (long)getpid(), number);
  snprintf(object, sizeof object, "%s/build-%ld-%d.so", cache->directory, (long)getpid(), number);
  unlink(c); // left by a process of the same number that was killed
  pg_status status = write_source(c, source);
  if (status == PG_OK) status = pg_compiler_run(c, object);
  if (status == PG_OK) status = pg_cache_keep(cache, object, path);
  unlink(c);
  unlink(object);
  return status;
}

static pg_status load_or_build(pg_code *code) {
  pg_cache cache;
  char path[PG_CACHE_PATH];
  PG_TRY(pg_cache_open(&cache));
  snprintf(path, sizeof path, "%s/%s.so", cache.directory, code->key);
  pg_status status = pg_cache_check(path) ? load(code, path) : PG_ERR_FORMAT;
  if (status != PG_OK) {
    unload(code);
    double start = now();
    status = build_entry(&cache, code->source, path);
    code->seconds = now() - start;
    if (status == PG_OK) status = load(code, path);
    if (status != PG_OK) unlink(path); // never keep what does not load
  }
  if (cache.temporary) unlink(path);
  pg_cache_close(&cache);
  return status;
}

pg_status pg_code_build(int n, const pg_kernel *const *kernels, pg_code **out) {
  *out = NULL;
  if (!pg_compiler_available()) return pg_fail(PG_ERR_UNSUPPORTED, "C compiler: %s", pg_compiler_description());
  char *source = pg_generate_source(n, kernels);
  if (!source) return PG_ERR_MEMORY;
  char key[65];
  make_key(source, key);
  pg_code *code = find_loaded(key);
  if (code) {
    code->references++;
    pg_free(source);
    *out = code;
    return PG_OK;
  }
  code = pg_alloc(1, sizeof *code);
  if (!code) {
    pg_free(source);
    return PG_ERR_MEMORY;
  }
  memcpy(code->key, key, sizeof key);
  code->n = n;
  code->source = source;
  code->references = 1;
  pg_status status = load_or_build(code);
  if (status != PG_OK) {
    destroy(code);
    return status;
  }
  code->next = loaded;
  *out = loaded = code;
  return PG_OK;
}

pg_kernel_fn pg_code_entry(const pg_code *code, int i) {
  return code->entries[i];
}

const char *pg_code_source(const pg_code *code) {
  return code->source;
}

double pg_code_compile_seconds(const pg_code *code) {
  return code->seconds;
}

void pg_code_free(pg_code *code) {
  if (!code || --code->references > 0) return;
  pg_code **link = &loaded;
  while (*link != code) link = &(*link)->next;
  *link = code->next;
  destroy(code);
}
