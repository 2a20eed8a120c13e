// lower.c: units to steps: groups become kernels, library operations become calls with strided operands, placements and
// copies become small kernels; weak scalars become a little program for the host.
#include <stdio.h>
#include <string.h>

#include "engine/graph/kbuild.h"

// ---- weak scalars ----

static int new_num(pg_plan *p) {
  if (pg_grow(&p->num, &p->cap_num, p->nnum + 1, sizeof *p->num) != PG_OK) return -1;
  return (int)p->nnum++;
}

int pg_num_place(pg_compilation *c, pg_value weak) {
  weak = pg_canon(c->g, weak);
  if (c->num_of[weak] >= 0) return c->num_of[weak];
  const pg_node *n = pg_at(c->g, weak);
  pg_plan *p = c->plan;
  int place;
  if (n->op == PG_OP_SCALAR) {
    place = (int)n->attrs.a[0];
  } else if (n->op == PG_OP_NUMBER) {
    place = new_num(p);
    if (place >= 0) p->num[place] = n->attrs.x;
  } else {
    int in[3] = {0, 0, 0};
    for (int i = 0; i < n->nin; i++)
      if ((in[i] = pg_num_place(c, n->in[i])) < 0) return -1;
    place = new_num(p);
    if (place < 0 || pg_grow(&p->weak_ops, &p->cap_weak, p->nweak + 1, sizeof *p->weak_ops) != PG_OK) return -1;
    p->weak_ops[p->nweak++] = (pg_weak_op){n->op, in[0], in[1], in[2], place};
  }
  return c->num_of[weak] = place;
}

// ---- groups ----

static void group_title(const pg_compilation *c, const pg_unit *u, char *text, size_t size) {
  size_t used = 0;
  text[0] = 0;
  for (size_t i = 0; i < u->count && used + 24 < size; i++)
    used += (size_t)snprintf(text + used, size - used, "%s%s", i ? " " : "",
                             pg_op_table[pg_at(c->g, u->members[i])->op]->name);
}

static pg_kbuild group_builder(pg_compilation *c, int unit) {
  const pg_unit *u = &c->units[unit];
  pg_kbuild b = {.c = c,
                 .unit = unit,
                 .space = u->layout ? PG_SPACE_VECTOR : PG_SPACE_GRID,
                 .ndim = u->ndim,
                 .layout = u->layout,
                 .reduces = u->reduces,
                 .red_first = u->red_first,
                 .red_last = u->red_last};
  memcpy(b.shape, u->shape, sizeof b.shape);
  return b;
}

static int base_reduction(int op) {
  switch (op) {
  case PG_OP_SEGMAX:
    return PG_OP_MAX;
  case PG_OP_SEGMIN:
    return PG_OP_MIN;
  case PG_OP_SEGSUM:
    return PG_OP_SUM;
  default:
    return op;
  }
}

static pg_status add_reduce(pg_kbuild *b, pg_value v, int inst) {
  const pg_node *n = pg_at(b->c->g, v);
  PG_TRY(pg_grow(&b->reduces_list, &b->cap_reduces, b->nreduces + 1, sizeof *b->reduces_list));
  PG_TRY(pg_grow(&b->reduce_bufs, &b->cap_reduce_bufs, b->nreduces + 1, sizeof *b->reduce_bufs));
  b->reduces_list[b->nreduces] = (pg_kreduce){inst, base_reduction(n->op), (pg_dtype)n->dtype};
  b->reduce_bufs[b->nreduces++] = b->c->value_buf[v];
  return PG_OK;
}

// Members in order of creation; each value is stored by the group that owns its buffer. reductions: also the group's
// own.
static pg_status build_group(pg_kbuild *b, bool reductions) {
  const pg_compilation *c = b->c;
  const pg_unit *u = &c->units[b->unit];
  for (size_t i = 0; i < u->count; i++) {
    pg_value v = u->members[i];
    const pg_node *n = pg_at(c->g, v);
    int buf = c->value_buf[v];
    if (pg_is_reduction(n->op)) {
      int inst = pg_kbuild_value(b, n->in[0], (pg_dtype)n->dtype);
      if (inst < 0) return PG_ERR_MEMORY;
      if (pg_is_kept(n->op))
        PG_TRY(pg_kbuild_keep(b, v, inst));
      else if (reductions)
        PG_TRY(add_reduce(b, v, inst));
      b->cost += 1;
      continue;
    }
    int inst = pg_kbuild_value(b, v, (pg_dtype)n->dtype);
    if (inst < 0) return PG_ERR_MEMORY;
    if (c->plan->bufs[buf].needed && c->plan->bufs[buf].unit == b->unit)
      PG_TRY(pg_kbuild_store(b, inst, (pg_dtype)n->dtype, buf, 0, NULL));
  }
  return PG_OK;
}

