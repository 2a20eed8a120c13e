// kbuild.c: from values to one kernel. See kbuild.h. Everything that decides how results are rounded is in the
// iteration space and the order of the instructions, which follow from shapes and the graph alone.
#include "engine/graph/kbuild.h"

#include <string.h>

#include "engine/ops/quantize.h"

void pg_kbuild_free(pg_kbuild *b) {
  pg_free(b->access);
  pg_free(b->insts);
  pg_free(b->reduces_list);
  pg_free(b->reduce_bufs);
  pg_free(b->coded);
  pg_free(b->known);
}

static int add_inst(pg_kbuild *b, pg_inst inst) {
  if (pg_grow(&b->insts, &b->cap_insts, b->ninsts + 1, sizeof *b->insts) != PG_OK) return -1;
  b->insts[b->ninsts] = inst;
  return (int)b->ninsts++;
}

static int add_access(pg_kbuild *b, const pg_access *access) {
  for (size_t i = 0; i < b->naccess; i++)
    if (memcmp(&b->access[i], access, sizeof *access) == 0) return (int)i;
  if (pg_grow(&b->access, &b->cap_access, b->naccess + 1, sizeof *b->access) != PG_OK) return -1;
  b->access[b->naccess] = *access;
  return (int)b->naccess++;
}

static int remember(pg_kbuild *b, pg_value v, pg_dtype dtype, int inst) {
  if (inst < 0 || pg_grow(&b->known, &b->cap_known, b->nknown + 1, sizeof *b->known) != PG_OK) return -1;
  b->known[b->nknown++] = (pg_known){v, dtype, inst};
  return inst;
}

static int recall(const pg_kbuild *b, pg_value v, pg_dtype dtype) {
  for (size_t i = b->nknown; i-- > 0;)
    if (b->known[i].v == v && b->known[i].dtype == dtype) return b->known[i].inst;
  return -1;
}

static pg_inst blank(pg_inst_kind kind, pg_dtype dtype) {
  return (pg_inst){.kind = kind, .dtype = dtype, .a = -1, .b = -1, .c = -1, .arg = -1};
}

static int weak_inst(pg_kbuild *b, pg_value weak, pg_dtype dtype) {
  const pg_node *n = pg_at(b->c->g, pg_canon(b->c->g, weak));
  pg_inst inst = blank(n->op == PG_OP_NUMBER ? PG_INST_CONST : PG_INST_NUM, dtype);
  if (n->op == PG_OP_NUMBER) {
    inst.x = n->attrs.x;
  } else {
    inst.arg = pg_num_place(b->c, weak);
    if (inst.arg < 0) return -1;
  }
  return add_inst(b, inst);
}

// Strides of a view over the axes of the space: NumPy broadcasting, aligned from the right.
static void align_strides(const pg_kbuild *b, const pg_node *n, const pg_strided *view, int64_t *stride) {
  memset(stride, 0, PG_MAX_NDIM * sizeof *stride);
  if (b->space == PG_SPACE_VECTOR) {
    stride[0] = n->layout && view->stride[0] ? 1 : 0;
    return;
  }
  int extra = b->ndim - n->ndim;
  for (int i = 0; i < n->ndim; i++)
    stride[i + extra] = n->shape[i] == 1 && b->shape[i + extra] != 1 ? 0 : view->stride[i];
}

int pg_kbuild_load(pg_kbuild *b, const pg_access *access) {
  pg_inst inst = blank(PG_INST_LOAD, access->dtype);
  inst.arg = add_access(b, access);
  return inst.arg < 0 ? -1 : add_inst(b, inst);
}

int pg_kbuild_constant(pg_kbuild *b, double x, pg_dtype dtype) {
  pg_inst inst = blank(PG_INST_CONST, dtype);
  inst.x = x;
  return add_inst(b, inst);
}

static int load_inst(pg_kbuild *b, pg_value v) {
  const pg_node *n = pg_at(b->c->g, v);
  const pg_strided *view = &b->c->views[v];
  pg_access access;
  memset(&access, 0, sizeof access); // compared as bytes
  access.kind = PG_ARG_LOAD;
  access.dtype = (pg_dtype)n->dtype;
  access.buf = view->buf;
  access.offset = view->offset;
  align_strides(b, n, view, access.stride);
  pg_inst inst = blank(PG_INST_LOAD, access.dtype);
  inst.arg = add_access(b, &access);
  return inst.arg < 0 ? -1 : add_inst(b, inst);
}

