// apply.c: functions on tensors by name. Eager operands run a one-op plan from the cache; traced operands append to the
// current trace; plain numbers among themselves give a number. Arithmetic on tensors in Lua ends here.
#include <math.h>
#include <string.h>

#include "bindings/cache.h"
#include "bindings/trace.h"
#include "engine/core/memory.h"
#include "engine/ops/ops.h"

// NAME_WORDS * 8 - 1 characters of a function's name enter a key; a name that is longer than any function's is refused.
enum { NAME_WORDS = 6, OPERAND_WORDS = 1 + PG_MAX_NDIM, ATTR_WORDS = 5 + 3 * PG_MAX_NDIM, FEW = 8 };
enum { FEW_WORDS = NAME_WORDS + FEW * OPERAND_WORDS + ATTR_WORDS };

// One application on its way: operands at stack indices first…first+n-1 and the key of their plan.
typedef struct call {
  const char *name;
  const pg_attrs *attrs;
  int first, n;
  int ntensors, nscalars, nlayouts;
  bool traced;
  bool baked;      // numbers are constants of the plan, not run-time scalars
  bool ints;       // there is a tensor of whole numbers among the operands,
  bool floats;     // one of floats,
  bool fractional; // a number that is not whole
  void **inputs;   // data of the eager tensors in order
  double *scalars; // numbers in order
  uint64_t *words;
  size_t nwords;
} call;

// ---- the key ----

static void add_attrs(call *c) {
  const pg_attrs *at = c->attrs;
  uint64_t *w = c->words + c->nwords;
  *w++ = (uint64_t)at->n;
  memcpy(w++, &at->x, sizeof at->x);
  *w++ = (uint64_t)at->dtype;
  *w++ = (uint64_t)at->flags;
  *w++ = (uint64_t)(uintptr_t)at->layout;
  memcpy(w, at->a, sizeof at->a);
  memcpy(w + PG_MAX_NDIM, at->b, sizeof at->b);
  memcpy(w + 2 * PG_MAX_NDIM, at->c, sizeof at->c);
  c->nwords += ATTR_WORDS;
  c->nlayouts += at->layout != NULL;
}

// Infinities and NaN are not.
static bool is_whole(double x) {
  return x - floor(x) == 0;
}

static void note_dtype(call *c, pg_dtype dtype) {
  c->ints |= pg_dtype_is_int(dtype);
  c->floats |= pg_dtype_is_float(dtype);
}

static void add_tensor(call *c, const pg_tensor *t) {
  const pg_layout *layout = pg_tensor_layout(t);
  note_dtype(c, pg_tensor_dtype(t));
  int ndim = layout ? 0 : pg_tensor_ndim(t);
  c->words[c->nwords++] =
      2 | (uint64_t)pg_tensor_dtype(t) << 8 | (uint64_t)ndim << 16 | (uint64_t)(layout != NULL) << 24;
  if (layout) {
    c->words[c->nwords++] = (uint64_t)(uintptr_t)layout;
    c->nlayouts++;
  }
  const int64_t *shape = pg_tensor_shape(t);
  for (int k = 0; k < ndim; k++) c->words[c->nwords++] = (uint64_t)shape[k];
  c->inputs[c->ntensors++] = pg_tensor_data(t);
}

static void add_number(call *c, double x) {
  c->fractional |= !is_whole(x);
  c->words[c->nwords++] = c->baked ? 3 : 1;
  if (c->baked) memcpy(&c->words[c->nwords++], &x, sizeof x);
  c->scalars[c->nscalars++] = x;
}

// Read the operands into the call. Returns the stack index of the first that is neither a tensor nor a number, or 0.
static int read_operands(lua_State *L, call *c) {
  size_t len = strlen(c->name);
  if (len >= NAME_WORDS * sizeof(uint64_t)) return pgl_error(L, "there is no function named '%s'", c->name);
  memset(c->words, 0, NAME_WORDS * sizeof(uint64_t));
  memcpy(c->words, c->name, len);
  // x^2 is x*x in a trace, where the exponent is known, and the bits must be the same here.
  c->baked = strcmp(c->name, "pow") == 0;
  c->nwords = NAME_WORDS;
  for (int i = c->first; i < c->first + c->n; i++) {
    const pgl_tensor *t = pgl_to_tensor(L, i);
    if (t && t->tensor) {
      add_tensor(c, t->tensor);
    } else if (t && t->trace) {
      const pgl_type type = pgl_type_of(L, t);
      c->traced = true;
      if (!type.weak) note_dtype(c, type.dtype);
    } else if (!t && lua_type(L, i) == LUA_TNUMBER) {
      add_number(c, lua_tonumber(L, i));
    } else {
      return i;
    }
  }
  if (c->attrs) add_attrs(c);
  return 0;
}

