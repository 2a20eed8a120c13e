// loop.c: scan and while as steps of a plan. A body is compiled into a plan of its own, whose scratch lies in the outer
// plan's arena; a carry is changed in place, or where the body keeps it as it was, alternates between two pieces of
// scratch; scanned operands are read and stacked results written slice by slice.
#include <string.h>

#include "engine/graph/plan.h"

static size_t value_bytes(const pg_node *n) {
  size_t bytes = pg_dtype_size((pg_dtype)n->dtype);
  for (int i = 0; i < n->ndim; i++) bytes *= (size_t)n->shape[i];
  return bytes;
}

void pg_loop_free(pg_loop *loop) {
  if (!loop) return;
  pg_plan_free(loop->body);
  pg_plan_free(loop->cond);
  pg_free(loop->carries), pg_free(loop->carry_bytes);
  pg_free(loop->x_bytes), pg_free(loop->y_bytes), pg_free(loop->y_kept);
  pg_free(loop->scalars), pg_free(loop->in), pg_free(loop->out), pg_free(loop->num);
  pg_free(loop);
}

// ---- lowering ----

static pg_status add_pointer(pg_plan *p, pg_step *s, int buf, int64_t offset, bool write, int *index) {
  PG_TRY(pg_grow(&p->pointers, &p->cap_pointers, p->npointers + 1, sizeof *p->pointers));
  *index = (int)p->npointers;
  p->pointers[p->npointers++] = (pg_pointer){buf, offset};
  if (write)
    s->writes[s->nwrites++] = buf;
  else
    s->reads[s->nreads++] = buf;
  return PG_OK;
}

static pg_status add_scratch(pg_compilation *c, pg_step *s, size_t bytes, int *index) {
  int buf = pg_buf_new(c, PG_U8, (int64_t)bytes);
  return buf < 0 ? PG_ERR_MEMORY : add_pointer(c->plan, s, buf, 0, true, index);
}

// The buffer that receives output k, or -1 if nobody reads it.
static int result_buf(const pg_compilation *c, const pg_unit *u, int k) {
  for (size_t i = 0; i < u->count; i++)
    if (pg_at(c->g, u->members[i])->attrs.a[0] == k) return c->value_buf[u->members[i]];
  return -1;
}

static pg_status alloc_lists(pg_loop *l, const pg_graph *body, int nout) {
  l->carries = pg_alloc((size_t)l->ncarry, sizeof *l->carries);
  l->carry_bytes = pg_alloc((size_t)l->ncarry, sizeof *l->carry_bytes);
  l->x_bytes = pg_alloc((size_t)l->nx, sizeof *l->x_bytes);
  l->y_bytes = pg_alloc((size_t)l->ny, sizeof *l->y_bytes);
  l->y_kept = pg_alloc((size_t)l->ny, sizeof *l->y_kept);
  l->scalars = pg_alloc((size_t)body->nscalars, sizeof *l->scalars);
  l->num = pg_alloc((size_t)body->nscalars, sizeof *l->num);
  l->in = pg_alloc((size_t)body->ninputs, sizeof *l->in);
  l->out = pg_alloc((size_t)nout, sizeof *l->out);
  bool ok =
      l->carries && l->carry_bytes && l->x_bytes && l->y_bytes && l->y_kept && l->scalars && l->num && l->in && l->out;
  return ok ? PG_OK : PG_ERR_MEMORY;
}

// Whether an output of the body is carry k as it was before, as derivatives keep it: changing it in place would only
// make more copies.
static bool keeps_carry(const pg_loop *l, const pg_region *r, int k) {
  for (int i = 0; i < r->nout; i++)
    if (i != k && r->outs[i] == r->body->inputs[l->nconst + k]) return true;
  return false;
}

static pg_status compile_bodies(pg_compilation *c, pg_loop *l, const pg_region *r) {
  int *donate = pg_alloc((size_t)r->nout, sizeof *donate);
  if (!donate) return PG_ERR_MEMORY;
  for (int k = 0; k < r->nout; k++) donate[k] = k < l->ncarry && !keeps_carry(l, r, k) ? l->nconst + k : -1;
  for (int k = 0; k < l->ncarry; k++) l->carries[k] = donate[k] < 0 ? 0 : -1;
  pg_compile_options options = {.executor = c->plan->executor, .donate = donate};
  pg_status status = pg_compile(r->body, r->nout, r->outs, &options, &l->body);
  pg_free(donate);
  options.donate = NULL;
  if (status == PG_OK && r->cond) status = pg_compile(r->cond, 1, &r->cond_out, &options, &l->cond);
  return status;
}

static pg_status add_operands(pg_compilation *c, pg_step *s, const pg_node *n, const pg_graph *body) {
  pg_loop *l = s->loop;
  int index;
  l->operands = (int)c->plan->npointers;
  for (int i = 0; i < body->ninputs; i++) {
    pg_value v = pg_canon(c->g, n->in[i]);
    const pg_strided *view = &c->views[v];
    bool direct = !view->splat && pg_view_is_contiguous(pg_at(c->g, v), view);
    int64_t offset = direct ? view->offset * (int64_t)pg_dtype_size((pg_dtype)pg_at(c->g, v)->dtype) : 0;
    PG_TRY(add_pointer(c->plan, s, direct ? view->buf : c->value_buf[v], offset, false, &index));
  }
  for (int i = 0; i < body->nscalars; i++)
    if ((l->scalars[i] = pg_num_place(c, n->in[body->ninputs + i])) < 0) return PG_ERR_MEMORY;
  return PG_OK;
}

