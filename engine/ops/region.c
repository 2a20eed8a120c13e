// region.c: the rows of identities that steer differentiation (STOP, TAP, MARK) and of CALL. A CALL's operands are the
// body's inputs in order, then its scalars; a[0] says which of the body's outputs it is. Its derivative builds the
// body anew from marked operands, so nothing of the forward pass is kept for it (rematerialization).
#include "engine/ops/batching.h"

// ---- identities ----------------------------------------------------------------------------------------------------

static pg_status shape_identity(const pg_graph *g, pg_node *node) {
  pg_copy_type(node, pg_in(g, node, 0));
  return PG_OK;
}

static pg_status shape_tap(const pg_graph *g, pg_node *node) {
  if (!node->region || !node->region->tap) return pg_fail(PG_ERR_ARGUMENT, "tap: needs a function of the cotangent");
  return shape_identity(g, node);
}

static pg_status vjp_mark(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  (void)g, (void)v;
  ct_in[0] = ct;
  return PG_OK;
}

static pg_status vjp_tap(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v);
  ct_in[0] = node.region->tap(g, ct, node.region->user);
  PG_TRY(pg_built(ct_in[0]));
  if (pg_at(g, ct_in[0])->weak) ct_in[0] = pg_spread(g, ct_in[0], ct);
  PG_TRY(pg_built(ct_in[0]));
  char a[200], b[200];
  if (!pg_same_type(pg_at(g, ct_in[0]), pg_at(g, ct)))
    return pg_fail(PG_ERR_SHAPE, "tap: the function made %s of a cotangent %s",
                   pg_shape_text(pg_at(g, ct_in[0]), a, sizeof a), pg_shape_text(pg_at(g, ct), b, sizeof b));
  return PG_OK;
}

static pg_status jvp_identity(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  (void)g, (void)v;
  *out = tangents[0];
  return PG_OK;
}

// A mark or stop on a batched vector goes on its tensors, which stay what they are made of.
static pg_status batch_identity(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                                pg_value *out) {
  if (pg_at(b->g, in[0])->op != PG_OP_PACK) return pg_batch_rows(b, node, in, batched, out);
  const int n = pg_layout_count(node->layout);
  pg_value *parts = pg_alloc((size_t)n, sizeof *parts);
  if (!parts) return PG_ERR_MEMORY;
  for (int i = 0; i < n; i++) {
    const pg_value part = pg_view_of(b->g, in[0], i);
    parts[i] = pg_node_make(b->g, node->op, 1, &part, &node->attrs, NULL);
  }
  *out = pg_batch_pack(b, node->layout, parts);
  pg_free(parts);
  return pg_built(*out);
}

static pg_value refuse_tap(pg_graph *g, pg_value cotangent, void *user) {
  (void)g, (void)cotangent, (void)user;
  return pg_fail(PG_ERR_UNSUPPORTED, "pg.tap inside pg.vmap cannot be differentiated from outside of it"), PG_NONE;
}

// The function of a tap expects the cotangent of one entry.
static pg_status batch_tap(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                           pg_value *out) {
  (void)node, (void)batched;
  pg_region *region = pg_alloc(1, sizeof *region);
  if (!region) return PG_ERR_MEMORY;
  *region = (pg_region){.references = 1, .tap = refuse_tap};
  *out = pg_node_make(b->g, PG_OP_TAP, 1, in, NULL, region);
  pg_region_release(region);
  return pg_built(*out);
}

// ---- bodies --------------------------------------------------------------------------------------------------------

static pg_value rebuild(pg_graph *g, const pg_graph *body, const pg_node *node, const pg_value *args,
                        const pg_value *map) {
  if (node->op == PG_OP_INPUT) return args[node->attrs.a[0]];
  if (node->op == PG_OP_SCALAR) return args[body->ninputs + node->attrs.a[0]];
  if (node->op == PG_OP_NUMBER) return pg_number(g, node->attrs.x);
  pg_value few[8], *in = node->nin <= 8 ? few : pg_alloc((size_t)node->nin, sizeof *in);
  if (!in) return PG_NONE;
  for (int i = 0; i < node->nin; i++) in[i] = map[node->in[i]];
  pg_graph_at(g, node->where);
  pg_value v = pg_node_make(g, node->op, node->nin, in, &node->attrs, node->region);
  if (in != few) pg_free(in);
  return v;
}

