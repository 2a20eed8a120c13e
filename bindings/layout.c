// layout.c: the Lua userdata for layouts: which tensors lie where in a flat vector.
#include <string.h>

#include "bindings/tensor.h"

typedef struct pgl_layout {
  const void *tag;
  const pg_layout *layout;
} pgl_layout;

static const char layout_tag;

const pg_layout *pgl_to_layout(lua_State *L, int i) {
  const pgl_layout *l = lua_touserdata(L, i);
  return l && lua_rawlen(L, i) == sizeof *l && l->tag == &layout_tag ? l->layout : NULL;
}

const pg_layout *pgl_check_layout(lua_State *L, int i) {
  const pg_layout *layout = pgl_to_layout(L, i);
  if (!layout) pgl_error(L, "a layout was expected, got %s", luaL_typename(L, i));
  return layout;
}

static pgl_layout *push_empty(lua_State *L) {
  pgl_layout *l = lua_newuserdatauv(L, sizeof *l, 0);
  *l = (pgl_layout){.tag = &layout_tag};
  lua_rawgetp(L, LUA_REGISTRYINDEX, &layout_tag);
  lua_setmetatable(L, -2);
  return l;
}

void pgl_push_layout(lua_State *L, const pg_layout *layout) {
  push_empty(L)->layout = pg_layout_retain(layout);
}

// core.layout({{name, {shape…}}, …}).
static int core_layout(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  int n = (int)lua_rawlen(L, 1);
  pgl_layout *result = push_empty(L);
  // Scratch as userdata, so that an error in the middle leaks nothing.
  const char **names = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *names, 0);
  int *ndims = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *ndims, 0);
  int64_t(*shapes)[PG_MAX_NDIM] = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *shapes, 0);
  for (int i = 0; i < n; i++) {
    if (lua_rawgeti(L, 1, i + 1) != LUA_TTABLE)
      return pgl_error(L, "entry %d of a layout must be {name, {shape}}", i + 1);
    lua_rawgeti(L, -1, 1);
    // The table keeps the string alive.
    names[i] = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    if (!names[i]) return pgl_error(L, "entry %d of a layout has no name", i + 1);
    lua_rawgeti(L, -2, 2);
    ndims[i] = pgl_check_shape(L, lua_gettop(L), shapes[i]);
    lua_pop(L, 3);
  }
  pg_layout *layout = NULL;
  if (pg_layout_new(n, names, ndims, shapes, &layout) != PG_OK) return pgl_raise(L);
  result->layout = layout;
  lua_pop(L, 3);
  return 1;
}

static int layout_gc(lua_State *L) {
  pgl_layout *l = lua_touserdata(L, 1);
  pg_layout_release(l->layout);
  l->layout = NULL;
  return 0;
}

static void set_integer(lua_State *L, const char *name, int64_t value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

static int push_segment(lua_State *L, const pg_layout *layout, lua_Integer i) {
  if (i < 1 || i > pg_layout_count(layout)) return 0;
  const pg_segment *s = pg_layout_segment(layout, (int)i - 1);
  lua_createtable(L, 0, 5);
  lua_pushstring(L, s->name);
  lua_setfield(L, -2, "name");
  pgl_push_shape(L, s->ndim, s->shape);
  lua_setfield(L, -2, "shape");
  set_integer(L, "size", s->size);
  set_integer(L, "offset", s->offset);
  set_integer(L, "logical", s->logical);
  return 1;
}

/// layout:find(name): The place, from 1, of the tensor of this name in a vector's layout; nil if there is none.
/// layout.size: How many numbers a vector of this layout holds, pads not counted.
/// layout.padded: How many numbers of memory a vector takes: each tensor begins at a multiple of 64 bytes.
/// layout[i]: Tensor i (from 1): { name, shape, size, offset (in memory), logical (without pads) }; #layout counts
// them.
static int layout_find(lua_State *L) {
  int i = pg_layout_find(pgl_check_layout(L, 1), luaL_checkstring(L, 2));
  if (i < 0) return 0;
  lua_pushinteger(L, i + 1);
  return 1;
}

// layout[i], layout.size, layout.padded, layout.find
static int layout_index(lua_State *L) {
  const pg_layout *layout = pgl_check_layout(L, 1);
  if (lua_isinteger(L, 2)) return push_segment(L, layout, lua_tointeger(L, 2));
  const char *key = luaL_checkstring(L, 2);
  if (strcmp(key, "find") == 0)
    lua_pushcfunction(L, layout_find);
  else if (strcmp(key, "size") == 0)
    lua_pushinteger(L, pg_layout_size(layout));
  else if (strcmp(key, "padded") == 0)
    lua_pushinteger(L, pg_layout_padded(layout));
  else
    lua_pushnil(L);
  return 1;
}

static int layout_len(lua_State *L) {
  lua_pushinteger(L, pg_layout_count(pgl_check_layout(L, 1)));
  return 1;
}

static int layout_eq(lua_State *L) {
  const pg_layout *a = pgl_to_layout(L, 1), *b = pgl_to_layout(L, 2);
  lua_pushboolean(L, a && b && pg_layout_equal(a, b));
  return 1;
}

static int layout_tostring(lua_State *L) {
  const pg_layout *layout = pgl_check_layout(L, 1);
  lua_pushfstring(L, "layout of %d tensors, %I numbers", pg_layout_count(layout), (lua_Integer)pg_layout_size(layout));
  return 1;
}

static int core_is_layout(lua_State *L) {
  lua_pushboolean(L, pgl_to_layout(L, 1) != NULL);
  return 1;
}

static const luaL_Reg metamethods[] = {{"__index", layout_index}, {"__len", layout_len},           {"__eq", layout_eq},
                                       {"__gc", layout_gc},       {"__tostring", layout_tostring}, {NULL, NULL}};
static const luaL_Reg functions[] = {{"layout", core_layout}, {"is_layout", core_is_layout}, {NULL, NULL}};

void pgl_open_layout(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
  luaL_newlib(L, metamethods);
  pgl_keep_metatable(L, &layout_tag, "perigee.layout");
}
