// ops.h: the op table. One row per primitive operation, with the columns shape, vjp, jvp, batching, CPU, CUDA and cost.
//
// The rows live in the files of engine/ops, one per op family, each defining `const pg_op_info pg_op_info_NAME`;
// table.c gathers them through PG_OPS, so a forgotten row does not link. Composite functions (softmax, cross_entropy,
// …) are built from primitives in composite.c and have rows in the function table only.
#ifndef PG_OPS_H
#define PG_OPS_H

#include "engine/graph/graph.h"

// clang-format off
// Elementwise operations: the generator and the interpreter share one definition of each, in engine/core/scalar.h.
// M(NAME, name, arity)
#define PG_MAP_OPS(M)                                                                                                  \
  M(NEG, neg, 1) M(ABS, abs, 1) M(SIGN, sign, 1) M(FLOOR, floor, 1) M(CEIL, ceil, 1) M(ROUND, round, 1)                \
  M(SQRT, sqrt, 1) M(RSQRT, rsqrt, 1) M(EXP, exp, 1) M(EXPM1, expm1, 1) M(LOG, log, 1) M(LOG1P, log1p, 1)              \
  M(SIN, sin, 1) M(COS, cos, 1) M(TANH, tanh, 1) M(ERF, erf, 1) M(SIGMOID, sigmoid, 1) M(SOFTPLUS, softplus, 1)        \
  M(RELU, relu, 1) M(ISFINITE, isfinite, 1) M(NOT, not, 1)                                                             \
  M(ADD, add, 2) M(SUB, sub, 2) M(MUL, mul, 2) M(DIV, div, 2) M(POW, pow, 2) M(MAXIMUM, maximum, 2)                    \
  M(MINIMUM, minimum, 2) M(LT, lt, 2) M(LE, le, 2) M(GT, gt, 2) M(GE, ge, 2) M(EQ, eq, 2) M(NE, ne, 2)                 \
  M(AND, and, 2) M(OR, or, 2) M(WHERE, where, 3)                                                                       \
  M(CAST, cast, 1)

