// network.c: the composites that networks for images are made of: convolution, pooling, and what batch normalization
// does per channel. They speak of [N, C, H, W] as PyTorch does and work on batch-innermost tensors, to which a
// transpose leads that sinks through what stands between two of them (graph/sink.c). Attributes of windows as a user
// gives them: a = stride h, w; padding h, w; dilation h, w; groups (conv2d), or size h, w; stride h, w; padding h, w.
#include <string.h>

#include "engine/ops/arithmetic.h"
#include "engine/ops/composite.h"
#include "engine/ops/window.h"

#define COMPOSITE(name) pg_value pg_composite_##name(pg_graph *g, int n, const pg_value *in, const pg_attrs *attrs)

static pg_value move_axes(pg_graph *g, pg_value x, int flags, const int64_t perm[4]) {
  pg_attrs attrs = {.n = 4, .flags = flags};
  memcpy(attrs.a, perm, 4 * sizeof *perm);
  return x == PG_NONE ? PG_NONE : pg_node_make(g, PG_OP_TRANSPOSE, 1, &x, &attrs, NULL);
}

// [N, C, H, W] → [C, H, W, N], and back.
static pg_value to_inner(pg_graph *g, pg_value x) {
  return move_axes(g, x, PG_INTO_LAYOUT, (int64_t[]){1, 2, 3, 0});
}

static pg_value from_inner(pg_graph *g, pg_value x) {
  return move_axes(g, x, PG_OUT_OF_LAYOUT, (int64_t[]){3, 0, 1, 2});
}

static bool want_images(const char *op, const pg_node *x) {
  char text[200];
  if (x->ndim == 4 && !x->layout) {
    if (pg_dtype_is_float((pg_dtype)x->dtype)) return true;
    pg_fail(PG_ERR_DTYPE, "%s: the input is %s; convert it with :to(\"f32\")", op, pg_shape_text(x, text, sizeof text));
    return false;
  }
  pg_fail(PG_ERR_SHAPE, "%s: the input is %s; expected [batch, channels, height, width]", op,
          pg_shape_text(x, text, sizeof text));
  return false;
}

// ---- convolution ---------------------------------------------------------------------------------------------------

static bool check_channels(const pg_node *x, const pg_node *w, int64_t groups) {
  char a[200], b[200];
  const char *many = groups == 1 ? "group" : "groups";
  if (groups > 0 && w->shape[0] % groups != 0)
    pg_fail(PG_ERR_SHAPE, "conv2d: the %lld output channels of the weight %s do not divide into %lld %s",
            (long long)w->shape[0], pg_shape_text(w, b, sizeof b), (long long)groups, many);
  else if (groups > 0 && w->shape[1] * groups != x->shape[1])
    pg_fail(PG_ERR_SHAPE, "conv2d: the input %s has %lld channels, the weight %s in %lld %s takes %lld",
            pg_shape_text(x, a, sizeof a), (long long)x->shape[1], pg_shape_text(w, b, sizeof b), (long long)groups,
            many, (long long)(w->shape[1] * groups));
  else
    return true;
  return false;
}

static bool check_weight(const pg_node *x, const pg_node *w) {
  char a[200], b[200];
  if (w->ndim != 4 || w->layout)
    pg_fail(
        PG_ERR_SHAPE,
        "conv2d: the weight is %s; expected [output channels, input channels / groups, kernel height, kernel width]",
        pg_shape_text(w, b, sizeof b));
  else if (w->dtype != x->dtype)
    pg_fail(PG_ERR_DTYPE, "conv2d: the input is %s and the weight %s; convert one with :to(\"%s\")",
            pg_shape_text(x, a, sizeof a), pg_shape_text(w, b, sizeof b), pg_dtype_name((pg_dtype)x->dtype));
  else
    return true;
  return false;
}

