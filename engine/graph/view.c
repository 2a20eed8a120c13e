// view.c: how each value of a compilation is read: as a strided view of a buffer, or as one weak number everywhere.
// Reshapes, transposes, broadcasts, slices and the tensors of a vector cost nothing here.
#include <string.h>

#include "engine/graph/plan.h"

bool pg_is_kept(int op) {
  return pg_op_table[op]->cls == PG_CLASS_KEEP;
}

bool pg_is_reduction(int op) {
  return pg_op_table[op]->cls == PG_CLASS_REDUCE || pg_is_kept(op);
}

bool pg_is_free(const pg_graph *g, pg_value v) {
  int op = pg_at(g, v)->op;
  return op == PG_OP_IOTA || op == PG_OP_NORMAL || op == PG_OP_UNIFORM || op == PG_OP_BLOCK_VALUES;
}

bool pg_is_map_like(const pg_graph *g, pg_value v) {
  const pg_node *n = pg_at(g, v);
  if (n->weak || n->op == PG_OP_FULL || n->dtype == PG_KEY) return false;
  return n->op == PG_OP_SEGBROADCAST || pg_is_free(g, v) || pg_op_table[n->op]->cls == PG_CLASS_MAP;
}

void pg_row_major(int ndim, const int64_t *shape, int64_t *stride) {
  int64_t s = 1;
  for (int i = ndim - 1; i >= 0; i--) {
    stride[i] = s;
    s *= shape[i];
  }
}

bool pg_view_is_contiguous(const pg_node *n, const pg_strided *view) {
  if (view->splat) return false;
  int64_t s = 1;
  for (int i = n->ndim - 1; i >= 0; i--) {
    if (n->shape[i] == 0) return true;
    if (n->shape[i] != 1 && view->stride[i] != s) return false;
    s *= n->shape[i];
  }
  return true;
}

int pg_buf_new(pg_compilation *c, pg_dtype dtype, int64_t size) {
  pg_plan *p = c->plan;
  if (pg_grow(&p->bufs, &p->cap_bufs, p->nbufs + 1, sizeof *p->bufs) != PG_OK) return -1;
  pg_buf *b = &p->bufs[p->nbufs];
  *b = (pg_buf){.dtype = dtype, .size = size, .unit = -1, .parent = -1, .first = -1, .last = -1};
  return (int)p->nbufs++;
}

int pg_ensure_contiguous(pg_compilation *c, pg_value v) {
  v = pg_canon(c->g, v);
  if (c->value_buf[v] >= 0) {
    c->plan->bufs[c->value_buf[v]].needed = true;
    return c->value_buf[v];
  }
  const pg_node *n = pg_at(c->g, v);
  int buf = pg_buf_new(c, (pg_dtype)n->dtype, pg_node_size(n));
  int unit = pg_unit_new(c, PG_UNIT_COPY);
  if (buf < 0 || unit < 0 || pg_unit_add(c, unit, v) != PG_OK) return -1;
  c->units[unit].buf = buf;
  c->plan->bufs[buf].unit = unit;
  c->plan->bufs[buf].needed = true;
  if (!c->views[v].splat) c->plan->bufs[c->views[v].buf].needed = true;
  c->value_buf[v] = buf;
  return buf;
}

static void view_whole_buffer(const pg_node *n, int buf, pg_strided *out) {
  *out = (pg_strided){.buf = buf};
  pg_row_major(n->ndim, n->shape, out->stride);
}

static pg_status view_of_full(pg_compilation *c, const pg_node *n, pg_strided *out) {
  pg_value x = pg_canon(c->g, n->in[0]);
  *out = c->views[x];
  if (!out->splat) memset(out->stride, 0, sizeof out->stride);
  return PG_OK;
}

static pg_status view_of_broadcast(pg_compilation *c, const pg_node *n, pg_strided *out) {
  const pg_node *x = pg_at(c->g, n->in[0]);
  *out = c->views[n->in[0]];
  if (out->splat) return PG_OK;
  int64_t from[PG_MAX_NDIM];
  memcpy(from, out->stride, sizeof from);
  int extra = n->ndim - x->ndim;
  for (int i = 0; i < n->ndim; i++)
    out->stride[i] = i < extra || (x->shape[i - extra] == 1 && n->shape[i] != 1) ? 0 : from[i - extra];
  return PG_OK;
}

static pg_status view_of_transpose(pg_compilation *c, const pg_node *n, pg_strided *out) {
  const pg_strided *x = &c->views[n->in[0]];
  *out = *x;
  for (int i = 0; i < n->ndim; i++) out->stride[i] = x->stride[n->attrs.a[i]];
  return PG_OK;
}

static pg_status view_of_slice(pg_compilation *c, const pg_node *n, pg_strided *out) {
  *out = c->views[n->in[0]];
  for (int i = 0; !out->splat && i < n->ndim; i++) {
    out->offset += out->stride[i] * n->attrs.a[i];
    out->stride[i] *= n->attrs.c[i];
  }
  return PG_OK;
}

static pg_status view_of_tensor(pg_compilation *c, const pg_node *n, pg_strided *out) {
  const pg_node *x = pg_at(c->g, n->in[0]);
  const pg_strided *from = &c->views[n->in[0]];
  *out = *from;
  if (from->splat) return PG_OK;
  if (from->stride[0] == 0) { // a vector filled with one tensor's value
    memset(out->stride, 0, sizeof out->stride);
    return PG_OK;
  }
  out->offset += pg_layout_segment(x->layout, (int)n->attrs.a[0])->offset;
  pg_row_major(n->ndim, n->shape, out->stride);
  return PG_OK;
}

