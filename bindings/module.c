// module.c: the Lua modules: perigee.core (everything of bindings/), the library's scripts, which are embedded in the
// program, and the loader that makes `require "perigee"` and `require "perigee.nn"` find them.
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lualib.h>

#include "bindings/data.h"
#include "bindings/interrupt.h"
#include "bindings/module.h"
#include "bindings/scripts.h"
#include "bindings/tensor.h"

// ---- facts about engine and machine ----

static int core_set_threads(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 1);
  if (n < 0 || n > 4096) return pgl_error(L, "the number of threads is 0 (as many as there are) to 4096, got %I", n);
  pg_set_threads((int)n);
  return 0;
}

static int core_threads(lua_State *L) {
  lua_pushinteger(L, pg_threads());
  return 1;
}

// core.set_executor("auto"|"interpret"|"generate"): what "auto" means from now on; for tests.
static int core_set_executor(lua_State *L) {
  static const char *const names[] = {"auto", "interpret", "generate", NULL};
  static const pg_executor executors[] = {PG_EXEC_AUTO, PG_EXEC_INTERPRET, PG_EXEC_GENERATE};
  pg_set_executor(executors[luaL_checkoption(L, 1, NULL, names)]);
  return 0;
}

// core.memory_used() → bytes of tensors alive; core.memory_limit(bytes): 0 lifts it.
static int core_memory_used(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)pg_memory_used());
  return 1;
}

static int core_memory_limit(lua_State *L) {
  lua_Integer bytes = luaL_checkinteger(L, 1);
  if (bytes < 0) return pgl_error(L, "a memory limit is not negative, got %I", bytes);
  pg_memory_limit((size_t)bytes);
  return 0;
}

// core.collect(): a full collection, counted.
static int core_collect(lua_State *L) {
  pgl_collect(L);
  return 0;
}

// core.raise(message): an error at the recipe's own line.
static int core_raise(lua_State *L) {
  return pgl_error(L, "%s", luaL_checkstring(L, 1));
}

// core.where() → "recipe.lua:12: " or "".
static int core_where(lua_State *L) {
  pgl_push_where(L);
  return 1;
}

// ---- entries ----

static int finish_entry(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  return lua_gettop(L);
}

static int call_entry(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, finish_entry);
  return finish_entry(L, LUA_OK, 0);
}

// core.entry(f): f behind a C function. `return pg.cross_entropy(...)` in a recipe is a tail call, which would replace
// the recipe's frame, and with it the line that an error must name; calls of C functions never do.
static int core_entry(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  if (!lua_iscfunction(L, 1)) lua_pushcclosure(L, call_entry, 1);
  return 1;
}

static int core_doctor(lua_State *L) {
  lua_createtable(L, 0, 6);
  lua_pushstring(L, pg_build_description());
  lua_setfield(L, -2, "build");
  lua_pushstring(L, pg_blas_description());
  lua_setfield(L, -2, "blas");
  lua_pushstring(L, pg_compiler_description());
  lua_setfield(L, -2, "compiler");
  lua_pushstring(L, pg_cpu_description());
  lua_setfield(L, -2, "cpu");
  lua_pushinteger(L, pg_threads());
  lua_setfield(L, -2, "threads");
  lua_pushliteral(L, "none in this build");
  lua_setfield(L, -2, "cuda");
  return 1;
}

static const luaL_Reg functions[] = {{"set_threads", core_set_threads},
                                     {"threads", core_threads},
                                     {"set_executor", core_set_executor},
                                     {"memory_used", core_memory_used},
                                     {"memory_limit", core_memory_limit},
                                     {"collect", core_collect},
                                     {"raise", core_raise},
                                     {"where", core_where},
                                     {"entry", core_entry},
                                     {"doctor", core_doctor},
                                     {NULL, NULL}};

