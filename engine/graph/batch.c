// batch.c: a function's graph for many settings of its arguments at once (pg_vmap): walking its nodes and building each
// anew with its op's batching rule, or as it was where nothing batched enters it. See ops/batching.h.
//
// Elementwise operations on vectors are taken apart here: a vector has no place for one number per entry of the batch,
// but its tensors have. Where only whole batched vectors and single numbers meet, they stay whole.
#include <string.h>

#include "engine/ops/batching.h"

// ---- builders ------------------------------------------------------------------------------------------------------

static bool has_room(int ndim) {
  if (ndim < PG_MAX_NDIM) return true;
  pg_fail(PG_ERR_SHAPE, "vmap: a tensor of %d axes has no room for one more", ndim);
  return false;
}

pg_value pg_batch_align(pg_batching *b, pg_value x, bool batched, int ndim) {
  const pg_node node = *pg_at(b->g, x);
  if (!batched || node.ndim > ndim) return x;
  if (!has_room(ndim)) return PG_NONE;
  const int extra = ndim + 1 - node.ndim;
  int64_t shape[PG_MAX_NDIM] = {b->size};
  for (int i = 1; i <= ndim; i++) shape[i] = i <= extra ? 1 : node.shape[i - extra];
  return pg_reshape(b->g, x, ndim + 1, shape);
}

pg_value pg_batch_pack(pg_batching *b, const pg_layout *layout, const pg_value *parts) {
  pg_layout *stacked;
  for (int i = 0; i < pg_layout_count(layout); i++)
    if (parts[i] == PG_NONE) return PG_NONE;
  if (pg_layout_stacked(layout, b->size, &stacked) != PG_OK) return PG_NONE;
  const pg_value out = pg_pack(b->g, stacked, parts);
  pg_layout_release(stacked);
  return out;
}

static pg_value spread_vector(pg_batching *b, pg_value x) {
  const pg_layout *layout = pg_at(b->g, x)->layout;
  const int n = pg_layout_count(layout);
  pg_value *parts = pg_alloc((size_t)n, sizeof *parts);
  if (!parts) return PG_NONE;
  for (int i = 0; i < n; i++) parts[i] = pg_batch_spread(b, pg_view_of(b->g, x, i), false);
  const pg_value out = pg_batch_pack(b, layout, parts);
  pg_free(parts);
  return out;
}

pg_value pg_batch_spread(pg_batching *b, pg_value x, bool batched) {
  if (x == PG_NONE || batched) return x;
  const pg_node node = *pg_at(b->g, x);
  if (node.layout) return spread_vector(b, x);
  if (!has_room(node.ndim)) return PG_NONE;
  int64_t shape[PG_MAX_NDIM] = {b->size};
  memcpy(shape + 1, node.shape, (size_t)node.ndim * sizeof *shape);
  return pg_broadcast(b->g, node.weak ? pg_cast(b->g, x, PG_F64) : x, node.ndim + 1, shape);
}

pg_value pg_batch_move_axis(pg_graph *g, pg_value x, int from, int to, int flags) {
  if (x == PG_NONE) return PG_NONE;
  pg_attrs attrs = {.n = pg_at(g, x)->ndim, .flags = flags};
  for (int i = 0, next = 0; i < attrs.n; i++) {
    if (next == from) next++;
    attrs.a[i] = i == to ? from : next++;
  }
  return pg_node_make(g, PG_OP_TRANSPOSE, 1, &x, &attrs, NULL);
}

pg_value pg_batch_merge(pg_graph *g, pg_value x, int first, int last) {
  if (x == PG_NONE) return PG_NONE;
  const pg_node node = *pg_at(g, x);
  int64_t shape[PG_MAX_NDIM] = {1};
  int n = 0;
  for (int i = 0; i < node.ndim; i++) {
    if (i > first && i < last)
      shape[n - 1] *= node.shape[i];
    else
      shape[n++] = node.shape[i];
  }
  return pg_reshape(g, x, n, shape);
}

pg_value pg_batch_split(pg_graph *g, pg_value x, int axis, int64_t m, int64_t n) {
  if (x == PG_NONE) return PG_NONE;
  const pg_node node = *pg_at(g, x);
  if (!has_room(node.ndim)) return PG_NONE;
  int64_t shape[PG_MAX_NDIM];
  for (int i = 0; i < node.ndim; i++) shape[i < axis ? i : i + 1] = node.shape[i];
  shape[axis] = m;
  shape[axis + 1] = n;
  return pg_reshape(g, x, node.ndim + 1, shape);
}

