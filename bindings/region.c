// region.c: loops, rematerialization and vmap from Lua: functions traced once into bodies of their own
// (engine/graph/graph.h, regions). A body may use whatever the trace around it has: such values become operands of the
// region. Trees of tensors are taken apart in loops.lua; here everything is a flat list.
#include "bindings/trace.h"
#include "engine/graph/graph.h"

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
  int ncarries, nslices;
  const pg_value *carries, *slices; // slices: tensors whose first axis goes away, vectors for `vectors` only
  bool vectors;
} body_plan;

// Push an input of `body` for the slices of a vector.
static void push_vector_slice(lua_State *L, pgl_trace *body, const pgl_type *whole) {
  pg_layout *layout;
  int64_t extent;
  if (pg_layout_slice(whole->layout, &extent, &layout) != PG_OK) pgl_raise(L);
  pgl_push_layout(L, layout); // keeps it in case of an error
  pg_layout_release(layout);
  const pgl_type type = {.dtype = whole->dtype, .layout = layout};
  const pg_value x = pgl_declare_input(L, body, &type, PG_NONE);
  lua_pop(L, 1);
  pgl_push_value(L, x);
}

static void push_slice(lua_State *L, pgl_trace *body, const body_plan *plan, pg_value like) {
  pgl_type type = pgl_type_of_value(plan->graph, like);
  if (type.layout && plan->vectors) {
    push_vector_slice(L, body, &type);
    return;
  }
  if (type.ndim == 0 || type.layout)
    pgl_error(L, plan->vectors ? "vmap goes over the first axis of tensors, and one of these has none"
                               : "scan goes over the first axis of plain tensors, and one of these has none");
  type.ndim--;
  type.shape++;
  pgl_push_value(L, pgl_declare_input(L, body, &type, PG_NONE));
}

static void push_declared(lua_State *L, pgl_trace *body, const body_plan *plan) {
  luaL_checkstack(L, plan->ncarries + plan->nslices + 8, "operands of a loop");
  lua_createtable(L, plan->ncarries, 0);
  for (int k = 0; k < plan->ncarries; k++) {
    const pgl_type type = pgl_type_of_value(plan->graph, plan->carries[k]);
    pgl_push_value(L, pgl_declare_input(L, body, &type, PG_NONE));
    lua_rawseti(L, -2, k + 1);
  }
  lua_createtable(L, plan->nslices, 0);
  for (int k = 0; k < plan->nslices; k++) {
    push_slice(L, body, plan, plan->slices[k]);
    lua_rawseti(L, -2, k + 1);
  }
}

// Trace the function into a new body, whose first inputs are the carries and slices; the others are what it uses of the
// traces around. Pushes the trace (to be closed), and two tables: what the function returned, as lists of tensors (new
// carries or results, and slices).
static pgl_trace *trace_body(lua_State *L, const body_plan *plan) {
  pgl_trace *body = pgl_push_trace(L, true);
  lua_toclose(L, -1);
  lua_pushvalue(L, plan->function);
  push_declared(L, body, plan);
  lua_call(L, 2, 2);
  return body;
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

// The operands of a body in the order of its inputs and scalars, where `given` stands for its first `ngiven` inputs.
static pg_value *push_body_operands(lua_State *L, const pgl_trace *body, const pg_value *given, size_t ngiven) {
  pg_value *in = push_array(L, body->ninputs + body->nscalars);
  for (size_t i = 0; i < body->ninputs; i++) in[i] = i < ngiven ? given[i] : body->inputs[i].outer;
  for (size_t i = 0; i < body->nscalars; i++) in[body->ninputs + i] = body->captured_scalars[i].outer;
  return in;
}

// ---- rematerialization and vmap ----

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
  pg_value *in = push_body_operands(L, body, given, (size_t)n);
  leave_body(L, body);
  if (pg_remat(outer->graph, take_graph(body), nout, outs, in, values) != PG_OK) return pgl_raise(L);
  push_results(L, nout, values);
  return 1;
}

