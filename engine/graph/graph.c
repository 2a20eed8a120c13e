// graph.c: graphs and how nodes are made: checking, folding of weak constants, hash-consing. See graph.h.
#include "engine/graph/graph.h"

#include <string.h>

#include "engine/graph/weak.h"
#include "engine/ops/ops.h"

enum { CHUNK_VALUES = 1024 };

// Operand lists live in chunks, so that node->in stays valid while the node array grows.
struct pg_chunk {
  struct pg_chunk *next;
  size_t used, cap;
  pg_value values[];
};

pg_status pg_graph_new(pg_graph **out) {
  pg_graph *g = pg_alloc(1, sizeof *g);
  *out = g;
  if (!g) return PG_ERR_MEMORY;
  g->where = "";
  return PG_OK;
}

void pg_region_release(pg_region *r) {
  if (!r || --r->references > 0) return;
  pg_graph_free(r->body);
  pg_graph_free(r->cond);
  pg_free(r->outs);
  if (r->free_user) r->free_user(r->user);
  pg_free(r);
}

void pg_graph_free(pg_graph *g) {
  if (!g) return;
  for (size_t i = 0; i < g->count; i++) {
    pg_layout_release(g->nodes[i].layout);
    pg_layout_release(g->nodes[i].attrs.layout);
    pg_region_release(g->nodes[i].region);
  }
  for (struct pg_chunk *c = g->chunks; c;) {
    struct pg_chunk *next = c->next;
    pg_free(c);
    c = next;
  }
  for (size_t i = 0; i < g->nwheres; i++) pg_free(g->wheres[i]);
  pg_free(g->wheres);
  pg_free(g->nodes);
  pg_free(g->inputs);
  pg_free(g->scalars);
  pg_free(g->table);
  pg_free(g);
}

void pg_graph_at(pg_graph *g, const char *where) {
  if (strcmp(g->where, where) == 0) return;
  for (size_t i = g->nwheres; i-- > 0;)
    if (strcmp(g->wheres[i], where) == 0) {
      g->where = g->wheres[i];
      return;
    }
  // Without memory for a better location the old one stays: it only serves messages.
  if (pg_grow(&g->wheres, &g->cap_wheres, g->nwheres + 1, sizeof *g->wheres) != PG_OK) return;
  char *copy = pg_strdup(where);
  if (!copy) return;
  g->wheres[g->nwheres++] = copy;
  g->where = copy;
}

// ---- hash-consing ----

static uint64_t mix(uint64_t h, uint64_t x) {
  h = (h ^ x) * 0x9e3779b97f4a7c15u;
  return h ^ (h >> 29);
}

static uint64_t hash_node(const pg_node *n) {
  uint64_t h = mix(n->op, (uint64_t)n->dtype << 8 | (uint64_t)n->nin << 16);
  for (int i = 0; i < n->nin; i++) h = mix(h, (uint64_t)n->in[i]);
  for (int i = 0; i < n->attrs.n && i < PG_MAX_NDIM; i++) h = mix(h, (uint64_t)n->attrs.a[i]);
  uint64_t bits;
  memcpy(&bits, &n->attrs.x, sizeof bits);
  h = mix(h, bits);
  return mix(h, (uint64_t)n->attrs.a[0] ^ (uint64_t)n->attrs.flags << 32);
}

static bool same_attrs(const pg_attrs *p, const pg_attrs *q) {
  return p->n == q->n && memcmp(p->a, q->a, sizeof p->a) == 0 && memcmp(p->b, q->b, sizeof p->b) == 0 &&
         memcmp(p->c, q->c, sizeof p->c) == 0 && memcmp(&p->x, &q->x, sizeof p->x) == 0 && p->dtype == q->dtype &&
         p->flags == q->flags && pg_layout_equal(p->layout, q->layout);
}

static bool same_node(const pg_node *p, const pg_node *q) {
  return p->op == q->op && p->dtype == q->dtype && p->nin == q->nin && p->region == q->region &&
         (p->nin == 0 || memcmp(p->in, q->in, (size_t)p->nin * sizeof *p->in) == 0) && same_attrs(&p->attrs, &q->attrs);
}

static pg_value find_node(const pg_graph *g, const pg_node *n, uint64_t hash) {
  if (!g->table_size) return PG_NONE;
  for (size_t i = hash & (g->table_size - 1);; i = (i + 1) & (g->table_size - 1)) {
    if (!g->table[i]) return PG_NONE;
    pg_value v = g->table[i] - 1;
    if (same_node(&g->nodes[v], n)) return v;
  }
}

