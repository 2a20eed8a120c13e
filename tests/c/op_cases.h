// op_cases.h: functions of the engine with operands of every kind, and graphs of their values and derivatives, for the
// tests that go over all of them: that derivatives are right (test_ops.c), that batches give what their entries give
// (test_vmap.c). Operands keep away from kinks, whose conventions test_op_facts.c states.
#ifndef PG_TESTS_OP_CASES_H
#define PG_TESTS_OP_CASES_H

#include "tests/c/check.h"

#include <stdlib.h>
#include <string.h>

typedef enum values {
  ANY = 1,  // in (-2, 2)
  POSITIVE, // in (0.4, 2.4)
  AWAY,     // 0.4 to 2.4 away from 0, either sign
  UNIT,     // in (0.05, 0.95)
  DISTINCT, // a shuffled range: no ties
  GRID,     // in (-2, 2), multiples of 0.2
  BETWEEN,  // the same, 0.1 away from multiples of 0.2
  DOMINANT, // square matrices whose diagonals outweigh the rest: their symmetric parts are positive definite
  INDEX,    // i64 in 0..3, not a variable
  MASK,     // bool, not a variable
  KEYS      // keys, not a variable
} values;

typedef struct operand {
  values values;
  int ndim;
  int64_t shape[4];
} operand;

// Shapes that are not shapes.
enum { NUMBER = -1, VECTOR = -2 };

#define S0(v)                                                                                                          \
  {                                                                                                                    \
    v, 0, {                                                                                                            \
      0                                                                                                                \
    }                                                                                                                  \
  }
#define S1(v, a)                                                                                                       \
  {                                                                                                                    \
    v, 1, {                                                                                                            \
      a                                                                                                                \
    }                                                                                                                  \
  }
#define S2(v, a, b)                                                                                                    \
  {                                                                                                                    \
    v, 2, {                                                                                                            \
      a, b                                                                                                             \
    }                                                                                                                  \
  }
#define S3(v, a, b, c)                                                                                                 \
  {                                                                                                                    \
    v, 3, {                                                                                                            \
      a, b, c                                                                                                          \
    }                                                                                                                  \
  }
#define S4(v, a, b, c, d)                                                                                              \
  {                                                                                                                    \
    v, 4, {                                                                                                            \
      a, b, c, d                                                                                                       \
    }                                                                                                                  \
  }
#define W(v)                                                                                                           \
  {                                                                                                                    \
    v, NUMBER, {                                                                                                       \
      0                                                                                                                \
    }                                                                                                                  \
  }
#define V(v)                                                                                                           \
  {                                                                                                                    \
    v, VECTOR, {                                                                                                       \
      0                                                                                                                \
    }                                                                                                                  \
  }

typedef struct op_case {
  const char *function;
  int n;
  operand in[4];
  pg_attrs attrs;
} op_case;

#define UNARY(name, v)                                                                                                 \
  {name, 1, {S2(v, 3, 5)}, {0}}, {name, 1, {S0(v)}, {0}}, {name, 1, {V(v)}, {0}}, {name, 1, {W(v)}, {0}},              \
      {name, 1, {S2(v, 0, 3)}, {0}}, {                                                                                 \
    name, 1, {S1(v, 1)}, {                                                                                             \
      0                                                                                                                \
    }                                                                                                                  \
  }
#define BINARY(name, v, w)                                                                                             \
  {name, 2, {S2(v, 3, 4), S2(w, 3, 4)}, {0}}, {name, 2, {S2(v, 3, 4), S1(w, 4)}, {0}},                                 \
      {name, 2, {S2(v, 3, 1), S3(w, 2, 1, 4)}, {0}}, {name, 2, {S0(v), S2(w, 2, 3)}, {0}},                             \
      {name, 2, {W(v), S1(w, 3)}, {0}}, {name, 2, {S1(v, 3), W(w)}, {0}}, {name, 2, {W(v), W(w)}, {0}},                \
      {name, 2, {V(v), V(w)}, {0}}, {name, 2, {V(v), S0(w)}, {0}}, {name, 2, {W(v), V(w)}, {0}},                       \
      {name, 2, {S2(v, 0, 3), S1(w, 3)}, {0}}, {                                                                       \
    name, 2, {S1(v, 1), S1(w, 5)}, {                                                                                   \
      0                                                                                                                \
    }                                                                                                                  \
  }
