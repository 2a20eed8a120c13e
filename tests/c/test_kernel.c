// test_kernel.c: kernels give the same bits interpreted, generated, cut into pieces in any order, and done naively
// after the header comment of kernel.h.
#include "tests/c/kernel_kit.h"

static const pg_dtype all_dtypes[] = {PG_F32, PG_F64, PG_I32, PG_I64, PG_U8, PG_BOOL};
enum { DTYPES = sizeof all_dtypes / sizeof *all_dtypes };

static const struct {
  int op, arity;
} map_ops[] = {
#define M(NAME, name, arity) {PG_OP_##NAME, arity},
    PG_MAP_OPS(M)
#undef M
};
enum { MAP_OPS = sizeof map_ops / sizeof *map_ops };

static bool yields_mask(int op) {
  return (op >= PG_OP_LT && op <= PG_OP_NE) || op == PG_OP_ISFINITE;
}

// ---- elementwise ---------------------------------------------------------------------------------------------------

// store(op(load, load, load)) over 37 elements
static kit *one_op(int op, int arity, pg_dtype operand, pg_dtype result) {
  kit *t = kit_new(PG_SPACE_GRID, PG_REDUCE_NONE, 1, (int64_t[]){37});
  int x[3] = {-1, -1, -1};
  for (int i = 0; i < arity; i++)
    x[i] = kit_load(t, kit_dense(t, PG_ARG_LOAD, op == PG_OP_WHERE && i == 0 ? PG_BOOL : operand, -1));
  int y = kit_map(t, op, result, x[0], x[1], x[2]);
  kit_store(t, kit_dense(t, PG_ARG_STORE, result, -1), y);
  return t;
}

static void every_operation_on_every_dtype(void) {
  kit *kits[MAP_OPS * DTYPES + DTYPES * DTYPES];
  int n = 0;
  for (int o = 0; o < MAP_OPS; o++)
    for (int d = 0; d < DTYPES; d++)
      for (int r = 0; r < DTYPES; r++) {
        int op = map_ops[o].op;
        pg_dtype result = op == PG_OP_CAST ? all_dtypes[r] : yields_mask(op) ? PG_BOOL : all_dtypes[d];
        if (result != all_dtypes[r] || !pg_block_map(op, all_dtypes[d], result)) continue;
        kits[n++] = one_op(op, map_ops[o].arity, all_dtypes[d], result);
      }
  CHECK_THAT(n > 150, "%d kernels", n);
  kit_compare(n, kits, pg_compiler_available());
}

// What the shape rules of engine/ops admit can be executed.
static void no_operation_is_missing(void) {
  for (int o = 0; o < MAP_OPS; o++) {
    int op = map_ops[o].op;
    bool logic = op == PG_OP_NOT || op == PG_OP_AND || op == PG_OP_OR;
    CHECK_THAT(pg_block_map(op, PG_F32, yields_mask(op) ? PG_BOOL : PG_F32) || logic, "operation %d on f32", op);
    CHECK_THAT(pg_block_map(op, PG_F64, yields_mask(op) ? PG_BOOL : PG_F64) || logic, "operation %d on f64", op);
    CHECK_THAT(!logic || pg_block_map(op, PG_BOOL, PG_BOOL), "operation %d on bool", op);
  }
  for (int a = 0; a < DTYPES; a++)
    for (int b = 0; b < DTYPES; b++) CHECK(pg_block_map(PG_OP_CAST, all_dtypes[a], all_dtypes[b]));
}

