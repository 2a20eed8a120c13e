// batching.h: what batching rules (the column `batch` of the op table) share. A rule gets a node of a function's graph
// and the operands that stand for its own in the graph where the whole batch is computed: plain tensors with a first
// axis more, or, of vectors, with a first axis more in each tensor (pg_layout_stacked); other operands are as they
// were. It builds what gives all results at once, along a first axis. Draws take the keys of their entries, so each
// entry gets the numbers that it gets alone. graph/batch.c walks the nodes.
#ifndef PG_OPS_BATCHING_H
#define PG_OPS_BATCHING_H

#include "engine/ops/rules.h"

// Outputs of one region are separate nodes, and its batched form is built once for all of them.
typedef struct pg_batched_region {
  const pg_region *region;
  const pg_value *in; // operands in the function's graph, kept by it
  int nin, nout;
  pg_value *results;
} pg_batched_region;

struct pg_batching {
  pg_graph *g;  // where the batch is computed
  int64_t size; // of the batch
  pg_batched_region *regions;
  size_t nregions, cap_regions;
};

// Operand x of an operation whose unbatched result has `ndim` axes: where it has fewer, the batch stays the first axis
// and extents of 1 follow, so that it broadcasts as the unbatched operand does.
pg_value pg_batch_align(pg_batching *b, pg_value x, bool batched, int ndim);
// x with the first axis in any case: an unbatched one is the same for all.
pg_value pg_batch_spread(pg_batching *b, pg_value x, bool batched);
// Axis `from` of x moved to place `to`; as a change of layout (flags of TRANSPOSE, graph.h) or a plain transpose.
pg_value pg_batch_move_axis(pg_graph *g, pg_value x, int from, int to, int flags);
// Axes [first, last) of x as one.
pg_value pg_batch_merge(pg_graph *g, pg_value x, int first, int last);
// Axis `axis` of x, of extent m n, as two: of m and of n.
pg_value pg_batch_split(pg_graph *g, pg_value x, int axis, int64_t m, int64_t n);
// Batch-innermost tensors [size, C, H, W, N] (window.h) as those of size N images, and back.
pg_value pg_batch_into_images(pg_batching *b, pg_value x);
pg_value pg_batch_out_of_images(pg_batching *b, pg_value x);
// A vector of this (unbatched) layout, batched: its tensors, each [size, …].
pg_value pg_batch_pack(pg_batching *b, const pg_layout *layout, const pg_value *parts);

// Rules that serve many operations.
//
// Operations on operands that broadcast.
pg_status pg_batch_map(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched, pg_value *out);
// Operations on the last axes of at most three operands, which take any axes in front, the same for all.
pg_status pg_batch_rows(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched, pg_value *out);
// Any operation on plain tensors: entry after entry, by a SCAN over the operation alone. For those without a rule.
pg_status pg_batch_by_scan(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched, pg_value *out);

// The batched form of a region's node, if another of its outputs had it built: its results, or NULL; and keeping it.
const pg_value *pg_batch_find_region(const pg_batching *b, const pg_node *node);
pg_status pg_batch_keep_region(pg_batching *b, const pg_node *node, int n, const pg_value *results);

// As pg_vmap, but results that no batched argument enters stay unbatched, as roots_batched says.
pg_status pg_batch_body(pg_graph *g, const pg_graph *body, const pg_value *args, const bool *batched, int64_t size,
                        int n, const pg_value *roots, pg_value *results, bool *roots_batched);
// Which roots of `body` a batched input enters.
pg_status pg_batch_reach(const pg_graph *body, const bool *batched, int n, const pg_value *roots, bool *roots_batched);
// A new input of h for an input of a body like node `n`, with a first axis of `size` more if batched.
pg_value pg_batch_input(pg_graph *h, const pg_node *n, bool batched, int64_t size);

#endif
