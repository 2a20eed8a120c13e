// tensor.h: the Lua userdata for tensors and what the binding files share: checking arguments, pushing results, raising
// errors at the recipe's own line, telling the collector about tensor memory. Every name begins with pgl_.
#ifndef PGL_TENSOR_H
#define PGL_TENSOR_H

#include <lauxlib.h>
#include <lua.h>

#include "engine/perigee.h"

// A tensor in Lua: eager (owns one reference to `tensor`) or traced (`value` in the trace numbered `trace`). Freed
// eager tensors have neither.
typedef struct pgl_tensor {
  const void *tag; // tells our userdata from others without touching a metatable
  pg_tensor *tensor;
  uint64_t trace; // 0: eager
  pg_value value;
} pgl_tensor;

struct pgl_trace;
struct pgl_cache;

// What one Lua state keeps; a userdata in the registry.
typedef struct pgl_state {
  struct pgl_trace *current; // innermost open trace, or NULL
  uint64_t serial;           // of the last trace made
  struct pgl_cache *cache;   // eager plans
  size_t unreported;         // bytes of tensors made since the collector was last told
  size_t collected;          // pg_memory_used() after the last full collection
  int64_t marks;             // last number given to a MARK
  lua_State *running;        // the thread inside core.vjp, for tap callbacks
} pgl_state;

pgl_state *pgl_get_state(lua_State *L);

// ---- tensors ----

// The tensor at stack index i, or NULL. Never raises.
pgl_tensor *pgl_to_tensor(lua_State *L, int i);
// The live tensor at i, else an argument error.
pgl_tensor *pgl_check_tensor(lua_State *L, int i);
// The memory of the eager tensor at i; raises for traced, freed or other values. Borrowed.
pg_tensor *pgl_check_eager(lua_State *L, int i);
// Push a new userdata that owns nothing yet: set ->tensor next. Made first, so that no buffer is lost if Lua runs out
// of memory.
pgl_tensor *pgl_push_empty(lua_State *L);
// Push a tensor of these properties, zero-filled; collects once and retries when memory runs out, then raises.
pg_tensor *pgl_push_new(lua_State *L, pg_dtype dtype, int ndim, const int64_t *shape, const pg_layout *layout);
// Push a userdata holding one more reference to `tensor`.
void pgl_push_tensor(lua_State *L, pg_tensor *tensor);
// Push a traced value of the current trace.
void pgl_push_value(lua_State *L, pg_value value);

// dtype, shape and layout of an eager or traced tensor. The shape is borrowed until the next node is made.
typedef struct pgl_type {
  pg_dtype dtype;
  int ndim;
  const int64_t *shape;
  const pg_layout *layout;
  bool weak;
} pgl_type;
pgl_type pgl_type_of(lua_State *L, const pgl_tensor *t);
// Push "f32 [2, 3]" or "f32 vector", for messages.
const char *pgl_push_type_text(lua_State *L, const pgl_type *type);

// ---- arguments ----

pg_dtype pgl_check_dtype(lua_State *L, int i);
// A table of up to PG_MAX_NDIM non-negative integers → ndim.
int pgl_check_shape(lua_State *L, int i, int64_t *shape);
const pg_layout *pgl_to_layout(lua_State *L, int i); // NULL if it is not one
const pg_layout *pgl_check_layout(lua_State *L, int i);
void pgl_push_layout(lua_State *L, const pg_layout *layout); // takes a reference of its own
void pgl_push_shape(lua_State *L, int ndim, const int64_t *shape);

// ---- errors and memory ----

// Push "recipe.lua:12: " for the innermost frame that is Lua code outside our embedded scripts, or "" if there is none.
const char *pgl_push_where(lua_State *L);
// Raise `format` (as lua_pushfstring) at the recipe's line.
int pgl_error(lua_State *L, const char *format, ...);
// Raise pg_last_error() at the recipe's line.
int pgl_raise(lua_State *L);
// Account for `bytes` of new tensor memory: a collector step per MiB, a full collection when tensor memory has doubled.
void pgl_report_bytes(lua_State *L, size_t bytes);
// After PG_ERR_MEMORY: collect everything there is, once, before a retry.
void pgl_collect(lua_State *L);

void pgl_free_cache(struct pgl_cache *cache); // apply.c; NULL is allowed

// ---- parts of the core module; each adds its functions to the table on top of the stack ----

void pgl_open_tensor(lua_State *L);  // tensor.c: the userdata, creation
void pgl_open_access(lua_State *L);  // access.c: reading and writing elements
void pgl_open_layout(lua_State *L);  // layout.c
void pgl_open_apply(lua_State *L);   // apply.c: functions by name, eager and traced
void pgl_open_trace(lua_State *L);   // trace.c: traces, derivatives, marks, taps
void pgl_open_program(lua_State *L); // program.c: compiled programs
void pgl_open_region(lua_State *L);  // region.c: loops and rematerialization
// Registers the metatable on top of the stack (and pops it) under `key` and gives it the name `name` in messages.
void pgl_keep_metatable(lua_State *L, const void *key, const char *name);

#endif