// Numbers take the dtype of the tensors beside them. Where those hold whole numbers only, a fraction would be cut off
// in silence, and so would what / leaves.
static int refuse_fraction(lua_State *L, const call *c) {
  pgl_type type = {0};
  for (int i = c->first; i < c->first + c->n; i++) {
    const pgl_tensor *t = pgl_to_tensor(L, i);
    if (t) type = pgl_type_of(L, t);
    if (t && pg_dtype_is_int(type.dtype)) break;
  }
  const char *text = pgl_push_type_text(L, &type);
  for (int i = c->first; i < c->first + c->n; i++)
    if (!lua_isuserdata(L, i) && !is_whole(lua_tonumber(L, i)))
      return pgl_error(L, "%s: %s holds whole numbers, and %s is not one; convert the tensor with :to(\"f32\")",
                       c->name, text, luaL_tolstring(L, i, NULL));
  return pgl_error(L, "%s: %s holds whole numbers, so / would cut off fractions; convert it with :to(\"f32\")", c->name,
                   text);
}

// ---- eager ----

// The value of operand i as an argument of graph g.
static pg_value declare_operand(lua_State *L, const call *c, pg_graph *g, int i) {
  const pgl_tensor *t = pgl_to_tensor(L, i);
  if (!t) return c->baked ? pg_number(g, lua_tonumber(L, i)) : pg_scalar(g);
  return pg_input(g, pg_tensor_dtype(t->tensor), pg_tensor_ndim(t->tensor), pg_tensor_shape(t->tensor),
                  pg_tensor_layout(t->tensor));
}

static pg_status compile_call(lua_State *L, const call *c, pg_plan **plan) {
  pg_graph *g;
  pg_value few[FEW], *in = few, out = PG_NONE;
  *plan = NULL;
  PG_TRY(pg_graph_new(&g));
  if (c->n > FEW) in = pg_alloc((size_t)c->n, sizeof *in);
  pg_status status = in ? PG_OK : PG_ERR_MEMORY;
  if (in) {
    for (int i = 0; i < c->n; i++) in[i] = declare_operand(L, c, g, c->first + i);
    out = pg_call(g, c->name, c->n, in, c->attrs);
  }
  if (out == PG_NONE)
    status = status == PG_OK ? PG_ERR_ARGUMENT : status;
  else
    status = pg_compile(g, 1, &out, &(pg_compile_options){.executor = PG_EXEC_INTERPRET}, plan);
  if (in != few) pg_free(in);
  pg_graph_free(g);
  return status;
}

// The layouts whose addresses stand in the key, each retained.
static const pg_layout **hold_layouts(lua_State *L, const call *c) {
  const pg_layout **held = pg_alloc((size_t)c->nlayouts, sizeof *held);
  int n = 0;
  if (!held) return NULL;
  for (int i = c->first; i < c->first + c->n; i++) {
    const pgl_tensor *t = pgl_to_tensor(L, i);
    const pg_layout *layout = t ? pg_tensor_layout(t->tensor) : NULL;
    if (layout) held[n++] = pg_layout_retain(layout);
  }
  if (c->attrs && c->attrs->layout) held[n++] = pg_layout_retain(c->attrs->layout);
  return held;
}

static pg_status find_entry(lua_State *L, pgl_state *state, const call *c, pgl_entry **out) {
  *out = pgl_cache_find(state->cache, pgl_hash_words(c->words, c->nwords), c->words, c->nwords);
  if (*out) return PG_OK;
  pg_plan *plan;
  PG_TRY(compile_call(L, c, &plan));
  const pg_layout **held = hold_layouts(L, c);
  if (!held) {
    pg_plan_free(plan);
    return PG_ERR_MEMORY;
  }
  *out = pgl_cache_add(&state->cache, c->words, c->nwords, plan, held, c->nlayouts);
  return *out ? PG_OK : PG_ERR_MEMORY;
}

