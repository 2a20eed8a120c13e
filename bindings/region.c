// region.c: loops and rematerialization from Lua: functions traced into bodies of their own (engine/graph/graph.h,
// regions). A body may use whatever the trace around it has: such values become operands of the region. Trees of
// tensors are taken apart in loops.lua; here everything is a flat list.
#include <string.h>

#include "bindings/trace.h"
#include "engine/core/memory.h"
#include "engine/graph/graph.h"

// The operands that loop bodies capture, in the order in which they are declared before the loop's own.
typedef struct capture_list {
  int ntensors, nscalars;
  pg_value *tensors, *scalars; // values of the trace around; userdata on the Lua stack
} capture_list;

static pg_value *push_array(lua_State *L, size_t n) {
  return lua_newuserdatauv(L, (n + 1) * sizeof(pg_value), 0);
}

static int list_length(lua_State *L, int i) {
  luaL_checktype(L, i, LUA_TTABLE);
  return (int)lua_rawlen(L, i);
}

// The tensors in the table at i as values of `trace`, into out.
static void read_operands(lua_State *L, pgl_trace *trace, int i, int n, pg_value *out) {
  for (int k = 0; k < n; k++) {
    lua_rawgeti(L, i, k + 1);
    out[k] = pgl_trace_operand(L, trace, lua_gettop(L));
    if (pg_value_is_weak(trace->graph, out[k])) {
      pgl_error(L, "loops carry tensors, not numbers: give them a dtype with pg.tensor");
    }
    lua_pop(L, 1);
  }
}

static pgl_trace *need_outer(lua_State *L) {
  luaL_checkstack(L, 64, "a region");
  pgl_trace *outer = pgl_get_state(L)->current;
  if (!outer) pgl_error(L, "regions exist inside a trace only");
  return outer;
}

// ---- one body ----

// What a body is made from: a function at stack index `function`, and the values it is called with.
typedef struct body_plan {
  int function;
  const pg_graph *graph; // of the trace around
  const capture_list *captures;
  int ncarries, nslices;
  const pg_value *carries, *slices; // slices: scanned tensors, whose first axis goes away
} body_plan;

static void push_input(lua_State *L, pgl_trace *body, const pg_graph *graph, pg_value like, bool slice) {
  pgl_type type = pgl_type_of_value(graph, like);
  if (slice && (type.ndim == 0 || type.layout))
    pgl_error(L, "scan goes over the first axis of plain tensors, and one of these has none");
  type.ndim -= slice;
  type.shape += slice;
  pgl_push_value(L, pgl_declare_input(L, body, &type, PG_NONE));
}

static void push_declared(lua_State *L, pgl_trace *body, const body_plan *plan) {
  for (int k = 0; plan->captures && k < plan->captures->ntensors; k++) {
    const pgl_type type = pgl_type_of_value(plan->graph, plan->captures->tensors[k]);
    pgl_declare_input(L, body, &type, plan->captures->tensors[k]);
  }
  luaL_checkstack(L, plan->ncarries + plan->nslices + 8, "operands of a loop");
  lua_createtable(L, plan->ncarries, 0);
  for (int k = 0; k < plan->ncarries; k++) {
    push_input(L, body, plan->graph, plan->carries[k], false);
    lua_rawseti(L, -2, k + 1);
  }
  lua_createtable(L, plan->nslices, 0);
  for (int k = 0; k < plan->nslices; k++) {
    push_input(L, body, plan->graph, plan->slices[k], true);
    lua_rawseti(L, -2, k + 1);
  }
}

// Trace the function into a new body: pushes the trace (to be closed), and two tables: what the function returned, as
// lists of tensors (new carries or results, and slices).
static pgl_trace *trace_body(lua_State *L, const body_plan *plan) {
  pgl_trace *body = pgl_push_trace(L, true);
  lua_toclose(L, -1);
  lua_pushvalue(L, plan->function);
  push_declared(L, body, plan);
  lua_call(L, 2, 2);
  return body;
}

