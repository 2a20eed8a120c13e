// data.c: reading and writing the file formats, and assembling batches, for Lua (core.data). See data.h.
#include "bindings/data.h"

#include <string.h>

#include "bindings/tensor.h"
#include "engine/core/error.h"
#include "engine/core/memory.h"
#include "engine/data/batch.h"
#include "engine/data/dataset.h"
#include "engine/io/npy.h"
#include "engine/io/stream.h"

static const char guard_key, sparse_key; // metatables in the registry

// ---- guards ----

pgl_guard *pgl_push_guard(lua_State *L) {
  pgl_guard *guard = lua_newuserdatauv(L, sizeof *guard, 0);
  *guard = (pgl_guard){0};
  lua_rawgetp(L, LUA_REGISTRYINDEX, &guard_key);
  lua_setmetatable(L, -2);
  return guard;
}

void pgl_close_guard(pgl_guard *guard) {
  if (guard->p) guard->free(guard->p);
  guard->p = NULL;
}

static int guard_gc(lua_State *L) {
  pgl_close_guard(lua_touserdata(L, 1));
  return 0;
}

// ---- tensors from functions that may run out of memory ----

// Push a new tensor made by make(arg, &tensor); after PG_ERR_MEMORY collects and tries once more; raises other
// failures.
pg_tensor *pgl_push_made(lua_State *L, pg_status (*make)(void *arg, pg_tensor **out), void *arg) {
  pgl_tensor *box = pgl_push_empty(L);
  pg_status status = make(arg, &box->tensor);
  if (status == PG_ERR_MEMORY) {
    pgl_collect(L);
    status = make(arg, &box->tensor);
  }
  if (status != PG_OK) {
    box->tensor = NULL;
    pgl_raise(L);
  }
  pgl_report_bytes(L, pg_tensor_bytes(box->tensor));
  return box->tensor;
}

static pg_status make_from_idx(void *path, pg_tensor **out) {
  return pg_idx_read(path, out);
}

static pg_status make_from_npy(void *path, pg_tensor **out) {
  return pg_npy_read(path, out);
}

typedef struct bytes_call {
  const char *path;
  int64_t width; // of a record; 0: none
} bytes_call;

static pg_status make_from_bytes(void *arg, pg_tensor **out) {
  const bytes_call *call = arg;
  uint8_t *bytes;
  size_t n;
  pg_status status = pg_read_file(call->path, &bytes, &n);
  if (status != PG_OK) return status;
  int64_t width = call->width, size = (int64_t)n, shape[2] = {width ? size / width : size, width};
  if (width && size % width) {
    status = pg_fail(PG_ERR_FORMAT, "%s: byte %lld: the file ends inside a record (%lld bytes are no multiple of %lld)",
                     call->path, (long long)(size - size % width), (long long)size, (long long)width);
  } else {
    status = pg_tensor_new(PG_U8, width ? 2 : 1, shape, NULL, out);
  }
  if (status == PG_OK && n) memcpy(pg_tensor_data(*out), bytes, n);
  pg_free(bytes);
  return status;
}

// read_idx(path), read_npy(path) → tensor; read_bytes(path) → u8 tensor of the content, decompressed; with a record's
// width [records, width]
static int data_read_idx(lua_State *L) {
  pgl_push_made(L, make_from_idx, (void *)luaL_checkstring(L, 1));
  return 1;
}

static int data_read_npy(lua_State *L) {
  pgl_push_made(L, make_from_npy, (void *)luaL_checkstring(L, 1));
  return 1;
}

static int data_read_bytes(lua_State *L) {
  bytes_call call = {luaL_checkstring(L, 1), luaL_optinteger(L, 2, 0)};
  luaL_argcheck(L, call.width >= 0, 2, "a number of bytes");
  pgl_push_made(L, make_from_bytes, &call);
  return 1;
}

// write_npy(path, tensor): atomic
static int data_write_npy(lua_State *L) {
  if (pg_npy_write(luaL_checkstring(L, 1), pgl_check_eager(L, 2)) != PG_OK) return pgl_raise(L);
  return 0;
}

