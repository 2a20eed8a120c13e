// plan.h: what the stages of compilation share. A compilation turns the live part of a graph into *units* (a fused
// group, a library call, a placement, a copy), gives every value that must exist in memory a *buffer*, and ends in a
// list of *steps*.
//
//   view.c   values → views of buffers, or splats of one number
//   fuse.c   nodes → units
//   reads.c  what units read
//   lower.c  units → kernels and steps
//   place.c  buffers → inputs, outputs, offsets in the shared arena
//   plan.c   the whole, and running
#ifndef PG_GRAPH_PLAN_H
#define PG_GRAPH_PLAN_H

#include "engine/codegen/kernel.h"
#include "engine/graph/graph.h"
#include "engine/graph/pace.h"

typedef enum pg_place { PG_PLACE_ARENA, PG_PLACE_INPUT, PG_PLACE_OUTPUT, PG_PLACE_INSIDE } pg_place;

typedef struct pg_buf {
  pg_dtype dtype;
  int64_t size; // elements
  bool needed;  // somebody reads it from memory, so it must be stored
  int unit;     // that writes it; -1: an input, or not decided yet
  pg_place place;
  int index;          // of the input or output
  int parent;         // INSIDE: the buffer it is part of
  int64_t parent_off; // bytes
  size_t arena_off;
  int first, last; // steps between which it is alive
} pg_buf;

// How a value is read: elements of a buffer by strides, or one weak number everywhere.
typedef struct pg_strided {
  bool splat;
  pg_value weak; // splat: the weak value
  int buf;
  int64_t offset; // elements
  int64_t stride[PG_MAX_NDIM];
} pg_strided;

typedef enum pg_unit_kind { PG_UNIT_GROUP, PG_UNIT_LIBRARY, PG_UNIT_PLACE, PG_UNIT_COPY, PG_UNIT_LOOP } pg_unit_kind;

typedef struct pg_unit {
  pg_unit_kind kind;
  bool dead;         // merged into another
  pg_value *members; // GROUP: nodes, ascending once sorted; LIBRARY, PLACE: the node; COPY: the value copied
  size_t count, cap;
  int ndim; // GROUP: the iteration space
  int64_t shape[PG_MAX_NDIM];
  const pg_layout *layout;
  bool reduces;
  int red_first, red_last; // axes reduced (grid)
  int buf;                 // COPY: destination
  int order;               // position among the steps' units
  int mark;                // for searches
} pg_unit;

// A scan or while of a plan: plans of its own for the body and the condition, run in scratch of the outer plan's arena.
// All memory is named by entries of the outer pointer table.
typedef struct pg_loop {
  pg_plan *body, *cond;
  int nconst, ncarry, nx, ny;
  int64_t length; // -1: while
  bool reverse;
  int operands;    // pointers of the operands, in order
  int results;     // [ncarry + ny] pointers; results nobody reads point to scratch
  int arena, flag; // scratch of the inner plans; one bool
  int *carries;    // -1: the carry changes in place, where its result lies; else the first of two pieces of scratch
  size_t *carry_bytes, *x_bytes, *y_bytes;
  bool *y_kept;     // stacked results that somebody reads; the others reuse one slice
  int *scalars;     // places of the body's scalars in the outer num
  void **in, **out; // argument lists of the inner plans
  double *num;
} pg_loop;

// One entry of a plan's pointer table.
typedef struct pg_pointer {
  int buf;        // or one of the marks below
  int64_t offset; // bytes; of PLACES which
} pg_pointer;
enum { PG_BUF_NONE = -1, PG_BUF_NUM = -2, PG_BUF_PLACES = -3 }; // no memory; the plan's scalars; code places

typedef struct pg_step {
  bool library;
  pg_loop *loop; // a scan or while; else NULL
  // kernel
  pg_kernel kernel;
  pg_kernel_fn fn; // NULL: interpret
  pg_kcall call;
  int64_t tiles, columns;
  int first_pointer; // into the plan's table: nargs, then nreduces results, then nreduces partials
  int64_t *strides;  // call.stride and call.dstride
  pg_vtile *vtiles;  // of vector reductions and maps; shared by steps of one layout within a plan
  int64_t nvtiles;
  const int64_t *seg_tiles; // vector reduction: first tile of each tensor (count + 1 entries)
  int64_t nsegments;
  // library
  const pg_op_info *op;
  pg_attrs attrs;
  int noperands; // result first
  pg_operand *operands;
  int scratch_pointer; // or -1
  // both: buffers read and written, for lifetimes
  int *reads, nreads, *writes, nwrites;
  int unit;
  char *where; // lines of the recipe that it comes from, or NULL; for people
} pg_step;

typedef struct pg_weak_op {
  int op;
  int a, b, c; // places in num
  int out;
} pg_weak_op;

typedef struct pg_vtable { // vtiles of one layout
  const pg_layout *layout;
  pg_vtile *tiles;
  int64_t count;
  int64_t *seg_tiles;
} pg_vtable;

typedef struct pg_places { // where the codes and scales of each vtile of a layout begin
  const pg_layout *layout, *coded;
  int64_t block;
  int64_t (*tiles)[2];
} pg_places;

