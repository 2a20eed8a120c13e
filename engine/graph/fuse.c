// fuse.c: gathers nodes into units of execution. Elementwise nodes join the groups of their consumers (nodes are
// visited from the last to the first), so that a value used only inside one group never reaches memory; reductions join
// the group that computes what they reduce. Groups that share a value become one where they can, but a cheap value does
// not tie together what lies far apart, as the two evaluations of a corrected step do: all that the first holds would
// have to wait for the second. A value that two groups need is stored by the first, unless it is cheap enough to be
// computed twice: Monte Carlo noise always is (regenerated from its key, never stored).
#define _GNU_SOURCE // qsort_r
#include <stdlib.h>
#include <string.h>

#include "engine/graph/plan.h"

enum {
  MAX_GROUP = 160,       // nodes of one group: keeps generated functions readable and register pressure sane
  CLONE_BUDGET = 24,     // instructions recomputed rather than stored, for vectors
  CLONE_BUDGET_GRID = 2, // and for other tensors
  CLONE_BUDGET_FAR = 4,  // and rather than tying groups together that end more than FAR nodes apart
  FAR = 32
};

int pg_unit_new(pg_compilation *c, pg_unit_kind kind) {
  if (pg_grow(&c->units, &c->cap_units, c->nunits + 1, sizeof *c->units) != PG_OK) return -1;
  c->units[c->nunits] = (pg_unit){.kind = kind, .buf = -1, .order = -1};
  return (int)c->nunits++;
}

static pg_status note_group(pg_compilation *c, pg_value v, int unit) {
  int n = 0;
  while (c->groups[v] && c->groups[v][n] >= 0) n++;
  int *list = pg_alloc((size_t)n + 2, sizeof *list);
  if (!list) return PG_ERR_MEMORY;
  for (int i = 0; i < n; i++) list[i] = c->groups[v][i];
  list[n] = unit;
  list[n + 1] = -1;
  pg_free(c->groups[v]);
  c->groups[v] = list;
  return PG_OK;
}

pg_status pg_unit_add(pg_compilation *c, int unit, pg_value v) {
  pg_unit *u = &c->units[unit];
  PG_TRY(pg_grow(&u->members, &u->cap, u->count + 1, sizeof *u->members));
  u->members[u->count++] = v;
  return u->kind == PG_UNIT_GROUP ? note_group(c, v, unit) : PG_OK;
}

bool pg_unit_has(const pg_compilation *c, int unit, pg_value v) {
  for (const int *u = c->groups[v]; u && *u >= 0; u++)
    if (*u == unit) return true;
  return false;
}

bool pg_same_space(const pg_node *n, const pg_unit *u) {
  return n->ndim == u->ndim && pg_layout_equal(n->layout, u->layout) &&
         memcmp(n->shape, u->shape, (size_t)n->ndim * sizeof *n->shape) == 0;
}

// ---- legality of merging ----

typedef struct search {
  pg_compilation *c;
  int from, target;
  bool found, skip_direct;
} search;

static bool reaches(pg_compilation *c, int from, int target);

static void search_step(void *arg, const pg_read *read) {
  search *s = arg;
  int unit = s->c->plan->bufs[read->buf].unit;
  if (s->found || unit < 0 || unit == s->from) return;
  if (unit == s->target) {
    if (!s->skip_direct) s->found = true;
    return;
  }
  if (s->c->units[unit].mark == s->c->stamp) return;
  s->c->units[unit].mark = s->c->stamp;
  if (reaches(s->c, unit, s->target)) s->found = true;
}

// Whether `from` needs, directly or not, what `target` writes.
static bool reaches(pg_compilation *c, int from, int target) {
  search s = {.c = c, .from = from, .target = target};
  pg_unit_reads(c, from, search_step, &s);
  return s.found;
}

// Whether it does so by way of a third unit.
static bool reaches_around(pg_compilation *c, int from, int target) {
  c->stamp++;
  search s = {.c = c, .from = from, .target = target, .skip_direct = true};
  pg_unit_reads(c, from, search_step, &s);
  return s.found;
}