#define REDUCTION(name, v)                                                                                             \
  {name, 1, {S2(v, 3, 4)}, {0}}, {name, 1, {S2(v, 3, 4)}, {.n = 1, .a = {-1}}}, {name, 1, {S0(v)}, {0}},               \
      {name, 1, {S3(v, 2, 3, 4)}, {.n = 1, .a = {1}, .flags = 1}}, {name, 1, {S3(v, 2, 3, 4)}, {.n = 2, .a = {0, 2}}}, \
      {name, 1, {S4(v, 2, 2, 2, 3)}, {.n = 2, .a = {-3, -2}}}, {name, 1, {V(v)}, {0}},                                 \
      {name, 1, {S2(v, 4, 1)}, {.n = 1, .a = {1}}}, {                                                                  \
    name, 1, {S2(v, 4, 1)}, {                                                                                          \
      .flags = 1                                                                                                       \
    }                                                                                                                  \
  }
#define SHAPED(...) .n = sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), .a = {__VA_ARGS__}

static const op_case cases[] = {
    UNARY("neg", ANY),
    UNARY("abs", AWAY),
    UNARY("sqrt", POSITIVE),
    UNARY("rsqrt", POSITIVE),
    UNARY("exp", ANY),
    UNARY("expm1", ANY),
    UNARY("log", POSITIVE),
    UNARY("log1p", POSITIVE),
    UNARY("sin", ANY),
    UNARY("cos", ANY),
    UNARY("tanh", ANY),
    UNARY("erf", ANY),
    UNARY("sigmoid", ANY),
    UNARY("softplus", ANY),
    UNARY("relu", AWAY),
    UNARY("square", ANY),
    UNARY("reciprocal", POSITIVE),
    UNARY("gelu", ANY),
    UNARY("silu", ANY),
    UNARY("log_sigmoid", ANY),
    UNARY("mark", ANY),
    UNARY("zeros_like", ANY),
    {"gelu", 1, {S1(ANY, 7)}, {.flags = 1}},
    {"leaky_relu", 1, {S1(AWAY, 9)}, {.x = 0.1}},
    {"elu", 1, {S1(AWAY, 9)}, {.x = 1.3}},
    {"cast", 1, {S2(ANY, 2, 3)}, {.dtype = PG_F64}},
    BINARY("add", ANY, ANY),
    BINARY("sub", ANY, ANY),
    BINARY("mul", ANY, ANY),
    BINARY("div", ANY, AWAY),
    BINARY("pow", POSITIVE, ANY),
    BINARY("maximum", GRID, BETWEEN),
    BINARY("minimum", GRID, BETWEEN),
    {"where", 3, {S2(MASK, 3, 4), S2(ANY, 3, 4), S1(ANY, 4)}, {0}},
    {"where", 3, {S1(MASK, 4), S2(ANY, 3, 1), W(ANY)}, {0}},
    {"clamp", 3, {S2(ANY, 3, 4), W(UNIT), W(POSITIVE)}, {0}},
    REDUCTION("sum", ANY),
    REDUCTION("mean", ANY),
    REDUCTION("max", DISTINCT),
    REDUCTION("min", DISTINCT),
    REDUCTION("norm", AWAY),
    REDUCTION("var", ANY),
    {"sum", 1, {S2(ANY, 0, 3)}, {0}},
    {"sum", 1, {S2(ANY, 0, 3)}, {.n = 1, .a = {0}}},
    {"sum", 1, {W(ANY)}, {0}},
    {"var", 1, {S2(ANY, 5, 4)}, {.n = 1, .a = {0}, .x = 1}},
    {"softmax", 1, {S2(ANY, 3, 5)}, {0}},
    {"softmax", 1, {S2(ANY, 3, 5)}, {.n = 1, .a = {0}}},
    {"log_softmax", 1, {S3(ANY, 2, 3, 4)}, {0}},
    {"log_softmax", 1, {S3(ANY, 2, 3, 4)}, {.n = 1, .a = {-2}}},
    {"logsumexp", 1, {S2(ANY, 3, 5)}, {0}},
    {"logsumexp", 1, {S2(ANY, 3, 5)}, {.n = 1, .a = {0}, .flags = 1}},
    {"dot", 2, {S1(ANY, 6), S1(ANY, 6)}, {0}},
    {"dot", 2, {V(ANY), V(ANY)}, {0}},
    {"outer", 2, {S1(ANY, 3), S1(ANY, 4)}, {0}},
    {"matmul", 2, {S2(ANY, 3, 4), S2(ANY, 4, 5)}, {0}},
    {"matmul", 2, {S1(ANY, 4), S2(ANY, 4, 3)}, {0}},
    {"matmul", 2, {S2(ANY, 3, 4), S1(ANY, 4)}, {0}},
    {"matmul", 2, {S1(ANY, 4), S1(ANY, 4)}, {0}},
    {"matmul", 2, {S3(ANY, 2, 3, 4), S2(ANY, 4, 2)}, {0}},
    {"matmul", 2, {S3(ANY, 2, 3, 4), S3(ANY, 2, 4, 2)}, {0}},
    {"matmul", 2, {S4(ANY, 2, 1, 2, 3), S3(ANY, 3, 3, 2)}, {0}},
    {"matmul", 2, {S2(ANY, 2, 3), S3(ANY, 2, 3, 2)}, {0}},
    {"matmul", 2, {S2(ANY, 3, 0), S2(ANY, 0, 2)}, {0}},
    {"matmul", 2, {S2(ANY, 0, 3), S2(ANY, 3, 2)}, {0}},
    {"matmul", 2, {S2(ANY, 1, 5), S2(ANY, 5, 1)}, {0}},
    {"matmul", 2, {S2(ANY, 24, 20), S2(ANY, 20, 24)}, {0}},
    {"cholesky", 1, {S2(DOMINANT, 5, 5)}, {0}},
    {"cholesky", 1, {S2(DOMINANT, 1, 1)}, {0}},
    {"cholesky", 1, {S2(DOMINANT, 0, 0)}, {0}},
    {"triangular_solve", 2, {S2(DOMINANT, 4, 4), S2(ANY, 4, 3)}, {0}},
    {"triangular_solve", 2, {S2(DOMINANT, 4, 4), S2(ANY, 4, 3)}, {.flags = 1}},
    {"triangular_solve", 2, {S2(DOMINANT, 5, 5), S1(ANY, 5)}, {0}},
    {"triangular_solve", 2, {S2(DOMINANT, 5, 5), S1(ANY, 5)}, {.flags = 1}},
    {"triangular_solve", 2, {S2(DOMINANT, 3, 3), S2(ANY, 3, 0)}, {0}},
    {"triangular_solve", 2, {S2(DOMINANT, 0, 0), S2(ANY, 0, 2)}, {.flags = 1}},
    {"cholesky", 1, {S3(DOMINANT, 3, 4, 4)}, {0}},
    {"triangular_solve", 2, {S3(DOMINANT, 2, 3, 3), S3(ANY, 2, 3, 2)}, {0}},
    {"triangular_solve", 2, {S3(DOMINANT, 2, 3, 3), S3(ANY, 2, 3, 2)}, {.flags = 1}},
    {"solve", 2, {S2(DOMINANT, 4, 4), S2(ANY, 4, 3)}, {0}},
    {"solve", 2, {S2(DOMINANT, 4, 4), S2(ANY, 4, 3)}, {.flags = 1}},
    {"solve", 2, {S2(DOMINANT, 5, 5), S1(ANY, 5)}, {0}},
    {"solve", 2, {S3(DOMINANT, 2, 3, 3), S3(ANY, 2, 3, 2)}, {0}},
    {"solve", 2, {S3(DOMINANT, 2, 3, 3), S3(ANY, 2, 3, 2)}, {.flags = 1}},
    {"solve", 2, {S2(DOMINANT, 0, 0), S2(ANY, 0, 2)}, {0}},
    {"slogdet", 1, {S2(DOMINANT, 5, 5)}, {0}},
    {"slogdet", 1, {S3(DOMINANT, 2, 3, 3)}, {0}},
    {"slogdet", 1, {S2(DOMINANT, 0, 0)}, {0}},
    {"qr", 1, {S2(DOMINANT, 4, 4)}, {0}},
    {"qr", 1, {S2(ANY, 6, 3)}, {0}},
    {"qr", 1, {S3(ANY, 2, 4, 2)}, {0}},
    {"qr", 1, {S2(ANY, 4, 1)}, {0}},
    {"qr", 1, {S2(ANY, 3, 0)}, {0}},
    {"svd", 1, {S2(DOMINANT, 4, 4)}, {0}},
    {"svd", 1, {S2(ANY, 6, 3)}, {0}},
    {"svd", 1, {S3(ANY, 2, 4, 2)}, {0}},
    {"svd", 1, {S2(ANY, 3, 0)}, {0}},
    {"eigh", 1, {S2(DOMINANT, 5, 5)}, {0}},
    {"eigh", 1, {S2(DOMINANT, 1, 1)}, {0}},
    {"eigh", 1, {S3(DOMINANT, 2, 3, 3)}, {0}},
    {"eigh", 1, {S2(DOMINANT, 0, 0)}, {0}},
    {"reshape", 1, {S2(ANY, 3, 4)}, {SHAPED(2, -1)}},
    {"transpose", 1, {S3(ANY, 2, 3, 4)}, {SHAPED(2, 0, 1)}},
    {"transpose", 1, {S2(ANY, 2, 3)}, {0}},
    {"broadcast_to", 1, {S2(ANY, 3, 1)}, {SHAPED(2, 3, 4)}},
    {"broadcast", 1, {S0(ANY)}, {SHAPED(2, 3)}},
    {"squeeze", 1, {S3(ANY, 1, 3, 1)}, {.n = 1, .a = {-1}}},
    {"expand_dims", 1, {S2(ANY, 2, 3)}, {.a = {-1}}},
    {"slice", 1, {S2(ANY, 5, 7)}, {.n = 2, .a = {1, 0}, .b = {3, 4}, .c = {1, 2}}},
    {"slice", 1, {S2(ANY, 5, 7)}, {.n = 2, .a = {5, 0}, .b = {0, 7}}},
    {"pad", 1, {S2(ANY, 2, 3)}, {.n = 2, .a = {1, 0}, .b = {4, 7}, .c = {1, 3}}},
    {"concat", 3, {S2(ANY, 2, 3), S2(ANY, 2, 1), S2(ANY, 2, 0)}, {.n = 1, .a = {-1}}},
    {"stack", 2, {S2(ANY, 2, 3), S2(ANY, 2, 3)}, {.a = {1}}},
    {"gather", 2, {S2(ANY, 4, 3), S2(INDEX, 2, 3)}, {.n = 1, .a = {0}}},
    {"take", 2, {S3(ANY, 2, 4, 3), S1(INDEX, 5)}, {.a = {1}}},
    {"take", 2, {S1(ANY, 4), S0(INDEX)}, {0}},
    {"take_along_last", 2, {S3(ANY, 2, 3, 4), S2(INDEX, 2, 3)}, {0}},
    {"scatter_add", 3, {S2(ANY, 4, 3), S1(INDEX, 5), S2(ANY, 5, 3)}, {.n = 1, .a = {0}}},
    {"scatter_add", 3, {S2(ANY, 2, 4), S2(INDEX, 2, 2), S3(ANY, 2, 2, 2)}, {.n = 1, .a = {1}}},
    {"take_along", 2, {S2(ANY, 3, 4), S2(INDEX, 3, 6)}, {0}},
    {"take_along", 2, {S1(ANY, 4), S1(INDEX, 2)}, {0}},
    {"take_along", 2, {S2(ANY, 0, 4), S2(INDEX, 0, 3)}, {0}},
    {"add_along", 3, {S2(ANY, 3, 4), S2(INDEX, 3, 6), S2(ANY, 3, 6)}, {0}},
    {"add_along", 3, {S3(ANY, 2, 2, 4), S3(INDEX, 2, 2, 0), S3(ANY, 2, 2, 0)}, {0}},
    {"cumsum", 1, {S2(ANY, 3, 4)}, {.n = 1, .a = {-1}}},
    {"cumsum", 1, {S3(ANY, 2, 3, 4)}, {.n = 1, .a = {1}, .flags = 1}},
    {"cumsum", 1, {S2(ANY, 0, 3)}, {.n = 1, .a = {0}}},
    {"recur", 2, {S2(ANY, 3, 5), S2(ANY, 3, 5)}, {0}},
    {"recur", 2, {S2(ANY, 2, 4), S2(ANY, 2, 4)}, {.flags = 1}},
    {"recur", 2, {S1(ANY, 1), S1(ANY, 1)}, {0}},
    {"recur", 2, {S2(ANY, 2, 0), S2(ANY, 2, 0)}, {.flags = 1}},
    {"full", 1, {W(ANY)}, {SHAPED(2, 3), .dtype = PG_F64}},
    {"full", 1, {S0(ANY)}, {SHAPED(2, 3), .dtype = PG_F64}},
    {"cross_entropy", 2, {S2(ANY, 5, 4), S1(INDEX, 5)}, {0}},
    {"cross_entropy", 2, {S3(ANY, 2, 3, 4), S2(INDEX, 2, 3)}, {.flags = 2}},
    {"cross_entropy", 2, {S1(ANY, 4), S0(INDEX)}, {.flags = 1}},
    {"binary_cross_entropy_with_logits", 2, {S2(ANY, 3, 2), S2(UNIT, 3, 2)}, {0}},
    {"binary_cross_entropy_with_logits", 2, {S1(ANY, 4), S1(UNIT, 4)}, {.flags = 2}},
    {"squared_loss", 2, {S2(ANY, 3, 2), S2(ANY, 3, 2)}, {.flags = 1}},
    {"mse", 2, {S1(ANY, 4), S1(ANY, 4)}, {0}},
    {"dropout", 2, {S2(ANY, 4, 5), S1(KEYS, 4)}, {.x = 0.4}},
    {"dropout", 2, {V(ANY), S0(KEYS)}, {.x = 0.4}},
    {"segsum", 1, {V(ANY)}, {0}},
    {"segmax", 1, {V(DISTINCT)}, {0}},
    {"segmin", 1, {V(DISTINCT)}, {0}},
    {"segmean", 1, {V(ANY)}, {0}},
    {"flatten_vector", 1, {V(ANY)}, {0}},
    {"view", 1, {V(ANY)}, {.n = 1, .a = {2}}},
    // stride h, w; padding h, w; dilation h, w; groups
    {"conv2d", 2, {S4(ANY, 2, 1, 4, 5), S4(ANY, 2, 1, 3, 2)}, {SHAPED(1, 1, 0, 0, 1, 1, 1)}},
    {"conv2d", 3, {S4(ANY, 2, 2, 5, 4), S4(ANY, 3, 2, 3, 3), S1(ANY, 3)}, {SHAPED(1, 1, 1, 1, 1, 1, 1)}},
    {"conv2d", 2, {S4(ANY, 1, 2, 7, 6), S4(ANY, 2, 2, 3, 2)}, {SHAPED(2, 3, 1, 0, 1, 1, 1)}},
    {"conv2d", 2, {S4(ANY, 3, 1, 6, 7), S4(ANY, 1, 1, 2, 3)}, {SHAPED(1, 2, 2, 1, 3, 2, 1)}},
    {"conv2d", 3, {S4(ANY, 2, 4, 3, 3), S4(ANY, 6, 2, 2, 2), S1(ANY, 6)}, {SHAPED(1, 1, 0, 1, 1, 1, 2)}},
    {"conv2d", 2, {S4(ANY, 2, 3, 3, 2), S4(ANY, 3, 1, 1, 1)}, {SHAPED(1, 1, 0, 0, 1, 1, 3)}},
    {"conv2d", 2, {S4(ANY, 2, 2, 3, 3), S4(ANY, 2, 2, 3, 3)}, {SHAPED(1, 1, 0, 0, 1, 1, 1)}},
    {"conv2d", 2, {S4(ANY, 0, 2, 3, 3), S4(ANY, 2, 2, 3, 3)}, {SHAPED(1, 1, 1, 1, 1, 1, 1)}},
    // size h, w; stride h, w; padding h, w
    {"max_pool2d", 1, {S4(DISTINCT, 2, 2, 4, 6)}, {SHAPED(2, 2, 2, 2, 0, 0)}},
    {"max_pool2d", 1, {S4(DISTINCT, 3, 1, 5, 5)}, {SHAPED(3, 2, 1, 2, 1, 1)}},
    {"avg_pool2d", 1, {S4(ANY, 2, 2, 4, 6)}, {SHAPED(2, 2, 2, 2, 0, 0)}},
    {"avg_pool2d", 1, {S4(ANY, 3, 2, 5, 5)}, {SHAPED(3, 3, 2, 1, 1, 1)}},
    {"avg_pool2d", 1, {S4(ANY, 3, 2, 5, 5)}, {SHAPED(3, 3, 2, 1, 1, 1), .flags = 1}},
    {"crop_flip", 2, {S4(ANY, 4, 2, 3, 5), S1(KEYS, 4)}, {.a = {2}, .flags = 2}},
    {"crop_flip", 2, {S4(ANY, 5, 1, 4, 3), S1(KEYS, 5)}, {.a = {1}, .flags = 1}},
    {"crop_flip", 2, {S4(ANY, 3, 2, 4, 4), S0(KEYS)}, {.a = {9}, .flags = 3}},
    {"crop_flip", 2, {S4(ANY, 0, 2, 3, 3), S1(KEYS, 0)}, {.a = {1}, .flags = 2}},
    {"channel_mean", 1, {S4(ANY, 3, 2, 2, 3)}, {0}},
    {"channel_mean", 1, {S2(ANY, 4, 3)}, {0}},
    {"channel_var", 1, {S4(ANY, 3, 2, 2, 3)}, {0}},
    {"channel_var", 1, {S3(ANY, 4, 3, 2)}, {0}},
    {"channel_normalize", 4, {S4(ANY, 3, 2, 2, 3), S1(ANY, 2), S1(ANY, 2), S1(ANY, 2)}, {0}},
    {"channel_normalize", 4, {S2(ANY, 4, 3), S1(ANY, 3), S1(ANY, 3), S1(ANY, 3)}, {0}},
};
enum { NCASES = sizeof cases / sizeof cases[0] };

