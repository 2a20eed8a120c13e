// count_malloc.c: a library to be preloaded that counts calls of malloc and its kin, and tells Lua: require
// "count_malloc" gives a function that returns how many there were.
#include <stddef.h>

#include <lua.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static long calls;

void *malloc(size_t size) {
  calls++;
  return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
  calls++;
  return __libc_calloc(count, size);
}

void *realloc(void *p, size_t size) {
  calls++;
  return __libc_realloc(p, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
  calls++;
  return __libc_memalign(alignment, size);
}

static int get_calls(lua_State *L) {
  lua_pushinteger(L, calls);
  return 1;
}

int luaopen_count_malloc(lua_State *L) {
  lua_pushcfunction(L, get_calls);
  return 1;
}