typedef struct direct {
  const pg_compilation *c;
  int target;
  bool blocked;
} direct;

static void direct_step(void *arg, const pg_read *read) {
  direct *d = arg;
  if (d->c->plan->bufs[read->buf].unit == d->target && read->whole) d->blocked = true;
}

// Whether `from` reads results of `target` other than element by element, which rules out one loop for both.
static bool reads_whole(const pg_compilation *c, int from, int target) {
  direct d = {.c = c, .target = target};
  pg_unit_reads(c, from, direct_step, &d);
  return d.blocked;
}

static bool can_merge(pg_compilation *c, int a, int b) {
  const pg_unit *p = &c->units[a], *q = &c->units[b];
  if (p->kind != PG_UNIT_GROUP || q->kind != PG_UNIT_GROUP || p->count + q->count > MAX_GROUP) return false;
  if (p->ndim != q->ndim || !pg_layout_equal(p->layout, q->layout) ||
      memcmp(p->shape, q->shape, (size_t)p->ndim * sizeof *p->shape) != 0)
    return false;
  if (p->reduces && q->reduces && (p->red_first != q->red_first || p->red_last != q->red_last)) return false;
  return !reads_whole(c, a, b) && !reads_whole(c, b, a) && !reaches_around(c, a, b) && !reaches_around(c, b, a);
}

// Move everything of unit b into unit a.
static pg_status merge(pg_compilation *c, int a, int b) {
  for (size_t m = 0; m < c->units[b].count; m++) {
    pg_value v = c->units[b].members[m];
    bool already = pg_unit_has(c, a, v);
    int kept = 0;
    for (int *u = c->groups[v]; *u >= 0; u++)
      if (*u != b) c->groups[v][kept++] = *u;
    c->groups[v][kept] = -1;
    if (!already) PG_TRY(pg_unit_add(c, a, v));
    int buf = c->value_buf[v];
    if (buf >= 0 && c->plan->bufs[buf].unit == b) c->plan->bufs[buf].unit = a;
  }
  pg_unit *p = &c->units[a], *q = &c->units[b];
  if (q->reduces) {
    p->reduces = true;
    p->red_first = q->red_first;
    p->red_last = q->red_last;
  }
  q->dead = true;
  q->count = 0;
  return PG_OK;
}

// ---- placing nodes ----

// Count the instructions needed to compute v again from values that are in memory anyway; more than *budget: not cheap.
static bool cheap(const pg_compilation *c, pg_value v, int *budget) {
  v = pg_canon(c->g, v);
  if (c->views[v].splat || !pg_is_map_like(c->g, v)) return true;
  const pg_buf *b = &c->plan->bufs[c->value_buf[v]];
  if (b->needed) return true;
  if (--*budget < 0) return false;
  const pg_node *n = pg_at(c->g, v);
  for (int i = 0; i < n->nin; i++)
    if (!cheap(c, n->in[i], budget)) return false;
  return true;
}

static pg_status new_group(pg_compilation *c, const pg_node *space, pg_value member, int *out) {
  int unit = pg_unit_new(c, PG_UNIT_GROUP);
  if (unit < 0) return PG_ERR_MEMORY;
  pg_unit *u = &c->units[unit];
  u->ndim = space->ndim;
  memcpy(u->shape, space->shape, sizeof u->shape);
  u->layout = space->layout;
  *out = unit;
  PG_TRY(pg_unit_add(c, unit, member));
  c->plan->bufs[c->value_buf[member]].unit = unit;
  return PG_OK;
}

// The distinct groups that read map v element by element, gathered while consumers were placed.
typedef struct consumers {
  int *units;
  size_t count, cap;
} consumers;

static pg_status note_consumer(consumers *list, int unit) {
  for (size_t i = 0; i < list->count; i++)
    if (list->units[i] == unit) return PG_OK;
  PG_TRY(pg_grow(&list->units, &list->cap, list->count + 1, sizeof *list->units));
  list->units[list->count++] = unit;
  return PG_OK;
}