// core.vmap(f, xs, size) → results, each along a first axis of `size`, as each of xs. f({}, slices) → list, {}.
static int core_vmap(lua_State *L) {
  pgl_trace *outer = need_outer(L);
  int n = list_length(L, 2);
  int64_t size = luaL_checkinteger(L, 3);
  pg_value *xs = push_array(L, (size_t)n);
  read_operands(L, outer, 2, n, xs);
  pgl_trace_at(L, outer);
  body_plan plan = {.function = 1, .graph = outer->graph, .nslices = n, .slices = xs, .vectors = true};
  pgl_trace *body = trace_body(L, &plan);
  int results = lua_gettop(L) - 1, nout = list_length(L, results);
  pg_value *outs = push_array(L, (size_t)nout), *values = push_array(L, (size_t)nout);
  read_results(L, body, results, nout, outs);
  pg_value *in = push_body_operands(L, body, xs, (size_t)n);
  size_t nargs = body->ninputs + body->nscalars;
  bool *batched = lua_newuserdatauv(L, nargs + 1, 0);
  for (size_t i = 0; i < nargs; i++) batched[i] = i < (size_t)n;
  leave_body(L, body);
  if (pg_vmap(outer->graph, body->graph, in, batched, size, nout, outs, values) != PG_OK) return pgl_raise(L);
  push_results(L, nout, values);
  return 1;
}

// ---- loops ----

// The values that the bodies of a loop use of the trace around them: its constants, and numbers.
typedef struct capture_list {
  int ntensors, nscalars;
  pg_value *tensors, *scalars; // userdata on the Lua stack
} capture_list;

// The place of x in a list, where it is appended if it is new.
static int place_in(pg_value *list, int *n, pg_value x) {
  for (int i = 0; i < *n; i++)
    if (list[i] == x) return i;
  list[*n] = x;
  return (*n)++;
}

static void push_capture_list(lua_State *L, int count, pgl_trace *const *bodies, size_t given, capture_list *list) {
  size_t tensors = 0, scalars = 0;
  for (int i = 0; i < count; i++) {
    tensors += bodies[i]->ninputs;
    scalars += bodies[i]->nscalars;
  }
  *list = (capture_list){.tensors = push_array(L, tensors), .scalars = push_array(L, scalars)};
  for (int b = 0; b < count; b++) {
    for (size_t i = given; i < bodies[b]->ninputs; i++)
      place_in(list->tensors, &list->ntensors, bodies[b]->inputs[i].outer);
    for (size_t i = 0; i < bodies[b]->nscalars; i++)
      place_in(list->scalars, &list->nscalars, bodies[b]->captured_scalars[i].outer);
  }
}

static pg_value copy_input(lua_State *L, pg_graph *h, const pgl_trace *body, size_t i) {
  const pgl_type type = pgl_type_of_value(body->graph, body->inputs[i].value);
  const pg_value x = pg_input(h, type.dtype, type.ndim, type.shape, type.layout);
  if (x == PG_NONE) pgl_raise(L);
  return x;
}

// The graph of a body in the order that loops want: constants, what the body was called with, numbers. Held by a trace
// that is pushed (to be closed); outs become its values.
static pgl_trace *push_loop_body(lua_State *L, const pgl_trace *body, size_t given, const capture_list *list, int nout,
                                 pg_value *outs) {
  pgl_trace *ordered = pgl_push_trace(L, true);
  lua_toclose(L, -1);
  leave_body(L, ordered);
  pg_graph *h = ordered->graph;
  pg_value *args = push_array(L, body->ninputs + body->nscalars);
  for (int k = 0; k < list->ntensors; k++) {
    const pgl_type type = pgl_type_of_value(body->outer->graph, list->tensors[k]);
    const pg_value x = pg_input(h, type.dtype, type.ndim, type.shape, type.layout);
    if (x == PG_NONE) pgl_raise(L);
    for (size_t i = given; i < body->ninputs; i++)
      if (body->inputs[i].outer == list->tensors[k]) args[i] = x;
  }
  for (size_t i = 0; i < given; i++) args[i] = copy_input(L, h, body, i);
  for (int k = 0; k < list->nscalars; k++) {
    const pg_value x = pg_scalar(h);
    if (x == PG_NONE) pgl_raise(L);
    for (size_t i = 0; i < body->nscalars; i++)
      if (body->captured_scalars[i].outer == list->scalars[k]) args[body->ninputs + i] = x;
  }
  if (pg_inline(h, body->graph, args, nout, outs, outs) != PG_OK) pgl_raise(L);
  return ordered;
}

