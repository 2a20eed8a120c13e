// tensor.c: the tensor userdata: making, checking and freeing it, its properties, errors at the recipe's line, and
// telling Lua's collector about memory it cannot see (DESIGN 6.15). No mathematics: functions on tensors are in
// apply.c.
#include "bindings/tensor.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "bindings/trace.h"

enum { MIB = 1 << 20 };

static const char tensor_tag; // its address marks our userdata, and keys the metatable
static const char state_key;
static const char source_mark[] = "=[perigee]"; // chunk names of the embedded scripts begin so

void pgl_keep_metatable(lua_State *L, const void *key, const char *name) {
  lua_pushstring(L, name);
  lua_setfield(L, -2, "__name");
  lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

pgl_state *pgl_get_state(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key);
  pgl_state *state = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return state;
}

// ---- errors ----

const char *pgl_push_where(lua_State *L) {
  lua_Debug ar;
  for (int level = 1; lua_getstack(L, level, &ar); level++) {
    lua_getinfo(L, "Sl", &ar);
    if (ar.currentline > 0 && strncmp(ar.source, source_mark, sizeof source_mark - 1) != 0)
      return lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
  }
  return lua_pushliteral(L, "");
}

int pgl_error(lua_State *L, const char *format, ...) {
  pgl_push_where(L);
  va_list args;
  va_start(args, format);
  lua_pushvfstring(L, format, args);
  va_end(args);
  lua_concat(L, 2);
  return lua_error(L);
}

int pgl_raise(lua_State *L) {
  const char *where = pgl_push_where(L), *message = pg_last_error();
  // Messages about nodes of a graph may begin with the node's own line already.
  bool placed = *where && strncmp(message, where, strlen(where)) == 0;
  lua_pushstring(L, placed ? "" : where);
  lua_pushstring(L, *message ? message : "unknown error");
  lua_concat(L, 2);
  return lua_error(L);
}

// ---- memory ----

void pgl_collect(lua_State *L) {
  lua_gc(L, LUA_GCCOLLECT);
  pgl_state *state = pgl_get_state(L);
  state->unreported = 0;
  state->collected = pg_memory_used();
}

void pgl_report_bytes(lua_State *L, size_t bytes) {
  pgl_state *state = pgl_get_state(L);
  state->unreported += bytes;
  if (state->unreported < MIB) return;
  int kib = (int)(state->unreported / 1024 < 1 << 20 ? state->unreported / 1024 : 1 << 20);
  state->unreported = 0;
  if (!lua_gc(L, LUA_GCISRUNNING)) return;
  // A young collection never frees what has grown old, so doubled tensor memory asks for a full one.
  if (pg_memory_used() > 2 * state->collected + 64 * (size_t)MIB)
    pgl_collect(L);
  else
    lua_gc(L, LUA_GCSTEP, kib);
}

// ---- the userdata ----

pgl_tensor *pgl_to_tensor(lua_State *L, int i) {
  pgl_tensor *t = lua_touserdata(L, i);
  return t && lua_rawlen(L, i) == sizeof *t && t->tag == &tensor_tag ? t : NULL;
}

pgl_tensor *pgl_check_tensor(lua_State *L, int i) {
  pgl_tensor *t = pgl_to_tensor(L, i);
  if (!t) {
    pgl_error(L, "bad argument #%d (a tensor expected, got %s)%s", i, luaL_typename(L, i),
              i == 1 && lua_isnoneornil(L, i) ? "; methods take a colon, as x:item()" : "");
    return NULL;
  }
  if (!t->tensor && !t->trace) pgl_error(L, "this tensor was freed");
  return t;
}

pg_tensor *pgl_check_eager(lua_State *L, int i) {
  pgl_tensor *t = pgl_check_tensor(L, i);
  if (t->trace) {
    pgl_error(L,
              "this tensor is traced: it stands for a value computed later and has no elements to read or write yet");
    return NULL;
  }
  return t->tensor;
}

pgl_tensor *pgl_push_empty(lua_State *L) {
  pgl_tensor *t = lua_newuserdatauv(L, sizeof *t, 0);
  *t = (pgl_tensor){.tag = &tensor_tag};
  lua_rawgetp(L, LUA_REGISTRYINDEX, &tensor_tag);
  lua_setmetatable(L, -2);
  return t;
}

