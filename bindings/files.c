// files.c: files, directories, append logs, hashes, process and clocks for Lua (core.data). What the sandbox allows of
// it is decided in Lua; these functions do what they are told. Relative paths are the process's.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bindings/data.h"
#include "bindings/tensor.h"
#include "engine/core/error.h"
#include "engine/core/memory.h"
#include "engine/io/atomic.h"
#include "engine/core/sha256.h"
#include "engine/io/stream.h"

static int fail_errno(lua_State *L, const char *path, const char *doing) {
  return pgl_error(L, "%s: cannot %s: %s", path, doing, strerror(errno));
}

// ---- whole files ----

// write_file_atomic(path, string)
static int files_write_atomic(lua_State *L) {
  size_t n;
  const char *path = luaL_checkstring(L, 1), *text = luaL_checklstring(L, 2, &n);
  if (pg_write_file_atomic(path, text, n) != PG_OK) return pgl_raise(L);
  return 0;
}

// write_file_private(path, string): the same, for the user's eyes only
static int files_write_private(lua_State *L) {
  size_t n;
  const char *path = luaL_checkstring(L, 1), *text = luaL_checklstring(L, 2, &n);
  mode_t before = umask(0077);
  pg_status status = pg_write_file_atomic(path, text, n);
  umask(before);
  return status == PG_OK ? 0 : pgl_raise(L);
}

// read_file(path) → string, decompressed if it is gzip or xz
static int files_read(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  pgl_guard *guard = pgl_push_guard(L);
  uint8_t *bytes;
  size_t n;
  if (pg_read_file(path, &bytes, &n) != PG_OK) return pgl_raise(L);
  *guard = (pgl_guard){bytes, pg_free};
  lua_pushlstring(L, (const char *)bytes, n);
  pgl_close_guard(guard);
  return 1;
}

// set_read_limit(bytes): the most content taken from one file; 0: the default
static int files_set_read_limit(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 1);
  luaL_argcheck(L, n >= 0, 1, "a number of bytes");
  pg_stream_set_limit((uint64_t)n);
  return 0;
}

// ---- logs: lines added to a file that survives a kill and can be cut back on resume ----

typedef struct log_file {
  int fd; // -1 once closed
  char *path;
} log_file;

static log_file *check_log(lua_State *L) {
  log_file *log = luaL_checkudata(L, 1, "log file");
  if (log->fd < 0) pgl_error(L, "this log is closed");
  return log;
}

// open_log(path) → log, for appending; made if it is not there
static int files_open_log(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  log_file *log = lua_newuserdatauv(L, sizeof *log, 0);
  *log = (log_file){.fd = -1};
  luaL_setmetatable(L, "log file");
  log->path = pg_strdup(path);
  if (!log->path) return pgl_raise(L);
  log->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (log->fd < 0) return fail_errno(L, path, "open");
  return 1;
}

// log:write(string): all of it, in one call to the system where that takes it whole, so lines of two processes do not
// mix
static int log_write(lua_State *L) {
  log_file *log = check_log(L);
  size_t n;
  const char *text = luaL_checklstring(L, 2, &n);
  if (pg_write_all(log->fd, text, n, log->path) != PG_OK) return pgl_raise(L);
  return 0;
}

// log:sync(): what was written survives a loss of power
static int log_sync(lua_State *L) {
  log_file *log = check_log(L);
  if (fsync(log->fd) < 0 && errno != EINVAL && errno != EROFS) return fail_errno(L, log->path, "sync");
  return 0;
}

// log:size() → bytes
static int log_size(lua_State *L) {
  log_file *log = check_log(L);
  struct stat st;
  if (fstat(log->fd, &st) < 0) return fail_errno(L, log->path, "measure");
  lua_pushinteger(L, st.st_size);
  return 1;
}

// log:truncate(bytes): forget what a killed run wrote after its last checkpoint
static int log_truncate(lua_State *L) {
  log_file *log = check_log(L);
  lua_Integer n = luaL_checkinteger(L, 2);
  struct stat st;
  if (fstat(log->fd, &st) < 0) return fail_errno(L, log->path, "measure");
  if (n < 0 || n > st.st_size)
    return pgl_error(L, "%s: cannot cut to %I bytes: it has %I", log->path, n, (lua_Integer)st.st_size);
  if (ftruncate(log->fd, n) < 0) return fail_errno(L, log->path, "cut");
  return 0;
}

