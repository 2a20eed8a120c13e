// kernel.h: the form between the graph and the executors: one fused kernel as a loop over an iteration space with a
// body in single-assignment form. The lowering (graph/lower.c) makes kernels; the interpreter runs them; the generator
// prints them.
//
// Iteration spaces and tiles (fixed by shapes alone):
//   GRID, no reduction: dims d[0..ndim), the last is the inner one with extent L, rows = product of the others.
//     chunks = ceil(L / PG_CHUNK); rows_per_tile = chunks > 1 ? 1 : max(1, PG_CHUNK / max(L, 1)).
//     tile t covers rows [t / chunks * rows_per_tile, …+rows_per_tile) and inner elements [t % chunks * PG_CHUNK,
//     …+PG_CHUNK). tiles = ceil(rows / rows_per_tile) * chunks.
//   GRID, INNER reduction over the last dim: the same tiles; each (row, chunk) yields partial[row * chunks + chunk].
//     Within a chunk: PG_LANES accumulators, element i of the chunk goes to lane i % PG_LANES in order; then lanes fold
//     with s = 8, 4, 2, 1: acc[l] = acc[l] op acc[l + s]; the result is acc[0].
//   GRID, OUTER reduction over the last but one dim R, keeping the last dim N: rows = product of the dims before R,
//     chunks = ceil(R / PG_ROWS), blocks = ceil(N / PG_COLUMNS); tile t = (row * chunks + chunk) * blocks + block, one
//     of each; partial[(row * chunks + chunk) * N + n] = fold over the chunk's R-rows in order, starting from the
//     identity.
//   VECTOR: tiles are vtiles[0..nvtiles). Loads and stores are at vtile.offset + i, stride 1; SEGLOAD arguments at
//     [vtile.segment]; draws at index vtile.logical + i. A reduction yields partial[t], with lanes as INNER. What is
//     kept as codes lies where place t of its PLACES argument says; it is written once all of a block's numbers are
//     known, after everything of the tile that reads codes or scales of that block.
// Afterwards pg_finish_reduction folds the partials of each result in index order (also from the identity) unless there
// is just one, in which case partial is the result's own memory.
#ifndef PG_KERNEL_H
#define PG_KERNEL_H

#include "engine/codegen/kernel_abi.h"
#include "engine/graph/graph.h"
#include "engine/ops/ops.h"

typedef enum pg_space { PG_SPACE_GRID, PG_SPACE_VECTOR } pg_space;
typedef enum pg_reduction { PG_REDUCE_NONE, PG_REDUCE_INNER, PG_REDUCE_OUTER } pg_reduction;

typedef enum pg_arg_kind {
  PG_ARG_LOAD,    // GRID: strides per dim; VECTOR: stride 1, or uniform (a 0-d tensor) where stride[0] is 0
  PG_ARG_STORE,   // GRID: strides per dim; VECTOR: stride 1
  PG_ARG_SEGLOAD, // VECTOR: one value per tensor
  PG_ARG_KEY,     // keys of a draw: stride = key strides, dstride = draw-index strides
  PG_ARG_INDEX,   // no memory: value = sum(index_d * dstride_d)
  PG_ARG_CODED,   // VECTOR: codes or scales that are read
  PG_ARG_KEPT,    // VECTOR: codes or scales that are written
  PG_ARG_PLACES   // VECTOR: int64_t[2] for each tile, where its codes and scales begin (core/quantize.h)
} pg_arg_kind;

typedef struct pg_karg {
  pg_arg_kind kind;
  pg_dtype dtype; // of the memory (and of the value loaded or stored)
  int64_t stride[PG_KDIMS], dstride[PG_KDIMS];
} pg_karg;

typedef enum pg_inst_kind {
  PG_INST_LOAD,    // from argument `arg` (LOAD or SEGLOAD)
  PG_INST_INDEX,   // from argument `arg`, converted to dtype
  PG_INST_NORMAL,  // from KEY argument `arg`; dtype f32 or f64
  PG_INST_UNIFORM, // likewise
  PG_INST_DECODE,  // from coded[arg]; dtype f32 or f64
  PG_INST_NUM,     // weak scalar number `arg` of call->num, rounded once to dtype
  PG_INST_CONST,   // x, rounded once to dtype
  PG_INST_MAP,     // op applied to instructions a, b, c. Operand dtypes: those of the instructions.
  PG_INST_STORE    // value a into argument `arg`; yields nothing
} pg_inst_kind;

typedef struct pg_inst {
  pg_inst_kind kind;
  int op;         // pg_op, for MAP
  pg_dtype dtype; // of the value
  int a, b, c;    // instruction numbers, or -1
  int arg;
  double x;
} pg_inst;

typedef struct pg_kreduce {
  int value; // instruction reduced
  int op;    // PG_OP_SUM, PG_OP_MAX or PG_OP_MIN
  pg_dtype dtype;
} pg_kreduce;

// A vector as codes and scales: what a DECODE reads, or what the kernel writes of a value.
typedef struct pg_kcoded {
  int value;                 // instruction that is written; -1: read
  int codes, scales, places; // arguments; of what is written codes or scales may be -1
  int kind;                  // of codes
  int64_t block;
  pg_dtype dtype; // of the numbers and scales
} pg_kcoded;

typedef struct pg_kernel {
  pg_space space;
  pg_reduction reduction;
  int ndim;              // GRID: 1..PG_KDIMS
  int64_t dim[PG_KDIMS]; // outermost first
  int nargs;
  pg_karg *args;
  int ninsts;
  pg_inst *insts;
  int nreduces;
  pg_kreduce *reduces;
  int ncoded;
  pg_kcoded *coded;
  double work;       // estimated scalar operations of the whole kernel
  const char *title; // for comments: what it computes, from op names
} pg_kernel;

// The tile grid that the header describes. nvtiles is used for VECTOR only.
int64_t pg_kernel_tiles(const pg_kernel *k, int64_t nvtiles, int64_t *rows, int64_t *rows_per_tile, int64_t *chunks);

// ---- the executors ----

// The blocked interpreter: oracle and fallback. Uses no heap; works in blocks of PG_BLOCK on scratch in the thread's
// stack or in memory taken once per thread.
void pg_kernel_interpret(const pg_kernel *k, const pg_kcall *call, int64_t tile0, int64_t tile1);

// Fold n partials of each of `count` results: result[i] = fold(partial[i * n + j], j in order)      (inner)
//                                  or result[r * N + c] = fold(partial[(r * n + j) * N + c])         (outer, N columns)
void pg_finish_reduction(int op, pg_dtype dtype, const void *partial, int64_t rows, int64_t n, int64_t columns,
                         void *result);

// Compiled code for a list of kernels (one translation unit); kept in a private on-disk cache keyed by content.
typedef struct pg_code pg_code;
pg_status pg_code_build(int n, const pg_kernel *const *kernels, pg_code **out);
pg_kernel_fn pg_code_entry(const pg_code *code, int i);
const char *pg_code_source(const pg_code *code);
double pg_code_compile_seconds(const pg_code *code); // 0 if it came from the cache
void pg_code_free(pg_code *code);
// True if a C compiler was found (looked up once).
bool pg_compiler_available(void);

extern const pg_kernel_services pg_services;

#endif
