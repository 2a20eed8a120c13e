// kernel_kit.h: builds kernels by hand and runs them three ways: interpreted, generated, and by a naive executor that
// follows the header comment of kernel.h word by word, element by element.
#ifndef PG_TESTS_KERNEL_KIT_H
#define PG_TESTS_KERNEL_KIT_H

#include <stdlib.h>
#include <string.h>

#include "engine/codegen/blocks.h"
#include "engine/core/parallel.h"
#include "tests/c/check.h"

enum { KIT_ARGS = 12, KIT_INSTS = 64, KIT_REDUCES = 4, KIT_NUMS = 4 };

typedef struct kit {
  pg_kernel k;
  pg_karg args[KIT_ARGS];
  pg_inst insts[KIT_INSTS];
  pg_kreduce reduces[KIT_REDUCES];
  int buffer[KIT_ARGS];    // of each argument; in-place arguments share one
  void *initial[KIT_ARGS]; // what a buffer holds before a run
  void *memory[KIT_ARGS];
  size_t bytes[KIT_ARGS];
  double num[KIT_NUMS];
  pg_vtile *vtiles;
  int64_t nvtiles;
} kit;

// What a run left behind: all buffers, all partials, all finished results.
typedef struct outcome {
  void *memory[KIT_ARGS], *partial[KIT_REDUCES], *result[KIT_REDUCES];
} outcome;

typedef void (*executor)(const kit *t, pg_kernel_fn fn, const pg_kcall *call, int64_t tile0, int64_t tile1);

// ---- building ------------------------------------------------------------------------------------------------------

