// composite.c: mathematics built from primitives: reductions over any axes, softmax and its kin, activations, losses.
// Constants that only keep numbers in range stand under STOP, so that derivatives of any order are those of the plain
// formula.
#include "engine/ops/arithmetic.h"
#include "engine/ops/composite.h"

#include <math.h>
#include <string.h>

#define COMPOSITE(name) pg_value pg_composite_##name(pg_graph *g, int n, const pg_value *in, const pg_attrs *attrs)

// ---- reductions: n,a = axes, negative from the end, none = all; flags 1 keeps them as extents of 1 -----------------

static pg_status mark_axes(const char *name, const pg_node *x, const pg_attrs *attrs, bool *reduced) {
  for (int i = 0; i < x->ndim; i++) reduced[i] = attrs->n == 0;
  for (int i = 0; i < attrs->n; i++) {
    int axis;
    PG_TRY(pg_want_axis(name, attrs->a[i], x->ndim, &axis));
    if (reduced[axis]) return pg_fail(PG_ERR_ARGUMENT, "%s: axis %d is named twice", name, axis + 1);
    reduced[axis] = true;
  }
  return PG_OK;
}

static pg_value reduce_vector(pg_graph *g, int op, pg_value x, bool keepdims) {
  const int per_tensor = op == PG_OP_SUM ? PG_OP_SEGSUM : op == PG_OP_MAX ? PG_OP_SEGMAX : PG_OP_SEGMIN;
  return pg_reduce_run(g, op, pg_op1(g, per_tensor, x), 0, 1, keepdims);
}

static pg_value reduce_axes(pg_graph *g, const char *name, int op, pg_value x, const pg_attrs *attrs) {
  const bool keepdims = attrs->flags & 1;
  const pg_node node = *pg_at(g, x);
  bool reduced[PG_MAX_NDIM];
  if (mark_axes(name, &node, attrs, reduced) != PG_OK) return PG_NONE;
  if (op == PG_OP_SUM && (node.dtype == PG_BOOL || node.dtype == PG_U8)) x = pg_cast(g, x, PG_I64);
  if (node.layout) return reduce_vector(g, op, x, keepdims);
  for (int last = node.ndim; last > 0;) {
    int first = last - 1;
    if (reduced[first]) {
      while (first > 0 && reduced[first - 1]) first--;
      x = pg_reduce_run(g, op, x, first, last, keepdims);
    }
    last = first;
  }
  return x;
}

COMPOSITE(sum) {
  (void)n;
  return reduce_axes(g, "sum", PG_OP_SUM, in[0], attrs);
}

COMPOSITE(max) {
  (void)n;
  return reduce_axes(g, "max", PG_OP_MAX, in[0], attrs);
}

COMPOSITE(min) {
  (void)n;
  return reduce_axes(g, "min", PG_OP_MIN, in[0], attrs);
}

// How many elements of x each result of a reduction sums up.
static double count_reduced(pg_graph *g, pg_value x, const pg_attrs *attrs) {
  const pg_node node = *pg_at(g, x);
  bool reduced[PG_MAX_NDIM];
  double count = 1;
  if (mark_axes("mean", &node, attrs, reduced) != PG_OK) return 0;
  if (node.layout) return (double)pg_layout_size(node.layout);
  for (int i = 0; i < node.ndim; i++) count *= reduced[i] ? (double)node.shape[i] : 1;
  return count;
}

COMPOSITE(mean) {
  const pg_node *x = pg_at(g, in[0]);
  char text[200];
  if (!pg_dtype_is_float((pg_dtype)x->dtype))
    return pg_fail(PG_ERR_DTYPE, "mean: works on floating-point tensors, got %s; convert it with :to(\"f32\")",
                   pg_shape_text(x, text, sizeof text)),
           PG_NONE;
  const double count = count_reduced(g, in[0], attrs);
  return divide(g, pg_composite_sum(g, n, in, attrs), num(g, count));
}

// Variance over axes; x = what is subtracted from the count (0: of a population, 1: unbiased estimate).
COMPOSITE(var) {
  const double count = count_reduced(g, in[0], attrs);
  pg_attrs keep = *attrs, plain = *attrs;
  keep.flags |= 1;
  keep.x = plain.x = 0;
  pg_value centred = sub(g, in[0], pg_composite_mean(g, n, in, &keep));
  if (pg_is_vector(g, in[0])) // a vector meets 0-d tensors, not [1]
    centred = sub(g, in[0], pg_composite_mean(g, n, in, &(pg_attrs){0}));
  pg_value square = mul(g, centred, centred);
  if (square == PG_NONE) return PG_NONE;
  return divide(g, pg_composite_sum(g, 1, &square, &plain), num(g, count - attrs->x));
}

COMPOSITE(any) {
  pg_value count = pg_composite_sum(g, n, in, attrs);
  return pg_op2(g, PG_OP_GT, count, num(g, 0));
}

