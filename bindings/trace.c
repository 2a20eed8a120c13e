// trace.c: traces: recording Lua code over tensors as a graph, and what works on recorded values: derivatives, marks,
// taps, compiling. A traced tensor names its trace by number and never owns anything, so it may outlive the trace
// harmlessly.
#include "bindings/trace.h"

#include <string.h>

#include "engine/core/memory.h"
#include "engine/graph/graph.h"
#include "engine/ops/ops.h"

static const char trace_tag;

// ---- life of a trace ----

static pgl_trace *to_trace(lua_State *L, int i) {
  pgl_trace *t = lua_touserdata(L, i);
  return t && lua_rawlen(L, i) == sizeof *t && t->tag == &trace_tag ? t : NULL;
}

pgl_trace *pgl_check_trace(lua_State *L, int i) {
  pgl_trace *t = to_trace(L, i);
  if (!t) {
    pgl_error(L, "bad argument #%d (a trace expected, got %s)", i, luaL_typename(L, i));
    return NULL;
  }
  if (!t->graph) pgl_error(L, "this trace has ended");
  return t;
}

pgl_trace *pgl_trace_of(lua_State *L, const pgl_tensor *t) {
  bool reachable = true; // through regions only
  for (pgl_trace *trace = pgl_get_state(L)->current; trace; trace = trace->outer) {
    if (trace->serial == t->trace && reachable) return trace;
    if (trace->serial == t->trace) {
      pgl_error(L, "this tensor belongs to a trace around the current one; pass it in as an argument");
      return NULL;
    }
    reachable = reachable && trace->region;
  }
  pgl_error(L, "this tensor belongs to a trace that has ended; return it from the traced function");
  return NULL;
}

pgl_trace *pgl_push_trace(lua_State *L, bool region) {
  pgl_state *state = pgl_get_state(L);
  pgl_trace *t = lua_newuserdatauv(L, sizeof *t, 0);
  *t = (pgl_trace){.tag = &trace_tag, .serial = ++state->serial, .region = region};
  lua_rawgetp(L, LUA_REGISTRYINDEX, &trace_tag);
  lua_setmetatable(L, -2);
  if (pg_graph_new(&t->graph) != PG_OK) pgl_raise(L);
  t->outer = state->current;
  state->current = t;
  return t;
}

// core.trace(): opens a trace inside the current one, if any.
static int core_trace(lua_State *L) {
  pgl_push_trace(L, false);
  return 1;
}

// Free what one trace holds. Idempotent.
static void free_trace(pgl_trace *t) {
  pg_graph *graph = t->graph;
  t->graph = NULL;
  for (size_t i = 0; i < t->ninputs; i++) {
    pg_tensor_release(t->inputs[i].captured);
    pg_layout_release(t->inputs[i].layout);
  }
  t->ninputs = t->nscalars = 0;
  pg_free(t->inputs);
  pg_free(t->captured_scalars);
  t->inputs = t->captured_scalars = NULL;
  pg_graph_free(graph);
}

void pgl_finish_trace(lua_State *L, pgl_trace *t) {
  pgl_state *state = pgl_get_state(L);
  bool open = false;
  for (pgl_trace *i = state->current; i; i = i->outer) open = open || i == t;
  while (open) {
    pgl_trace *inner = state->current;
    state->current = inner->outer;
    open = inner != t;
    free_trace(inner);
  }
  free_trace(t);
}

static int trace_finish(lua_State *L) {
  pgl_trace *t = to_trace(L, 1);
  if (t) pgl_finish_trace(L, t);
  return 0;
}

// core.tracing() → whether a trace is open.
// core.is_usable(x): whether tensor x can be an operand here: eager, or of a trace that is open.
static int core_is_usable(lua_State *L) {
  const pgl_tensor *t = pgl_check_tensor(L, 1);
  bool usable = !t->trace;
  for (const pgl_trace *trace = pgl_get_state(L)->current; trace && !usable; trace = trace->outer)
    usable = trace->serial == t->trace;
  lua_pushboolean(L, usable);
  return 1;
}

