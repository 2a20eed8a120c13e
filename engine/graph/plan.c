// plan.c: compiling a graph into a plan, and running plans. See plan.h for the stages. Running allocates nothing: it
// refreshes a table of pointers if the caller's memory or the arena moved, evaluates the weak scalars, and walks the
// steps.
#include "engine/graph/plan.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/core/parallel.h"
#include "engine/graph/weak.h"

static pg_executor default_executor = PG_EXEC_AUTO;

void pg_set_executor(pg_executor executor) {
  default_executor = executor;
}

// ---- compiling ----

static void mark_live(pg_compilation *c) {
  for (int k = 0; k < c->nout; k++) c->live[c->outs[k]] = true;
  for (size_t v = c->g->count; v-- > 0;) {
    const pg_node *n = &c->g->nodes[v];
    for (int i = 0; c->live[v] && i < n->nin; i++) c->live[n->in[i]] = true;
  }
}

static double node_flops(const pg_graph *g, const pg_node *n) {
  const pg_op_info *info = pg_op_table[n->op];
  if (info->cost_of) return info->cost_of(g, n);
  double size = info->cost;
  for (int i = 0; i < n->ndim; i++) size *= (double)n->shape[i];
  return size;
}

static void count_flops(pg_compilation *c) {
  for (size_t v = 0; v < c->g->count; v++) {
    const pg_node *n = &c->g->nodes[v];
    if (c->live[v] && !n->weak) c->plan->flops += node_flops(c->g, n);
  }
}

static pg_status copy_type(const pg_node *n, pg_node *out) {
  *out = *n;
  out->in = NULL;
  out->region = NULL;
  out->where = "";
  out->attrs.layout = NULL;
  pg_layout_retain(n->layout);
  return PG_OK;
}

static pg_status describe_arguments(pg_compilation *c, const pg_compile_options *options) {
  pg_plan *p = c->plan;
  p->ninputs = c->g->ninputs;
  p->nscalars = c->g->nscalars;
  p->noutputs = c->nout;
  p->input_types = pg_alloc((size_t)p->ninputs, sizeof *p->input_types);
  p->output_types = pg_alloc((size_t)p->noutputs, sizeof *p->output_types);
  p->donate = pg_alloc((size_t)p->noutputs, sizeof *p->donate);
  p->last_inputs = pg_alloc((size_t)p->ninputs, sizeof *p->last_inputs);
  p->last_outputs = pg_alloc((size_t)p->noutputs, sizeof *p->last_outputs);
  if (!p->input_types || !p->output_types || !p->donate || !p->last_inputs || !p->last_outputs) return PG_ERR_MEMORY;
  for (int i = 0; i < p->ninputs; i++) PG_TRY(copy_type(pg_at(c->g, c->g->inputs[i]), &p->input_types[i]));
  for (int k = 0; k < p->noutputs; k++) {
    const pg_node *n = pg_at(c->g, c->outs[k]);
    PG_TRY(copy_type(n, &p->output_types[k]));
    int d = options && options->donate ? options->donate[k] : -1;
    if (d >= p->ninputs || (d >= 0 && !pg_same_type(n, &p->input_types[d])))
      return pg_fail(PG_ERR_SHAPE, "output %d cannot take the place of input %d: their shapes or dtypes differ", k + 1,
                     d + 1);
    p->donate[k] = d;
  }
  PG_TRY(pg_grow(&p->num, &p->cap_num, (size_t)p->nscalars + 1, sizeof *p->num));
  p->nnum = (size_t)p->nscalars;
  return PG_OK;
}

static bool is_kernel(const pg_step *s) {
  return !s->library && !s->loop;
}

