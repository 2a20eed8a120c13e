// diff.c: derivatives as new nodes of the same graph. Reverse mode walks the nodes backwards and hands each node's
// cotangent to its op's vjp rule; forward mode walks forwards with the jvp rules. Only nodes between the variables and
// the results are touched. New nodes take the recipe line of the node that they are the derivative of.
//
// Cotangents of weak scalars are numbers or 0-d f64 tensors. Cotangents of the tensors of a vector are collected and
// packed once, when the vector's turn comes, instead of adding up whole vectors.
#include "engine/ops/rules.h"

typedef struct diff {
  pg_graph *g;
  pg_value count;     // nodes when differentiation began
  bool *active;       // depends on a variable in a differentiable way
  pg_value *value;    // cotangent or tangent of each node, or PG_NONE
  pg_value **parts;   // reverse mode: cotangents of a vector's tensors, or NULL
  pg_value *operands; // scratch: one entry per operand of a node
} diff;

static bool carries_derivative(const pg_node *node) {
  return node->weak || pg_dtype_is_float((pg_dtype)node->dtype);
}

static void diff_close(diff *d) {
  for (pg_value v = 0; d->parts && v < d->count; v++) pg_free(d->parts[v]);
  pg_free(d->parts);
  pg_free(d->active);
  pg_free(d->value);
  pg_free(d->operands);
}

static pg_status diff_open(diff *d, pg_graph *g) {
  int most = 1;
  *d = (diff){.g = g, .count = (pg_value)g->count};
  for (pg_value v = 0; v < d->count; v++)
    if (pg_at(g, v)->nin > most) most = pg_at(g, v)->nin;
  d->active = pg_alloc((size_t)d->count, sizeof *d->active);
  d->value = pg_alloc((size_t)d->count, sizeof *d->value);
  d->parts = pg_alloc((size_t)d->count, sizeof *d->parts);
  d->operands = pg_alloc((size_t)most, sizeof *d->operands);
  if (!d->active || !d->value || !d->parts || !d->operands) {
    diff_close(d);
    return PG_ERR_MEMORY;
  }
  for (pg_value v = 0; v < d->count; v++) d->value[v] = PG_NONE;
  return PG_OK;
}

// Mark the nodes that depend on the variables already marked.
static void spread_activity(diff *d) {
  for (pg_value v = 0; v < d->count; v++) {
    const pg_node *node = pg_at(d->g, v);
    const pg_op_info *info = pg_op_table[node->op];
    if (d->active[v] || !carries_derivative(node) || (!info->vjp && !info->jvp)) continue;
    for (int i = 0; i < node->nin; i++) d->active[v] |= d->active[node->in[i]];
  }
}

static pg_status want_values(const pg_graph *g, const char *what, int n, const pg_value *values) {
  for (int i = 0; i < n; i++)
    if (values[i] < 0 || (size_t)values[i] >= g->count) {
      if (values[i] == PG_NONE) return pg_last_status(); // building it failed, and its message stands
      return pg_fail(PG_ERR_ARGUMENT, "%s %d is not a value of this graph", what, i + 1);
    }
  return PG_OK;
}

static pg_status want_variable(const pg_graph *g, const char *what, int i, pg_value v) {
  char text[200];
  if (carries_derivative(pg_at(g, v))) return PG_OK;
  return pg_fail(PG_ERR_DTYPE, "%s %d is %s; derivatives exist for floating-point values", what, i + 1,
                 pg_shape_text(pg_at(g, v), text, sizeof text));
}

// `given` as a cotangent or tangent of y: numbers are spread, tensors must have y's type.
static pg_status fit(pg_graph *g, const char *what, int i, pg_value given, pg_value y, pg_value *out) {
  char a[200], b[200];
  if (pg_at(g, given)->weak) {
    *out = pg_spread(g, given, y);
    return pg_built(*out);
  }
  *out = given;
  if (pg_at(g, y)->weak ? pg_at(g, given)->ndim == 0 : pg_same_type(pg_at(g, given), pg_at(g, y))) return PG_OK;
  return pg_fail(PG_ERR_SHAPE, "%s %d is %s, expected %s", what, i + 1, pg_shape_text(pg_at(g, given), a, sizeof a),
                 pg_shape_text(pg_at(g, y), b, sizeof b));
}

