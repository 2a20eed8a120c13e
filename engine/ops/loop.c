// loop.c: the rows of SCAN and WHILE, and the derivative of scan. Operands of both: constants, then carries, then
// (scan) what is scanned, then weak scalars; a body's inputs are constants, carries, one slice of each scanned operand,
// and its scalars. attrs.a = {which output, constants, carries, length, reverse}. Outputs of the body: new carries,
// then (scan) slices of the stacked outputs. Reverse mode first runs the scan again keeping each step's carries, then
// scans backwards over them.
#include <string.h>

#include "engine/ops/loop.h"

static pg_status stacked_type(const pg_node *slice, int64_t length, pg_node *out) {
  if (slice->layout || slice->ndim >= PG_MAX_NDIM)
    return pg_fail(PG_ERR_SHAPE, "scan: what is stacked must be a tensor of at most %d dimensions, not a vector",
                   PG_MAX_NDIM - 1);
  int64_t shape[PG_MAX_NDIM];
  shape[0] = length;
  memcpy(shape + 1, slice->shape, (size_t)slice->ndim * sizeof *shape);
  pg_set_type(out, (pg_dtype)slice->dtype, slice->ndim + 1, shape, NULL);
  return PG_OK;
}

static pg_status check_operand(const char *op, const pg_graph *g, const pg_node *node, int i, const pg_graph *body) {
  const pg_node *x = pg_in(g, node, i), *want;
  const bool scalar = i >= body->ninputs;
  want = pg_at(body, scalar ? body->scalars[i - body->ninputs] : body->inputs[i]);
  pg_node whole = *want;
  if (!scalar && i >= node->attrs.a[PG_LOOP_CONSTANTS] + node->attrs.a[PG_LOOP_CARRIES] && node->op == PG_OP_SCAN)
    PG_TRY(stacked_type(want, node->attrs.a[PG_LOOP_LENGTH], &whole));
  char a[200], b[200];
  if (x->weak == whole.weak && pg_same_type(x, &whole)) return PG_OK;
  return pg_fail(PG_ERR_SHAPE, "%s: argument %d is %s, expected %s", op, i + 1, pg_shape_text(x, a, sizeof a),
                 pg_shape_text(&whole, b, sizeof b));
}

static pg_status check_body(const char *op, const pg_graph *g, const pg_node *node, const pg_graph *body) {
  if (node->nin != body->ninputs + body->nscalars)
    return pg_fail(PG_ERR_ARGUMENT, "%s: %d arguments for a body of %d", op, node->nin, body->ninputs + body->nscalars);
  for (int i = 0; i < node->nin; i++) PG_TRY(check_operand(op, g, node, i, body));
  return PG_OK;
}

static pg_status shape_loop(const pg_graph *g, pg_node *node) {
  const char *op = pg_op_table[node->op]->name;
  const pg_region *r = node->region;
  const int64_t *a = node->attrs.a;
  if (!r || !r->body || a[PG_LOOP_WHICH] < 0 || a[PG_LOOP_WHICH] >= r->nout || a[PG_LOOP_CARRIES] > r->nout)
    return pg_fail(PG_ERR_ARGUMENT, "%s: needs a body that yields its carries", op);
  PG_TRY(check_body(op, g, node, r->body));
  if (node->op == PG_OP_WHILE) {
    PG_TRY(check_body(op, g, node, r->cond));
    const pg_node *c = pg_at(r->cond, r->cond_out);
    if (c->weak || c->dtype != PG_BOOL || c->ndim != 0)
      return pg_fail(PG_ERR_DTYPE, "while_loop: the condition must yield one bool, such as x:lt(y)");
  }
  for (int k = 0; k < a[PG_LOOP_CARRIES]; k++) {
    const pg_node *before = pg_at(r->body, r->body->inputs[a[PG_LOOP_CONSTANTS] + k]),
                  *after = pg_at(r->body, r->outs[k]);
    char p[200], q[200];
    if (after->weak || !pg_same_type(before, after))
      return pg_fail(PG_ERR_SHAPE, "%s: carry %d comes in as %s and goes out as %s", op, k + 1,
                     pg_shape_text(before, p, sizeof p), pg_shape_text(after, q, sizeof q));
  }
  const pg_node *out = pg_at(r->body, r->outs[a[PG_LOOP_WHICH]]);
  if (a[PG_LOOP_WHICH] >= a[PG_LOOP_CARRIES]) {
    if (out->weak) return pg_fail(PG_ERR_DTYPE, "scan: what is stacked must be a tensor, not a number");
    return stacked_type(out, a[PG_LOOP_LENGTH], node);
  }
  pg_copy_type(node, out);
  return PG_OK;
}