// A reduction over strides that do not fit one loop: first compute what is reduced into scratch, then reduce that.
static pg_status lower_split_reduction(pg_compilation *c, int unit, const char *title) {
  pg_kbuild b = group_builder(c, unit);
  b.reduces = false;
  const pg_unit *u = &c->units[unit];
  int *scratch = pg_alloc(u->count, sizeof *scratch);
  pg_status status = scratch ? build_group(&b, false) : PG_ERR_MEMORY;
  int64_t size = 1;
  for (int i = 0; i < b.ndim; i++) size *= b.shape[i];
  for (size_t i = 0; i < u->count && status == PG_OK; i++) {
    const pg_node *n = pg_at(c->g, u->members[i]);
    if (!pg_is_reduction(n->op)) continue;
    pg_dtype dtype = (pg_dtype)pg_at(c->g, n->in[0])->dtype;
    int inst = pg_kbuild_value(&b, n->in[0], dtype);
    scratch[i] = pg_buf_new(c, dtype, size);
    status = inst < 0 || scratch[i] < 0 ? PG_ERR_MEMORY : pg_kbuild_store(&b, inst, dtype, scratch[i], 0, NULL);
  }
  if (status == PG_OK) status = pg_kbuild_finish(&b, title);
  pg_kbuild_free(&b);
  for (size_t i = 0; i < u->count && status == PG_OK; i++) {
    pg_value v = u->members[i];
    const pg_node *n = pg_at(c->g, v);
    if (!pg_is_reduction(n->op)) continue;
    pg_kbuild r = group_builder(c, unit);
    r.unit = -1;
    pg_access load;
    memset(&load, 0, sizeof load);
    load.kind = PG_ARG_LOAD;
    load.dtype = (pg_dtype)pg_at(c->g, n->in[0])->dtype;
    load.buf = scratch[i];
    pg_row_major(r.ndim, r.shape, load.stride);
    int inst = pg_kbuild_load(&r, &load);
    status = inst < 0 ? PG_ERR_MEMORY : add_reduce(&r, v, inst);
    if (status == PG_OK) status = pg_kbuild_finish(&r, pg_op_table[n->op]->name);
    pg_kbuild_free(&r);
  }
  pg_free(scratch);
  return status;
}

static pg_status lower_group(pg_compilation *c, int unit) {
  char title[400];
  group_title(c, &c->units[unit], title, sizeof title);
  pg_kbuild b = group_builder(c, unit);
  pg_status status = build_group(&b, true);
  bool split = status == PG_OK && b.reduces && !pg_kbuild_fits(&b);
  if (status == PG_OK && !split) status = pg_kbuild_finish(&b, title);
  pg_kbuild_free(&b);
  return split ? lower_split_reduction(c, unit, title) : status;
}

// ---- copies and placements ----

pg_status pg_emit_copy(pg_compilation *c, int unit, pg_value src, int dst_buf, int64_t dst_offset,
                       const int64_t *dst_stride) {
  pg_value v = pg_canon(c->g, src);
  const pg_node *n = pg_at(c->g, v);
  const pg_strided *view = &c->views[v];
  bool vector = n->layout != NULL; // tensor by tensor: pads of scratch hold anything, pads of results stay 0
  pg_kbuild b = {.c = c, .unit = -1, .space = vector ? PG_SPACE_VECTOR : PG_SPACE_GRID, .ndim = n->ndim};
  b.layout = vector ? n->layout : NULL;
  memcpy(b.shape, n->shape, sizeof b.shape);
  pg_dtype dtype = (pg_dtype)n->dtype;
  int inst;
  int64_t stride[PG_MAX_NDIM] = {0};
  if (dst_stride) memcpy(stride, dst_stride, sizeof stride);
  if (dtype == PG_KEY) { // two words each
    if (n->ndim == PG_MAX_NDIM)
      return pg_fail(PG_ERR_UNSUPPORTED, "tensors of keys have at most %d axes", PG_MAX_NDIM - 1);
    pg_access load;
    memset(&load, 0, sizeof load);
    load.kind = PG_ARG_LOAD;
    load.dtype = dtype = PG_I64;
    load.buf = view->buf;
    load.offset = view->offset * 2;
    for (int i = 0; i < n->ndim; i++) {
      load.stride[i] = view->stride[i] * 2;
      stride[i] *= 2;
    }
    load.stride[n->ndim] = stride[n->ndim] = 1;
    b.shape[b.ndim++] = 2;
    dst_offset *= 2;
    inst = pg_kbuild_load(&b, &load);
  } else {
    inst = pg_kbuild_value(&b, v, dtype);
  }
  pg_status status =
      inst < 0 ? PG_ERR_MEMORY : pg_kbuild_store(&b, inst, dtype, dst_buf, dst_offset, dst_stride ? stride : NULL);
  if (status == PG_OK) status = pg_kbuild_finish(&b, "copy");
  if (status == PG_OK) c->plan->steps[c->plan->nsteps - 1].unit = unit;
  pg_kbuild_free(&b);
  return status;
}

