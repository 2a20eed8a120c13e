// perigee.h: the public C interface of the engine, usable without Lua.
//
// The engine builds a graph of tensor operations, differentiates it, compiles it into a plan with a static memory
// plan, and runs the plan. Everything here follows four conventions:
//   * Errors are values. A function that can fail returns pg_status (PG_OK is 0) or, for graph building, PG_NONE;
//     pg_last_error() then holds one line for a person. Graph-building calls accept PG_NONE inputs and return PG_NONE,
//     keeping the first message, so a program may build a whole expression and check once.
//   * The engine never ends the process, never prints, and frees what it allocated on every error path.
//   * One engine per process, called from one thread at a time; inside, work is spread over one OpenMP pool.
//   * Shapes are row-major and count elements; dtypes are listed below; sizes in bytes say so.
#ifndef PERIGEE_H
#define PERIGEE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PG_VERSION "0.1.0"
#define PG_FORMAT_VERSION 1   // of files the engine writes
#define PG_NUMERICS_VERSION 2 // changes whenever the same program would give other bits
#define PG_MAX_NDIM 8

// ---- errors -------------------------------------------------------------------------------------------------------

typedef enum pg_status {
  PG_OK = 0,
  PG_ERR_MEMORY,      // an allocation failed
  PG_ERR_ARGUMENT,    // a value outside what the function accepts
  PG_ERR_SHAPE,       // shapes do not fit together
  PG_ERR_DTYPE,       // dtypes do not fit together
  PG_ERR_IO,          // the operating system refused
  PG_ERR_FORMAT,      // bytes from outside are not what their format promises
  PG_ERR_UNSUPPORTED, // a thing this build or machine cannot do
  PG_ERR_INTERNAL     // a broken invariant of the engine itself
} pg_status;

// The message of this thread's last failed call; "" if none failed yet. Valid until the next failing call.
const char *pg_last_error(void);

// ---- dtypes, keys, layouts, tensors -------------------------------------------------------------------------------

typedef enum pg_dtype { PG_F32, PG_F64, PG_I32, PG_I64, PG_U8, PG_BOOL, PG_KEY, PG_NUM_DTYPES } pg_dtype;

size_t pg_dtype_size(pg_dtype dtype);      // bytes of one element; 16 for PG_KEY
const char *pg_dtype_name(pg_dtype dtype); // "f32", "f64", "i32", "i64", "u8", "bool", "key"
bool pg_dtype_is_float(pg_dtype dtype);
bool pg_dtype_is_int(pg_dtype dtype); // i32, i64, u8

// A counter-based random key (DESIGN 6.2). A draw is Philox4x32-10(key, index), so it depends on nothing but the key
// and the logical index of the element.
typedef struct pg_key {
  uint64_t a, b;
} pg_key;

pg_key pg_key_seed(uint64_t seed);
pg_key pg_key_fold(pg_key key, uint64_t data);
uint64_t pg_hash_name(const char *name, size_t len); // the number a string folds in as

// A layout names the tensors inside a flat vector. Offsets are padded to 16 elements (64 bytes in f32, 128 in f64) so
// one layout serves both dtypes; pads hold 0 and are not counted.
typedef struct pg_layout pg_layout;
typedef struct pg_segment {
  const char *name; // owned by the layout
  int ndim;
  int64_t shape[PG_MAX_NDIM];
  int64_t size;    // elements
  int64_t offset;  // first element in the padded vector
  int64_t logical; // first element counted without pads: the index that random draws use
} pg_segment;

pg_status pg_layout_new(int n, const char *const *names, const int *ndims, const int64_t (*shapes)[PG_MAX_NDIM],
                        pg_layout **out);
pg_layout *pg_layout_retain(const pg_layout *layout);
void pg_layout_release(const pg_layout *layout);
int pg_layout_count(const pg_layout *layout);                        // tensors
const pg_segment *pg_layout_segment(const pg_layout *layout, int i); // 0-based
int pg_layout_find(const pg_layout *layout, const char *name);       // index or -1
int64_t pg_layout_padded(const pg_layout *layout);                   // elements with pads: the vector's shape[0]
int64_t pg_layout_size(const pg_layout *layout);                     // elements without pads
bool pg_layout_equal(const pg_layout *a, const pg_layout *b);
// The layout whose tensors have a first axis of n more; and, where all have one of the same extent, without it (*n
// receives the extent; PG_ERR_SHAPE if they have not).
pg_status pg_layout_stacked(const pg_layout *layout, int64_t n, pg_layout **out);
pg_status pg_layout_slice(const pg_layout *layout, int64_t *n, pg_layout **out);

// A tensor owns (by reference count) 64-byte aligned contiguous row-major memory. A vector is a 1-D tensor with a
// layout.
typedef struct pg_tensor pg_tensor;

