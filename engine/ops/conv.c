// conv.c: the rows of CONV, CONV_INPUT and CONV_WEIGHTS: a two-dimensional convolution (cross-correlation, as networks
// use it) and the two maps that its derivatives are. The three are bilinear, and the derivative of each is made of the
// other two, so there are derivatives of any order. Their tensors are batch-innermost (window.h); the function conv2d
// of network.c takes and gives [N, C, H, W].
#include "engine/ops/conv.h"

#include "engine/ops/batching.h"

static pg_status want_operands(const char *op, const pg_node *a, const pg_node *b) {
  char ta[200], tb[200];
  PG_TRY(pg_want_plain(op, a));
  PG_TRY(pg_want_plain(op, b));
  if (a->ndim != 4 || b->ndim != 4)
    return pg_fail(PG_ERR_SHAPE, "%s: needs tensors of four axes, got %s and %s", op, pg_shape_text(a, ta, sizeof ta),
                   pg_shape_text(b, tb, sizeof tb));
  if (a->dtype != b->dtype || !pg_dtype_is_float((pg_dtype)a->dtype))
    return pg_fail(PG_ERR_DTYPE, "%s: %s and %s; both must be f32 or f64, convert one with :to", op,
                   pg_shape_text(a, ta, sizeof ta), pg_shape_text(b, tb, sizeof tb));
  return PG_OK;
}

static pg_status fail_fit(const char *op, const pg_node *a, const pg_node *b) {
  char ta[200], tb[200];
  return pg_fail(PG_ERR_SHAPE, "%s: %s and %s do not fit each other and the attributes", op,
                 pg_shape_text(a, ta, sizeof ta), pg_shape_text(b, tb, sizeof tb));
}

static bool is_image(const pg_node *x, int64_t h, int64_t w) {
  return x->shape[1] == h && x->shape[2] == w;
}

static bool fits_weights(const pg_node *w, const pg_window *win) {
  return w->shape[2] == win->h.size && w->shape[3] == win->w.size && w->shape[0] % win->groups == 0;
}

static pg_status shape_conv(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0), *w = pg_in(g, node, 1);
  PG_TRY(want_operands("conv", x, w));
  PG_TRY(pg_window_check("conv", &node->attrs));
  const pg_window win = pg_window_of(&node->attrs);
  if (!is_image(x, win.h.in, win.w.in) || !fits_weights(w, &win) || w->shape[1] * win.groups != x->shape[0])
    return fail_fit("conv", x, w);
  pg_set_type(node, (pg_dtype)x->dtype, 4, (int64_t[]){w->shape[0], win.h.out, win.w.out, x->shape[3]}, NULL);
  return PG_OK;
}

static pg_status shape_conv_input(const pg_graph *g, pg_node *node) {
  const pg_node *y = pg_in(g, node, 0), *w = pg_in(g, node, 1);
  PG_TRY(want_operands("conv_input", y, w));
  PG_TRY(pg_window_check("conv_input", &node->attrs));
  const pg_window win = pg_window_of(&node->attrs);
  if (!is_image(y, win.h.out, win.w.out) || !fits_weights(w, &win) || w->shape[0] != y->shape[0])
    return fail_fit("conv_input", y, w);
  pg_set_type(node, (pg_dtype)y->dtype, 4, (int64_t[]){w->shape[1] * win.groups, win.h.in, win.w.in, y->shape[3]},
              NULL);
  return PG_OK;
}

static pg_status shape_conv_weights(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0), *y = pg_in(g, node, 1);
  PG_TRY(want_operands("conv_weights", x, y));
  PG_TRY(pg_window_check("conv_weights", &node->attrs));
  const pg_window win = pg_window_of(&node->attrs);
  if (!is_image(x, win.h.in, win.w.in) || !is_image(y, win.h.out, win.w.out) || x->shape[3] != y->shape[3] ||
      x->shape[0] % win.groups != 0 || y->shape[0] % win.groups != 0)
    return fail_fit("conv_weights", x, y);
  const int64_t shape[5] = {y->shape[0], x->shape[0] / win.groups, win.h.size, win.w.size, x->shape[3]};
  pg_set_type(node, (pg_dtype)x->dtype, node->attrs.flags & PG_CONV_EACH ? 5 : 4, shape, NULL);
  return PG_OK;
}

// ---- derivatives ---------------------------------------------------------------------------------------------------

static pg_value apply(pg_graph *g, int op, pg_value a, pg_value b, const pg_attrs *attrs) {
  return pg_node_make(g, op, 2, (pg_value[]){a, b}, attrs, NULL);
}

// How the cotangent of one operand comes from ct and the other operand: by which op, and in which order.
typedef struct adjoint {
  int op;
  bool ct_first;
} adjoint;