static int core_tracing(lua_State *L) {
  lua_pushboolean(L, pgl_get_state(L)->current != NULL);
  return 1;
}

// ---- arguments ----

// Where the next input is recorded; room for it is made before the graph knows of it.
static pgl_input *next_input(lua_State *L, pgl_trace *t) {
  if (pg_grow(&t->inputs, &t->cap, t->ninputs + 1, sizeof *t->inputs) != PG_OK) pgl_raise(L);
  return &t->inputs[t->ninputs];
}

static pgl_trace *check_current(lua_State *L, int i) {
  pgl_trace *t = pgl_check_trace(L, i);
  if (t != pgl_get_state(L)->current) pgl_error(L, "another trace is open inside this one");
  return t;
}

// tr:input(dtype, shape|layout) → traced tensor.
static int trace_input(lua_State *L) {
  pgl_trace *t = check_current(L, 1);
  int64_t shape[PG_MAX_NDIM];
  pg_dtype dtype = pgl_check_dtype(L, 2);
  const pg_layout *layout = pgl_to_layout(L, 3);
  int ndim = layout ? 0 : pgl_check_shape(L, 3, shape);
  const pgl_type type = {dtype, ndim, shape, layout, false};
  pg_value v = pgl_declare_input(L, t, &type, PG_NONE);
  t->inputs[t->ninputs - 1].number = ++t->explicit_inputs;
  pgl_push_value(L, v);
  return 1;
}

// tr:scalar() → traced weak number.
static int trace_scalar(lua_State *L) {
  pgl_trace *t = check_current(L, 1);
  pg_value v = pg_scalar(t->graph);
  if (v == PG_NONE) return pgl_raise(L);
  pgl_push_value(L, v);
  return 1;
}

pg_value pgl_declare_input(lua_State *L, pgl_trace *trace, const pgl_type *type, pg_value outer) {
  pgl_input *input = next_input(L, trace);
  pg_value v = pg_input(trace->graph, type->dtype, type->ndim, type->shape, type->layout);
  if (v == PG_NONE) pgl_raise(L);
  *input = (pgl_input){.value = v, .outer = outer, .layout = type->layout ? pg_layout_retain(type->layout) : NULL};
  trace->ninputs++;
  return v;
}

static pg_value capture(lua_State *L, pgl_trace *t, pg_tensor *tensor) {
  for (size_t i = t->ninputs; i-- > 0;)
    if (t->inputs[i].captured == tensor) return t->inputs[i].value;
  const pgl_type type = {pg_tensor_dtype(tensor), pg_tensor_ndim(tensor), pg_tensor_shape(tensor),
                         pg_tensor_layout(tensor), false};
  pg_value v = pgl_declare_input(L, t, &type, PG_NONE);
  t->inputs[t->ninputs - 1].captured = pg_tensor_retain(tensor);
  return v;
}

static pg_value capture_scalar(lua_State *L, pgl_trace *t, pg_value outer) {
  const pg_node *node = pg_at(t->outer->graph, outer);
  if (node->op == PG_OP_NUMBER) return pg_number(t->graph, node->attrs.x);
  for (size_t i = 0; i < t->nscalars; i++)
    if (t->captured_scalars[i].outer == outer) return t->captured_scalars[i].value;
  if (pg_grow(&t->captured_scalars, &t->scalar_cap, t->nscalars + 1, sizeof *t->captured_scalars) != PG_OK)
    pgl_raise(L);
  pg_value v = pg_scalar(t->graph);
  if (v == PG_NONE) pgl_raise(L);
  t->captured_scalars[t->nscalars++] = (pgl_input){.value = v, .outer = outer};
  return v;
}

// A value of the trace around a region as a value of its body.
static pg_value capture_outer(lua_State *L, pgl_trace *t, pg_value outer) {
  if (pg_value_is_weak(t->outer->graph, outer)) return capture_scalar(L, t, outer);
  for (size_t i = 0; i < t->ninputs; i++)
    if (t->inputs[i].outer == outer) return t->inputs[i].value;
  const pgl_type type = pgl_type_of_value(t->outer->graph, outer);
  return pgl_declare_input(L, t, &type, outer);
}