// ---- options ----

// Field `name` of the options table at i as a non-negative integer, 0 if absent.
static int64_t option_integer(lua_State *L, int i, const char *name) {
  if (!lua_istable(L, i)) return 0;
  lua_getfield(L, i, name);
  int is_integer = 1;
  lua_Integer n = lua_isnil(L, -1) ? 0 : lua_tointegerx(L, -1, &is_integer);
  lua_pop(L, 1);
  if (!is_integer || n < 0) return pgl_error(L, "option %s is a non-negative integer", name);
  return n;
}

static bool option_flag(lua_State *L, int i, const char *name) {
  if (!lua_istable(L, i)) return false;
  lua_getfield(L, i, name);
  bool on = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return on;
}

static double option_number(lua_State *L, int i, const char *name, double otherwise) {
  lua_getfield(L, i, name);
  int is_number = 1;
  double x = lua_isnil(L, -1) ? otherwise : lua_tonumberx(L, -1, &is_number);
  lua_pop(L, 1);
  if (!is_number) pgl_error(L, "option %s is a number", name);
  return x;
}

static pg_dtype option_dtype(lua_State *L, int i, pg_dtype otherwise) {
  if (!lua_istable(L, i)) return otherwise;
  lua_getfield(L, i, "dtype");
  pg_dtype dtype = lua_isnil(L, -1) ? otherwise : pgl_check_dtype(L, lua_gettop(L));
  lua_pop(L, 1);
  return dtype;
}

// ---- LIBSVM and sparse matrices ----

typedef struct sparse_box {
  const void *tag;
  pg_sparse *sparse;
} sparse_box;

pg_sparse *pgl_to_sparse(lua_State *L, int i) {
  sparse_box *box = lua_touserdata(L, i);
  return box && lua_rawlen(L, i) == sizeof *box && box->tag == &sparse_key ? box->sparse : NULL;
}

static sparse_box *push_sparse_box(lua_State *L) {
  sparse_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = (sparse_box){.tag = &sparse_key};
  lua_rawgetp(L, LUA_REGISTRYINDEX, &sparse_key);
  lua_setmetatable(L, -2);
  return box;
}

static int sparse_gc(lua_State *L) {
  sparse_box *box = lua_touserdata(L, 1);
  pg_sparse_release(box->sparse);
  box->sparse = NULL;
  return 0;
}

// sparse.rows, .columns, .entries
static int sparse_index(lua_State *L) {
  const pg_sparse *s = pgl_to_sparse(L, 1);
  const char *name = luaL_checkstring(L, 2);
  if (!s) return 0;
  if (!strcmp(name, "rows")) return lua_pushinteger(L, s->rows), 1;
  if (!strcmp(name, "columns")) return lua_pushinteger(L, s->columns), 1;
  if (!strcmp(name, "entries")) return lua_pushinteger(L, s->start[s->rows]), 1;
  return pgl_error(L, "a sparse matrix has rows, columns and entries, not '%s'", name);
}

static int sparse_tostring(lua_State *L) {
  const pg_sparse *s = pgl_to_sparse(L, 1);
  if (!s) return lua_pushliteral(L, "sparse matrix (freed)"), 1;
  lua_pushfstring(L, "sparse matrix %I x %I, %I entries", (lua_Integer)s->rows, (lua_Integer)s->columns,
                  (lua_Integer)s->start[s->rows]);
  return 1;
}

static void free_dataset(void *d) {
  pg_dataset_free(d);
}

static void push_field(lua_State *L, const pg_field *field) {
  if (field->dense) {
    pgl_push_tensor(L, field->dense);
    pgl_report_bytes(L, pg_tensor_bytes(field->dense));
    return;
  }
  sparse_box *box = push_sparse_box(L);
  box->sparse = pg_sparse_retain(field->sparse);
  pgl_report_bytes(L, (size_t)field->sparse->start[field->sparse->rows] * 12);
}