// A body with all kinds of instructions: constants, weak scalars, an index, a cast, a comparison, a choice, two stores.
static void add_body(kit *t, int x, int y, int result[2]) {
  int64_t stride[PG_KDIMS];
  kit_contiguous(t, stride);
  int iota = t->k.nargs++;
  t->args[iota] = (pg_karg){.kind = PG_ARG_INDEX, .dtype = PG_I64};
  t->buffer[iota] = iota;
  memcpy(t->args[iota].dstride, stride, sizeof stride);
  int index = kit_inst(t, (pg_inst){PG_INST_INDEX, 0, PG_F32, -1, -1, -1, iota, 0});
  int num = kit_num(t, PG_F32, 2), half = kit_const(t, PG_F32, 0.1);
  int sum = kit_map(t, PG_OP_ADD, PG_F32, x, num, -1);
  int product = kit_map(t, PG_OP_MUL, PG_F32, sum, y, -1);
  int less = kit_map(t, PG_OP_LT, PG_BOOL, product, index, -1);
  int choice = kit_map(t, PG_OP_WHERE, PG_F32, less, product, half);
  int wide = kit_map(t, PG_OP_CAST, PG_F64, choice, -1, -1);
  int root = kit_map(t, PG_OP_EXP, PG_F64, wide, -1, -1);
  result[0] = kit_map(t, PG_OP_SUB, PG_F32, choice, sum, -1);
  result[1] = root;
}

static kit *strided(int ndim, const int64_t *dim, const int64_t *sx, const int64_t *sy, int64_t size) {
  kit *t = kit_new(PG_SPACE_GRID, PG_REDUCE_NONE, ndim, dim);
  int x = kit_load(t, kit_arg(t, PG_ARG_LOAD, PG_F32, size, sx, -1));
  int y = kit_load(t, kit_arg(t, PG_ARG_LOAD, PG_F32, size, sy, -1));
  int result[2];
  add_body(t, x, y, result);
  kit_store(t, kit_dense(t, PG_ARG_STORE, PG_F32, -1), result[0]);
  kit_store(t, kit_dense(t, PG_ARG_STORE, PG_F64, -1), result[1]);
  return t;
}

static void strides_and_broadcasts(void) {
  kit *kits[] = {
      strided(1, (int64_t[]){5000}, (int64_t[]){1}, (int64_t[]){0}, 5000),
      strided(1, (int64_t[]){1}, (int64_t[]){0}, (int64_t[]){0}, 1),
      strided(1, (int64_t[]){0}, (int64_t[]){1}, (int64_t[]){1}, 1),
      strided(2, (int64_t[]){70, 9}, (int64_t[]){9, 1}, (int64_t[]){0, 1}, 630),
      strided(2, (int64_t[]){9, 70}, (int64_t[]){1, 9}, (int64_t[]){1, 0}, 630),
      strided(2, (int64_t[]){0, 7}, (int64_t[]){7, 1}, (int64_t[]){0, 1}, 7),
      strided(2, (int64_t[]){7, 0}, (int64_t[]){0, 1}, (int64_t[]){1, 0}, 7),
      strided(2, (int64_t[]){3, 9000}, (int64_t[]){9000, 1}, (int64_t[]){1, 3}, 27000),
      strided(3, (int64_t[]){5, 3, 700}, (int64_t[]){2100, 700, 1}, (int64_t[]){0, 1, 3}, 10500),
      strided(4, (int64_t[]){2, 3, 4, 5}, (int64_t[]){60, 20, 5, 1}, (int64_t[]){1, 0, 2, 8}, 120),
      strided(5, (int64_t[]){3, 2, 3, 4, 5}, (int64_t[]){1, 3, 6, 18, 72}, (int64_t[]){120, 60, 20, 5, 1}, 360),
  };
  kit_compare(sizeof kits / sizeof *kits, kits, pg_compiler_available());
}

// m = m + g; p = p - m, both in place; and a swap of two memories; and a value stored twice.
static kit *in_place(int64_t n) {
  kit *t = kit_new(PG_SPACE_GRID, PG_REDUCE_NONE, 1, (int64_t[]){n});
  int p = kit_dense(t, PG_ARG_LOAD, PG_F32, -1), m = kit_dense(t, PG_ARG_LOAD, PG_F32, -1);
  int g = kit_dense(t, PG_ARG_LOAD, PG_F32, -1);
  int vp = kit_load(t, p), vm = kit_load(t, m), vg = kit_load(t, g);
  int m1 = kit_map(t, PG_OP_ADD, PG_F32, vm, vg, -1);
  kit_store(t, kit_dense(t, PG_ARG_STORE, PG_F32, m), m1);
  int p1 = kit_map(t, PG_OP_SUB, PG_F32, vp, m1, -1);
  kit_store(t, kit_dense(t, PG_ARG_STORE, PG_F32, p), p1);
  int old = kit_map(t, PG_OP_MUL, PG_F32, vp, vm, -1); // of what was there before
  kit_store(t, kit_dense(t, PG_ARG_STORE, PG_F32, -1), old);
  kit_store(t, kit_dense(t, PG_ARG_STORE, PG_F32, -1), old);
  return t;
}