static uint64_t kit_seed = 1;
static inline uint64_t kit_random(void) {
  kit_seed += 0x9E3779B97F4A7C15u;
  uint64_t z = kit_seed;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// Mostly ordinary numbers, now and then the awkward ones.
static inline double kit_number(void) {
  static const double awkward[] = {0.0, -0.0, 1.0, -1.0, INFINITY, -INFINITY, NAN, 1e-40, 3e38, -100.0, 127.5, 0.5};
  uint64_t r = kit_random();
  if (r % 16 == 0) return awkward[(r >> 8) % (sizeof awkward / sizeof *awkward)];
  return ((double)(r >> 11) * 0x1p-53 - 0.5) * ((r & 64) ? 2.0 : 40.0);
}

static inline void kit_fill(pg_dtype dtype, size_t n, char *to) {
  for (size_t i = 0; i < n; i++) {
    double x = kit_number();
    uint64_t r = kit_random();
    switch (dtype) {
    case PG_F32:
      ((float *)(void *)to)[i] = (float)x;
      break;
    case PG_F64:
      ((double *)(void *)to)[i] = x;
      break;
    case PG_I32:
      ((int32_t *)(void *)to)[i] = r % 8 ? (int32_t)(r >> 32) % 50 : (int32_t)(r >> 32);
      break;
    case PG_I64:
      ((int64_t *)(void *)to)[i] = r % 8 ? (int64_t)r % 50 : (int64_t)r;
      break;
    case PG_U8:
      ((uint8_t *)to)[i] = (uint8_t)(r >> 20);
      break;
    case PG_BOOL:
      ((bool *)to)[i] = r >> 20 & 1;
      break;
    default:
      ((uint64_t *)(void *)to)[2 * i] = r, ((uint64_t *)(void *)to)[2 * i + 1] = kit_random();
      break;
    }
  }
}

static inline void *kit_allocate(size_t bytes) {
  void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
  CHECK(p);
  memset(p, 0, (bytes + 127) / 64 * 64);
  return p;
}

static inline kit *kit_new(pg_space space, pg_reduction reduction, int ndim, const int64_t *dim) {
  kit *t = calloc(1, sizeof *t);
  t->k.space = space;
  t->k.reduction = reduction;
  t->k.ndim = ndim;
  for (int d = 0; d < ndim; d++) t->k.dim[d] = dim[d];
  t->k.args = t->args;
  t->k.insts = t->insts;
  t->k.reduces = t->reduces;
  t->k.title = "a kernel \\";
  for (int i = 0; i < KIT_NUMS; i++) t->num[i] = 0.1 + i;
  return t;
}

static inline void kit_free(kit *t) {
  for (int a = 0; a < t->k.nargs; a++) {
    if (t->buffer[a] != a) continue;
    free(t->initial[a]);
    free(t->memory[a]);
  }
  free(t->vtiles);
  free(t);
}

// An argument with memory of `size` elements; `same_as` is an argument whose memory it shares, or -1.
static inline int kit_arg(kit *t, pg_arg_kind kind, pg_dtype dtype, int64_t size, const int64_t *stride, int same_as) {
  int a = t->k.nargs++;
  t->args[a] = (pg_karg){.kind = kind, .dtype = dtype};
  for (int d = 0; stride && d < t->k.ndim; d++) t->args[a].stride[d] = stride[d];
  t->buffer[a] = same_as >= 0 ? t->buffer[same_as] : a;
  if (t->buffer[a] != a) return a;
  t->bytes[a] = (size_t)size * pg_dtype_size(dtype);
  t->initial[a] = kit_allocate(t->bytes[a]);
  t->memory[a] = kit_allocate(t->bytes[a]);
  kit_fill(dtype, (size_t)size, t->initial[a]);
  return a;
}

// Row-major strides of the iteration space, and its size.
static inline int64_t kit_contiguous(const kit *t, int64_t *stride) {
  int64_t size = 1;
  for (int d = t->k.ndim - 1; d >= 0; d--) {
    stride[d] = size;
    size *= t->k.dim[d];
  }
  return size;
}

static inline int kit_dense(kit *t, pg_arg_kind kind, pg_dtype dtype, int same_as) {
  int64_t stride[PG_KDIMS];
  int64_t size = kit_contiguous(t, stride);
  return kit_arg(t, kind, dtype, size, stride, same_as);
}

static inline int kit_inst(kit *t, pg_inst inst) {
  t->insts[t->k.ninsts] = inst;
  return t->k.ninsts++;
}

static inline int kit_load(kit *t, int arg) {
  return kit_inst(t, (pg_inst){PG_INST_LOAD, 0, t->args[arg].dtype, -1, -1, -1, arg, 0});
}

static inline int kit_store(kit *t, int arg, int value) {
  return kit_inst(t, (pg_inst){PG_INST_STORE, 0, t->args[arg].dtype, value, -1, -1, arg, 0});
}

static inline int kit_map(kit *t, int op, pg_dtype dtype, int a, int b, int c) {
  return kit_inst(t, (pg_inst){PG_INST_MAP, op, dtype, a, b, c, -1, 0});
}

static inline int kit_const(kit *t, pg_dtype dtype, double x) {
  return kit_inst(t, (pg_inst){PG_INST_CONST, 0, dtype, -1, -1, -1, -1, x});
}

static inline int kit_num(kit *t, pg_dtype dtype, int number) {
  return kit_inst(t, (pg_inst){PG_INST_NUM, 0, dtype, -1, -1, -1, number, 0});
}

static inline void kit_reduce(kit *t, int value, int op) {
  t->reduces[t->k.nreduces++] = (pg_kreduce){value, op, t->insts[value].dtype};
}

// ---- the naive executor --------------------------------------------------------------------------------------------

// Where an element is: its index in each dimension, or its place in a vector's tile.
typedef struct place {
  int64_t index[PG_KDIMS];
  const pg_vtile *tile;
  int64_t i;
} place;

typedef union scalar {
  char bytes[8];
  int64_t align;
} scalar;

static inline int64_t naive_sum(const kit *t, const place *at, const int64_t *stride) {
  int64_t sum = 0;
  for (int d = 0; d < t->k.ndim; d++) sum += at->index[d] * stride[d];
  return sum;
}

static inline int64_t naive_element(const kit *t, const place *at, int arg) {
  const pg_karg *a = &t->args[arg];
  if (t->k.space == PG_SPACE_GRID) return naive_sum(t, at, a->stride);
  if (a->kind == PG_ARG_SEGLOAD) return at->tile->segment;
  if (a->kind == PG_ARG_KEY || (a->kind == PG_ARG_LOAD && a->stride[0] == 0)) return 0;
  return at->tile->offset + at->i;
}

static inline void naive_draw(const kit *t, const place *at, const pg_inst *inst, void *keys, scalar *out) {
  bool vector = t->k.space == PG_SPACE_VECTOR;
  int64_t index = vector ? at->tile->logical + at->i : naive_sum(t, at, t->args[inst->arg].dstride);
  const char *key = (const char *)keys + 16 * naive_element(t, at, inst->arg);
  bool normal = inst->kind == PG_INST_NORMAL;
  if (inst->dtype == PG_F32)
    pg_services.draw_f32(normal, key, 0, (uint64_t)index, 1, 1, (float *)(void *)out);
  else
    pg_services.draw_f64(normal, key, 0, (uint64_t)index, 1, 1, (double *)(void *)out);
}

// All values at one element, then the stores.
static inline void naive_point(const kit *t, const pg_kcall *call, const place *at, scalar *value) {
  for (int i = 0; i < t->k.ninsts; i++) {
    const pg_inst *inst = &t->insts[i];
    size_t size = pg_dtype_size(inst->dtype);
    if (inst->kind == PG_INST_LOAD)
      memcpy(&value[i], (char *)call->ptr[inst->arg] + (size_t)naive_element(t, at, inst->arg) * size, size);
    else if (inst->kind == PG_INST_INDEX)
      pg_block_index[inst->dtype](1, naive_sum(t, at, t->args[inst->arg].dstride), 0, &value[i]);
    else if (inst->kind == PG_INST_NORMAL || inst->kind == PG_INST_UNIFORM)
      naive_draw(t, at, inst, call->ptr[inst->arg], &value[i]);
    else if (inst->kind == PG_INST_NUM)
      pg_block_number[inst->dtype](call->num[inst->arg], &value[i]);
    else if (inst->kind == PG_INST_CONST)
      pg_block_number[inst->dtype](inst->x, &value[i]);
    else if (inst->kind == PG_INST_MAP) {
      pg_dtype operand = t->insts[inst->op == PG_OP_WHERE ? inst->b : inst->a].dtype;
      pg_block_map(inst->op, operand, inst->dtype)(1, &value[inst->a], inst->b < 0 ? NULL : &value[inst->b],
                                                   inst->c < 0 ? NULL : &value[inst->c], &value[i]);
    }
  }
  for (int i = 0; i < t->k.ninsts; i++) {
    const pg_inst *inst = &t->insts[i];
    size_t size = pg_dtype_size(inst->dtype);
    if (inst->kind != PG_INST_STORE) continue;
    memcpy((char *)call->ptr[inst->arg] + (size_t)naive_element(t, at, inst->arg) * size, &value[inst->a], size);
  }
}

static inline void naive_combine(const pg_kreduce *r, void *sum, const void *x) {
  pg_block_reduce(r->op, r->dtype)->combine(1, sum, x, NULL, sum);
}

static inline void naive_identity(const pg_kreduce *r, void *to) {
  double least = r->dtype == PG_BOOL ? 0 : -INFINITY; // casts saturate
  pg_block_number[r->dtype](r->op == PG_OP_SUM ? 0 : r->op == PG_OP_MAX ? least : INFINITY, to);
}

static inline void naive_decode(const kit *t, int64_t linear, place *at) {
  for (int d = t->k.ndim - 1; d >= 0; d--) {
    at->index[d] = linear % t->k.dim[d];
    linear /= t->k.dim[d];
  }
}

// Elements first … first + n - 1 of the row-major order (or of a tile), folded by lanes into partial[which].
static inline void naive_lanes(const kit *t, const pg_kcall *call, place *at, int64_t first, int64_t n, int64_t which) {
  scalar value[KIT_INSTS], lanes[KIT_REDUCES][PG_LANES];
  for (int j = 0; j < t->k.nreduces; j++)
    for (int l = 0; l < PG_LANES; l++) naive_identity(&t->reduces[j], &lanes[j][l]);
  for (int64_t i = 0; i < n; i++) {
    if (at->tile)
      at->i = i;
    else
      naive_decode(t, first + i, at);
    naive_point(t, call, at, value);
    for (int j = 0; j < t->k.nreduces; j++)
      naive_combine(&t->reduces[j], &lanes[j][i % PG_LANES], &value[t->reduces[j].value]);
  }
  for (int j = 0; j < t->k.nreduces; j++) {
    size_t size = pg_dtype_size(t->reduces[j].dtype);
    for (int s = 8; s > 0; s /= 2)
      for (int l = 0; l < s; l++) naive_combine(&t->reduces[j], &lanes[j][l], &lanes[j][l + s]);
    memcpy((char *)call->partial[j] + (size_t)which * size, &lanes[j][0], size);
  }
}

static inline void naive_columns(const kit *t, const pg_kcall *call) {
  int ndim = t->k.ndim;
  int64_t R = t->k.dim[ndim - 2], N = t->k.dim[ndim - 1];
  int64_t chunks = (R + PG_ROWS - 1) / PG_ROWS;
  for (int64_t linear = 0; linear < call->rows * R * N; linear++) {
    place at = {0};
    scalar value[KIT_INSTS];
    int64_t n = linear % N, r = linear / N % R, row = linear / N / R;
    naive_decode(t, linear, &at);
    naive_point(t, call, &at, value);
    for (int j = 0; j < t->k.nreduces; j++) {
      size_t size = pg_dtype_size(t->reduces[j].dtype);
      char *sum = (char *)call->partial[j] + (size_t)((row * chunks + r / PG_ROWS) * N + n) * size;
      if (r % PG_ROWS == 0) naive_identity(&t->reduces[j], sum);
      naive_combine(&t->reduces[j], sum, &value[t->reduces[j].value]);
    }
  }
}

// The whole kernel, whatever tiles are asked for.
static inline void execute_naively(const kit *t, pg_kernel_fn fn, const pg_kcall *call, int64_t tile0, int64_t tile1) {
  (void)fn, (void)tile0;
  if (t->k.space == PG_SPACE_VECTOR) {
    for (int64_t tile = 0; tile < tile1; tile++) {
      place at = {.tile = &t->vtiles[tile]};
      naive_lanes(t, call, &at, 0, t->vtiles[tile].size, tile);
    }
    return;
  }
  if (t->k.reduction == PG_REDUCE_OUTER) {
    naive_columns(t, call);
    return;
  }
  int64_t L = t->k.dim[t->k.ndim - 1], chunks = (L + PG_CHUNK - 1) / PG_CHUNK;
  for (int64_t row = 0; row < call->rows; row++)
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
      place at = {0};
      int64_t first = chunk * PG_CHUNK, n = L - first < PG_CHUNK ? L - first : PG_CHUNK;
      naive_lanes(t, call, &at, row * L + first, n, row * chunks + chunk);
    }
}

