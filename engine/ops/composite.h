// composite.h: the composite functions, as listed in function.c's table. Each builds nodes from primitives; what its
// operands and attributes mean stands at its definition. Reductions of losses: flags 0 mean, 1 sum, 2 none.
#ifndef PG_OPS_COMPOSITE_H
#define PG_OPS_COMPOSITE_H

#include "engine/ops/rules.h"

// clang-format off
#define PG_COMPOSITES(M)                                                                                               \
  M(sum, 1, 1) M(mean, 1, 1) M(max, 1, 1) M(min, 1, 1) M(var, 1, 1) M(any, 1, 1) M(all, 1, 1) M(logsumexp, 1, 1)       \
  M(softmax, 1, 1) M(log_softmax, 1, 1) M(dot, 2, 2) M(norm, 1, 1) M(outer, 2, 2) M(matmul, 2, 2) M(argmin, 1, 1)      \
  M(pow, 2, 2) M(square, 1, 1) M(reciprocal, 1, 1) M(clamp, 3, 3) M(gelu, 1, 1) M(silu, 1, 1) M(leaky_relu, 1, 1)      \
  M(elu, 1, 1) M(log_sigmoid, 1, 1) M(cross_entropy, 2, 2) M(binary_cross_entropy_with_logits, 2, 2)                   \
  M(squared_loss, 2, 2) M(mse, 2, 2) M(reshape, 1, 1) M(transpose, 1, 1) M(broadcast_to, 1, 1) M(squeeze, 1, 1)        \
  M(expand_dims, 1, 1) M(slice, 1, 1) M(pad, 1, 1) M(stack, 1, -1) M(take, 2, 2) M(take_along_last, 2, 2)              \
  M(one_hot, 1, 1) M(zeros, 0, 0) M(ones, 0, 0) M(eye, 0, 0) M(arange, 0, 2) M(zeros_like, 1, 1) M(ones_like, 1, 1)    \
  M(randn, 1, 1) M(bernoulli, 1, 1) M(dropout, 2, 2) M(flatten_vector, 1, 1) M(pack_flat, 1, 1) M(segfull, 1, -1)      \
  M(segsize, 0, 0) M(segmean, 1, 1) M(conv2d, 2, 3) M(max_pool2d, 1, 1) M(avg_pool2d, 1, 1) M(channel_mean, 1, 1)      \
  M(channel_var, 1, 1) M(channel_normalize, 4, 4)
// clang-format on

#define M(name, least, most)                                                                                           \
  pg_value pg_composite_##name(pg_graph *g, int n, const pg_value *in, const pg_attrs *attrs);
PG_COMPOSITES(M)
#undef M

#endif