static kit *swap(int64_t n) {
  kit *t = kit_new(PG_SPACE_GRID, PG_REDUCE_NONE, 1, (int64_t[]){n});
  int a = kit_dense(t, PG_ARG_LOAD, PG_I32, -1), b = kit_dense(t, PG_ARG_LOAD, PG_I32, -1);
  int va = kit_load(t, a), vb = kit_load(t, b);
  kit_store(t, kit_dense(t, PG_ARG_STORE, PG_I32, a), vb);
  kit_store(t, kit_dense(t, PG_ARG_STORE, PG_I32, b), va);
  return t;
}

static void updates_in_place(void) {
  kit *kits[] = {in_place(1), in_place(10000), swap(1), swap(9000)};
  kit_compare(sizeof kits / sizeof *kits, kits, pg_compiler_available());
}

// More values alive at once than fit into blocks of full size.
static kit *crowded(void) {
  kit *t = kit_new(PG_SPACE_GRID, PG_REDUCE_NONE, 2, (int64_t[]){3, 1000});
  int x = kit_load(t, kit_dense(t, PG_ARG_LOAD, PG_F64, -1));
  int first = t->k.ninsts;
  for (int i = 0; i < 28; i++)
    kit_map(t, i % 2 ? PG_OP_SIN : PG_OP_ADD, PG_F64, i ? first + i - 1 : x, i % 2 ? -1 : x, -1);
  int sum = x;
  for (int i = 28; i-- > 0;) sum = kit_map(t, PG_OP_ADD, PG_F64, sum, first + i, -1);
  kit_store(t, kit_dense(t, PG_ARG_STORE, PG_F64, -1), sum);
  return t;
}

static void many_values_alive(void) {
  kit *kits[] = {crowded()};
  kit_compare(1, kits, pg_compiler_available());
}

static kit *constants(pg_dtype dtype) {
  static const double numbers[] = {0.0,  -0.0,     0.1,       1e39, -1e39, 1e-46, NAN,
                                   -NAN, INFINITY, -INFINITY, 3e9,  -3e9,  1e300, 255.7};
  kit *t = kit_new(PG_SPACE_GRID, PG_REDUCE_NONE, 2, (int64_t[]){2, 3});
  int sum = kit_load(t, kit_dense(t, PG_ARG_LOAD, dtype, -1));
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    int store = i < 7 ? kit_dense(t, PG_ARG_STORE, dtype, -1) : -1;
    int value = kit_const(t, dtype, numbers[i]);
    if (store >= 0) kit_store(t, store, value);
    sum = kit_map(t, PG_OP_MAXIMUM, dtype, sum, value, -1);
  }
  kit_store(t, kit_dense(t, PG_ARG_STORE, dtype, -1), sum);
  return t;
}

static void constants_are_rounded_alike(void) {
  kit *kits[DTYPES];
  for (int d = 0; d < DTYPES; d++) kits[d] = constants(all_dtypes[d]);
  kit_compare(DTYPES, kits, pg_compiler_available());
}

// ---- draws ---------------------------------------------------------------------------------------------------------

// Draws added to a load; keys and indices with the given strides.
static kit *drawing(int ndim, const int64_t *dim, const int64_t *key, const int64_t *index, bool normal,
                    pg_dtype dtype) {
  kit *t = kit_new(PG_SPACE_GRID, PG_REDUCE_NONE, ndim, dim);
  int keys = kit_arg(t, PG_ARG_KEY, PG_KEY, 4000, key, -1);
  for (int d = 0; d < ndim; d++) t->args[keys].dstride[d] = index[d];
  int x = kit_load(t, kit_dense(t, PG_ARG_LOAD, dtype, -1));
  int z = kit_inst(t, (pg_inst){normal ? PG_INST_NORMAL : PG_INST_UNIFORM, 0, dtype, -1, -1, -1, keys, 0});
  int y = kit_map(t, PG_OP_ADD, dtype, x, z, -1);
  kit_store(t, kit_dense(t, PG_ARG_STORE, dtype, -1), y);
  kit_store(t, kit_dense(t, PG_ARG_STORE, dtype, -1), z);
  return t;
}