// ---- the executors -------------------------------------------------------------------------------------------------

static inline void execute_interpreted(const kit *t, pg_kernel_fn fn, const pg_kcall *call, int64_t tile0,
                                       int64_t tile1) {
  (void)fn;
  pg_kernel_interpret(&t->k, call, tile0, tile1);
}

static inline void execute_generated(const kit *t, pg_kernel_fn fn, const pg_kcall *call, int64_t tile0,
                                     int64_t tile1) {
  (void)t;
  fn(call, tile0, tile1);
}

// The tiles one after the other, or in pieces and out of order.
static inline void execute(const kit *t, executor run, pg_kernel_fn fn, const pg_kcall *call, int64_t tiles,
                           bool pieces) {
  if (!pieces) {
    run(t, fn, call, 0, tiles);
    return;
  }
  int64_t cut = tiles / 3, second = tiles - tiles / 4;
  run(t, fn, call, second, tiles);
  for (int64_t tile = second; tile-- > cut;) run(t, fn, call, tile, tile + 1);
  run(t, fn, call, 0, cut);
}

// Sizes of a reduction's results and partials.
static inline void kit_counts(const kit *t, int64_t rows, int64_t chunks, int64_t *results, int64_t *n,
                              int64_t *columns) {
  bool vector = t->k.space == PG_SPACE_VECTOR;
  *n = vector ? t->nvtiles : chunks;
  *columns = t->k.reduction == PG_REDUCE_OUTER && !vector ? t->k.dim[t->k.ndim - 1] : 1;
  *results = rows * *columns;
}

