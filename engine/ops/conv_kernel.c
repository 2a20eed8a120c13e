// conv_kernel.c: the CPU kernels of convolutions over batch-innermost tensors: how the work is cut into tasks, and the
// inner loops (conv_kernel.h) for both types. Results and input gradients are tiles of channels × vectors of examples
// held in registers; weight gradients are tiles of channels × taps. The number of registers decides the tiles' sizes.
#include <string.h>

#include "engine/core/integers.h"
#include "engine/core/parallel.h"
#include "engine/core/simd.h"
#include "engine/ops/conv.h"

enum {
  PG_CONV_SLAB = 64,       // examples of one task
  PG_CONV_AHEAD = 4,       // columns that are fetched ahead
  PG_CONV_MAX_NV = 4,      // vectors of examples of one tile
  PG_CONV_LANE_BYTES = 64, // of the chains of a weight gradient: part of the numerics
  PG_CONV_CHUNK = 1024,    // vectors of examples of one chunk of a weight gradient, about: likewise
#if PG_VECTOR_BYTES == 64
  PG_CONV_MAX_M = 14,
  WIDE_M = 6,
  WEIGH_M = 4,
  WEIGH_K = 6,
#else
  PG_CONV_MAX_M = 6,
  WIDE_M = 6,
  WEIGH_M = 2,
  WEIGH_K = PG_VECTOR_BYTES == 32 ? 3 : 1,
#endif
  PG_CONV_MAX_WM = 4,
  PG_CONV_MAX_WK = 6
};

// Tiles of M channels that leave registers for 4 vectors of examples, and the others.
#if PG_VECTOR_BYTES == 64
#define PG_CONV_WIDE_M(F) F(1) F(2) F(3) F(4) F(5) F(6)
#define PG_CONV_NARROW_M(F) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14)
#else
#define PG_CONV_WIDE_M(F) F(1) F(2)
#define PG_CONV_NARROW_M(F) F(3) F(4) F(5) F(6)
#endif
#define PG_CONV_WEIGH(F)                                                                                               \
  F(1, 1)                                                                                                              \
  F(1, 2)                                                                                                              \
  F(1, 3)                                                                                                              \
  F(1, 4)                                                                                                              \
  F(1, 5)                                                                                                              \
  F(1, 6)                                                                                                              \
  F(2, 1)                                                                                                              \
  F(2, 2)                                                                                                              \
  F(2, 3)                                                                                                              \
  F(2, 4)                                                                                                              \
  F(2, 5) F(2, 6) F(3, 1) F(3, 2) F(3, 3) F(3, 4) F(3, 5) F(3, 6) F(4, 1) F(4, 2) F(4, 3) F(4, 4) F(4, 5) F(4, 6)

// A convolution, or the gradient of its input: what is kept and what is summed over are channels of one group.
typedef struct pg_conv {
  pg_window window;
  bool forward;
  int64_t batch, kept, summed, m, blocks, slabs;
  int64_t rows, columns, x_rows, x_columns; // of the result and of the operand
  pg_taps h_taps, w_taps;
  const void *x, *packed;
  void *out;
} pg_conv;

// One place of the result: the taps that lie inside there, and strides in elements.
typedef struct pg_conv_place {
  int64_t channels, taps_h, taps_w, nh, nw;
  const pg_tap *h, *w;
  int64_t x_channel, x_row, x_column, out_channel;
} pg_conv_place;

// The gradient of the weights.
typedef struct pg_conv_grad {
  pg_window window;
  int64_t batch, outputs, inputs; // channels of one group
  int64_t m, k, m_blocks, k_blocks, chunk_rows, chunks;
  bool each; // the gradient of each example by itself, of a block of `lanes` at a time
  int64_t lanes, blocks;
  const void *x, *y;
  void *partial;
} pg_conv_grad;

typedef struct pg_conv_weigh {
  int64_t batch, count, x_step, y_channel; // count: of the batch's examples
  int64_t x_tap[PG_CONV_MAX_WK];
} pg_conv_weigh;

typedef struct pg_conv_weigh_task {
  int64_t group, h, m0, k0, chunk, p0, p1, n0;
  int m, k;
  int64_t q0[PG_CONV_MAX_WK], q1[PG_CONV_MAX_WK], all0, all1; // columns where each tap, and where all taps, are inside
} pg_conv_weigh_task;

