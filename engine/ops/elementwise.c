// elementwise.c: the rows of PG_MAP_OPS: dtype rules and derivatives. What they compute stands in core/scalar.h.
//
// An elementwise operation has a diagonal Jacobian, so one function per operation, "times the partial derivative",
// serves both directions: vjp multiplies the cotangent by it and sums down to the operand's shape, jvp multiplies each
// operand's tangent by it and adds up. Conventions at kinks: relu'(0) = abs'(0) = 0; maximum and minimum give half to
// each of two equals.
#include <math.h>

#include "engine/ops/arithmetic.h"
#include "engine/ops/batching.h"

// ---- shape and dtype rules -----------------------------------------------------------------------------------------

typedef enum dtype_set { FLOATS, NUMBERS, ANY_VALUE, BOOLS } dtype_set;

static bool dtype_in(pg_dtype dtype, dtype_set set) {
  switch (set) {
  case FLOATS:
    return pg_dtype_is_float(dtype);
  case NUMBERS:
    return pg_dtype_is_float(dtype) || pg_dtype_is_int(dtype);
  case ANY_VALUE:
    return dtype != PG_KEY;
  case BOOLS:
    return dtype == PG_BOOL;
  }
  return false;
}

static const char *const set_name[] = {[FLOATS] = "floating-point tensors",
                                       [NUMBERS] = "numeric tensors",
                                       [ANY_VALUE] = "numeric tensors and masks",
                                       [BOOLS] = "masks (bool)"};

// The one dtype of the operands that are not weak; *out as it was if all are.
static pg_status common_dtype(const char *op, int n, const pg_node *const *in, dtype_set set, pg_dtype *out) {
  const pg_node *first = NULL;
  for (int i = 0; i < n; i++) {
    char a[200], b[200];
    if (in[i]->weak) continue;
    const bool convertible = set != BOOLS && dtype_in((pg_dtype)in[i]->dtype, ANY_VALUE);
    if (!dtype_in((pg_dtype)in[i]->dtype, set))
      return pg_fail(PG_ERR_DTYPE, "%s: works on %s, got %s%s", op, set_name[set], pg_shape_text(in[i], a, sizeof a),
                     convertible ? "; convert it with :to(\"f32\")" : "");
    if (first && first->dtype != in[i]->dtype)
      return pg_fail(
          PG_ERR_DTYPE, "%s: %s and %s have different dtypes; convert one with :to(\"%s\")", op,
          pg_shape_text(first, a, sizeof a), pg_shape_text(in[i], b, sizeof b),
          pg_dtype_name((pg_dtype)(pg_dtype_is_float((pg_dtype)in[i]->dtype) ? in[i]->dtype : first->dtype)));
    if (!first) first = in[i];
  }
  if (first) *out = (pg_dtype)first->dtype;
  return PG_OK;
}

static pg_status map_shape(const pg_graph *g, pg_node *node, dtype_set set, bool mask) {
  const pg_node *in[3];
  const char *op = pg_op_table[node->op]->name;
  int ndim = 0;
  int64_t shape[PG_MAX_NDIM];
  const pg_layout *layout;
  pg_dtype dtype = PG_F64;
  for (int i = 0; i < node->nin; i++) in[i] = pg_in(g, node, i);
  PG_TRY(common_dtype(op, node->nin, in, set, &dtype));
  PG_TRY(pg_broadcast_shapes(op, node->nin, in, &ndim, shape, &layout));
  pg_set_type(node, mask ? PG_BOOL : dtype, ndim, shape, layout);
  return PG_OK;
}

static pg_status shape_float(const pg_graph *g, pg_node *node) {
  return map_shape(g, node, FLOATS, false);
}

static pg_status shape_number(const pg_graph *g, pg_node *node) {
  return map_shape(g, node, NUMBERS, false);
}

static pg_status shape_value(const pg_graph *g, pg_node *node) {
  return map_shape(g, node, ANY_VALUE, false);
}

static pg_status shape_compare(const pg_graph *g, pg_node *node) {
  return map_shape(g, node, ANY_VALUE, true);
}

static pg_status shape_isfinite(const pg_graph *g, pg_node *node) {
  return map_shape(g, node, NUMBERS, true);
}