static inline outcome kit_run(kit *t, executor run, pg_kernel_fn fn, bool pieces) {
  outcome o = {0};
  int64_t stride[KIT_ARGS][PG_KDIMS], dstride[KIT_ARGS][PG_KDIMS], results, n, columns;
  void *ptr[KIT_ARGS];
  pg_kcall call = {.ptr = ptr, .num = t->num, .dim = t->k.dim, .stride = stride[0], .dstride = dstride[0]};
  int64_t tiles = pg_kernel_tiles(&t->k, t->nvtiles, &call.rows, &call.rows_per_tile, &call.chunks);
  call.vtiles = t->vtiles;
  call.partial = o.partial;
  call.services = &pg_services;
  for (int a = 0; a < t->k.nargs; a++) {
    memcpy(stride[a], t->args[a].stride, sizeof stride[a]);
    memcpy(dstride[a], t->args[a].dstride, sizeof dstride[a]);
    if (t->bytes[a] > 0) memcpy(t->memory[a], t->initial[a], t->bytes[a]);
    ptr[a] = t->args[a].kind == PG_ARG_INDEX ? NULL : t->memory[t->buffer[a]];
  }
  kit_counts(t, call.rows, call.chunks, &results, &n, &columns);
  for (int j = 0; j < t->k.nreduces; j++) o.partial[j] = kit_allocate((size_t)(results * n) * 8);
  execute(t, run, fn, &call, tiles, pieces);
  for (int j = 0; j < t->k.nreduces; j++) {
    o.result[j] = kit_allocate((size_t)results * 8);
    pg_finish_reduction(t->reduces[j].op, t->reduces[j].dtype, o.partial[j], call.rows, n, columns, o.result[j]);
  }
  for (int a = 0; a < t->k.nargs; a++) {
    if (t->bytes[a] == 0) continue;
    o.memory[a] = kit_allocate(t->bytes[a]);
    memcpy(o.memory[a], t->memory[a], t->bytes[a]);
  }
  return o;
}