static void draws_with_one_key_and_with_many(void) {
  kit *kits[] = {
      drawing(1, (int64_t[]){5003}, (int64_t[]){0}, (int64_t[]){1}, true, PG_F32),
      drawing(1, (int64_t[]){515}, (int64_t[]){0}, (int64_t[]){1}, false, PG_F64),
      drawing(2, (int64_t[]){33, 50}, (int64_t[]){1, 0}, (int64_t[]){0, 1}, true, PG_F32),
      drawing(2, (int64_t[]){33, 50}, (int64_t[]){1, 0}, (int64_t[]){0, 1}, true, PG_F64),
      drawing(2, (int64_t[]){33, 50}, (int64_t[]){0, 1}, (int64_t[]){1, 0}, false, PG_F32),
      drawing(2, (int64_t[]){3, 600}, (int64_t[]){600, 1}, (int64_t[]){0, 0}, false, PG_F32),
      drawing(3, (int64_t[]){4, 5, 6}, (int64_t[]){1, 0, 0}, (int64_t[]){0, 1, 5}, true, PG_F64),
      drawing(1, (int64_t[]){0}, (int64_t[]){0}, (int64_t[]){1}, true, PG_F32),
  };
  kit_compare(sizeof kits / sizeof *kits, kits, pg_compiler_available());
}

// ---- reductions ----------------------------------------------------------------------------------------------------

static const int reduce_ops[] = {PG_OP_SUM, PG_OP_MAX, PG_OP_MIN};

// Three reductions of x * y, one of x itself, and a store on the side.
static kit *reducing(pg_reduction reduction, int ndim, const int64_t *dim, pg_dtype dtype) {
  kit *t = kit_new(PG_SPACE_GRID, reduction, ndim, dim);
  int x = kit_load(t, kit_dense(t, PG_ARG_LOAD, dtype, -1)), y = kit_load(t, kit_dense(t, PG_ARG_LOAD, dtype, -1));
  int z = kit_map(t, PG_OP_MAXIMUM, dtype, x, y, -1);
  if (dtype != PG_BOOL) kit_reduce(t, z, PG_OP_SUM);
  kit_reduce(t, x, dtype == PG_BOOL ? PG_OP_MIN : PG_OP_SUM);
  kit_reduce(t, z, PG_OP_MAX);
  kit_reduce(t, y, PG_OP_MIN);
  kit_store(t, kit_dense(t, PG_ARG_STORE, dtype, -1), z);
  return t;
}

// One reduction straight from memory: contiguous, broadcast or strided.
static kit *reducing_memory(pg_reduction reduction, int64_t rows, int64_t n, const int64_t *stride, int op) {
  kit *t = kit_new(PG_SPACE_GRID, reduction, 2, (int64_t[]){rows, n});
  kit_reduce(t, kit_load(t, kit_arg(t, PG_ARG_LOAD, PG_F32, rows * n + 1, stride, -1)), op);
  return t;
}

static void reductions_of_every_dtype(void) {
  kit *kits[2 * DTYPES];
  for (int d = 0; d < DTYPES; d++) {
    kits[2 * d] = reducing(PG_REDUCE_INNER, 2, (int64_t[]){7, 530}, all_dtypes[d]);
    kits[2 * d + 1] = reducing(PG_REDUCE_OUTER, 3, (int64_t[]){2, 300, 21}, all_dtypes[d]);
  }
  kit_compare(2 * DTYPES, kits, pg_compiler_available());
}

static void inner_reductions_at_the_edges(void) {
  static const int64_t sizes[] = {0, 1, 2, 15, 16, 17, 511, 512, 513, 4095, 4096, 4097, 8191, 8192, 8193, 40000};
  enum { SIZES = sizeof sizes / sizeof *sizes };
  kit *kits[2 * SIZES];
  for (int i = 0; i < SIZES; i++) {
    kits[i] = reducing(PG_REDUCE_INNER, 1, (int64_t[]){sizes[i]}, PG_F32);
    kits[SIZES + i] = reducing_memory(PG_REDUCE_INNER, 3, sizes[i], (int64_t[]){sizes[i], 1}, reduce_ops[i % 3]);
  }
  kit_compare(2 * SIZES, kits, pg_compiler_available());
}