static int iota_inst(pg_kbuild *b, const pg_node *n) {
  pg_access access;
  memset(&access, 0, sizeof access);
  access.kind = PG_ARG_INDEX;
  access.dtype = (pg_dtype)n->dtype;
  access.buf = PG_BUF_NONE;
  access.dstride[n->attrs.b[0]] = 1;
  pg_inst inst = blank(PG_INST_INDEX, access.dtype);
  inst.arg = add_access(b, &access);
  return inst.arg < 0 ? -1 : add_inst(b, inst);
}

static int draw_inst(pg_kbuild *b, const pg_node *n) {
  pg_value key = pg_canon(b->c->g, n->in[0]);
  const pg_node *k = pg_at(b->c->g, key);
  const pg_strided *view = &b->c->views[key];
  pg_access access;
  memset(&access, 0, sizeof access);
  access.kind = PG_ARG_KEY;
  access.dtype = PG_KEY;
  access.buf = view->buf;
  access.offset = view->offset;
  if (b->space == PG_SPACE_GRID) { // each key draws the axes behind its own
    for (int i = 0; i < k->ndim; i++) access.stride[i] = view->stride[i];
    int64_t s = 1;
    for (int i = n->ndim - 1; i >= k->ndim; i--) {
      access.dstride[i] = s;
      s *= n->shape[i];
    }
  }
  pg_inst inst = blank(n->op == PG_OP_NORMAL ? PG_INST_NORMAL : PG_INST_UNIFORM, (pg_dtype)n->dtype);
  inst.arg = add_access(b, &access);
  return inst.arg < 0 ? -1 : add_inst(b, inst);
}

static int seg_inst(pg_kbuild *b, const pg_node *n) {
  const pg_strided view = pg_per_tensor_view(b->c, n->in[0]);
  if (view.splat) return weak_inst(b, view.weak, (pg_dtype)n->dtype);
  pg_access access;
  memset(&access, 0, sizeof access);
  access.kind = PG_ARG_SEGLOAD;
  access.dtype = (pg_dtype)n->dtype;
  access.buf = view.buf;
  access.offset = view.offset;
  access.stride[0] = 1;
  pg_inst inst = blank(PG_INST_LOAD, access.dtype);
  inst.arg = add_access(b, &access);
  return inst.arg < 0 ? -1 : add_inst(b, inst);
}

// ---- codes and scales ----

static pg_status vector_tiles(pg_plan *p, const pg_layout *layout, pg_vtable **out);

static void fill_places(pg_places *table, const pg_vtable *t) {
  int64_t scales = 0;
  for (int s = 0; s < pg_layout_count(table->layout); s++) {
    const pg_segment *segment = pg_layout_segment(table->layout, s), *codes = pg_codes_of(table->coded, segment);
    for (int64_t k = t->seg_tiles[s]; k < t->seg_tiles[s + 1]; k++) {
      const int64_t at = (k - t->seg_tiles[s]) * PG_CHUNK; // within the tensor
      table->tiles[k][0] = codes ? codes->offset + at : -1;
      table->tiles[k][1] = scales + (codes ? at / table->block : at);
    }
    scales += pg_scales_of(table->coded, segment, table->block);
  }
}

// The number of the table that says where the codes and scales of the kernel's tiles lie; -1 on failure.
static int places_of(const pg_kbuild *b, const pg_layout *coded, int64_t block) {
  pg_plan *p = b->c->plan;
  for (size_t i = 0; i < p->nplaces; i++)
    if (p->places[i].block == block && pg_layout_equal(p->places[i].layout, b->layout) &&
        pg_layout_equal(p->places[i].coded, coded))
      return (int)i;
  pg_vtable *t;
  if (vector_tiles(p, b->layout, &t) != PG_OK) return -1;
  if (pg_grow(&p->places, &p->cap_places, p->nplaces + 1, sizeof *p->places) != PG_OK) return -1;
  pg_places *table = &p->places[p->nplaces];
  *table = (pg_places){.block = block, .tiles = pg_alloc((size_t)t->count, sizeof *table->tiles)};
  if (!table->tiles) return -1;
  table->layout = pg_layout_retain(b->layout);
  table->coded = pg_layout_retain(coded);
  fill_places(table, t);
  return (int)p->nplaces++;
}