static pg_status shape_logic(const pg_graph *g, pg_node *node) {
  return map_shape(g, node, BOOLS, true);
}

static pg_status shape_where(const pg_graph *g, pg_node *node) {
  const pg_node *in[3] = {pg_in(g, node, 0), pg_in(g, node, 1), pg_in(g, node, 2)};
  int ndim = 0;
  int64_t shape[PG_MAX_NDIM];
  const pg_layout *layout;
  pg_dtype dtype = PG_F64;
  if (!in[0]->weak && in[0]->dtype != PG_BOOL) {
    char a[200];
    return pg_fail(PG_ERR_DTYPE, "where: the condition is a mask (bool), got %s", pg_shape_text(in[0], a, sizeof a));
  }
  if (in[1]->weak && in[2]->weak && !in[0]->weak)
    return pg_fail(PG_ERR_DTYPE, "where: both choices are numbers; make one a tensor to say its dtype");
  PG_TRY(common_dtype("where", 2, in + 1, ANY_VALUE, &dtype));
  PG_TRY(pg_broadcast_shapes("where", 3, in, &ndim, shape, &layout));
  pg_set_type(node, dtype, ndim, shape, layout);
  return PG_OK;
}

static pg_status shape_cast(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  int to = node->attrs.dtype;
  if (to < 0 || to >= PG_NUM_DTYPES) return pg_fail(PG_ERR_DTYPE, "cast: there is no dtype number %d", to);
  if (x->dtype == PG_KEY || to == PG_KEY)
    return pg_fail(PG_ERR_DTYPE, "cast: %s to %s is not possible", pg_dtype_name((pg_dtype)x->dtype),
                   pg_dtype_name((pg_dtype)to));
  pg_set_type(node, (pg_dtype)to, x->ndim, x->shape, x->layout);
  return PG_OK;
}

// ---- derivatives ---------------------------------------------------------------------------------------------------

// t times the partial derivative of `out` by operand i.
typedef pg_value (*times_partial)(pg_graph *g, const pg_value *in, pg_value out, int i, pg_value t);

static pg_value neg(pg_graph *g, pg_value a) {
  return pg_op1(g, PG_OP_NEG, a);
}

static pg_value where(pg_graph *g, pg_value c, pg_value a, pg_value b) {
  return pg_op3(g, PG_OP_WHERE, c, a, b);
}

#define PARTIAL(name, expression)                                                                                      \
  static pg_value d_##name(pg_graph *g, const pg_value *in, pg_value out, int i, pg_value t) {                         \
    (void)g, (void)in, (void)out, (void)i;                                                                             \
    return expression;                                                                                                 \
  }
PARTIAL(neg, neg(g, t))
PARTIAL(abs, mul(g, t, pg_op1(g, PG_OP_SIGN, in[0])))
PARTIAL(sqrt, divide(g, mul(g, t, num(g, 0.5)), out))
PARTIAL(rsqrt, mul(g, mul(g, t, num(g, -0.5)), mul(g, out, mul(g, out, out))))
PARTIAL(exp, mul(g, t, out))
PARTIAL(expm1, mul(g, t, add(g, out, num(g, 1))))
PARTIAL(log, divide(g, t, in[0]))
PARTIAL(log1p, divide(g, t, add(g, in[0], num(g, 1))))
PARTIAL(sin, mul(g, t, pg_op1(g, PG_OP_COS, in[0])))
PARTIAL(cos, neg(g, mul(g, t, pg_op1(g, PG_OP_SIN, in[0]))))
PARTIAL(tanh, mul(g, t, sub(g, num(g, 1), mul(g, out, out))))
PARTIAL(erf, mul(g, mul(g, t, num(g, 2 / sqrt(M_PI))), pg_op1(g, PG_OP_EXP, neg(g, mul(g, in[0], in[0])))))
PARTIAL(sigmoid, mul(g, t, mul(g, out, sub(g, num(g, 1), out))))
PARTIAL(softplus, mul(g, t, pg_op1(g, PG_OP_SIGMOID, in[0])))
PARTIAL(relu, where(g, pg_op2(g, PG_OP_GT, in[0], num(g, 0)), t, num(g, 0)))
PARTIAL(add, t)
PARTIAL(sub, i == 0 ? t : neg(g, t))
PARTIAL(mul, mul(g, t, in[1 - i]))
PARTIAL(div, i == 0 ? divide(g, t, in[1]) : neg(g, divide(g, mul(g, t, out), in[1])))
PARTIAL(where, i == 1 ? where(g, in[0], t, num(g, 0)) : where(g, in[0], num(g, 0), t))

