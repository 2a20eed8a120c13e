// blocks.c: the interpreter's inner loops, one per operation and dtype, made from the scalar functions of
// core/scalar.h, and the tables that find them. Loops are alike but for the types, hence the macros; which dtypes an
// operation has is said once, in BLOCK_OPS.
#include "engine/codegen/blocks.h"

#include <string.h>

#include "engine/codegen/lanes.h"

// Operands and result are at equal indices, so no iteration depends on another even where they share memory.
#ifdef __clang__
#define INDEPENDENT
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

// Reading masks as bytes lets gcc vectorize what depends on them; read as bool they stop it.
#define READ_f32(x, i) (x)[i]
#define READ_f64(x, i) (x)[i]
#define READ_i32(x, i) (x)[i]
#define READ_i64(x, i) (x)[i]
#define READ_u8(x, i) (x)[i]
#define READ_b8(x, i) (((const uint8_t *)(x))[i] != 0)

// clang-format off
#define TYPES_FLOAT(M, name) M(name, f32, float, PG_F32) M(name, f64, double, PG_F64)
#define TYPES_BOOL(M, name) M(name, b8, bool, PG_BOOL)
#define TYPES_NUMBER(M, name)                                                                                          \
  TYPES_FLOAT(M, name) M(name, i32, int32_t, PG_I32) M(name, i64, int64_t, PG_I64) M(name, u8, uint8_t, PG_U8)
#define TYPES_ANY(M, name) TYPES_NUMBER(M, name) TYPES_BOOL(M, name)

// UNARY and BINARY yield what they take; TEST and COMPARE yield bool.
#define BLOCK_OPS(UNARY, BINARY, TEST, COMPARE)                                                                        \
  UNARY(NEG, neg, NUMBER) UNARY(ABS, abs, NUMBER) UNARY(SIGN, sign, NUMBER) UNARY(FLOOR, floor, NUMBER)                \
  UNARY(CEIL, ceil, NUMBER) UNARY(ROUND, round, NUMBER) UNARY(SQRT, sqrt, FLOAT) UNARY(RSQRT, rsqrt, FLOAT)            \
  UNARY(EXP, exp, FLOAT) UNARY(EXPM1, expm1, FLOAT) UNARY(LOG, log, FLOAT) UNARY(LOG1P, log1p, FLOAT)                  \
  UNARY(SIN, sin, FLOAT) UNARY(COS, cos, FLOAT) UNARY(TANH, tanh, FLOAT) UNARY(ERF, erf, FLOAT)                        \
  UNARY(SIGMOID, sigmoid, FLOAT) UNARY(SOFTPLUS, softplus, FLOAT) UNARY(RELU, relu, NUMBER)                            \
  UNARY(NOT, not, BOOL) TEST(ISFINITE, isfinite, NUMBER)                                                               \
  BINARY(ADD, add, NUMBER) BINARY(SUB, sub, NUMBER) BINARY(MUL, mul, NUMBER) BINARY(DIV, div, NUMBER)                  \
  BINARY(POW, pow, NUMBER) BINARY(MAXIMUM, maximum, ANY) BINARY(MINIMUM, minimum, ANY)                                 \
  BINARY(AND, and, BOOL) BINARY(OR, or, BOOL)                                                                          \
  COMPARE(LT, lt, ANY) COMPARE(LE, le, ANY) COMPARE(GT, gt, ANY) COMPARE(GE, ge, ANY) COMPARE(EQ, eq, ANY)             \
  COMPARE(NE, ne, ANY)
// clang-format on

#define DEFINE_LOOP1(name, S, T, R)                                                                                    \
  static void name##_##S(int64_t n, const void *a, const void *b, const void *c, void *out) {                          \
    const T *x = a;                                                                                                    \
    R *to = out;                                                                                                       \
    (void)b, (void)c;                                                                                                  \
    INDEPENDENT for (int64_t i = 0; i < n; i++) to[i] = pg_##name##_##S(READ_##S(x, i));                               \
  }
#define DEFINE_LOOP2(name, S, T, R)                                                                                    \
  static void name##_##S(int64_t n, const void *a, const void *b, const void *c, void *out) {                          \
    const T *x = a, *y = b;                                                                                            \
    R *to = out;                                                                                                       \
    (void)c;                                                                                                           \
    INDEPENDENT for (int64_t i = 0; i < n; i++) to[i] = pg_##name##_##S(READ_##S(x, i), READ_##S(y, i));               \
  }