// Cases whose attributes hold a layout, or that are not one call.
static pg_layout *layout;

static uint64_t state = 1;

static double next_uniform(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (double)(state >> 11) * 0x1p-53;
}

static double draw(values v, int64_t i, int64_t size) {
  const double u = next_uniform();
  switch (v) {
  case ANY:
    return 4 * u - 2;
  case POSITIVE:
    return 0.4 + 2 * u;
  case AWAY:
    return u < 0.5 ? -(0.4 + 4 * u) : 0.4 + 4 * (u - 0.5);
  case UNIT:
    return 0.05 + 0.9 * u;
  case GRID:
    return 0.2 * floor(20 * u - 10);
  case BETWEEN:
    return 0.2 * floor(20 * u - 10) + 0.1;
  case DOMINANT: {
    const int64_t n = (int64_t)(sqrt((double)size) + 0.5);
    return i % (n + 1) == 0 ? 2 * (double)n + u : 4 * u - 2;
  }
  case DISTINCT:
    return 0.17 * (double)((i * 7 + 3) % (size % 7 ? size : size + 1)) - 1 + 0.01 * u;
  default:
    return floor(4 * u);
  }
}

static bool is_variable(const operand *o) {
  return o->values < INDEX;
}

// ---- running a case ------------------------------------------------------------------------------------------------