// x [N, C, H, W], w [O, C / groups, KH, KW] and perhaps a bias [O] → [N, O, OH, OW]; cross-correlation, as in PyTorch.
COMPOSITE(conv2d) {
  const pg_node x = *pg_at(g, in[0]), w = *pg_at(g, in[1]);
  char text[200];
  if (!want_images("conv2d", &x) || !check_weight(&x, &w)) return PG_NONE;
  pg_attrs window = {.n = 7};
  memcpy(window.a, attrs->a, 7 * sizeof *window.a);
  memcpy(window.b, (int64_t[]){x.shape[2], x.shape[3], w.shape[2], w.shape[3]}, 4 * sizeof *window.b);
  if (pg_window_check("conv2d", &window) != PG_OK || !check_channels(&x, &w, window.a[6])) return PG_NONE;
  pg_value y = pg_node_make(g, PG_OP_CONV, 2, (pg_value[]){to_inner(g, in[0]), in[1]}, &window, NULL);
  if (n == 3) {
    const pg_node *bias = pg_at(g, in[2]);
    if (bias->ndim != 1 || bias->layout || bias->shape[0] != w.shape[0])
      return pg_fail(PG_ERR_SHAPE, "conv2d: the bias is %s; expected one number for each of %lld output channels",
                     pg_shape_text(bias, text, sizeof text), (long long)w.shape[0]),
             PG_NONE;
    y = add(g, y, pg_reshape(g, in[2], 4, (int64_t[]){w.shape[0], 1, 1, 1}));
  }
  return from_inner(g, y);
}

// ---- pooling -------------------------------------------------------------------------------------------------------

static bool find_window(const char *op, const pg_node *x, const pg_attrs *attrs, pg_attrs *window) {
  if (!want_images(op, x)) return false;
  *window = (pg_attrs){.n = 7, .a = {attrs->a[2], attrs->a[3], attrs->a[4], attrs->a[5], 1, 1, 1}};
  memcpy(window->b, (int64_t[]){x->shape[2], x->shape[3], attrs->a[0], attrs->a[1]}, 4 * sizeof *window->b);
  if (pg_window_check(op, window) != PG_OK) return false;
  for (int i = 0; i < 2; i++)
    if (attrs->a[4 + i] * 2 > attrs->a[i])
      return pg_fail(PG_ERR_ARGUMENT, "%s: the padding %lld is more than half the window's size %lld", op,
                     (long long)attrs->a[4 + i], (long long)attrs->a[i]),
             false;
  return true;
}

// The largest element of each window; padding is never the largest.
COMPOSITE(max_pool2d) {
  (void)n;
  const pg_node x = *pg_at(g, in[0]);
  pg_attrs window;
  if (!find_window("max_pool2d", &x, attrs, &window)) return PG_NONE;
  const pg_value inner = to_inner(g, in[0]);
  return from_inner(g, pg_node_make(g, PG_OP_MAX_POOL, 1, &inner, &window, NULL));
}

// The mean of each window, padding counted as zeros; flags 1: of the elements inside only.
COMPOSITE(avg_pool2d) {
  (void)n;
  const pg_node x = *pg_at(g, in[0]);
  pg_attrs window;
  if (!find_window("avg_pool2d", &x, attrs, &window)) return PG_NONE;
  const pg_value inner = to_inner(g, in[0]);
  pg_value size = num(g, (double)(attrs->a[0] * attrs->a[1]));
  if ((attrs->flags & 1) && (attrs->a[4] || attrs->a[5])) { // each window has its own count
    const pg_value ones = pg_filled(g, 1, (pg_dtype)x.dtype, 4, (int64_t[]){1, x.shape[2], x.shape[3], 1});
    size = pg_node_make(g, PG_OP_POOL_SUM, 1, &ones, &window, NULL);
  }
  return from_inner(g, divide(g, pg_node_make(g, PG_OP_POOL_SUM, 1, &inner, &window, NULL), size));
}

// ---- per channel ---------------------------------------------------------------------------------------------------