// Nothing in here can run Lua code, so the entry stays while it is used.
static pg_status run_eager(lua_State *L, pgl_state *state, const call *c, pg_tensor **result) {
  pgl_entry *e;
  PG_TRY(find_entry(L, state, c, &e));
  PG_TRY(pg_tensor_new(e->dtype, e->ndim, e->shape, e->layout, result));
  void *output = pg_tensor_data(*result);
  pg_status status = pg_plan_run(e->plan, c->inputs, c->scalars, &output);
  if (status != PG_OK) {
    pg_tensor_release(*result);
    *result = NULL;
  }
  return status;
}

static int apply_eager(lua_State *L, pgl_state *state, const call *c) {
  pgl_tensor *result = pgl_push_empty(L);
  pg_status status = run_eager(L, state, c, &result->tensor);
  if (status == PG_ERR_MEMORY) {
    result->tensor = NULL;
    pgl_collect(L);
    status = run_eager(L, state, c, &result->tensor);
  }
  if (status != PG_OK) {
    result->tensor = NULL;
    return pgl_raise(L);
  }
  pgl_report_bytes(L, pg_tensor_bytes(result->tensor));
  return 1;
}

// ---- numbers only ----

// Fold a function of numbers in a graph of its own: pushes a number and returns 1, or returns 0 if the result is a
// tensor.
static int apply_numbers(lua_State *L, const call *c) {
  pg_graph *g;
  if (pg_graph_new(&g) != PG_OK) return pgl_raise(L);
  pg_value in[FEW], out = PG_NONE;
  if (c->n <= FEW) {
    for (int i = 0; i < c->n; i++) in[i] = pg_number(g, c->scalars[i]);
    out = pg_call(g, c->name, c->n, in, c->attrs);
  } else {
    pg_fail(PG_ERR_ARGUMENT, "%s of %d numbers: at least one operand must be a tensor", c->name, c->n);
  }
  bool failed = out == PG_NONE, weak = !failed && pg_value_is_weak(g, out);
  double x = 0;
  if (weak && pg_at(g, out)->op == PG_OP_NUMBER)
    x = pg_at(g, out)->attrs.x;
  else if (weak)
    failed = pg_fail(PG_ERR_ARGUMENT, "%s is not a function of plain numbers", c->name) != PG_OK;
  pg_graph_free(g);
  if (failed) return pgl_raise(L);
  if (weak) lua_pushnumber(L, x);
  return weak;
}

// ---- traced ----

static int apply_traced(lua_State *L, const call *c) {
  pgl_trace *trace = pgl_get_state(L)->current;
  pg_value few[FEW];
  pg_value *in = c->n > FEW ? lua_newuserdatauv(L, (size_t)c->n * sizeof *in, 0) : few;
  if (!trace)
    return pgl_error(L, "%s: this tensor belongs to a trace that has ended; return it from the traced function",
                     c->name);
  pgl_trace_at(L, trace);
  for (int i = 0; i < c->n; i++) in[i] = pgl_trace_operand(L, trace, c->first + i);
  pg_value out = pg_call(trace->graph, c->name, c->n, in, c->attrs);
  if (out == PG_NONE) return pgl_raise(L);
  pgl_push_value(L, out);
  return 1;
}

// ---- dispatch ----

static int refuse_operand(lua_State *L, const call *c, int i) {
  const char *article = lua_isnil(L, i) ? "" : "a ", *hint = "";
  if (lua_istable(L, i)) hint = "; make one with pg.tensor";
  if (lua_isnil(L, i) && c->n == 1) hint = "; methods take a colon, as x:sum()";
  return pgl_error(L, "%s: operand %d is %s%s; a tensor or a number was expected%s", c->name, i - c->first + 1, article,
                   luaL_typename(L, i), hint);
}

