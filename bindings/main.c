// main.c: the `perigee` program. With arguments it hands them to cli.lua; without, it is a prompt: expressions are
// printed, unfinished input continues on the next line, and input from a pipe is read quietly. Ctrl-C raises
// "interrupted".
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <editline/readline.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

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
  if (getenv("PERIGEE_TRACEBACK"))
    luaL_traceback(L, L, message, 1);
  else
    lua_pushstring(L, message);
  return 1;
}

// Call the function below its n arguments, interruptible, with readable errors.
static int call_guarded(lua_State *L, int n, int results) {
  int base = lua_gettop(L) - n;
  lua_pushcfunction(L, add_traceback);
  lua_insert(L, base);
  pgl_take_interrupt(L);
  int status = lua_pcall(L, n, results, base);
  pgl_release_interrupt();
  lua_remove(L, base);
  return status;
}

static int report(lua_State *L, int status) {
  if (status == LUA_OK) return status;
  const char *message = lua_tostring(L, -1);
  fprintf(stderr, "perigee: %s\n", message ? message : "(error object is not a string)");
  lua_pop(L, 1);
  return status;
}

// ---- the prompt ----

// Push a line without its end; false at the end of the input.
static bool push_line(lua_State *L, bool interactive, const char *prompt) {
  if (interactive) {
    signal(SIGINT, SIG_IGN); // there is nothing to interrupt, and Ctrl-D ends
    char *line = readline(prompt);
    signal(SIGINT, SIG_DFL);
    if (!line) return false;
    lua_pushstring(L, line);
    free(line);
    return true;
  }
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  bool any = false;
  for (int c; (c = getchar()) != EOF;) {
    any = true;
    if (c == '\n') break;
    luaL_addchar(&b, (char)c);
  }
  luaL_pushresult(&b);
  if (!any) lua_pop(L, 1);
  return any;
}

static bool is_incomplete(lua_State *L, int status) {
  static const char mark[] = "<eof>";
  if (status != LUA_ERRSYNTAX) return false;
  size_t len;
  const char *message = lua_tolstring(L, -1, &len);
  return len >= sizeof mark - 1 && strcmp(message + len - (sizeof mark - 1), mark) == 0;
}

// The text on top of the stack is replaced by a function, or by a message.
static int compile_text(lua_State *L) {
  size_t len;
  const char *text = lua_tolstring(L, -1, &len);
  const char *expression = lua_pushfstring(L, "return %s", text);
  int status = luaL_loadbufferx(L, expression, strlen(expression), "=stdin", "t");
  lua_remove(L, -2);
  if (status == LUA_OK) return status;
  bool unfinished = is_incomplete(L, status);
  status = luaL_loadbufferx(L, text, len, "=stdin", "t");
  // "x +" is wrong as a statement, but an expression that may go on.
  lua_remove(L, unfinished && status != LUA_OK ? -1 : -2);
  return status;
}

// Read a statement of one or more lines and push it compiled, or its message. -1 at the end of the input.
static int read_statement(lua_State *L, bool interactive) {
  lua_settop(L, 0);
  if (!push_line(L, interactive, "> ")) return -1;
  for (;;) {
    int status = compile_text(L); // text, function or message
    if (!is_incomplete(L, status) || !push_line(L, interactive, ">> ")) {
      if (interactive && *lua_tostring(L, 1)) add_history(lua_tostring(L, 1));
      lua_remove(L, 1);
      return status;
    }
    lua_remove(L, 2); // the message
    lua_pushliteral(L, "\n");
    lua_insert(L, 2);
    lua_concat(L, 3);
  }
}

static void print_results(lua_State *L) {
  int n = lua_gettop(L);
  if (n == 0) return;
  luaL_checkstack(L, 2, "too many results to print");
  lua_getglobal(L, "print");
  lua_insert(L, 1);
  if (lua_pcall(L, n, 0, 0) != LUA_OK) report(L, LUA_ERRRUN);
}

static int run_prompt(lua_State *L) {
  bool interactive = isatty(STDIN_FILENO);
  if (interactive) printf("Perigee %s  (pg is loaded; Ctrl-D ends)\n", PG_VERSION);
  int failures = 0;
  for (int status; (status = read_statement(L, interactive)) != -1;) {
    if (status == LUA_OK) status = call_guarded(L, 0, LUA_MULTRET);
    if (report(L, status) == LUA_OK)
      print_results(L);
    else
      failures++;
    fflush(stdout);
  }
  if (interactive) printf("\n");
  return failures > 0 && !interactive;
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

static int run_command(lua_State *L, int argc, char **argv) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "perigee.cli");
  if (report(L, call_guarded(L, 1, 1)) != LUA_OK) return 1;
  lua_getfield(L, -1, "main");
  push_arguments(L, argc, argv);
  if (report(L, call_guarded(L, 1, 1)) != LUA_OK) return 1;
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
  lua_getglobal(L, "require");
  lua_pushliteral(L, "perigee");
  lua_call(L, 1, 1);
  lua_setglobal(L, "pg");
  a->code = a->argc > 1 ? run_command(L, a->argc, a->argv) : run_prompt(L);
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