enum { MOST = 4, TENSORS = 3 * MOST + 1, OUTPUTS = 4 + 2 * MOST };

typedef struct bench {
  pg_graph *g;
  pg_plan *plan;
  int n; // operands
  const operand *in;
  pg_value x[MOST], u[MOST];
  int input_of[MOST], scalar_of[MOST], direction_of[MOST]; // places among the arguments, or -1
  pg_value y, outs[OUTPUTS];
  pg_tensor *tensors[TENSORS];
  values values_of[TENSORS];
  int ntensors;
  double scalars[MOST];
  int nscalars;
  int nvar, var[MOST]; // operands that are variables
  pg_tensor *outputs[OUTPUTS];
  int nout;
} bench;

static void bench_close(bench *b) {
  pg_plan_free(b->plan);
  pg_graph_free(b->g);
  for (int i = 0; i < b->ntensors; i++) pg_tensor_release(b->tensors[i]);
  for (int i = 0; i < b->nout; i++) pg_tensor_release(b->outputs[i]);
}

// Elements of a tensor without pads: position of element i.
static int64_t place(const pg_tensor *t, int64_t i) {
  const pg_layout *l = pg_tensor_layout(t);
  for (int s = 0; l && s < pg_layout_count(l); s++) {
    const pg_segment *segment = pg_layout_segment(l, s);
    if (i >= segment->logical && i < segment->logical + segment->size) return segment->offset + i - segment->logical;
  }
  return i;
}