pg_value pgl_trace_operand(lua_State *L, pgl_trace *trace, int i) {
  const pgl_tensor *t = pgl_to_tensor(L, i);
  if (!t) {
    if (lua_type(L, i) == LUA_TNUMBER) return pg_number(trace->graph, lua_tonumber(L, i));
    pgl_error(L, "a tensor or a number was expected, got %s", luaL_typename(L, i));
    return PG_NONE;
  }
  if (!t->trace && !t->tensor) pgl_error(L, "this tensor was freed");
  if (trace->region && t->trace != trace->serial) return capture_outer(L, trace, pgl_trace_operand(L, trace->outer, i));
  if (t->tensor) return capture(L, trace, t->tensor);
  if (pgl_trace_of(L, t) != trace) pgl_error(L, "this tensor belongs to another trace");
  return t->value;
}

void pgl_trace_at(lua_State *L, pgl_trace *trace) {
  const char *where = pgl_push_where(L);
  size_t len = strlen(where);
  if (len > 2) { // without the ": " that messages want
    lua_pushlstring(L, where, len - 2);
    pg_graph_at(trace->graph, lua_tostring(L, -1));
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static pgl_trace *need_current(lua_State *L, const char *what) {
  pgl_trace *t = pgl_get_state(L)->current;
  if (!t) pgl_error(L, "%s works inside a trace only", what);
  return t;
}

// core.capture(x): x as a value of the current trace.
static int core_capture(lua_State *L) {
  pgl_trace *t = need_current(L, "capture");
  pgl_push_value(L, pgl_trace_operand(L, t, 1));
  return 1;
}

// ---- derivatives ----

// The values in the table at stack index i; false and nil stand for PG_NONE where `optional`. The array is a userdata,
// left on the stack.
static pg_value *read_values(lua_State *L, pgl_trace *t, int i, int n, bool optional) {
  luaL_checktype(L, i, LUA_TTABLE);
  pg_value *values = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *values, 0);
  for (int k = 0; k < n; k++) {
    lua_rawgeti(L, i, k + 1);
    values[k] = optional && !lua_toboolean(L, -1) ? PG_NONE : pgl_trace_operand(L, t, lua_gettop(L));
    lua_pop(L, 1);
  }
  return values;
}

static void push_values(lua_State *L, int n, const pg_value *values) {
  lua_createtable(L, n, 0);
  for (int k = 0; k < n; k++) {
    pgl_push_value(L, values[k]);
    lua_rawseti(L, -2, k + 1);
  }
}

static int list_length(lua_State *L, int i) {
  luaL_checktype(L, i, LUA_TTABLE);
  return (int)lua_rawlen(L, i);
}

// core.vjp(ys, cts, wrt) → cotangents, one per wrt.
static int core_vjp(lua_State *L) {
  pgl_trace *t = need_current(L, "vjp");
  int ny = list_length(L, 1), n = list_length(L, 3);
  pgl_trace_at(L, t);
  pg_value *ys = read_values(L, t, 1, ny, false), *cts = read_values(L, t, 2, ny, true),
           *wrt = read_values(L, t, 3, n, false), *out = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *out, 0);
  pgl_state *state = pgl_get_state(L);
  lua_State *before = state->running;
  state->running = L;
  pg_status status = pg_vjp(t->graph, ny, ys, cts, n, wrt, out);
  state->running = before;
  if (status != PG_OK) return pgl_raise(L);
  push_values(L, n, out);
  return 1;
}

// core.jvp(xs, tangents, ys) → the directional derivatives of ys.
static int core_jvp(lua_State *L) {
  pgl_trace *t = need_current(L, "jvp");
  int n = list_length(L, 1), ny = list_length(L, 3);
  pgl_trace_at(L, t);
  pg_value *xs = read_values(L, t, 1, n, false), *tangents = read_values(L, t, 2, n, true),
           *ys = read_values(L, t, 3, ny, false), *out = lua_newuserdatauv(L, (size_t)(ny + 1) * sizeof *out, 0);
  pg_status status = pg_jvp(t->graph, n, xs, tangents, ny, ys, out);
  if (status != PG_OK) return pgl_raise(L);
  push_values(L, ny, out);
  return 1;
}