// Zero-filled unless stated. `layout` is NULL or gives a vector, and then ndim and shape are ignored.
pg_status pg_tensor_new(pg_dtype dtype, int ndim, const int64_t *shape, const pg_layout *layout, pg_tensor **out);
// Zeros that lie in a file in `directory`, without a name and gone with the process: for tables larger than memory.
// Errors: PG_ERR_IO.
pg_status pg_tensor_new_in_file(pg_dtype dtype, int ndim, const int64_t *shape, const char *directory, pg_tensor **out);
// A tensor over part of `base`'s memory, sharing it: `offset` in elements. No layout.
pg_status pg_tensor_view(pg_tensor *base, int64_t offset, int ndim, const int64_t *shape, pg_tensor **out);
pg_status pg_tensor_clone(const pg_tensor *t, pg_tensor **out);
pg_tensor *pg_tensor_retain(pg_tensor *t);
void pg_tensor_release(pg_tensor *t); // NULL is allowed
void *pg_tensor_data(const pg_tensor *t);
pg_dtype pg_tensor_dtype(const pg_tensor *t);
int pg_tensor_ndim(const pg_tensor *t);
const int64_t *pg_tensor_shape(const pg_tensor *t);
int64_t pg_tensor_size(const pg_tensor *t); // elements (pads included for vectors)
size_t pg_tensor_bytes(const pg_tensor *t);
const pg_layout *pg_tensor_layout(const pg_tensor *t); // NULL if not a vector
// Total bytes of tensor memory alive, and a limit on it (0 = none) whose excess is PG_ERR_MEMORY.
size_t pg_memory_used(void);
void pg_memory_limit(size_t bytes);

// ---- graphs -------------------------------------------------------------------------------------------------------

typedef struct pg_graph pg_graph;
typedef int32_t pg_value; // a node of a graph
#define PG_NONE ((pg_value)-1)

// Extra operands of an operation that are part of its identity; which fields an operation reads stands at its row in
// engine/ops/ops.h. Zero-initialize.
typedef struct pg_attrs {
  int n; // entries used in a, b, c
  int64_t a[PG_MAX_NDIM], b[PG_MAX_NDIM], c[PG_MAX_NDIM];
  double x;
  int dtype;
  int flags;
  const pg_layout *layout;
} pg_attrs;

pg_status pg_graph_new(pg_graph **out);
void pg_graph_free(pg_graph *g); // NULL is allowed; plans compiled from it live on
// Where the nodes built from now on come from ("recipe.lua:12"); copied. Used in messages.
void pg_graph_at(pg_graph *g, const char *where);

// Run-time arguments, numbered in order of creation: tensors (pg_input) and weak f64 scalars (pg_scalar) apart.
pg_value pg_input(pg_graph *g, pg_dtype dtype, int ndim, const int64_t *shape, const pg_layout *layout);
pg_value pg_scalar(pg_graph *g);
// A weak constant. Weak numbers take the dtype of the tensor they meet; arithmetic among them is done in f64.
pg_value pg_number(pg_graph *g, double x);

// Apply a named function (a primitive or a composite such as "softmax") to inputs. NULL attrs means all zero.
pg_value pg_call(pg_graph *g, const char *name, int n, const pg_value *in, const pg_attrs *attrs);
// The common cases of pg_call.
pg_value pg_call1(pg_graph *g, const char *name, pg_value a);
pg_value pg_call2(pg_graph *g, const char *name, pg_value a, pg_value b);
// Reduce over `axes` (0-based, negative from the end; naxes 0 = all); name is "sum", "mean", "max" or "min".
pg_value pg_reduce(pg_graph *g, const char *name, pg_value x, int naxes, const int *axes, bool keepdims);

pg_dtype pg_value_dtype(const pg_graph *g, pg_value v);
bool pg_value_is_weak(const pg_graph *g, pg_value v);
int pg_value_ndim(const pg_graph *g, pg_value v);
const int64_t *pg_value_shape(const pg_graph *g, pg_value v);
const pg_layout *pg_value_layout(const pg_graph *g, pg_value v);
const char *pg_value_where(const pg_graph *g, pg_value v);
int pg_graph_size(const pg_graph *g); // nodes

// Derivatives, as new nodes of the same graph, so they can be differentiated again.
// out[i] = d(sum_k <cts[k], ys[k]>)/d wrt[i]; zeros where ys do not depend on wrt[i]. cts[k] PG_NONE means 1 and needs
// a 0-d ys[k]. Shapes and dtypes of out[i] are those of wrt[i].
pg_status pg_vjp(pg_graph *g, int ny, const pg_value *ys, const pg_value *cts, int n, const pg_value *wrt,
                 pg_value *out);
// out[k] = directional derivative of ys[k] along `tangents` (PG_NONE = zero) of xs.
pg_status pg_jvp(pg_graph *g, int n, const pg_value *xs, const pg_value *tangents, int ny, const pg_value *ys,
                 pg_value *out);

