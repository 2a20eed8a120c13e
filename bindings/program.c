// program.c: compiled programs: a plan with its arguments bound to tensors. Binding checks dtype and shape once, so
// running is one call into the engine.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/trace.h"
#include "engine/core/memory.h"

static const char program_tag;

typedef struct slot {
  pg_tensor *tensor; // bound, one reference; NULL if not yet
  pg_dtype dtype;
  int ndim;
  int64_t shape[PG_MAX_NDIM];
  const pg_layout *layout; // retained
  bool weak;               // of an output: a number to Lua
  bool given;              // of an output: bound by p:output rather than allocated here
  int donated;             // of an output: the input that receives it, or -1
} slot;

struct pgl_program {
  const void *tag;
  pg_plan *plan;
  int ninputs, noutputs, nscalars, nexplicit;
  slot *inputs, *outputs;
  int *explicit_inputs; // engine input of explicit input k
  double *scalars;
  void **input_data, **output_data;
};

// ---- life ----

static void release_slots(slot *slots, int n) {
  for (int i = 0; slots && i < n; i++) {
    pg_tensor_release(slots[i].tensor);
    pg_layout_release(slots[i].layout);
  }
  pg_free(slots);
}

static int program_gc(lua_State *L) {
  pgl_program *p = lua_touserdata(L, 1);
  pg_plan_free(p->plan);
  release_slots(p->inputs, p->ninputs);
  release_slots(p->outputs, p->noutputs);
  pg_free(p->explicit_inputs);
  pg_free(p->scalars);
  pg_free(p->input_data);
  pg_free(p->output_data);
  *p = (pgl_program){.tag = &program_tag};
  return 0;
}

static pgl_program *check_program(lua_State *L) {
  pgl_program *p = lua_touserdata(L, 1);
  if (!p || lua_rawlen(L, 1) != sizeof *p || p->tag != &program_tag)
    pgl_error(L, "a program expected, got %s", luaL_typename(L, 1));
  if (!p->plan) pgl_error(L, "this program was freed");
  return p;
}

static void describe_inputs(pgl_program *p, const pgl_trace *t) {
  for (int i = 0; i < p->ninputs; i++) {
    slot *s = &p->inputs[i];
    const pgl_input *input = &t->inputs[i];
    s->ndim = pg_plan_input_shape(p->plan, i, &s->dtype, s->shape);
    s->layout = input->layout ? pg_layout_retain(input->layout) : NULL;
    if (input->captured) {
      s->tensor = pg_tensor_retain(input->captured);
      p->input_data[i] = pg_tensor_data(s->tensor);
    } else {
      p->explicit_inputs[p->nexplicit++] = i;
    }
  }
}

static void describe_outputs(pgl_program *p, const bool *weak, const int *donate) {
  for (int k = 0; k < p->noutputs; k++) {
    slot *s = &p->outputs[k];
    const pg_layout *layout = pg_plan_output_layout(p->plan, k);
    s->ndim = pg_plan_output_shape(p->plan, k, &s->dtype, s->shape);
    s->layout = layout ? pg_layout_retain(layout) : NULL;
    s->weak = weak[k];
    s->donated = donate[k];
  }
}

pgl_program *pgl_push_program(lua_State *L) {
  pgl_program *p = lua_newuserdatauv(L, sizeof *p, 0);
  *p = (pgl_program){.tag = &program_tag};
  lua_rawgetp(L, LUA_REGISTRYINDEX, &program_tag);
  lua_setmetatable(L, -2);
  return p;
}

void pgl_fill_program(lua_State *L, pgl_program *p, const pgl_trace *trace, pg_plan *plan, int nout, const bool *weak,
                      const int *donate) {
  pg_plan_info info;
  pg_plan_describe(plan, &info);
  *p = (pgl_program){
      .tag = &program_tag, .plan = plan, .ninputs = info.inputs, .noutputs = nout, .nscalars = info.scalars};
  p->inputs = pg_alloc((size_t)p->ninputs, sizeof *p->inputs);
  p->outputs = pg_alloc((size_t)nout, sizeof *p->outputs);
  p->explicit_inputs = pg_alloc((size_t)p->ninputs, sizeof *p->explicit_inputs);
  p->scalars = pg_alloc((size_t)p->nscalars, sizeof *p->scalars);
  p->input_data = pg_alloc((size_t)p->ninputs, sizeof *p->input_data);
  p->output_data = pg_alloc((size_t)nout, sizeof *p->output_data);
  if (!p->inputs || !p->outputs || !p->explicit_inputs || !p->scalars || !p->input_data || !p->output_data)
    pgl_raise(L);
  describe_inputs(p, trace);
  describe_outputs(p, weak, donate);
}

