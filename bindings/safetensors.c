// safetensors.c: safetensors files for Lua (core.data.safetensors_open, _read, _write): lazily, whole, and written
// atomically.
#include "bindings/data.h"
#include "bindings/tensor.h"
#include "engine/io/safetensors.h"

static const char NAME[] = "safetensors"; // of the metatable

// ---- open files ----

typedef struct safetensors_box {
  pg_safetensors *file; // NULL once closed
} safetensors_box;

static pg_safetensors *check_safetensors(lua_State *L) {
  safetensors_box *box = luaL_checkudata(L, 1, NAME);
  if (!box->file) pgl_error(L, "this safetensors file is closed");
  return box->file;
}

// The tensor named by the string at stack index i.
static int check_entry(lua_State *L, const pg_safetensors *file, int i) {
  const char *name = luaL_checkstring(L, i);
  int entry = pg_safetensors_find(file, name);
  if (entry < 0) pgl_error(L, "the file has no tensor \"%s\"", name);
  return entry;
}

// safetensors_open(path) → file; only the header is read
static int data_safetensors_open(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  safetensors_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  box->file = NULL;
  luaL_setmetatable(L, NAME);
  if (pg_safetensors_open(path, &box->file) != PG_OK) return pgl_raise(L);
  return 1;
}

static int safetensors_close(lua_State *L) {
  safetensors_box *box = luaL_checkudata(L, 1, NAME);
  pg_safetensors_close(box->file);
  box->file = NULL;
  return 0;
}

