// quantize.c: the rows of BLOCK_CODES, BLOCK_SCALES and BLOCK_VALUES: a vector of floats as codes of 8 bits and a scale
// for each block (core/quantize.h), and back. Kernels read and write them beside elementwise work: the vector itself
// need never be in memory, which is what makes states of 8 bits worth their name. Attributes of all three: a[0] =
// block, a power of two that divides PG_CHUNK, so that no block is in two tiles; flags = kind of codes; layout = of the
// codes, of BLOCK_VALUES of the vector.
#include "engine/ops/quantize.h"

#include <string.h>

#include "engine/codegen/kernel_abi.h"
#include "engine/core/quantize.h"
#include "engine/ops/batching.h"

// ---- where things lie ----------------------------------------------------------------------------------------------

const pg_segment *pg_codes_of(const pg_layout *coded, const pg_segment *s) {
  const int i = pg_layout_find(coded, s->name);
  return i < 0 ? NULL : pg_layout_segment(coded, i);
}

int64_t pg_scales_of(const pg_layout *coded, const pg_segment *s, int64_t block) {
  return pg_codes_of(coded, s) ? (s->size + block - 1) / block : s->size;
}

// ---- shapes --------------------------------------------------------------------------------------------------------

static pg_status check_attributes(const char *op, const pg_attrs *attrs) {
  const int64_t block = attrs->a[0];
  if (!attrs->layout) return pg_fail(PG_ERR_ARGUMENT, "%s: needs a layout", op);
  if (attrs->flags < 0 || attrs->flags >= PG_CODES_KINDS)
    return pg_fail(PG_ERR_ARGUMENT, "%s: there is no kind %d of codes", op, attrs->flags);
  if (block >= 2 && block <= PG_CHUNK && (block & (block - 1)) == 0) return PG_OK;
  return pg_fail(PG_ERR_ARGUMENT, "%s: a block is a power of two from 2 to %d, not %lld", op, PG_CHUNK,
                 (long long)block);
}

// Every tensor of the codes must be one of the vector's. *scales: how many there are.
static pg_status check_layouts(const char *op, const pg_layout *vector, const pg_layout *coded, int64_t block,
                               int64_t *scales) {
  *scales = 0;
  for (int i = 0; i < pg_layout_count(coded); i++) {
    const pg_segment *s = pg_layout_segment(coded, i);
    const int k = pg_layout_find(vector, s->name);
    const pg_segment *t = k < 0 ? NULL : pg_layout_segment(vector, k);
    if (!t || t->ndim != s->ndim || memcmp(t->shape, s->shape, (size_t)s->ndim * sizeof *s->shape) != 0)
      return pg_fail(PG_ERR_SHAPE, "%s: the codes' layout has a tensor '%s' that the vector's has not", op, s->name);
  }
  for (int i = 0; i < pg_layout_count(vector); i++) *scales += pg_scales_of(coded, pg_layout_segment(vector, i), block);
  return PG_OK;
}

static pg_status shape_encoded(const pg_graph *g, pg_node *node) {
  const pg_node *x = pg_in(g, node, 0);
  const char *op = pg_op_table[node->op]->name;
  const pg_layout *coded = node->attrs.layout;
  char text[200];
  int64_t scales, padded;
  PG_TRY(pg_want_vector(op, x));
  PG_TRY(check_attributes(op, &node->attrs));
  if (!pg_dtype_is_float((pg_dtype)x->dtype))
    return pg_fail(PG_ERR_DTYPE, "%s: works on floating-point vectors, got an %s", op,
                   pg_shape_text(x, text, sizeof text));
  PG_TRY(check_layouts(op, x->layout, coded, node->attrs.a[0], &scales));
  pg_codes_prepare();
  padded = pg_layout_padded(coded);
  if (node->op == PG_OP_BLOCK_CODES)
    pg_set_type(node, PG_U8, 1, &padded, coded);
  else
    pg_set_type(node, (pg_dtype)x->dtype, 1, &scales, NULL);
  return PG_OK;
}

static pg_status shape_values(const pg_graph *g, pg_node *node) {
  const pg_node *codes = pg_in(g, node, 0), *scales = pg_in(g, node, 1);
  const pg_layout *layout = node->attrs.layout;
  char text[200];
  int64_t count, padded;
  PG_TRY(pg_want_vector("block_values", codes));
  PG_TRY(pg_want_plain("block_values", scales));
  PG_TRY(check_attributes("block_values", &node->attrs));
  if (codes->dtype != PG_U8 || !pg_dtype_is_float((pg_dtype)scales->dtype))
    return pg_fail(PG_ERR_DTYPE, "block_values: codes are u8 and scales floating-point numbers, not %s and %s",
                   pg_dtype_name((pg_dtype)codes->dtype), pg_dtype_name((pg_dtype)scales->dtype));
  PG_TRY(check_layouts("block_values", layout, codes->layout, node->attrs.a[0], &count));
  if (scales->ndim != 1 || scales->shape[0] != count)
    return pg_fail(PG_ERR_SHAPE, "block_values: scales are %s, expected [%lld]",
                   pg_shape_text(scales, text, sizeof text), (long long)count);
  pg_codes_prepare();
  padded = pg_layout_padded(layout);
  pg_set_type(node, (pg_dtype)scales->dtype, 1, &padded, layout);
  return PG_OK;
}

// ---- derivatives ---------------------------------------------------------------------------------------------------

// Scales are maxima, and values products with them, of which nobody has wanted a derivative; zeros would be wrong.
static pg_status no_vjp(pg_graph *g, pg_value v, pg_value ct, pg_value *ct_in) {
  (void)ct, (void)ct_in;
  return pg_fail(PG_ERR_UNSUPPORTED, "%s has no derivative; pg.stop_gradient says that none is meant",
                 pg_op_table[pg_at(g, v)->op]->name);
}