pg_tensor *pgl_push_new(lua_State *L, pg_dtype dtype, int ndim, const int64_t *shape, const pg_layout *layout) {
  pgl_tensor *t = pgl_push_empty(L);
  pg_status status = pg_tensor_new(dtype, ndim, shape, layout, &t->tensor);
  if (status == PG_ERR_MEMORY) {
    t->tensor = NULL;
    pgl_collect(L);
    status = pg_tensor_new(dtype, ndim, shape, layout, &t->tensor);
  }
  if (status != PG_OK) {
    t->tensor = NULL;
    pgl_raise(L);
  }
  pgl_report_bytes(L, pg_tensor_bytes(t->tensor));
  return t->tensor;
}

void pgl_push_tensor(lua_State *L, pg_tensor *tensor) {
  pgl_push_empty(L)->tensor = pg_tensor_retain(tensor);
}

void pgl_push_value(lua_State *L, pg_value value) {
  pgl_tensor *t = pgl_push_empty(L);
  t->trace = pgl_get_state(L)->current->serial;
  t->value = value;
}

pgl_type pgl_type_of_value(const pg_graph *graph, pg_value v) {
  return (pgl_type){pg_value_dtype(graph, v), pg_value_ndim(graph, v), pg_value_shape(graph, v),
                    pg_value_layout(graph, v), pg_value_is_weak(graph, v)};
}

pgl_type pgl_type_of(lua_State *L, const pgl_tensor *t) {
  if (!t->trace) {
    const pg_tensor *e = t->tensor;
    return (pgl_type){pg_tensor_dtype(e), pg_tensor_ndim(e), pg_tensor_shape(e), pg_tensor_layout(e), false};
  }
  return pgl_type_of_value(pgl_trace_of(L, t)->graph, t->value);
}

const char *pgl_push_type_text(lua_State *L, const pgl_type *type) {
  const char *dtype = pg_dtype_name(type->dtype);
  if (type->layout) return lua_pushfstring(L, "%s vector", dtype);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  luaL_addstring(&b, dtype);
  luaL_addstring(&b, " [");
  for (int k = 0; k < type->ndim; k++) {
    lua_pushfstring(L, k ? ", %I" : "%I", (lua_Integer)type->shape[k]);
    luaL_addvalue(&b);
  }
  luaL_addchar(&b, ']');
  luaL_pushresult(&b);
  return lua_tostring(L, -1);
}

// ---- arguments ----

pg_dtype pgl_check_dtype(lua_State *L, int i) {
  const char *name = lua_type(L, i) == LUA_TSTRING ? lua_tostring(L, i) : NULL;
  for (int d = 0; name && d < PG_NUM_DTYPES; d++)
    if (strcmp(name, pg_dtype_name((pg_dtype)d)) == 0) return (pg_dtype)d;
  pgl_error(L, "there is no dtype '%s': it is one of f32, f64, i32, i64, u8, bool, key",
            name ? name : luaL_typename(L, i));
  return PG_F32;
}

int pgl_check_shape(lua_State *L, int i, int64_t *shape) {
  if (!lua_istable(L, i)) return pgl_error(L, "a shape is a table of integers, got %s", luaL_typename(L, i));
  lua_Unsigned n = lua_rawlen(L, i);
  if (n > PG_MAX_NDIM) return pgl_error(L, "a shape has at most %d axes, got %d", PG_MAX_NDIM, (int)n);
  for (int k = 0; k < (int)n; k++) {
    int ok;
    lua_rawgeti(L, i, k + 1);
    shape[k] = lua_tointegerx(L, -1, &ok);
    if (!ok || shape[k] < 0)
      return pgl_error(L, "extent %d of the shape is %s: it must be a non-negative integer", k + 1,
                       luaL_tolstring(L, -1, NULL));
    lua_pop(L, 1);
  }
  return (int)n;
}

void pgl_push_shape(lua_State *L, int ndim, const int64_t *shape) {
  lua_createtable(L, ndim, 0);
  for (int k = 0; k < ndim; k++) {
    lua_pushinteger(L, shape[k]);
    lua_rawseti(L, -2, k + 1);
  }
}

// ---- methods that belong to the userdata itself ----