pg_status pg_inline(pg_graph *g, const pg_graph *body, const pg_value *args, int n, const pg_value *roots,
                    pg_value *outs) {
  const char *where = g->where;
  pg_value *map = pg_alloc(body->count, sizeof *map);
  bool *needed = pg_alloc(body->count, sizeof *needed);
  pg_status status = map && needed ? PG_OK : PG_ERR_MEMORY;
  for (int i = 0; status == PG_OK && i < n; i++) needed[roots[i]] = true;
  for (pg_value v = (pg_value)body->count - 1; status == PG_OK && v >= 0; v--)
    for (int i = 0; needed[v] && i < pg_at(body, v)->nin; i++) needed[pg_at(body, v)->in[i]] = true;
  for (pg_value v = 0; status == PG_OK && v < (pg_value)body->count; v++) {
    if (!needed[v]) continue;
    map[v] = rebuild(g, body, pg_at(body, v), args, map);
    status = pg_built(map[v]);
  }
  for (int i = 0; i < n; i++) outs[i] = status == PG_OK ? map[roots[i]] : PG_NONE;
  g->where = where;
  pg_free(map);
  pg_free(needed);
  return status;
}

static pg_status want_arguments(const char *op, const pg_graph *g, const pg_node *node) {
  const pg_graph *body = node->region->body;
  if (node->nin != body->ninputs + body->nscalars)
    return pg_fail(PG_ERR_ARGUMENT, "%s: %d arguments for a body of %d", op, node->nin, body->ninputs + body->nscalars);
  for (int i = 0; i < node->nin; i++) {
    const pg_node *x = pg_in(g, node, i);
    const bool scalar = i >= body->ninputs;
    char a[200], b[200];
    const pg_node *want = pg_at(body, scalar ? body->scalars[i - body->ninputs] : body->inputs[i]);
    if (x->weak != want->weak || !pg_same_type(x, want))
      return pg_fail(PG_ERR_SHAPE, "%s: argument %d is %s, expected %s", op, i + 1, pg_shape_text(x, a, sizeof a),
                     pg_shape_text(want, b, sizeof b));
  }
  return PG_OK;
}

static pg_status shape_call(const pg_graph *g, pg_node *node) {
  const pg_region *r = node->region;
  if (!r || !r->body) return pg_fail(PG_ERR_ARGUMENT, "call: needs a body");
  PG_TRY(want_arguments("call", g, node));
  const int64_t which = node->attrs.a[0];
  if (which < 0 || which >= r->nout)
    return pg_fail(PG_ERR_ARGUMENT, "call: output %lld of %d", (long long)which + 1, r->nout);
  pg_copy_type(node, pg_at(r->body, r->outs[which]));
  return PG_OK;
}

// The body of call v built again from its operands under marks, which keep it apart from the forward pass and from
// what the operands themselves depend on. The marks are the same for all outputs of one call, so those share the
// second pass.
static pg_status rebuild_call(pg_graph *g, pg_value v, pg_value *marks, pg_value *y) {
  const pg_node node = *pg_at(g, v);
  for (int i = 0; i < node.nin; i++) {
    pg_attrs attrs = {.n = 3, .a = {-1, (int64_t)(intptr_t)node.region, i}};
    marks[i] = pg_node_make(g, PG_OP_MARK, 1, &node.in[i], &attrs, NULL);
    PG_TRY(pg_built(marks[i]));
  }
  return pg_inline(g, node.region->body, marks, 1, &node.region->outs[node.attrs.a[0]], y);
}