static pg_status accumulate(diff *d, pg_value *sum, pg_value term) {
  *sum = *sum == PG_NONE ? term : pg_op2(d->g, PG_OP_ADD, *sum, term);
  return pg_built(*sum);
}

// ---- reverse mode --------------------------------------------------------------------------------------------------

static pg_status add_cotangent(diff *d, pg_value v, pg_value ct) {
  if (pg_at(d->g, v)->weak) ct = pg_as(d->g, ct, PG_F64); // tensors of f32 and f64 may both have met this number
  PG_TRY(pg_built(ct));
  return accumulate(d, &d->value[v], ct);
}

// The cotangent of tensor i of vector v.
static pg_status add_part(diff *d, pg_value v, int i, pg_value ct) {
  const int n = pg_layout_count(pg_at(d->g, v)->layout);
  if (!d->parts[v]) {
    d->parts[v] = pg_alloc((size_t)n, sizeof **d->parts);
    if (!d->parts[v]) return PG_ERR_MEMORY;
    for (int k = 0; k < n; k++) d->parts[v][k] = PG_NONE;
  }
  return accumulate(d, &d->parts[v][i], ct);
}

static pg_status pack_parts(diff *d, pg_value v) {
  if (!d->parts[v]) return PG_OK;
  const pg_node node = *pg_at(d->g, v);
  const int n = pg_layout_count(node.layout);
  for (int i = 0; i < n; i++)
    if (d->parts[v][i] == PG_NONE) d->parts[v][i] = pg_segment_zeros(d->g, (pg_dtype)node.dtype, node.layout, i);
  pg_value packed = pg_pack(d->g, node.layout, d->parts[v]);
  PG_TRY(pg_built(packed));
  return add_cotangent(d, v, packed);
}

static pg_status pull_back(diff *d, pg_value v) {
  PG_TRY(pack_parts(d, v));
  const pg_node node = *pg_at(d->g, v);
  const pg_op_info *info = pg_op_table[node.op];
  if (d->value[v] == PG_NONE || !info->vjp) return PG_OK;
  if (node.op == PG_OP_VIEW)
    return d->active[node.in[0]] ? add_part(d, node.in[0], (int)node.attrs.a[0], d->value[v]) : PG_OK;
  bool wanted = false;
  for (int i = 0; i < node.nin; i++) {
    d->operands[i] = d->active[node.in[i]] ? PG_NONE : PG_UNWANTED;
    wanted |= d->active[node.in[i]];
  }
  if (!wanted) return PG_OK;
  d->g->where = node.where;
  PG_TRY(info->vjp(d->g, v, d->value[v], d->operands));
  for (int i = 0; i < node.nin; i++)
    if (d->active[node.in[i]] && d->operands[i] != PG_NONE) PG_TRY(add_cotangent(d, node.in[i], d->operands[i]));
  return PG_OK;
}

static pg_status seed_cotangents(diff *d, int ny, const pg_value *ys, const pg_value *cts) {
  for (int k = 0; k < ny; k++) {
    char text[200];
    pg_value ct = cts ? cts[k] : PG_NONE;
    if (ct == PG_NONE) {
      if (pg_at(d->g, ys[k])->ndim != 0)
        return pg_fail(PG_ERR_SHAPE, "a derivative needs a result of one number, got %s (or give a cotangent)",
                       pg_shape_text(pg_at(d->g, ys[k]), text, sizeof text));
      ct = pg_full_like(d->g, ys[k], pg_number(d->g, 1));
    } else {
      PG_TRY(want_values(d->g, "cotangent", 1, &ct));
    }
    PG_TRY(want_variable(d->g, "result", k, ys[k]));
    PG_TRY(fit(d->g, "cotangent", k, ct, ys[k], &ct));
    if (d->active[ys[k]]) PG_TRY(add_cotangent(d, ys[k], ct));
  }
  return PG_OK;
}

static pg_status run_reverse(diff *d, int ny, const pg_value *ys, const pg_value *cts, int n, const pg_value *wrt,
                             pg_value *out) {
  for (int i = 0; i < n; i++) d->active[wrt[i]] = true;
  spread_activity(d);
  PG_TRY(seed_cotangents(d, ny, ys, cts));
  for (pg_value v = d->count - 1; v >= 0; v--)
    if (d->active[v]) PG_TRY(pull_back(d, v));
  for (int i = 0; i < n; i++) {
    out[i] = pg_or_zeros(d->g, d->value[wrt[i]], wrt[i]);
    PG_TRY(pg_built(out[i]));
  }
  return PG_OK;
}

