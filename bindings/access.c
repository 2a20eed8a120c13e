// access.c: elements of eager tensors from Lua: building from tables, reading out, raw bytes.
#include <stdio.h>
#include <string.h>

#include "bindings/tensor.h"

// ---- one element ----

static void push_element(lua_State *L, const pg_tensor *t, int64_t i) {
  const void *p = pg_tensor_data(t);
  switch (pg_tensor_dtype(t)) {
  case PG_F32:
    lua_pushnumber(L, ((const float *)p)[i]);
    return;
  case PG_F64:
    lua_pushnumber(L, ((const double *)p)[i]);
    return;
  case PG_I32:
    lua_pushinteger(L, ((const int32_t *)p)[i]);
    return;
  case PG_I64:
    lua_pushinteger(L, ((const int64_t *)p)[i]);
    return;
  case PG_U8:
    lua_pushinteger(L, ((const uint8_t *)p)[i]);
    return;
  case PG_BOOL:
    lua_pushboolean(L, ((const uint8_t *)p)[i]);
    return;
  default: {
    const pg_key *k = (const pg_key *)p + i;
    char buf[40];
    snprintf(buf, sizeof buf, "%016llx:%016llx", (unsigned long long)k->a, (unsigned long long)k->b);
    lua_pushstring(L, buf);
  }
  }
}

static bool store_integer(pg_dtype dtype, void *p, int64_t i, lua_Integer x) {
  static const struct {
    int64_t min, max;
  } range[PG_NUM_DTYPES] = {
      [PG_I32] = {INT32_MIN, INT32_MAX}, [PG_I64] = {INT64_MIN, INT64_MAX}, [PG_U8] = {0, UINT8_MAX}};
  if (x < range[dtype].min || x > range[dtype].max) return false;
  if (dtype == PG_I32) ((int32_t *)p)[i] = (int32_t)x;
  if (dtype == PG_I64) ((int64_t *)p)[i] = x;
  if (dtype == PG_U8) ((uint8_t *)p)[i] = (uint8_t)x;
  return true;
}

// Write the Lua value at `index` into element i; false if it does not fit the dtype.
static bool store_element(lua_State *L, int index, const pg_tensor *t, int64_t i) {
  void *p = pg_tensor_data(t);
  pg_dtype dtype = pg_tensor_dtype(t);
  if (dtype == PG_BOOL) {
    if (!lua_isboolean(L, index) && !lua_isnumber(L, index)) return false;
    ((uint8_t *)p)[i] = lua_isboolean(L, index) ? lua_toboolean(L, index) : lua_tonumber(L, index) != 0;
    return true;
  }
  if (dtype == PG_KEY || (lua_type(L, index) != LUA_TNUMBER && !lua_isboolean(L, index))) return false;
  if (pg_dtype_is_float(dtype)) {
    double x = lua_isboolean(L, index) ? lua_toboolean(L, index) : lua_tonumber(L, index);
    if (dtype == PG_F32)
      ((float *)p)[i] = (float)x;
    else
      ((double *)p)[i] = x;
    return true;
  }
  int ok = 1;
  lua_Integer x = lua_isboolean(L, index) ? lua_toboolean(L, index) : lua_tointegerx(L, index, &ok);
  return ok && store_integer(dtype, p, i, x);
}

static int64_t check_offset(lua_State *L, const pg_tensor *t, int index) {
  lua_Integer i = luaL_checkinteger(L, index);
  if (i < 0 || i >= pg_tensor_size(t))
    pgl_error(L, "element %I is outside a tensor of %I elements", i, (lua_Integer)pg_tensor_size(t));
  return i;
}

static int bad_element(lua_State *L, int index, const pg_tensor *t) {
  return pgl_error(L, "%s does not fit into a tensor of %s", luaL_tolstring(L, index, NULL),
                   pg_dtype_name(pg_tensor_dtype(t)));
}

/// tensor:data_read(i): Element i, flat and counted from 0, pads of vectors included.
static int tensor_data_read(lua_State *L) {
  const pg_tensor *t = pgl_check_eager(L, 1);
  push_element(L, t, check_offset(L, t, 2));
  return 1;
}

/// tensor:data_write(i, x): Write element i, flat and counted from 0, in place; for slots of programs and for tests.
static int tensor_data_write(lua_State *L) {
  const pg_tensor *t = pgl_check_eager(L, 1);
  int64_t i = check_offset(L, t, 2);
  return store_element(L, 3, t, i) ? 0 : bad_element(L, 3, t);
}