static void table_put(int32_t *table, size_t size, uint64_t hash, pg_value v) {
  size_t i = hash & (size - 1);
  while (table[i]) i = (i + 1) & (size - 1);
  table[i] = v + 1;
}

static pg_status grow_table(pg_graph *g) {
  size_t size = g->table_size ? g->table_size * 2 : 256;
  int32_t *table = pg_alloc(size, sizeof *table);
  if (!table) return PG_ERR_MEMORY;
  for (size_t v = 0; v < g->count; v++) table_put(table, size, hash_node(&g->nodes[v]), (pg_value)v);
  pg_free(g->table);
  g->table = table;
  g->table_size = size;
  return PG_OK;
}

static pg_value *store_inputs(pg_graph *g, const pg_value *in, int n) {
  struct pg_chunk *c = g->chunks;
  if (!c || c->cap - c->used < (size_t)n) {
    size_t cap = n > CHUNK_VALUES ? (size_t)n : CHUNK_VALUES;
    c = pg_alloc(1, sizeof *c + cap * sizeof(pg_value));
    if (!c) return NULL;
    c->cap = cap;
    c->next = g->chunks;
    g->chunks = c;
  }
  pg_value *copy = c->values + c->used;
  if (n) memcpy(copy, in, (size_t)n * sizeof *in);
  c->used += (size_t)n;
  return copy;
}

// Append a filled node (or return the identical one). Takes no references of `n`; retains what it stores.
static pg_value intern(pg_graph *g, pg_node *n) {
  uint64_t hash = hash_node(n);
  pg_value v = find_node(g, n, hash);
  if (v != PG_NONE) return v;
  if (g->count >= INT32_MAX / 2) return pg_fail(PG_ERR_MEMORY, "the graph has grown past %zu nodes", g->count), PG_NONE;
  if ((g->count + 1) * 2 > g->table_size && grow_table(g) != PG_OK) return PG_NONE;
  if (pg_grow(&g->nodes, &g->cap, g->count + 1, sizeof *g->nodes) != PG_OK) return PG_NONE;
  n->in = store_inputs(g, n->in, n->nin);
  if (!n->in) return PG_NONE;
  n->where = g->where;
  pg_layout_retain(n->layout);
  pg_layout_retain(n->attrs.layout);
  if (n->region) n->region->references++;
  v = (pg_value)g->count;
  g->nodes[g->count++] = *n;
  table_put(g->table, g->table_size, hash, v);
  return v;
}

// ---- making nodes ----

static bool keeps_weakness(int op) {
  return op == PG_OP_STOP || op == PG_OP_MARK || op == PG_OP_TAP;
}

// Results known without a new node, where that changes no bits.
static pg_value simplify(const pg_graph *g, const pg_node *n) {
  if (n->nin == 0) return PG_NONE;
  const pg_node *a = pg_at(g, n->in[0]);
  switch (n->op) {
  case PG_OP_RESHAPE:
  case PG_OP_BROADCAST:
    return pg_same_type(a, n) ? n->in[0] : PG_NONE;
  case PG_OP_VIEW:
    return a->op == PG_OP_PACK ? a->in[n->attrs.a[0]] : PG_NONE;
  case PG_OP_CAST:
    return !a->weak && a->dtype == n->dtype ? n->in[0] : PG_NONE;
  case PG_OP_TRANSPOSE:
    for (int i = 0; i < n->ndim; i++)
      if (n->attrs.a[i] != i) return PG_NONE;
    return n->in[0];
  case PG_OP_MUL:
  case PG_OP_DIV: {
    const pg_node *b = pg_at(g, n->in[1]);
    if (b->op == PG_OP_NUMBER && b->attrs.x == 1 && a->weak == n->weak && pg_same_type(a, n)) return n->in[0];
    if (n->op == PG_OP_MUL && a->op == PG_OP_NUMBER && a->attrs.x == 1 && b->weak == n->weak && pg_same_type(b, n))
      return n->in[1];
    return PG_NONE;
  }
  default:
    return PG_NONE;
  }
}

static pg_value make_weak(pg_graph *g, pg_node *n) {
  bool constant = true;
  double x[3] = {0, 0, 0};
  for (int i = 0; i < n->nin; i++) {
    const pg_node *a = pg_at(g, n->in[i]);
    if (a->op == PG_OP_NUMBER)
      x[i] = a->attrs.x;
    else
      constant = false;
  }
  n->dtype = PG_F64;
  n->weak = true;
  if (n->op == PG_OP_CAST) return n->in[0];
  if (constant && !keeps_weakness(n->op)) return pg_number(g, pg_weak_apply(n->op, x[0], x[1], x[2]));
  pg_value known = simplify(g, n);
  return known != PG_NONE ? known : intern(g, n);
}