static int log_close(lua_State *L) {
  log_file *log = luaL_checkudata(L, 1, "log file");
  if (log->fd >= 0) close(log->fd);
  log->fd = -1;
  pg_free(log->path);
  log->path = NULL;
  return 0;
}

// ---- directories and names ----

// Make one directory; being there already is fine.
static bool make_directory(const char *path) {
  if (mkdir(path, 0777) == 0) return true;
  struct stat st;
  return errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

// mkdir(path): with its parents
static int files_mkdir(lua_State *L) {
  size_t n;
  const char *path = luaL_checklstring(L, 1, &n);
  char *part = lua_newuserdatauv(L, n + 1, 0);
  memcpy(part, path, n + 1);
  for (size_t i = 1; i <= n; i++) {
    if (part[i] != '/' && part[i] != 0) continue;
    part[i] = 0;
    if (!make_directory(part)) return fail_errno(L, part, "make the directory");
    part[i] = path[i];
  }
  return 0;
}

static void close_directory(void *directory) {
  closedir(directory);
}

// list(path) → sorted names without "." and ".."
static int files_list(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  pgl_guard *guard = pgl_push_guard(L);
  DIR *directory = opendir(path);
  if (!directory) return fail_errno(L, path, "list");
  *guard = (pgl_guard){directory, close_directory};
  lua_newtable(L);
  int n = 0;
  for (const struct dirent *entry; (entry = readdir(directory));) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    lua_pushstring(L, entry->d_name);
    lua_rawseti(L, -2, ++n);
  }
  pgl_close_guard(guard);
  lua_getglobal(L, "table");
  lua_getfield(L, -1, "sort");
  lua_pushvalue(L, -3);
  lua_call(L, 1, 0);
  lua_pop(L, 1);
  return 1;
}

// stat(path) → {type = "file"|"directory"|"other", size =, mtime =} or nil when there is nothing
static int files_stat(lua_State *L) {
  struct stat st;
  if (stat(luaL_checkstring(L, 1), &st) < 0) return 0;
  lua_createtable(L, 0, 3);
  lua_pushstring(L, S_ISREG(st.st_mode) ? "file" : S_ISDIR(st.st_mode) ? "directory" : "other");
  lua_setfield(L, -2, "type");
  lua_pushinteger(L, st.st_size);
  lua_setfield(L, -2, "size");
  lua_pushnumber(L, (double)st.st_mtim.tv_sec + 1e-9 * (double)st.st_mtim.tv_nsec);
  lua_setfield(L, -2, "mtime");
  return 1;
}

// exists(path) → boolean
static int files_exists(lua_State *L) {
  lua_pushboolean(L, access(luaL_checkstring(L, 1), F_OK) == 0);
  return 1;
}

// rename(from, to): and syncs the directory of the new name
static int files_rename(lua_State *L) {
  const char *from = luaL_checkstring(L, 1), *to = luaL_checkstring(L, 2);
  if (rename(from, to) < 0) return fail_errno(L, from, "rename");
  if (pg_sync_directory_of(to) != PG_OK) return pgl_raise(L);
  return 0;
}

// remove(path): a file or an empty directory → whether it was there
static int files_remove(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  bool gone = remove(path) == 0;
  if (!gone && errno != ENOENT) return fail_errno(L, path, "remove");
  lua_pushboolean(L, gone);
  return 1;
}

// realpath(path) → absolute, without links; nil if there is nothing
static int files_realpath(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  pgl_guard *guard = pgl_push_guard(L);
  char *real = realpath(path, NULL);
  if (!real) return 0;
  *guard = (pgl_guard){real, free};
  lua_pushstring(L, real);
  pgl_close_guard(guard);
  return 1;
}

// ---- hashes ----

