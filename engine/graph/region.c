// region.c: building nodes that hold a body graph, and writing calls out in place before compilation: a call's body
// runs where it stands, and since its derivative builds the body again (ops/region.c), liveness frees what it computed
// in between.
#include "engine/graph/plan.h"
#include "engine/ops/rules.h"

// A region that owns the graphs; frees them on failure, also where building an output failed. The caller holds one
// reference.
static pg_region *new_region(pg_graph *body, pg_graph *cond, pg_value cond_out, int nouts, const pg_value *outs) {
  bool built = !cond || cond_out != PG_NONE;
  for (int i = 0; i < nouts; i++) built = built && outs[i] != PG_NONE;
  pg_region *r = built ? pg_alloc(1, sizeof *r) : NULL;
  if (r) r->outs = pg_alloc((size_t)nouts, sizeof *r->outs);
  if (!r || !r->outs) {
    pg_free(r);
    pg_graph_free(body);
    pg_graph_free(cond);
    return NULL;
  }
  r->references = 1;
  r->body = body;
  r->cond = cond;
  r->cond_out = cond_out;
  r->nout = nouts;
  for (int i = 0; i < nouts; i++) r->outs[i] = outs[i];
  return r;
}

static pg_status make_outputs(pg_graph *g, int op, pg_region *r, pg_attrs attrs, const pg_value *in,
                              pg_value *results) {
  if (!r) return pg_last_status();
  int nin = r->body->ninputs + r->body->nscalars;
  pg_status status = PG_OK;
  for (int k = 0; k < r->nout && status == PG_OK; k++) {
    attrs.a[0] = k;
    results[k] = pg_node_make(g, op, nin, in, &attrs, r);
    status = pg_built(results[k]);
  }
  pg_region_release(r);
  return status;
}

pg_status pg_remat(pg_graph *g, pg_graph *body, int nouts, const pg_value *outs, const pg_value *in,
                   pg_value *results) {
  pg_attrs attrs = {.n = 1};
  return make_outputs(g, PG_OP_CALL, new_region(body, NULL, PG_NONE, nouts, outs), attrs, in, results);
}

pg_status pg_scan(pg_graph *g, pg_graph *body, int nouts, const pg_value *outs, int nconst, int ncarry,
                  const pg_value *in, int64_t length, bool reverse, pg_value *results) {
  pg_attrs attrs = {.n = 5, .a = {0, nconst, ncarry, length, reverse}};
  return make_outputs(g, PG_OP_SCAN, new_region(body, NULL, PG_NONE, nouts, outs), attrs, in, results);
}

pg_status pg_while(pg_graph *g, pg_graph *cond, pg_value keep_going, pg_graph *body, int ncarry, const pg_value *outs,
                   int nconst, const pg_value *in, pg_value *results) {
  pg_attrs attrs = {.n = 5, .a = {0, nconst, ncarry, -1, 0}};
  return make_outputs(g, PG_OP_WHILE, new_region(body, cond, keep_going, ncarry, outs), attrs, in, results);
}

// ---- calls ----

static bool *reachable(const pg_graph *g, int nout, const pg_value *outs) {
  bool *live = pg_alloc(g->count, sizeof *live);
  if (!live) return NULL;
  for (int k = 0; k < nout; k++) live[outs[k]] = true;
  for (size_t v = g->count; v-- > 0;)
    for (int i = 0; live[v] && i < g->nodes[v].nin; i++) live[g->nodes[v].in[i]] = true;
  return live;
}

bool pg_has_calls(const pg_graph *g) {
  for (size_t v = 0; v < g->count; v++)
    if (g->nodes[v].op == PG_OP_CALL) return true;
  return false;
}

static pg_value copy_node(pg_graph *h, const pg_node *n, const pg_value *map) {
  pg_value *in = pg_alloc((size_t)n->nin, sizeof *in), v = PG_NONE;
  if (!in) return PG_NONE;
  for (int i = 0; i < n->nin; i++) in[i] = map[n->in[i]];
  pg_graph_at(h, n->where);
  if (n->op == PG_OP_NUMBER)
    v = pg_number(h, n->attrs.x);
  else if (n->op != PG_OP_CALL)
    v = pg_node_make(h, n->op, n->nin, in, &n->attrs, n->region);
  else if (pg_inline(h, n->region->body, in, 1, &n->region->outs[n->attrs.a[0]], &v) != PG_OK)
    v = PG_NONE;
  pg_free(in);
  return v;
}

pg_status pg_expand_calls(pg_graph *g, int nout, const pg_value *outs, pg_graph **expanded, pg_value *expanded_outs) {
  PG_TRY(pg_graph_new(expanded));
  pg_graph *h = *expanded;
  bool *live = reachable(g, nout, outs);
  pg_value *map = pg_alloc(g->count, sizeof *map);
  pg_status status = live && map ? PG_OK : PG_ERR_MEMORY;
  for (int i = 0; i < g->ninputs && status == PG_OK; i++) { // all of them: they are numbered
    const pg_node *n = pg_at(g, g->inputs[i]);
    status = pg_built(map[g->inputs[i]] = pg_input(h, (pg_dtype)n->dtype, n->ndim, n->shape, n->layout));
  }
  for (int i = 0; i < g->nscalars && status == PG_OK; i++) status = pg_built(map[g->scalars[i]] = pg_scalar(h));
  for (size_t v = 0; v < g->count && status == PG_OK; v++) {
    const pg_node *n = &g->nodes[v];
    if (!live[v] || n->op == PG_OP_INPUT || n->op == PG_OP_SCALAR) continue;
    status = pg_built(map[v] = copy_node(h, n, map));
  }
  for (int k = 0; k < nout && status == PG_OK; k++) expanded_outs[k] = map[outs[k]];
  pg_free(live);
  pg_free(map);
  if (status != PG_OK) {
    pg_graph_free(h);
    *expanded = NULL;
  }
  return status;
}