static void release(pgl_tensor *t) {
  pg_tensor *tensor = t->tensor;
  t->tensor = NULL;
  pg_tensor_release(tensor);
}

static int tensor_gc(lua_State *L) {
  pgl_tensor *t = pgl_to_tensor(L, 1);
  if (t) release(t);
  return 0;
}

/// tensor:free(): Give the memory back now instead of when it is collected; any later use is an error.
static int tensor_free(lua_State *L) {
  pgl_tensor *t = pgl_to_tensor(L, 1);
  if (!t) return pgl_error(L, "free: a tensor expected, got %s", luaL_typename(L, 1));
  release(t);
  return 0;
}

/// tensor.shape: The extents, as a new table; {} for a single number.
/// tensor.dtype: "f32", "f64", "i32", "i64", "u8", "bool" or "key".
/// tensor.device: "cpu".
/// tensor.ndim: The number of axes.
/// tensor.size: The number of elements; the pads of a vector are not counted.
/// tensor.layout: The layout of a vector: names and shapes of its tensors; nil for other tensors.
/// tensor.traced: Whether it stands for a value inside a trace; its elements are not known yet.
/// tensor.weak: Whether it is a number inside a trace, which takes the dtype of what it meets.
static int property_shape(lua_State *L, const pgl_tensor *t) {
  pgl_type type = pgl_type_of(L, t);
  pgl_push_shape(L, type.ndim, type.shape);
  return 1;
}

static int property_dtype(lua_State *L, const pgl_tensor *t) {
  lua_pushstring(L, pg_dtype_name(pgl_type_of(L, t).dtype));
  return 1;
}

static int property_device(lua_State *L, const pgl_tensor *t) {
  (void)t;
  lua_pushliteral(L, "cpu");
  return 1;
}

static int property_ndim(lua_State *L, const pgl_tensor *t) {
  lua_pushinteger(L, pgl_type_of(L, t).ndim);
  return 1;
}

// Elements a person counts: pads of vectors are not.
static int property_size(lua_State *L, const pgl_tensor *t) {
  pgl_type type = pgl_type_of(L, t);
  int64_t size = 1;
  for (int k = 0; k < type.ndim; k++) size *= type.shape[k];
  lua_pushinteger(L, type.layout ? pg_layout_size(type.layout) : size);
  return 1;
}

static int property_layout(lua_State *L, const pgl_tensor *t) {
  pgl_type type = pgl_type_of(L, t);
  if (type.layout)
    pgl_push_layout(L, type.layout);
  else
    lua_pushnil(L);
  return 1;
}

static int property_traced(lua_State *L, const pgl_tensor *t) {
  (void)L;
  lua_pushboolean(L, t->trace != 0);
  return 1;
}

static int property_weak(lua_State *L, const pgl_tensor *t) {
  lua_pushboolean(L, pgl_type_of(L, t).weak);
  return 1;
}

static const struct {
  const char *name;
  int (*get)(lua_State *, const pgl_tensor *);
} properties[] = {
    {"shape", property_shape}, {"dtype", property_dtype},   {"device", property_device}, {"ndim", property_ndim},
    {"size", property_size},   {"layout", property_layout}, {"traced", property_traced}, {"weak", property_weak},
};

// t.key: a method, a property, or what methods.__index (Lua, tensor.lua) makes of it: t[i], theta["name"].
// Upvalues: the table of methods, the table of properties.
static int tensor_index(lua_State *L) {
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
  const pgl_tensor *t = pgl_check_tensor(L, 1);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(2)) == LUA_TNUMBER) return properties[lua_tointeger(L, -1)].get(L, t);
  lua_settop(L, 2);
  lua_pushliteral(L, "__index");
  if (lua_rawget(L, lua_upvalueindex(1)) == LUA_TNIL) return 0;
  lua_insert(L, 1);
  lua_call(L, 2, 1);
  return 1;
}

static int tensor_newindex(lua_State *L) {
  return pgl_error(
      L, "tensors are values: assigning to an element or field of one is not possible (use pg.where, scatter_add, or "
         "a new tensor)");
}

