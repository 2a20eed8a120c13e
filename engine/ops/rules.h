// rules.h: what the files of engine/ops share besides the table: checks for shape rules and small builders for
// derivative rules. Nothing outside engine/ops and engine/graph includes it.
#ifndef PG_OPS_RULES_H
#define PG_OPS_RULES_H

#include "engine/ops/ops.h"

// How ct_in[i] arrives in a vjp rule for an operand whose cotangent nobody needs: a rule may skip it, or set it in
// vain.
#define PG_UNWANTED ((pg_value)-2)

// The node of operand i of `node`.
static inline const pg_node *pg_in(const pg_graph *g, const pg_node *node, int i) {
  return pg_at(g, node->in[i]);
}

// PG_OK if a builder gave a node; the message is already set otherwise.
static inline pg_status pg_built(pg_value v) {
  return v == PG_NONE ? pg_last_status() : PG_OK;
}

// Set the type of `node`; shape NULL means a scalar.
void pg_set_type(pg_node *node, pg_dtype dtype, int ndim, const int64_t *shape, const pg_layout *layout);
// Give `node` the whole type of `from`, weakness included (identities).
void pg_copy_type(pg_node *node, const pg_node *from);
// Fail unless `x` is a tensor (not weak) without a layout.
pg_status pg_want_plain(const char *op, const pg_node *x);
// Fail unless `x` is a vector.
pg_status pg_want_vector(const char *op, const pg_node *x);
// Fail unless 0 <= ndim <= PG_MAX_NDIM and every extent is >= 0.
pg_status pg_want_shape(const char *op, int ndim, const int64_t *shape);
// Resolve an axis that may count from the end; fails with the axis as a person counts (from 1).
pg_status pg_want_axis(const char *op, int64_t axis, int ndim, int *out);
// "[64, 10]" for messages.
const char *pg_dims_text(int ndim, const int64_t *shape, char *buf, size_t size);

bool pg_is_number(const pg_graph *g, pg_value v, double x); // the weak constant x
bool pg_is_vector(const pg_graph *g, pg_value v);

// x (a tensor of smaller shape, or weak) spread over the type of `like`; identity where the types agree. A weak or 0-d
// x takes like's dtype.
pg_value pg_spread(pg_graph *g, pg_value x, pg_value like);
// x as `dtype`: x itself if weak or already so.
pg_value pg_as(pg_graph *g, pg_value x, pg_dtype dtype);
// Zeros for an absent tangent: x if present, else zeros of like's type.
pg_value pg_or_zeros(pg_graph *g, pg_value x, pg_value like);
// The index along `axis` in a tensor of this shape.
pg_value pg_iota(pg_graph *g, pg_dtype dtype, int ndim, const int64_t *shape, int axis);
// SUM, MAX or MIN over axes [first, last) with the axes kept as extents of 1.
pg_value pg_reduce_run(pg_graph *g, int op, pg_value x, int first, int last, bool keepdims);
// Tensor i of a vector; looks through a PACK.
pg_value pg_view_of(pg_graph *g, pg_value vector, int i);
// PACK one tensor per segment of the layout; and zeros for segment i of a vector of this dtype.
pg_value pg_pack(pg_graph *g, const pg_layout *layout, const pg_value *parts);
pg_value pg_segment_zeros(pg_graph *g, pg_dtype dtype, const pg_layout *layout, int i);
// A tensor filled with a number.
pg_value pg_filled(pg_graph *g, double x, pg_dtype dtype, int ndim, const int64_t *shape);
// The jvp rule of an operation that puts its operands side by side: the same of their tangents, zeros for absent ones.
pg_status pg_jvp_of_parts(pg_graph *g, pg_value v, const pg_value *tangents, pg_value *out);

#endif