struct pg_plan {
  int ninputs, nscalars, noutputs;
  pg_node *input_types, *output_types; // dtype, ndim, shape, layout only
  int *donate;
  pg_step *steps;
  size_t nsteps, cap_steps;
  pg_buf *bufs;
  size_t nbufs, cap_bufs;
  pg_pointer *pointers;
  void **ptr;
  size_t npointers, cap_pointers, cap_ptr;
  size_t arena_bytes;
  double *num; // runtime scalars first, then constants and computed ones
  size_t nnum, cap_num;
  pg_weak_op *weak_ops;
  size_t nweak, cap_weak;
  pg_vtable *vtables;
  size_t nvtables, cap_vtables;
  pg_places *places;
  size_t nplaces, cap_places;
  pg_code *code;
  bool generated;
  double flops;
  pg_pace pace;
  pg_executor executor; // asked for, for inner plans
  // what the pointer table was last filled for
  void **last_inputs, **last_outputs;
  void *last_arena;
};

// State of one compilation.
typedef struct pg_compilation {
  pg_graph *g;
  pg_plan *plan;
  bool *live;
  pg_strided *views; // per value
  int *value_buf;    // the contiguous buffer of a value, or -1
  int **groups;      // per node: units it is a member of (clones), ended by -1
  pg_unit *units;
  size_t nunits, cap_units;
  int *num_of; // per weak value: place in plan->num or -1
  int stamp;   // for marks
  int nout;
  const pg_value *outs;
} pg_compilation;

static inline bool pg_is_identity(int op) {
  return op == PG_OP_STOP || op == PG_OP_TAP || op == PG_OP_MARK;
}

// The value behind identities.
static inline pg_value pg_canon(const pg_graph *g, pg_value v) {
  while (pg_is_identity(pg_at(g, v)->op)) v = pg_at(g, v)->in[0];
  return v;
}

bool pg_is_map_like(const pg_graph *g, pg_value v); // computed inside kernels: maps, draws, iota, segbroadcast
bool pg_is_free(const pg_graph *g, pg_value v);     // recomputed wherever used: draws, iota, decoded values
bool pg_is_reduction(int op);                       // not known element by element: reductions, and what is kept
bool pg_is_kept(int op);                            // codes and scales
bool pg_same_space(const pg_node *n, const pg_unit *u);

// view.c
// Strides of contiguous row-major memory.
void pg_row_major(int ndim, const int64_t *shape, int64_t *stride);
pg_status pg_resolve_views(pg_compilation *c);
int pg_buf_new(pg_compilation *c, pg_dtype dtype, int64_t size); // -1 on failure
// The contiguous buffer of a value, copying it by a unit of its own where its view is not one already. -1 on failure.
int pg_ensure_contiguous(pg_compilation *c, pg_value v);
// How the operand of SEGBROADCAST is read: contiguous.
pg_strided pg_per_tensor_view(const pg_compilation *c, pg_value x);
// How an operand of BLOCK_VALUES is read: likewise.
pg_strided pg_coded_view(const pg_compilation *c, pg_value x);
bool pg_view_is_contiguous(const pg_node *n, const pg_strided *view);

// fuse.c
pg_status pg_make_units(pg_compilation *c);
int pg_unit_new(pg_compilation *c, pg_unit_kind kind); // -1 on failure
pg_status pg_unit_add(pg_compilation *c, int unit, pg_value v);
bool pg_unit_has(const pg_compilation *c, int unit, pg_value v);
pg_status pg_order_units(pg_compilation *c, int **order, int *count);

// reads.c
// What a unit reads: elements first … last of a buffer.
typedef struct pg_read {
  int buf;
  bool whole;    // not element by element at the unit's own index
  bool in_order; // in the order in which the unit writes, from `first` on, each element before it is written
  int64_t first, last;
} pg_read;
typedef void (*pg_read_visitor)(void *arg, const pg_read *read);
// Call visit for everything that a unit reads.
void pg_unit_reads(const pg_compilation *c, int unit, pg_read_visitor visit, void *arg);

// lower.c
pg_status pg_lower_units(pg_compilation *c, const int *order, int count);
pg_status pg_emit_copy(pg_compilation *c, int unit, pg_value src, int dst_buf, int64_t dst_offset,
                       const int64_t *dst_stride);
int pg_num_place(pg_compilation *c, pg_value weak); // place of a weak value in plan->num; -1 on failure

// region.c
bool pg_has_calls(const pg_graph *g);
pg_status pg_expand_calls(pg_graph *g, int nout, const pg_value *outs, pg_graph **expanded, pg_value *expanded_outs);

// loop.c
pg_status pg_lower_loop(pg_compilation *c, int unit);
pg_status pg_loop_run(pg_plan *p, pg_step *s);
void pg_loop_free(pg_loop *loop);

// plan.c
pg_status pg_plan_run_in(pg_plan *p, void *arena, void *const *inputs, const double *scalars, void *const *outputs);

// place.c
// The buffer that holds value v and nothing else, in order; -1: there is none.
int pg_exact_buf(const pg_compilation *c, pg_value v);
pg_status pg_assign_outputs(pg_compilation *c); // before lowering: outputs and parts of placements
pg_status pg_check_donations(pg_compilation *c, const int *order, int count);
pg_status pg_emit_output_copies(pg_compilation *c); // after lowering
pg_status pg_place_buffers(pg_compilation *c);      // lifetimes, arena

#endif