static int coded_access(pg_kbuild *b, pg_arg_kind kind, pg_dtype dtype, int buf, int64_t offset) {
  pg_access access;
  memset(&access, 0, sizeof access);
  access.kind = kind;
  access.dtype = dtype;
  access.buf = buf;
  access.offset = offset;
  return add_access(b, &access);
}

static int coded_operand(pg_kbuild *b, pg_value x) {
  const pg_strided view = pg_coded_view(b->c, x);
  return coded_access(b, PG_ARG_CODED, (pg_dtype)pg_at(b->c->g, x)->dtype, view.buf, view.offset);
}

static pg_status add_coded(pg_kbuild *b, pg_kcoded coded) {
  PG_TRY(pg_grow(&b->coded, &b->cap_coded, b->ncoded + 1, sizeof *b->coded));
  b->coded[b->ncoded++] = coded;
  return PG_OK;
}

static int decode_inst(pg_kbuild *b, const pg_node *n) {
  const int64_t block = n->attrs.a[0];
  const int table = places_of(b, pg_at(b->c->g, n->in[0])->layout, block);
  if (table < 0) return -1;
  pg_kcoded coded = {.value = -1, .kind = n->attrs.flags, .block = block, .dtype = (pg_dtype)n->dtype};
  coded.codes = coded_operand(b, n->in[0]);
  coded.scales = coded_operand(b, n->in[1]);
  coded.places = coded_access(b, PG_ARG_PLACES, PG_I64, PG_BUF_PLACES, table);
  if (coded.codes < 0 || coded.scales < 0 || coded.places < 0 || add_coded(b, coded) != PG_OK) return -1;
  pg_inst inst = blank(PG_INST_DECODE, coded.dtype);
  inst.arg = (int)b->ncoded - 1;
  return add_inst(b, inst);
}

// Codes and scales of one value are written together.
pg_status pg_kbuild_keep(pg_kbuild *b, pg_value v, int inst) {
  const pg_node *n = pg_at(b->c->g, v);
  const bool is_codes = n->op == PG_OP_BLOCK_CODES;
  const int table = places_of(b, n->attrs.layout, n->attrs.a[0]);
  if (table < 0) return PG_ERR_MEMORY;
  const int places = coded_access(b, PG_ARG_PLACES, PG_I64, PG_BUF_PLACES, table);
  const int to = coded_access(b, PG_ARG_KEPT, (pg_dtype)n->dtype, b->c->value_buf[v], 0);
  if (places < 0 || to < 0) return PG_ERR_MEMORY;
  for (size_t i = 0; i < b->ncoded; i++) {
    pg_kcoded *other = &b->coded[i];
    if (other->value != inst || other->places != places || (is_codes ? other->codes : other->scales) >= 0) continue;
    *(is_codes ? &other->codes : &other->scales) = to;
    if (is_codes) other->kind = n->attrs.flags;
    return PG_OK;
  }
  return add_coded(b, (pg_kcoded){.value = inst,
                                  .codes = is_codes ? to : -1,
                                  .scales = is_codes ? -1 : to,
                                  .places = places,
                                  .kind = is_codes ? n->attrs.flags : 0,
                                  .block = n->attrs.a[0],
                                  .dtype = b->insts[inst].dtype});
}

// The dtype in which a map's operands meet: what weak operands are rounded to.
static pg_dtype operand_dtype(const pg_graph *g, const pg_node *n, int operand) {
  if (n->op == PG_OP_NOT || n->op == PG_OP_AND || n->op == PG_OP_OR || (n->op == PG_OP_WHERE && operand == 0))
    return PG_BOOL;
  if (n->dtype != PG_BOOL || n->op == PG_OP_WHERE) return (pg_dtype)n->dtype;
  for (int i = 0; i < n->nin; i++) // a comparison
    if (!pg_at(g, n->in[i])->weak) return (pg_dtype)pg_at(g, n->in[i])->dtype;
  return PG_F64;
}

static int map_inst(pg_kbuild *b, const pg_node *n) {
  int in[3] = {-1, -1, -1};
  for (int i = 0; i < n->nin; i++) {
    in[i] = pg_kbuild_value(b, n->in[i], operand_dtype(b->c->g, n, i));
    if (in[i] < 0) return -1;
  }
  pg_inst inst = blank(PG_INST_MAP, (pg_dtype)n->dtype);
  inst.op = n->op;
  inst.a = in[0];
  inst.b = in[1];
  inst.c = in[2];
  return add_inst(b, inst);
}