// Compiled code if it is wanted and to be had. Under AUTO a compiler or cache that fails (`perigee doctor` says why)
// leaves the interpreter, which gives the same bits.
static pg_status choose_executor(pg_plan *p, pg_executor wanted) {
  if (wanted == PG_EXEC_AUTO) wanted = default_executor;
  if (wanted == PG_EXEC_INTERPRET || (wanted == PG_EXEC_AUTO && !pg_compiler_available())) return PG_OK;
  int n = 0;
  const pg_kernel **kernels = pg_alloc(p->nsteps + 1, sizeof *kernels);
  if (!kernels) return PG_ERR_MEMORY;
  for (size_t s = 0; s < p->nsteps; s++)
    if (is_kernel(&p->steps[s])) kernels[n++] = &p->steps[s].kernel;
  pg_status status = n ? pg_code_build(n, kernels, &p->code) : PG_OK;
  pg_free(kernels);
  if (status != PG_OK) return wanted == PG_EXEC_AUTO && status != PG_ERR_MEMORY ? PG_OK : status;
  p->generated = true;
  n = 0;
  for (size_t s = 0; s < p->nsteps; s++)
    if (is_kernel(&p->steps[s])) p->steps[s].fn = pg_code_entry(p->code, n++);
  return PG_OK;
}

// Pointers into the plan's own arrays, now that these no longer move.
static pg_status connect_steps(pg_plan *p) {
  p->ptr = pg_alloc(p->npointers, sizeof *p->ptr);
  if (!p->ptr) return PG_ERR_MEMORY;
  for (size_t i = 0; i < p->nsteps; i++) {
    pg_step *s = &p->steps[i];
    if (!is_kernel(s)) continue;
    pg_kcall *call = &s->call;
    call->ptr = p->ptr + s->first_pointer;
    call->num = p->num;
    call->dim = s->kernel.dim;
    call->stride = s->strides;
    call->dstride = s->strides + (size_t)s->kernel.nargs * PG_KDIMS;
    call->vtiles = s->vtiles;
    call->partial = p->ptr + s->first_pointer + s->kernel.nargs + s->kernel.nreduces;
    call->services = &pg_services;
  }
  return PG_OK;
}

static pg_status compile_stages(pg_compilation *c, const pg_compile_options *options) {
  mark_live(c);
  count_flops(c);
  c->plan->executor = options ? options->executor : PG_EXEC_AUTO;
  PG_TRY(describe_arguments(c, options));
  PG_TRY(pg_resolve_views(c));
  PG_TRY(pg_make_units(c));
  int *order = NULL, count = 0;
  pg_status status = pg_order_units(c, &order, &count);
  if (status == PG_OK) status = pg_assign_outputs(c);
  if (status == PG_OK) status = pg_check_donations(c, order, count);
  if (status == PG_OK) status = pg_lower_units(c, order, count);
  pg_free(order);
  PG_TRY(status);
  PG_TRY(pg_emit_output_copies(c));
  PG_TRY(pg_place_buffers(c));
  PG_TRY(choose_executor(c->plan, c->plan->executor));
  return connect_steps(c->plan);
}

static pg_status start_compilation(pg_compilation *c) {
  size_t n = c->g->count;
  c->live = pg_alloc(n, sizeof *c->live);
  c->views = pg_alloc(n, sizeof *c->views);
  c->value_buf = pg_alloc(n, sizeof *c->value_buf);
  c->groups = pg_alloc(n, sizeof *c->groups);
  c->num_of = pg_alloc(n, sizeof *c->num_of);
  if (!c->live || !c->views || !c->value_buf || !c->groups || !c->num_of) return PG_ERR_MEMORY;
  for (size_t i = 0; i < n; i++) c->num_of[i] = -1;
  return PG_OK;
}

static void end_compilation(pg_compilation *c) {
  for (size_t i = 0; c->groups && i < c->g->count; i++) pg_free(c->groups[i]);
  for (size_t u = 0; u < c->nunits; u++) pg_free(c->units[u].members);
  pg_free(c->live), pg_free(c->views), pg_free(c->value_buf), pg_free(c->groups), pg_free(c->num_of), pg_free(c->units);
}