static bool placed_inside(const pg_compilation *c, pg_value x, int buf, int64_t offset_bytes) {
  int b = pg_exact_buf(c, x);
  if (b < 0) return false;
  const pg_buf *p = &c->plan->bufs[b];
  return p->place == PG_PLACE_INSIDE && p->parent == buf && p->parent_off == offset_bytes;
}

static pg_status lower_pack(pg_compilation *c, int unit, const pg_node *n, int buf) {
  for (int i = 0; i < n->nin; i++) {
    int64_t offset = pg_layout_segment(n->layout, i)->offset;
    if (!placed_inside(c, n->in[i], buf, offset * (int64_t)pg_dtype_size((pg_dtype)n->dtype)))
      PG_TRY(pg_emit_copy(c, unit, n->in[i], buf, offset, NULL));
  }
  return PG_OK;
}

static pg_status lower_concat(pg_compilation *c, int unit, const pg_node *n, int buf) {
  int64_t stride[PG_MAX_NDIM] = {0}, at = 0;
  pg_row_major(n->ndim, n->shape, stride);
  int axis = (int)n->attrs.a[0];
  for (int i = 0; i < n->nin; i++) {
    int64_t offset = at * stride[axis];
    if (!placed_inside(c, n->in[i], buf, offset * (int64_t)pg_dtype_size((pg_dtype)n->dtype)))
      PG_TRY(pg_emit_copy(c, unit, n->in[i], buf, offset, stride));
    at += pg_at(c->g, n->in[i])->shape[axis];
  }
  return PG_OK;
}

static pg_status lower_pad(pg_compilation *c, int unit, const pg_node *n, int buf) {
  pg_kbuild b = {.c = c, .unit = -1, .space = PG_SPACE_GRID, .ndim = n->ndim};
  memcpy(b.shape, n->shape, sizeof b.shape);
  int inst = pg_kbuild_constant(&b, 0, (pg_dtype)n->dtype);
  pg_status status = inst < 0 ? PG_ERR_MEMORY : pg_kbuild_store(&b, inst, (pg_dtype)n->dtype, buf, 0, NULL);
  if (status == PG_OK) status = pg_kbuild_finish(&b, "fill");
  pg_kbuild_free(&b);
  PG_TRY(status);
  c->plan->steps[c->plan->nsteps - 1].unit = unit;
  int64_t stride[PG_MAX_NDIM] = {0}, offset = 0;
  pg_row_major(n->ndim, n->shape, stride);
  for (int i = 0; i < n->ndim; i++) {
    offset += n->attrs.a[i] * stride[i];
    stride[i] *= n->attrs.c[i];
  }
  return pg_emit_copy(c, unit, n->in[0], buf, offset, stride);
}

// ---- library calls ----

static pg_status add_operand(pg_compilation *c, pg_step *s, pg_value v, bool strided, bool result) {
  pg_plan *p = c->plan;
  v = pg_canon(c->g, v);
  const pg_node *n = pg_at(c->g, v);
  pg_strided view = c->views[v];
  pg_operand *o = &s->operands[s->noperands++];
  *o = (pg_operand){.dtype = (pg_dtype)n->dtype, .ndim = n->ndim};
  memcpy(o->shape, n->shape, sizeof o->shape);
  PG_TRY(pg_grow(&p->pointers, &p->cap_pointers, p->npointers + 1, sizeof *p->pointers));
  if (n->weak) { // an f64 number among the plan's scalars
    int place = pg_num_place(c, v);
    if (place < 0) return PG_ERR_MEMORY;
    p->pointers[p->npointers++] = (pg_pointer){PG_BUF_NUM, place * (int64_t)sizeof(double)};
    return PG_OK;
  }
  bool copied = !result && c->value_buf[v] >= 0 && (view.splat || view.buf != c->value_buf[v]);
  if (copied || (!strided && !result && view.splat)) {
    view = (pg_strided){.buf = c->value_buf[v]};
    pg_row_major(n->ndim, n->shape, view.stride);
  }
  memcpy(o->stride, view.stride, sizeof o->stride);
  p->pointers[p->npointers++] = (pg_pointer){view.buf, view.offset * (int64_t)pg_dtype_size((pg_dtype)n->dtype)};
  if (result)
    s->writes[s->nwrites++] = view.buf;
  else
    s->reads[s->nreads++] = view.buf;
  return PG_OK;
}

