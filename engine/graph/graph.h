// graph.h: the graph inside the engine: nodes in order of creation (a topological order), made through pg_node_make,
// which checks shapes, folds arithmetic among weak constants and returns an existing node where an identical one exists
// (common- subexpression elimination by hash-consing).
#ifndef PG_GRAPH_H
#define PG_GRAPH_H

#include "engine/core/error.h"
#include "engine/core/memory.h"
#include "engine/perigee.h"

typedef struct pg_region pg_region;

// Flags of a TRANSPOSE that only changes how a tensor lies in memory, out of a layout of the plan's own or into it
// (sink.c).
enum { PG_OUT_OF_LAYOUT = 1, PG_INTO_LAYOUT = 2 };

// Flag of a MUL that is an outer product of each of its last two axes, [..., K, 1] times [..., 1, N] (contract.c).
enum { PG_OUTER_PRODUCT = 1 };

typedef struct pg_node {
  uint16_t op; // pg_op
  uint8_t dtype;
  bool weak; // an f64 host scalar that takes the dtype of the tensor it meets; ndim 0. Masks of weak scalars are 0/1.
  int8_t ndim;
  int32_t nin;
  pg_value *in;
  int64_t shape[PG_MAX_NDIM];
  const pg_layout *layout; // of a vector, else NULL; retained by the graph
  pg_attrs attrs;
  const char *where; // recipe line, owned by the graph; "" if unknown
  pg_region *region; // of TAP, CALL, SCAN, WHILE
} pg_node;

// A region is what a node holds beyond its operands. TAP holds a callback that builds the cotangent; CALL, SCAN and
// WHILE hold a body graph whose pg_inputs are its parameters. Retained by every graph that has a node with it.
struct pg_region {
  int references;
  pg_graph *body;
  int nout;
  pg_value *outs;
  pg_graph *cond; // WHILE only
  pg_value cond_out;
  // TAP: called while a derivative is being built; returns the cotangent to pass on, or PG_NONE with the message set.
  pg_value (*tap)(pg_graph *g, pg_value cotangent, void *user);
  void *user;
  void (*free_user)(void *user);
};

void pg_region_release(pg_region *r); // drop a reference; NULL is allowed

struct pg_graph {
  pg_node *nodes;
  size_t count, cap;
  int ninputs, nscalars;
  pg_value *inputs, *scalars; // node of each argument
  size_t cap_inputs, cap_scalars;
  int32_t *table; // hash-consing: open addressing, node + 1 or 0
  size_t table_size;
  const char *where; // interned
  char **wheres;
  size_t nwheres, cap_wheres;
  struct pg_chunk *chunks; // storage of operand lists, so that node->in never moves
};

// The node of a value. The pointer is invalid after the next pg_node_make.
static inline const pg_node *pg_at(const pg_graph *g, pg_value v) {
  return &g->nodes[v];
}

// Make (or find) a node. attrs NULL = all zero. Returns PG_NONE with the message set on a bad shape, dtype or memory;
// any PG_NONE input gives PG_NONE and keeps the message.
pg_value pg_node_make(pg_graph *g, int op, int nin, const pg_value *in, const pg_attrs *attrs, pg_region *region);

// A rule of sink.c that applies to the checked node n: true, and *out is what stands for it (PG_NONE on failure).
bool pg_sink_layout(pg_graph *g, const pg_node *n, pg_value *out);

// A rule of contract.c that applies to the checked node n: likewise.
bool pg_contract(pg_graph *g, const pg_node *n, pg_value *out);

// Shorthands used by derivative rules and composites.
pg_value pg_op1(pg_graph *g, int op, pg_value a);
pg_value pg_op2(pg_graph *g, int op, pg_value a, pg_value b);
pg_value pg_op3(pg_graph *g, int op, pg_value a, pg_value b, pg_value c);
pg_value pg_reshape(pg_graph *g, pg_value x, int ndim, const int64_t *shape);
pg_value pg_broadcast(pg_graph *g, pg_value x, int ndim, const int64_t *shape);
pg_value pg_transpose(pg_graph *g, pg_value x, const int *perm);
pg_value pg_cast(pg_graph *g, pg_value x, pg_dtype dtype);
pg_value pg_zeros_like(pg_graph *g, pg_value x); // FULL of 0 with x's dtype, shape, layout
pg_value pg_full_like(pg_graph *g, pg_value x, pg_value number);
// Sum x down to the shape and layout of `like` (the transpose of broadcasting); identity where shapes agree.
pg_value pg_sum_to(pg_graph *g, pg_value x, pg_value like);
bool pg_same_type(const pg_node *a, const pg_node *b); // dtype, shape, layout
// Build the nodes of `body` again in g with its inputs, then its scalars, replaced by args. outs[i] receives roots[i].
pg_status pg_inline(pg_graph *g, const pg_graph *body, const pg_value *args, int n, const pg_value *roots,
                    pg_value *outs);

#endif
