// interrupt.c: the flag, the hook and the farewell behind Ctrl-C; see interrupt.h.
#include "bindings/interrupt.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <lauxlib.h>

enum { DEEPEST = 16, STATUS_INTERRUPTED = 130 };

// A signal handler can be given nothing, so this is the process's own. The state is the one that runs the prompt or
// recipe.
static lua_State *taken_by;
static volatile sig_atomic_t polled;  // someone asks core.interrupted() now and then
static volatile sig_atomic_t pending; // a signal that nobody has asked about yet
static volatile sig_atomic_t count;   // signals since the last answer

// What is said while somebody asks. Two of them: one is read by the handler while the other is filled.
typedef struct announcement {
  char first[128];   // written at the first signal; empty: nothing
  char second[1024]; // said at the second, before the first was answered
  char last[1040];   // the same as a line of its own: written in one piece, or a terminal's echo of ^C gets into it
  bool leaves;       // the second ends the process at once; else it raises
} announcement;

static announcement announcements[2];
static volatile sig_atomic_t announced;

// Those who took the signal before, from the outermost on: the prompt of a run that is interrupted takes it too.
static struct {
  lua_State *state;
  sig_atomic_t polled;
} outer[DEEPEST];
static int depth;

static void write_text(const char *text) {
  // Nothing can be done about a terminal that is gone.
  if (write(STDERR_FILENO, text, strlen(text)) < 0) return;
}

static void raise_interrupted(lua_State *L, lua_Debug *ar) {
  (void)ar;
  lua_sethook(L, NULL, 0, 0);
  count = pending = 0;
  const char *text = announcements[announced].second;
  luaL_error(L, "%s", polled && *text ? text : "interrupted");
}

static void handle_signal(int number) {
  const announcement *now = &announcements[announced];
  count = count + 1;
  pending = 1;
  if (polled && count == 1) {
    write_text(now->first);
    return;
  }
  if (polled && now->leaves) {
    write_text(now->last);
    _exit(STATUS_INTERRUPTED);
  }
  if (count > (polled ? 2 : 1)) signal(number, SIG_DFL);
  // As in lua.c: setting a hook is safe here and takes effect at the next instruction.
  lua_sethook(taken_by, raise_interrupted, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

void pgl_take_interrupt(lua_State *L) {
  if (depth < DEEPEST) {
    outer[depth].state = taken_by;
    outer[depth].polled = polled;
  }
  depth++;
  taken_by = L;
  polled = pending = count = 0;
  signal(SIGINT, handle_signal);
}

void pgl_release_interrupt(void) {
  if (taken_by) lua_sethook(taken_by, NULL, 0, 0);
  depth--;
  taken_by = depth < DEEPEST ? outer[depth].state : NULL;
  polled = depth < DEEPEST ? outer[depth].polled : 0;
  pending = count = 0;
  signal(SIGINT, taken_by ? handle_signal : SIG_DFL);
}

// core.interrupted() → whether Ctrl-C was pressed since the last call; from the first call on, one Ctrl-C does not
// raise. core.interrupted(false): the caller stops asking.
static int core_interrupted(lua_State *L) {
  bool asked = lua_isnone(L, 1) || lua_toboolean(L, 1);
  lua_pushboolean(L, pending);
  pending = count = 0;
  polled = asked;
  return 1;
}

// core.announce_interrupt(first, second, leaves): what is written at the first Ctrl-C while somebody asks ("" for
// nothing), and what a second one says that comes before the first was answered: it then ends the process with status
// 130 (leaves), or raises. Without arguments: nothing more is said, and the second raises "interrupted".
static int core_announce_interrupt(lua_State *L) {
  announcement *next = &announcements[!announced];
  snprintf(next->first, sizeof next->first, "%s", luaL_optstring(L, 1, ""));
  const char *second = luaL_optstring(L, 2, "");
  snprintf(next->second, sizeof next->second, "%s", second);
  snprintf(next->last, sizeof next->last, "\nperigee: %.1000s\n", second);
  next->leaves = lua_toboolean(L, 3);
  announced = !announced;
  return 0;
}

// core.guard(f, handler, …): xpcall during which Ctrl-C raises "interrupted" and says nothing to a run that goes on
// outside.
static int core_guard(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  int n = lua_gettop(L) - 2;
  lua_pushvalue(L, 1);
  lua_insert(L, 3);
  pgl_take_interrupt(L);
  int status = lua_pcall(L, n, LUA_MULTRET, 2);
  pgl_release_interrupt();
  lua_pushboolean(L, status == LUA_OK);
  lua_replace(L, 2);
  return lua_gettop(L) - 1;
}

void pgl_open_interrupt(lua_State *L) {
  static const luaL_Reg functions[] = {{"interrupted", core_interrupted},
                                       {"announce_interrupt", core_announce_interrupt},
                                       {"guard", core_guard},
                                       {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
