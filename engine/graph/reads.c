// reads.c: what the units of a plan read: which buffers, which part of them, and whether element by element at the
// index at which the unit itself writes. From this follows which units may be merged, in which order they run, and
// which results may take the place of an input.
#include "engine/graph/plan.h"

typedef struct reader {
  const pg_compilation *c;
  int unit;
  pg_read_visitor visit;
  void *arg;
} reader;

// All of a buffer.
static void visit_buffer(const reader *r, int buf, bool whole) {
  const pg_read read = {.buf = buf, .whole = whole, .in_order = !whole, .last = r->c->plan->bufs[buf].size - 1};
  r->visit(r->arg, &read);
}

// What value n is of a buffer, as this view says.
static void visit_view(const reader *r, const pg_node *n, const pg_strided *view, bool whole, bool in_order) {
  if (n->layout) {
    visit_buffer(r, view->buf, whole);
    return;
  }
  pg_read read = {.buf = view->buf, .whole = whole, .in_order = in_order, .first = view->offset, .last = view->offset};
  for (int i = 0; i < n->ndim; i++) {
    const int64_t reach = (n->shape[i] - 1) * view->stride[i];
    *(reach < 0 ? &read.first : &read.last) += reach;
  }
  r->visit(r->arg, &read);
}

// Inside a group, an operand of a map of the group's own space is read at the same index.
static void visit_operand(const reader *r, pg_value operand);

// The operands of a node that is computed where it is read. Codes and scales are read tile by tile, as they are
// written; those that another unit makes have to be there first.
static void visit_operands_of_free(const reader *r, const pg_node *n) {
  for (int i = 0; i < n->nin; i++) {
    if (n->op != PG_OP_BLOCK_VALUES) {
      visit_operand(r, n->in[i]);
      continue;
    }
    const int buf = pg_coded_view(r->c, n->in[i]).buf;
    visit_buffer(r, buf, r->c->plan->bufs[buf].unit >= 0);
  }
}

static void visit_operand(const reader *r, pg_value operand) {
  const pg_compilation *c = r->c;
  const pg_unit *u = &c->units[r->unit];
  pg_value v = pg_canon(c->g, operand);
  const pg_strided *view = &c->views[v];
  if (view->splat || pg_unit_has(c, r->unit, v)) return;
  const pg_node *n = pg_at(c->g, v);
  if (pg_is_free(c->g, v) && pg_same_space(n, u)) { // will be cloned; it reads its key, or codes
    visit_operands_of_free(r, n);
    return;
  }
  const bool in_order = pg_same_space(n, u) && !pg_is_reduction(n->op) && pg_view_is_contiguous(n, view);
  const bool same_index = in_order && c->value_buf[v] == view->buf && view->offset == 0;
  visit_view(r, n, view, !same_index, in_order);
}

static void visit_operands(const reader *r, const pg_node *n) {
  const pg_compilation *c = r->c;
  const pg_unit_kind kind = c->units[r->unit].kind;
  for (int i = 0; i < n->nin; i++) {
    if (n->op == PG_OP_SEGBROADCAST) {
      const pg_strided values = pg_per_tensor_view(c, n->in[i]);
      if (!values.splat) visit_buffer(r, values.buf, true);
    } else if (kind == PG_UNIT_GROUP) {
      visit_operand(r, n->in[i]);
    } else {
      pg_value x = pg_canon(c->g, n->in[i]);
      if ((kind == PG_UNIT_LIBRARY || kind == PG_UNIT_LOOP) && c->value_buf[x] >= 0) // a copy made for the call
        visit_buffer(r, c->value_buf[x], true);
      if (!c->views[x].splat) visit_view(r, pg_at(c->g, x), &c->views[x], true, false);
    }
  }
}

void pg_unit_reads(const pg_compilation *c, int unit, pg_read_visitor visit, void *arg) {
  const reader r = {.c = c, .unit = unit, .visit = visit, .arg = arg};
  const pg_unit *u = &c->units[unit];
  for (size_t m = 0; m < u->count; m++) {
    pg_value v = u->members[m];
    const pg_node *n = pg_at(c->g, v);
    if (u->kind == PG_UNIT_COPY) {
      if (!c->views[v].splat) visit_view(&r, n, &c->views[v], true, false);
    } else if (n->op == PG_OP_BLOCK_VALUES) {
      visit_operands_of_free(&r, n);
    } else {
      visit_operands(&r, n);
    }
  }
}
