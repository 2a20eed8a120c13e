// sink.c: layouts private to a plan. Convolutions and pooling work on batch-innermost tensors [C, H, W, N], while
// everybody speaks of [N, C, H, W]; between the two stand transposes that are marked as changing nothing but how a
// tensor lies. As nodes are made, a transpose out of the layout sinks below elementwise operations, reshapes, slices,
// paddings and joins, whose other operands are brought into the layout, until it meets its inverse and both vanish: a
// network's activations then stay batch-innermost from its first convolution to its last, and its gradients too. No
// element is computed otherwise than before, so no bit changes. A transpose that a user writes is not marked and stays
// where it is.
#include <string.h>

#include "engine/graph/graph.h"
#include "engine/ops/ops.h"

static bool leaves_layout(const pg_node *n) {
  return n->op == PG_OP_TRANSPOSE && n->attrs.flags == PG_OUT_OF_LAYOUT;
}

// Its two axes are to stay the last ones.
static bool is_outer_product(const pg_node *n) {
  return n->op == PG_OP_MUL && (n->attrs.flags & PG_OUTER_PRODUCT);
}

static pg_value transpose(pg_graph *g, pg_value x, int flags, int n, const int64_t *perm) {
  if (x == PG_NONE) return PG_NONE;
  pg_attrs attrs = {.n = n, .flags = flags};
  memcpy(attrs.a, perm, (size_t)n * sizeof *perm);
  return pg_node_make(g, PG_OP_TRANSPOSE, 1, &x, &attrs, NULL);
}

static pg_value transpose_out(pg_graph *g, pg_value x, int n, const int64_t *perm) {
  return transpose(g, x, PG_OUT_OF_LAYOUT, n, perm);
}

// Operand x of an operation with n axes, as it lies below a transpose by perm.
static pg_value lower_operand(pg_graph *g, pg_value x, int n, const int64_t *perm) {
  const pg_node node = *pg_at(g, x);
  if (node.weak || node.ndim == 0) return x;
  if (node.ndim < n) { // broadcast: axes of extent 1 in front
    int64_t shape[PG_MAX_NDIM];
    for (int i = 0; i < n; i++) shape[i] = i < n - node.ndim ? 1 : node.shape[i - (n - node.ndim)];
    x = pg_reshape(g, x, n, shape);
  }
  int64_t inverse[PG_MAX_NDIM];
  for (int i = 0; i < n; i++) inverse[perm[i]] = i;
  return transpose(g, x, PG_INTO_LAYOUT, n, inverse);
}

static int64_t count(const pg_node *n) {
  int64_t size = 1;
  for (int i = 0; i < n->ndim; i++) size *= n->shape[i];
  return size;
}

// An elementwise operation, one of whose full-sized operands is a marked transpose: the same below it.
static bool sink_map(pg_graph *g, const pg_node *n, pg_value *out) {
  const pg_node *moved = NULL;
  for (int i = 0; i < n->nin && !moved; i++) {
    const pg_node *x = pg_at(g, n->in[i]);
    if (leaves_layout(x) && x->ndim == n->ndim && count(x) == count(n)) moved = x;
  }
  if (!moved) return false;
  const pg_attrs how = moved->attrs;
  const pg_attrs attrs = n->attrs;
  pg_value in[3];
  const int op = n->op, nin = n->nin, ndim = n->ndim;
  for (int i = 0; i < nin; i++) in[i] = lower_operand(g, n->in[i], ndim, how.a);
  *out = transpose_out(g, pg_node_make(g, op, nin, in, &attrs, NULL), ndim, how.a);
  return true;
}

// A marked transpose of: another, with which it combines, as a rule into nothing; a tensor filled with a number; a
// product of matrices, which is the product of the transposed factors the other way round.
static bool sink_transpose(pg_graph *g, const pg_node *n, pg_value *out) {
  if (!n->attrs.flags) return false;
  const pg_node x = *pg_at(g, n->in[0]);
  pg_attrs attrs = x.attrs;
  if (x.op == PG_OP_TRANSPOSE && x.attrs.flags) {
    int64_t perm[PG_MAX_NDIM];
    for (int i = 0; i < n->ndim; i++) perm[i] = x.attrs.a[n->attrs.a[i]];
    *out = transpose(g, x.in[0], 0, n->ndim, perm);
    return true;
  }
  if (x.op == PG_OP_FULL && !x.layout) {
    for (int i = 0; i < n->ndim; i++) attrs.a[i] = x.shape[n->attrs.a[i]];
    *out = pg_node_make(g, PG_OP_FULL, 1, x.in, &attrs, NULL);
    return true;
  }
  if (x.op == PG_OP_MATMUL && x.ndim == 2) {
    pg_value a = pg_transpose(g, x.in[0], (int[]){1, 0}), b = pg_transpose(g, x.in[1], (int[]){1, 0});
    *out = pg_op2(g, PG_OP_MATMUL, b, a);
    return true;
  }
  return false;
}