// The columns at which tap t of a row is inside: [*q0, *q1).
static void find_columns(const pg_window_axis *w, int64_t t, int64_t *q0, int64_t *q1) {
  const int64_t shift = w->pad - t * w->dilation; // column q looks at q * stride - shift
  *q0 = shift > 0 ? pg_smaller(pg_divide_up(shift, w->stride), w->out) : 0;
  *q1 = w->in - 1 + shift < 0 ? 0 : pg_smaller((w->in - 1 + shift) / w->stride + 1, w->out);
  if (*q1 < *q0) *q1 = *q0;
}

static pg_conv_weigh_task pg_conv_weigh_task_at(const pg_conv_grad *c, int64_t t) {
  pg_conv_weigh_task w = {.k0 = t % c->k_blocks * c->k, .m0 = t / c->k_blocks % c->m_blocks * c->m};
  t /= c->k_blocks * c->m_blocks;
  w.h = t % c->window.h.size;
  t /= c->window.h.size;
  w.group = t % c->window.groups;
  t /= c->window.groups;
  w.chunk = t % c->chunks;
  w.n0 = t / c->chunks * c->lanes;
  w.p0 = w.chunk * c->chunk_rows;
  w.p1 = pg_smaller(w.p0 + c->chunk_rows, c->window.h.out);
  w.m = (int)pg_smaller(c->outputs - w.m0, c->m);
  w.k = (int)pg_smaller(c->inputs * c->window.w.size - w.k0, c->k);
  w.all1 = c->window.w.out;
  for (int k = 0; k < w.k; k++) {
    find_columns(&c->window.w, (w.k0 + k) % c->window.w.size, &w.q0[k], &w.q1[k]);
    if (w.q0[k] > w.all0) w.all0 = w.q0[k];
    if (w.q1[k] < w.all1) w.all1 = w.q1[k];
  }
  if (w.all0 >= w.all1) w.all0 = w.all1 = c->window.w.out; // never: one by one
  return w;
}

#define T float
#define S(f) f##_f32
#include "engine/ops/conv_kernel.h"
#define T double
#define S(f) f##_f64
#include "engine/ops/conv_kernel.h"

// ---- results and input gradients -----------------------------------------------------------------------------------

// Of a tile. Four vectors of examples for few channels beat two for many, since more work follows each load of a
// weight; but where a window is a single element, reading the operand again for each tile costs more.
static int64_t most_channels(const pg_conv *c) {
  const bool wide = c->batch >= 4 * PG_WIDTH_f32 && c->window.h.size * c->window.w.size > 1;
  return wide ? WIDE_M : PG_CONV_MAX_M;
}

static pg_conv conv_of(const pg_attrs *attrs, bool forward, int64_t outputs, int64_t inputs, int64_t batch) {
  pg_conv c = {.window = pg_window_of(attrs), .forward = forward, .batch = batch};
  c.kept = (forward ? outputs : inputs) / c.window.groups;
  c.summed = (forward ? inputs : outputs) / c.window.groups;
  c.blocks = pg_divide_up(c.kept, most_channels(&c));
  c.m = c.blocks ? pg_divide_up(c.kept, c.blocks) : 1;
  c.slabs = pg_divide_up(batch, PG_CONV_SLAB);
  const pg_window_axis *h = &c.window.h, *w = &c.window.w;
  c.rows = forward ? h->out : h->in, c.columns = forward ? w->out : w->in;
  c.x_rows = forward ? h->in : h->out, c.x_columns = forward ? w->in : w->out;
  return c;
}

size_t pg_conv_scratch(const pg_attrs *attrs, bool forward, int64_t outputs, int64_t inputs, pg_dtype dtype) {
  const pg_window w = pg_window_of(attrs);
  const int64_t weights = outputs * (inputs / w.groups) * w.h.size * w.w.size;
  return pg_taps_bytes(&w.h, forward) + pg_taps_bytes(&w.w, forward) + (size_t)weights * pg_dtype_size(dtype);
}