static bool is_computed_here(const pg_kbuild *b, pg_value v, const pg_node *n) {
  if (b->unit < 0) return false;
  if (pg_unit_has(b->c, b->unit, v)) return true;
  return pg_is_free(b->c->g, v) && pg_same_space(n, &b->c->units[b->unit]);
}

int pg_kbuild_value(pg_kbuild *b, pg_value v, pg_dtype weak_as) {
  v = pg_canon(b->c->g, v);
  const pg_node *n = pg_at(b->c->g, v);
  const pg_strided *view = &b->c->views[v];
  pg_dtype dtype = n->weak ? weak_as : (pg_dtype)n->dtype;
  int known = recall(b, v, dtype);
  if (known >= 0) return known;
  if (view->splat) return remember(b, v, dtype, weak_inst(b, view->weak, dtype));
  if (!pg_is_map_like(b->c->g, v) || !is_computed_here(b, v, n)) return remember(b, v, dtype, load_inst(b, v));
  b->cost += pg_op_table[n->op]->cost > 1 ? pg_op_table[n->op]->cost : 1;
  int inst;
  if (n->op == PG_OP_IOTA)
    inst = iota_inst(b, n);
  else if (n->op == PG_OP_BLOCK_VALUES)
    inst = decode_inst(b, n);
  else if (pg_is_free(b->c->g, v))
    inst = draw_inst(b, n);
  else if (n->op == PG_OP_SEGBROADCAST)
    inst = seg_inst(b, n);
  else
    inst = map_inst(b, n);
  return remember(b, v, dtype, inst);
}

pg_status pg_kbuild_store(pg_kbuild *b, int inst, pg_dtype dtype, int buf, int64_t offset, const int64_t *stride) {
  pg_access access;
  memset(&access, 0, sizeof access);
  access.kind = PG_ARG_STORE;
  access.dtype = dtype;
  access.buf = buf;
  access.offset = offset;
  if (stride)
    memcpy(access.stride, stride, (size_t)b->ndim * sizeof *stride);
  else
    pg_row_major(b->ndim, b->shape, access.stride);
  pg_inst store = blank(PG_INST_STORE, dtype);
  store.a = inst;
  store.arg = add_access(b, &access);
  return store.arg < 0 || add_inst(b, store) < 0 ? PG_ERR_MEMORY : PG_OK;
}

// ---- dimensions ----

typedef struct dims {
  int n;
  int64_t size[PG_MAX_NDIM];
  int last_axis[PG_MAX_NDIM]; // the axis whose strides the merged dimension has
} dims;

static bool mergeable(const pg_kbuild *b, int outer_axis, int inner_axis, int64_t inner_size) {
  for (size_t i = 0; i < b->naccess; i++) {
    const pg_access *a = &b->access[i];
    if (a->stride[outer_axis] != a->stride[inner_axis] * inner_size) return false;
    if (a->dstride[outer_axis] != a->dstride[inner_axis] * inner_size) return false;
  }
  return true;
}

// Append the axes [first, last) to d, without those of size 1 and merged where all accesses allow.
static void merge_axes(const pg_kbuild *b, int first, int last, dims *d) {
  int start = d->n;
  for (int axis = first; axis < last; axis++) {
    if (b->shape[axis] == 1) continue;
    // Strides of a merged dimension are those of its innermost axis, so each test compares neighbours.
    if (d->n > start && mergeable(b, d->last_axis[d->n - 1], axis, b->shape[axis])) {
      d->size[d->n - 1] *= b->shape[axis];
      d->last_axis[d->n - 1] = axis;
      continue;
    }
    d->size[d->n] = b->shape[axis];
    d->last_axis[d->n++] = axis;
  }
}

static void add_unit_dim(dims *d) {
  d->size[d->n] = 1;
  d->last_axis[d->n++] = -1;
}

