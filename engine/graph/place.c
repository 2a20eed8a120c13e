// place.c: where buffers live: results of a plan in the caller's memory, parts of a packed vector inside it, everything
// else at an offset of the shared arena chosen from lifetimes.
#define _GNU_SOURCE // qsort_r
#include <stdlib.h>

#include "engine/graph/plan.h"

enum { ARENA_ALIGN = 64 };

// ---- results in place ----

int pg_exact_buf(const pg_compilation *c, pg_value v) {
  v = pg_canon(c->g, v);
  const pg_strided *view = &c->views[v];
  const pg_node *n = pg_at(c->g, v);
  if (view->splat || view->offset != 0 || !pg_view_is_contiguous(n, view)) return -1;
  return pg_node_size(n) == c->plan->bufs[view->buf].size ? view->buf : -1;
}

// The exact buffer of v if a unit writes it and nothing else has claimed it; -1: there is none.
static int own_buffer(const pg_compilation *c, pg_value v) {
  int b = pg_exact_buf(c, v);
  return b >= 0 && c->plan->bufs[b].place == PG_PLACE_ARENA && c->plan->bufs[b].unit >= 0 ? b : -1;
}

static void put_inside(pg_compilation *c, pg_value x, int parent, int64_t offset_bytes) {
  int b = own_buffer(c, x);
  if (b < 0 || b == parent) return;
  c->plan->bufs[b].place = PG_PLACE_INSIDE;
  c->plan->bufs[b].parent = parent;
  c->plan->bufs[b].parent_off = offset_bytes;
}

static void place_parts(pg_compilation *c, pg_value v) {
  const pg_node *n = pg_at(c->g, v);
  int64_t unit = (int64_t)pg_dtype_size((pg_dtype)n->dtype), at = 0;
  if (n->op == PG_OP_PACK)
    for (int i = 0; i < n->nin; i++)
      put_inside(c, n->in[i], c->value_buf[v], pg_layout_segment(n->layout, i)->offset * unit);
  if (n->op != PG_OP_CONCAT) return;
  for (int k = 0; k < n->attrs.a[0]; k++)
    if (n->shape[k] != 1) return; // parts are interleaved
  for (int i = 0; i < n->nin; i++) {
    const pg_node *x = pg_at(c->g, n->in[i]);
    // Kernels assume 64-byte alignment nowhere, but library calls like it.
    put_inside(c, n->in[i], c->value_buf[v], at * unit);
    at += pg_node_size(x);
  }
}

pg_status pg_assign_outputs(pg_compilation *c) {
  for (int k = 0; k < c->nout; k++) {
    int b = own_buffer(c, c->outs[k]);
    if (b < 0) continue;
    c->plan->bufs[b].place = PG_PLACE_OUTPUT;
    c->plan->bufs[b].index = k;
  }
  // From the last placement to the first, so that a part of a part finds its parent placed.
  for (size_t u = c->nunits; u-- > 0;)
    if (c->units[u].kind == PG_UNIT_PLACE && !c->units[u].dead) place_parts(c, c->units[u].members[0]);
  return PG_OK;
}

static int root_of(const pg_plan *p, int b) {
  while (p->bufs[b].place == PG_PLACE_INSIDE) b = p->bufs[b].parent;
  return b;
}

static bool is_in_place(const pg_compilation *c, int k) {
  int b = pg_exact_buf(c, c->outs[k]);
  return b >= 0 && c->plan->bufs[b].place == PG_PLACE_OUTPUT && c->plan->bufs[b].index == k;
}

static bool copies_from_input(const pg_compilation *c, int k, int input) {
  if (is_in_place(c, k)) return false;
  const pg_strided *view = &c->views[pg_canon(c->g, c->outs[k])];
  if (view->splat) return false;
  const pg_buf *b = &c->plan->bufs[root_of(c->plan, view->buf)];
  return b->place == PG_PLACE_INPUT && b->index == input;
}

typedef struct hazard {
  const pg_compilation *c;
  int input, position, target;
  bool found;
} hazard;

// Where inside its root a buffer begins, in elements.
static int64_t offset_in_root(const pg_plan *p, int b) {
  int64_t bytes = 0;
  for (; p->bufs[b].place == PG_PLACE_INSIDE; b = p->bufs[b].parent) bytes += p->bufs[b].parent_off;
  return bytes / (int64_t)pg_dtype_size(p->bufs[b].dtype);
}

// Whether something is read from the input that was written over before, or is while it is read.
static void check_read(void *arg, const pg_read *read) {
  hazard *h = arg;
  const pg_plan *p = h->c->plan;
  const pg_buf *from = &p->bufs[read->buf];
  if (from->place != PG_PLACE_INPUT || from->index != h->input) return;
  for (size_t b = 0; b < p->nbufs && !h->found; b++) {
    if (p->bufs[b].unit < 0 || root_of(p, (int)b) != h->target) continue;
    const int64_t first = offset_in_root(p, (int)b), last = first + p->bufs[b].size - 1;
    if (read->last < first || last < read->first) continue;
    const int order = h->c->units[p->bufs[b].unit].order;
    const bool keeps_pace = read->in_order && read->first == first;
    if (h->position > order || (h->position == order && !keeps_pace)) h->found = true;
  }
}

pg_status pg_check_donations(pg_compilation *c, const int *order, int count) {
  pg_plan *p = c->plan;
  for (int k = 0; k < c->nout; k++) {
    int input = p->donate[k];
    if (input < 0 || !is_in_place(c, k)) continue;
    hazard h = {.c = c, .input = input, .target = pg_exact_buf(c, c->outs[k])};
    for (int i = 0; i < count; i++) {
      h.position = i;
      pg_unit_reads(c, order[i], check_read, &h);
    }
    for (int other = 0; other < c->nout; other++)
      if (other != k && copies_from_input(c, other, input)) h.found = true;
    if (h.found) p->bufs[h.target].place = PG_PLACE_ARENA; // copied at the end
  }
  return PG_OK;
}