#define UNARY_LOOP(name, S, T, D) DEFINE_LOOP1(name, S, T, T)
#define TEST_LOOP(name, S, T, D) DEFINE_LOOP1(name, S, T, bool)
#define BINARY_LOOP(name, S, T, D) DEFINE_LOOP2(name, S, T, T)
#define COMPARE_LOOP(name, S, T, D) DEFINE_LOOP2(name, S, T, bool)
#define UNARY(NAME, name, SET) TYPES_##SET(UNARY_LOOP, name)
#define TEST(NAME, name, SET) TYPES_##SET(TEST_LOOP, name)
#define BINARY(NAME, name, SET) TYPES_##SET(BINARY_LOOP, name)
#define COMPARE(NAME, name, SET) TYPES_##SET(COMPARE_LOOP, name)
BLOCK_OPS(UNARY, BINARY, TEST, COMPARE)

#define WHERE_LOOP(name, S, T, D)                                                                                      \
  static void name##_##S(int64_t n, const void *a, const void *b, const void *c, void *out) {                          \
    const bool *condition = a;                                                                                         \
    const T *x = b, *y = c;                                                                                            \
    T *to = out;                                                                                                       \
    INDEPENDENT for (int64_t i = 0; i < n; i++) to[i] =                                                                \
        pg_where_##S(READ_b8(condition, i), READ_##S(x, i), READ_##S(y, i));                                           \
  }
TYPES_ANY(WHERE_LOOP, where)

#define CAST_LOOP(from, S, T, F)                                                                                       \
  static void cast_##S##_##from(int64_t n, const void *a, const void *b, const void *c, void *out) {                   \
    const F *x = a;                                                                                                    \
    T *to = out;                                                                                                       \
    (void)b, (void)c;                                                                                                  \
    INDEPENDENT for (int64_t i = 0; i < n; i++) to[i] = pg_cast_##S##_##from(READ_##from(x, i));                       \
  }
#define CAST_LOOPS(name, S, T, D)                                                                                      \
  CAST_LOOP(f32, S, T, float)                                                                                          \
  CAST_LOOP(f64, S, T, double)                                                                                         \
  CAST_LOOP(i32, S, T, int32_t)                                                                                        \
  CAST_LOOP(i64, S, T, int64_t)                                                                                        \
  CAST_LOOP(u8, S, T, uint8_t)                                                                                         \
  CAST_LOOP(b8, S, T, bool)
TYPES_ANY(CAST_LOOPS, cast)

#define ENTRY(name, S, T, D) [D] = name##_##S,
#define ROW(NAME, name, SET) [PG_OP_##NAME] = {TYPES_##SET(ENTRY, name)},
static const pg_block_fn map_table[PG_OP_CAST][PG_NUM_DTYPES] = {
    BLOCK_OPS(ROW, ROW, ROW, ROW)[PG_OP_WHERE] = {TYPES_ANY(ENTRY, where)}};

#define CAST_ROW(name, S, T, D)                                                                                        \
  [D] = {cast_##S##_f32, cast_##S##_f64, cast_##S##_i32, cast_##S##_i64, cast_##S##_u8, cast_##S##_b8},
static const pg_block_fn cast_table[PG_NUM_DTYPES][PG_NUM_DTYPES] = {TYPES_ANY(CAST_ROW, cast)};

pg_block_fn pg_block_map(int op, pg_dtype operand, pg_dtype result) {
  return op == PG_OP_CAST ? cast_table[result][operand] : map_table[op][operand];
}

// ---- sources -------------------------------------------------------------------------------------------------------

#define INDEX_LOOP(name, S, T, D)                                                                                      \
  static void name##_##S(int64_t n, int64_t start, int64_t step, void *out) {                                          \
    T *to = out;                                                                                                       \
    for (int64_t i = 0; i < n; i++) to[i] = pg_cast_##S##_i64(start + i * step);                                       \
  }
#define NUMBER_FUNCTION(name, S, T, D)                                                                                 \
  static void name##_##S(double x, void *out) {                                                                        \
    *(T *)out = pg_cast_##S##_f64(x);                                                                                  \
  }