// Add to `list` what `body` captured beyond it, keeping the order. The arrays grow by new userdata on the stack.
static void note_captures(lua_State *L, const pgl_trace *body, capture_list *list) {
  pg_value *tensors = push_array(L, (size_t)list->ntensors + body->ninputs);
  pg_value *scalars = push_array(L, (size_t)list->nscalars + body->nscalars);
  if (list->ntensors) memcpy(tensors, list->tensors, (size_t)list->ntensors * sizeof *tensors);
  if (list->nscalars) memcpy(scalars, list->scalars, (size_t)list->nscalars * sizeof *scalars);
  list->tensors = tensors;
  list->scalars = scalars;
  for (size_t i = 0; i < body->ninputs; i++) {
    bool known = body->inputs[i].outer == PG_NONE;
    for (int k = 0; k < list->ntensors; k++) known = known || tensors[k] == body->inputs[i].outer;
    if (!known) tensors[list->ntensors++] = body->inputs[i].outer;
  }
  for (size_t i = 0; i < body->nscalars; i++) {
    bool known = false;
    for (int k = 0; k < list->nscalars; k++) known = known || scalars[k] == body->captured_scalars[i].outer;
    if (!known) scalars[list->nscalars++] = body->captured_scalars[i].outer;
  }
}

// The scalars of a body are operands in order: declare those it does not use, and fail where the order came out
// otherwise than in the first tracing.
static void settle_scalars(lua_State *L, const pgl_trace *body, const capture_list *list) {
  bool same = (int)body->nscalars <= list->nscalars;
  for (size_t i = 0; same && i < body->nscalars; i++) same = body->captured_scalars[i].outer == list->scalars[i];
  if (!same) pgl_error(L, "the body of a loop must do the same each time it is traced");
  for (int k = (int)body->nscalars; k < list->nscalars; k++) pg_scalar(body->graph);
}

// Values of `body` in the table at stack index i.
static void read_results(lua_State *L, pgl_trace *body, int i, int n, pg_value *out) {
  if (!lua_istable(L, i) || (int)lua_rawlen(L, i) != n) pgl_error(L, "the body of a loop must return %d tensors", n);
  read_operands(L, body, i, n, out);
}

// Leave a body, which keeps its graph: the trace around it is current again.
static void leave_body(lua_State *L, pgl_trace *body) {
  pgl_get_state(L)->current = body->outer;
}

// Take the graph of a body that was left.
static pg_graph *take_graph(pgl_trace *body) {
  pg_graph *graph = body->graph;
  body->graph = NULL;
  return graph;
}

static void push_results(lua_State *L, int n, const pg_value *values) {
  lua_createtable(L, n, 0);
  for (int k = 0; k < n; k++) {
    pgl_push_value(L, values[k]);
    lua_rawseti(L, -2, k + 1);
  }
}

// ---- rematerialization ----

// core.remat(f, operands) → results. f(list, {}) → list.
static int core_remat(lua_State *L) {
  pgl_trace *outer = need_outer(L);
  int n = list_length(L, 2);
  pg_value *given = push_array(L, (size_t)n);
  read_operands(L, outer, 2, n, given);
  pgl_trace_at(L, outer);
  body_plan plan = {.function = 1, .graph = outer->graph, .ncarries = n, .carries = given};
  pgl_trace *body = trace_body(L, &plan);
  int results = lua_gettop(L) - 1, nout = list_length(L, results);
  pg_value *outs = push_array(L, (size_t)nout), *values = push_array(L, (size_t)nout);
  read_results(L, body, results, nout, outs);
  pg_value *in = push_array(L, body->ninputs + body->nscalars);
  size_t m = 0;
  for (size_t i = 0, explicit_input = 0; i < body->ninputs; i++)
    in[m++] = body->inputs[i].outer == PG_NONE ? given[explicit_input++] : body->inputs[i].outer;
  for (size_t i = 0; i < body->nscalars; i++) in[m++] = body->captured_scalars[i].outer;
  leave_body(L, body);
  if (pg_remat(outer->graph, take_graph(body), nout, outs, in, values) != PG_OK) return pgl_raise(L);
  push_results(L, nout, values);
  return 1;
}

// ---- loops ----

// Trace once to learn what is captured.
static void discover_captures(lua_State *L, const body_plan *plan, int nlists, capture_list *list) {
  pgl_trace *body = trace_body(L, plan);
  int first = lua_gettop(L) - 1;
  for (int i = first; i < first + nlists; i++) {
    int n = list_length(L, i);
    pg_value *outs = push_array(L, (size_t)n);
    read_operands(L, body, i, n, outs);
  }
  note_captures(L, body, list);
  pgl_finish_trace(L, body);
}