// Batching: the values `roots` of `body` in g for `size` settings of its arguments at once. args: for the body's inputs
// in order, then for its scalars; those with batched[i] (never scalars) carry a first axis of `size` more, a vector in
// each of its tensors (pg_layout_stacked); and so do all results.
pg_status pg_vmap(pg_graph *g, const pg_graph *body, const pg_value *args, const bool *batched, int64_t size, int n,
                  const pg_value *roots, pg_value *results);

// Regions: nodes that hold a body graph of its own, whose pg_inputs and pg_scalars are its parameters. On success g
// owns the body (and cond); on failure it is freed. `in` lists operands for the body's inputs in order, then for its
// scalars. results[k] receives output k.
//
// Rematerialization: the body's values are not kept for the derivative but computed again.
pg_status pg_remat(pg_graph *g, pg_graph *body, int nouts, const pg_value *outs, const pg_value *in, pg_value *results);
// carry, y = body(constants, carry, x[i]) for i = 0..length-1 (or backwards). Operands: constants, carries, scanned
// tensors [length, …], numbers. outs: new carries, then slices; results: last carries, then stacked slices [length, …].
pg_status pg_scan(pg_graph *g, pg_graph *body, int nouts, const pg_value *outs, int nconst, int ncarry,
                  const pg_value *in, int64_t length, bool reverse, pg_value *results);
// carry = body(constants, carry) while cond(constants, carry) yields true. No derivative in reverse mode.
pg_status pg_while(pg_graph *g, pg_graph *cond, pg_value keep_going, pg_graph *body, int ncarry, const pg_value *outs,
                   int nconst, const pg_value *in, pg_value *results);

// ---- plans --------------------------------------------------------------------------------------------------------

typedef struct pg_plan pg_plan;

typedef enum pg_executor {
  PG_EXEC_AUTO,      // generated code where a compiler is found and the plan is worth it, else the interpreter
  PG_EXEC_INTERPRET, // the blocked interpreter: oracle and fallback, same bits
  PG_EXEC_GENERATE   // generated C; PG_ERR_UNSUPPORTED without a compiler
} pg_executor;

typedef struct pg_compile_options {
  pg_executor executor;
  // For output k: the index of the tensor input whose memory receives it at the end of the run, or -1. Such an output
  // is written in place where no later read forbids it, else copied at the end. NULL = all -1.
  const int *donate;
} pg_compile_options;

// Compile `outs` of `g`. The plan keeps nothing of the graph. options may be NULL.
pg_status pg_compile(pg_graph *g, int nout, const pg_value *outs, const pg_compile_options *options, pg_plan **out);
void pg_plan_free(pg_plan *plan);
// Run. inputs[i] and outputs[k] are data pointers (64-byte aligned, sizes as declared); outputs[k] of a donated output
// may be NULL or equal inputs[donate[k]]. No allocation happens in here.
pg_status pg_plan_run(pg_plan *plan, void *const *inputs, const double *scalars, void *const *outputs);
// The same with tensors, checked for dtype, shape and layout.
pg_status pg_run(pg_plan *plan, pg_tensor *const *inputs, const double *scalars, pg_tensor *const *outputs);

typedef struct pg_plan_info {
  int inputs, scalars, outputs;
  int kernels, library_calls; // steps of each kind
  size_t arena_bytes;         // scratch needed from the shared arena
  double flops;               // floating-point operations of one run, by the cost column; of a while loop one round
  bool generated;             // runs compiled code
  double compile_seconds;     // spent in the C compiler (0 from the cache)
} pg_plan_info;
void pg_plan_describe(const pg_plan *plan, pg_plan_info *info);
const char *pg_plan_source(const pg_plan *plan); // the generated C ("" if interpreted); owned by the plan
// Print what a run does, a line for each number the host computes and for each step, in order: kind (number, kernel,
// call, loop), name with its memory, extents, operations, lines of the recipe, separated by tabs. outline.c names the
// memory.
void pg_plan_outline(const pg_plan *plan, FILE *out);
int pg_plan_input_shape(const pg_plan *plan, int i, pg_dtype *dtype, int64_t *shape); // → ndim
int pg_plan_output_shape(const pg_plan *plan, int i, pg_dtype *dtype, int64_t *shape);
const pg_layout *pg_plan_output_layout(const pg_plan *plan, int i);

// ---- the machine --------------------------------------------------------------------------------------------------

void pg_set_threads(int n); // 0 = as many as the machine offers; results do not depend on it
int pg_threads(void);
// Default executor for PG_EXEC_AUTO: for tests and for machines without a compiler.
void pg_set_executor(pg_executor executor);
// One line each, for `perigee doctor`; static or owned by the engine.
const char *pg_blas_description(void);     // library path, version, core type, whether it is the OpenMP flavour
const char *pg_compiler_description(void); // path and version, or why there is none
const char *pg_cpu_description(void);
const char *pg_build_description(void); // the compiler of the engine, and the processors it is built for

#ifdef __cplusplus
}
#endif
#endif