static inline void outcome_free(outcome *o) {
  for (int a = 0; a < KIT_ARGS; a++) free(o->memory[a]);
  for (int j = 0; j < KIT_REDUCES; j++) free(o->partial[j]), free(o->result[j]);
}

// ---- comparing -----------------------------------------------------------------------------------------------------

// Equal bits; NaNs equal each other (which of two NaN operands survives is the processor's choice).
static inline bool same_bits(pg_dtype dtype, const void *a, const void *b, size_t n) {
  size_t size = pg_dtype_size(dtype);
  for (size_t i = 0; i < n; i++) {
    const char *x = (const char *)a + i * size, *y = (const char *)b + i * size;
    if (memcmp(x, y, size) == 0) continue;
    double u = 0, v = 0;
    if (dtype == PG_F32) u = *(const float *)(const void *)x, v = *(const float *)(const void *)y;
    if (dtype == PG_F64) u = *(const double *)(const void *)x, v = *(const double *)(const void *)y;
    if (!(isnan(u) && isnan(v))) return false;
  }
  return true;
}

static inline bool same_outcome(const kit *t, const outcome *a, const outcome *b) {
  int64_t rows, rows_per_tile, chunks, results, n, columns;
  pg_kernel_tiles(&t->k, t->nvtiles, &rows, &rows_per_tile, &chunks);
  kit_counts(t, rows, chunks, &results, &n, &columns);
  for (int i = 0; i < t->k.nargs; i++)
    if (t->bytes[i] > 0 &&
        !same_bits(t->args[i].dtype, a->memory[i], b->memory[i], t->bytes[i] / pg_dtype_size(t->args[i].dtype)))
      return false;
  for (int j = 0; j < t->k.nreduces; j++)
    if (!same_bits(t->reduces[j].dtype, a->partial[j], b->partial[j], (size_t)(results * n)) ||
        !same_bits(t->reduces[j].dtype, a->result[j], b->result[j], (size_t)results))
      return false;
  return true;
}

static inline void kit_describe(const kit *t, char *to, size_t size) {
  snprintf(to, size, "space %d reduction %d ndim %d dims %ld %ld %ld, last op %d", (int)t->k.space, (int)t->k.reduction,
           t->k.ndim, (long)t->k.dim[0], (long)t->k.dim[1], (long)t->k.dim[2], t->insts[t->k.ninsts - 1].op);
}

// Run all kits in all ways and demand the same bits. `compiled` is false where no compiler is found. Frees the kits.
static inline void kit_compare(int n, kit **kits, bool compiled) {
  const pg_kernel **kernels = calloc((size_t)n + 1, sizeof *kernels);
  pg_code *code = NULL;
  for (int i = 0; i < n; i++) kernels[i] = &kits[i]->k;
  if (compiled) CHECK_STATUS(pg_code_build(n, kernels, &code), PG_OK);
  for (int i = 0; i < n; i++) {
    char what[200];
    kit_describe(kits[i], what, sizeof what);
    outcome naive = kit_run(kits[i], execute_naively, NULL, false);
    for (int pieces = 0; pieces < 2; pieces++) {
      outcome o = kit_run(kits[i], execute_interpreted, NULL, pieces);
      CHECK_THAT(same_outcome(kits[i], &naive, &o), "interpreter, kernel %d: %s", i, what);
      outcome_free(&o);
      if (!code) continue;
      o = kit_run(kits[i], execute_generated, pg_code_entry(code, i), pieces);
      CHECK_THAT(same_outcome(kits[i], &naive, &o), "generated, kernel %d: %s", i, what);
      outcome_free(&o);
    }
    outcome_free(&naive);
    kit_free(kits[i]);
  }
  pg_code_free(code);
  free(kernels);
}

#endif
