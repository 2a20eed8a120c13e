// interrupt.h: Ctrl-C. By default it raises "interrupted" in Lua; code that polls (pg.run, between steps) is left to
// finish what it is doing, and only a second Ctrl-C raises, or ends the process where that code said so
// (core.announce_interrupt). The third ends the process anyhow.
#ifndef PGL_INTERRUPT_H
#define PGL_INTERRUPT_H

#include <lua.h>

// Take SIGINT for the state L until pgl_release_interrupt, which gives it back to whoever had it before.
void pgl_take_interrupt(lua_State *L);
void pgl_release_interrupt(void);
// Adds core.interrupted, core.announce_interrupt and core.guard to the table on top of the stack.
void pgl_open_interrupt(lua_State *L);

#endif