static int64_t logical_size(const pg_tensor *t) {
  return pg_tensor_layout(t) ? pg_layout_size(pg_tensor_layout(t)) : pg_tensor_size(t);
}

static void fill(pg_tensor *t, values v) {
  const int64_t size = logical_size(t);
  const int64_t each = v == DOMINANT && pg_tensor_ndim(t) == 3 ? size / pg_tensor_shape(t)[0] : size; // a matrix
  for (int64_t i = 0; i < size; i++) {
    const int64_t at = place(t, i);
    const double x = draw(v, i % each, each);
    switch (pg_tensor_dtype(t)) {
    case PG_F64:
      ((double *)pg_tensor_data(t))[at] = x;
      break;
    case PG_I64:
      ((int64_t *)pg_tensor_data(t))[at] = (int64_t)x;
      break;
    case PG_BOOL:
      ((bool *)pg_tensor_data(t))[at] = x >= 2;
      break;
    case PG_KEY:
      ((pg_key *)pg_tensor_data(t))[at] = pg_key_seed((uint64_t)(1e6 * next_uniform()));
      break;
    default:
      break;
    }
  }
}

static pg_value add_input(bench *b, const pg_layout *l, pg_dtype dtype, int ndim, const int64_t *shape, values v) {
  pg_tensor *t;
  CHECK_STATUS(pg_tensor_new(dtype, ndim, shape, l, &t), PG_OK);
  fill(t, v);
  b->values_of[b->ntensors] = v;
  b->tensors[b->ntensors++] = t;
  return pg_input(b->g, dtype, ndim, shape, l);
}