/// tensor:signature() → string: A short text that is equal for tensors of equal dtype, shape and layout.
static int tensor_signature(lua_State *L) {
  pgl_type type = pgl_type_of(L, pgl_check_tensor(L, 1));
  char buf[256];
  int n = snprintf(buf, sizeof buf, "%s%s", type.weak ? "weak " : "", pg_dtype_name(type.dtype));
  if (type.layout)
    n += snprintf(buf + n, sizeof buf - (size_t)n, "<%p>", (const void *)type.layout);
  else
    for (int k = 0; k < type.ndim; k++)
      n += snprintf(buf + n, sizeof buf - (size_t)n, "%c%lld", k ? ',' : '[', (long long)type.shape[k]);
  lua_pushlstring(L, buf, (size_t)n);
  return 1;
}

// Append what identifies one argument of a compiled function; false for those that only Lua can walk (tables, objects).
static bool add_signature(lua_State *L, luaL_Buffer *b, int i) {
  const pgl_tensor *t = pgl_to_tensor(L, i);
  switch (t ? LUA_TUSERDATA : lua_type(L, i)) {
  case LUA_TUSERDATA:
    break;
  case LUA_TNUMBER:
    luaL_addchar(b, 'n');
    return true;
  case LUA_TNIL:
    luaL_addchar(b, '0');
    return true;
  case LUA_TBOOLEAN:
    luaL_addchar(b, lua_toboolean(L, i) ? 't' : 'f');
    return true;
  default:
    return false;
  }
  if (!t || !t->tensor) return false;
  const pg_layout *layout = pg_tensor_layout(t->tensor);
  int ndim = layout ? 0 : pg_tensor_ndim(t->tensor);
  luaL_addchar(b, layout ? 'v' : 'x');
  luaL_addchar(b, (char)('0' + pg_tensor_dtype(t->tensor)));
  luaL_addchar(b, (char)('0' + ndim));
  luaL_addlstring(b, (const char *)pg_tensor_shape(t->tensor), (size_t)ndim * sizeof(int64_t));
  if (layout) luaL_addlstring(b, (const char *)&layout, sizeof(void *));
  return true;
}

// core.signature(...) → a string that is equal for arguments of equal types, or nil if only Lua can tell.
static int core_signature(lua_State *L) {
  int n = lua_gettop(L);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (int i = 1; i <= n; i++)
    if (!add_signature(L, &b, i)) {
      lua_pushnil(L);
      return 1;
    }
  luaL_pushresult(&b);
  return 1;
}

static int core_is_tensor(lua_State *L) {
  lua_pushboolean(L, pgl_to_tensor(L, 1) != NULL);
  return 1;
}

// ---- creation ----

// core.vector(layout, dtype): zeros.
static int core_vector(lua_State *L) {
  const pg_layout *layout = pgl_check_layout(L, 1);
  pgl_push_new(L, lua_isnoneornil(L, 2) ? PG_F32 : pgl_check_dtype(L, 2), 0, NULL, layout);
  return 1;
}

// The 64 bits a Lua number or string folds in as.
static uint64_t check_fold_data(lua_State *L, int i) {
  if (lua_type(L, i) == LUA_TSTRING) {
    size_t len;
    const char *name = lua_tolstring(L, i, &len);
    return pg_hash_name(name, len);
  }
  int ok;
  lua_Integer data = lua_tointegerx(L, i, &ok);
  if (!ok) pgl_error(L, "a key folds in strings and integers, got %s", luaL_tolstring(L, i, NULL));
  return (uint64_t)data;
}

// core.key(seed) → a key tensor.
static int core_key(lua_State *L) {
  uint64_t seed = check_fold_data(L, 1);
  pg_key *key = pg_tensor_data(pgl_push_new(L, PG_KEY, 0, NULL, NULL));
  *key = pg_key_seed(seed);
  return 1;
}

/// tensor:fold_constant(x): Eager keys, each folded with a string or an integer: what tensor:fold does outside traces.
static int tensor_fold_constant(lua_State *L) {
  const pg_tensor *from = pgl_check_eager(L, 1);
  uint64_t data = check_fold_data(L, 2);
  if (pg_tensor_dtype(from) != PG_KEY)
    return pgl_error(L, "fold: a key expected, got %s", pg_dtype_name(pg_tensor_dtype(from)));
  pg_key *out = pg_tensor_data(pgl_push_new(L, PG_KEY, pg_tensor_ndim(from), pg_tensor_shape(from), NULL));
  const pg_key *in = pg_tensor_data(from);
  for (int64_t k = 0; k < pg_tensor_size(from); k++) out[k] = pg_key_fold(in[k], data);
  return 1;
}