static pg_status no_jvp(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out) {
  (void)tangents, (void)out;
  return no_vjp(g, v, PG_NONE, NULL);
}

// ---- batching: entry after entry, written out, since blocks are of one entry ---------------------------------------

// Entry j of a batched tensor, of `shape`.
static pg_value take_entry(pg_graph *g, pg_value x, int64_t j, int ndim, const int64_t *shape) {
  if (ndim >= PG_MAX_NDIM) return pg_fail(PG_ERR_SHAPE, "vmap: no room for one more axis"), PG_NONE;
  pg_attrs entry = {.n = ndim + 1, .a = {j}, .b = {1}, .c = {1}};
  for (int d = 0; d < ndim; d++) entry.b[d + 1] = shape[d], entry.c[d + 1] = 1;
  return pg_reshape(g, pg_node_make(g, PG_OP_SLICE, 1, &x, &entry, NULL), ndim, shape);
}

// Entry j of an operand; a batched vector's tensors carry the batch.
static pg_status operand_of_entry(pg_graph *g, pg_value x, int64_t j, pg_value *out) {
  const pg_node node = *pg_at(g, x);
  if (!node.layout) {
    *out = take_entry(g, x, j, node.ndim - 1, node.shape + 1);
    return pg_built(*out);
  }
  pg_layout *layout;
  int64_t size;
  PG_TRY(pg_layout_slice(node.layout, &size, &layout));
  const int n = pg_layout_count(layout);
  pg_value *parts = pg_alloc((size_t)n, sizeof *parts);
  pg_status status = parts ? PG_OK : PG_ERR_MEMORY;
  for (int i = 0; status == PG_OK && i < n; i++) {
    const pg_segment *s = pg_layout_segment(layout, i);
    parts[i] = take_entry(g, pg_view_of(g, x, i), j, s->ndim, s->shape);
    status = pg_built(parts[i]);
  }
  if (status == PG_OK) status = pg_built(*out = pg_pack(g, layout, parts));
  pg_free(parts);
  pg_layout_release(layout);
  return status;
}

// Tensors of one shape along a new first axis. Overwrites them.
static pg_value stack(pg_graph *g, int n, pg_value *list) {
  const pg_node node = *pg_at(g, list[0]);
  int64_t shape[PG_MAX_NDIM + 1] = {1};
  memcpy(shape + 1, node.shape, (size_t)node.ndim * sizeof *shape);
  for (int j = 0; j < n; j++)
    if ((list[j] = pg_reshape(g, list[j], node.ndim + 1, shape)) == PG_NONE) return PG_NONE;
  return pg_node_make(g, PG_OP_CONCAT, n, list, &(pg_attrs){.n = 1}, NULL);
}

static pg_value stack_vectors(pg_batching *b, const pg_layout *layout, int n, const pg_value *list) {
  const int tensors = pg_layout_count(layout);
  pg_value *parts = pg_alloc((size_t)tensors + (size_t)n, sizeof *parts), *entries = parts + tensors;
  bool built = parts != NULL;
  for (int i = 0; built && i < tensors; i++) {
    for (int j = 0; built && j < n; j++) built = (entries[j] = pg_view_of(b->g, list[j], i)) != PG_NONE;
    if (built) parts[i] = stack(b->g, n, entries);
  }
  const pg_value out = built ? pg_batch_pack(b, layout, parts) : PG_NONE;
  pg_free(parts);
  return out;
}

static pg_status batch_blocks(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched,
                              pg_value *out) {
  const int n = (int)b->size;
  if (n == 0) return pg_fail(PG_ERR_SHAPE, "vmap: %s of no entries", pg_op_table[node->op]->name);
  pg_value *made = pg_alloc((size_t)n, sizeof *made), operands[2];
  pg_status status = made ? PG_OK : PG_ERR_MEMORY;
  for (int j = 0; status == PG_OK && j < n; j++) {
    for (int i = 0; status == PG_OK && i < node->nin; i++) {
      operands[i] = in[i];
      if (batched[i]) status = operand_of_entry(b->g, in[i], j, &operands[i]);
    }
    if (status == PG_OK)
      status = pg_built(made[j] = pg_node_make(b->g, node->op, node->nin, operands, &node->attrs, NULL));
  }
  if (status == PG_OK)
    status = pg_built(*out = node->layout ? stack_vectors(b, node->layout, n, made) : stack(b->g, n, made));
  pg_free(made);
  return status;
}

static double cost_encoded(const pg_graph *g, const pg_node *node) {
  return 4 * (double)pg_layout_size(pg_in(g, node, 0)->layout);
}

const pg_op_info pg_op_info_BLOCK_CODES = {.name = "block_codes",
                                           .arity = 1,
                                           .cls = PG_CLASS_KEEP,
                                           .shape = shape_encoded,
                                           .batch = batch_blocks,
                                           .cost_of = cost_encoded};
const pg_op_info pg_op_info_BLOCK_SCALES = {.name = "block_scales",
                                            .arity = 1,
                                            .cls = PG_CLASS_KEEP,
                                            .shape = shape_encoded,
                                            .vjp = no_vjp,
                                            .jvp = no_jvp,
                                            .batch = batch_blocks,
                                            .cost_of = cost_encoded};
// Made wherever they are read, as draws are.
const pg_op_info pg_op_info_BLOCK_VALUES = {.name = "block_values",
                                            .arity = 2,
                                            .cls = PG_CLASS_DRAW,
                                            .shape = shape_values,
                                            .vjp = no_vjp,
                                            .jvp = no_jvp,
                                            .batch = batch_blocks,
                                            .cost = 2};