// False: this reduction does not fit one kernel.
static bool choose_dims(const pg_kbuild *b, dims *d, pg_reduction *reduction) {
  *d = (dims){0};
  *reduction = PG_REDUCE_NONE;
  if (b->space == PG_SPACE_VECTOR) {
    if (b->reduces) *reduction = PG_REDUCE_INNER;
    return true;
  }
  if (!b->reduces) {
    merge_axes(b, 0, b->ndim, d);
    if (d->n == 0) add_unit_dim(d);
    return d->n <= PG_KDIMS;
  }
  merge_axes(b, 0, b->red_first, d);
  int kept = d->n;
  merge_axes(b, b->red_first, b->red_last, d);
  if (d->n == kept) add_unit_dim(d);
  if (d->n != kept + 1) return false;
  int64_t columns = 1;
  for (int i = b->red_last; i < b->ndim; i++) columns *= b->shape[i];
  *reduction = PG_REDUCE_INNER;
  if (columns != 1) {
    *reduction = PG_REDUCE_OUTER;
    merge_axes(b, b->red_last, b->ndim, d);
    if (d->n != kept + 2) return false;
  }
  return d->n <= PG_KDIMS;
}

bool pg_kbuild_fits(const pg_kbuild *b) {
  dims d;
  pg_reduction reduction;
  return choose_dims(b, &d, &reduction);
}

// ---- steps ----

static pg_status add_pointer(pg_plan *p, int buf, int64_t offset) {
  PG_TRY(pg_grow(&p->pointers, &p->cap_pointers, p->npointers + 1, sizeof *p->pointers));
  p->pointers[p->npointers++] = (pg_pointer){buf, offset};
  return PG_OK;
}

static pg_status vector_tiles(pg_plan *p, const pg_layout *layout, pg_vtable **out) {
  for (size_t i = 0; i < p->nvtables; i++)
    if (pg_layout_equal(p->vtables[i].layout, layout)) {
      *out = &p->vtables[i];
      return PG_OK;
    }
  PG_TRY(pg_grow(&p->vtables, &p->cap_vtables, p->nvtables + 1, sizeof *p->vtables));
  pg_vtable *t = &p->vtables[p->nvtables++];
  int n = pg_layout_count(layout);
  t->layout = pg_layout_retain(layout);
  for (int s = 0; s < n; s++) t->count += (pg_layout_segment(layout, s)->size + PG_CHUNK - 1) / PG_CHUNK;
  t->tiles = pg_alloc((size_t)t->count, sizeof *t->tiles);
  t->seg_tiles = pg_alloc((size_t)n + 1, sizeof *t->seg_tiles);
  if (!t->tiles || !t->seg_tiles) return PG_ERR_MEMORY;
  int64_t k = 0;
  for (int s = 0; s < n; s++) {
    const pg_segment *seg = pg_layout_segment(layout, s);
    t->seg_tiles[s] = k;
    for (int64_t at = 0; at < seg->size; at += PG_CHUNK)
      t->tiles[k++] = (pg_vtile){.offset = seg->offset + at,
                                 .size = seg->size - at < PG_CHUNK ? seg->size - at : PG_CHUNK,
                                 .logical = seg->logical + at,
                                 .segment = s};
  }
  t->seg_tiles[n] = k;
  *out = t;
  return PG_OK;
}

static pg_status add_args(pg_kbuild *b, pg_step *s, const dims *d) {
  pg_plan *p = b->c->plan;
  s->kernel.nargs = (int)b->naccess;
  s->kernel.args = pg_alloc(b->naccess, sizeof *s->kernel.args);
  s->strides = pg_alloc(2 * b->naccess * PG_KDIMS, sizeof *s->strides);
  s->reads = pg_alloc(b->naccess + 1, sizeof *s->reads);
  s->writes = pg_alloc(b->naccess + 2 * b->nreduces + 1, sizeof *s->writes);
  if (!s->kernel.args || !s->strides || !s->reads || !s->writes) return PG_ERR_MEMORY;
  s->first_pointer = (int)p->npointers;
  for (size_t i = 0; i < b->naccess; i++) {
    const pg_access *a = &b->access[i];
    pg_karg *arg = &s->kernel.args[i];
    arg->kind = a->kind;
    arg->dtype = a->dtype;
    if (b->space == PG_SPACE_VECTOR) arg->stride[0] = a->kind == PG_ARG_STORE ? 1 : a->stride[0];
    for (int k = 0; k < d->n; k++) {
      int axis = d->last_axis[k];
      arg->stride[k] = axis < 0 ? 0 : a->stride[axis];
      arg->dstride[k] = axis < 0 ? 0 : a->dstride[axis];
    }
    memcpy(s->strides + i * PG_KDIMS, arg->stride, sizeof arg->stride);
    memcpy(s->strides + (b->naccess + i) * PG_KDIMS, arg->dstride, sizeof arg->dstride);
    if (a->kind == PG_ARG_STORE || a->kind == PG_ARG_KEPT)
      s->writes[s->nwrites++] = a->buf;
    else if (a->buf >= 0)
      s->reads[s->nreads++] = a->buf;
    const int64_t unit = a->kind == PG_ARG_PLACES ? 1 : (int64_t)pg_dtype_size(a->dtype);
    PG_TRY(add_pointer(p, a->buf, a->offset * unit));
  }
  return PG_OK;
}