// x [N, C, …] with at least two axes. Images are brought into their layout; *axes is where the channels are then.
static pg_value find_channels(pg_graph *g, const char *op, pg_value x, int *axis) {
  const pg_node node = *pg_at(g, x);
  char text[200];
  if (node.ndim < 2 || node.layout || !pg_dtype_is_float((pg_dtype)node.dtype))
    return pg_fail(PG_ERR_SHAPE, "%s: the input is %s; expected [batch, channels, …] of floating-point numbers", op,
                   pg_shape_text(&node, text, sizeof text)),
           PG_NONE;
  *axis = node.ndim == 4 ? 0 : 1;
  return node.ndim == 4 ? to_inner(g, x) : x;
}

// Sum over all axes but `axis` → [C].
static pg_value sum_of_channels(pg_graph *g, pg_value x, int axis) {
  if (x == PG_NONE) return PG_NONE;
  const pg_node node = *pg_at(g, x);
  if (axis + 1 < node.ndim) x = pg_reduce_run(g, PG_OP_SUM, x, axis + 1, node.ndim, false);
  if (axis > 0) x = pg_reduce_run(g, PG_OP_SUM, x, 0, axis, false);
  return x;
}

// [C] as a tensor that broadcasts against x along `axis`.
static pg_value along(pg_graph *g, pg_value per_channel, int axis, pg_value x) {
  if (per_channel == PG_NONE || x == PG_NONE) return PG_NONE;
  const pg_node node = *pg_at(g, x);
  int64_t shape[PG_MAX_NDIM];
  for (int i = 0; i < node.ndim; i++) shape[i] = i == axis ? node.shape[axis] : 1;
  return pg_reshape(g, per_channel, node.ndim, shape);
}

static double count_per_channel(const pg_graph *g, pg_value x, int axis) {
  const pg_node *node = pg_at(g, x);
  return node->shape[axis] ? (double)pg_node_size(node) / (double)node->shape[axis] : 0;
}

// The mean of each channel, over the batch and all positions → [C].
COMPOSITE(channel_mean) {
  (void)n, (void)attrs;
  int axis = 0;
  const pg_value x = find_channels(g, "channel_mean", in[0], &axis);
  return x == PG_NONE ? PG_NONE : divide(g, sum_of_channels(g, x, axis), num(g, count_per_channel(g, x, axis)));
}

// The population variance of each channel → [C].
COMPOSITE(channel_var) {
  (void)n;
  int axis = 0;
  const pg_value x = find_channels(g, "channel_var", in[0], &axis);
  if (x == PG_NONE) return PG_NONE;
  const pg_value centred = sub(g, x, along(g, pg_composite_channel_mean(g, 1, in, attrs), axis, x));
  return divide(g, sum_of_channels(g, mul(g, centred, centred), axis), num(g, count_per_channel(g, x, axis)));
}

// (x - mean) * scale + shift, each a tensor of one number per channel.
COMPOSITE(channel_normalize) {
  (void)n, (void)attrs;
  static const char *const what[] = {"mean", "scale", "shift"};
  const pg_node node = *pg_at(g, in[0]);
  int axis = 0;
  const pg_value x = find_channels(g, "channel_normalize", in[0], &axis);
  pg_value part[3];
  for (int i = 0; i < 3 && x != PG_NONE; i++) {
    const pg_node *p = pg_at(g, in[1 + i]);
    char a[200], b[200];
    if (p->weak || p->layout || p->ndim != 1 || p->shape[0] != node.shape[1])
      return pg_fail(PG_ERR_SHAPE, "channel_normalize: the %s is %s; expected one number for each channel of %s",
                     what[i], pg_shape_text(p, a, sizeof a), pg_shape_text(&node, b, sizeof b)),
             PG_NONE;
    part[i] = along(g, in[1 + i], axis, x);
  }
  if (x == PG_NONE) return PG_NONE;
  const pg_value y = add(g, mul(g, sub(g, x, part[0]), part[1]), part[2]);
  return node.ndim == 4 ? from_inner(g, y) : y;
}