/// tensor:item(): The single element of a tensor as a Lua number or boolean. Another number of elements is an error.
static int tensor_item(lua_State *L) {
  const pg_tensor *t = pgl_check_eager(L, 1);
  if (pg_tensor_size(t) != 1) {
    const pgl_type type = pgl_type_of(L, pgl_to_tensor(L, 1));
    return pgl_error(L, "item: %s has %I elements, not one", pgl_push_type_text(L, &type),
                     (lua_Integer)pg_tensor_size(t));
  }
  push_element(L, t, 0);
  return 1;
}

// ---- whole tensors ----

static void push_nested(lua_State *L, const pg_tensor *t, int axis, int64_t *next) {
  int64_t n = pg_tensor_shape(t)[axis];
  bool leaf = axis + 1 == pg_tensor_ndim(t);
  luaL_checkstack(L, 3, "nested tables");
  lua_createtable(L, n < INT32_MAX ? (int)n : 0, 0);
  for (int64_t k = 0; k < n; k++) {
    if (leaf)
      push_element(L, t, (*next)++);
    else
      push_nested(L, t, axis + 1, next);
    lua_rawseti(L, -2, k + 1);
  }
}

static void push_logical(lua_State *L, const pg_tensor *t, const pg_layout *layout) {
  lua_createtable(L, pg_layout_size(layout) < INT32_MAX ? (int)pg_layout_size(layout) : 0, 0);
  for (int i = 0; i < pg_layout_count(layout); i++) {
    const pg_segment *s = pg_layout_segment(layout, i);
    for (int64_t k = 0; k < s->size; k++) {
      push_element(L, t, s->offset + k);
      lua_rawseti(L, -2, s->logical + k + 1);
    }
  }
}

/// tensor:totable(): The elements as nested tables; the number itself for shape []; for a vector a flat list without
// pads.
static int tensor_totable(lua_State *L) {
  const pg_tensor *t = pgl_check_eager(L, 1);
  int64_t next = 0;
  if (pg_tensor_layout(t))
    push_logical(L, t, pg_tensor_layout(t));
  else if (pg_tensor_ndim(t) == 0)
    push_element(L, t, 0);
  else
    push_nested(L, t, 0, &next);
  return 1;
}

/// tensor:bytes() → string: The raw memory, pads of vectors included; for checkpoints and comparisons bit for bit.
static int tensor_bytes(lua_State *L) {
  const pg_tensor *t = pgl_check_eager(L, 1);
  lua_pushlstring(L, pg_tensor_data(t), pg_tensor_bytes(t));
  return 1;
}

/// tensor:from_bytes(bytes): Fill the memory in place with what tensor:bytes gave; for slots of programs.
static int tensor_from_bytes(lua_State *L) {
  const pg_tensor *t = pgl_check_eager(L, 1);
  size_t len;
  const char *bytes = luaL_checklstring(L, 2, &len);
  if (len != pg_tensor_bytes(t))
    return pgl_error(L, "from_bytes: %I bytes for a tensor of %I", (lua_Integer)len, (lua_Integer)pg_tensor_bytes(t));
  memcpy(pg_tensor_data(t), bytes, len);
  lua_settop(L, 1);
  return 1;
}

/// tensor:segment(i): Tensor i (from 1) of an eager vector as a tensor of its own. See tensor:view.
static int tensor_segment_copy(lua_State *L) {
  const pg_tensor *t = pgl_check_eager(L, 1);
  const pg_layout *layout = pg_tensor_layout(t);
  lua_Integer i = luaL_checkinteger(L, 2);
  if (!layout || i < 1 || i > pg_layout_count(layout)) return pgl_error(L, "there is no tensor %I in this vector", i);
  const pg_segment *s = pg_layout_segment(layout, (int)i - 1);
  const pg_tensor *out = pgl_push_new(L, pg_tensor_dtype(t), s->ndim, s->shape, NULL);
  size_t width = pg_dtype_size(pg_tensor_dtype(t));
  memcpy(pg_tensor_data(out), (const char *)pg_tensor_data(t) + (size_t)s->offset * width, (size_t)s->size * width);
  return 1;
}