static pg_status vjp_bilinear(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in, const adjoint of[2]) {
  const pg_node node = *pg_at(g, v);
  for (int i = 0; i < 2; i++) {
    if (ct_in[i] == PG_UNWANTED) continue;
    const pg_value other = node.in[1 - i];
    ct_in[i] = of[i].ct_first ? apply(g, of[i].op, ct, other, &node.attrs) : apply(g, of[i].op, other, ct, &node.attrs);
    PG_TRY(pg_built(ct_in[i]));
  }
  return PG_OK;
}

// <ct, conv(x, w)>: x's part is the input gradient of (ct, w), w's the weight gradient of (x, ct).
static pg_status vjp_conv(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  return vjp_bilinear(g, v, ct, ct_in, (adjoint[]){{PG_OP_CONV_INPUT, true}, {PG_OP_CONV_WEIGHTS, false}});
}

static pg_status vjp_conv_input(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  return vjp_bilinear(g, v, ct, ct_in, (adjoint[]){{PG_OP_CONV, true}, {PG_OP_CONV_WEIGHTS, true}});
}

// [C, H, W, N] as N groups of channels, [N C, H, W, 1], and back.
static pg_value images_as_groups(pg_graph *g, pg_value x) {
  if (x == PG_NONE) return x;
  const pg_node node = *pg_at(g, x);
  const int64_t shape[4] = {node.shape[0] * node.shape[3], node.shape[1], node.shape[2], 1};
  return pg_reshape(g, pg_transpose(g, x, (int[]){3, 0, 1, 2}), 4, shape);
}

static pg_value groups_as_images(pg_graph *g, pg_value x, int64_t images) {
  x = pg_batch_split(g, x, 0, images, images ? pg_at(g, x)->shape[0] / images : 0);
  return pg_batch_merge(g, pg_transpose(g, x, (int[]){1, 2, 3, 0, 4}), 3, 5);
}

// The cotangent holds weights for each image, so that each is a group.
static pg_status vjp_conv_weights_each(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const pg_node node = *pg_at(g, v);
  const int64_t images = node.shape[4];
  pg_attrs attrs = node.attrs;
  attrs.flags = 0;
  attrs.a[6] *= images;
  const pg_value w = pg_batch_merge(g, pg_transpose(g, ct, (int[]){4, 0, 1, 2, 3}), 0, 2);
  for (int i = 0; i < 2; i++) {
    if (ct_in[i] == PG_UNWANTED) continue;
    const pg_value other = images_as_groups(g, node.in[1 - i]);
    const pg_value found = apply(g, i == 0 ? PG_OP_CONV_INPUT : PG_OP_CONV, other, w, &attrs);
    PG_TRY(pg_built(found));
    ct_in[i] = groups_as_images(g, found, images);
    PG_TRY(pg_built(ct_in[i]));
  }
  return PG_OK;
}

static pg_status vjp_conv_weights(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  if (pg_at(g, v)->attrs.flags & PG_CONV_EACH) return vjp_conv_weights_each(g, v, ct, ct_in);
  return vjp_bilinear(g, v, ct, ct_in, (adjoint[]){{PG_OP_CONV_INPUT, false}, {PG_OP_CONV, false}});
}

static pg_status jvp_bilinear(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  const pg_node node = *pg_at(g, v);
  pg_value left = PG_NONE, right = PG_NONE;
  if (tangents[0] != PG_NONE) {
    left = apply(g, node.op, tangents[0], node.in[1], &node.attrs);
    PG_TRY(pg_built(left));
  }
  if (tangents[1] != PG_NONE) {
    right = apply(g, node.op, node.in[0], tangents[1], &node.attrs);
    PG_TRY(pg_built(right));
  }
  *out = left == PG_NONE ? right : right == PG_NONE ? left : pg_op2(g, PG_OP_ADD, left, right);
  return pg_built(*out);
}

// ---- batching ------------------------------------------------------------------------------------------------------
//
// Images of all entries are one batch of images where they meet the same weights; weights of all entries are output
// channels where they meet the same images; and where each entry has both, it is a group of channels. The gradients of
// weights of single images are a mode of CONV_WEIGHTS.

static pg_value with_images(pg_batching *b, const pg_node *node, pg_value x, pg_value w) {
  return pg_batch_out_of_images(b, apply(b->g, node->op, pg_batch_into_images(b, x), w, &node->attrs));
}

static pg_value as_groups(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched) {
  pg_attrs attrs = node->attrs;
  pg_value x[2];
  attrs.a[6] *= b->size;
  for (int i = 0; i < 2; i++) x[i] = pg_batch_merge(b->g, pg_batch_spread(b, in[i], batched[i]), 0, 2);
  return pg_batch_split(b->g, apply(b->g, node->op, x[0], x[1], &attrs), 0, b->size, node->shape[0]);
}

