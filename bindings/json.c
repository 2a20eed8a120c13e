// json.c: JSON for Lua (core.data.json_encode, json_decode) over jansson. Objects have sorted keys; a table with
// elements 1 … n is an array; numbers that JSON lacks are the strings "nan", "inf", "-inf"; floats keep their point
// (1.0), so integers and floats come back as they went. An empty table is an object unless it came from json_decode as
// an array or from json_array. null is core.data.null.
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/data.h"
#include "bindings/tensor.h"
#include "engine/core/error.h"
#include "engine/io/json.h"

static const char array_key; // metatable of empty arrays

// ---- encoding ----
// Nothing here raises: a Lua error would lose the tree built so far. Failures return NULL with the message set.

static json_t *encode_value(lua_State *L, int i, int depth);

static json_t *fail_encode(const char *why) {
  pg_fail(PG_ERR_ARGUMENT, "json: %s", why);
  return NULL;
}

static json_t *encode_number(lua_State *L, int i) {
  if (lua_isinteger(L, i)) return json_integer(lua_tointeger(L, i));
  char text[PG_JSON_NUMBER_SIZE];
  double x = lua_tonumber(L, i);
  if (isfinite(x)) return json_real(x);
  pg_json_number(x, text);
  return json_stringn(text + 1, strlen(text) - 2); // without its quotes
}

static json_t *encode_string(lua_State *L, int i) {
  size_t n;
  const char *text = lua_tolstring(L, i, &n);
  json_t *string = memchr(text, 0, n) ? NULL : json_stringn(text, n);
  return string ? string : fail_encode("a string is not UTF-8 or holds a zero byte");
}

static json_t *encode_array(lua_State *L, int i, size_t n, int depth) {
  json_t *array = json_array();
  for (size_t k = 1; k <= n; k++) {
    lua_rawgeti(L, i, (lua_Integer)k);
    json_t *value = encode_value(L, lua_gettop(L), depth + 1);
    lua_pop(L, 1);
    if (value && json_array_append_new(array, value) == 0) continue;
    json_decref(array);
    return NULL;
  }
  return array;
}

static bool encode_member(lua_State *L, json_t *object, int depth) {
  size_t n;
  if (lua_type(L, -2) != LUA_TSTRING) return fail_encode("a table is neither a list 1 … n nor has only string keys");
  const char *key = lua_tolstring(L, -2, &n);
  if (memchr(key, 0, n)) return fail_encode("a key holds a zero byte");
  json_t *value = encode_value(L, lua_gettop(L), depth + 1);
  if (!value) return false;
  return json_object_set_new(object, key, value) == 0 || fail_encode("a key is not UTF-8");
}

static json_t *encode_object(lua_State *L, int i, int depth) {
  json_t *object = json_object();
  for (lua_pushnil(L); lua_next(L, i); lua_pop(L, 1)) {
    if (encode_member(L, object, depth)) continue;
    lua_pop(L, 2);
    json_decref(object);
    return NULL;
  }
  return object;
}

static bool is_marked_array(lua_State *L, int i) {
  if (!lua_getmetatable(L, i)) return false;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &array_key);
  bool marked = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return marked;
}

// Number of entries, counted; stops beyond `most`.
static size_t count_entries(lua_State *L, int i, size_t most) {
  size_t n = 0;
  for (lua_pushnil(L); lua_next(L, i); lua_pop(L, 1)) {
    if (++n <= most) continue;
    lua_pop(L, 2);
    break;
  }
  return n;
}

static json_t *encode_table(lua_State *L, int i, int depth) {
  if (depth >= PG_JSON_DEPTH || !lua_checkstack(L, 8))
    return fail_encode("tables are nested too deeply (or in a circle)");
  size_t n = lua_rawlen(L, i);
  if (n == 0) return is_marked_array(L, i) ? json_array() : encode_object(L, i, depth);
  if (count_entries(L, i, n) != n) return fail_encode("a table is neither a list 1 … n nor has only string keys");
  return encode_array(L, i, n, depth);
}