// Compile the graph with its calls written out.
static pg_status compile_expanded(pg_graph *g, int nout, const pg_value *outs, const pg_compile_options *options,
                                  pg_plan **out) {
  pg_graph *flat;
  pg_value *values = pg_alloc((size_t)nout, sizeof *values);
  if (!values) return PG_ERR_MEMORY;
  pg_status status = pg_expand_calls(g, nout, outs, &flat, values);
  if (status == PG_OK) status = pg_compile(flat, nout, values, options, out);
  pg_graph_free(flat);
  pg_free(values);
  return status;
}

pg_status pg_compile(pg_graph *g, int nout, const pg_value *outs, const pg_compile_options *options, pg_plan **out) {
  *out = NULL;
  for (int k = 0; k < nout; k++) {
    if (outs[k] == PG_NONE) return pg_last_status();
    if (outs[k] < 0 || (size_t)outs[k] >= g->count)
      return pg_fail(PG_ERR_ARGUMENT, "output %d is not a value of this graph", k + 1);
  }
  if (pg_has_calls(g)) return compile_expanded(g, nout, outs, options, out);
  // A weak result becomes an f64 tensor of no dimensions.
  pg_value *values = pg_alloc((size_t)nout, sizeof *values);
  pg_compilation c = {.g = g, .plan = pg_alloc(1, sizeof(pg_plan)), .nout = nout, .outs = values};
  pg_status status = values && c.plan ? PG_OK : PG_ERR_MEMORY;
  for (int k = 0; k < nout && status == PG_OK; k++) {
    values[k] = pg_value_is_weak(g, outs[k]) ? pg_cast(g, outs[k], PG_F64) : outs[k];
    if (values[k] == PG_NONE) status = pg_last_status();
  }
  if (status == PG_OK) status = start_compilation(&c);
  if (status == PG_OK) status = compile_stages(&c, options);
  end_compilation(&c);
  pg_free(values);
  if (status != PG_OK) {
    pg_plan_free(c.plan);
    return status;
  }
  *out = c.plan;
  return PG_OK;
}

static void free_step(pg_step *s) {
  pg_free(s->kernel.args);
  pg_free(s->kernel.insts);
  pg_free(s->kernel.reduces);
  pg_free(s->kernel.coded);
  pg_free((char *)s->kernel.title);
  pg_free(s->strides);
  pg_free(s->operands);
  pg_loop_free(s->loop);
  pg_free(s->reads);
  pg_free(s->writes);
  pg_free(s->where);
}

void pg_plan_free(pg_plan *p) {
  if (!p) return;
  for (size_t s = 0; s < p->nsteps; s++) free_step(&p->steps[s]);
  for (size_t i = 0; i < p->nvtables; i++) {
    pg_layout_release(p->vtables[i].layout);
    pg_free(p->vtables[i].tiles);
    pg_free(p->vtables[i].seg_tiles);
  }
  for (size_t i = 0; i < p->nplaces; i++) {
    pg_layout_release(p->places[i].layout);
    pg_layout_release(p->places[i].coded);
    pg_free(p->places[i].tiles);
  }
  for (int i = 0; p->input_types && i < p->ninputs; i++) pg_layout_release(p->input_types[i].layout);
  for (int i = 0; p->output_types && i < p->noutputs; i++) pg_layout_release(p->output_types[i].layout);
  if (p->code) pg_code_free(p->code);
  pg_free(p->vtables), pg_free(p->places), pg_free(p->steps), pg_free(p->bufs), pg_free(p->pointers), pg_free(p->ptr),
      pg_free(p->num);
  pg_free(p->weak_ops), pg_free(p->input_types), pg_free(p->output_types), pg_free(p->donate);
  pg_free(p->last_inputs), pg_free(p->last_outputs);
  pg_free(p);
}

// ---- running ----

static void *buffer_base(const pg_plan *p, int buf, void *const *inputs, void *const *outputs) {
  const pg_buf *b = &p->bufs[buf];
  switch (b->place) {
  case PG_PLACE_INPUT:
    return inputs[b->index];
  case PG_PLACE_OUTPUT:
    return p->donate[b->index] >= 0 ? inputs[p->donate[b->index]] : outputs[b->index];
  default:
    return (char *)p->last_arena + b->arena_off;
  }
}