static void outer_reductions_at_the_edges(void) {
  static const int64_t heights[] = {0, 1, 255, 256, 257, 511, 512, 513}, widths[] = {0, 1, 7, 1023, 1024, 1025};
  enum { HEIGHTS = sizeof heights / sizeof *heights, WIDTHS = sizeof widths / sizeof *widths };
  kit *kits[HEIGHTS * WIDTHS + 2];
  int n = 0;
  for (int i = 0; i < HEIGHTS; i++)
    for (int j = 0; j < WIDTHS; j++)
      kits[n++] =
          reducing_memory(PG_REDUCE_OUTER, heights[i], widths[j], (int64_t[]){widths[j], 1}, reduce_ops[(i + j) % 3]);
  kits[n++] = reducing_memory(PG_REDUCE_OUTER, 300, 70, (int64_t[]){1, 300}, PG_OP_SUM);
  kits[n++] = reducing(PG_REDUCE_OUTER, 4, (int64_t[]){3, 2, 260, 600}, PG_F64);
  kit_compare(n, kits, pg_compiler_available());
}

static void reductions_of_strided_and_repeated_values(void) {
  kit *kits[] = {
      reducing_memory(PG_REDUCE_INNER, 70, 90, (int64_t[]){1, 70}, PG_OP_SUM),
      reducing_memory(PG_REDUCE_INNER, 70, 90, (int64_t[]){1, 0}, PG_OP_SUM),
      reducing_memory(PG_REDUCE_INNER, 500, 10, (int64_t[]){10, 1}, PG_OP_MAX),
      reducing_memory(PG_REDUCE_OUTER, 70, 90, (int64_t[]){0, 1}, PG_OP_SUM),
      reducing_memory(PG_REDUCE_OUTER, 70, 90, (int64_t[]){1, 0}, PG_OP_MIN),
  };
  kit_compare(sizeof kits / sizeof *kits, kits, pg_compiler_available());
}

// The sum of draws, by rows and by columns.
static void reductions_of_draws(void) {
  kit *kits[2];
  for (int i = 0; i < 2; i++) {
    kit *t = kits[i] = kit_new(PG_SPACE_GRID, i ? PG_REDUCE_OUTER : PG_REDUCE_INNER, 2, (int64_t[]){300, 1100});
    int keys = kit_arg(t, PG_ARG_KEY, PG_KEY, 300, (int64_t[]){1, 0}, -1);
    t->args[keys].dstride[1] = 1;
    int z = kit_inst(t, (pg_inst){PG_INST_NORMAL, 0, PG_F32, -1, -1, -1, keys, 0});
    kit_reduce(t, kit_map(t, PG_OP_MUL, PG_F32, z, z, -1), PG_OP_SUM);
  }
  kit_compare(2, kits, pg_compiler_available());
}

// What is reduced is what was there before the kernel's own stores.
static kit *reducing_in_place(pg_reduction reduction, int64_t rows, int64_t n) {
  kit *t = kit_new(PG_SPACE_GRID, reduction, 2, (int64_t[]){rows, n});
  int p = kit_dense(t, PG_ARG_LOAD, PG_F32, -1), vp = kit_load(t, p);
  int next = kit_map(t, PG_OP_ADD, PG_F32, vp, kit_const(t, PG_F32, 0.3), -1);
  kit_store(t, kit_dense(t, PG_ARG_STORE, PG_F32, p), next);
  kit_reduce(t, vp, PG_OP_SUM);
  kit_reduce(t, next, PG_OP_MAX);
  return t;
}

static void reductions_see_memory_before_stores(void) {
  kit *kits[] = {reducing_in_place(PG_REDUCE_INNER, 3, 5000), reducing_in_place(PG_REDUCE_OUTER, 300, 70),
                 reducing_in_place(PG_REDUCE_INNER, 300, 7)};
  kit_compare(sizeof kits / sizeof *kits, kits, pg_compiler_available());
}

