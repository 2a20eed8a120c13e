// interrupt.c: the flag and the hook behind Ctrl-C; see interrupt.h.
#include "bindings/interrupt.h"

#include <signal.h>
#include <stdbool.h>

#include <lauxlib.h>

// A signal handler can be given nothing, so this is the process's own. The state is the one that runs the prompt or
// recipe.
static lua_State *taken_by;
static volatile sig_atomic_t polled;  // someone asks core.interrupted() now and then
static volatile sig_atomic_t pending; // a signal that nobody has asked about yet
static volatile sig_atomic_t count;   // signals since the last answer

static void raise_interrupted(lua_State *L, lua_Debug *ar) {
  (void)ar;
  lua_sethook(L, NULL, 0, 0);
  count = 0;
  luaL_error(L, "interrupted");
}

static void handle_signal(int number) {
  count = count + 1;
  pending = 1;
  if (polled && count == 1) return;
  if (count > (polled ? 2 : 1)) signal(number, SIG_DFL);
  // As in lua.c: setting a hook is safe here and takes effect at the next instruction.
  lua_sethook(taken_by, raise_interrupted, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

void pgl_take_interrupt(lua_State *L) {
  taken_by = L;
  polled = pending = count = 0;
  signal(SIGINT, handle_signal);
}

void pgl_release_interrupt(void) {
  signal(SIGINT, SIG_DFL);
  if (taken_by) lua_sethook(taken_by, NULL, 0, 0);
  taken_by = NULL;
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

void pgl_open_interrupt(lua_State *L) {
  lua_pushcfunction(L, core_interrupted);
  lua_setfield(L, -2, "interrupted");
}