COMPOSITE(all) {
  (void)n;
  pg_value missing = pg_op1(g, PG_OP_NOT, in[0]);
  if (missing == PG_NONE) return PG_NONE;
  return pg_op2(g, PG_OP_EQ, pg_composite_sum(g, 1, &missing, attrs), num(g, 0));
}

// Euclidean inner product of all elements.
COMPOSITE(dot) {
  (void)n, (void)attrs;
  pg_value product = mul(g, in[0], in[1]);
  return product == PG_NONE ? PG_NONE : pg_composite_sum(g, 1, &product, &(pg_attrs){0});
}

// Euclidean norm over axes.
COMPOSITE(norm) {
  (void)n;
  pg_value square = mul(g, in[0], in[0]);
  return square == PG_NONE ? PG_NONE : pg_op1(g, PG_OP_SQRT, pg_composite_sum(g, 1, &square, attrs));
}

// ---- softmax and its kin: a[0] = axis, the last by default ---------------------------------------------------------

typedef struct softmax_parts {
  pg_value largest; // of each group, under STOP; 0 where it is infinite
  pg_value shifted; // x - largest
  pg_value sum;     // of exp(shifted), extents kept
} softmax_parts;

static pg_attrs one_axis(const pg_attrs *attrs, bool keepdims) {
  return (pg_attrs){.n = 1, .a = {attrs->n ? attrs->a[0] : -1}, .flags = keepdims};
}

static softmax_parts shift_and_sum(pg_graph *g, const char *name, pg_value x, const pg_attrs *attrs) {
  const pg_attrs axis = one_axis(attrs, true);
  softmax_parts p = {PG_NONE, PG_NONE, PG_NONE};
  if (pg_is_vector(g, x)) {
    pg_want_plain(name, pg_at(g, x));
    return p;
  }
  pg_value largest = reduce_axes(g, name, PG_OP_MAX, x, &axis);
  largest = pg_op3(g, PG_OP_WHERE, pg_op1(g, PG_OP_ISFINITE, largest), largest, num(g, 0));
  p.largest = pg_op1(g, PG_OP_STOP, largest);
  p.shifted = sub(g, x, p.largest);
  pg_value e = pg_op1(g, PG_OP_EXP, p.shifted);
  p.sum = e == PG_NONE ? PG_NONE : reduce_axes(g, name, PG_OP_SUM, e, &axis);
  return p;
}

COMPOSITE(softmax) {
  (void)n;
  softmax_parts p = shift_and_sum(g, "softmax", in[0], attrs);
  return divide(g, pg_op1(g, PG_OP_EXP, p.shifted), p.sum);
}

COMPOSITE(log_softmax) {
  (void)n;
  softmax_parts p = shift_and_sum(g, "log_softmax", in[0], attrs);
  return sub(g, p.shifted, pg_op1(g, PG_OP_LOG, p.sum));
}

// y with the reduced axis taken out.
static pg_value drop_axis(pg_graph *g, pg_value y, int64_t axis) {
  if (y == PG_NONE) return PG_NONE;
  const pg_node node = *pg_at(g, y);
  int64_t shape[PG_MAX_NDIM];
  int ndim = 0;
  if (axis < 0) axis += node.ndim;
  for (int i = 0; i < node.ndim; i++)
    if (i != axis) shape[ndim++] = node.shape[i];
  return pg_reshape(g, y, ndim, shape);
}

// flags 1 keeps the axis.
COMPOSITE(logsumexp) {
  (void)n;
  softmax_parts p = shift_and_sum(g, "logsumexp", in[0], attrs);
  pg_value y = add(g, pg_op1(g, PG_OP_LOG, p.sum), p.largest);
  return attrs->flags & 1 ? y : drop_axis(g, y, one_axis(attrs, true).a[0]);
}

// ---- products ------------------------------------------------------------------------------------------------------

static pg_value with_shape(pg_graph *g, pg_value x, int ndim, int64_t a, int64_t b) {
  return pg_reshape(g, x, ndim, (int64_t[]){a, b});
}

// [m] and [n] → [m, n].
COMPOSITE(outer) {
  (void)n, (void)attrs;
  const pg_node a = *pg_at(g, in[0]), b = *pg_at(g, in[1]);
  if (a.ndim != 1 || b.ndim != 1) return pg_fail(PG_ERR_SHAPE, "outer: needs two tensors of one axis"), PG_NONE;
  return mul(g, with_shape(g, in[0], 2, a.shape[0], 1), in[1]);
}