// An operand that is not ours may know what to do: its metatable's __pg_apply(name, ...) takes over.
static int apply_foreign(lua_State *L, const call *c, int i) {
  if (pgl_to_tensor(L, i)) return pgl_error(L, "%s: operand %d was freed", c->name, i - c->first + 1);
  if (luaL_getmetafield(L, i, "__pg_apply") == LUA_TNIL) return refuse_operand(L, c, i);
  luaL_checkstack(L, c->n + 2, c->name);
  lua_pushstring(L, c->name);
  for (int k = c->first; k < c->first + c->n; k++) lua_pushvalue(L, k);
  lua_call(L, c->n + 1, 1);
  return 1;
}

int pgl_apply(lua_State *L, const char *name, const pg_attrs *attrs, int first, int n) {
  void *inputs[FEW];
  double scalars[FEW];
  uint64_t words[FEW_WORDS];
  call c = {.name = name, .attrs = attrs, .first = first, .n = n, .inputs = inputs, .scalars = scalars, .words = words};
  luaL_checkstack(L, 8, name);
  if (n > FEW) {
    c.inputs = lua_newuserdatauv(L, (size_t)n * sizeof *inputs, 0);
    c.scalars = lua_newuserdatauv(L, (size_t)n * sizeof *scalars, 0);
    c.words = lua_newuserdatauv(L, (NAME_WORDS + (size_t)n * OPERAND_WORDS + ATTR_WORDS) * sizeof *words, 0);
  }
  int foreign = read_operands(L, &c);
  if (foreign) return apply_foreign(L, &c, foreign);
  if (c.ints && !c.floats && (c.fractional || strcmp(name, "div") == 0)) return refuse_fraction(L, &c);
  if (c.traced) return apply_traced(L, &c);
  pgl_state *state = pgl_get_state(L);
  if (c.ntensors == 0) {
    // A plan under this key proves that the result is a tensor.
    bool known = !state->current && pgl_cache_find(state->cache, pgl_hash_words(c.words, c.nwords), c.words, c.nwords);
    if (!known && apply_numbers(L, &c)) return 1;
    // Constants made inside a trace are nodes of it rather than hidden inputs: they fuse and need no memory.
    if (state->current) return apply_traced(L, &c);
  }
  return apply_eager(L, state, &c);
}

// ---- from Lua ----