pg_status pg_vjp(pg_graph *g, int ny, const pg_value *ys, const pg_value *cts, int n, const pg_value *wrt,
                 pg_value *out) {
  diff d;
  const char *where = g->where;
  for (int i = 0; i < n; i++) out[i] = PG_NONE;
  PG_TRY(want_values(g, "result", ny, ys));
  PG_TRY(want_values(g, "variable", n, wrt));
  for (int i = 0; i < n; i++) PG_TRY(want_variable(g, "variable", i, wrt[i]));
  PG_TRY(diff_open(&d, g));
  pg_status status = run_reverse(&d, ny, ys, cts, n, wrt, out);
  diff_close(&d);
  g->where = where;
  for (int i = 0; status != PG_OK && i < n; i++) out[i] = PG_NONE;
  return status;
}

// ---- forward mode --------------------------------------------------------------------------------------------------

static pg_status push_forward(diff *d, pg_value v) {
  const pg_node node = *pg_at(d->g, v);
  const pg_op_info *info = pg_op_table[node.op];
  bool moved = false;
  for (int i = 0; i < node.nin; i++) {
    d->operands[i] = d->value[node.in[i]];
    moved |= d->operands[i] != PG_NONE;
  }
  if (!moved) return PG_OK;
  if (!info->jvp) return pg_fail(PG_ERR_UNSUPPORTED, "%s: has no forward derivative", info->name);
  pg_value tangent = PG_NONE;
  d->g->where = node.where;
  PG_TRY(info->jvp(d->g, v, d->operands, &tangent));
  return tangent == PG_NONE ? PG_OK : accumulate(d, &d->value[v], tangent);
}

// Which nodes the results need.
static pg_status find_needed(const diff *d, int ny, const pg_value *ys, bool **out) {
  bool *needed = pg_alloc((size_t)d->count, sizeof *needed);
  *out = needed;
  if (!needed) return PG_ERR_MEMORY;
  for (int k = 0; k < ny; k++) needed[ys[k]] = true;
  for (pg_value v = d->count - 1; v >= 0; v--)
    for (int i = 0; needed[v] && i < pg_at(d->g, v)->nin; i++) needed[pg_at(d->g, v)->in[i]] = true;
  return PG_OK;
}

static pg_status run_forward(diff *d, int n, const pg_value *xs, const pg_value *tangents, int ny, const pg_value *ys,
                             const bool *needed, pg_value *out) {
  for (int i = 0; i < n; i++) {
    if (tangents[i] == PG_NONE) continue;
    pg_value t;
    PG_TRY(want_values(d->g, "tangent", 1, &tangents[i]));
    PG_TRY(want_variable(d->g, "variable", i, xs[i]));
    PG_TRY(fit(d->g, "tangent", i, tangents[i], xs[i], &t));
    d->active[xs[i]] = true;
    PG_TRY(accumulate(d, &d->value[xs[i]], t));
  }
  spread_activity(d);
  for (pg_value v = 0; v < d->count; v++)
    if (d->active[v] && needed[v]) PG_TRY(push_forward(d, v));
  for (int k = 0; k < ny; k++) {
    out[k] = pg_or_zeros(d->g, d->value[ys[k]], ys[k]);
    PG_TRY(pg_built(out[k]));
  }
  return PG_OK;
}

pg_status pg_jvp(pg_graph *g, int n, const pg_value *xs, const pg_value *tangents, int ny, const pg_value *ys,
                 pg_value *out) {
  diff d;
  bool *needed = NULL;
  const char *where = g->where;
  for (int k = 0; k < ny; k++) out[k] = PG_NONE;
  PG_TRY(want_values(g, "variable", n, xs));
  PG_TRY(want_values(g, "result", ny, ys));
  PG_TRY(diff_open(&d, g));
  pg_status status = find_needed(&d, ny, ys, &needed);
  if (status == PG_OK) status = run_forward(&d, n, xs, tangents, ny, ys, needed, out);
  pg_free(needed);
  diff_close(&d);
  g->where = where;
  for (int k = 0; status != PG_OK && k < ny; k++) out[k] = PG_NONE;
  return status;
}