static void add_operand(bench *b, int k) {
  const operand *o = &b->in[k];
  const pg_dtype dtype = o->values == INDEX  ? PG_I64
                         : o->values == MASK ? PG_BOOL
                         : o->values == KEYS ? PG_KEY
                                             : PG_F64;
  b->input_of[k] = b->scalar_of[k] = -1;
  if (is_variable(o)) b->var[b->nvar++] = k;
  if (o->ndim == NUMBER) {
    b->scalar_of[k] = b->nscalars;
    b->scalars[b->nscalars++] = draw(o->values, 0, 1);
    b->x[k] = pg_scalar(b->g);
    return;
  }
  b->input_of[k] = b->ntensors;
  b->x[k] =
      add_input(b, o->ndim == VECTOR ? layout : NULL, dtype, o->ndim == VECTOR ? 1 : o->ndim, o->shape, o->values);
}

static pg_value inner(pg_graph *g, pg_value a, pg_value b) {
  return pg_call2(g, "dot", a, b);
}

static pg_value sum_of(pg_graph *g, int n, const pg_value *terms) {
  pg_value sum = n ? terms[0] : pg_number(g, 0);
  for (int i = 1; i < n; i++) sum = pg_call2(g, "add", sum, terms[i]);
  return sum;
}

static pg_value as_tensor(pg_graph *g, pg_value v) {
  pg_attrs f64 = {.dtype = PG_F64};
  return v != PG_NONE && pg_value_is_weak(g, v) ? pg_call(g, "full", 1, &v, &f64) : v;
}

