// pool.c: the rows of pooling over batch-innermost tensors (window.h). MAX_POOL takes each window's largest element;
// POOL_ROUTE and POOL_PICK are its derivatives: a window's number added where its largest element is, and the element
// of a second tensor at that place. POOL_SUM adds up each window and POOL_SPREAD is its adjoint. Each is linear in what
// it has a derivative in, and the two of a pair are each other's adjoint, so there are derivatives of any order. Where
// the largest element is does not move: of equal ones the first counts, as in PyTorch.
#include <string.h>

#include "engine/core/parallel.h"
#include "engine/core/simd.h"
#include "engine/ops/batching.h"
#include "engine/ops/window.h"

// ---- shapes --------------------------------------------------------------------------------------------------------

typedef enum extent { IN, OUT } extent;

static pg_status want_image(const char *op, const pg_node *x, const pg_window *w, extent e) {
  char text[200];
  PG_TRY(pg_want_plain(op, x));
  if (!pg_dtype_is_float((pg_dtype)x->dtype))
    return pg_fail(PG_ERR_DTYPE, "%s: %s; convert it with :to(\"f32\")", op, pg_shape_text(x, text, sizeof text));
  if (x->ndim == 4 && x->shape[1] == (e == IN ? w->h.in : w->h.out) && x->shape[2] == (e == IN ? w->w.in : w->w.out))
    return PG_OK;
  return pg_fail(PG_ERR_SHAPE, "%s: %s does not fit the window's attributes", op, pg_shape_text(x, text, sizeof text));
}

// The operands' extents and the result's.
static pg_status shape_pool(const pg_graph *g, pg_node *node, const extent *of, extent result) {
  const char *op = pg_op_table[node->op]->name;
  PG_TRY(pg_window_check(op, &node->attrs));
  const pg_window w = pg_window_of(&node->attrs);
  const pg_node *first = pg_in(g, node, 0);
  for (int i = 0; i < node->nin; i++) {
    const pg_node *x = pg_in(g, node, i);
    PG_TRY(want_image(op, x, &w, of[i]));
    if (x->dtype != first->dtype || x->shape[0] != first->shape[0] || x->shape[3] != first->shape[3])
      return pg_fail(PG_ERR_SHAPE, "%s: operands of different types", op);
  }
  const int64_t shape[4] = {first->shape[0], result == IN ? w.h.in : w.h.out, result == IN ? w.w.in : w.w.out,
                            first->shape[3]};
  pg_set_type(node, (pg_dtype)first->dtype, 4, shape, NULL);
  return PG_OK;
}

static pg_status shape_max_pool(const pg_graph *g, pg_node *node) {
  return shape_pool(g, node, (extent[]){IN}, OUT);
}

static pg_status shape_pool_route(const pg_graph *g, pg_node *node) {
  return shape_pool(g, node, (extent[]){IN, OUT}, IN);
}

static pg_status shape_pool_pick(const pg_graph *g, pg_node *node) {
  return shape_pool(g, node, (extent[]){IN, IN}, OUT);
}

static pg_status shape_pool_sum(const pg_graph *g, pg_node *node) {
  return shape_pool(g, node, (extent[]){IN}, OUT);
}

static pg_status shape_pool_spread(const pg_graph *g, pg_node *node) {
  return shape_pool(g, node, (extent[]){OUT}, IN);
}

// ---- derivatives ---------------------------------------------------------------------------------------------------

// Op `op` at the place of v's largest elements, applied to y.
static pg_value at_largest(pg_graph *g, pg_value v, int op, pg_value y) {
  const pg_node node = *pg_at(g, v);
  return pg_node_make(g, op, 2, (pg_value[]){node.in[0], y}, &node.attrs, NULL);
}

static pg_value alike(pg_graph *g, pg_value v, int op, pg_value y) {
  const pg_attrs attrs = pg_at(g, v)->attrs;
  return pg_node_make(g, op, 1, &y, &attrs, NULL);
}

static pg_status vjp_max_pool(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  ct_in[0] = at_largest(g, v, PG_OP_POOL_ROUTE, ct);
  return pg_built(ct_in[0]);
}

static pg_status jvp_max_pool(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  *out = at_largest(g, v, PG_OP_POOL_PICK, tangents[0]);
  return pg_built(*out);
}

// Of POOL_ROUTE and POOL_PICK: linear in the second operand.
static pg_status vjp_of_pair(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  const int adjoint = pg_at(g, v)->op == PG_OP_POOL_ROUTE ? PG_OP_POOL_PICK : PG_OP_POOL_ROUTE;
  if (ct_in[1] == PG_UNWANTED) return PG_OK;
  ct_in[1] = at_largest(g, v, adjoint, ct);
  return pg_built(ct_in[1]);
}

static pg_status jvp_of_pair(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  if (tangents[1] == PG_NONE) return PG_OK;
  *out = at_largest(g, v, pg_at(g, v)->op, tangents[1]);
  return pg_built(*out);
}

static pg_status vjp_of_sum(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  ct_in[0] = alike(g, v, pg_at(g, v)->op == PG_OP_POOL_SUM ? PG_OP_POOL_SPREAD : PG_OP_POOL_SUM, ct);
  return pg_built(ct_in[0]);
}

static pg_status jvp_of_sum(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  *out = alike(g, v, pg_at(g, v)->op, tangents[0]);
  return pg_built(*out);
}

// ---- batching ------------------------------------------------------------------------------------------------------

// Whether the entries lie among the images already, as behind a convolution with weights that are the same for all.
static bool lies_among_images(const pg_batching *b, const pg_node *node, const pg_value *in) {
  for (int i = 0; i < node->nin; i++)
    if (pg_at(b->g, in[i])->op == PG_OP_TRANSPOSE && pg_at(b->g, in[i])->attrs.flags == PG_OUT_OF_LAYOUT) return true;
  return false;
}