static pg_status lower_library(pg_compilation *c, int unit, pg_value v) {
  pg_plan *p = c->plan;
  const pg_node *n = pg_at(c->g, v);
  const pg_op_info *info = pg_op_table[n->op];
  if (!info->cpu) return pg_fail(PG_ERR_UNSUPPORTED, "%s has no kernel for this machine", info->name);
  PG_TRY(pg_grow(&p->steps, &p->cap_steps, p->nsteps + 1, sizeof *p->steps));
  pg_step *s = &p->steps[p->nsteps++];
  *s = (pg_step){.library = true, .op = info, .attrs = n->attrs, .scratch_pointer = -1, .unit = unit};
  s->attrs.layout = NULL;
  s->operands = pg_alloc((size_t)n->nin + 1, sizeof *s->operands);
  s->reads = pg_alloc((size_t)n->nin + 1, sizeof *s->reads);
  s->writes = pg_alloc(3, sizeof *s->writes);
  if (!s->operands || !s->reads || !s->writes) return PG_ERR_MEMORY;
  s->first_pointer = (int)p->npointers;
  PG_TRY(add_operand(c, s, v, info->strided, true));
  for (int i = 0; i < n->nin; i++) PG_TRY(add_operand(c, s, n->in[i], info->strided, false));
  size_t scratch = info->scratch ? info->scratch(c->g, n) : 0;
  if (!scratch) return PG_OK;
  int buf = pg_buf_new(c, PG_U8, (int64_t)scratch);
  if (buf < 0) return PG_ERR_MEMORY;
  PG_TRY(pg_grow(&p->pointers, &p->cap_pointers, p->npointers + 1, sizeof *p->pointers));
  s->scratch_pointer = (int)p->npointers;
  p->pointers[p->npointers++] = (pg_pointer){buf, 0};
  s->writes[s->nwrites++] = buf;
  return PG_OK;
}

// ---- all ----

static pg_status lower_place(pg_compilation *c, int unit, pg_value v) {
  const pg_node n = *pg_at(c->g, v);
  int buf = c->value_buf[v];
  switch (n.op) {
  case PG_OP_PACK:
    return lower_pack(c, unit, &n, buf);
  case PG_OP_CONCAT:
    return lower_concat(c, unit, &n, buf);
  case PG_OP_PAD:
    return lower_pad(c, unit, &n, buf);
  default:
    return pg_fail(PG_ERR_UNSUPPORTED, "%s cannot be compiled yet", pg_op_table[n.op]->name);
  }
}

static pg_status lower_unit(pg_compilation *c, int unit) {
  const pg_unit *u = &c->units[unit];
  switch (u->kind) {
  case PG_UNIT_GROUP:
    return lower_group(c, unit);
  case PG_UNIT_LIBRARY:
    return lower_library(c, unit, u->members[0]);
  case PG_UNIT_PLACE:
    return lower_place(c, unit, u->members[0]);
  case PG_UNIT_LOOP:
    return pg_lower_loop(c, unit);
  case PG_UNIT_COPY:
    return pg_emit_copy(c, unit, u->members[0], u->buf, 0, NULL);
  }
  return PG_OK;
}

// Append line `where` ("recipe.lua:12") to a list; of a line in the file of the one before only the number.
static size_t add_line(char *text, size_t used, size_t size, const char *before, const char *where) {
  const char *colon = strrchr(where, ':');
  bool same_file = before && colon && strncmp(before, where, (size_t)(colon - where) + 1) == 0;
  int n = snprintf(text + used, size - used, "%s%s", used ? ", " : "", same_file ? colon + 1 : where);
  return used + (size_t)n < size ? used + (size_t)n : used;
}

// The recipe's lines that a unit's nodes come from, for the steps it became (the graph will be gone).
static pg_status note_lines(pg_compilation *c, const pg_unit *u, size_t first) {
  enum { MOST = 8 };
  const char *seen[MOST];
  char text[400] = "";
  size_t used = 0;
  int n = 0;
  for (size_t i = 0; i < u->count && n < MOST; i++) {
    const char *where = pg_at(c->g, u->members[i])->where; // interned: equal lines are the same pointer
    bool known = !*where;
    for (int k = 0; k < n; k++) known |= seen[k] == where;
    if (known) continue;
    used = add_line(text, used, sizeof text, n ? seen[n - 1] : NULL, where);
    seen[n++] = where;
  }
  for (size_t i = first; used > 0 && i < c->plan->nsteps; i++)
    if (!(c->plan->steps[i].where = pg_strdup(text))) return PG_ERR_MEMORY;
  return PG_OK;
}

pg_status pg_lower_units(pg_compilation *c, const int *order, int count) {
  for (int i = 0; i < count; i++) {
    size_t first = c->plan->nsteps;
    PG_TRY(lower_unit(c, order[i]));
    PG_TRY(note_lines(c, &c->units[order[i]], first));
  }
  return PG_OK;
}
