// loop_batch.c: the batching rules of SCAN and WHILE: the body for the whole batch. A carry is batched if it starts so
// or if anything batched enters its next value, which may take a few rounds to show. Where the condition of a while is
// batched, the loop goes on while any entry wants to, and an entry that does not keeps its carries.
#include <string.h>

#include "engine/ops/batching.h"
#include "engine/ops/loop.h"

typedef struct batched_loop {
  pg_batching *b;
  const pg_node *node;
  const pg_value *in;
  const pg_region *region;
  int nconst, ncarry, nargs;      // nargs: inputs and scalars of the body
  bool *batched;                  // [nargs] of the operands; carries as found out
  bool *reached;                  // [nout] results of the body
  pg_value *args, *outs, *values; // [nargs], [nout], [nargs + nout]
} batched_loop;

static pg_status open_loop(batched_loop *l, const bool *batched) {
  const size_t n = (size_t)l->nargs, nout = (size_t)l->region->nout;
  l->batched = pg_alloc(n + nout + 1, sizeof *l->batched);
  l->args = pg_alloc(2 * (n + nout) + 1, sizeof *l->args);
  if (!l->batched || !l->args) return PG_ERR_MEMORY;
  memcpy(l->batched, batched, n * sizeof *batched);
  l->reached = l->batched + n;
  l->outs = l->args + n;
  l->values = l->outs + nout;
  return PG_OK;
}

static void close_loop(batched_loop *l) {
  pg_free(l->batched);
  pg_free(l->args);
}

static bool *carry_flags(batched_loop *l) {
  return l->batched + l->nconst;
}

// Which carries are batched, given that those flagged are.
static pg_status find_carries(batched_loop *l) {
  for (bool changed = true; changed;) {
    changed = false;
    PG_TRY(pg_batch_reach(l->region->body, l->batched, l->region->nout, l->region->outs, l->reached));
    for (int k = 0; k < l->ncarry; k++) {
      changed |= l->reached[k] && !carry_flags(l)[k];
      carry_flags(l)[k] |= l->reached[k];
    }
  }
  return PG_OK;
}

// Inputs and scalars of h as `body` has them, batched.
static pg_status declare(batched_loop *l, pg_graph *h, const pg_graph *body) {
  for (int i = 0; i < l->nargs; i++) {
    const bool scalar = i >= body->ninputs;
    l->args[i] = scalar ? pg_scalar(h) : pg_batch_input(h, pg_at(body, body->inputs[i]), l->batched[i], l->b->size);
    PG_TRY(pg_built(l->args[i]));
  }
  return PG_OK;
}

// The operands of the batched loop: carries that become batched start so, and what is scanned has its steps first.
static pg_status prepare_operands(batched_loop *l, const bool *given) {
  pg_graph *g = l->b->g;
  const int ninputs = l->region->body->ninputs;
  for (int i = 0; i < l->nargs; i++) {
    l->values[i] = l->in[i];
    if (l->batched[i] && !given[i]) l->values[i] = pg_batch_spread(l->b, l->in[i], false);
    if (given[i] && i >= l->nconst + l->ncarry && i < ninputs) l->values[i] = pg_batch_move_axis(g, l->in[i], 1, 0, 0);
    PG_TRY(pg_built(l->values[i]));
  }
  return PG_OK;
}

// The body's results in h; new carries are batched where the carries are.
static pg_status build_body(batched_loop *l, pg_graph *h) {
  const pg_region *r = l->region;
  PG_TRY(pg_batch_body(h, r->body, l->args, l->batched, l->b->size, r->nout, r->outs, l->outs, l->reached));
  pg_batching inside = {.g = h, .size = l->b->size};
  for (int k = 0; k < l->ncarry; k++)
    if (carry_flags(l)[k]) PG_TRY(pg_built(l->outs[k] = pg_batch_spread(&inside, l->outs[k], l->reached[k])));
  return PG_OK;
}

// Results of the loop with the batch first, kept for the nodes of all outputs.
static pg_status keep_results(batched_loop *l, pg_value *results) {
  for (int k = 0; k < l->region->nout; k++) {
    const bool batched = k < l->ncarry ? carry_flags(l)[k] : l->reached[k];
    if (batched && k >= l->ncarry) results[k] = pg_batch_move_axis(l->b->g, results[k], 1, 0, 0);
    PG_TRY(pg_built(results[k] = pg_batch_spread(l->b, results[k], batched)));
  }
  return pg_batch_keep_region(l->b, l->node, l->region->nout, results);
}

static pg_status build_scan(batched_loop *l, const bool *given) {
  const int64_t *a = l->node->attrs.a;
  pg_value *results = l->values + l->nargs;
  pg_graph *h = NULL;
  PG_TRY(find_carries(l));
  PG_TRY(prepare_operands(l, given));
  PG_TRY(pg_graph_new(&h));
  pg_status status = declare(l, h, l->region->body);
  if (status == PG_OK) status = build_body(l, h);
  if (status != PG_OK) {
    pg_graph_free(h);
    return status;
  }
  PG_TRY(pg_scan(l->b->g, h, l->region->nout, l->outs, l->nconst, l->ncarry, l->values, a[PG_LOOP_LENGTH],
                 a[PG_LOOP_REVERSE], results));
  return keep_results(l, results);
}