static void run_conv(const pg_operand *out, const pg_operand *x, const pg_operand *w, const pg_attrs *attrs,
                     bool forward, char *scratch) {
  const int64_t outputs = forward ? out->shape[0] : x->shape[0], inputs = forward ? x->shape[0] : out->shape[0];
  pg_conv c = conv_of(attrs, forward, outputs, inputs, x->shape[3]);
  const bool f32 = out->dtype == PG_F32;
  c.h_taps = pg_taps_fill(&c.window.h, forward, scratch);
  scratch += pg_taps_bytes(&c.window.h, forward);
  c.w_taps = pg_taps_fill(&c.window.w, forward, scratch);
  scratch += pg_taps_bytes(&c.window.w, forward);
  c.x = x->data, c.out = out->data, c.packed = scratch;
  if (f32)
    conv_pack_f32(&c, w->data, (float *)scratch);
  else
    conv_pack_f64(&c, w->data, (double *)scratch);
  const double work = (double)c.batch * (double)out->shape[0] * (double)(c.rows * c.columns) * (double)c.summed *
                      (double)(c.window.h.size * c.window.w.size);
  pg_parallel_for(c.window.groups * c.slabs * c.blocks * c.rows, work / 16, f32 ? conv_rows_f32 : conv_rows_f64, &c);
}

void pg_conv_run(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin;
  run_conv(out, &in[0], &in[1], attrs, true, scratch);
}

void pg_conv_input_run(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin;
  run_conv(out, &in[0], &in[1], attrs, false, scratch);
}

// ---- weight gradients ----------------------------------------------------------------------------------------------

static pg_conv_grad grad_of(const pg_attrs *attrs, int64_t outputs, int64_t inputs, int64_t batch, pg_dtype dtype) {
  pg_conv_grad c = {.window = pg_window_of(attrs), .batch = batch, .each = attrs->flags & PG_CONV_EACH};
  c.lanes = c.each ? PG_CONV_LANE_BYTES / (int64_t)pg_dtype_size(dtype) : batch;
  c.blocks = c.each ? pg_divide_up(batch, c.lanes) : 1;
  c.outputs = outputs / c.window.groups;
  c.inputs = inputs / c.window.groups;
  c.m_blocks = pg_divide_up(c.outputs, WEIGH_M);
  c.m = c.m_blocks ? pg_divide_up(c.outputs, c.m_blocks) : 1;
  const int64_t taps = c.inputs * c.window.w.size;
  c.k_blocks = pg_divide_up(taps, WEIGH_K);
  c.k = c.k_blocks ? pg_divide_up(taps, c.k_blocks) : 1;
  const int64_t row = c.window.w.out * pg_divide_up(batch, 16);
  c.chunk_rows = c.each ? c.window.h.out : row >= PG_CONV_CHUNK || row == 0 ? 1 : PG_CONV_CHUNK / row;
  c.chunks = pg_divide_up(c.window.h.out, c.chunk_rows);
  return c;
}

size_t pg_conv_weights_scratch(const pg_attrs *attrs, int64_t outputs, int64_t inputs, int64_t batch, pg_dtype dtype) {
  const pg_conv_grad c = grad_of(attrs, outputs, inputs, batch, dtype);
  const int64_t weights = outputs * c.inputs * c.window.h.size * c.window.w.size;
  return c.chunks > 1 ? (size_t)(c.chunks * weights) * pg_dtype_size(dtype) : 0;
}

void pg_conv_weights_run(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin;
  const pg_operand *x = &in[0], *y = &in[1];
  pg_conv_grad c = grad_of(attrs, y->shape[0], x->shape[0], x->shape[3], out->dtype);
  c.x = x->data, c.y = y->data, c.partial = c.chunks > 1 ? scratch : out->data;
  const int64_t tasks = c.blocks * c.chunks * c.window.groups * c.window.h.size * c.m_blocks * c.k_blocks;
  const double work = (double)c.batch * (double)(c.window.h.out * c.window.w.out) * (double)y->shape[0] *
                      (double)(c.inputs * c.window.h.size * c.window.w.size);
  if (out->dtype == PG_F32) {
    pg_parallel_for(tasks, work / 16, weigh_tiles_f32, &c);
    if (c.chunks > 1) add_chunks_f32(&c, out->data);
  } else {
    pg_parallel_for(tasks, work / 8, weigh_tiles_f64, &c);
    if (c.chunks > 1) add_chunks_f64(&c, out->data);
  }
}
