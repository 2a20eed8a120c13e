// trace.h: traces as the binding files share them: the graph being recorded, its arguments, and the eager tensors it
// met.
#ifndef PGL_TRACE_H
#define PGL_TRACE_H

#include "bindings/tensor.h"

// One argument of a trace, in the engine's order. An explicit input has number >= 1 (as tr:input counts) and no tensor;
// a captured eager tensor has number 0 and a reference. The body of a region captures values of the trace around it
// instead: `outer` is that value, else PG_NONE.
typedef struct pgl_input {
  int number;
  pg_tensor *captured;
  const pg_layout *layout; // retained
  pg_value value, outer;
} pgl_input;

typedef struct pgl_trace {
  const void *tag;
  uint64_t serial;
  pg_graph *graph; // NULL once finished
  struct pgl_trace *outer;
  bool region;       // the body of a region of `outer`: values of `outer` may be used and become operands
  pgl_input *inputs; // tensors
  size_t ninputs, cap;
  pgl_input *captured_scalars; // of a region: weak values of `outer`
  size_t nscalars, scalar_cap;
  int explicit_inputs;
} pgl_trace;

// Push a new trace, or the body of a region in the current one, and make it the current one. Its __close ends it.
pgl_trace *pgl_push_trace(lua_State *L, bool region);
// Declare a tensor input of a trace, standing for `outer` or for nothing yet (PG_NONE). Returns the value in the trace.
pg_value pgl_declare_input(lua_State *L, pgl_trace *trace, const pgl_type *type, pg_value outer);
pgl_type pgl_type_of_value(const pg_graph *graph, pg_value value);
// End `trace` and every trace opened inside it.
void pgl_finish_trace(lua_State *L, pgl_trace *trace);

pgl_trace *pgl_check_trace(lua_State *L, int i); // an open one
// The open trace that `t` belongs to; raises when that is not the current one.
pgl_trace *pgl_trace_of(lua_State *L, const pgl_tensor *t);
// The value of the operand at stack index i in `trace`: a traced tensor, a captured eager one, or a number.
pg_value pgl_trace_operand(lua_State *L, pgl_trace *trace, int i);
// Tell the graph the recipe's line that the next nodes come from.
void pgl_trace_at(lua_State *L, pgl_trace *trace);

// ---- functions by name (apply.c) ----

// Apply function `name` to the n operands at stack indices first… and push the result.
int pgl_apply(lua_State *L, const char *name, const pg_attrs *attrs, int first, int n);

// ---- programs (program.c) ----

typedef struct pgl_program pgl_program;

// Push an empty program. Made before its plan, so that no plan is lost if Lua runs out of memory.
pgl_program *pgl_push_program(lua_State *L);
// Give it `plan` (owned from now on, also when this raises) with the arguments of `trace`.
void pgl_fill_program(lua_State *L, pgl_program *p, const pgl_trace *trace, pg_plan *plan, int nout, const bool *weak,
                      const int *donate);

#endif