// Compile `nout` values of the case and make tensors for them.
static void compile_outputs(bench *b, int nout) {
  pg_graph *g = b->g;
  b->nout = 0;
  for (int k = 0; k < nout; k++) {
    pg_value v = b->outs[k] = as_tensor(g, b->outs[k]);
    CHECK_THAT(v != PG_NONE, "output %d: %s", k, pg_last_error());
    CHECK_STATUS(pg_tensor_new(pg_value_dtype(g, v), pg_value_ndim(g, v), pg_value_shape(g, v), pg_value_layout(g, v),
                               &b->outputs[k]),
                 PG_OK);
    b->nout++;
  }
  pg_compile_options options = {.executor = PG_EXEC_INTERPRET};
  CHECK_STATUS(pg_compile(g, nout, b->outs, &options, &b->plan), PG_OK);
}

// Outputs: <c, y>, <u, gradient>, <c, jvp(u)>, <u, H u> forward over reverse, then gradients and second gradients.
static void add_derivatives(bench *b) {
  pg_graph *g = b->g;
  pg_value vars[MOST], directions[MOST], gradient[MOST], second[MOST], terms[MOST], *outs = b->outs;
  const pg_layout *l = pg_value_layout(g, b->y);
  CHECK_THAT(b->y != PG_NONE, "%s", pg_last_error());
  CHECK(pg_value_is_weak(g, b->y) || pg_value_dtype(g, b->y) == PG_F64);
  pg_value ct = add_input(b, l, PG_F64, pg_value_ndim(g, b->y), pg_value_shape(g, b->y), ANY);
  for (int i = 0; i < b->nvar; i++) {
    const pg_value x = vars[i] = b->x[b->var[i]];
    b->direction_of[i] = b->ntensors;
    directions[i] = add_input(b, pg_value_layout(g, x), PG_F64, pg_value_ndim(g, x), pg_value_shape(g, x), ANY);
  }
  CHECK_STATUS(pg_vjp(g, 1, &b->y, &ct, b->nvar, vars, gradient), PG_OK);
  for (int i = 0; i < b->nvar; i++) terms[i] = inner(g, directions[i], gradient[i]);
  outs[0] = inner(g, ct, b->y);
  outs[1] = sum_of(g, b->nvar, terms);
  CHECK_THAT(outs[1] != PG_NONE, "%s", pg_last_error());
  CHECK_STATUS(pg_vjp(g, 1, &outs[1], NULL, b->nvar, vars, second), PG_OK);
  pg_value tangent;
  CHECK_STATUS(pg_jvp(g, b->nvar, vars, directions, 1, &b->y, &tangent), PG_OK);
  outs[2] = inner(g, ct, tangent);
  CHECK_STATUS(pg_jvp(g, b->nvar, vars, directions, 1, &outs[1], &outs[3]), PG_OK);
  int nout = 4;
  for (int i = 0; i < b->nvar; i++) outs[nout++] = gradient[i];
  for (int i = 0; i < b->nvar; i++) outs[nout++] = second[i];
  compile_outputs(b, nout);
}