// Everything else. Attributes each reads (fields of pg_attrs):
//   INPUT                   a[0] = input number            SCALAR a[0] = scalar number      NUMBER x
//   FULL(weak|0-d)          n,a = shape; or layout: a tensor filled with one number, dtype in `dtype`
//   IOTA                    n,a = shape, b[0] = axis, dtype: the index along an axis
//   NORMAL(key), UNIFORM(key)  n,a = shape that each key of a [K…] key tensor draws → [K…, shape]; or layout; dtype
//   KEY_FOLD(key, int tensor | weak)   broadcasting; → key tensor
//   PERMUTATION(key)        a[0] = n → i64 [n], a keyed permutation of 0..n-1
//   LOG_GAMMA(key [K…], shape [K…, …]) the logarithm of a gamma draw of each shape, drawn from its key (gamma.c)
//   GAMMA_SLOPE(shape, log x) its derivative by the shape; has no derivative itself
//   SUM, MAX, MIN           a[0], a[1]: axes [first, last) reduced, adjacent; flags 1 = keepdims. Not for vectors.
//   SEGSUM, SEGMAX, SEGMIN  vector → [tensors]: one value per tensor of the layout
//   SEGBROADCAST([tensors]) layout → vector
//   BLOCK_CODES(vector), BLOCK_SCALES(vector): in 8 bits; BLOCK_VALUES(codes, scales): back; attributes: quantize.c
//   ARGMAX                  over the last axis → i64
//   ARGSORT(x) the order of the last axis (order.h) → i64 [..., a[0]]: its first a[0] indices; flags 1 = descending
//   RANKED(x [..., n], ranks [..., m] or [m]) → i64 [..., m]: the indices of those ranks, which are clamped
//   SEARCHSORTED(sorted [..., n] or [n], x [..., m]) → i64 like x: where to insert; flags 1 = behind equal ones
//   TAKE_ALONG(x [..., n], indices [..., m]) → [..., m]: elements of each row by the indices of that row
//   ADD_ALONG(x [..., n], indices [..., m], updates [..., m]) its counterpart: x with the updates added, in their order
//   CUMSUM(x) a[0] = axis: running sums; flags 1 = from the end
//   ARGCUMMAX(x) over the last axis → i64 like x: the index of the largest so far; flags 1 = from the end
//   RECUR(a, b) over the last axis: y[i] = a[i] y[i - 1] + b[i], y[-1] = 0; flags 1 = from the end
//   RESHAPE n,a = shape     TRANSPOSE n,a = permutation; flags: graph.h      BROADCAST n,a = shape
//   SLICE n,a = start, b = length, c = step (> 0)
//   PAD n,a = before, b = result shape, c = step; zeros elsewhere (vjp of SLICE)
//   CONCAT a[0] = axis
//   GATHER(x, indices) a[0] = axis; indices any shape, in range or an error at run time is avoided by clamping
//   SCATTER_ADD(x, indices, updates) a[0] = axis: x with updates added at indices, in index order
//   MATMUL([…,M,K], […,K,N]) batch dimensions broadcast
//   Of matrices on the last two axes, and of each of a stack of them:
//   CHOLESKY([n, n]) → lower triangular L with L L^T = the symmetric part; NaN from the first pivot that is not positive
//   TRIANGULAR_SOLVE(l, b) l^-1 b, flags 1: l^-T b, from the lower triangle of l [n, n]; b [n] or [n, k]
//   SOLVE(a, b)             a^-1 b, flags 1: a^-T b; a [n, n], b [n] or [n, k]; NaN where a pivot is 0
//   SLOGDET([n, n]) → [2]: the determinant's sign and the logarithm of its magnitude; 0 and -inf where a pivot is 0
//   QR([m, n]), m >= n → [m + n, n]: Q, and below it R, whose diagonal is not negative
//   SVD([m, n]), m >= n → [m + 1 + n, n]: U, the singular values, falling, and V^T, below one another
//   EIGH([n, n]) → [n + 1, n]: eigenvalues of the symmetric part, ascending, and below them the eigenvectors as rows
//   CONV(x, w), CONV_INPUT(y, w), CONV_WEIGHTS(x, y): batch-innermost convolutions (conv.h); attributes: window.h;
//                           flags 1 of the last: each image by itself
//   MAX_POOL(x), POOL_ROUTE(x, y), POOL_PICK(x, z), POOL_SUM(x), POOL_SPREAD(y): batch-innermost pooling (pool.c)
//   CROP_FLIP(x [N, C, H, W], key [N] or []) a[0] = padding; flags 1 = the adjoint, 2 = mirrors too (augment.c)
//   VIEW(vector) a[0] = tensor number → that tensor
//   PACK(tensors…) layout → vector; a PG_NONE-free list, one per tensor
//   STOP (identity, no derivative)   TAP(x) identity; derivative passes through a callback (graph.h)
//   MARK(x) a[0] = unique number: identity that is never merged with another; what a transform differentiates by
//   CALL, SCAN, WHILE: regions (graph.h)
#define PG_OTHER_OPS(M)                                                                                                \
  M(INPUT, input, 0) M(SCALAR, scalar, 0) M(NUMBER, number, 0) M(FULL, full, 1) M(IOTA, iota, 0)                       \
  M(NORMAL, normal, 1) M(UNIFORM, uniform, 1) M(KEY_FOLD, key_fold, 2) M(PERMUTATION, permutation, 1)                  \
  M(LOG_GAMMA, log_gamma, 2) M(GAMMA_SLOPE, gamma_slope, 2)                                                            \
  M(SUM, sum, 1) M(MAX, max, 1) M(MIN, min, 1)                                                                         \
  M(SEGSUM, segsum, 1) M(SEGMAX, segmax, 1) M(SEGMIN, segmin, 1) M(SEGBROADCAST, segbroadcast, 1)                      \
  M(BLOCK_CODES, block_codes, 1) M(BLOCK_SCALES, block_scales, 1) M(BLOCK_VALUES, block_values, 2)                     \
  M(ARGMAX, argmax, 1) M(ARGSORT, argsort, 1) M(RANKED, ranked, 2) M(SEARCHSORTED, searchsorted, 2)                    \
  M(TAKE_ALONG, take_along, 2) M(ADD_ALONG, add_along, 3)                                                              \
  M(CUMSUM, cumsum, 1) M(ARGCUMMAX, argcummax, 1) M(RECUR, recur, 2)                                                   \
  M(RESHAPE, reshape, 1) M(TRANSPOSE, transpose, 1) M(BROADCAST, broadcast, 1)                                         \
  M(SLICE, slice, 1) M(PAD, pad, 1) M(CONCAT, concat, -1) M(GATHER, gather, 2) M(SCATTER_ADD, scatter_add, 3)          \
  M(MATMUL, matmul, 2) M(CHOLESKY, cholesky, 1) M(TRIANGULAR_SOLVE, triangular_solve, 2) M(SOLVE, solve, 2)            \
  M(SLOGDET, slogdet, 1) M(QR, qr, 1) M(SVD, svd, 1) M(EIGH, eigh, 1)                                                  \
  M(CONV, conv, 2) M(CONV_INPUT, conv_input, 2) M(CONV_WEIGHTS, conv_weights, 2)                                       \
  M(MAX_POOL, max_pool, 1) M(POOL_ROUTE, pool_route, 2) M(POOL_PICK, pool_pick, 2) M(POOL_SUM, pool_sum, 1)            \
  M(POOL_SPREAD, pool_spread, 1) M(CROP_FLIP, crop_flip, 2)                                                            \
  M(VIEW, view, 1) M(PACK, pack, -1) M(STOP, stop, 1) M(TAP, tap, 1) M(MARK, mark, 1)             \
  M(CALL, call, -1) M(SCAN, scan, -1) M(WHILE, while, -1)
