// augment.c: the row of CROP_FLIP: images [N, C, H, W], each padded with zeros, cut back to its size at a random place
// and mirrored with probability 1/2. What happens to an image depends on its key alone, wherever it stands in a batch:
// from block 0 of the key (core/random.h), word 0 gives the rows it moves by, word 1 the columns, and the top bit of
// word 2 whether it is mirrored. Elements are moved, never computed with, so it works on any type and is linear; with
// flags 1 it is its own adjoint.
#include <string.h>

#include "engine/core/parallel.h"
#include "engine/core/random.h"
#include "engine/ops/batching.h"

enum { ADJOINT = 1, MAY_MIRROR = 2, MOST_PAD = 1 << 20 };

static pg_status shape_crop_flip(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0), *key = pg_in(g, node, 1);
  const int64_t pad = node->attrs.a[0];
  char a[200], b[200];
  PG_TRY(pg_want_plain("crop_flip", x));
  if (x->ndim != 4 || x->dtype == PG_KEY)
    return pg_fail(PG_ERR_SHAPE, "crop_flip: images [batch, channels, height, width] were expected, got %s",
                   pg_shape_text(x, a, sizeof a));
  if (key->weak || key->dtype != PG_KEY || key->ndim > 1 || (key->ndim == 1 && key->shape[0] != x->shape[0]))
    return pg_fail(PG_ERR_SHAPE, "crop_flip: one key for each image of %s, or one for all, was expected, got %s",
                   pg_shape_text(x, a, sizeof a), pg_shape_text(key, b, sizeof b));
  if (pad < 0 || pad > MOST_PAD) return pg_fail(PG_ERR_ARGUMENT, "crop_flip: a padding of %lld", (long long)pad);
  pg_copy_type(node, x);
  return PG_OK;
}

// The same draws applied to another tensor.
static pg_value move_alike(pg_graph *g, pg_value v, pg_value x, bool backwards) {
  const pg_node node = *pg_at(g, v);
  pg_attrs attrs = node.attrs;
  if (backwards) attrs.flags ^= ADJOINT;
  return pg_node_make(g, PG_OP_CROP_FLIP, 2, (pg_value[]){x, node.in[1]}, &attrs, NULL);
}

static pg_status vjp_crop_flip(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  ct_in[0] = move_alike(g, v, ct, true);
  return pg_built(ct_in[0]);
}

static pg_status jvp_crop_flip(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  if (tangents[0] == PG_NONE) return PG_OK;
  *out = move_alike(g, v, tangents[0], false);
  return pg_built(*out);
}

// The images of all entries as one batch, each with its key.
static pg_status batch_crop_flip(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                                 pg_value *out) {
  pg_graph *g = b->g;
  pg_value x = pg_batch_spread(b, in[0], batched[0]), key = in[1];
  if (batched[1] || pg_at(g, key)->ndim == 1) {
    key = pg_batch_spread(b, key, batched[1]);
    PG_TRY(pg_built(key));
    key = pg_batch_align(b, key, true, 1); // one for all images of an entry
    key = pg_batch_merge(g, pg_broadcast(g, key, 2, (int64_t[]){b->size, node->shape[0]}), 0, 2);
  }
  const pg_value operands[2] = {pg_batch_merge(g, x, 0, 2), key};
  const pg_value moved = pg_node_make(g, PG_OP_CROP_FLIP, 2, operands, &node->attrs, NULL);
  *out = pg_batch_split(g, moved, 0, b->size, node->shape[0]);
  return pg_built(*out);
}

// Where the elements of an image come from: row i from row i + rows, column j from column first + step * j.
typedef struct movement {
  int64_t rows, first;
  int step;
} movement;

// A whole number from -pad to pad.
static int64_t draw_shift(uint32_t word, int64_t pad) {
  return (int64_t)(((uint64_t)word * (uint64_t)(2 * pad + 1)) >> 32) - pad;
}