static json_t *encode_value(lua_State *L, int i, int depth) {
  switch (lua_type(L, i)) {
  case LUA_TNUMBER:
    return encode_number(L, i);
  case LUA_TSTRING:
    return encode_string(L, i);
  case LUA_TBOOLEAN:
    return json_boolean(lua_toboolean(L, i));
  case LUA_TTABLE:
    return encode_table(L, i, depth);
  case LUA_TNIL:
    return json_null();
  case LUA_TLIGHTUSERDATA:
    if (!lua_touserdata(L, i)) return json_null();
    break;
  default:
    break;
  }
  pg_fail(PG_ERR_ARGUMENT, "json: a %s cannot be written", luaL_typename(L, i));
  return NULL;
}

// json_encode(value, indent|nil) → string
static int data_json_encode(lua_State *L) {
  luaL_checkany(L, 1);
  lua_Integer indent = luaL_optinteger(L, 2, 0);
  luaL_argcheck(L, 0 <= indent && indent <= 31, 2, "an indent of 0 to 31");
  pgl_guard *guard = pgl_push_guard(L);
  json_t *tree = encode_value(L, 1, 0);
  if (!tree) return pgl_raise(L);
  size_t flags = JSON_SORT_KEYS | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17) | JSON_INDENT((size_t)indent);
  char *text = json_dumps(tree, flags | (indent ? 0 : JSON_COMPACT));
  json_decref(tree);
  if (!text) return pgl_error(L, "json: out of memory");
  *guard = (pgl_guard){text, free};
  lua_pushstring(L, text);
  pgl_close_guard(guard);
  return 1;
}

// ---- decoding ----
// May raise (out of memory): the tree is in a guard.

static void push_value(lua_State *L, const json_t *value);

static void push_array(lua_State *L, const json_t *array) {
  size_t n = json_array_size(array);
  lua_createtable(L, n < INT_MAX ? (int)n : 0, 0);
  for (size_t i = 0; i < n; i++) {
    push_value(L, json_array_get(array, i));
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  if (n) return;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &array_key);
  lua_setmetatable(L, -2);
}

static void push_object(lua_State *L, json_t *object) {
  const char *key;
  json_t *value;
  lua_newtable(L);
  json_object_foreach(object, key, value) {
    lua_pushstring(L, key);
    push_value(L, value);
    lua_rawset(L, -3);
  }
}

static void push_value(lua_State *L, const json_t *value) {
  luaL_checkstack(L, 4, "json");
  switch (json_typeof(value)) {
  case JSON_OBJECT:
    push_object(L, (json_t *)value);
    return;
  case JSON_ARRAY:
    push_array(L, value);
    return;
  case JSON_STRING:
    lua_pushlstring(L, json_string_value(value), json_string_length(value));
    return;
  case JSON_INTEGER:
    lua_pushinteger(L, json_integer_value(value));
    return;
  case JSON_REAL:
    lua_pushnumber(L, json_real_value(value));
    return;
  case JSON_NULL:
    lua_pushlightuserdata(L, NULL);
    return;
  default:
    lua_pushboolean(L, json_is_true(value));
  }
}

static void free_tree(void *tree) {
  json_decref(tree);
}

// json_decode(string, name|nil) → value; name stands for the text in messages
static int data_json_decode(lua_State *L) {
  size_t n;
  const char *text = luaL_checklstring(L, 1, &n), *name = luaL_optstring(L, 2, "json");
  pgl_guard *guard = pgl_push_guard(L);
  json_t *tree;
  if (pg_json_parse(text, n, name, 0, &tree) != PG_OK) return pgl_raise(L);
  *guard = (pgl_guard){tree, free_tree};
  push_value(L, tree);
  pgl_close_guard(guard);
  return 1;
}

// json_number(x) → its text as json_encode writes it
static int data_json_number(lua_State *L) {
  char text[PG_JSON_NUMBER_SIZE];
  lua_pushstring(L, pg_json_number(luaL_checknumber(L, 1), text));
  return 1;
}

// json_array(table) → the table, written as [] when it is empty
static int data_json_array(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &array_key);
  lua_setmetatable(L, 1);
  return 1;
}

void pgl_open_json(lua_State *L) {
  static const luaL_Reg functions[] = {{"json_encode", data_json_encode},
                                       {"json_decode", data_json_decode},
                                       {"json_number", data_json_number},
                                       {"json_array", data_json_array},
                                       {NULL, NULL}};
  lua_newtable(L);
  pgl_keep_metatable(L, &array_key, "json array");
  luaL_setfuncs(L, functions, 0);
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");
}