// clang-format on

typedef enum pg_op {
#define M(NAME, name, arity) PG_OP_##NAME,
  PG_MAP_OPS(M) PG_OTHER_OPS(M)
#undef M
      PG_NUM_OPS
} pg_op;

typedef enum pg_op_class {
  PG_CLASS_SOURCE,  // INPUT, SCALAR, NUMBER
  PG_CLASS_MAP,     // elementwise, fused; FULL and IOTA too
  PG_CLASS_DRAW,    // keyed draws, and what else is made wherever it is read; fused
  PG_CLASS_REDUCE,  // SUM, MAX, MIN, SEG*: fused with what feeds them
  PG_CLASS_KEEP,    // BLOCK_CODES, BLOCK_SCALES: likewise
  PG_CLASS_VIEW,    // no work: RESHAPE, TRANSPOSE, BROADCAST, SLICE, VIEW, STOP, TAP
  PG_CLASS_PLACE,   // copies into parts of a result: PAD, CONCAT, PACK
  PG_CLASS_LIBRARY, // a kernel of its own: MATMUL, GATHER, …
  PG_CLASS_REGION
} pg_op_class;

// An operand of a library kernel: strides in elements. Outputs are contiguous.
typedef struct pg_operand {
  void *data;
  pg_dtype dtype;
  int ndim;
  int64_t shape[PG_MAX_NDIM], stride[PG_MAX_NDIM];
} pg_operand;

typedef struct pg_batching pg_batching;

typedef struct pg_op_info {
  const char *name;
  int arity; // -1: any number
  pg_op_class cls;
  // Check node->in (dtypes, shapes, attrs) and fill node->dtype, ndim, shape, layout. Weak results are handled by the
  // builder.
  pg_status (*shape)(const pg_graph *g, pg_node *node);
  // Given the cotangent `ct` of node v, set ct_in[i] for each input that has a derivative (they arrive as PG_NONE).
  pg_status (*vjp)(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in);
  // The tangent of node v from its inputs' tangents (PG_NONE = zero); *out PG_NONE means zero.
  pg_status (*jvp)(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out);
  // Batching rule (batching.h): what stands for `node`, of another graph, when its operands are `in` and those with
  // batched[i], at least one, carry a leading axis; *out carries one too. NULL: entry after entry, by a scan.
  pg_status (*batch)(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched, pg_value *out);
  // CPU kernel of a library op; NULL for the classes that the generator prints.
  void (*cpu)(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch);
  size_t (*scratch)(const pg_graph *g, const pg_node *node); // bytes of scratch the CPU kernel wants; NULL = 0
  bool strided;                                              // the CPU kernel takes strided inputs
  void *cuda;                                                // CUDA kernel; NULL: not written yet
  double cost;                                               // FLOPs per output element (MATMUL: 2K, from cost_of)
  double (*cost_of)(const pg_graph *g, const pg_node *node); // overrides cost
} pg_op_info;

extern const pg_op_info *const pg_op_table[PG_NUM_OPS];

// Shared shape rules and helpers for the op files.
pg_status pg_broadcast_shapes(const char *op, int n, const pg_node *const *in, int *ndim, int64_t *shape,
                              const pg_layout **layout);
const char *pg_shape_text(const pg_node *node, char *buf, size_t size); // "f32 [64, 10]" for messages
int64_t pg_node_size(const pg_node *node);                              // product of the shape

// Composite functions by name: build nodes from primitives. Registered in composite.c's table.
typedef pg_value (*pg_composite_fn)(pg_graph *g, int n, const pg_value *in, const pg_attrs *attrs);
typedef struct pg_function {
  const char *name;
  int min_arity, max_arity;
  int op;                    // primitive, or -1
  pg_composite_fn composite; // or NULL
} pg_function;
const pg_function *pg_function_find(const char *name);
const pg_function *pg_function_at(int i); // the whole table, NULL past the end

#endif