// Units may have been merged since they were noted; members know where they are now.
static pg_status current_consumers(const pg_compilation *c, pg_value v, const pg_value *users, size_t nusers,
                                   consumers *out) {
  out->count = 0;
  for (size_t i = 0; i < nusers; i++) {
    const pg_node *m = pg_at(c->g, users[i]);
    bool uses = false;
    for (int k = 0; k < m->nin; k++) uses |= pg_canon(c->g, m->in[k]) == v;
    if (!uses) continue;
    for (const int *u = c->groups[users[i]]; u && *u >= 0; u++) PG_TRY(note_consumer(out, *u));
  }
  return PG_OK;
}

static pg_value last_member(const pg_unit *u) {
  pg_value last = -1;
  for (size_t i = 0; i < u->count; i++)
    if (u->members[i] > last) last = u->members[i];
  return last;
}

static bool are_far(const pg_unit *a, const pg_unit *b) {
  const pg_value p = last_member(a), q = last_member(b);
  return (p > q ? p - q : q - p) > FAR;
}

// Undo new_group: every consumer computes v itself.
static void drop_group(pg_compilation *c, int unit, pg_value v) {
  int kept = 0;
  for (int *u = c->groups[v]; *u >= 0; u++)
    if (*u != unit) c->groups[v][kept++] = *u;
  c->groups[v][kept] = -1;
  c->units[unit].dead = true;
  c->units[unit].count = 0;
  c->plan->bufs[c->value_buf[v]].unit = -1;
}

static pg_status place_map(pg_compilation *c, pg_value v, const pg_value *users, size_t nusers, consumers *scratch) {
  const pg_node node = *pg_at(c->g, v);
  pg_buf *buf = &c->plan->bufs[c->value_buf[v]];
  PG_TRY(current_consumers(c, v, users, nusers, scratch));
  if (pg_is_free(c->g, v)) { // groups compute their own; memory only for others
    int unit;
    return buf->needed ? new_group(c, &node, v, &unit) : PG_OK;
  }
  if (!scratch->count && !buf->needed) return PG_OK;
  int unit;
  PG_TRY(new_group(c, &node, v, &unit));
  int budget = node.layout ? CLONE_BUDGET : CLONE_BUDGET_GRID, far_budget = CLONE_BUDGET_FAR;
  const bool may_part = !node.layout && scratch->count > 1 && !buf->needed && cheap(c, v, &far_budget);
  size_t left = 0;
  for (size_t i = 0; i < scratch->count; i++) {
    const int other = scratch->units[i];
    const bool parts = may_part && are_far(&c->units[unit], &c->units[other]);
    if (parts) budget = CLONE_BUDGET_FAR;
    if (!parts && can_merge(c, unit, other))
      PG_TRY(merge(c, unit, other));
    else
      scratch->units[left++] = other;
  }
  if (!left) return PG_OK;
  if (!c->plan->bufs[c->value_buf[v]].needed && cheap(c, v, &budget)) {
    for (size_t i = 0; i < left; i++)
      if (!c->units[scratch->units[i]].dead) PG_TRY(pg_unit_add(c, scratch->units[i], v));
    if (c->units[unit].count == 1) drop_group(c, unit, v);
    return PG_OK;
  }
  c->plan->bufs[c->value_buf[v]].needed = true;
  return PG_OK;
}

static pg_status need_memory(pg_compilation *c, pg_value v) {
  const pg_strided *view = &c->views[pg_canon(c->g, v)];
  if (!view->splat) c->plan->bufs[view->buf].needed = true;
  return PG_OK;
}

static pg_status place_reduction(pg_compilation *c, pg_value v) {
  const pg_node *n = pg_at(c->g, v);
  pg_node space = *pg_at(c->g, n->in[0]);
  int unit;
  PG_TRY(new_group(c, &space, v, &unit));
  pg_unit *u = &c->units[unit];
  u->reduces = !pg_is_kept(n->op);
  u->red_first = space.layout ? 0 : (int)n->attrs.a[0];
  u->red_last = space.layout ? 1 : (int)n->attrs.a[1];
  c->plan->bufs[c->value_buf[v]].needed = true;
  return PG_OK;
}