/// tensor:segment_set(i, tensor): Write tensor i (from 1) of an eager vector in place; for slots of programs.
static int tensor_segment_set(lua_State *L) {
  const pg_tensor *t = pgl_check_eager(L, 1), *from = pgl_check_eager(L, 3);
  const pg_layout *layout = pg_tensor_layout(t);
  lua_Integer i = luaL_checkinteger(L, 2);
  if (!layout || i < 1 || i > pg_layout_count(layout)) return pgl_error(L, "there is no tensor %I in this vector", i);
  const pg_segment *s = pg_layout_segment(layout, (int)i - 1);
  if (pg_tensor_dtype(from) != pg_tensor_dtype(t) || pg_tensor_layout(from) || pg_tensor_size(from) != s->size)
    return pgl_error(L, "segment_set: '%s' takes %I numbers of %s", s->name, (lua_Integer)s->size,
                     pg_dtype_name(pg_tensor_dtype(t)));
  size_t width = pg_dtype_size(pg_tensor_dtype(t));
  memcpy((char *)pg_tensor_data(t) + (size_t)s->offset * width, pg_tensor_data(from), (size_t)s->size * width);
  lua_settop(L, 1);
  return 1;
}

// ---- from tables ----

// core.tensor(dtype, shape, flat|nil): zeros, or the flat list's numbers in row-major order.
static int core_tensor(lua_State *L) {
  int64_t shape[PG_MAX_NDIM];
  pg_dtype dtype = pgl_check_dtype(L, 1);
  int ndim = pgl_check_shape(L, 2, shape);
  bool filled = !lua_isnoneornil(L, 3);
  if (filled) luaL_checktype(L, 3, LUA_TTABLE);
  const pg_tensor *t = pgl_push_new(L, dtype, ndim, shape, NULL);
  if (!filled) return 1;
  if ((int64_t)lua_rawlen(L, 3) != pg_tensor_size(t))
    return pgl_error(L, "%I values for a shape of %I elements", (lua_Integer)lua_rawlen(L, 3),
                     (lua_Integer)pg_tensor_size(t));
  for (int64_t i = 0; i < pg_tensor_size(t); i++) {
    lua_rawgeti(L, 3, i + 1);
    if (!store_element(L, -1, t, i)) return bad_element(L, lua_gettop(L), t);
    lua_pop(L, 1);
  }
  return 1;
}

// The shape that the first elements of nested tables suggest.
static int nested_shape(lua_State *L, int64_t *shape) {
  int ndim = 0;
  lua_pushvalue(L, 2);
  while (lua_istable(L, -1)) {
    if (ndim == PG_MAX_NDIM) return pgl_error(L, "tables are nested more than %d deep", PG_MAX_NDIM);
    shape[ndim] = (int64_t)lua_rawlen(L, -1);
    lua_rawgeti(L, -1, 1);
    lua_remove(L, -2);
    if (shape[ndim++] == 0) break;
  }
  lua_pop(L, 1);
  return ndim;
}

static void fill_nested(lua_State *L, const pg_tensor *t, int axis, int64_t *next) {
  luaL_checkstack(L, 3, "nested tables");
  if (axis == pg_tensor_ndim(t)) {
    if (!store_element(L, -1, t, (*next)++)) bad_element(L, lua_gettop(L), t);
    return;
  }
  int64_t n = pg_tensor_shape(t)[axis];
  if (!lua_istable(L, -1) || (int64_t)lua_rawlen(L, -1) != n)
    pgl_error(L, "ragged nested tables: axis %d has %I entries at first, and elsewhere %I", axis + 1, (lua_Integer)n,
              (lua_Integer)(lua_istable(L, -1) ? lua_rawlen(L, -1) : 0));
  for (int64_t k = 0; k < n; k++) {
    lua_rawgeti(L, -1, k + 1);
    fill_nested(L, t, axis + 1, next);
    lua_pop(L, 1);
  }
}

// core.nested(dtype, tables): a tensor from nested tables of numbers or booleans (or one number: 0-d).
static int core_nested(lua_State *L) {
  int64_t shape[PG_MAX_NDIM], next = 0;
  pg_dtype dtype = pgl_check_dtype(L, 1);
  int ndim = nested_shape(L, shape);
  const pg_tensor *t = pgl_push_new(L, dtype, ndim, shape, NULL);
  lua_pushvalue(L, 2);
  fill_nested(L, t, 0, &next);
  lua_pop(L, 1);
  return 1;
}

static const luaL_Reg methods[] = {{"data_read", tensor_data_read},
                                   {"data_write", tensor_data_write},
                                   {"item", tensor_item},
                                   {"totable", tensor_totable},
                                   {"bytes", tensor_bytes},
                                   {"from_bytes", tensor_from_bytes},
                                   {"segment", tensor_segment_copy},
                                   {"segment_set", tensor_segment_set},
                                   {NULL, NULL}};
static const luaL_Reg functions[] = {{"tensor", core_tensor}, {"nested", core_nested}, {NULL, NULL}};

void pgl_open_access(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
  lua_getfield(L, -1, "methods");
  luaL_setfuncs(L, methods, 0);
  lua_pop(L, 1);
}