// ---- building bodies ----

// A new graph with the inputs and scalars of `body`.
static pg_status same_arguments(const pg_graph *body, pg_graph **out, pg_value *args) {
  PG_TRY(pg_graph_new(out));
  for (int i = 0; i < body->ninputs; i++) {
    const pg_node *n = pg_at(body, body->inputs[i]);
    PG_TRY(pg_built(args[i] = pg_input(*out, (pg_dtype)n->dtype, n->ndim, n->shape, n->layout)));
  }
  for (int i = 0; i < body->nscalars; i++) PG_TRY(pg_built(args[body->ninputs + i] = pg_scalar(*out)));
  return PG_OK;
}

static pg_value input_like(pg_graph *h, const pg_node *n) {
  return pg_input(h, (pg_dtype)n->dtype, n->ndim, n->shape, n->layout);
}

static bool is_differentiable(const pg_node *n) {
  return !n->weak && pg_dtype_is_float((pg_dtype)n->dtype);
}

// ---- reverse mode ----

typedef struct backward {
  pg_graph *g;
  pg_node node; // the scan
  const pg_graph *body;
  int nconst, ncarry, nx;
  pg_value *saved; // [ncarry] each step's incoming carries, stacked
} backward;

// Run the scan again with each step's incoming carries stacked. They are the same node for every output of one scan.
static pg_status save_carries(backward *b) {
  const int n = b->node.nin;
  pg_value *args = pg_alloc((size_t)n + 4 * (size_t)b->ncarry, sizeof *args), *roots = args + n;
  pg_value *results = roots + 2 * b->ncarry;
  pg_graph *h = NULL;
  pg_status status = args ? same_arguments(b->body, &h, args) : PG_ERR_MEMORY;
  if (status == PG_OK) status = pg_inline(h, b->body, args, b->ncarry, b->node.region->outs, roots);
  for (int k = 0; status == PG_OK && k < b->ncarry; k++) roots[b->ncarry + k] = args[b->nconst + k];
  if (status == PG_OK)
    status = pg_scan(b->g, h, 2 * b->ncarry, roots, b->nconst, b->ncarry, b->node.in, b->node.attrs.a[PG_LOOP_LENGTH],
                     b->node.attrs.a[PG_LOOP_REVERSE], results);
  else
    pg_graph_free(h);
  for (int k = 0; status == PG_OK && k < b->ncarry; k++) b->saved[k] = results[b->ncarry + k];
  pg_free(args);
  return status;
}

// The body of the backward scan. Inputs: the constants; as carries the cotangents of the float carries and the sums of
// those of the float constants; scanned: incoming carries, scanned operands, the cotangent of the stacked output if
// that is what is differentiated; scalars. Outputs: new cotangents and sums, then cotangents of the scanned float
// operands.
static pg_status backward_body(backward *b, pg_graph **out, pg_value *roots, int *nroots) {
  const pg_graph *body = b->body;
  const int n = body->ninputs + body->nscalars, nout = b->node.region->nout,
            which = (int)b->node.attrs.a[PG_LOOP_WHICH];
  pg_value *args = pg_alloc(3 * (size_t)n + 3 * (size_t)nout + (size_t)b->ncarry + (size_t)b->nconst, sizeof *args);
  if (!args) return PG_ERR_MEMORY;
  pg_value *wrt = args + n, *found = wrt + n, *ys = found + n, *cts = ys + nout, *all = cts + nout;
  pg_value *ct_carry = all + nout, *sums = ct_carry + b->ncarry;
  pg_status status = pg_graph_new(out);
  pg_graph *h = *out;
  for (int i = 0; status == PG_OK && i < b->nconst; i++) args[i] = input_like(h, pg_at(body, body->inputs[i]));
  for (int k = 0; status == PG_OK && k < b->ncarry; k++) {
    const pg_node *c = pg_at(body, body->inputs[b->nconst + k]);
    if (is_differentiable(c)) ct_carry[k] = input_like(h, c);
  }
  for (int i = 0; status == PG_OK && i < b->nconst; i++)
    if (is_differentiable(pg_at(body, body->inputs[i]))) sums[i] = input_like(h, pg_at(body, body->inputs[i]));
  for (int i = b->nconst; status == PG_OK && i < body->ninputs; i++)
    args[i] = input_like(h, pg_at(body, body->inputs[i]));
  pg_value ct_y = PG_NONE;
  if (status == PG_OK && which >= b->ncarry) ct_y = input_like(h, pg_at(body, b->node.region->outs[which]));
  for (int i = 0; status == PG_OK && i < body->nscalars; i++) args[body->ninputs + i] = pg_scalar(h);
  int nw = 0, ny = 0;
  for (int i = 0; status == PG_OK && i < body->ninputs; i++) {
    pg_attrs mark = {.n = 2, .a = {-2, i}};
    args[i] = pg_node_make(h, PG_OP_MARK, 1, &args[i], &mark, NULL);
    status = pg_built(args[i]);
    if (is_differentiable(pg_at(body, body->inputs[i]))) wrt[nw++] = args[i];
  }
  if (status == PG_OK) status = pg_inline(h, body, args, nout, b->node.region->outs, all);
  for (int k = 0; status == PG_OK && k < nout; k++) {
    if (!is_differentiable(pg_at(h, all[k])) || (k >= b->ncarry && k != which)) continue;
    ys[ny] = all[k];
    cts[ny++] = k < b->ncarry ? ct_carry[k] : ct_y;
  }
  if (status == PG_OK) status = pg_vjp(h, ny, ys, cts, nw, wrt, found);
  *nroots = 0;
  for (int pass = 0; status == PG_OK && pass < 3; pass++) // carries, constants, scanned: the order of the outputs
    for (int i = 0, w = 0; status == PG_OK && i < body->ninputs; i++) {
      if (!is_differentiable(pg_at(body, body->inputs[i]))) continue;
      const pg_value ct = found[w++];
      const int kind = i < b->nconst ? 1 : i < b->nconst + b->ncarry ? 0 : 2;
      if (kind != pass) continue;
      roots[*nroots] = kind == 1 ? pg_op2(h, PG_OP_ADD, sums[i], ct) : ct;
      status = pg_built(roots[(*nroots)++]);
    }
  pg_free(args);
  return status;
}