PGL_EXPORT int luaopen_perigee_core(lua_State *L) {
  luaL_newlib(L, functions);
  lua_pushliteral(L, PG_VERSION);
  lua_setfield(L, -2, "version");
  lua_pushinteger(L, PG_FORMAT_VERSION);
  lua_setfield(L, -2, "format_version");
  lua_pushinteger(L, PG_NUMERICS_VERSION);
  lua_setfield(L, -2, "numerics_version");
  pgl_open_tensor(L);
  pgl_open_access(L);
  pgl_open_layout(L);
  pgl_open_apply(L);
  pgl_open_trace(L);
  pgl_open_program(L);
  pgl_open_region(L);
  pgl_open_interrupt(L);
  luaopen_perigee_data(L);
  lua_setfield(L, -2, "data");
  return 1;
}

// ---- the embedded scripts ----

// Both push the chunk, or a message, and return what luaL_loadbufferx returns; -1 if there is no such script.

static int load_from_directory(lua_State *L, const char *dir, const char *name) {
  const char *path = lua_pushfstring(L, "%s/%s.lua", dir, name);
  FILE *f = fopen(path, "rb");
  lua_pop(L, 1);
  if (!f) return -1;
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (size_t n = 1; n > 0;) n = fread(luaL_prepbuffer(&b), 1, LUAL_BUFFERSIZE, f), luaL_addsize(&b, n);
  fclose(f);
  luaL_pushresult(&b);
  size_t len;
  const char *text = lua_tolstring(L, -1, &len);
  int status = luaL_loadbufferx(L, text, len, lua_pushfstring(L, "=[perigee]%s.lua", name), "t");
  lua_replace(L, -3);
  lua_pop(L, 1);
  return status;
}

static int load_embedded(lua_State *L, const char *name) {
  const pgl_script *s = pgl_scripts;
  while (s->name && strcmp(s->name, name) != 0) s++;
  if (!s->name) return -1;
  int status = luaL_loadbufferx(L, s->text, s->size, lua_pushfstring(L, "=[perigee]%s.lua", name), "t");
  lua_remove(L, -2);
  return status;
}

// The directory PERIGEE_SCRIPTS, if set, goes before the embedded copies: for work on the scripts without a build.
int pgl_load_script(lua_State *L, const char *name) {
  const char *dir = getenv("PERIGEE_SCRIPTS");
  int status = dir ? load_from_directory(L, dir, name) : -1;
  return status == -1 ? load_embedded(L, name) : status;
}

// A searcher for package.searchers: "perigee" and "perigee.NAME".
static int search_script(lua_State *L) {
  const char *module = luaL_checkstring(L, 1), *name = NULL;
  if (strcmp(module, "perigee") == 0) name = "init";
  if (strncmp(module, "perigee.", 8) == 0) name = module + 8;
  if (!name || strpbrk(name, "/\\")) return 0;
  int status = pgl_load_script(L, name);
  if (status == -1) {
    lua_pushfstring(L, "no script '%s' in perigee", name);
    return 1;
  }
  if (status != LUA_OK) return lua_error(L);
  lua_pushfstring(L, "[perigee]%s.lua", name);
  return 2;
}

void pgl_open_scripts(lua_State *L) {
  static const char opened; // keys a flag in the registry
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &opened) != LUA_TNIL) {
    lua_pop(L, 1);
    return;
  }
  lua_pop(L, 1);
  lua_pushboolean(L, true);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &opened);
  luaL_requiref(L, "perigee.core", luaopen_perigee_core, 0);
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "searchers");
  // Right after the preload table, before any path is looked at.
  for (lua_Integer i = (lua_Integer)lua_rawlen(L, -1); i >= 2; i--) {
    lua_rawgeti(L, -1, i);
    lua_rawseti(L, -2, i + 1);
  }
  lua_pushcfunction(L, search_script);
  lua_rawseti(L, -2, 2);
  lua_pop(L, 3);
}

// `require "perigee"` in a stock interpreter that found perigee.so.
PGL_EXPORT int luaopen_perigee(lua_State *L) {
  pgl_open_scripts(L);
  int status = pgl_load_script(L, "init");
  if (status == -1) return luaL_error(L, "perigee's init.lua was not found");
  if (status != LUA_OK) return lua_error(L);
  lua_pushliteral(L, "perigee");
  lua_call(L, 1, 1);
  return 1;
}