// The outputs of one loop are nodes with the same region and operands: one unit runs them.
static int unit_of_loop(const pg_compilation *c, const pg_node *n) {
  for (size_t u = 0; u < c->nunits; u++) {
    if (c->units[u].kind != PG_UNIT_LOOP) continue;
    const pg_node *m = pg_at(c->g, c->units[u].members[0]);
    if (m->region == n->region && memcmp(m->in, n->in, (size_t)n->nin * sizeof *n->in) == 0) return (int)u;
  }
  return -1;
}

static pg_status place_other(pg_compilation *c, pg_value v) {
  const pg_node *n = pg_at(c->g, v);
  const pg_op_info *info = pg_op_table[n->op];
  bool loop = info->cls == PG_CLASS_REGION, library = info->cls == PG_CLASS_LIBRARY || loop;
  int unit = loop ? unit_of_loop(c, n) : -1;
  if (unit < 0) unit = pg_unit_new(c, loop ? PG_UNIT_LOOP : library ? PG_UNIT_LIBRARY : PG_UNIT_PLACE);
  if (unit < 0) return PG_ERR_MEMORY;
  PG_TRY(pg_unit_add(c, unit, v));
  c->plan->bufs[c->value_buf[v]].unit = unit;
  c->plan->bufs[c->value_buf[v]].needed = true;
  for (int i = 0; i < n->nin; i++) {
    pg_value x = pg_canon(c->g, n->in[i]);
    PG_TRY(need_memory(c, x));
    if (library && !pg_at(c->g, x)->weak && !info->strided && !pg_view_is_contiguous(pg_at(c->g, x), &c->views[x]) &&
        pg_ensure_contiguous(c, x) < 0)
      return PG_ERR_MEMORY;
    if (library && !pg_at(c->g, x)->weak && c->views[x].splat && pg_ensure_contiguous(c, x) < 0) return PG_ERR_MEMORY;
  }
  return PG_OK;
}

static bool same_shape(const pg_node *a, const pg_node *b) {
  return a->ndim == b->ndim && pg_layout_equal(a->layout, b->layout) &&
         memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape) == 0;
}

// Operands of a group member that cannot be computed in the group must be in memory.
static pg_status need_operands(pg_compilation *c, pg_value v) {
  const pg_node *n = pg_at(c->g, v);
  for (int i = 0; i < n->nin; i++) {
    pg_value x = pg_canon(c->g, n->in[i]);
    bool element = pg_is_map_like(c->g, x) && n->op != PG_OP_BLOCK_VALUES;
    if (element && !pg_is_reduction(n->op)) element = same_shape(pg_at(c->g, x), n);
    if (!element) PG_TRY(need_memory(c, x));
  }
  return PG_OK;
}

typedef struct reading {
  int buf;
  bool found;
} reading;

static void look_for_read(void *arg, const pg_read *read) {
  reading *r = arg;
  if (read->buf == r->buf) r->found = true;
}

// A result that takes the place of an input is written by the loop that the other readers of this input are in, where
// they can share one: what they read is then still there, and read once.
static pg_status join_readers_of_replaced_inputs(pg_compilation *c) {
  for (int k = 0; k < c->nout; k++) {
    const int input = c->plan->donate[k], result = c->value_buf[pg_canon(c->g, c->outs[k])];
    if (input < 0 || result < 0) continue;
    for (size_t u = 0; u < c->nunits; u++) {
      const int unit = c->plan->bufs[result].unit;
      if (unit < 0 || (int)u == unit || c->units[u].dead) continue;
      reading r = {.buf = c->value_buf[c->g->inputs[input]]};
      pg_unit_reads(c, (int)u, look_for_read, &r);
      if (r.found && can_merge(c, unit, (int)u)) PG_TRY(merge(c, unit, (int)u));
    }
  }
  return PG_OK;
}