static int read_list(lua_State *L, int table, const char *field, int64_t *out) {
  lua_pushstring(L, field);
  int n = 0;
  if (lua_rawget(L, table) == LUA_TTABLE) {
    n = (int)lua_rawlen(L, -1);
    if (n > PG_MAX_NDIM)
      return pgl_error(L, "attribute '%s' has %d entries; at most %d are possible", field, n, PG_MAX_NDIM);
    for (int k = 0; k < n; k++) {
      int ok;
      lua_rawgeti(L, -1, k + 1);
      out[k] = lua_tointegerx(L, -1, &ok);
      if (!ok) return pgl_error(L, "%s is not an integer", luaL_tolstring(L, -1, NULL));
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
  return n;
}

static lua_Integer read_integer(lua_State *L, int table, const char *field, lua_Integer missing) {
  lua_pushstring(L, field);
  lua_rawget(L, table);
  lua_Integer x = lua_isnil(L, -1) ? missing : luaL_checkinteger(L, -1);
  lua_pop(L, 1);
  return x;
}

// The attributes in a Lua table: {a={…}, b={…}, c={…}, n=, x=, dtype="f32", flags=, layout=}.
static void read_attrs(lua_State *L, int table, pg_attrs *attrs) {
  int n = read_list(L, table, "a", attrs->a);
  read_list(L, table, "b", attrs->b);
  read_list(L, table, "c", attrs->c);
  attrs->n = (int)read_integer(L, table, "n", n);
  if (attrs->n < 0 || attrs->n > PG_MAX_NDIM) pgl_error(L, "at most %d axes are possible", PG_MAX_NDIM);
  attrs->flags = (int)read_integer(L, table, "flags", 0);
  lua_pushliteral(L, "x");
  if (lua_rawget(L, table) != LUA_TNIL) attrs->x = luaL_checknumber(L, -1);
  lua_pushliteral(L, "dtype");
  if (lua_rawget(L, table) != LUA_TNIL) attrs->dtype = pgl_check_dtype(L, -1);
  lua_pushliteral(L, "layout");
  if (lua_rawget(L, table) != LUA_TNIL) attrs->layout = pgl_check_layout(L, -1);
  lua_pop(L, 3);
}

// core.apply(name, attrs|nil, ...).
static int core_apply(lua_State *L) {
  pg_attrs attrs = {0};
  const char *name = luaL_checkstring(L, 1);
  bool given = lua_type(L, 2) == LUA_TTABLE;
  if (given) read_attrs(L, 2, &attrs);
  return pgl_apply(L, name, given ? &attrs : NULL, 3, lua_gettop(L) - 2);
}

// A function without attributes as a closure: upvalues name, number of operands or -1.
static int call_function(lua_State *L) {
  int n = (int)lua_tointeger(L, lua_upvalueindex(2));
  if (n >= 0 || lua_gettop(L) == 0) lua_settop(L, n < 0 ? 1 : n); // metamethods of one operand get it twice
  return pgl_apply(L, lua_tostring(L, lua_upvalueindex(1)), NULL, 1, lua_gettop(L));
}

static void push_function(lua_State *L, const char *name, int n) {
  lua_pushstring(L, name);
  lua_pushinteger(L, n);
  lua_pushcclosure(L, call_function, 2);
}

// core.method(name) → function(...) that applies it to its arguments, without attributes.
static int core_method(lua_State *L) {
  push_function(L, luaL_checkstring(L, 1), -1);
  return 1;
}

// The axis at stack index i, which counts from 1 or, negative, from the end → from 0.
static int64_t check_axis(lua_State *L, const char *name, int i, const pgl_tensor *t) {
  int ok, ndim = pgl_type_of(L, t).ndim;
  lua_Integer axis = lua_tointegerx(L, i, &ok);
  if (!ok) pgl_error(L, "%s: an axis is an integer, got %s", name, luaL_tolstring(L, i, NULL));
  if (axis == 0 || axis > ndim || axis < -ndim) {
    lua_getfield(L, lua_upvalueindex(2), "type"); // tensor_text.type
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    pgl_error(L, "%s: axis %I is outside 1..%d of %s", name, axis, ndim, lua_tostring(L, -1));
  }
  return axis > 0 ? axis - 1 : axis + ndim;
}

// A table of axes has no names in it: x:sum({dim = 1}) must not mean the sum of all.
static void refuse_names(lua_State *L, const char *name, int table) {
  for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1))
    if (lua_type(L, -2) == LUA_TSTRING)
      pgl_error(L, "%s: axes are a number or a list of them, as x:%s(1); the table has '%s'", name, name,
                lua_tostring(L, -2));
}

// The argument keepdims: true, false, nil or {keepdims = …}.
static bool check_keepdims(lua_State *L, const char *name, int i) {
  if (lua_istable(L, i)) {
    for (lua_pushnil(L); lua_next(L, i); lua_pop(L, 1))
      if (lua_type(L, -2) != LUA_TSTRING || strcmp(lua_tostring(L, -2), "keepdims") != 0)
        pgl_error(L, "%s: unknown option '%s' (known: keepdims)", name, luaL_tolstring(L, -2, NULL));
    lua_getfield(L, i, "keepdims");
    lua_replace(L, i);
  }
  if (!lua_isnoneornil(L, i) && !lua_isboolean(L, i))
    return pgl_error(L, "%s: keepdims is true or false, got %s; several axes are a list, as x:%s({1, 2})", name,
                     luaL_tolstring(L, i, NULL), name) != 0;
  return lua_toboolean(L, i);
}

// A reduction as a method: x, axes (a number, a table, or nil for all), keepdims. Upvalues: name, the module
// tensor_text.
static int call_reduction(lua_State *L) {
  const char *name = lua_tostring(L, lua_upvalueindex(1));
  pg_attrs attrs = {.flags = check_keepdims(L, name, 3)};
  lua_settop(L, 2);
  if (lua_isnil(L, 2) && !attrs.flags) return pgl_apply(L, name, NULL, 1, 1);
  const pgl_tensor *t = pgl_check_tensor(L, 1);
  if (lua_istable(L, 2)) {
    refuse_names(L, name, 2);
    attrs.n = (int)lua_rawlen(L, 2);
    if (attrs.n > PG_MAX_NDIM) return pgl_error(L, "%s: %d axes are too many", name, attrs.n);
    for (int k = 0; k < attrs.n; k++) {
      lua_rawgeti(L, 2, k + 1);
      attrs.a[k] = check_axis(L, name, 3, t);
      lua_settop(L, 2);
    }
  } else if (!lua_isnil(L, 2)) {
    attrs.a[attrs.n++] = check_axis(L, name, 2, t);
  }
  return pgl_apply(L, name, &attrs, 1, 1);
}