// ---- results copied at the end ----

static bool is_overwritten(const pg_compilation *c, int input) {
  for (int k = 0; k < c->nout; k++)
    if (c->plan->donate[k] == input) return true;
  return false;
}

// An input that some result overwrites is first copied aside, so that results may swap places.
static pg_status copy_aside(pg_compilation *c, pg_value v) {
  const pg_strided *view = &c->views[v];
  if (view->splat) return PG_OK;
  const pg_buf *b = &c->plan->bufs[view->buf];
  if (b->place != PG_PLACE_INPUT || !is_overwritten(c, b->index)) return PG_OK;
  const pg_node *n = pg_at(c->g, v);
  int aside = pg_buf_new(c, (pg_dtype)n->dtype, pg_node_size(n));
  if (aside < 0) return PG_ERR_MEMORY;
  PG_TRY(pg_emit_copy(c, -1, v, aside, 0, NULL));
  pg_strided *moved = &c->views[v];
  *moved = (pg_strided){.buf = aside};
  pg_row_major(n->ndim, n->shape, moved->stride);
  return PG_OK;
}

static bool stays(const pg_compilation *c, int k) {
  if (is_in_place(c, k)) return true;
  const pg_node *n = pg_at(c->g, pg_canon(c->g, c->outs[k]));
  return n->op == PG_OP_INPUT && c->plan->donate[k] == n->attrs.a[0];
}

pg_status pg_emit_output_copies(pg_compilation *c) {
  for (int k = 0; k < c->nout; k++)
    if (!stays(c, k)) PG_TRY(copy_aside(c, pg_canon(c->g, c->outs[k])));
  for (int k = 0; k < c->nout; k++) {
    if (stays(c, k)) continue;
    const pg_node *n = pg_at(c->g, pg_canon(c->g, c->outs[k]));
    int buf = pg_buf_new(c, (pg_dtype)n->dtype, pg_node_size(n));
    if (buf < 0) return PG_ERR_MEMORY;
    c->plan->bufs[buf].place = PG_PLACE_OUTPUT;
    c->plan->bufs[buf].index = k;
    PG_TRY(pg_emit_copy(c, -1, c->outs[k], buf, 0, NULL));
  }
  return PG_OK;
}

// ---- the arena ----

static void touch(pg_plan *p, int buf, int step) {
  pg_buf *b = &p->bufs[root_of(p, buf)];
  if (b->first < 0) b->first = step;
  b->last = step;
}

static size_t buf_bytes(const pg_buf *b) {
  size_t bytes = (size_t)b->size * pg_dtype_size(b->dtype);
  return (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
}

static int by_size(const void *a, const void *b, void *bufs) {
  const pg_buf *p = &((const pg_buf *)bufs)[*(const int *)a], *q = &((const pg_buf *)bufs)[*(const int *)b];
  size_t x = buf_bytes(p), y = buf_bytes(q);
  if (x != y) return x > y ? -1 : 1;
  return p->first < q->first ? -1 : p->first > q->first;
}

static int by_offset(const void *a, const void *b, void *bufs) {
  size_t x = ((const pg_buf *)bufs)[*(const int *)a].arena_off, y = ((const pg_buf *)bufs)[*(const int *)b].arena_off;
  return x < y ? -1 : x > y;
}

// Largest first, each at the lowest offset where no buffer alive at the same time lies.
static void fit_buffers(pg_plan *p, int *list, int n) {
  qsort_r(list, (size_t)n, sizeof *list, by_size, p->bufs);
  for (int i = 0; i < n; i++) {
    pg_buf *b = &p->bufs[list[i]];
    size_t at = 0, need = buf_bytes(b);
    qsort_r(list, (size_t)i, sizeof *list, by_offset, p->bufs);
    for (int j = 0; j < i; j++) {
      const pg_buf *o = &p->bufs[list[j]];
      if (o->last < b->first || b->last < o->first) continue;
      if (at + need <= o->arena_off) break;
      if (o->arena_off + buf_bytes(o) > at) at = o->arena_off + buf_bytes(o);
    }
    b->arena_off = at;
    if (at + need > p->arena_bytes) p->arena_bytes = at + need;
  }
}

pg_status pg_place_buffers(pg_compilation *c) {
  pg_plan *p = c->plan;
  for (size_t s = 0; s < p->nsteps; s++) {
    for (int i = 0; i < p->steps[s].nreads; i++) touch(p, p->steps[s].reads[i], (int)s);
    for (int i = 0; i < p->steps[s].nwrites; i++) touch(p, p->steps[s].writes[i], (int)s);
  }
  int *list = pg_alloc(p->nbufs, sizeof *list), n = 0;
  if (!list) return PG_ERR_MEMORY;
  for (size_t b = 0; b < p->nbufs; b++)
    if (p->bufs[b].place == PG_PLACE_ARENA && p->bufs[b].first >= 0) list[n++] = (int)b;
  fit_buffers(p, list, n);
  pg_free(list);
  // Parts of a whole become plain offsets into it.
  for (size_t i = 0; i < p->npointers; i++) {
    pg_pointer *at = &p->pointers[i];
    while (at->buf >= 0 && p->bufs[at->buf].place == PG_PLACE_INSIDE) {
      at->offset += p->bufs[at->buf].parent_off;
      at->buf = p->bufs[at->buf].parent;
    }
  }
  return pg_arena_reserve(p->arena_bytes + ARENA_ALIGN); // never empty, so that its address can tell a change
}