static void *resolve(const pg_plan *p, const pg_pointer *at, void *const *inputs, void *const *outputs) {
  if (at->buf == PG_BUF_NONE) return NULL;
  if (at->buf == PG_BUF_PLACES) return p->places[at->offset].tiles;
  return (at->buf == PG_BUF_NUM ? (char *)p->num : (char *)buffer_base(p, at->buf, inputs, outputs)) + at->offset;
}

static void refresh_pointers(pg_plan *p, void *arena, void *const *inputs, void *const *outputs) {
  bool same = p->last_arena == arena && memcmp(p->last_inputs, inputs, (size_t)p->ninputs * sizeof *inputs) == 0 &&
              memcmp(p->last_outputs, outputs, (size_t)p->noutputs * sizeof *outputs) == 0;
  if (same) return;
  if (p->ninputs) memcpy(p->last_inputs, inputs, (size_t)p->ninputs * sizeof *inputs);
  if (p->noutputs) memcpy(p->last_outputs, outputs, (size_t)p->noutputs * sizeof *outputs);
  p->last_arena = arena;
  for (size_t i = 0; i < p->npointers; i++) p->ptr[i] = resolve(p, &p->pointers[i], inputs, outputs);
  for (size_t s = 0; s < p->nsteps; s++)
    for (int i = 0; p->steps[s].library && i < p->steps[s].noperands; i++)
      p->steps[s].operands[i].data = p->ptr[p->steps[s].first_pointer + i];
}

static void run_tiles(void *arg, int64_t t0, int64_t t1) {
  const pg_step *s = arg;
  if (s->fn)
    s->fn(&s->call, t0, t1);
  else
    pg_kernel_interpret(&s->kernel, &s->call, t0, t1);
}

static void finish_reductions(const pg_step *s) {
  const pg_kernel *k = &s->kernel;
  for (int i = 0; i < k->nreduces; i++) {
    const pg_kreduce *r = &k->reduces[i];
    char *result = s->call.ptr[k->nargs + i];
    const char *partial = s->call.partial[i];
    size_t size = pg_dtype_size(r->dtype);
    if (partial == result) continue;
    if (k->space == PG_SPACE_GRID) {
      pg_finish_reduction(r->op, r->dtype, partial, s->call.rows, s->call.chunks, s->columns, result);
      continue;
    }
    for (int64_t t = 0; t < s->nsegments; t++)
      pg_finish_reduction(r->op, r->dtype, partial + (size_t)s->seg_tiles[t] * size, 1,
                          s->seg_tiles[t + 1] - s->seg_tiles[t], 1, result + (size_t)t * size);
  }
}

pg_status pg_plan_run_in(pg_plan *p, void *arena, void *const *inputs, const double *scalars, void *const *outputs) {
  refresh_pointers(p, arena, inputs, outputs);
  if (p->nscalars) memcpy(p->num, scalars, (size_t)p->nscalars * sizeof *scalars);
  for (size_t i = 0; i < p->nweak; i++) {
    const pg_weak_op *w = &p->weak_ops[i];
    p->num[w->out] =
        pg_is_identity(w->op) ? p->num[w->a] : pg_weak_apply(w->op, p->num[w->a], p->num[w->b], p->num[w->c]);
  }
  for (size_t i = 0; i < p->nsteps; i++) {
    pg_step *s = &p->steps[i];
    if (s->library) {
      s->op->cpu(&s->operands[0], &s->operands[1], s->noperands - 1, &s->attrs,
                 s->scratch_pointer >= 0 ? p->ptr[s->scratch_pointer] : NULL);
      continue;
    }
    if (s->loop) {
      PG_TRY(pg_loop_run(p, s));
      continue;
    }
    pg_parallel_for(s->tiles, s->kernel.work, run_tiles, s);
    if (s->kernel.nreduces) finish_reductions(s);
  }
  return PG_OK;
}

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