// Operand `many` alone is batched, and its first axis is the result's.
static pg_value as_outputs(pg_batching *b, const pg_node *node, const pg_value *in, int many) {
  pg_value x[2] = {in[0], in[1]};
  x[many] = pg_batch_merge(b->g, in[many], 0, 2);
  return pg_batch_split(b->g, apply(b->g, node->op, x[0], x[1], &node->attrs), 0, b->size, node->shape[0]);
}

static pg_status batch_conv(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                            pg_value *out) {
  if (!batched[1])
    *out = with_images(b, node, in[0], in[1]);
  else if (!batched[0] && node->attrs.a[6] == 1)
    *out = as_outputs(b, node, in, 1);
  else
    *out = as_groups(b, node, in, batched);
  return pg_built(*out);
}

static pg_status batch_conv_input(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                                  pg_value *out) {
  *out = batched[1] ? as_groups(b, node, in, batched) : with_images(b, node, in[0], in[1]);
  return pg_built(*out);
}

// Each image's own gradient of the weights: the batch stays innermost.
static pg_value weigh_each(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched) {
  pg_attrs attrs = node->attrs;
  pg_value x[2];
  attrs.flags = PG_CONV_EACH;
  for (int i = 0; i < 2; i++) x[i] = pg_batch_into_images(b, pg_batch_spread(b, in[i], batched[i]));
  return apply(b->g, PG_OP_CONV_WEIGHTS, x[0], x[1], &attrs);
}

static pg_status batch_conv_weights(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                                    pg_value *out) {
  const pg_node x = *pg_at(b->g, in[0]);
  if (node->attrs.flags & PG_CONV_EACH)
    *out = pg_batch_move_axis(b->g, pg_batch_split(b->g, weigh_each(b, node, in, batched), 4, b->size, node->shape[4]),
                              4, 0, PG_OUT_OF_LAYOUT);
  else if (!batched[0] && node->attrs.a[6] == 1)
    *out = as_outputs(b, node, in, 1);
  else if (x.shape[x.ndim - 1] == 1)
    *out = pg_batch_move_axis(b->g, weigh_each(b, node, in, batched), 4, 0, PG_OUT_OF_LAYOUT);
  else
    *out = as_groups(b, node, in, batched);
  return pg_built(*out);
}

// ---- costs ---------------------------------------------------------------------------------------------------------

static double cost(const pg_attrs *attrs, int64_t outputs, int64_t inputs, int64_t batch) {
  const pg_window w = pg_window_of(attrs);
  return 2.0 * (double)batch * (double)outputs * (double)(inputs / w.groups) * (double)(w.h.out * w.w.out) *
         (double)(w.h.size * w.w.size);
}

static double cost_conv(const pg_graph *g, const pg_node *node) {
  return cost(&node->attrs, node->shape[0], pg_in(g, node, 0)->shape[0], node->shape[3]);
}

static double cost_conv_input(const pg_graph *g, const pg_node *node) {
  return cost(&node->attrs, pg_in(g, node, 0)->shape[0], node->shape[0], node->shape[3]);
}

static double cost_conv_weights(const pg_graph *g, const pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  return cost(&node->attrs, node->shape[0], x->shape[0], x->shape[3]);
}

static size_t scratch_conv(const pg_graph *g, const pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  return pg_conv_scratch(&node->attrs, true, node->shape[0], x->shape[0], (pg_dtype)node->dtype);
}

static size_t scratch_conv_input(const pg_graph *g, const pg_node *node) {
  const pg_node *y = pg_in(g, node, 0);
  return pg_conv_scratch(&node->attrs, false, y->shape[0], node->shape[0], (pg_dtype)node->dtype);
}

static size_t scratch_conv_weights(const pg_graph *g, const pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  if (node->attrs.flags & PG_CONV_EACH) return 0;
  return pg_conv_weights_scratch(&node->attrs, node->shape[0], x->shape[0], x->shape[3], (pg_dtype)node->dtype);
}

#define ROW(NAME, op)                                                                                                  \
  const pg_op_info pg_op_info_##NAME = {.name = #op,                                                                   \
                                        .arity = 2,                                                                    \
                                        .cls = PG_CLASS_LIBRARY,                                                       \
                                        .shape = shape_##op,                                                           \
                                        .vjp = vjp_##op,                                                               \
                                        .jvp = jvp_bilinear,                                                           \
                                        .batch = batch_##op,                                                           \
                                        .cpu = pg_##op##_run,                                                          \
                                        .scratch = scratch_##op,                                                       \
                                        .cost_of = cost_##op};
ROW(CONV, conv)
ROW(CONV_INPUT, conv_input)
ROW(CONV_WEIGHTS, conv_weights)