static pg_status add_results(pg_compilation *c, pg_step *s, const pg_unit *u, const pg_region *r) {
  pg_loop *l = s->loop;
  int index;
  l->results = (int)c->plan->npointers;
  for (int k = 0; k < r->nout; k++) {
    size_t bytes = value_bytes(pg_at(r->body, r->outs[k]));
    int buf = result_buf(c, u, k);
    if (k < l->ncarry)
      l->carry_bytes[k] = bytes;
    else {
      l->y_bytes[k - l->ncarry] = bytes;
      l->y_kept[k - l->ncarry] = buf >= 0;
    }
    PG_TRY(buf >= 0 ? add_pointer(c->plan, s, buf, 0, true, &index) : add_scratch(c, s, bytes, &index));
  }
  for (int k = 0; k < l->ncarry; k++) {
    if (l->carries[k] < 0) continue;
    PG_TRY(add_scratch(c, s, l->carry_bytes[k], &l->carries[k]));
    PG_TRY(add_scratch(c, s, l->carry_bytes[k], &index));
  }
  size_t arena = l->body->arena_bytes;
  if (l->cond && l->cond->arena_bytes > arena) arena = l->cond->arena_bytes;
  PG_TRY(add_scratch(c, s, arena, &l->arena));
  return add_scratch(c, s, 1, &l->flag);
}

pg_status pg_lower_loop(pg_compilation *c, int unit) {
  pg_plan *p = c->plan;
  const pg_unit *u = &c->units[unit];
  const pg_node *n = pg_at(c->g, u->members[0]);
  const pg_region *r = n->region;
  PG_TRY(pg_grow(&p->steps, &p->cap_steps, p->nsteps + 1, sizeof *p->steps));
  pg_step *s = &p->steps[p->nsteps++];
  *s = (pg_step){.scratch_pointer = -1, .unit = unit, .loop = pg_alloc(1, sizeof(pg_loop))};
  pg_loop *l = s->loop;
  if (!l) return PG_ERR_MEMORY;
  l->nconst = (int)n->attrs.a[1];
  l->ncarry = (int)n->attrs.a[2];
  l->length = n->attrs.a[3];
  l->reverse = n->attrs.a[4] != 0;
  l->nx = r->body->ninputs - l->nconst - l->ncarry;
  l->ny = r->nout - l->ncarry;
  s->reads = pg_alloc((size_t)r->body->ninputs + 1, sizeof *s->reads);
  s->writes = pg_alloc((size_t)r->nout + 2 * (size_t)l->ncarry + 3, sizeof *s->writes);
  if (!s->reads || !s->writes) return PG_ERR_MEMORY;
  PG_TRY(alloc_lists(l, r->body, r->nout));
  PG_TRY(compile_bodies(c, l, r));
  p->flops += l->body->flops * (l->length < 0 ? 1 : (double)l->length);
  for (int i = 0; i < l->nx; i++)
    l->x_bytes[i] = value_bytes(pg_at(r->body, r->body->inputs[l->nconst + l->ncarry + i]));
  PG_TRY(add_operands(c, s, n, r->body));
  return add_results(c, s, u, r);
}

// ---- running ----

static pg_status run_body(pg_plan *p, const pg_loop *l, int64_t slice, int turn) {
  for (int i = 0; i < l->nx; i++)
    l->in[l->nconst + l->ncarry + i] =
        (char *)p->ptr[l->operands + l->nconst + l->ncarry + i] + (size_t)slice * l->x_bytes[i];
  for (int k = 0; k < l->ncarry; k++)
    l->out[k] = l->carries[k] < 0 ? l->in[l->nconst + k] : p->ptr[l->carries[k] + turn];
  for (int k = 0; k < l->ny; k++)
    l->out[l->ncarry + k] =
        (char *)p->ptr[l->results + l->ncarry + k] + (l->y_kept[k] ? (size_t)slice * l->y_bytes[k] : 0);
  return pg_plan_run_in(l->body, p->ptr[l->arena], l->in, l->num, l->out);
}

static pg_status wants_more(pg_plan *p, const pg_loop *l, int64_t done, bool *more) {
  *more = done < l->length;
  if (!l->cond) return PG_OK;
  void *flag = p->ptr[l->flag];
  PG_TRY(pg_plan_run_in(l->cond, p->ptr[l->arena], l->in, l->num, &flag));
  *more = *(bool *)flag;
  return PG_OK;
}

pg_status pg_loop_run(pg_plan *p, pg_step *s) {
  const pg_loop *l = s->loop;
  for (int i = 0; i < l->body->nscalars; i++) l->num[i] = p->num[l->scalars[i]];
  for (int i = 0; i < l->nconst + l->ncarry; i++) l->in[i] = p->ptr[l->operands + i];
  for (int k = 0; k < l->ncarry; k++)
    if (l->carries[k] < 0)
      l->in[l->nconst + k] = memcpy(p->ptr[l->results + k], l->in[l->nconst + k], l->carry_bytes[k]);
  bool more;
  for (int64_t done = 0;; done++) {
    PG_TRY(wants_more(p, l, done, &more));
    if (!more) break;
    PG_TRY(run_body(p, l, l->reverse ? l->length - 1 - done : done, (int)(done & 1)));
    for (int k = 0; k < l->ncarry; k++) l->in[l->nconst + k] = l->out[k];
  }
  for (int k = 0; k < l->ncarry; k++)
    if (l->carries[k] >= 0) memcpy(p->ptr[l->results + k], l->in[l->nconst + k], l->carry_bytes[k]);
  return PG_OK;
}