// Channels are independent, and so are images: the entries become some of either.
static pg_status batch_pool(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                            pg_value *out) {
  pg_value images[2];
  if (!lies_among_images(b, node, in)) {
    for (int i = 0; i < node->nin; i++) images[i] = pg_batch_merge(b->g, pg_batch_spread(b, in[i], batched[i]), 0, 2);
    const pg_value pooled = pg_node_make(b->g, node->op, node->nin, images, &node->attrs, NULL);
    *out = pg_batch_split(b->g, pooled, 0, b->size, node->shape[0]);
    return pg_built(*out);
  }
  for (int i = 0; i < node->nin; i++) images[i] = pg_batch_into_images(b, pg_batch_spread(b, in[i], batched[i]));
  *out = pg_batch_out_of_images(b, pg_node_make(b->g, node->op, node->nin, images, &node->attrs, NULL));
  return pg_built(*out);
}

// ---- kernels -------------------------------------------------------------------------------------------------------

enum { SLAB = 64 }; // examples of one task

typedef enum pool_kind { POOL_MAX, POOL_ROUTE, POOL_PICK, POOL_SUM, POOL_SPREAD } pool_kind;

typedef struct pool {
  pool_kind kind;
  pg_window window;
  int64_t batch, slabs;
  pg_taps h_taps, w_taps;
  const void *x, *other; // other: the second operand; or the first, where that is as small as a result of pooling
  bool other_is_small, gives_small;
  void *out;
} pool;

// One window: its taps that lie inside; strides in elements.
typedef struct pool_place {
  const pg_tap *h, *w;
  int64_t nh, nw, row, column;
} pool_place;

// Masks of the vectors' lanes.
typedef int32_t mask_f32 __attribute__((vector_size(PG_VECTOR_BYTES)));
typedef int64_t mask_f64 __attribute__((vector_size(PG_VECTOR_BYTES)));

#define T float
#define M int32_t
#define S(f) f##_f32
#include "engine/ops/pool_kernel.h"
#define T double
#define M int64_t
#define S(f) f##_f64
#include "engine/ops/pool_kernel.h"

static size_t scratch_pool(const pg_graph *g, const pg_node *node) {
  (void)g;
  const pg_window w = pg_window_of(&node->attrs);
  return pg_taps_bytes(&w.h, true) + pg_taps_bytes(&w.w, true);
}

static void run_pool(pool_kind kind, const pg_operand *out, const pg_operand *in, const pg_attrs *attrs,
                     char *scratch) {
  pool c = {.kind = kind, .window = pg_window_of(attrs), .batch = out->shape[3], .out = out->data};
  c.slabs = (c.batch + SLAB - 1) / SLAB;
  c.gives_small = kind == POOL_MAX || kind == POOL_PICK || kind == POOL_SUM;
  c.other_is_small = kind == POOL_ROUTE || kind == POOL_SPREAD;
  c.x = kind == POOL_SPREAD ? NULL : in[0].data;
  c.other = kind == POOL_SPREAD ? in[0].data : kind == POOL_ROUTE || kind == POOL_PICK ? in[1].data : NULL;
  c.h_taps = pg_taps_fill(&c.window.h, true, scratch);
  c.w_taps = pg_taps_fill(&c.window.w, true, scratch + pg_taps_bytes(&c.window.h, true));
  const double work = (double)out->shape[0] * (double)c.batch * (double)(c.window.h.out * c.window.w.out) *
                      (double)(c.window.h.size * c.window.w.size);
  pg_parallel_for(out->shape[0] * c.slabs, work / 4, out->dtype == PG_F32 ? pool_channels_f32 : pool_channels_f64, &c);
}

#define RUN(name, kind)                                                                                                \
  static void run_##name(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) { \
    (void)nin;                                                                                                         \
    run_pool(kind, out, in, attrs, scratch);                                                                           \
  }
RUN(max_pool, POOL_MAX)
RUN(pool_route, POOL_ROUTE)
RUN(pool_pick, POOL_PICK)
RUN(pool_sum, POOL_SUM)
RUN(pool_spread, POOL_SPREAD)

// One operation per element of a window.
static double cost_pool(const pg_graph *g, const pg_node *node) {
  (void)g;
  const pg_window w = pg_window_of(&node->attrs);
  return (double)node->shape[0] * (double)node->shape[3] * (double)(w.h.out * w.w.out) * (double)(w.h.size * w.w.size);
}

#define ROW(NAME, op, count, vjp_rule, jvp_rule)                                                                       \
  const pg_op_info pg_op_info_##NAME = {.name = #op,                                                                   \
                                        .arity = count,                                                                \
                                        .cls = PG_CLASS_LIBRARY,                                                       \
                                        .shape = shape_##op,                                                           \
                                        .vjp = vjp_rule,                                                               \
                                        .jvp = jvp_rule,                                                               \
                                        .batch = batch_pool,                                                           \
                                        .cpu = run_##op,                                                               \
                                        .scratch = scratch_pool,                                                       \
                                        .cost_of = cost_pool};
ROW(MAX_POOL, max_pool, 1, vjp_max_pool, jvp_max_pool)
ROW(POOL_ROUTE, pool_route, 2, vjp_of_pair, jvp_of_pair)
ROW(POOL_PICK, pool_pick, 2, vjp_of_pair, jvp_of_pair)
ROW(POOL_SUM, pool_sum, 1, vjp_of_sum, jvp_of_sum)
ROW(POOL_SPREAD, pool_spread, 1, vjp_of_sum, jvp_of_sum)
