// module.h: opening Perigee in a Lua state.
#ifndef PGL_MODULE_H
#define PGL_MODULE_H

#include <lua.h>

#define PGL_EXPORT __attribute__((visibility("default")))

int luaopen_perigee_core(lua_State *L);
int luaopen_perigee(lua_State *L);
// Load perigee.core and put a searcher for the library's scripts in front of package.searchers.
void pgl_open_scripts(lua_State *L);
// Push script `name` as a function: LUA_OK, another Lua status with the message pushed, or -1 if there is none. The
// embedded copy, or the files of the directory in the environment variable PERIGEE_SCRIPTS while developing.
int pgl_load_script(lua_State *L, const char *name);

#endif