// ---- binding ----

static void push_type(lua_State *L, pg_dtype dtype, int ndim, const int64_t *shape, const pg_layout *layout) {
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  luaL_addstring(&b, pg_dtype_name(dtype));
  luaL_addstring(&b, layout ? " vector [" : " [");
  for (int k = 0; k < ndim; k++) {
    if (k) luaL_addstring(&b, ", ");
    lua_pushfstring(L, "%I", (lua_Integer)shape[k]);
    luaL_addvalue(&b);
  }
  luaL_addchar(&b, ']');
  luaL_pushresult(&b);
}

static bool fits(const slot *s, const pg_tensor *t) {
  return pg_tensor_dtype(t) == s->dtype && pg_tensor_ndim(t) == s->ndim &&
         memcmp(pg_tensor_shape(t), s->shape, (size_t)s->ndim * sizeof(int64_t)) == 0 &&
         (pg_tensor_layout(t) == s->layout || pg_layout_equal(pg_tensor_layout(t), s->layout));
}

// Put the eager tensor at stack index i into the slot.
static void bind_slot(lua_State *L, slot *s, const char *what, int number, int i) {
  pg_tensor *t = pgl_check_eager(L, i);
  if (!fits(s, t)) {
    push_type(L, s->dtype, s->ndim, s->shape, s->layout);
    push_type(L, pg_tensor_dtype(t), pg_tensor_ndim(t), pg_tensor_shape(t), pg_tensor_layout(t));
    pgl_error(L, "%s %d of the program is %s, got %s%s", what, number, lua_tostring(L, -2), lua_tostring(L, -1),
              pg_tensor_layout(t) && s->layout ? " (the layouts differ)" : "");
  }
  pg_tensor *old = s->tensor;
  s->tensor = pg_tensor_retain(t);
  pg_tensor_release(old);
}

static void bind_input(lua_State *L, pgl_program *p, lua_Integer number, int i) {
  if (number < 1 || number > p->nexplicit) pgl_error(L, "the program has %d inputs, no input %I", p->nexplicit, number);
  int k = p->explicit_inputs[number - 1];
  bind_slot(L, &p->inputs[k], "input", (int)number, i);
  p->input_data[k] = pg_tensor_data(p->inputs[k].tensor);
}

// p:bind(i, tensor)
static int program_bind(lua_State *L) {
  bind_input(L, check_program(L), luaL_checkinteger(L, 2), 3);
  lua_settop(L, 1);
  return 1;
}

// p:set(i, number)
static int program_set(lua_State *L) {
  pgl_program *p = check_program(L);
  lua_Integer i = luaL_checkinteger(L, 2);
  if (i < 1 || i > p->nscalars) return pgl_error(L, "the program has %d scalars, no scalar %I", p->nscalars, i);
  p->scalars[i - 1] = luaL_checknumber(L, 3);
  lua_settop(L, 1);
  return 1;
}

static slot *check_output(lua_State *L, pgl_program *p, int i) {
  lua_Integer k = luaL_checkinteger(L, i);
  if (k < 1 || k > p->noutputs) pgl_error(L, "the program has %d outputs, no output %I", p->noutputs, k);
  return &p->outputs[k - 1];
}

// p:output(k, tensor): output k is written there from now on.
static int program_output(lua_State *L) {
  pgl_program *p = check_program(L);
  slot *s = check_output(L, p, 2);
  bind_slot(L, s, "output", (int)lua_tointeger(L, 2), 3);
  s->given = true;
  lua_settop(L, 1);
  return 1;
}

// ---- running ----

static pg_status make_output(slot *s) {
  return s->tensor ? PG_OK : pg_tensor_new(s->dtype, s->ndim, s->shape, s->layout, &s->tensor);
}