// [M,K] [K,N] → [M,N]; batch axes in front broadcast; one axis on the left is a row, on the right a column, and leaves
// no axis behind. A batch of left matrices against one right matrix is one large product.
COMPOSITE(matmul) {
  (void)n, (void)attrs;
  pg_value x = in[0], y = in[1];
  const pg_node a = *pg_at(g, x), b = *pg_at(g, y);
  const bool row = a.ndim == 1, column = b.ndim == 1, plain = !a.layout && !b.layout;
  if (row && plain) x = with_shape(g, x, 2, 1, a.shape[0]);
  if (column && plain) y = with_shape(g, y, 2, b.shape[0], 1);
  if (!row && !column && a.ndim > 2 && b.ndim == 2 && a.shape[a.ndim - 1] == b.shape[0]) {
    int64_t shape[PG_MAX_NDIM], rows = 1;
    memcpy(shape, a.shape, sizeof shape);
    for (int i = 0; i < a.ndim - 1; i++) rows *= a.shape[i];
    shape[a.ndim - 1] = b.shape[1];
    return pg_reshape(g, pg_op2(g, PG_OP_MATMUL, with_shape(g, x, 2, rows, a.shape[a.ndim - 1]), y), a.ndim, shape);
  }
  pg_value z = pg_op2(g, PG_OP_MATMUL, x, y);
  if (column && z != PG_NONE) z = drop_axis(g, z, -1);
  if (row && z != PG_NONE) z = drop_axis(g, z, column ? -1 : -2);
  return z;
}

// Over the last axis → i64.
COMPOSITE(argmin) {
  (void)n, (void)attrs;
  return pg_op1(g, PG_OP_ARGMAX, pg_op1(g, PG_OP_NEG, in[0]));
}

// ---- elementwise ---------------------------------------------------------------------------------------------------

// Exponents known when the graph is built become cheaper operations, but only where the bits are those of pow: the same
// exponent may come as a run-time number.
COMPOSITE(pow) {
  (void)n, (void)attrs;
  if (pg_at(g, in[0])->weak) return pg_op2(g, PG_OP_POW, in[0], in[1]);
  if (pg_is_number(g, in[1], 1)) return in[0];
  if (pg_is_number(g, in[1], 2)) return mul(g, in[0], in[0]);
  return pg_op2(g, PG_OP_POW, in[0], in[1]);
}

COMPOSITE(square) {
  (void)n, (void)attrs;
  return mul(g, in[0], in[0]);
}

COMPOSITE(reciprocal) {
  (void)n, (void)attrs;
  return divide(g, num(g, 1), in[0]);
}

// x, lowest, highest.
COMPOSITE(clamp) {
  (void)n, (void)attrs;
  return pg_op2(g, PG_OP_MINIMUM, pg_op2(g, PG_OP_MAXIMUM, in[0], in[1]), in[2]);
}

// x Φ(x) (Hendrycks and Gimpel 2016); flags 1: its approximation by tanh.
COMPOSITE(gelu) {
  (void)n;
  const pg_value x = in[0];
  pg_value phi;
  if (attrs->flags & 1) {
    pg_value cubic = add(g, x, mul(g, num(g, 0.044715), mul(g, x, mul(g, x, x))));
    phi = pg_op1(g, PG_OP_TANH, mul(g, num(g, sqrt(2 / M_PI)), cubic));
  } else {
    phi = pg_op1(g, PG_OP_ERF, mul(g, x, num(g, sqrt(0.5))));
  }
  return mul(g, mul(g, x, num(g, 0.5)), add(g, phi, num(g, 1)));
}

COMPOSITE(silu) {
  (void)n, (void)attrs;
  return mul(g, in[0], pg_op1(g, PG_OP_SIGMOID, in[0]));
}

// attrs x = slope below 0.
COMPOSITE(leaky_relu) {
  (void)n;
  pg_value positive = pg_op2(g, PG_OP_GT, in[0], num(g, 0));
  return pg_op3(g, PG_OP_WHERE, positive, in[0], mul(g, in[0], num(g, attrs->x)));
}

// attrs x = the limit's magnitude below 0. The choice inside keeps exp in range where its result is not used.
COMPOSITE(elu) {
  (void)n;
  pg_value positive = pg_op2(g, PG_OP_GT, in[0], num(g, 0));
  pg_value below = pg_op3(g, PG_OP_WHERE, positive, num(g, 0), in[0]);
  return pg_op3(g, PG_OP_WHERE, positive, in[0], mul(g, num(g, attrs->x), pg_op1(g, PG_OP_EXPM1, below)));
}

COMPOSITE(log_sigmoid) {
  (void)n, (void)attrs;
  return pg_op1(g, PG_OP_NEG, pg_op1(g, PG_OP_SOFTPLUS, pg_op1(g, PG_OP_NEG, in[0])));
}

// ---- losses --------------------------------------------------------------------------------------------------------