pg_status pg_make_units(pg_compilation *c) {
  const pg_graph *g = c->g;
  // Users of each value, as linked lists over operand slots.
  size_t slots = 0;
  for (size_t v = 0; v < g->count; v++) slots += c->live[v] ? (size_t)g->nodes[v].nin : 0;
  int32_t *head = pg_alloc(g->count, sizeof *head), *next = pg_alloc(slots + 1, sizeof *next);
  pg_value *user = pg_alloc(slots + 1, sizeof *user), *users = pg_alloc(slots + 1, sizeof *users);
  consumers scratch = {0};
  pg_status status = head && next && user && users ? PG_OK : PG_ERR_MEMORY;
  size_t used = 0;
  for (size_t v = 0; v < g->count && status == PG_OK; v++) {
    if (!c->live[v]) continue;
    for (int i = 0; i < g->nodes[v].nin; i++) {
      pg_value x = pg_canon(g, g->nodes[v].in[i]);
      user[++used] = (pg_value)v;
      next[used] = head[x];
      head[x] = (int32_t)used;
    }
  }
  for (int k = 0; k < c->nout && status == PG_OK; k++) status = need_memory(c, c->outs[k]);
  for (size_t i = g->count; i-- > 0 && status == PG_OK;) {
    pg_value v = (pg_value)i;
    if (!c->live[v] || c->value_buf[v] < 0) continue;
    int op = pg_at(g, v)->op;
    if (op == PG_OP_INPUT || pg_op_table[op]->cls == PG_CLASS_VIEW) continue;
    if (op == PG_OP_FULL) continue; // a splat with a copy
    if (pg_is_map_like(g, v)) {
      size_t n = 0;
      for (int32_t s = head[v]; s; s = next[s]) users[n++] = user[s];
      status = place_map(c, v, users, n, &scratch);
      if (status == PG_OK) status = need_operands(c, v);
    } else if (pg_is_reduction(op)) {
      status = place_reduction(c, v);
      if (status == PG_OK) status = need_operands(c, v);
    } else {
      status = place_other(c, v);
    }
  }
  pg_free(head), pg_free(next), pg_free(user), pg_free(users), pg_free(scratch.units);
  return status == PG_OK ? join_readers_of_replaced_inputs(c) : status;
}

// ---- order ----

typedef struct ordering {
  pg_compilation *c;
  int *order, count;
  pg_status status;
} ordering;

static void order_unit(ordering *o, int unit);

static void order_read(void *arg, const pg_read *read) {
  ordering *o = arg;
  int unit = o->c->plan->bufs[read->buf].unit;
  if (unit >= 0) order_unit(o, unit);
}

static void order_unit(ordering *o, int unit) {
  pg_unit *u = &o->c->units[unit];
  if (u->order == -2) {
    o->status = pg_fail(PG_ERR_INTERNAL, "fusion made a cycle through unit %d", unit);
    return;
  }
  if (u->order != -1 || u->dead || o->status != PG_OK) return;
  u->order = -2;
  pg_unit_reads(o->c, unit, order_read, o);
  o->c->units[unit].order = o->count;
  o->order[o->count++] = unit;
}

static int by_position(const void *a, const void *b, void *units) {
  pg_value p = last_member(&((const pg_unit *)units)[*(const int *)a]);
  pg_value q = last_member(&((const pg_unit *)units)[*(const int *)b]);
  return p < q ? -1 : p > q;
}

static int by_value(const void *a, const void *b) {
  return *(const pg_value *)a < *(const pg_value *)b ? -1 : *(const pg_value *)a > *(const pg_value *)b;
}

pg_status pg_order_units(pg_compilation *c, int **order, int *count) {
  *order = NULL;
  int *all = pg_alloc(c->nunits, sizeof *all);
  ordering o = {.c = c, .order = pg_alloc(c->nunits, sizeof(int))};
  if (!all || !o.order) {
    pg_free(all);
    pg_free(o.order);
    return PG_ERR_MEMORY;
  }
  int n = 0;
  for (size_t u = 0; u < c->nunits; u++) {
    if (c->units[u].dead) continue;
    qsort(c->units[u].members, c->units[u].count, sizeof(pg_value), by_value);
    all[n++] = (int)u;
  }
  qsort_r(all, (size_t)n, sizeof *all, by_position, c->units);
  for (int i = 0; i < n; i++) order_unit(&o, all[i]);
  pg_free(all);
  *order = o.order;
  *count = o.count;
  return o.status;
}
