// test_bits.c: every operation and every function, with its derivative, in f32 and f64: eager (node by node),
// interpreted and generated code give the same bits, on 1, 2 and 3 threads, at sizes on both sides of tiles and blocks.
#include <math.h>
#include <stdio.h>

#include "tests/c/replay.h"

enum { SIZES = 3 };
static const int64_t sizes[SIZES][2] = {{3, 5}, {9, 520}, {2, 4111}};
static uint64_t state = 20261122;

static double uniform(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (double)(state >> 11) * 0x1p-53;
}

typedef struct pool { // one graph with inputs to apply functions to
  pg_graph *g;
  pg_tensor *inputs[64];
  pg_value x, y, p, vector, labels, square, rows, key, per, scalar, matrix;
  pg_value images, kernels, inner, inner_out, windows; // for convolutions and pooling, in both layouts
  pg_layout *layout;
  pg_value outs[256];
  int donate[256], nout;
} pool;

static pg_value add_input(pool *s, pg_dtype dtype, int ndim, const int64_t *shape, const pg_layout *layout, double low,
                          double high) {
  pg_tensor *t = NULL;
  CHECK_STATUS(pg_tensor_new(dtype, ndim, shape, layout, &t), PG_OK);
  const int pieces = layout ? pg_layout_count(layout) : 1;
  for (int k = 0; k < pieces; k++) {
    const int64_t from = layout ? pg_layout_segment(layout, k)->offset : 0;
    const int64_t n = layout ? pg_layout_segment(layout, k)->size : pg_tensor_size(t);
    for (int64_t i = from; i < from + n; i++) {
      const double u = low + (high - low) * uniform();
      if (dtype == PG_F32) ((float *)pg_tensor_data(t))[i] = (float)u;
      if (dtype == PG_F64) ((double *)pg_tensor_data(t))[i] = u;
      if (dtype == PG_I64) ((int64_t *)pg_tensor_data(t))[i] = (int64_t)floor(u);
      if (dtype == PG_KEY) ((pg_key *)pg_tensor_data(t))[i] = pg_key_seed((uint64_t)(u * 1e6));
    }
  }
  s->inputs[s->g->ninputs] = t;
  return pg_input(s->g, dtype, ndim, shape, layout);
}

// A positive definite matrix.
static pg_value add_matrix(pool *s, pg_dtype dtype) {
  enum { N = 7 };
  const int number = s->g->ninputs;
  const pg_value matrix = add_input(s, dtype, 2, (int64_t[]){N, N}, NULL, 0, 0);
  void *data = pg_tensor_data(s->inputs[number]);
  for (int i = 0; i < N; i++)
    for (int j = 0; j <= i; j++) {
      const double u = i == j ? N : uniform();
      for (int side = 0; side < 2; side++) {
        const int at = side ? i * N + j : j * N + i;
        if (dtype == PG_F32) ((float *)data)[at] = (float)u;
        if (dtype == PG_F64) ((double *)data)[at] = u;
      }
    }
  return matrix;
}

static void open_pool(pool *s, pg_dtype dtype, const int64_t *size) {
  memset(s, 0, sizeof *s);
  CHECK_STATUS(pg_graph_new(&s->g), PG_OK);
  const char *names[] = {"a", "b", "c"};
  const int ndims[] = {2, 1, 0};
  const int64_t shapes[3][PG_MAX_NDIM] = {{size[0], size[1]}, {7}, {0}};
  CHECK_STATUS(pg_layout_new(3, names, ndims, shapes, &s->layout), PG_OK);
  s->x = add_input(s, dtype, 2, size, NULL, -2, 2);
  s->y = add_input(s, dtype, 2, size, NULL, -2, 2);
  s->p = add_input(s, dtype, 2, size, NULL, 0.05, 0.95);
  s->vector = add_input(s, dtype, 0, NULL, s->layout, -2, 2);
  s->labels = add_input(s, PG_I64, 1, size, NULL, 0, (double)size[1]);
  s->square = add_input(s, dtype, 2, (int64_t[]){size[1], 17}, NULL, -1, 1);
  s->rows = add_input(s, PG_I64, 1, (int64_t[]){11}, NULL, 0, (double)size[0]);
  s->key = add_input(s, PG_KEY, 1, size, NULL, 1, 9);
  s->per = add_input(s, dtype, 1, (int64_t[]){3}, NULL, -1, 1);
  s->matrix = add_matrix(s, dtype);
  s->scalar = pg_scalar(s->g);
  const int64_t batch = size[1] > 64 ? 70 : size[1];
  s->images = add_input(s, dtype, 4, (int64_t[]){batch, 3, 6, 5}, NULL, -2, 2);
  s->kernels = add_input(s, dtype, 4, (int64_t[]){4, 3, 3, 2}, NULL, -1, 1);
  s->inner = add_input(s, dtype, 4, (int64_t[]){3, 6, 5, batch}, NULL, -2, 2);
  s->inner_out = add_input(s, dtype, 4, (int64_t[]){4, 6, 6, batch}, NULL, -2, 2);
  s->windows = add_input(s, dtype, 4, (int64_t[]){3, 6, 6, batch}, NULL, -2, 2);
}

static void close_pool(pool *s) {
  for (int i = 0; i < s->g->ninputs; i++) pg_tensor_release(s->inputs[i]);
  pg_graph_free(s->g);
  pg_layout_release(s->layout);
}

static void want(pool *s, pg_value v) {
  if (pg_at(s->g, v)->weak || pg_at(s->g, v)->dtype == PG_KEY || s->nout >= 256) return;
  s->donate[s->nout] = -1;
  s->outs[s->nout++] = v;
}