static pg_status vjp_scan(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  backward b = {.g = g, .node = *pg_at(g, v)};
  b.body = b.node.region->body;
  b.nconst = (int)b.node.attrs.a[PG_LOOP_CONSTANTS];
  b.ncarry = (int)b.node.attrs.a[PG_LOOP_CARRIES];
  b.nx = b.body->ninputs - b.nconst - b.ncarry;
  const int n = b.node.nin, which = (int)b.node.attrs.a[PG_LOOP_WHICH];
  for (int i = b.body->ninputs; i < n; i++)
    if (ct_in[i] != PG_UNWANTED)
      return pg_fail(PG_ERR_UNSUPPORTED,
                     "scan: a derivative with respect to a number is not built in; make it a tensor");
  pg_value *saved = pg_alloc(8 * (size_t)n + 8, sizeof *saved), *in = saved + n, *roots = in + 3 * n + 2;
  pg_value *results = roots + 2 * n;
  if (!saved) return PG_ERR_MEMORY;
  b.saved = saved;
  pg_graph *h = NULL;
  int nroots = 0, nin = 0, ncarries = 0;
  pg_status status = save_carries(&b);
  if (status == PG_OK) status = backward_body(&b, &h, roots, &nroots);
  for (int i = 0; i < b.nconst; i++) in[nin++] = b.node.in[i];
  for (int pass = 0; pass < 2; pass++)
    for (int i = pass ? 0 : b.nconst; i < (pass ? b.nconst : b.nconst + b.ncarry); i++) {
      if (!is_differentiable(pg_at(g, b.node.in[i]))) continue;
      in[nin++] = !pass && i - b.nconst == which ? ct : pg_zeros_like(g, b.node.in[i]);
      ncarries++;
    }
  for (int k = 0; k < b.ncarry; k++) in[nin++] = saved[k];
  for (int i = b.nconst + b.ncarry; i < b.body->ninputs; i++) in[nin++] = b.node.in[i];
  if (which >= b.ncarry) in[nin++] = ct;
  for (int i = b.body->ninputs; i < n; i++) in[nin++] = b.node.in[i];
  if (status == PG_OK)
    status = pg_scan(g, h, nroots, roots, b.nconst, ncarries, in, b.node.attrs.a[PG_LOOP_LENGTH],
                     !b.node.attrs.a[PG_LOOP_REVERSE], results);
  else
    pg_graph_free(h);
  for (int pass = 0, k = 0; status == PG_OK && pass < 3; pass++)
    for (int i = 0; i < b.body->ninputs; i++) {
      const int kind = i < b.nconst ? 1 : i < b.nconst + b.ncarry ? 0 : 2;
      if (kind != pass || !is_differentiable(pg_at(g, b.node.in[i]))) continue;
      if (ct_in[i] != PG_UNWANTED) ct_in[i] = results[k];
      k++;
    }
  pg_free(saved);
  return status;
}

// ---- forward mode ----