// core.fold_data(x) → the integer that a string or an integer folds in as.
static int core_fold_data(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)check_fold_data(L, 1));
  return 1;
}

/// tensor:copy(): A copy of an eager tensor in memory of its own.
static int tensor_clone(lua_State *L) {
  const pg_tensor *from = pgl_check_eager(L, 1);
  pg_tensor *to =
      pgl_push_new(L, pg_tensor_dtype(from), pg_tensor_ndim(from), pg_tensor_shape(from), pg_tensor_layout(from));
  memcpy(pg_tensor_data(to), pg_tensor_data(from), pg_tensor_bytes(from));
  return 1;
}

/// tensor:copy_from(other): Copy another tensor of the same dtype, shape and layout here, in place; for slots of
// programs only, since tensors are values.
static int tensor_copy_from(lua_State *L) {
  const pg_tensor *to = pgl_check_eager(L, 1), *from = pgl_check_eager(L, 2);
  int ndim = pg_tensor_ndim(to);
  if (pg_tensor_dtype(to) != pg_tensor_dtype(from) || ndim != pg_tensor_ndim(from) ||
      memcmp(pg_tensor_shape(to), pg_tensor_shape(from), (size_t)ndim * sizeof(int64_t)) != 0 ||
      !pg_layout_equal(pg_tensor_layout(to), pg_tensor_layout(from)))
    return pgl_error(L, "copy_from: the tensors differ in dtype, shape or layout");
  memmove(pg_tensor_data(to), pg_tensor_data(from), pg_tensor_bytes(from));
  lua_settop(L, 1);
  return 1;
}

/// tensor:hash() → integer: 64 bits of an eager tensor's elements: equal elements, equal hashes, to tell many apart.
static int tensor_hash(lua_State *L) {
  const pg_tensor *t = pgl_check_eager(L, 1);
  lua_pushinteger(L, (lua_Integer)pg_hash_name(pg_tensor_data(t), pg_tensor_bytes(t)));
  return 1;
}

static int state_gc(lua_State *L) {
  pgl_state *state = lua_touserdata(L, 1);
  pgl_free_cache(state->cache);
  state->cache = NULL;
  return 0;
}

// The state comes first, so that it is finalized last.
static void open_state(lua_State *L) {
  pgl_state *state = lua_newuserdatauv(L, sizeof *state, 0);
  *state = (pgl_state){.collected = pg_memory_used()};
  lua_newtable(L);
  lua_pushcfunction(L, state_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &state_key);
}

static const luaL_Reg methods[] = {{"free", tensor_free},
                                   {"signature", tensor_signature},
                                   {"fold_constant", tensor_fold_constant},
                                   {"copy", tensor_clone},
                                   {"copy_from", tensor_copy_from},
                                   {"hash", tensor_hash},
                                   {NULL, NULL}};
static const luaL_Reg functions[] = {{"is_tensor", core_is_tensor}, {"signature", core_signature},
                                     {"vector", core_vector},       {"key", core_key},
                                     {"fold_data", core_fold_data}, {NULL, NULL}};

// Adds core.methods (the table of methods, extended by tensor.lua) and core.metatable.
void pgl_open_tensor(lua_State *L) {
  open_state(L);
  luaL_setfuncs(L, functions, 0);
  lua_newtable(L);
  luaL_newlib(L, methods);
  lua_pushvalue(L, -1);
  lua_setfield(L, -4, "methods");
  lua_newtable(L);
  for (int i = 0; i < (int)(sizeof properties / sizeof *properties); i++) {
    lua_pushinteger(L, i);
    lua_setfield(L, -2, properties[i].name);
  }
  lua_pushcclosure(L, tensor_index, 2);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, tensor_newindex);
  lua_setfield(L, -2, "__newindex");
  lua_pushcfunction(L, tensor_gc);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, tensor_gc);
  lua_setfield(L, -2, "__close");
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "metatable");
  pgl_keep_metatable(L, &tensor_tag, "perigee.tensor");
}