// The function's value and, where it has them, its derivatives; the cotangent is the value itself.
static bool apply(pool *s, const char *name, int n, const pg_value *in, const pg_attrs *attrs) {
  pg_value y = pg_call(s->g, name, n, in, attrs), wrt[4], grads[4];
  if (y == PG_NONE) return false;
  want(s, y);
  int nw = 0;
  for (int i = 0; i < n; i++)
    if (!pg_at(s->g, in[i])->weak && pg_dtype_is_float((pg_dtype)pg_at(s->g, in[i])->dtype)) wrt[nw++] = in[i];
  if (!nw || pg_at(s->g, y)->weak || !pg_dtype_is_float((pg_dtype)pg_at(s->g, y)->dtype)) return true;
  if (pg_vjp(s->g, 1, &y, &y, nw, wrt, grads) != PG_OK) return true;
  for (int i = 0; i < nw; i++) want(s, grads[i]);
  return true;
}

// Operands to try a function of this arity with, until one set fits.
static bool apply_somehow(pool *s, const pg_function *f) {
  const int64_t *size = pg_value_shape(s->g, s->x);
  const pg_attrs flat = {.n = 1, .a = {size[0] * size[1]}}, more = {.n = 3, .a = {2, size[0], size[1]}};
  const pg_attrs none = {0}, axis = {.n = 1, .a = {1}}, shape = {.n = 2, .a = {6, 7}, .dtype = PG_F32, .x = 0.3};
  const pg_attrs slice = {.n = 2, .a = {1, 1}, .b = {2, 3}, .c = {1, 1}}, rate = {.x = 0.3, .n = 2, .a = {6, 7}};
  const pg_attrs layout = {.layout = s->layout, .dtype = PG_F32}, run = {.n = 2, .a = {0, 1}, .flags = 1};
  const pg_attrs wide = {.n = 2, .a = {1, 2}, .b = {8, 9000}, .c = {1, 2}}, flip = {.n = 2, .a = {1, 0}};
  const pg_attrs window = {.n = 7, .a = {1, 1, 1, 1, 1, 1, 1}, .b = {6, 5, 3, 2}};
  const pg_attrs pooling = {.n = 6, .a = {3, 2, 2, 1, 1, 0}};
  const pg_attrs *attrs[] = {&none, &axis, &shape, &slice, &rate,    &layout, &run,
                             &wide, &flip, &flat,  &more,  &pooling, &window};
  const pg_value logits = s->p, x = s->x, y = s->y;
  const pg_value sets[][4] = {{x, y, s->scalar, y},
                              {s->p, y, x, x},
                              {logits, s->labels, x, y},
                              {x, s->square, x, x},
                              {x, s->rows, x, x},
                              {s->vector, s->vector, x, x},
                              {s->key, s->labels, x, x},
                              {x, s->key, x, x},
                              {pg_op2(s->g, PG_OP_LT, x, y), x, y, x},
                              {s->labels, s->labels, x, x},
                              {pg_op2(s->g, PG_OP_LT, x, y), pg_op2(s->g, PG_OP_GT, x, s->p), x, x},
                              {s->scalar, s->scalar, s->scalar, x},
                              {s->per, s->per, x, x},
                              {s->images, s->kernels, x, x},
                              {s->images, s->per, s->per, s->per},
                              {s->inner, s->kernels, x, x},
                              {s->inner_out, s->kernels, x, x},
                              {s->inner, s->inner_out, x, x},
                              {s->inner, s->windows, x, x},
                              {s->inner, s->inner, x, x},
                              {s->windows, x, x, x},
                              {s->matrix, s->matrix, x, x}};
  const int low = f->min_arity, high = f->max_arity < 0 || f->max_arity > 4 ? (low > 2 ? low : 2) : f->max_arity;
  for (int n = high; n >= low; n--)
    for (size_t k = 0; k < sizeof sets / sizeof *sets; k++)
      for (size_t a = 0; a < sizeof attrs / sizeof *attrs; a++)
        if (apply(s, f->name, n, sets[k], attrs[a])) return true;
  return false;
}

static pg_dtype dtype;
static int size_index;

static void all_functions(void) {
  int applied = 0, skipped = 0, bad = 0;
  static pool s;
  for (int i = 0; pg_function_at(i);) {
    open_pool(&s, dtype, sizes[size_index]);
    const int first = i;
    for (; pg_function_at(i) && i < first + 12; i++) {
      const bool ok = apply_somehow(&s, pg_function_at(i));
      applied += ok;
      skipped += !ok;
      if (!ok) printf("# no operands tried fit %s\n", pg_function_at(i)->name);
    }
    char name[100];
    snprintf(name, sizeof name, "functions %d to %d", first, i - 1);
    bad += !same_bits_everywhere(s.g, s.inputs, (double[]){0.7}, s.nout, s.outs, s.donate, name);
    close_pool(&s);
  }
  CHECK_THAT(bad == 0, "%d of the plans", bad);
  CHECK_THAT(applied > 90 && skipped < 15, "%d functions applied, %d not", applied, skipped);
}

int main(void) {
  for (int d = 0; d < 2; d++)
    for (size_index = 0; size_index < SIZES; size_index++) {
      char name[160];
      dtype = d ? PG_F64 : PG_F32;
      snprintf(name, sizeof name, "eager, interpreted and generated code agree on every function, %s %dx%d",
               pg_dtype_name(dtype), (int)sizes[size_index][0], (int)sizes[size_index][1]);
      check_run(name, all_functions);
    }
  return check_result();
}
