// main.c: the `perigee` program. With arguments it hands them to cli.lua; without, prompt.lua reads statements. It adds
// the line editor, which the module for a stock interpreter lacks. Ctrl-C raises "interrupted".
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "bindings/editor.h"
#include "bindings/interrupt.h"
#include "bindings/module.h"
#include "engine/perigee.h"

// ---- calling ----

static int add_traceback(lua_State *L) {
  const char *message = lua_tostring(L, 1);
  if (!message) {
    if (luaL_callmeta(L, 1, "__tostring") && lua_isstring(L, -1)) return 1;
    message = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
  }
  if (getenv("PERIGEE_TRACE"))
    luaL_traceback(L, L, message, 1);
  else
    lua_pushstring(L, message);
  return 1;
}

// Call the function below its n arguments with readable errors.
static int call_readable(lua_State *L, int n, int results) {
  int base = lua_gettop(L) - n;
  lua_pushcfunction(L, add_traceback);
  lua_insert(L, base);
  int status = lua_pcall(L, n, results, base);
  lua_remove(L, base);
  return status;
}

static int call_interruptible(lua_State *L, int n, int results) {
  pgl_take_interrupt(L);
  int status = call_readable(L, n, results);
  pgl_release_interrupt();
  return status;
}

static int report(lua_State *L, int status) {
  if (status == LUA_OK) return status;
  const char *message = lua_tostring(L, -1);
  fprintf(stderr, "perigee: %s\n", message ? message : "(error object is not a string)");
  lua_pop(L, 1);
  return status;
}

// ---- start ----

// Push argv as a table: arg[0] is the program, as in lua.c.
static void push_arguments(lua_State *L, int argc, char **argv) {
  lua_createtable(L, argc, 1);
  for (int i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i);
  }
}

// The exit code of main() in a script of the library, called with the arguments. The prompt takes Ctrl-C by itself, for
// each statement.
static int run_main(lua_State *L, bool prompt, int argc, char **argv) {
  lua_getglobal(L, "require");
  lua_pushstring(L, prompt ? "perigee.prompt" : "perigee.cli");
  if (report(L, call_readable(L, 1, 1)) != LUA_OK) return 1;
  lua_getfield(L, -1, "main");
  push_arguments(L, argc, argv);
  if (report(L, (prompt ? call_readable : call_interruptible)(L, 1, 1)) != LUA_OK) return 1;
  return lua_isinteger(L, -1) ? (int)lua_tointeger(L, -1) : !lua_isnil(L, -1) && !lua_toboolean(L, -1);
}

typedef struct arguments {
  int argc;
  char **argv;
  int code;
} arguments;

// Everything that may raise, called protected.
static int run_protected(lua_State *L) {
  arguments *a = lua_touserdata(L, 1);
  lua_settop(L, 0);
  luaL_openlibs(L);
  lua_gc(L, LUA_GCGEN, 0, 0);
  pgl_open_scripts(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_perigee_editor);
  lua_setfield(L, -2, "perigee.editor");
  lua_pop(L, 1);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "perigee");
  lua_call(L, 1, 1);
  lua_setglobal(L, "pg");
  a->code = run_main(L, a->argc == 1, a->argc, a->argv);
  return 0;
}

int main(int argc, char **argv) {
  lua_State *L = luaL_newstate();
  if (!L) {
    fprintf(stderr, "perigee: out of memory\n");
    return 1;
  }
  arguments a = {.argc = argc, .argv = argv, .code = 1};
  lua_pushcfunction(L, run_protected);
  lua_pushlightuserdata(L, &a);
  int status = report(L, lua_pcall(L, 1, 0, 0));
  lua_close(L);
  return status == LUA_OK ? a.code : 1;
}