// read_libsvm(path, {dtype=, dims=, bias=, dense=, dense_limit=}) → x (tensor or sparse matrix), y (f64 labels)
static int data_read_libsvm(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  pg_libsvm_options o = {.dtype = option_dtype(L, 2, PG_F32),
                         .dims = option_integer(L, 2, "dims"),
                         .bias = option_flag(L, 2, "bias"),
                         .dense = option_flag(L, 2, "dense"),
                         .dense_limit = (size_t)option_integer(L, 2, "dense_limit")};
  pgl_guard *guard = pgl_push_guard(L);
  pg_dataset *d;
  pg_status status = pg_libsvm_read(path, &o, &d);
  if (status == PG_ERR_MEMORY) {
    pgl_collect(L);
    status = pg_libsvm_read(path, &o, &d);
  }
  if (status != PG_OK) return pgl_raise(L);
  *guard = (pgl_guard){d, free_dataset};
  push_field(L, pg_dataset_find(d, "x"));
  push_field(L, pg_dataset_find(d, "y"));
  pgl_close_guard(guard);
  return 2;
}

// ---- CSV ----

typedef struct csv_call {
  const char *path;
  pg_csv_options options;
  char **names;
} csv_call;

static pg_status make_from_csv(void *arg, pg_tensor **out) {
  csv_call *call = arg;
  return pg_csv_read(call->path, &call->options, out, &call->names);
}

static char option_delimiter(lua_State *L, int i) {
  if (!lua_istable(L, i)) return 0;
  size_t n = 0;
  lua_getfield(L, i, "delimiter");
  const char *text = lua_tolstring(L, -1, &n);
  char delimiter = text && n == 1 ? *text : 0;
  bool bad = !lua_isnil(L, -1) && !delimiter;
  lua_pop(L, 1);
  if (bad) pgl_error(L, "option delimiter is one character (\" \" for runs of blanks)");
  return delimiter;
}

static pg_csv_header option_header(lua_State *L, int i) {
  if (!lua_istable(L, i)) return PG_CSV_AUTO;
  lua_getfield(L, i, "header");
  pg_csv_header header = lua_isnil(L, -1) ? PG_CSV_AUTO : lua_toboolean(L, -1) ? PG_CSV_HEADER : PG_CSV_NO_HEADER;
  lua_pop(L, 1);
  return header;
}

// read_csv(path, {dtype=, delimiter=, header=true|false, skip=lines}) → tensor [rows, columns], names|nil
static int data_read_csv(lua_State *L) {
  csv_call call = {.path = luaL_checkstring(L, 1),
                   .options = {.dtype = option_dtype(L, 2, PG_F64),
                               .delimiter = option_delimiter(L, 2),
                               .header = option_header(L, 2),
                               .skip = option_integer(L, 2, "skip")}};
  pgl_guard *guard = pgl_push_guard(L);
  pg_tensor *table = pgl_push_made(L, make_from_csv, &call);
  *guard = (pgl_guard){call.names, pg_free};
  if (!call.names) return 1;
  lua_newtable(L);
  for (int64_t i = 0; i < pg_tensor_shape(table)[1]; i++) {
    lua_pushstring(L, call.names[i]);
    lua_rawseti(L, -2, i + 1);
  }
  pgl_close_guard(guard);
  return 2;
}

// ---- batches ----

// The indices at i (an i64 or i32 tensor, or a list of integers) as i64; what had to be converted lives in a userdata
// that is pushed.
static const int64_t *check_indices(lua_State *L, int i, int64_t *n) {
  if (lua_istable(L, i)) {
    *n = (int64_t)lua_rawlen(L, i);
    int64_t *index = lua_newuserdatauv(L, ((size_t)*n + 1) * sizeof *index, 0);
    for (int64_t k = 0; k < *n; k++, lua_pop(L, 1)) {
      int is_integer;
      lua_rawgeti(L, i, k + 1);
      index[k] = lua_tointegerx(L, -1, &is_integer);
      if (!is_integer) pgl_error(L, "index %I is not an integer", (lua_Integer)k + 1);
    }
    return index;
  }
  const pg_tensor *t = pgl_check_eager(L, i);
  *n = pg_tensor_size(t);
  if (pg_tensor_dtype(t) == PG_I64) return pg_tensor_data(t);
  if (pg_tensor_dtype(t) != PG_I32)
    pgl_error(L, "indices have dtype i64 or i32, not %s", pg_dtype_name(pg_tensor_dtype(t)));
  int64_t *index = lua_newuserdatauv(L, ((size_t)*n + 1) * sizeof *index, 0);
  for (int64_t k = 0; k < *n; k++) index[k] = ((const int32_t *)pg_tensor_data(t))[k];
  return index;
}