// A new case: its operands, with random numbers of the given seed.
static void open_bench(bench *b, uint64_t seed, int n, const operand *in) {
  memset(b, 0, sizeof *b);
  state = seed;
  b->n = n;
  b->in = in;
  CHECK_STATUS(pg_graph_new(&b->g), PG_OK);
  for (int k = 0; k < n; k++) add_operand(b, k);
}

static void run(bench *b) {
  CHECK_STATUS(pg_run(b->plan, b->tensors, b->scalars, b->outputs), PG_OK);
}

// "sum(3x4)", behind `what`.
static const char *describe(const char *what, const char *function, int operands, const operand *in, char *text,
                            size_t size) {
  size_t n = (size_t)snprintf(text, size, "%s%s(", what, function);
  for (int k = 0; k < operands; k++) {
    const operand *o = &in[k];
    if (k) n += (size_t)snprintf(text + n, size - n, ", ");
    if (o->ndim < 0) n += (size_t)snprintf(text + n, size - n, o->ndim == NUMBER ? "number" : "vector");
    for (int d = 0; d < o->ndim; d++) n += (size_t)snprintf(text + n, size - n, "%s%d", d ? "x" : "", (int)o->shape[d]);
    if (o->ndim == 0) n += (size_t)snprintf(text + n, size - n, "0-d");
  }
  snprintf(text + n, size - n, ")");
  return text;
}

static pg_status make_layout(void) {
  const char *names[] = {"a", "b", "c", "d"};
  const int ndims[] = {2, 1, 2, 0};
  const int64_t shapes[][PG_MAX_NDIM] = {{2, 3}, {5}, {1, 4}, {0}};
  return pg_layout_new(4, names, ndims, shapes, &layout);
}

#endif