// file:names() → names in the order of their bytes
static int safetensors_names(lua_State *L) {
  const pg_safetensors *file = check_safetensors(L);
  int n = pg_safetensors_count(file);
  lua_createtable(L, n, 0);
  for (int i = 0; i < n; i++) {
    lua_pushstring(L, pg_safetensors_at(file, i)->name);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

// file:info(name) → dtype as stored ("F32"), shape
static int safetensors_info(lua_State *L) {
  const pg_safetensors *file = check_safetensors(L);
  const pg_safetensors_entry *e = pg_safetensors_at(file, check_entry(L, file, 2));
  lua_pushstring(L, e->stored_type);
  pgl_push_shape(L, e->ndim, e->shape);
  return 2;
}

// file:metadata() → table of strings
static int safetensors_metadata(lua_State *L) {
  const pg_safetensors *file = check_safetensors(L);
  int n = pg_safetensors_metadata_count(file);
  lua_createtable(L, 0, n);
  for (int i = 0; i < n; i++) {
    const char *key, *value;
    pg_safetensors_metadata_at(file, i, &key, &value);
    lua_pushstring(L, value);
    lua_setfield(L, -2, key);
  }
  return 1;
}

// file:verify(): raises if the checksum in the metadata does not fit the data
static int safetensors_verify(lua_State *L) {
  if (pg_safetensors_verify(check_safetensors(L)) != PG_OK) return pgl_raise(L);
  return 0;
}

typedef struct load_call {
  pg_safetensors *file;
  int entry;
} load_call;

static pg_status make_from_entry(void *arg, pg_tensor **out) {
  load_call *call = arg;
  return pg_safetensors_load(call->file, call->entry, out);
}

// file:load(name) → tensor
static int safetensors_load(lua_State *L) {
  load_call call = {.file = check_safetensors(L)};
  call.entry = check_entry(L, call.file, 2);
  pgl_push_made(L, make_from_entry, &call);
  return 1;
}

// file:read_into(name, tensor): into a slot's memory; dtype and size must fit
static int safetensors_read_into(lua_State *L) {
  pg_safetensors *file = check_safetensors(L);
  int entry = check_entry(L, file, 2);
  const pg_safetensors_entry *e = pg_safetensors_at(file, entry);
  pg_tensor *dst = pgl_check_eager(L, 3);
  if (!e->loadable || e->dtype != pg_tensor_dtype(dst))
    return pgl_error(L, "tensor \"%s\" has dtype %s, the destination %s", e->name, e->stored_type,
                     pg_dtype_name(pg_tensor_dtype(dst)));
  if (pg_safetensors_read(file, entry, pg_tensor_data(dst), pg_tensor_bytes(dst)) != PG_OK) return pgl_raise(L);
  return 0;
}

// safetensors_read(path) → {name = tensor}, metadata, names in order; the checksum is verified if there is one
static int data_safetensors_read(lua_State *L) {
  lua_settop(L, 1);
  data_safetensors_open(L);
  lua_replace(L, 1); // the file stands where the methods expect it
  pg_safetensors *file = check_safetensors(L);
  safetensors_verify(L);
  int n = pg_safetensors_count(file);
  lua_createtable(L, 0, n);
  for (int i = 0; i < n; i++) {
    pgl_push_made(L, make_from_entry, &(load_call){file, i});
    lua_setfield(L, -2, pg_safetensors_at(file, i)->name);
  }
  safetensors_metadata(L);
  safetensors_names(L);
  safetensors_close(L);
  return 3;
}

// The list {{name, tensor}, …} at stack index i → an array in a userdata that is pushed. The strings and tensors stay
// anchored in the list.
static pg_named_tensor *check_tensor_list(lua_State *L, int i, int *n) {
  luaL_checktype(L, i, LUA_TTABLE);
  *n = (int)lua_rawlen(L, i);
  pg_named_tensor *list = lua_newuserdatauv(L, ((size_t)*n + 1) * sizeof *list, 0);
  for (int k = 0; k < *n; k++) {
    lua_rawgeti(L, i, k + 1);
    if (!lua_istable(L, -1) || lua_rawgeti(L, -1, 1) != LUA_TSTRING || lua_rawgeti(L, -2, 2) != LUA_TUSERDATA)
      pgl_error(L, "entry %d of the list is not {name, tensor}", k + 1);
    list[k] = (pg_named_tensor){lua_tostring(L, -2), pgl_check_eager(L, lua_gettop(L))};
    lua_pop(L, 3);
  }
  return list;
}

// The sorted keys of the table at i as a new list on top of the stack; all must be strings.
static int push_sorted_keys(lua_State *L, int i) {
  int n = 0;
  lua_newtable(L);
  for (lua_pushnil(L); lua_next(L, i); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
      pgl_error(L, "metadata maps strings to strings; found a %s for a %s", luaL_typename(L, -1), luaL_typename(L, -2));
    lua_pushvalue(L, -2);
    lua_rawseti(L, -4, ++n);
  }
  lua_getglobal(L, "table");
  lua_getfield(L, -1, "sort");
  lua_pushvalue(L, -3);
  lua_call(L, 1, 0);
  lua_pop(L, 1);
  return n;
}

static pg_string_pair *check_metadata(lua_State *L, int i, int *n) {
  luaL_checktype(L, i, LUA_TTABLE);
  *n = push_sorted_keys(L, i);
  int keys = lua_gettop(L);
  pg_string_pair *pairs = lua_newuserdatauv(L, ((size_t)*n + 1) * sizeof *pairs, 0);
  for (int k = 0; k < *n; k++) {
    lua_rawgeti(L, keys, k + 1);
    lua_pushvalue(L, -1);
    lua_rawget(L, i);
    pairs[k] = (pg_string_pair){lua_tostring(L, -2), lua_tostring(L, -1)};
    lua_pop(L, 2);
  }
  return pairs;
}

// safetensors_write(path, {{name, tensor}, …}, metadata|nil): atomic; metadata is written in the order of its keys
static int data_safetensors_write(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  lua_settop(L, 3);
  int n, nmetadata = 0;
  pg_named_tensor *tensors = check_tensor_list(L, 2, &n);
  pg_string_pair *metadata = lua_isnil(L, 3) ? NULL : check_metadata(L, 3, &nmetadata);
  if (pg_safetensors_write(path, n, tensors, nmetadata, metadata) != PG_OK) return pgl_raise(L);
  return 0;
}

static const luaL_Reg methods[] = {{"names", safetensors_names},       {"info", safetensors_info},
                                   {"metadata", safetensors_metadata}, {"verify", safetensors_verify},
                                   {"load", safetensors_load},         {"read_into", safetensors_read_into},
                                   {"close", safetensors_close},       {NULL, NULL}};

static const luaL_Reg functions[] = {{"safetensors_open", data_safetensors_open},
                                     {"safetensors_read", data_safetensors_read},
                                     {"safetensors_write", data_safetensors_write},
                                     {NULL, NULL}};

void pgl_open_safetensors(lua_State *L) {
  luaL_newmetatable(L, NAME);
  lua_pushcfunction(L, safetensors_close);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, safetensors_close);
  lua_setfield(L, -2, "__close");
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