static void hash_sparse(pg_sha256 *state, const pg_sparse *s) {
  size_t entries = (size_t)s->start[s->rows];
  pg_sha256_add(state, &s->columns, sizeof s->columns);
  pg_sha256_add(state, s->start, (size_t)(s->rows + 1) * sizeof *s->start);
  pg_sha256_add(state, s->column, entries * sizeof *s->column);
  pg_sha256_add(state, s->value, entries * sizeof *s->value);
}

// sha256(part, …) → hexadecimal; a part is a string, an eager tensor (its memory) or a sparse matrix
static int files_sha256(lua_State *L) {
  pg_sha256 state;
  pg_sha256_begin(&state);
  for (int i = 1; i <= lua_gettop(L); i++) {
    const pg_sparse *sparse = pgl_to_sparse(L, i);
    if (sparse) {
      hash_sparse(&state, sparse);
    } else if (lua_type(L, i) == LUA_TSTRING) {
      size_t n;
      const char *text = lua_tolstring(L, i, &n);
      pg_sha256_add(&state, text, n);
    } else {
      const pg_tensor *t = pgl_check_eager(L, i);
      pg_sha256_add(&state, pg_tensor_data(t), pg_tensor_bytes(t));
    }
  }
  uint8_t digest[32];
  char hex[65];
  pg_sha256_end(&state, digest);
  pg_sha256_hex(digest, hex);
  lua_pushstring(L, hex);
  return 1;
}

// sha256_file(path) → hexadecimal, of the bytes as they are stored
static int files_sha256_file(lua_State *L) {
  char hex[65];
  if (pg_sha256_file(luaL_checkstring(L, 1), hex) != PG_OK) return pgl_raise(L);
  lua_pushstring(L, hex);
  return 1;
}

// ---- process and clocks ----

static int files_pid(lua_State *L) {
  lua_pushinteger(L, getpid());
  return 1;
}

static int files_hostname(lua_State *L) {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  lua_pushstring(L, name);
  return 1;
}

// cwd() → the working directory
static int files_cwd(lua_State *L) {
  return lua_settop(L, 0), lua_pushliteral(L, "."), files_realpath(L);
}

// isatty(fd) → boolean
static int files_isatty(lua_State *L) {
  lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
  return 1;
}

// terminal_width(fd) → columns of the terminal, or nil
static int files_terminal_width(lua_State *L) {
  struct winsize size;
  if (ioctl((int)luaL_checkinteger(L, 1), TIOCGWINSZ, &size) < 0 || size.ws_col == 0) return 0;
  lua_pushinteger(L, size.ws_col);
  return 1;
}

static double read_clock(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// time() → seconds since 1970; clock() → seconds of a clock that only goes forward
static int files_time(lua_State *L) {
  lua_pushnumber(L, read_clock(CLOCK_REALTIME));
  return 1;
}

static int files_clock(lua_State *L) {
  lua_pushnumber(L, read_clock(CLOCK_MONOTONIC));
  return 1;
}

void pgl_open_files(lua_State *L) {
  static const luaL_Reg log_methods[] = {{"write", log_write},       {"sync", log_sync},   {"size", log_size},
                                         {"truncate", log_truncate}, {"close", log_close}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"write_file_atomic", files_write_atomic},
                                       {"write_file_private", files_write_private},
                                       {"read_file", files_read},
                                       {"set_read_limit", files_set_read_limit},
                                       {"open_log", files_open_log},
                                       {"mkdir", files_mkdir},
                                       {"list", files_list},
                                       {"stat", files_stat},
                                       {"exists", files_exists},
                                       {"rename", files_rename},
                                       {"remove", files_remove},
                                       {"realpath", files_realpath},
                                       {"sha256", files_sha256},
                                       {"sha256_file", files_sha256_file},
                                       {"pid", files_pid},
                                       {"hostname", files_hostname},
                                       {"cwd", files_cwd},
                                       {"isatty", files_isatty},
                                       {"terminal_width", files_terminal_width},
                                       {"time", files_time},
                                       {"clock", files_clock},
                                       {NULL, NULL}};
  luaL_newmetatable(L, "log file");
  luaL_newlib(L, log_methods);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, log_close);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, log_close);
  lua_setfield(L, -2, "__close");
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