static void finishing_folds_in_order(void) {
  float partial[2 * 3 * 4], result[8];
  for (int i = 0; i < 24; i++) partial[i] = (float)(1.0 / (i + 1));
  pg_finish_reduction(PG_OP_SUM, PG_F32, partial, 2, 3, 4, result);
  for (int r = 0; r < 2; r++)
    for (int c = 0; c < 4; c++) {
      float sum = 0;
      for (int j = 0; j < 3; j++) sum += partial[(r * 3 + j) * 4 + c];
      CHECK(sum == result[r * 4 + c]);
    }
  pg_finish_reduction(PG_OP_MAX, PG_F32, partial, 2, 0, 4, result);
  for (int i = 0; i < 8; i++) CHECK(result[i] == -INFINITY);
}

// ---- vectors -------------------------------------------------------------------------------------------------------

// Tensors of the given sizes in a padded vector, cut into tiles.
static void make_vtiles(kit *t, int n, const int64_t *sizes) {
  int64_t offset = 0, logical = 0;
  t->vtiles = calloc(100, sizeof *t->vtiles);
  for (int s = 0; s < n; s++) {
    for (int64_t i = 0; i < sizes[s]; i += PG_CHUNK) {
      int64_t size = sizes[s] - i < PG_CHUNK ? sizes[s] - i : PG_CHUNK;
      t->vtiles[t->nvtiles++] = (pg_vtile){offset + i, size, logical + i, s};
    }
    logical += sizes[s];
    offset += (sizes[s] + 15) / 16 * 16;
  }
}

// y = x * one + per-tensor value + noise, its sum and maximum per tile
static kit *vectored(int n, const int64_t *sizes, bool reduce, bool draw) {
  kit *t = kit_new(PG_SPACE_VECTOR, reduce ? PG_REDUCE_INNER : PG_REDUCE_NONE, 0, (int64_t[]){0});
  static const int64_t dense[PG_KDIMS] = {1}, uniform[PG_KDIMS] = {0};
  int x = kit_arg(t, PG_ARG_LOAD, PG_F32, 20000, NULL, -1), one = kit_arg(t, PG_ARG_LOAD, PG_F32, 1, NULL, -1);
  int each = kit_arg(t, PG_ARG_SEGLOAD, PG_F32, n, NULL, -1), y = kit_arg(t, PG_ARG_STORE, PG_F32, 20000, NULL, -1);
  memcpy(t->args[x].stride, dense, sizeof dense);
  memcpy(t->args[y].stride, dense, sizeof dense);
  memcpy(t->args[one].stride, uniform, sizeof uniform);
  int product = kit_map(t, PG_OP_MUL, PG_F32, kit_load(t, x), kit_load(t, one), -1);
  int sum = kit_map(t, PG_OP_ADD, PG_F32, product, kit_load(t, each), -1);
  if (draw) {
    int key = kit_arg(t, PG_ARG_KEY, PG_KEY, 1, NULL, -1);
    t->args[key].dstride[0] = 1;
    int z = kit_inst(t, (pg_inst){PG_INST_NORMAL, 0, PG_F32, -1, -1, -1, key, 0});
    sum = kit_map(t, PG_OP_ADD, PG_F32, sum, z, -1);
  }
  kit_store(t, y, sum);
  if (reduce) {
    kit_reduce(t, sum, PG_OP_SUM);
    kit_reduce(t, product, PG_OP_MAX);
  }
  make_vtiles(t, n, sizes);
  return t;
}

static void vectors(void) {
  static const int64_t sizes[] = {1, 4097, 15, 16, 17, 0, 512, 9000, 513};
  enum { SIZES = sizeof sizes / sizeof *sizes };
  kit *kits[] = {vectored(SIZES, sizes, false, false), vectored(SIZES, sizes, true, false),
                 vectored(SIZES, sizes, false, true), vectored(SIZES, sizes, true, true),
                 vectored(0, sizes, true, true)};
  kit_compare(sizeof kits / sizeof *kits, kits, pg_compiler_available());
}

// ---- anything ------------------------------------------------------------------------------------------------------