// core.reduction(name, tensor_text) → the method.
static int core_reduction(lua_State *L) {
  luaL_checkstring(L, 1);
  lua_settop(L, 2);
  lua_pushcclosure(L, call_reduction, 2);
  return 1;
}

static int refuse_order(lua_State *L) {
  const pgl_tensor *a = pgl_to_tensor(L, 1), *b = pgl_to_tensor(L, 2);
  if ((a && a->trace) || (b && b->trace))
    return pgl_error(L,
                     "a traced value cannot be compared with < or <=, for it is not known yet: x:lt(y), x:le(y) give a "
                     "mask for pg.where");
  return pgl_error(
      L, "tensors cannot be compared with < or <=: x:lt(y), x:le(y) give a mask for pg.where; a number is x:item()");
}

// a == b for two different userdata: equal values, bit for bit.
static int tensor_eq(lua_State *L) {
  const pgl_tensor *a = pgl_to_tensor(L, 1), *b = pgl_to_tensor(L, 2);
  if (!a || !b) return 0;
  if (a->trace || b->trace)
    return pgl_error(
        L, "traced tensors cannot be compared with ==, for their values are not known yet: use x:eq(y) for a mask, "
           "and pg.where to choose by it");
  const pg_tensor *p = pgl_check_eager(L, 1), *q = pgl_check_eager(L, 2);
  int ndim = pg_tensor_ndim(p);
  lua_pushboolean(L, pg_tensor_dtype(p) == pg_tensor_dtype(q) && ndim == pg_tensor_ndim(q) &&
                         memcmp(pg_tensor_shape(p), pg_tensor_shape(q), (size_t)ndim * sizeof(int64_t)) == 0 &&
                         pg_layout_equal(pg_tensor_layout(p), pg_tensor_layout(q)) &&
                         memcmp(pg_tensor_data(p), pg_tensor_data(q), pg_tensor_bytes(p)) == 0);
  return 1;
}

// #t: the first extent; for vectors the numbers in it.
static int tensor_len(lua_State *L) {
  pgl_type type = pgl_type_of(L, pgl_check_tensor(L, 1));
  if (type.ndim == 0) return pgl_error(L, "a 0-d tensor has no length");
  lua_pushinteger(L, type.layout ? pg_layout_size(type.layout) : type.shape[0]);
  return 1;
}

static int tensor_concat(lua_State *L) {
  luaL_tolstring(L, 1, NULL);
  luaL_tolstring(L, 2, NULL);
  lua_concat(L, 2);
  return 1;
}

static const struct {
  const char *event, *name;
  int n;
} arithmetic[] = {{"__add", "add", 2}, {"__sub", "sub", 2}, {"__mul", "mul", 2},
                  {"__div", "div", 2}, {"__pow", "pow", 2}, {"__unm", "neg", 1}};

static const luaL_Reg functions[] = {
    {"apply", core_apply}, {"method", core_method}, {"reduction", core_reduction}, {NULL, NULL}};
static const luaL_Reg metamethods[] = {{"__lt", refuse_order}, {"__le", refuse_order},      {"__eq", tensor_eq},
                                       {"__len", tensor_len},  {"__concat", tensor_concat}, {NULL, NULL}};

void pgl_open_apply(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
  lua_getfield(L, -1, "metatable");
  luaL_setfuncs(L, metamethods, 0);
  for (size_t i = 0; i < sizeof arithmetic / sizeof *arithmetic; i++) {
    push_function(L, arithmetic[i].name, arithmetic[i].n);
    lua_setfield(L, -2, arithmetic[i].event);
  }
  lua_pop(L, 1);
}