// Run once everything is bound. Nothing in here runs Lua code.
static pg_status run_plan(pgl_program *p) {
  for (int i = 0; i < p->ninputs; i++)
    if (!p->input_data[i]) return PG_ERR_ARGUMENT;
  for (int k = 0; k < p->noutputs; k++) {
    slot *s = &p->outputs[k];
    if (s->donated >= 0) {
      p->output_data[k] = NULL;
      continue;
    }
    pg_status status = make_output(s);
    if (status != PG_OK) {
      s->tensor = NULL;
      return status;
    }
    p->output_data[k] = pg_tensor_data(s->tensor);
  }
  return pg_plan_run(p->plan, p->input_data, p->scalars, p->output_data);
}

static void run_or_raise(lua_State *L, pgl_program *p) {
  for (int k = 0; k < p->nexplicit; k++)
    if (!p->inputs[p->explicit_inputs[k]].tensor) pgl_error(L, "input %d of the program is not bound", k + 1);
  pg_status status = run_plan(p);
  if (status == PG_ERR_MEMORY) {
    pgl_collect(L);
    status = run_plan(p);
  }
  if (status != PG_OK) pgl_raise(L);
}

// p:run()
static int program_run(lua_State *L) {
  run_or_raise(L, check_program(L));
  lua_settop(L, 1);
  return 1;
}

static void push_output(lua_State *L, const pgl_program *p, const slot *s) {
  pg_tensor *t = s->donated >= 0 ? p->inputs[s->donated].tensor : s->tensor;
  if (s->weak)
    lua_pushnumber(L, *(const double *)pg_tensor_data(t));
  else
    pgl_push_tensor(L, t);
}

// p:result(k): the tensor that output k was last written to (a number if the output was one).
static int program_result(lua_State *L) {
  pgl_program *p = check_program(L);
  const slot *s = check_output(L, p, 2);
  if (s->donated < 0 && !s->tensor) return pgl_error(L, "the program has not run yet");
  push_output(L, p, s);
  return 1;
}

// p:number(k) → the first element of output k as a Lua number, without making a tensor for it.
static int program_number(lua_State *L) {
  pgl_program *p = check_program(L);
  const slot *s = check_output(L, p, 2);
  const pg_tensor *t = s->donated < 0 ? s->tensor : NULL;
  if (!t || pg_tensor_size(t) < 1) return pgl_error(L, "the program has not run yet");
  const void *data = pg_tensor_data(t);
  if (pg_tensor_dtype(t) == PG_F32)
    lua_pushnumber(L, *(const float *)data);
  else if (pg_tensor_dtype(t) == PG_F64)
    lua_pushnumber(L, *(const double *)data);
  else
    return pgl_error(L, "output %d is of dtype %s, not a float", (int)lua_tointeger(L, 2),
                     pg_dtype_name(pg_tensor_dtype(t)));
  return 1;
}

// Let go of the tensors bound as inputs.
static void release_inputs(pgl_program *p) {
  for (int k = 0; k < p->nexplicit; k++) {
    int i = p->explicit_inputs[k];
    pg_tensor_release(p->inputs[i].tensor);
    p->inputs[i].tensor = NULL;
    p->input_data[i] = NULL;
  }
}

// p:call(...): bind the tensors and set the numbers among the arguments, each kind in order, run, let go of the
// arguments, and return all outputs, as new tensors. Booleans and nil are passed over.
static int program_call(lua_State *L) {
  pgl_program *p = check_program(L);
  int n = lua_gettop(L), ntensors = 0, nnumbers = 0;
  for (int i = 2; i <= n; i++) {
    int type = lua_type(L, i);
    if (type == LUA_TNIL || type == LUA_TBOOLEAN) continue;
    if (type != LUA_TNUMBER) {
      bind_input(L, p, ++ntensors, i);
    } else {
      if (nnumbers == p->nscalars) return pgl_error(L, "the program has %d scalars", p->nscalars);
      p->scalars[nnumbers++] = lua_tonumber(L, i);
    }
  }
  luaL_checkstack(L, p->noutputs + 4, "results");
  for (int k = 0; k < p->noutputs; k++) {
    slot *s = &p->outputs[k];
    if (s->weak || s->donated >= 0) continue;
    pg_tensor_release(s->tensor);
    s->tensor = NULL;
  }
  run_or_raise(L, p);
  size_t bytes = 0;
  for (int k = 0; k < p->noutputs; k++) {
    slot *s = &p->outputs[k];
    push_output(L, p, s);
    if (s->weak || s->donated >= 0) continue;
    bytes += pg_tensor_bytes(s->tensor);
    pg_tensor_release(s->tensor);
    s->tensor = NULL;
  }
  release_inputs(p);
  pgl_report_bytes(L, bytes);
  return p->noutputs;
}