static int64_t pick(int64_t n) {
  return (int64_t)(kit_random() % (uint64_t)n);
}

// A value of the wanted dtype among the instructions so far, or a cast of one.
static int random_value(kit *t, pg_dtype dtype) {
  int v;
  do v = (int)pick(t->k.ninsts);
  while (t->insts[v].kind == PG_INST_STORE);
  return t->insts[v].dtype == dtype ? v : kit_map(t, PG_OP_CAST, dtype, v, -1, -1);
}

static void add_random_map(kit *t) {
  static const pg_dtype dtypes[] = {PG_F32, PG_F32, PG_F64, PG_I32, PG_BOOL};
  pg_dtype dtype = dtypes[pick(5)];
  int o = (int)pick(MAP_OPS - 1); // all but the cast
  pg_dtype result = yields_mask(map_ops[o].op) ? PG_BOOL : dtype;
  if (!pg_block_map(map_ops[o].op, dtype, result)) return;
  int x[3] = {-1, -1, -1};
  for (int i = 0; i < map_ops[o].arity; i++)
    x[i] = random_value(t, map_ops[o].op == PG_OP_WHERE && i == 0 ? PG_BOOL : dtype);
  kit_map(t, map_ops[o].op, result, x[0], x[1], x[2]);
}

static void add_random_load(kit *t) {
  static const pg_dtype dtypes[] = {PG_F32, PG_F64, PG_I32, PG_BOOL};
  int64_t stride[PG_KDIMS], size = kit_contiguous(t, stride);
  for (int d = 0; d < t->k.ndim; d++)
    if (pick(4) == 0) stride[d] = 0;
  kit_load(t, kit_arg(t, PG_ARG_LOAD, dtypes[pick(4)], size, stride, -1));
}

// Store over a dense load, or into memory of its own.
static void add_random_store(kit *t, int loads, bool *taken) {
  int64_t stride[PG_KDIMS];
  kit_contiguous(t, stride);
  int a = (int)pick(loads);
  bool in_place = pick(2) && !taken[a] && memcmp(stride, t->args[a].stride, (size_t)t->k.ndim * sizeof *stride) == 0;
  taken[a] |= in_place;
  int value = random_value(t, in_place ? t->args[a].dtype : PG_F32);
  kit_store(t, kit_dense(t, PG_ARG_STORE, t->insts[value].dtype, in_place ? a : -1), value);
}

static kit *random_kernel(void) {
  int64_t dim[4];
  int ndim = 1 + (int)pick(4), loads = 1 + (int)pick(4);
  for (int d = 0; d < ndim; d++) dim[d] = d == ndim - 1 && ndim < 3 ? 1 + pick(5000) : 1 + pick(9);
  pg_reduction reduction = ndim == 1 ? (pg_reduction)pick(2) : (pg_reduction)pick(3);
  kit *t = kit_new(PG_SPACE_GRID, reduction, ndim, dim);
  bool taken[KIT_ARGS] = {false};
  for (int i = 0; i < loads; i++) add_random_load(t);
  kit_num(t, PG_F32, 1);
  kit_const(t, PG_F64, kit_number());
  for (int64_t i = 2 + pick(10); i > 0; i--) add_random_map(t);
  int64_t stores = pick(4) + (reduction == PG_REDUCE_NONE);
  for (int64_t i = 0; i < stores; i++) add_random_store(t, loads, taken);
  for (int64_t i = reduction == PG_REDUCE_NONE ? 0 : 1 + pick(3); i > 0; i--)
    kit_reduce(t, random_value(t, pick(2) ? PG_F32 : PG_I32), reduce_ops[pick(3)]);
  return t;
}

static void random_kernels(void) {
  kit *kits[40];
  for (int i = 0; i < 40; i++) kits[i] = random_kernel();
  kit_compare(40, kits, pg_compiler_available());
}

// ---- structure -----------------------------------------------------------------------------------------------------