static pg_value reduce_loss(pg_graph *g, const char *name, pg_value loss, const pg_attrs *attrs) {
  const pg_attrs all = {0};
  if (loss == PG_NONE) return PG_NONE;
  switch (attrs->flags) {
  case 0:
    return pg_composite_mean(g, 1, &loss, &all);
  case 1:
    return pg_composite_sum(g, 1, &loss, &all);
  case 2:
    return loss;
  default:
    return pg_fail(PG_ERR_ARGUMENT, "%s: the reduction is \"mean\", \"sum\" or \"none\"", name), PG_NONE;
  }
}

// What to do with labels that have as many axes as their logits.
static const char *advise_on_labels(const pg_node *logits, const pg_node *labels) {
  if (labels->ndim != logits->ndim || labels->ndim == 0) return "";
  return labels->shape[labels->ndim - 1] == 1 ? "; take the last one away with y:squeeze(-1)"
                                              : "; one-hot rows become labels by y:argmax(-1)";
}

// NaN where a label is not one of the classes 0 … count - 1, else the loss: a wrong label must not pass for a small
// loss.
static pg_value only_with_label(pg_graph *g, pg_value labels, int64_t count, pg_value loss) {
  if (pg_at(g, labels)->dtype == PG_U8 && count > UINT8_MAX) return loss; // all of them fit
  pg_value fits =
      pg_op2(g, PG_OP_AND, pg_op2(g, PG_OP_GE, labels, num(g, 0)), pg_op2(g, PG_OP_LT, labels, num(g, (double)count)));
  return pg_op3(g, PG_OP_WHERE, fits, loss, num(g, NAN));
}

// logits [..., C], labels [...] of whole numbers below C → -log softmax(logits)[label] of each example, reduced. NaN
// for an example whose label is no class.
COMPOSITE(cross_entropy) {
  (void)n;
  const pg_node logits = *pg_at(g, in[0]), labels = *pg_at(g, in[1]);
  char a[200], b[200];
  if (!pg_dtype_is_int((pg_dtype)labels.dtype))
    return pg_fail(PG_ERR_DTYPE, "cross_entropy: labels are whole numbers (i32, i64, u8), not %s%s",
                   pg_shape_text(&labels, b, sizeof b), advise_on_labels(&logits, &labels)),
           PG_NONE;
  if (logits.layout || logits.ndim != labels.ndim + 1 ||
      memcmp(logits.shape, labels.shape, (size_t)labels.ndim * sizeof *labels.shape) != 0)
    return pg_fail(PG_ERR_SHAPE,
                   "cross_entropy: logits %s and labels %s do not fit: labels have the logits' shape without "
                   "the last axis%s",
                   pg_shape_text(&logits, a, sizeof a), pg_shape_text(&labels, b, sizeof b),
                   advise_on_labels(&logits, &labels)),
           PG_NONE;
  softmax_parts p = shift_and_sum(g, "cross_entropy", in[0], &(pg_attrs){0});
  int64_t column[PG_MAX_NDIM];
  memcpy(column, logits.shape, sizeof column);
  column[logits.ndim - 1] = 1;
  pg_value classes = pg_iota(g, (pg_dtype)labels.dtype, logits.ndim, logits.shape, logits.ndim - 1);
  pg_value mine = pg_op2(g, PG_OP_EQ, classes, pg_reshape(g, in[1], logits.ndim, column));
  pg_value chosen = pg_op3(g, PG_OP_WHERE, mine, p.shifted, num(g, 0));
  if (chosen == PG_NONE) return PG_NONE;
  const pg_attrs last = one_axis(&(pg_attrs){0}, true);
  pg_value loss = sub(g, pg_op1(g, PG_OP_LOG, p.sum), reduce_axes(g, "cross_entropy", PG_OP_SUM, chosen, &last));
  loss = only_with_label(g, in[1], logits.shape[logits.ndim - 1], drop_axis(g, loss, -1));
  return reduce_loss(g, "cross_entropy", loss, attrs);
}

// logits z and targets y in [0,1] of one shape: -y log σ(z) - (1 - y) log(1 - σ(z)), in a form that is exact for large
// |z|.
COMPOSITE(binary_cross_entropy_with_logits) {
  (void)n;
  pg_value on = pg_op1(g, PG_OP_SOFTPLUS, pg_op1(g, PG_OP_NEG, in[0])), off = pg_op1(g, PG_OP_SOFTPLUS, in[0]);
  pg_value loss = add(g, mul(g, in[1], on), mul(g, sub(g, num(g, 1), in[1]), off));
  return reduce_loss(g, "binary_cross_entropy_with_logits", loss, attrs);
}

// (x - y)².
COMPOSITE(squared_loss) {
  (void)n;
  pg_value difference = sub(g, in[0], in[1]);
  return reduce_loss(g, "squared_loss", mul(g, difference, difference), attrs);
}

COMPOSITE(mse) {
  return pg_composite_squared_loss(g, n, in, attrs);
}