pg_value pg_batch_into_images(pg_batching *b, pg_value x) {
  return pg_batch_merge(b->g, pg_batch_move_axis(b->g, x, 0, 3, PG_INTO_LAYOUT), 3, 5);
}

pg_value pg_batch_out_of_images(pg_batching *b, pg_value x) {
  if (x == PG_NONE) return x;
  const int64_t all = pg_at(b->g, x)->shape[3];
  return pg_batch_move_axis(b->g, pg_batch_split(b->g, x, 3, b->size, b->size ? all / b->size : 0), 3, 0,
                            PG_OUT_OF_LAYOUT);
}

pg_value pg_batch_input(pg_graph *h, const pg_node *n, bool batched, int64_t size) {
  if (!batched) return pg_input(h, (pg_dtype)n->dtype, n->ndim, n->shape, n->layout);
  if (n->layout) {
    pg_layout *stacked;
    if (pg_layout_stacked(n->layout, size, &stacked) != PG_OK) return PG_NONE;
    const pg_value x = pg_input(h, (pg_dtype)n->dtype, 0, NULL, stacked);
    pg_layout_release(stacked);
    return x;
  }
  if (!has_room(n->ndim)) return PG_NONE;
  int64_t shape[PG_MAX_NDIM] = {size};
  memcpy(shape + 1, n->shape, (size_t)n->ndim * sizeof *shape);
  return pg_input(h, (pg_dtype)n->dtype, n->ndim + 1, shape, NULL);
}

// ---- rules for many operations -------------------------------------------------------------------------------------

pg_status pg_batch_map(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched, pg_value *out) {
  pg_value aligned[3];
  for (int i = 0; i < node->nin; i++) aligned[i] = pg_batch_align(b, in[i], batched[i], node->ndim);
  *out = pg_node_make(b->g, node->op, node->nin, aligned, &node->attrs, NULL);
  return pg_built(*out);
}

pg_status pg_batch_rows(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched, pg_value *out) {
  pg_value spread[3];
  for (int i = 0; i < node->nin; i++) spread[i] = pg_batch_spread(b, in[i], batched[i]);
  *out = pg_node_make(b->g, node->op, node->nin, spread, &node->attrs, NULL);
  return pg_built(*out);
}

// The body of such a scan, and its operands: those that are the same for all, those that are sliced, numbers.
static pg_status build_scan_body(const pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                                 pg_graph *h, pg_value *args, pg_value *operands, int *constants) {
  int n = 0;
  for (int sliced = 0; sliced < 2; sliced++) {
    for (int i = 0; i < node->nin; i++) {
      pg_node x = *pg_at(b->g, in[i]);
      if (x.weak || batched[i] != sliced) continue;
      if (x.layout) return pg_fail(PG_ERR_UNSUPPORTED, "vmap: %s of vectors", pg_op_table[node->op]->name);
      args[i] = pg_input(h, (pg_dtype)x.dtype, x.ndim - sliced, x.shape + sliced, NULL);
      PG_TRY(pg_built(args[i]));
      operands[n++] = in[i];
    }
    if (!sliced) *constants = n;
  }
  for (int i = 0; i < node->nin; i++)
    if (pg_at(b->g, in[i])->weak) {
      PG_TRY(pg_built(args[i] = pg_scalar(h)));
      operands[n++] = in[i];
    }
  return PG_OK;
}

pg_status pg_batch_by_scan(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                           pg_value *out) {
  pg_value *args = pg_alloc(2 * (size_t)node->nin, sizeof *args), *operands = args + node->nin, root = PG_NONE;
  int constants = 0;
  pg_graph *h = NULL;
  pg_status status = args ? pg_graph_new(&h) : PG_ERR_MEMORY;
  if (status == PG_OK) status = build_scan_body(b, node, in, batched, h, args, operands, &constants);
  if (status == PG_OK) {
    pg_graph_at(h, node->where);
    status = pg_built(root = pg_node_make(h, node->op, node->nin, args, &node->attrs, node->region));
  }
  if (status == PG_OK)
    status = pg_scan(b->g, h, 1, &root, constants, 0, operands, b->size, false, out);
  else
    pg_graph_free(h);
  pg_free(args);
  return status;
}

// ---- vectors -------------------------------------------------------------------------------------------------------