// core.mark(x): identity with an identity of its own.
static int core_mark(lua_State *L) {
  pgl_trace *t = need_current(L, "mark");
  pg_attrs attrs = {.n = 1, .a = {++pgl_get_state(L)->marks}};
  pg_value x = pgl_trace_operand(L, t, 1);
  pgl_trace_at(L, t);
  x = pg_call(t->graph, "mark", 1, &x, &attrs);
  if (x == PG_NONE) return pgl_raise(L);
  pgl_push_value(L, x);
  return 1;
}

// ---- taps ----

// A Lua function held by a TAP node. It may outlive the call that made it, hence the main thread.
typedef struct tap {
  lua_State *main;
  int function;
} tap;

// fn, value number of the cotangent, trace → value number. Called protected: everything that can raise is in here.
static int call_tap(lua_State *L) {
  pgl_trace *trace = lua_touserdata(L, 3);
  lua_pushvalue(L, 1);
  pgl_push_value(L, (pg_value)lua_tointeger(L, 2));
  lua_call(L, 1, 1);
  if (lua_isnil(L, 4))
    return luaL_error(L, "the function of pg.tap returned nothing; it must return the cotangent to pass on");
  lua_pushinteger(L, pgl_trace_operand(L, trace, 4));
  return 1;
}

static pg_value run_tap(pg_graph *g, pg_value cotangent, void *user) {
  const tap *p = user;
  const pgl_state *state = pgl_get_state(p->main);
  lua_State *L = state->running;
  if (!L || !state->current || state->current->graph != g || !lua_checkstack(L, 8))
    return pg_fail(PG_ERR_UNSUPPORTED, "pg.tap inside pg.scan or pg.remat cannot be differentiated from outside of it"),
           PG_NONE;
  int top = lua_gettop(L);
  lua_pushcfunction(L, call_tap);
  lua_rawgeti(L, LUA_REGISTRYINDEX, p->function);
  lua_pushinteger(L, cotangent);
  lua_pushlightuserdata(L, state->current);
  pg_value out = PG_NONE;
  if (lua_pcall(L, 3, 1, 0) != LUA_OK) {
    const char *message = lua_tostring(L, -1);
    pg_fail(PG_ERR_ARGUMENT, "%s", message ? message : "the function of pg.tap raised an error that is not a string");
  } else {
    out = (pg_value)lua_tointeger(L, -1);
  }
  lua_settop(L, top);
  return out;
}

static void free_tap(void *user) {
  tap *p = user;
  luaL_unref(p->main, LUA_REGISTRYINDEX, p->function);
  pg_free(p);
}