// Mirroring comes after cutting, so a mirrored column's way back is the way there.
static movement draw_movement(pg_key key, int64_t pad, int flags, int64_t width) {
  uint32_t words[4];
  pg_philox(key.a, 0, key.b, words);
  const int64_t rows = draw_shift(words[0], pad), columns = draw_shift(words[1], pad);
  const int sign = flags & ADJOINT ? -1 : 1;
  if (flags & MAY_MIRROR && words[2] >> 31) return (movement){sign * rows, width - 1 + columns, -1};
  return (movement){sign * rows, sign * columns, 1};
}

// The columns [*from, *to) of a row whose source lies inside the image.
static void find_inside(const movement *m, int64_t width, int64_t *from, int64_t *to) {
  const int64_t low = m->step > 0 ? -m->first : m->first - width + 1;
  *from = low < 0 ? 0 : low < width ? low : width;
  *to = low + width < 0 ? 0 : low + width < width ? low + width : width;
}

typedef struct crop_task {
  const pg_operand *out, *in;
  int64_t pad;
  int flags;
} crop_task;

// Planes, an image's channels one by one, from t0 to t1 - 1; B: an unsigned type of the elements' size.
#define MOVE_PLANES(B)                                                                                                 \
  static void move_planes_##B(void *arg, int64_t t0, int64_t t1) {                                                     \
    const crop_task *t = arg;                                                                                          \
    const int64_t channels = t->out->shape[1], height = t->out->shape[2], width = t->out->shape[3];                    \
    const pg_key *keys = t->in[1].data;                                                                                \
    for (int64_t plane = t0; plane < t1; plane++) {                                                                    \
      const pg_key key = keys[t->in[1].ndim ? plane / channels : 0];                                                   \
      const movement m = draw_movement(key, t->pad, t->flags, width);                                                  \
      const B *x = (const B *)t->in[0].data + plane * height * width;                                                  \
      B *y = (B *)t->out->data + plane * height * width;                                                               \
      int64_t from, to;                                                                                                \
      find_inside(&m, width, &from, &to);                                                                              \
      for (int64_t i = 0; i < height; i++, y += width) {                                                               \
        const int64_t row = i + m.rows, source = row * width + m.first;                                                \
        if (row < 0 || row >= height || from == to) {                                                                  \
          memset(y, 0, (size_t)width * sizeof *y);                                                                     \
          continue;                                                                                                    \
        }                                                                                                              \
        memset(y, 0, (size_t)from * sizeof *y);                                                                        \
        if (m.step > 0)                                                                                                \
          memcpy(y + from, x + (source + from), (size_t)(to - from) * sizeof *y);                                      \
        else                                                                                                           \
          for (int64_t j = from; j < to; j++) y[j] = x[source - j];                                                    \
        memset(y + to, 0, (size_t)(width - to) * sizeof *y);                                                           \
      }                                                                                                                \
    }                                                                                                                  \
  }
MOVE_PLANES(uint8_t)
MOVE_PLANES(uint32_t)
MOVE_PLANES(uint64_t)

static void run_crop_flip(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch) {
  (void)nin, (void)scratch;
  crop_task t = {.out = out, .in = in, .pad = attrs->a[0], .flags = attrs->flags};
  const int64_t planes = out->shape[0] * out->shape[1];
  const size_t size = pg_dtype_size(out->dtype);
  const pg_tile_fn move = size == 1 ? move_planes_uint8_t : size == 4 ? move_planes_uint32_t : move_planes_uint64_t;
  pg_parallel_for(planes, (double)planes * (double)(60 + out->shape[2] * out->shape[3]), move, &t);
}

const pg_op_info pg_op_info_CROP_FLIP = {.name = "crop_flip",
                                         .arity = 2,
                                         .cls = PG_CLASS_LIBRARY,
                                         .shape = shape_crop_flip,
                                         .vjp = vjp_crop_flip,
                                         .jvp = jvp_crop_flip,
                                         .batch = batch_crop_flip,
                                         .cpu = run_crop_flip};