// Constants, carries, slices, numbers: the operands of a loop.
static pg_value *push_loop_operands(lua_State *L, const body_plan *plan, const capture_list *list) {
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
  body_plan plan = {1, outer->graph, ncarry, nx, carries, xs, false};
  read_operands(L, outer, 2, ncarry, carries);
  read_operands(L, outer, 3, nx, xs);
  pgl_trace_at(L, outer);
  pgl_trace *body = trace_body(L, &plan);
  int results = lua_gettop(L) - 1, ny = list_length(L, results + 1), nout = ncarry + ny;
  pg_value *outs = push_array(L, (size_t)nout), *values = push_array(L, (size_t)nout);
  read_results(L, body, results, ncarry, outs);
  read_results(L, body, results + 1, ny, outs + ncarry);
  leave_body(L, body);
  capture_list list;
  push_capture_list(L, 1, &body, (size_t)(ncarry + nx), &list);
  pgl_trace *ordered = push_loop_body(L, body, (size_t)(ncarry + nx), &list, nout, outs);
  pg_value *in = push_loop_operands(L, &plan, &list);
  if (pg_scan(outer->graph, take_graph(ordered), nout, outs, list.ntensors, ncarry, in, length, reverse, values) !=
      PG_OK)
    return pgl_raise(L);
  push_results(L, ncarry, values);
  push_results(L, ny, values + ncarry);
  return 2;
}

// core.while_loop(cond, f, carries) → carries. cond(carries, {}) → {mask}; f(carries, {}) → new carries.
static int core_while_loop(lua_State *L) {
  pgl_trace *outer = need_outer(L);
  int ncarry = list_length(L, 3);
  size_t given = (size_t)ncarry;
  pg_value *carries = push_array(L, given), keep_going;
  read_operands(L, outer, 3, ncarry, carries);
  pgl_trace_at(L, outer);
  body_plan test = {1, outer->graph, ncarry, 0, carries, NULL, false},
            step = {2, outer->graph, ncarry, 0, carries, NULL, false};
  pgl_trace *cond = trace_body(L, &test);
  read_results(L, cond, lua_gettop(L) - 1, 1, &keep_going);
  leave_body(L, cond);
  pgl_trace *body = trace_body(L, &step);
  int results = lua_gettop(L) - 1;
  pg_value *outs = push_array(L, given), *values = push_array(L, given);
  read_results(L, body, results, ncarry, outs);
  leave_body(L, body);
  capture_list list;
  push_capture_list(L, 2, (pgl_trace *[]){cond, body}, given, &list);
  if (list.nscalars)
    return pgl_error(L, "while_loop: numbers that change from run to run cannot be used in its functions");
  pgl_trace *ordered_cond = push_loop_body(L, cond, given, &list, 1, &keep_going);
  pgl_trace *ordered = push_loop_body(L, body, given, &list, ncarry, outs);
  pg_value *in = push_loop_operands(L, &step, &list);
  if (pg_while(outer->graph, take_graph(ordered_cond), keep_going, take_graph(ordered), ncarry, outs, list.ntensors, in,
               values) != PG_OK)
    return pgl_raise(L);
  push_results(L, ncarry, values);
  return 1;
}

static const luaL_Reg functions[] = {
    {"remat", core_remat}, {"scan", core_scan}, {"vmap", core_vmap}, {"while_loop", core_while_loop}, {NULL, NULL}};

void pgl_open_region(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
}