TYPES_ANY(INDEX_LOOP, index)
TYPES_ANY(NUMBER_FUNCTION, number)

const pg_index_fn pg_block_index[PG_NUM_DTYPES] = {TYPES_ANY(ENTRY, index)};
const pg_number_fn pg_block_number[PG_NUM_DTYPES] = {TYPES_ANY(ENTRY, number)};

// ---- reductions ----------------------------------------------------------------------------------------------------

#define REDUCTION_FUNCTIONS(name, S, T, first, combine)                                                                \
  static void identity_##name##_##S(int64_t n, void *out) {                                                            \
    T *to = out;                                                                                                       \
    for (int64_t i = 0; i < n; i++) to[i] = pg_identity_##name##_##S();                                                \
  }                                                                                                                    \
  static void lanes_##name##_##S(void *lanes, const void *x, int64_t n) {                                              \
    pg_lanes_##name##_##S(lanes, x, n);                                                                                \
  }                                                                                                                    \
  static void fold_##name##_##S(void *lanes, void *out) {                                                              \
    *(T *)out = pg_fold_##name##_##S(lanes);                                                                           \
  }
PG_REDUCTIONS(REDUCTION_FUNCTIONS)

#define REDUCTION(name, S, D, combine)                                                                                 \
  [D] = {identity_##name##_##S, lanes_##name##_##S, fold_##name##_##S, combine##_##S},
#define REDUCTION_NUMBERS(name, combine)                                                                               \
  REDUCTION(name, f32, PG_F32, combine)                                                                                \
  REDUCTION(name, f64, PG_F64, combine)                                                                                \
  REDUCTION(name, i32, PG_I32, combine)                                                                                \
  REDUCTION(name, i64, PG_I64, combine)                                                                                \
  REDUCTION(name, u8, PG_U8, combine)
static const pg_block_reduction reduction_table[][PG_NUM_DTYPES] = {
    [PG_OP_SUM] = {REDUCTION_NUMBERS(sum, add)},
    [PG_OP_MAX] = {REDUCTION_NUMBERS(max, maximum) REDUCTION(max, b8, PG_BOOL, maximum)},
    [PG_OP_MIN] = {REDUCTION_NUMBERS(min, minimum) REDUCTION(min, b8, PG_BOOL, minimum)},
};

const pg_block_reduction *pg_block_reduce(int op, pg_dtype dtype) {
  const pg_block_reduction *r = &reduction_table[op][dtype];
  return r->lanes ? r : NULL;
}

// ---- moving --------------------------------------------------------------------------------------------------------

#define MOVERS(BITS)                                                                                                   \
  static void fill##BITS(int64_t n, const void *one, void *out) {                                                      \
    uint##BITS##_t x = *(const uint##BITS##_t *)one, *to = out;                                                        \
    for (int64_t i = 0; i < n; i++) to[i] = x;                                                                         \
  }                                                                                                                    \
  static void gather##BITS(int64_t n, const void *from, int64_t stride, void *out) {                                   \
    const uint##BITS##_t *x = from;                                                                                    \
    uint##BITS##_t *to = out;                                                                                          \
    INDEPENDENT for (int64_t i = 0; i < n; i++) to[i] = x[i * stride];                                                 \
  }                                                                                                                    \
  static void scatter##BITS(int64_t n, const void *a, int64_t stride, void *out) {                                     \
    const uint##BITS##_t *x = a;                                                                                       \
    uint##BITS##_t *to = out;                                                                                          \
    INDEPENDENT for (int64_t i = 0; i < n; i++) to[i * stride] = x[i];                                                 \
  }
MOVERS(8)
MOVERS(32)
MOVERS(64)

void pg_block_fill(size_t size, int64_t n, const void *one, void *out) {
  (size == 4 ? fill32 : size == 8 ? fill64 : fill8)(n, one, out);
}

void pg_block_gather(size_t size, int64_t n, const void *from, int64_t stride, void *out) {
  (size == 4 ? gather32 : size == 8 ? gather64 : gather8)(n, from, stride, out);
}

void pg_block_scatter(size_t size, int64_t n, const void *a, int64_t stride, void *to) {
  (size == 4 ? scatter32 : size == 8 ? scatter64 : scatter8)(n, a, stride, to);
}