static void sizes_do_not_change_the_source(void) {
  if (!pg_compiler_available()) CHECK_SKIP("no C compiler");
  kit *small = reducing(PG_REDUCE_INNER, 2, (int64_t[]){3, 5}, PG_F32);
  kit *large = reducing(PG_REDUCE_INNER, 2, (int64_t[]){30, 5000}, PG_F32);
  kit *other = reducing(PG_REDUCE_INNER, 1, (int64_t[]){30}, PG_F32);
  pg_code *a, *b, *c;
  const pg_kernel *k = &small->k;
  CHECK_STATUS(pg_code_build(1, &k, &a), PG_OK);
  k = &large->k;
  CHECK_STATUS(pg_code_build(1, &k, &b), PG_OK);
  k = &other->k;
  CHECK_STATUS(pg_code_build(1, &k, &c), PG_OK);
  CHECK(a == b && a != c);
  pg_code_free(a);
  CHECK(pg_code_entry(b, 0));
  pg_code_free(b);
  pg_code_free(c);
  kit_free(small), kit_free(large), kit_free(other);
}

// Three kernels of which two differ in sizes only.
static void equal_kernels_are_printed_once(void) {
  if (!pg_compiler_available()) CHECK_SKIP("no C compiler");
  kit *kits[] = {in_place(5), swap(700), in_place(6000)};
  const pg_kernel *k[] = {&kits[0]->k, &kits[1]->k, &kits[2]->k};
  pg_code *code;
  CHECK_STATUS(pg_code_build(3, k, &code), PG_OK);
  CHECK(pg_code_entry(code, 0) == pg_code_entry(code, 2) && pg_code_entry(code, 0) != pg_code_entry(code, 1));
  pg_code_free(code);
  kit_compare(3, kits, true);
}

static void the_tile_grid_is_that_of_the_header(void) {
  static const struct {
    pg_reduction reduction;
    int ndim;
    int64_t dim[3], tiles, rows, per_tile, chunks;
  } cases[] = {
      {PG_REDUCE_NONE, 1, {4096}, 1, 1, 1, 1},          {PG_REDUCE_NONE, 1, {4097}, 2, 1, 1, 2},
      {PG_REDUCE_NONE, 2, {100, 1000}, 25, 100, 4, 1},  {PG_REDUCE_NONE, 1, {0}, 0, 1, 4096, 0},
      {PG_REDUCE_INNER, 3, {5, 7, 5000}, 70, 35, 1, 2}, {PG_REDUCE_OUTER, 3, {5, 257, 1025}, 20, 5, 1, 2},
      {PG_REDUCE_OUTER, 2, {0, 10}, 0, 1, 1, 0},        {PG_REDUCE_NONE, 2, {0, 10}, 0, 0, 409, 1},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    kit *t = kit_new(PG_SPACE_GRID, cases[i].reduction, cases[i].ndim, cases[i].dim);
    int64_t rows, per_tile, chunks, tiles = pg_kernel_tiles(&t->k, 0, &rows, &per_tile, &chunks);
    CHECK_THAT(tiles == cases[i].tiles && rows == cases[i].rows && chunks == cases[i].chunks, "case %zu", i);
    CHECK_THAT(cases[i].reduction == PG_REDUCE_OUTER || per_tile == cases[i].per_tile, "case %zu", i);
    kit_free(t);
  }
}

int main(void) {
  CHECK_RUN(no_operation_is_missing);
  CHECK_RUN(the_tile_grid_is_that_of_the_header);
  CHECK_RUN(finishing_folds_in_order);
  CHECK_RUN(strides_and_broadcasts);
  CHECK_RUN(updates_in_place);
  CHECK_RUN(many_values_alive);
  CHECK_RUN(constants_are_rounded_alike);
  CHECK_RUN(draws_with_one_key_and_with_many);
  CHECK_RUN(inner_reductions_at_the_edges);
  CHECK_RUN(outer_reductions_at_the_edges);
  CHECK_RUN(reductions_of_every_dtype);
  CHECK_RUN(reductions_of_strided_and_repeated_values);
  CHECK_RUN(reductions_of_draws);
  CHECK_RUN(reductions_see_memory_before_stores);
  CHECK_RUN(vectors);
  CHECK_RUN(random_kernels);
  CHECK_RUN(sizes_do_not_change_the_source);
  CHECK_RUN(equal_kernels_are_printed_once);
  CHECK_RUN(every_operation_on_every_dtype);
  return check_result();
}