static pg_value d_extremum(pg_graph *g, int wins, const pg_value *in, int i, pg_value t) {
  pg_value tie = pg_op2(g, PG_OP_EQ, in[0], in[1]);
  pg_value won = where(g, pg_op2(g, wins, in[i], in[1 - i]), t, num(g, 0));
  return where(g, tie, mul(g, t, num(g, 0.5)), won);
}

PARTIAL(maximum, d_extremum(g, PG_OP_GT, in, i, t))
PARTIAL(minimum, d_extremum(g, PG_OP_LT, in, i, t))

// d x^p / dx = p x^(p-1), without 0 · ∞ where p = 0 or a further derivative reaches p - 1 = 0.
static pg_value d_pow_base(pg_graph *g, pg_value x, pg_value p, pg_value t) {
  if (pg_is_number(g, p, 0)) return pg_zeros_like(g, x);
  if (pg_is_number(g, p, 1)) return t;
  if (pg_is_number(g, p, 2)) return mul(g, mul(g, t, num(g, 2)), x);
  pg_value flat = pg_op2(g, PG_OP_EQ, p, num(g, 0));
  pg_value less = where(g, flat, num(g, 1), sub(g, p, num(g, 1)));
  return mul(g, mul(g, t, p), pg_op2(g, PG_OP_POW, x, less));
}

// d x^p / dp = x^p log x, and 0 at x = 0, where the limit for p > 0 is 0.
static pg_value d_pow_exponent(pg_graph *g, pg_value x, pg_value out, pg_value t) {
  pg_value zero = pg_op2(g, PG_OP_EQ, x, num(g, 0));
  pg_value safe = where(g, zero, num(g, 1), x);
  return mul(g, t, mul(g, out, pg_op1(g, PG_OP_LOG, safe)));
}

PARTIAL(pow, i == 0 ? d_pow_base(g, in[0], in[1], t) : d_pow_exponent(g, in[0], out, t))

static const times_partial partials[PG_NUM_OPS] = {
    [PG_OP_NEG] = d_neg,         [PG_OP_ABS] = d_abs,           [PG_OP_SQRT] = d_sqrt,   [PG_OP_RSQRT] = d_rsqrt,
    [PG_OP_EXP] = d_exp,         [PG_OP_EXPM1] = d_expm1,       [PG_OP_LOG] = d_log,     [PG_OP_LOG1P] = d_log1p,
    [PG_OP_SIN] = d_sin,         [PG_OP_COS] = d_cos,           [PG_OP_TANH] = d_tanh,   [PG_OP_ERF] = d_erf,
    [PG_OP_SIGMOID] = d_sigmoid, [PG_OP_SOFTPLUS] = d_softplus, [PG_OP_RELU] = d_relu,   [PG_OP_ADD] = d_add,
    [PG_OP_SUB] = d_sub,         [PG_OP_MUL] = d_mul,           [PG_OP_DIV] = d_div,     [PG_OP_POW] = d_pow,
    [PG_OP_MAXIMUM] = d_maximum, [PG_OP_MINIMUM] = d_minimum,   [PG_OP_WHERE] = d_where,
};

static pg_status map_vjp(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_value *in = pg_at(g, v)->in; // stays valid while the graph grows
  const int op = pg_at(g, v)->op, nin = pg_at(g, v)->nin;
  for (int i = op == PG_OP_WHERE; i < nin; i++) {
    if (ct_in[i] == PG_UNWANTED) continue;
    ct_in[i] = pg_sum_to(g, partials[op](g, in, v, i, ct), in[i]);
    PG_TRY(pg_built(ct_in[i]));
  }
  return PG_OK;
}