// Strides of the same elements in row-major order under another shape, if they exist: group the dimensions of both
// shapes into runs with equal products; within a run the source must be evenly strided.
static bool reshape_strides(const pg_node *from, const pg_strided *view, const pg_node *to, int64_t *stride) {
  int64_t shape[PG_MAX_NDIM], old[PG_MAX_NDIM];
  int nd = 0;
  for (int i = 0; i < from->ndim; i++)
    if (from->shape[i] != 1) {
      shape[nd] = from->shape[i];
      old[nd++] = view->stride[i];
    }
  int i = 0, j = 0;
  while (i < nd || j < to->ndim) {
    int64_t p = i < nd ? shape[i] : 1, q = j < to->ndim ? to->shape[j] : 1;
    int i1 = i < nd ? i + 1 : i, j1 = j < to->ndim ? j + 1 : j;
    while (p != q) {
      if (p < q) {
        if (i1 >= nd) return false;
        p *= shape[i1++];
      } else {
        if (j1 >= to->ndim) return false;
        q *= to->shape[j1++];
      }
    }
    for (int k = i; k + 1 < i1; k++)
      if (old[k] != old[k + 1] * shape[k + 1]) return false;
    int64_t s = i1 > i ? old[i1 - 1] : 0;
    for (int k = j1 - 1; k >= j; k--) {
      stride[k] = s;
      s *= to->shape[k];
    }
    i = i1;
    j = j1;
  }
  return true;
}

static pg_status view_of_reshape(pg_compilation *c, const pg_node *n, pg_strided *out) {
  const pg_node *x = pg_at(c->g, n->in[0]);
  *out = c->views[n->in[0]];
  if (out->splat) return PG_OK;
  if (pg_view_is_contiguous(x, out)) {
    pg_row_major(n->ndim, n->shape, out->stride);
    return PG_OK;
  }
  int64_t stride[PG_MAX_NDIM] = {0};
  if (pg_node_size(n) > 0 && reshape_strides(x, out, n, stride)) {
    memcpy(out->stride, stride, sizeof stride);
    return PG_OK;
  }
  int buf = pg_ensure_contiguous(c, n->in[0]);
  if (buf < 0) return PG_ERR_MEMORY;
  view_whole_buffer(n, buf, out);
  return PG_OK;
}

typedef pg_status (*view_fn)(pg_compilation *c, const pg_node *n, pg_strided *out);
static const view_fn view_rules[PG_NUM_OPS] = {
    [PG_OP_FULL] = view_of_full,   [PG_OP_BROADCAST] = view_of_broadcast, [PG_OP_TRANSPOSE] = view_of_transpose,
    [PG_OP_SLICE] = view_of_slice, [PG_OP_VIEW] = view_of_tensor,         [PG_OP_RESHAPE] = view_of_reshape,
};

// Kernels find the values of SEGBROADCAST one after another, so a strided view of them is copied before fusion starts.
static pg_status prepare_per_tensor(pg_compilation *c, const pg_node *n) {
  if (n->op != PG_OP_SEGBROADCAST) return PG_OK;
  pg_value x = pg_canon(c->g, n->in[0]);
  if (c->views[x].splat || pg_view_is_contiguous(pg_at(c->g, x), &c->views[x])) return PG_OK;
  return pg_ensure_contiguous(c, x) < 0 ? PG_ERR_MEMORY : PG_OK;
}

// And codes and scales from their first on, in memory.
static pg_status prepare_coded(pg_compilation *c, const pg_node *n) {
  if (n->op != PG_OP_BLOCK_VALUES) return PG_OK;
  for (int i = 0; i < n->nin; i++) {
    pg_value x = pg_canon(c->g, n->in[i]);
    if (pg_view_is_contiguous(pg_at(c->g, x), &c->views[x])) continue;
    if (pg_ensure_contiguous(c, x) < 0) return PG_ERR_MEMORY;
  }
  return PG_OK;
}

pg_strided pg_coded_view(const pg_compilation *c, pg_value x) {
  x = pg_canon(c->g, x);
  const pg_strided *view = &c->views[x];
  return pg_view_is_contiguous(pg_at(c->g, x), view) ? *view : (pg_strided){.buf = c->value_buf[x], .stride = {1}};
}

pg_strided pg_per_tensor_view(const pg_compilation *c, pg_value x) {
  x = pg_canon(c->g, x);
  const pg_strided *view = &c->views[x];
  if (view->splat || pg_view_is_contiguous(pg_at(c->g, x), view)) return *view;
  return (pg_strided){.buf = c->value_buf[x], .stride = {1}};
}

pg_status pg_resolve_views(pg_compilation *c) {
  for (size_t v = 0; v < c->g->count; v++) {
    c->value_buf[v] = -1;
    if (!c->live[v]) continue;
    const pg_node *n = pg_at(c->g, (pg_value)v);
    if (n->weak)
      c->views[v] = (pg_strided){.splat = true, .weak = (pg_value)v};
    else if (pg_is_identity(n->op))
      c->views[v] = c->views[n->in[0]];
    else if (view_rules[n->op])
      PG_TRY(view_rules[n->op](c, n, &c->views[v]));
    else {
      PG_TRY(prepare_per_tensor(c, n));
      PG_TRY(prepare_coded(c, n));
      int buf = pg_buf_new(c, (pg_dtype)n->dtype, pg_node_size(n));
      if (buf < 0) return PG_ERR_MEMORY;
      if (n->op == PG_OP_INPUT) {
        c->plan->bufs[buf].place = PG_PLACE_INPUT;
        c->plan->bufs[buf].index = (int)n->attrs.a[0];
      }
      c->value_buf[v] = buf;
      view_whole_buffer(n, buf, &c->views[v]);
    }
  }
  return PG_OK;
}