static pg_status add_reductions(pg_kbuild *b, pg_step *s, int64_t partials) {
  pg_plan *p = b->c->plan;
  for (size_t i = 0; i < b->nreduces; i++) {
    PG_TRY(add_pointer(p, b->reduce_bufs[i], 0));
    s->writes[s->nwrites++] = b->reduce_bufs[i];
  }
  for (size_t i = 0; i < b->nreduces; i++) {
    int buf = b->reduce_bufs[i];
    if (partials > 0) {
      buf = pg_buf_new(b->c, s->kernel.reduces[i].dtype, partials);
      if (buf < 0) return PG_ERR_MEMORY;
      s->writes[s->nwrites++] = buf;
    }
    PG_TRY(add_pointer(p, buf, 0));
  }
  return PG_OK;
}

static pg_status finish_step(pg_kbuild *b, pg_step *s, const dims *d, pg_reduction reduction, const char *title) {
  pg_kernel *k = &s->kernel;
  k->space = b->space;
  k->reduction = reduction;
  k->ndim = d->n;
  memcpy(k->dim, d->size, sizeof k->dim);
  k->ninsts = (int)b->ninsts;
  k->insts = b->insts;
  b->insts = NULL;
  k->nreduces = (int)b->nreduces;
  k->reduces = b->reduces_list;
  b->reduces_list = NULL;
  k->ncoded = (int)b->ncoded;
  k->coded = b->coded;
  b->coded = NULL;
  k->title = pg_strdup(title);
  if (!k->title) return PG_ERR_MEMORY;
  PG_TRY(add_args(b, s, d));
  int64_t elements = 1, partials = 0;
  if (b->space == PG_SPACE_VECTOR) {
    pg_vtable *t;
    PG_TRY(vector_tiles(b->c->plan, b->layout, &t));
    s->vtiles = t->tiles;
    s->nvtiles = t->count;
    s->seg_tiles = t->seg_tiles;
    s->nsegments = pg_layout_count(b->layout);
    elements = pg_layout_size(b->layout);
    partials = reduction == PG_REDUCE_NONE ? 0 : t->count + 1;
  }
  s->tiles = pg_kernel_tiles(k, s->nvtiles, &s->call.rows, &s->call.rows_per_tile, &s->call.chunks);
  s->columns = 1;
  if (b->space == PG_SPACE_GRID) {
    for (int i = 0; i < d->n; i++) elements *= d->size[i];
    if (reduction == PG_REDUCE_OUTER) s->columns = d->size[d->n - 1];
    if (reduction != PG_REDUCE_NONE && s->call.chunks != 1) partials = s->call.rows * s->call.chunks * s->columns;
    if (s->call.chunks == 0) partials = 1; // nothing to fold: the result is the identity
  }
  if (reduction == PG_REDUCE_NONE) partials = 0;
  PG_TRY(add_reductions(b, s, partials));
  k->work = (double)elements * (b->cost + (double)b->naccess + 1);
  s->unit = b->unit;
  return PG_OK;
}

pg_status pg_kbuild_finish(pg_kbuild *b, const char *title) {
  dims d;
  pg_reduction reduction;
  if (!choose_dims(b, &d, &reduction))
    return pg_fail(PG_ERR_UNSUPPORTED, "%s: the strides of its operands need more than %d loops", title, PG_KDIMS);
  pg_plan *p = b->c->plan;
  PG_TRY(pg_grow(&p->steps, &p->cap_steps, p->nsteps + 1, sizeof *p->steps));
  pg_step *s = &p->steps[p->nsteps++];
  memset(s, 0, sizeof *s);
  s->scratch_pointer = -1;
  return finish_step(b, s, &d, reduction, title);
}