// ---- facts ----

static void set_number(lua_State *L, const char *name, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, name);
}

static void set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

// p:info() → the plan's description; `inputs` counts the explicit ones, `captured` the hidden ones.
static int program_info(lua_State *L) {
  const pgl_program *p = check_program(L);
  pg_plan_info info;
  pg_plan_describe(p->plan, &info);
  lua_createtable(L, 0, 10);
  set_integer(L, "inputs", p->nexplicit);
  set_integer(L, "captured", p->ninputs - p->nexplicit);
  set_integer(L, "scalars", info.scalars);
  set_integer(L, "outputs", info.outputs);
  set_integer(L, "kernels", info.kernels);
  set_integer(L, "library_calls", info.library_calls);
  set_integer(L, "arena_bytes", (lua_Integer)info.arena_bytes);
  set_number(L, "flops", info.flops);
  set_number(L, "compile_seconds", info.compile_seconds);
  lua_pushboolean(L, info.generated);
  lua_setfield(L, -2, "generated");
  return 1;
}

static int program_source(lua_State *L) {
  lua_pushstring(L, pg_plan_source(check_program(L)->plan));
  return 1;
}

// p:outline() → what a run does, as pg_plan_outline prints it.
static int program_outline(lua_State *L) {
  const pgl_program *p = check_program(L);
  char *text = NULL;
  size_t size = 0;
  FILE *f = open_memstream(&text, &size);
  if (!f) return pgl_error(L, "outline: out of memory");
  pg_plan_outline(p->plan, f);
  bool good = fclose(f) == 0;
  lua_pushlstring(L, good ? text : "", good ? size : 0);
  free(text);
  return 1;
}

// p:arguments() → inputs, outputs in the engine's order: lists of { type = "f32 [2, 3]", number = of an explicit input,
// donated = the input, from 1, whose memory an output takes }.
static int program_arguments(lua_State *L) {
  const pgl_program *p = check_program(L);
  lua_createtable(L, p->ninputs, 0);
  for (int i = 0; i < p->ninputs; i++) {
    const slot *s = &p->inputs[i];
    lua_createtable(L, 0, 2);
    push_type(L, s->dtype, s->ndim, s->shape, s->layout);
    lua_setfield(L, -2, "type");
    lua_rawseti(L, -2, i + 1);
  }
  for (int k = 0; k < p->nexplicit; k++) {
    lua_rawgeti(L, -1, p->explicit_inputs[k] + 1);
    set_integer(L, "number", k + 1);
    lua_pop(L, 1);
  }
  lua_createtable(L, p->noutputs, 0);
  for (int k = 0; k < p->noutputs; k++) {
    const slot *s = &p->outputs[k];
    lua_createtable(L, 0, 2);
    push_type(L, s->dtype, s->ndim, s->shape, s->layout);
    lua_setfield(L, -2, "type");
    if (s->donated >= 0) set_integer(L, "donated", s->donated + 1);
    lua_rawseti(L, -2, k + 1);
  }
  return 2;
}

static const luaL_Reg methods[] = {
    {"bind", program_bind},     {"set", program_set},         {"output", program_output},       {"run", program_run},
    {"result", program_result}, {"call", program_call},       {"number", program_number},       {"info", program_info},
    {"source", program_source}, {"outline", program_outline}, {"arguments", program_arguments}, {NULL, NULL}};

void pgl_open_program(lua_State *L) {
  lua_newtable(L);
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, program_gc);
  lua_setfield(L, -2, "__gc");
  pgl_keep_metatable(L, &program_tag, "perigee.program");
}