static pg_status map_jvp(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_node node = *pg_at(g, v);
  pg_value sum = PG_NONE;
  for (int i = node.op == PG_OP_WHERE; i < node.nin; i++) {
    pg_value t = tangents[i];
    if (t == PG_NONE) continue;
    // The tangent of a number is f64 or a number; the result's is of the result's dtype.
    if (!node.weak && (pg_at(g, t)->weak || pg_at(g, t)->dtype != node.dtype)) t = pg_cast(g, t, (pg_dtype)node.dtype);
    if (t == PG_NONE) return pg_built(t);
    pg_value part = partials[node.op](g, node.in, v, i, t);
    PG_TRY(pg_built(part));
    sum = sum == PG_NONE ? part : add(g, sum, part);
    PG_TRY(pg_built(sum));
  }
  *out = sum == PG_NONE ? PG_NONE : pg_spread(g, sum, v);
  return sum == PG_NONE ? PG_OK : pg_built(*out);
}

// A cast's two directions go to different dtypes.
static pg_status cast_vjp(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  ct_in[0] = pg_as(g, ct, (pg_dtype)pg_at(g, pg_at(g, v)->in[0])->dtype);
  return pg_built(ct_in[0]);
}

static pg_status cast_jvp(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  *out = pg_as(g, tangents[0], (pg_dtype)pg_at(g, v)->dtype);
  return pg_built(*out);
}

// ---- rows ----------------------------------------------------------------------------------------------------------

#define ROW(NAME, op, count, rule, flops, vjp_rule, jvp_rule)                                                          \
  const pg_op_info pg_op_info_##NAME = {.name = #op,                                                                   \
                                        .arity = count,                                                                \
                                        .cls = PG_CLASS_MAP,                                                           \
                                        .shape = shape_##rule,                                                         \
                                        .vjp = vjp_rule,                                                               \
                                        .jvp = jvp_rule,                                                               \
                                        .batch = pg_batch_map,                                                         \
                                        .cost = flops};
#define SMOOTH(NAME, op, count, rule, flops) ROW(NAME, op, count, rule, flops, map_vjp, map_jvp)
#define FLAT(NAME, op, count, rule, flops) ROW(NAME, op, count, rule, flops, NULL, NULL)
SMOOTH(NEG, neg, 1, number, 1)
SMOOTH(ABS, abs, 1, number, 1)
SMOOTH(SQRT, sqrt, 1, float, 4)
SMOOTH(RSQRT, rsqrt, 1, float, 8)
SMOOTH(EXP, exp, 1, float, 16)
SMOOTH(EXPM1, expm1, 1, float, 20)
SMOOTH(LOG, log, 1, float, 20)
SMOOTH(LOG1P, log1p, 1, float, 24)
SMOOTH(SIN, sin, 1, float, 20)
SMOOTH(COS, cos, 1, float, 20)
SMOOTH(TANH, tanh, 1, float, 24)
SMOOTH(ERF, erf, 1, float, 30)
SMOOTH(SIGMOID, sigmoid, 1, float, 20)
SMOOTH(SOFTPLUS, softplus, 1, float, 40)
SMOOTH(RELU, relu, 1, number, 1)
SMOOTH(ADD, add, 2, number, 1)
SMOOTH(SUB, sub, 2, number, 1)
SMOOTH(MUL, mul, 2, number, 1)
SMOOTH(DIV, div, 2, number, 4)
SMOOTH(POW, pow, 2, number, 40)
SMOOTH(MAXIMUM, maximum, 2, value, 1)
SMOOTH(MINIMUM, minimum, 2, value, 1)
SMOOTH(WHERE, where, 3, where, 1)
FLAT(SIGN, sign, 1, number, 2)
FLAT(FLOOR, floor, 1, number, 1)
FLAT(CEIL, ceil, 1, number, 1)
FLAT(ROUND, round, 1, number, 1)
FLAT(ISFINITE, isfinite, 1, isfinite, 1)
FLAT(NOT, not, 1, logic, 1)
FLAT(AND, and, 2, logic, 1)
FLAT(OR, or, 2, logic, 1)
FLAT(LT, lt, 2, compare, 1)
FLAT(LE, le, 2, compare, 1)
FLAT(GT, gt, 2, compare, 1)
FLAT(GE, ge, 2, compare, 1)
FLAT(EQ, eq, 2, compare, 1)
FLAT(NE, ne, 2, compare, 1)
ROW(CAST, cast, 1, cast, 1, cast_vjp, cast_jvp)