// Whether an elementwise operation on vectors is the same on their stacked forms.
static bool stays_whole(const pg_graph *g, const pg_node *node, const pg_value *in, const bool *batched) {
  if (node->op == PG_OP_FULL) return false;
  for (int i = 0; i < node->nin; i++) {
    const pg_node *x = pg_at(g, in[i]);
    if (batched[i] ? !x->layout || x->op == PG_OP_PACK : x->layout != NULL) return false;
  }
  return true;
}

// An elementwise operation on tensor i of its vectors.
static pg_status map_part(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched, int i,
                          pg_value *out) {
  const pg_segment *s = pg_layout_segment(node->layout, i);
  pg_node part = *node;
  pg_value operands[3];
  part.layout = part.attrs.layout = NULL;
  part.ndim = (int8_t)s->ndim;
  part.attrs.n = node->op == PG_OP_FULL ? s->ndim : node->attrs.n;
  memcpy(part.shape, s->shape, sizeof part.shape);
  if (node->op == PG_OP_FULL) memcpy(part.attrs.a, s->shape, sizeof part.attrs.a);
  for (int k = 0; k < node->nin; k++) {
    operands[k] = pg_at(b->g, in[k])->layout ? pg_view_of(b->g, in[k], i) : in[k];
    PG_TRY(pg_built(operands[k]));
  }
  return pg_op_table[node->op]->batch(b, &part, operands, batched, out);
}

static pg_status map_vectors(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                             pg_value *out) {
  if (stays_whole(b->g, node, in, batched)) {
    *out = pg_node_make(b->g, node->op, node->nin, in, &node->attrs, NULL);
    return pg_built(*out);
  }
  const int n = pg_layout_count(node->layout);
  pg_value *parts = pg_alloc((size_t)n, sizeof *parts);
  pg_status status = parts ? PG_OK : PG_ERR_MEMORY;
  for (int i = 0; status == PG_OK && i < n; i++) status = map_part(b, node, in, batched, i, &parts[i]);
  if (status == PG_OK) status = pg_built(*out = pg_batch_pack(b, node->layout, parts));
  pg_free(parts);
  return status;
}

// ---- regions -------------------------------------------------------------------------------------------------------

const pg_value *pg_batch_find_region(const pg_batching *b, const pg_node *node) {
  for (size_t i = 0; i < b->nregions; i++) {
    const pg_batched_region *r = &b->regions[i];
    if (r->region == node->region && r->nin == node->nin &&
        (node->nin == 0 || memcmp(r->in, node->in, (size_t)node->nin * sizeof *r->in) == 0))
      return r->results;
  }
  return NULL;
}

pg_status pg_batch_keep_region(pg_batching *b, const pg_node *node, int n, const pg_value *results) {
  PG_TRY(pg_grow(&b->regions, &b->cap_regions, b->nregions + 1, sizeof *b->regions));
  pg_value *copy = pg_alloc((size_t)n, sizeof *copy);
  if (!copy) return PG_ERR_MEMORY;
  memcpy(copy, results, (size_t)n * sizeof *copy);
  b->regions[b->nregions++] =
      (pg_batched_region){.region = node->region, .in = node->in, .nin = node->nin, .nout = n, .results = copy};
  return PG_OK;
}

// ---- the walk ------------------------------------------------------------------------------------------------------

typedef struct walk {
  pg_batching b;
  const pg_graph *body;
  const pg_value *args;
  const bool *batched_args;
  bool *needed, *batched; // nodes of the body
  pg_value *map;          // what stands for each
  pg_value *operands;     // scratch: one entry per operand of a node
  bool *batched_operands; // likewise
} walk;

static void close_walk(walk *w) {
  for (size_t i = 0; i < w->b.nregions; i++) pg_free(w->b.regions[i].results);
  pg_free(w->b.regions);
  pg_free(w->needed), pg_free(w->batched), pg_free(w->map), pg_free(w->operands), pg_free(w->batched_operands);
}

