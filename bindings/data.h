// data.h: the Lua side of engine/io and engine/data: core.data, a table of functions. No policy: names, search paths
// and splits are in scripts/perigee/data.lua. Numbers are 0-based here, as in the files.
#ifndef PGL_DATA_H
#define PGL_DATA_H

#include <lauxlib.h>
#include <lua.h>

#include "engine/data/dataset.h"
#include "engine/perigee.h"

// Pushes the table. The core module must be open (tensors exist).
int luaopen_perigee_data(lua_State *L);

// ---- parts; each adds its functions to the table on top of the stack ----
void pgl_open_files(lua_State *L);       // files.c: files, directories, logs, hashes, process, clocks
void pgl_open_json(lua_State *L);        // json.c
void pgl_open_safetensors(lua_State *L); // safetensors.c

// Push a new tensor made by make(arg, &tensor); after PG_ERR_MEMORY collects and tries once more; raises other
// failures.
pg_tensor *pgl_push_made(lua_State *L, pg_status (*make)(void *arg, pg_tensor **out), void *arg);

// The sparse matrix at stack index i, or NULL. Borrowed.
pg_sparse *pgl_to_sparse(lua_State *L, int i);

// A userdata that frees `p` when it is collected, so that an error raised by Lua between two steps loses nothing.
// Pushed empty; set both fields together.
typedef struct pgl_guard {
  void *p;
  void (*free)(void *p);
} pgl_guard;
pgl_guard *pgl_push_guard(lua_State *L);
// Free now.
void pgl_close_guard(pgl_guard *guard);

#endif