pg_status pg_plan_run(pg_plan *p, void *const *inputs, const double *scalars, void *const *outputs) {
  // Too little work for any of its loops to fork, as in eager operations: nothing to find out.
  if (p->flops < PG_PARALLEL_WORK || pg_threads() <= 1) return pg_plan_run_in(p, pg_arena(), inputs, scalars, outputs);
  bool timed;
  pg_run_serially(pg_pace_next(&p->pace, &timed));
  const double start = timed ? seconds_now() : 0;
  const pg_status status = pg_plan_run_in(p, pg_arena(), inputs, scalars, outputs);
  pg_pace_note(&p->pace, timed ? seconds_now() - start : 0);
  pg_run_serially(false);
  return status;
}

static pg_status check_tensor(const char *what, int i, const pg_tensor *t, const pg_node *type) {
  bool fits = t && pg_tensor_dtype(t) == (pg_dtype)type->dtype && pg_tensor_ndim(t) == type->ndim &&
              memcmp(pg_tensor_shape(t), type->shape, (size_t)type->ndim * sizeof *type->shape) == 0 &&
              pg_layout_equal(pg_tensor_layout(t), type->layout);
  if (fits) return PG_OK;
  char want[128], got[128] = "nothing";
  pg_shape_text(type, want, sizeof want);
  if (t) {
    pg_node n = {.dtype = (uint8_t)pg_tensor_dtype(t), .ndim = (int8_t)pg_tensor_ndim(t)};
    memcpy(n.shape, pg_tensor_shape(t), (size_t)n.ndim * sizeof *n.shape);
    pg_shape_text(&n, got, sizeof got);
  }
  return pg_fail(PG_ERR_SHAPE, "%s %d of the plan is %s, not %s", what, i + 1, want, got);
}

pg_status pg_run(pg_plan *p, pg_tensor *const *inputs, const double *scalars, pg_tensor *const *outputs) {
  void **in = pg_alloc((size_t)p->ninputs + (size_t)p->noutputs, sizeof *in), **out = in + p->ninputs;
  if (!in) return PG_ERR_MEMORY;
  pg_status status = PG_OK;
  for (int i = 0; i < p->ninputs && status == PG_OK; i++) {
    status = check_tensor("input", i, inputs[i], &p->input_types[i]);
    if (status == PG_OK) in[i] = pg_tensor_data(inputs[i]);
  }
  for (int k = 0; k < p->noutputs && status == PG_OK; k++) {
    if (p->donate[k] >= 0 && !outputs[k]) continue;
    status = check_tensor("output", k, outputs[k], &p->output_types[k]);
    if (status == PG_OK) out[k] = pg_tensor_data(outputs[k]);
  }
  if (status == PG_OK) status = pg_plan_run(p, in, scalars, out);
  pg_free(in);
  return status;
}

// ---- describing ----

void pg_plan_describe(const pg_plan *p, pg_plan_info *info) {
  *info = (pg_plan_info){.inputs = p->ninputs,
                         .scalars = p->nscalars,
                         .outputs = p->noutputs,
                         .arena_bytes = p->arena_bytes,
                         .flops = p->flops,
                         .generated = p->generated,
                         .compile_seconds = p->code ? pg_code_compile_seconds(p->code) : 0};
  for (size_t s = 0; s < p->nsteps; s++) {
    info->library_calls += p->steps[s].library;
    info->kernels += is_kernel(&p->steps[s]);
  }
}

const char *pg_plan_source(const pg_plan *p) {
  return p->code ? pg_code_source(p->code) : "";
}

static int type_of(const pg_node *n, pg_dtype *dtype, int64_t *shape) {
  *dtype = (pg_dtype)n->dtype;
  memcpy(shape, n->shape, (size_t)n->ndim * sizeof *shape);
  return n->ndim;
}

int pg_plan_input_shape(const pg_plan *p, int i, pg_dtype *dtype, int64_t *shape) {
  return type_of(&p->input_types[i], dtype, shape);
}

int pg_plan_output_shape(const pg_plan *p, int i, pg_dtype *dtype, int64_t *shape) {
  return type_of(&p->output_types[i], dtype, shape);
}

const pg_layout *pg_plan_output_layout(const pg_plan *p, int i) {
  return p->output_types[i].layout;
}