// Constants, carries, slices, numbers: the operands of a loop.
static pg_value *push_loop_operands(lua_State *L, const body_plan *plan) {
  const capture_list *list = plan->captures;
  pg_value *in = push_array(L, (size_t)(list->ntensors + plan->ncarries + plan->nslices + list->nscalars)), *p = in;
  const struct {
    const pg_value *values;
    int n;
  } parts[] = {{list->tensors, list->ntensors},
               {plan->carries, plan->ncarries},
               {plan->slices, plan->nslices},
               {list->scalars, list->nscalars}};
  for (int i = 0; i < 4; i++)
    for (int k = 0; k < parts[i].n; k++) *p++ = parts[i].values[k];
  return in;
}

// core.scan(f, carries, xs, length, reverse) → carries, ys. f(carries, slices) → new carries, ys.
static int core_scan(lua_State *L) {
  pgl_trace *outer = need_outer(L);
  int ncarry = list_length(L, 2), nx = list_length(L, 3);
  int64_t length = luaL_checkinteger(L, 4);
  bool reverse = lua_toboolean(L, 5);
  pg_value *carries = push_array(L, (size_t)ncarry), *xs = push_array(L, (size_t)nx);
  capture_list list = {0};
  body_plan plan = {1, outer->graph, NULL, ncarry, nx, carries, xs};
  read_operands(L, outer, 2, ncarry, carries);
  read_operands(L, outer, 3, nx, xs);
  pgl_trace_at(L, outer);
  discover_captures(L, &plan, 2, &list);
  plan.captures = &list;
  pgl_trace *body = trace_body(L, &plan);
  int results = lua_gettop(L) - 1, ny = list_length(L, results + 1), nout = ncarry + ny;
  pg_value *outs = push_array(L, (size_t)nout), *values = push_array(L, (size_t)nout);
  read_results(L, body, results, ncarry, outs);
  read_results(L, body, results + 1, ny, outs + ncarry);
  settle_scalars(L, body, &list);
  pg_value *in = push_loop_operands(L, &plan);
  leave_body(L, body);
  if (pg_scan(outer->graph, take_graph(body), nout, outs, list.ntensors, ncarry, in, length, reverse, values) != PG_OK)
    return pgl_raise(L);
  push_results(L, ncarry, values);
  push_results(L, ny, values + ncarry);
  return 2;
}

// core.while_loop(cond, f, carries) → carries. cond(carries, {}) → {mask}; f(carries, {}) → new carries.
static int core_while_loop(lua_State *L) {
  pgl_trace *outer = need_outer(L);
  int ncarry = list_length(L, 3);
  pg_value *carries = push_array(L, (size_t)ncarry), keep_going;
  capture_list list = {0};
  read_operands(L, outer, 3, ncarry, carries);
  pgl_trace_at(L, outer);
  body_plan test = {1, outer->graph, NULL, ncarry, 0, carries, NULL},
            step = {2, outer->graph, NULL, ncarry, 0, carries, NULL};
  discover_captures(L, &test, 1, &list);
  discover_captures(L, &step, 1, &list);
  if (list.nscalars)
    return pgl_error(L, "while_loop: numbers that change from run to run cannot be used in its functions");
  test.captures = step.captures = &list;
  pgl_trace *cond = trace_body(L, &test);
  read_results(L, cond, lua_gettop(L) - 1, 1, &keep_going);
  leave_body(L, cond);
  pgl_trace *body = trace_body(L, &step);
  pg_value *outs = push_array(L, (size_t)ncarry), *values = push_array(L, (size_t)ncarry);
  read_results(L, body, lua_gettop(L) - 3, ncarry, outs);
  pg_value *in = push_loop_operands(L, &step);
  leave_body(L, body);
  if (pg_while(outer->graph, take_graph(cond), keep_going, take_graph(body), ncarry, outs, list.ntensors, in, values) !=
      PG_OK)
    return pgl_raise(L);
  push_results(L, ncarry, values);
  return 1;
}

static const luaL_Reg functions[] = {
    {"remat", core_remat}, {"scan", core_scan}, {"while_loop", core_while_loop}, {NULL, NULL}};

void pgl_open_region(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
}