// gather(source, indices, destination, {scale=, shift=, first=, count=}) or (…, scale, shift, first, count): rows of a
// tensor or sparse matrix, chosen by 0-based indices (`count` of them from the 0-based place `first` of the list; all
// by default), into the first rows of the destination, as f64 value * scale + shift; rows left over become zero
static int data_gather(lua_State *L) {
  const pg_sparse *sparse = pgl_to_sparse(L, 1);
  const pg_tensor *dense = sparse ? NULL : pgl_check_eager(L, 1);
  pg_tensor *dst = pgl_check_eager(L, 3);
  bool table = lua_istable(L, 4);
  double scale = table ? option_number(L, 4, "scale", 1) : luaL_optnumber(L, 4, 1);
  double shift = table ? option_number(L, 4, "shift", 0) : luaL_optnumber(L, 5, 0);
  int64_t size, first = table ? option_integer(L, 4, "first") : luaL_optinteger(L, 6, 0);
  const int64_t *index = check_indices(L, 2, &size);
  int64_t count =
      table ? (int64_t)option_number(L, 4, "count", (double)(size - first)) : luaL_optinteger(L, 7, size - first);
  if (first < 0 || count < 0 || first > size || count > size - first)
    return pgl_error(L, "gather: %I indices from place %I on are not within the %I there are", (lua_Integer)count,
                     (lua_Integer)first, (lua_Integer)size);
  pg_status status = sparse ? pg_gather_sparse(sparse, index + first, count, scale, shift, dst)
                            : pg_gather_rows(dense, index + first, count, scale, shift, dst);
  return status == PG_OK ? 0 : pgl_raise(L);
}

// put(source, indices, table [, first, count]): the way back: the source's first rows into the table's rows of these
// 0-based indices, none of which may occur twice
static int data_put(lua_State *L) {
  const pg_tensor *src = pgl_check_eager(L, 1);
  pg_tensor *dst = pgl_check_eager(L, 3);
  int64_t size, first = luaL_optinteger(L, 4, 0);
  const int64_t *index = check_indices(L, 2, &size);
  int64_t count = luaL_optinteger(L, 5, size - first);
  if (first < 0 || count < 0 || first > size || count > size - first)
    return pgl_error(L, "put: %I indices from place %I on are not within the %I there are", (lua_Integer)count,
                     (lua_Integer)first, (lua_Integer)size);
  return pg_put_rows(src, index + first, count, dst) == PG_OK ? 0 : pgl_raise(L);
}

// check_distinct(indices): an error if one occurs twice
static int data_check_distinct(lua_State *L) {
  int64_t n;
  const int64_t *index = check_indices(L, 1, &n);
  return pg_check_distinct(index, n) == PG_OK ? 0 : pgl_raise(L);
}

// in_file(dtype, shape, directory) → zeros that lie in a file there, which has no name and goes with the tensor
static int data_in_file(lua_State *L) {
  int64_t shape[PG_MAX_NDIM];
  pg_dtype dtype = pgl_check_dtype(L, 1);
  int ndim = pgl_check_shape(L, 2, shape);
  const char *directory = luaL_checkstring(L, 3);
  pgl_tensor *box = pgl_push_empty(L);
  if (pg_tensor_new_in_file(dtype, ndim, shape, directory, &box->tensor) != PG_OK) return pgl_raise(L);
  return 1;
}

typedef struct take_call {
  pg_tensor *src;
  int64_t from, to;
} take_call;