static pg_status open_walk(walk *w, int n, const pg_value *roots) {
  for (int k = 0; k < n; k++) PG_TRY(pg_built(roots[k]));
  size_t most = 1;
  for (size_t v = 0; v < w->body->count; v++)
    if ((size_t)w->body->nodes[v].nin > most) most = (size_t)w->body->nodes[v].nin;
  w->needed = pg_alloc(w->body->count, sizeof *w->needed);
  w->batched = pg_alloc(w->body->count, sizeof *w->batched);
  w->map = pg_alloc(w->body->count, sizeof *w->map);
  w->operands = pg_alloc(most, sizeof *w->operands);
  w->batched_operands = pg_alloc(most, sizeof *w->batched_operands);
  if (!w->needed || !w->batched || !w->map || !w->operands || !w->batched_operands) return PG_ERR_MEMORY;
  for (int k = 0; k < n; k++) w->needed[roots[k]] = true;
  for (size_t v = w->body->count; v-- > 0;)
    for (int i = 0; w->needed[v] && i < w->body->nodes[v].nin; i++) w->needed[w->body->nodes[v].in[i]] = true;
  return PG_OK;
}

static pg_status visit(walk *w, pg_value v) {
  const pg_node *node = pg_at(w->body, v);
  const pg_op_info *info = pg_op_table[node->op];
  if (node->op == PG_OP_INPUT || node->op == PG_OP_SCALAR) {
    const int64_t i = node->attrs.a[0] + (node->op == PG_OP_SCALAR ? w->body->ninputs : 0);
    w->map[v] = w->args[i];
    w->batched[v] = w->batched_args[i];
    return pg_built(w->map[v]);
  }
  for (int i = 0; i < node->nin; i++) {
    w->operands[i] = w->map[node->in[i]];
    w->batched_operands[i] = w->batched[node->in[i]];
    w->batched[v] |= w->batched[node->in[i]];
  }
  pg_graph_at(w->b.g, node->where);
  if (!w->batched[v]) {
    w->map[v] = node->op == PG_OP_NUMBER
                    ? pg_number(w->b.g, node->attrs.x)
                    : pg_node_make(w->b.g, node->op, node->nin, w->operands, &node->attrs, node->region);
    return pg_built(w->map[v]);
  }
  w->map[v] = PG_NONE;
  if (!info->batch) return pg_batch_by_scan(&w->b, node, w->operands, w->batched_operands, &w->map[v]);
  if (node->layout && info->cls == PG_CLASS_MAP)
    return map_vectors(&w->b, node, w->operands, w->batched_operands, &w->map[v]);
  return info->batch(&w->b, node, w->operands, w->batched_operands, &w->map[v]);
}

pg_status pg_batch_body(pg_graph *g, const pg_graph *body, const pg_value *args, const bool *batched, int64_t size,
                        int n, const pg_value *roots, pg_value *results, bool *roots_batched) {
  walk w = {.b = {.g = g, .size = size}, .body = body, .args = args, .batched_args = batched};
  const char *where = g->where;
  pg_status status = open_walk(&w, n, roots);
  for (pg_value v = 0; status == PG_OK && v < (pg_value)body->count; v++)
    if (w.needed[v]) status = visit(&w, v);
  for (int k = 0; k < n; k++) {
    results[k] = status == PG_OK ? w.map[roots[k]] : PG_NONE;
    roots_batched[k] = status == PG_OK && w.batched[roots[k]];
  }
  g->where = where;
  close_walk(&w);
  return status;
}

pg_status pg_batch_reach(const pg_graph *body, const bool *batched, int n, const pg_value *roots, bool *roots_batched) {
  bool *reached = pg_alloc(body->count, sizeof *reached);
  if (!reached) return PG_ERR_MEMORY;
  for (size_t v = 0; v < body->count; v++) {
    const pg_node *node = &body->nodes[v];
    if (node->op == PG_OP_INPUT) reached[v] = batched[node->attrs.a[0]];
    for (int i = 0; i < node->nin; i++) reached[v] |= reached[node->in[i]];
  }
  for (int k = 0; k < n; k++) roots_batched[k] = reached[roots[k]];
  pg_free(reached);
  return PG_OK;
}

pg_status pg_vmap(pg_graph *g, const pg_graph *body, const pg_value *args, const bool *batched, int64_t size, int n,
                  const pg_value *roots, pg_value *results) {
  bool *reached = pg_alloc((size_t)n, sizeof *reached);
  pg_status status = reached ? PG_OK : PG_ERR_MEMORY;
  if (status == PG_OK) status = pg_batch_body(g, body, args, batched, size, n, roots, results, reached);
  pg_batching b = {.g = g, .size = size};
  for (int k = 0; status == PG_OK && k < n; k++)
    status = pg_built(results[k] = pg_batch_spread(&b, results[k], reached[k]));
  pg_free(reached);
  return status;
}