static pg_status vjp_call(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v);
  pg_value y, *marks = pg_alloc((size_t)node.nin * 3, sizeof *marks), *wrt = marks + node.nin, *found = wrt + node.nin;
  if (!marks) return PG_ERR_MEMORY;
  pg_status status = rebuild_call(g, v, marks, &y);
  int n = 0;
  for (int i = 0; i < node.nin; i++)
    if (ct_in[i] != PG_UNWANTED) wrt[n++] = marks[i];
  if (status == PG_OK) status = pg_vjp(g, 1, &y, &ct, n, wrt, found);
  for (int i = 0, k = 0; status == PG_OK && i < node.nin; i++)
    if (ct_in[i] != PG_UNWANTED) ct_in[i] = found[k++];
  pg_free(marks);
  return status;
}

static pg_status jvp_call(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const int n = pg_at(g, v)->nin;
  pg_value y, *marks = pg_alloc((size_t)n, sizeof *marks);
  if (!marks) return PG_ERR_MEMORY;
  pg_status status = rebuild_call(g, v, marks, &y);
  if (status == PG_OK) status = pg_jvp(g, n, marks, tangents, 1, &y, out);
  pg_free(marks);
  return status;
}

// The batched body, built once for all outputs.
static pg_status batch_call_body(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                                 pg_value *values, bool *reached) {
  const pg_graph *body = node->region->body;
  const int nout = node->region->nout;
  pg_value *args = values + nout, *results = args + node->nin;
  pg_graph *h = NULL;
  pg_status status = pg_graph_new(&h);
  for (int i = 0; status == PG_OK && i < node->nin; i++)
    status = pg_built(args[i] = i < body->ninputs ? pg_batch_input(h, pg_at(body, body->inputs[i]), batched[i], b->size)
                                                  : pg_scalar(h));
  if (status == PG_OK)
    status = pg_batch_body(h, body, args, batched, b->size, nout, node->region->outs, values, reached);
  pg_batching inside = {.g = h, .size = b->size};
  for (int k = 0; status == PG_OK && k < nout; k++)
    status = pg_built(values[k] = pg_batch_spread(&inside, values[k], reached[k]));
  if (status != PG_OK) {
    pg_graph_free(h);
    return status;
  }
  PG_TRY(pg_remat(b->g, h, nout, values, in, results));
  return pg_batch_keep_region(b, node, nout, results);
}

static pg_status batch_call(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                            pg_value *out) {
  if (!pg_batch_find_region(b, node)) {
    const size_t nout = (size_t)node->region->nout;
    pg_value *values = pg_alloc(2 * nout + (size_t)node->nin, sizeof *values);
    bool *reached = pg_alloc(nout, sizeof *reached);
    const pg_status status = values && reached ? batch_call_body(b, node, in, batched, values, reached) : PG_ERR_MEMORY;
    pg_free(values), pg_free(reached);
    PG_TRY(status);
  }
  *out = pg_batch_find_region(b, node)[node->attrs.a[0]];
  return PG_OK;
}

const pg_op_info pg_op_info_STOP = {
    .name = "stop", .arity = 1, .cls = PG_CLASS_VIEW, .shape = shape_identity, .batch = batch_identity};
const pg_op_info pg_op_info_TAP = {.name = "tap",
                                   .arity = 1,
                                   .cls = PG_CLASS_VIEW,
                                   .shape = shape_tap,
                                   .vjp = vjp_tap,
                                   .jvp = jvp_identity,
                                   .batch = batch_tap};
const pg_op_info pg_op_info_MARK = {.name = "mark",
                                    .arity = 1,
                                    .cls = PG_CLASS_VIEW,
                                    .shape = shape_identity,
                                    .vjp = vjp_mark,
                                    .jvp = jvp_identity,
                                    .batch = batch_identity};
const pg_op_info pg_op_info_CALL = {.name = "call",
                                    .arity = -1,
                                    .cls = PG_CLASS_REGION,
                                    .shape = shape_call,
                                    .vjp = vjp_call,
                                    .jvp = jvp_call,
                                    .batch = batch_call};