// The scan of values and tangents together: constants, their tangents; carries, theirs; scanned, theirs; scalars.
static pg_status jvp_scan(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_node node = *pg_at(g, v);
  const pg_graph *body = node.region->body;
  const int nconst = (int)node.attrs.a[PG_LOOP_CONSTANTS], ncarry = (int)node.attrs.a[PG_LOOP_CARRIES],
            nout = node.region->nout;
  const int ends[4] = {0, nconst, nconst + ncarry, body->ninputs}, total = body->ninputs + body->nscalars;
  for (int i = body->ninputs; i < total; i++)
    if (tangents[i] != PG_NONE)
      return pg_fail(PG_ERR_UNSUPPORTED,
                     "scan: a derivative with respect to a number is not built in; make it a tensor");
  pg_value *args = pg_alloc(5 * (size_t)total + 6 * (size_t)nout + 8, sizeof *args);
  if (!args) return PG_ERR_MEMORY;
  pg_value *dirs = args + total, *in = dirs + total, *all = in + 2 * total, *dots = all + nout, *roots = dots + nout;
  pg_value *results = roots + 2 * nout;
  pg_graph *h = NULL;
  int nin = 0, constants = 0;
  pg_status status = pg_graph_new(&h);
  for (int part = 0; status == PG_OK && part < 3; part++)
    for (int tangent = 0; tangent < 2; tangent++)
      for (int i = ends[part]; status == PG_OK && i < ends[part + 1]; i++) {
        const pg_node *n = pg_at(body, body->inputs[i]);
        if (tangent && !is_differentiable(n)) {
          dirs[i] = PG_NONE;
          continue;
        }
        pg_value x = input_like(h, n);
        in[nin] = !tangent ? node.in[i] : tangents[i] != PG_NONE ? tangents[i] : pg_zeros_like(g, node.in[i]);
        status = pg_built(x) || pg_built(in[nin++]);
        (tangent ? dirs : args)[i] = x;
        constants += part == 0;
      }
  for (int i = 0; status == PG_OK && i < body->nscalars; i++) {
    args[body->ninputs + i] = pg_scalar(h);
    in[nin++] = node.in[body->ninputs + i];
  }
  for (int i = 0; status == PG_OK && i < body->ninputs; i++) {
    pg_attrs mark = {.n = 2, .a = {-3, i}};
    status = pg_built(args[i] = pg_node_make(h, PG_OP_MARK, 1, &args[i], &mark, NULL));
  }
  if (status == PG_OK) status = pg_inline(h, body, args, nout, node.region->outs, all);
  if (status == PG_OK) status = pg_jvp(h, body->ninputs, args, dirs, nout, all, dots);
  int nroots = 0, carries = 0, wanted = -1;
  for (int part = 0; status == PG_OK && part < 2; part++) // carries, then what is stacked; values before tangents
    for (int tangent = 0; tangent < 2; tangent++)
      for (int k = part ? ncarry : 0; k < (part ? nout : ncarry); k++) {
        if (tangent && !is_differentiable(pg_at(h, all[k]))) continue;
        if (tangent && k == node.attrs.a[PG_LOOP_WHICH]) wanted = nroots;
        roots[nroots++] = tangent ? dots[k] : all[k];
        carries += !part;
      }
  if (status == PG_OK)
    status = pg_scan(g, h, nroots, roots, constants, carries, in, node.attrs.a[PG_LOOP_LENGTH],
                     node.attrs.a[PG_LOOP_REVERSE], results);
  else
    pg_graph_free(h);
  if (status == PG_OK) *out = wanted >= 0 ? results[wanted] : PG_NONE;
  pg_free(args);
  return status;
}

static pg_status vjp_while(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  (void)g, (void)v, (void)ct, (void)ct_in;
  return pg_fail(PG_ERR_UNSUPPORTED, "while_loop: reverse mode is not defined for a loop of unknown length; use scan");
}

static pg_status jvp_while(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  (void)g, (void)v, (void)tangents, (void)out;
  return pg_fail(PG_ERR_UNSUPPORTED, "while_loop: forward mode is not built in; use scan");
}

const pg_op_info pg_op_info_SCAN = {.name = "scan",
                                    .arity = -1,
                                    .cls = PG_CLASS_REGION,
                                    .shape = shape_loop,
                                    .vjp = vjp_scan,
                                    .jvp = jvp_scan,
                                    .batch = pg_batch_loop};
const pg_op_info pg_op_info_WHILE = {.name = "while",
                                     .arity = -1,
                                     .cls = PG_CLASS_REGION,
                                     .shape = shape_loop,
                                     .vjp = vjp_while,
                                     .jvp = jvp_while,
                                     .batch = pg_batch_loop};