// A reshape of a marked transpose. The axes of both shapes fall into runs with equal products. If the axes of each run
// lie side by side below the transpose too, the runs are reshaped there, and what is transposed are runs.
static bool sink_reshape(pg_graph *g, const pg_node *n, pg_value *out) {
  const pg_node x = *pg_at(g, n->in[0]);
  if (!leaves_layout(&x)) return false;
  const int64_t *perm = x.attrs.a;
  int start[PG_MAX_NDIM + 1], first[PG_MAX_NDIM + 1], runs = 0; // of each run: its first axis in n and in x
  int i = 0, j = 0;
  while (i < x.ndim || j < n->ndim) {
    if (i >= x.ndim || j >= n->ndim) return false; // trailing extents of 1 belong to no run
    int64_t p = x.shape[i], q = n->shape[j];
    first[runs] = i++;
    start[runs++] = j++;
    while (p != q) {
      if (p == 0 || q == 0 || (p < q ? i >= x.ndim : j >= n->ndim)) return false;
      if (p < q) {
        if (perm[i] != perm[i - 1] + 1) return false;
        p *= x.shape[i++];
      } else {
        q *= n->shape[j++];
      }
    }
  }
  first[runs] = x.ndim;
  start[runs] = n->ndim;
  // Runs in the order in which they lie below; position of each of n's axes there.
  int64_t shape[PG_MAX_NDIM], place[PG_MAX_NDIM];
  int at = 0;
  for (int axis = 0; axis < x.ndim; axis++)
    for (int r = 0; r < runs; r++) {
      if (perm[first[r]] != axis) continue;
      for (int k = start[r]; k < start[r + 1]; k++) {
        shape[at] = n->shape[k];
        place[k] = at++;
      }
    }
  const int ndim = n->ndim;
  *out = transpose_out(g, pg_reshape(g, x.in[0], ndim, shape), ndim, place);
  return true;
}

static void permute_back(int n, const int64_t *perm, int64_t *values) {
  int64_t copy[PG_MAX_NDIM];
  memcpy(copy, values, (size_t)n * sizeof *values);
  for (int i = 0; i < n; i++) values[perm[i]] = copy[i];
}

// SLICE and PAD of a marked transpose.
static bool sink_range(pg_graph *g, const pg_node *n, pg_value *out) {
  const pg_node x = *pg_at(g, n->in[0]);
  if (!leaves_layout(&x)) return false;
  const int op = n->op, ndim = n->ndim;
  pg_attrs attrs = n->attrs;
  permute_back(ndim, x.attrs.a, attrs.a);
  permute_back(ndim, x.attrs.a, attrs.b);
  permute_back(ndim, x.attrs.a, attrs.c);
  *out = transpose_out(g, pg_node_make(g, op, 1, x.in, &attrs, NULL), ndim, x.attrs.a);
  return true;
}

// CONCAT of tensors that are all transposed alike.
static bool sink_concat(pg_graph *g, const pg_node *n, pg_value *out) {
  const pg_node first = *pg_at(g, n->in[0]);
  const int ndim = n->ndim, nin = n->nin;
  for (int i = 0; i < nin; i++) {
    const pg_node *x = pg_at(g, n->in[i]);
    if (!leaves_layout(x) || memcmp(x->attrs.a, first.attrs.a, (size_t)ndim * sizeof *x->attrs.a) != 0) return false;
  }
  pg_value *parts = pg_alloc((size_t)nin, sizeof *parts);
  if (!parts) {
    *out = PG_NONE;
    return true;
  }
  for (int i = 0; i < nin; i++) parts[i] = pg_at(g, n->in[i])->in[0];
  const pg_attrs attrs = {.n = 1, .a = {first.attrs.a[n->attrs.a[0]]}};
  *out = transpose_out(g, pg_node_make(g, PG_OP_CONCAT, nin, parts, &attrs, NULL), ndim, first.attrs.a);
  pg_free(parts);
  return true;
}

bool pg_sink_layout(pg_graph *g, const pg_node *n, pg_value *out) {
  if (n->nin == 0 || n->layout || n->ndim == 0) return false;
  switch (n->op) {
  case PG_OP_FULL:
    return false;
  case PG_OP_TRANSPOSE:
    return sink_transpose(g, n, out);
  case PG_OP_RESHAPE:
    return sink_reshape(g, n, out);
  case PG_OP_SLICE:
  case PG_OP_PAD:
    return sink_range(g, n, out);
  case PG_OP_CONCAT:
    return sink_concat(g, n, out);
  default:
    return (n->op == PG_OP_STOP || pg_op_table[n->op]->cls == PG_CLASS_MAP) && !is_outer_product(n) &&
           sink_map(g, n, out);
  }
}