static pg_region *new_tap(lua_State *L, int function) {
  tap *p = pg_alloc(1, sizeof *p);
  pg_region *region = pg_alloc(1, sizeof *region);
  if (!p || !region) {
    pg_free(p);
    pg_free(region);
    return NULL;
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  *p = (tap){.main = lua_tothread(L, -1), .function = function};
  lua_pop(L, 1);
  *region = (pg_region){.tap = run_tap, .user = p, .free_user = free_tap};
  return region;
}

// core.tap(x, fn): identity; the cotangent that flows back goes through fn.
static int core_tap(lua_State *L) {
  pgl_trace *t = need_current(L, "tap");
  luaL_checktype(L, 2, LUA_TFUNCTION);
  pg_value x = pgl_trace_operand(L, t, 1);
  pgl_trace_at(L, t);
  lua_pushvalue(L, 2);
  int function = luaL_ref(L, LUA_REGISTRYINDEX);
  pg_region *region = new_tap(L, function);
  pg_value out = region ? pg_node_make(t->graph, PG_OP_TAP, 1, &x, NULL, region) : PG_NONE;
  if (out == PG_NONE) {
    if (region) {
      pg_free(region->user);
      pg_free(region);
    }
    luaL_unref(L, LUA_REGISTRYINDEX, function);
    return pgl_raise(L);
  }
  pgl_push_value(L, out);
  return 1;
}

// ---- compiling ----

static pg_executor check_executor(lua_State *L, int i) {
  static const char *const names[] = {"auto", "interpret", "generate", NULL};
  static const pg_executor executors[] = {PG_EXEC_AUTO, PG_EXEC_INTERPRET, PG_EXEC_GENERATE};
  return executors[luaL_checkoption(L, i, "auto", names)];
}

// donate[k] as the engine wants it: the index of the input that receives output k, or -1.
static void read_donations(lua_State *L, const pgl_trace *t, int options, int nout, int *donate) {
  for (int k = 0; k < nout; k++) donate[k] = -1;
  if (lua_isnil(L, options) || lua_getfield(L, options, "donate") == LUA_TNIL) return;
  for (int k = 0; k < nout; k++) {
    lua_rawgeti(L, -1, k + 1);
    lua_Integer number = lua_isnil(L, -1) || !lua_toboolean(L, -1) ? 0 : luaL_checkinteger(L, -1);
    for (size_t i = 0; number > 0 && i < t->ninputs; i++)
      if (t->inputs[i].number == number) donate[k] = (int)i;
    if (number != 0 && donate[k] < 0)
      pgl_error(L, "output %d is donated to input %I, which does not exist", k + 1, number);
    lua_pop(L, 1);
  }
}

// Weak results leave as 0-d f64.
static void settle_outputs(lua_State *L, pgl_trace *t, int nout, pg_value *outs, bool *weak) {
  for (int k = 0; k < nout; k++) {
    weak[k] = pg_value_is_weak(t->graph, outs[k]);
    if (weak[k]) outs[k] = pg_cast(t->graph, outs[k], PG_F64);
    if (outs[k] == PG_NONE) pgl_raise(L);
  }
}

// tr:compile(outputs, {donate=, executor=}) → program.
static int trace_compile(lua_State *L) {
  pgl_trace *t = pgl_check_trace(L, 1);
  lua_settop(L, 3);
  int nout = list_length(L, 2);
  pg_value *outs = read_values(L, t, 2, nout, false);
  bool *weak = lua_newuserdatauv(L, (size_t)(nout + 1) * sizeof *weak, 0);
  int *donate = lua_newuserdatauv(L, (size_t)(nout + 1) * sizeof *donate, 0);
  pg_compile_options options = {.executor = PG_EXEC_AUTO, .donate = donate};
  settle_outputs(L, t, nout, outs, weak);
  read_donations(L, t, 3, nout, donate);
  if (!lua_isnil(L, 3)) {
    lua_getfield(L, 3, "executor");
    options.executor = check_executor(L, -1);
  }
  pg_plan *plan = NULL;
  pgl_program *program = pgl_push_program(L);
  pg_status status = pg_compile(t->graph, nout, outs, &options, &plan);
  if (status == PG_ERR_MEMORY) {
    pgl_collect(L);
    status = pg_compile(t->graph, nout, outs, &options, &plan);
  }
  if (status != PG_OK) return pgl_raise(L);
  pgl_fill_program(L, program, t, plan, nout, weak, donate);
  return 1;
}

// tr:size() → nodes recorded so far.
static int trace_size(lua_State *L) {
  lua_pushinteger(L, pg_graph_size(pgl_check_trace(L, 1)->graph));
  return 1;
}

static const luaL_Reg methods[] = {{"input", trace_input},   {"scalar", trace_scalar}, {"compile", trace_compile},
                                   {"finish", trace_finish}, {"size", trace_size},     {NULL, NULL}};
static const luaL_Reg functions[] = {
    {"trace", core_trace},     {"tracing", core_tracing}, {"is_usable", core_is_usable},
    {"capture", core_capture}, {"vjp", core_vjp},         {"jvp", core_jvp},
    {"mark", core_mark},       {"tap", core_tap},         {NULL, NULL}};

void pgl_open_trace(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
  luaL_newlib(L, methods);
  lua_newtable(L);
  lua_insert(L, -2);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, trace_finish);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, trace_finish);
  lua_setfield(L, -2, "__close");
  pgl_keep_metatable(L, &trace_tag, "perigee.trace");
}