// ---- while ---------------------------------------------------------------------------------------------------------

// new where keep [size], else old; of vectors, tensor by tensor.
static pg_value select_entries(pg_batching *b, pg_value keep, pg_value new, pg_value old) {
  const pg_layout *stacked = pg_at(b->g, new)->layout;
  if (!stacked) {
    const pg_value mask = pg_batch_align(b, keep, true, pg_at(b->g, new)->ndim - 1);
    return pg_op3(b->g, PG_OP_WHERE, mask, new, old);
  }
  const int n = pg_layout_count(stacked);
  pg_value *parts = pg_alloc((size_t)n, sizeof *parts);
  if (!parts) return PG_NONE;
  for (int i = 0; i < n; i++) {
    const pg_value x = pg_view_of(b->g, new, i), y = pg_view_of(b->g, old, i);
    parts[i] = x == PG_NONE || y == PG_NONE ? PG_NONE : select_entries(b, keep, x, y);
  }
  const pg_value out = pg_pack(b->g, stacked, parts);
  pg_free(parts);
  return out;
}

// The condition in h for each entry, [size]; *reached: whether it is batched at all.
static pg_status build_condition(batched_loop *l, pg_graph *h, pg_value *going, bool *reached) {
  const pg_region *r = l->region;
  return pg_batch_body(h, r->cond, l->args, l->batched, l->b->size, 1, &r->cond_out, going, reached);
}

// Whether any entry goes on.
static pg_value any_of(pg_graph *h, pg_value going) {
  pg_value count = pg_reduce_run(h, PG_OP_SUM, pg_cast(h, going, PG_I64), 0, 1, false);
  return count == PG_NONE ? count : pg_op2(h, PG_OP_GT, count, pg_number(h, 0));
}

static pg_status build_while_graphs(batched_loop *l, pg_graph *cond, pg_value *keep_going, pg_graph *body) {
  bool batched;
  pg_value going;
  PG_TRY(declare(l, cond, l->region->cond));
  PG_TRY(build_condition(l, cond, keep_going, &batched));
  if (batched) PG_TRY(pg_built(*keep_going = any_of(cond, *keep_going)));
  PG_TRY(declare(l, body, l->region->body));
  PG_TRY(build_body(l, body));
  if (!batched) return PG_OK;
  PG_TRY(build_condition(l, body, &going, &batched));
  pg_batching inside = {.g = body, .size = l->b->size};
  for (int k = 0; k < l->ncarry; k++) {
    if (pg_at(body, l->outs[k])->dtype == PG_KEY)
      return pg_fail(PG_ERR_UNSUPPORTED,
                     "vmap: a while_loop that ends at another round for each entry cannot carry keys; carry a number "
                     "and fold it into a key");
    l->outs[k] = select_entries(&inside, going, l->outs[k], l->args[l->nconst + k]);
    PG_TRY(pg_built(l->outs[k]));
  }
  return PG_OK;
}

static pg_status build_while(batched_loop *l, const bool *given) {
  pg_value *results = l->values + l->nargs, keep_going = PG_NONE;
  pg_graph *cond = NULL, *body = NULL;
  bool batched;
  PG_TRY(find_carries(l));
  PG_TRY(pg_batch_reach(l->region->cond, l->batched, 1, &l->region->cond_out, &batched));
  for (int k = 0; batched && k < l->ncarry; k++) carry_flags(l)[k] = true;
  PG_TRY(prepare_operands(l, given));
  PG_TRY(pg_graph_new(&cond));
  pg_status status = pg_graph_new(&body);
  if (status == PG_OK) status = build_while_graphs(l, cond, &keep_going, body);
  if (status != PG_OK) {
    pg_graph_free(cond);
    pg_graph_free(body);
    return status;
  }
  PG_TRY(pg_while(l->b->g, cond, keep_going, body, l->ncarry, l->outs, l->nconst, l->values, results));
  return keep_results(l, results);
}

pg_status pg_batch_loop(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched, pg_value *out) {
  if (!pg_batch_find_region(b, node)) {
    batched_loop l = {.b = b,
                      .node = node,
                      .in = in,
                      .region = node->region,
                      .nconst = (int)node->attrs.a[PG_LOOP_CONSTANTS],
                      .ncarry = (int)node->attrs.a[PG_LOOP_CARRIES],
                      .nargs = node->nin};
    pg_status status = open_loop(&l, batched);
    if (status == PG_OK) status = node->op == PG_OP_SCAN ? build_scan(&l, batched) : build_while(&l, batched);
    close_loop(&l);
    PG_TRY(status);
  }
  *out = pg_batch_find_region(b, node)[node->attrs.a[PG_LOOP_WHICH]];
  return PG_OK;
}