static pg_status make_from_rows(void *arg, pg_tensor **out) {
  take_call *call = arg;
  return pg_take_rows(call->src, call->from, call->to, out);
}

// rows(source, from, to): the half-open range, 0-based; rows of a tensor share its memory where alignment allows
static int data_rows(lua_State *L) {
  int64_t from = luaL_checkinteger(L, 2), to = luaL_checkinteger(L, 3);
  const pg_sparse *sparse = pgl_to_sparse(L, 1);
  if (!sparse) {
    pgl_push_made(L, make_from_rows, &(take_call){pgl_check_eager(L, 1), from, to});
    return 1;
  }
  sparse_box *box = push_sparse_box(L);
  if (pg_take_sparse_rows(sparse, from, to, &box->sparse) != PG_OK) return pgl_raise(L);
  return 1;
}

typedef struct columns_call {
  const pg_tensor *src;
  const int64_t *columns;
  int64_t n;
} columns_call;

static pg_status make_from_columns(void *arg, pg_tensor **out) {
  columns_call *call = arg;
  return pg_take_columns(call->src, call->columns, call->n, out);
}

// columns(matrix, {0-based numbers}) → new matrix
static int data_columns(lua_State *L) {
  columns_call call = {.src = pgl_check_eager(L, 1)};
  call.columns = check_indices(L, 2, &call.n);
  pgl_push_made(L, make_from_columns, &call);
  return 1;
}

typedef struct join_call {
  pg_tensor **parts;
  int n;
} join_call;

static pg_status make_from_parts(void *arg, pg_tensor **out) {
  join_call *call = arg;
  return pg_join_rows(call->n, call->parts, out);
}

// join_rows({tensors}) → new tensor
static int data_join_rows(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  join_call call = {.n = (int)lua_rawlen(L, 1)};
  luaL_argcheck(L, call.n > 0, 1, "at least one tensor");
  call.parts = lua_newuserdatauv(L, (size_t)call.n * sizeof *call.parts, 0);
  for (int i = 0; i < call.n; i++, lua_pop(L, 1)) {
    lua_rawgeti(L, 1, i + 1); // the list keeps it alive
    call.parts[i] = pgl_check_eager(L, lua_gettop(L));
  }
  pgl_push_made(L, make_from_parts, &call);
  return 1;
}

// is_sparse(x) → boolean
static int data_is_sparse(lua_State *L) {
  lua_pushboolean(L, pgl_to_sparse(L, 1) != NULL);
  return 1;
}

// ---- the module ----

static const luaL_Reg functions[] = {{"read_idx", data_read_idx},
                                     {"read_npy", data_read_npy},
                                     {"read_bytes", data_read_bytes},
                                     {"write_npy", data_write_npy},
                                     {"read_libsvm", data_read_libsvm},
                                     {"read_csv", data_read_csv},
                                     {"gather", data_gather},
                                     {"put", data_put},
                                     {"in_file", data_in_file},
                                     {"rows", data_rows},
                                     {"check_distinct", data_check_distinct},
                                     {"columns", data_columns},
                                     {"join_rows", data_join_rows},
                                     {"is_sparse", data_is_sparse},
                                     {NULL, NULL}};

static void open_guards(lua_State *L) {
  lua_createtable(L, 0, 2);
  lua_pushcfunction(L, guard_gc);
  lua_setfield(L, -2, "__gc");
  pgl_keep_metatable(L, &guard_key, "guard");
}

static void open_sparse(lua_State *L) {
  static const luaL_Reg meta[] = {
      {"__gc", sparse_gc}, {"__index", sparse_index}, {"__tostring", sparse_tostring}, {NULL, NULL}};
  luaL_newlib(L, meta);
  pgl_keep_metatable(L, &sparse_key, "sparse matrix");
}

int luaopen_perigee_data(lua_State *L) {
  open_guards(L);
  open_sparse(L);
  luaL_newlib(L, functions);
  pgl_open_safetensors(L);
  pgl_open_files(L);
  pgl_open_json(L);
  return 1;
}
