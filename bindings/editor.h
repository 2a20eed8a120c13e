// editor.h: the line editor of the prompt, which only the `perigee` program has.
#ifndef PGL_EDITOR_H
#define PGL_EDITOR_H

#include <lua.h>

int luaopen_perigee_editor(lua_State *L);

#endif