static bool all_weak(const pg_graph *g, const pg_node *n) {
  for (int i = 0; i < n->nin; i++)
    if (!pg_at(g, n->in[i])->weak) return false;
  return n->nin > 0;
}

pg_value pg_node_make(pg_graph *g, int op, int nin, const pg_value *in, const pg_attrs *attrs, pg_region *region) {
  const pg_op_info *info = pg_op_table[op];
  pg_node n = {.op = (uint16_t)op, .nin = nin, .in = (pg_value *)in, .region = region};
  if (attrs) n.attrs = *attrs;
  for (int i = 0; i < nin; i++) {
    if (in[i] == PG_NONE) return PG_NONE;
    if (in[i] < 0 || (size_t)in[i] >= g->count)
      return pg_fail(PG_ERR_ARGUMENT, "%s: operand %d is not a value of this graph", info->name, i + 1), PG_NONE;
  }
  if (info->arity >= 0 && nin != info->arity)
    return pg_fail(PG_ERR_ARGUMENT, "%s takes %d operands, not %d", info->name, info->arity, nin), PG_NONE;
  if (all_weak(g, &n)) {
    if (op == PG_OP_CAST) return pg_cast(g, in[0], (pg_dtype)n.attrs.dtype);
    if (info->cls == PG_CLASS_MAP && op != PG_OP_FULL) return make_weak(g, &n);
    if (keeps_weakness(op)) return make_weak(g, &n);
  }
  if (info->shape(g, &n) != PG_OK) return PG_NONE;
  pg_value known = simplify(g, &n);
  if (known != PG_NONE || pg_sink_layout(g, &n, &known) || pg_contract(g, &n, &known)) return known;
  return intern(g, &n);
}

pg_value pg_input(pg_graph *g, pg_dtype dtype, int ndim, const int64_t *shape, const pg_layout *layout) {
  if (ndim < 0 || ndim > PG_MAX_NDIM)
    return pg_fail(PG_ERR_SHAPE, "an input has at most %d dimensions, not %d", PG_MAX_NDIM, ndim), PG_NONE;
  pg_node n = {.op = PG_OP_INPUT, .dtype = dtype, .ndim = (int8_t)(layout ? 1 : ndim), .layout = layout};
  n.attrs.n = 1;
  n.attrs.a[0] = g->ninputs;
  if (layout)
    n.shape[0] = pg_layout_padded(layout);
  else
    for (int i = 0; i < ndim; i++) n.shape[i] = shape[i];
  if (pg_grow(&g->inputs, &g->cap_inputs, (size_t)g->ninputs + 1, sizeof *g->inputs) != PG_OK) return PG_NONE;
  pg_value v = intern(g, &n);
  if (v != PG_NONE) g->inputs[g->ninputs++] = v;
  return v;
}

pg_value pg_scalar(pg_graph *g) {
  pg_node n = {.op = PG_OP_SCALAR, .dtype = PG_F64, .weak = true};
  n.attrs.n = 1;
  n.attrs.a[0] = g->nscalars;
  if (pg_grow(&g->scalars, &g->cap_scalars, (size_t)g->nscalars + 1, sizeof *g->scalars) != PG_OK) return PG_NONE;
  pg_value v = intern(g, &n);
  if (v != PG_NONE) g->scalars[g->nscalars++] = v;
  return v;
}

pg_value pg_number(pg_graph *g, double x) {
  pg_node n = {.op = PG_OP_NUMBER, .dtype = PG_F64, .weak = true};
  n.attrs.x = x;
  return intern(g, &n);
}

pg_dtype pg_value_dtype(const pg_graph *g, pg_value v) {
  return (pg_dtype)pg_at(g, v)->dtype;
}

bool pg_value_is_weak(const pg_graph *g, pg_value v) {
  return pg_at(g, v)->weak;
}

int pg_value_ndim(const pg_graph *g, pg_value v) {
  return pg_at(g, v)->ndim;
}

const int64_t *pg_value_shape(const pg_graph *g, pg_value v) {
  return pg_at(g, v)->shape;
}

const pg_layout *pg_value_layout(const pg_graph *g, pg_value v) {
  return pg_at(g, v)->layout;
}

const char *pg_value_where(const pg_graph *g, pg_value v) {
  return pg_at(g, v)->where;
}

int pg_graph_size(const pg_graph *g) {
  return (int)g->count;
}
