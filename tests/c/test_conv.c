// test_conv.c: convolutions and pooling against loops written out, at batches on both sides of vectors and tiles: the
// bits of the order of operations that conv_kernel.h states in f32, an oracle's numbers in f64, the same bits for 1, 2
// and 3 threads; and that layouts stay private: a network's activations are not copied between its layers.
#include "tests/c/check.h"

#include <stdlib.h>
#include <string.h>

static uint64_t state = 20261125; // the seed of all inputs

static double next(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (double)(int64_t)state * 0x1p-63;
}

typedef struct geometry {
  int64_t c, h, w, o, kh, kw, sh, sw, ph, pw, dh, dw, groups;
} geometry;

static int64_t extent(int64_t in, int64_t k, int64_t s, int64_t p, int64_t d) {
  return (in + 2 * p - d * (k - 1) - 1) / s + 1;
}

typedef struct bench {
  pg_graph *g;
  pg_plan *plan;
  pg_dtype dtype;
  pg_tensor *in[3], *out[3], *again[3]; // x, w, ct → y, dx, dw
  int64_t n, oh, ow;
} bench;

static bench the_bench;

static void bench_close(bench *b) {
  pg_plan_free(b->plan);
  pg_graph_free(b->g);
  for (int i = 0; i < 3; i++) pg_tensor_release(b->in[i]), pg_tensor_release(b->out[i]), pg_tensor_release(b->again[i]);
  *b = (bench){0};
}

static double get(const pg_tensor *t, int64_t i) {
  return pg_tensor_dtype(t) == PG_F32 ? (double)((float *)pg_tensor_data(t))[i] : ((double *)pg_tensor_data(t))[i];
}

static pg_value add_input(bench *b, int i, const int64_t *shape) {
  CHECK_STATUS(pg_tensor_new(b->dtype, 4, shape, NULL, &b->in[i]), PG_OK);
  for (int64_t e = 0; e < pg_tensor_size(b->in[i]); e++) {
    const double x = next();
    if (b->dtype == PG_F32)
      ((float *)pg_tensor_data(b->in[i]))[e] = (float)x;
    else
      ((double *)pg_tensor_data(b->in[i]))[e] = x;
  }
  return pg_input(b->g, b->dtype, 4, shape, NULL);
}

static void build(bench *b, const geometry *q, int64_t n, pg_dtype dtype) {
  *b = (bench){.dtype = dtype, .n = n};
  b->oh = extent(q->h, q->kh, q->sh, q->ph, q->dh), b->ow = extent(q->w, q->kw, q->sw, q->pw, q->dw);
  CHECK_STATUS(pg_graph_new(&b->g), PG_OK);
  const pg_value in[2] = {add_input(b, 0, (int64_t[]){n, q->c, q->h, q->w}),
                          add_input(b, 1, (int64_t[]){q->o, q->c / q->groups, q->kh, q->kw})};
  const pg_value ct = add_input(b, 2, (int64_t[]){n, q->o, b->oh, b->ow});
  const pg_attrs attrs = {.n = 7, .a = {q->sh, q->sw, q->ph, q->pw, q->dh, q->dw, q->groups}};
  pg_value outs[3] = {pg_call(b->g, "conv2d", 2, in, &attrs)};
  CHECK_THAT(outs[0] != PG_NONE, "%s", pg_last_error());
  CHECK_STATUS(pg_vjp(b->g, 1, outs, &ct, 2, in, outs + 1), PG_OK);
  for (int i = 0; i < 3; i++) {
    CHECK_STATUS(pg_tensor_new(dtype, 4, pg_value_shape(b->g, outs[i]), NULL, &b->out[i]), PG_OK);
    CHECK_STATUS(pg_tensor_new(dtype, 4, pg_value_shape(b->g, outs[i]), NULL, &b->again[i]), PG_OK);
  }
  CHECK_STATUS(pg_compile(b->g, 3, outs, &(pg_compile_options){.executor = PG_EXEC_INTERPRET}, &b->plan), PG_OK);
}

// ---- the order of operations, written out --------------------------------------------------------------------------

// Everything in one place: element indices of x, w and y for (n, o, c in its group, tap, place), or false in padding.
typedef struct place {
  int64_t n, o, c, a, b, p, q;
} place;

static bool locate(const bench *t, const geometry *g, place at, int64_t *x, int64_t *w, int64_t *y) {
  const int64_t cg = g->c / g->groups, group = at.o / (g->o / g->groups);
  const int64_t i = at.p * g->sh - g->ph + at.a * g->dh, j = at.q * g->sw - g->pw + at.b * g->dw;
  *w = ((at.o * cg + at.c) * g->kh + at.a) * g->kw + at.b;
  *y = ((at.n * g->o + at.o) * t->oh + at.p) * t->ow + at.q;
  *x = ((at.n * g->c + group * cg + at.c) * g->h + i) * g->w + j;
  return i >= 0 && j >= 0 && i < g->h && j < g->w;
}

static float f32(const pg_tensor *t, int64_t i) {
  return ((const float *)pg_tensor_data(t))[i];
}

static float expected_output(const bench *t, const geometry *g, place at) {
  float sum = 0;
  int64_t x, w, y;
  for (at.c = 0; at.c < g->c / g->groups; at.c++)
    for (at.a = 0; at.a < g->kh; at.a++)
      for (at.b = 0; at.b < g->kw; at.b++)
        if (locate(t, g, at, &x, &w, &y)) sum = fmaf(f32(t->in[1], w), f32(t->in[0], x), sum);
  return sum;
}

// Of element (n, channel, i, j) of the input.
static float expected_input(const bench *t, const geometry *g, int64_t n, int64_t channel, int64_t i, int64_t j) {
  const int64_t cg = g->c / g->groups, og = g->o / g->groups, group = channel / cg;
  float sum = 0;
  int64_t x, w, y;
  for (int64_t o = group * og; o < (group + 1) * og; o++)
    for (int64_t a = 0; a < g->kh; a++)
      for (int64_t b = 0; b < g->kw; b++) {
        const int64_t p = i + g->ph - a * g->dh, q = j + g->pw - b * g->dw;
        if (p < 0 || q < 0 || p % g->sh || q % g->sw || p / g->sh >= t->oh || q / g->sw >= t->ow) continue;
        CHECK(locate(t, g, (place){n, o, channel % cg, a, b, p / g->sh, q / g->sw}, &x, &w, &y));
        sum = fmaf(f32(t->in[1], w), f32(t->in[2], y), sum);
      }
  return sum;
}

static float expected_weight(const bench *t, const geometry *g, int64_t o, int64_t c, int64_t a, int64_t b) {
  const int64_t row = t->ow * ((t->n + 15) / 16), rows = row >= 1024 || row == 0 ? 1 : 1024 / row;
  float total = 0;
  int64_t x, w, y;
  for (int64_t p0 = 0; p0 < t->oh; p0 += rows) {
    float chain[16] = {0};
    for (int64_t p = p0; p < p0 + rows && p < t->oh; p++)
      for (int64_t q = 0; q < t->ow; q++)
        for (int64_t n = 0; n < t->n; n++)
          if (locate(t, g, (place){n, o, c, a, b, p, q}, &x, &w, &y))
            chain[n % 16] = fmaf(f32(t->in[2], y), f32(t->in[0], x), chain[n % 16]);
    for (int s = 8; s > 0; s /= 2)
      for (int l = 0; l < s; l++) chain[l] += chain[l + s];
    total = p0 ? total + chain[0] : chain[0];
  }
  return total;
}

static void compare_bits(const bench *t, const geometry *g) {
  int64_t e = 0;
  for (int64_t n = 0; n < t->n; n++)
    for (int64_t o = 0; o < g->o; o++)
      for (int64_t p = 0; p < t->oh; p++)
        for (int64_t q = 0; q < t->ow; q++, e++) {
          const float want = expected_output(t, g, (place){n, o, 0, 0, 0, p, q});
          CHECK_THAT(f32(t->out[0], e) == want, "output %d: %a, expected %a", (int)e, f32(t->out[0], e), want);
        }
  e = 0;
  for (int64_t n = 0; n < t->n; n++)
    for (int64_t c = 0; c < g->c; c++)
      for (int64_t i = 0; i < g->h; i++)
        for (int64_t j = 0; j < g->w; j++, e++) {
          const float want = expected_input(t, g, n, c, i, j);
          CHECK_THAT(f32(t->out[1], e) == want, "input %d: %a, expected %a", (int)e, f32(t->out[1], e), want);
        }
  e = 0;
  for (int64_t o = 0; o < g->o; o++)
    for (int64_t c = 0; c < g->c / g->groups; c++)
      for (int64_t a = 0; a < g->kh; a++)
        for (int64_t b = 0; b < g->kw; b++, e++) {
          const float want = expected_weight(t, g, o, c, a, b);
          CHECK_THAT(f32(t->out[2], e) == want, "weight %d: %a, expected %a", (int)e, f32(t->out[2], e), want);
        }
}

// ---- cases ---------------------------------------------------------------------------------------------------------

static const geometry geometries[] = {
    {1, 9, 8, 6, 5, 5, 1, 1, 2, 2, 1, 1, 1},   // LeNet's first layer, smaller
    {6, 7, 6, 16, 5, 5, 1, 1, 0, 0, 1, 1, 1},  // and its second
    {3, 8, 5, 4, 3, 2, 2, 3, 1, 1, 1, 1, 1},   // strides that leave a rest
    {2, 9, 9, 3, 3, 3, 1, 2, 2, 3, 3, 2, 1},   // dilation, more padding than a tap reaches
    {6, 4, 4, 4, 3, 3, 1, 1, 1, 1, 1, 1, 2},   // groups
    {5, 4, 5, 5, 3, 3, 2, 1, 1, 1, 1, 1, 5},   // each channel by itself
    {3, 5, 11, 3, 5, 5, 1, 1, 2, 2, 1, 1, 3},  // the same, wider
    {2, 4, 7, 2, 3, 3, 1, 1, 2, 4, 1, 1, 2},   // padded beyond the window
    {2, 8, 5, 2, 7, 7, 2, 1, 3, 3, 1, 1, 2},   // windows wider than the image
    {3, 4, 9, 1, 2, 3, 1, 1, 0, 0, 2, 1, 1},   // one channel of three
    {17, 3, 3, 15, 1, 1, 1, 1, 0, 0, 1, 1, 1}, // pointwise
    {2, 3, 4, 29, 3, 4, 1, 1, 0, 0, 1, 1, 1},  // a window as large as the input
    {1, 2, 2, 1, 4, 4, 1, 1, 3, 3, 1, 1, 1},   // and a larger one
    {3, 40, 33, 2, 3, 3, 1, 1, 1, 1, 1, 1, 1}, // several chunks of rows
};

static void run(bench *b, int threads, pg_tensor **out) {
  pg_set_threads(threads);
  for (int i = 0; i < 3; i++) memset(pg_tensor_data(out[i]), 0xff, pg_tensor_bytes(out[i]));
  CHECK_STATUS(pg_run(b->plan, b->in, NULL, out), PG_OK);
}

static void bits_are_those_of_the_stated_order(void) {
  static const int64_t batches[] = {1, 7, 16, 33, 64, 70};
  for (size_t k = 0; k < sizeof geometries / sizeof *geometries; k++)
    for (size_t n = 0; n < sizeof batches / sizeof *batches; n++) {
      if (k == 13 && n % 3 == 0) continue; // the largest: not every batch
      bench *b = &the_bench;
      build(b, &geometries[k], batches[n], PG_F32);
      run(b, 1, b->out);
      for (int threads = 2; threads <= 3; threads++) {
        run(b, threads, b->again);
        for (int i = 0; i < 3; i++)
          CHECK_THAT(memcmp(pg_tensor_data(b->out[i]), pg_tensor_data(b->again[i]), pg_tensor_bytes(b->out[i])) == 0,
                     "geometry %d, batch %d, result %d: other bits on %d threads", (int)k, (int)batches[n], i, threads);
      }
      compare_bits(b, &geometries[k]);
      bench_close(b);
    }
}

// In f64 against the same sums in long double.
static void f64_is_as_exact_as_f64_can_be(void) {
  for (size_t k = 0; k < sizeof geometries / sizeof *geometries; k++) {
    bench *b = &the_bench;
    const geometry *g = &geometries[k];
    build(b, g, 19, PG_F64);
    run(b, 2, b->out);
    const int64_t sizes[3] = {pg_tensor_size(b->out[0]), pg_tensor_size(b->out[1]), pg_tensor_size(b->out[2])};
    long double *sums[3];
    for (int i = 0; i < 3; i++) sums[i] = calloc((size_t)sizes[i], sizeof **sums);
    place at = {0};
    int64_t x, w, y;
    for (at.n = 0; at.n < b->n; at.n++)
      for (at.o = 0; at.o < g->o; at.o++)
        for (at.c = 0; at.c < g->c / g->groups; at.c++)
          for (at.a = 0; at.a < g->kh; at.a++)
            for (at.b = 0; at.b < g->kw; at.b++)
              for (at.p = 0; at.p < b->oh; at.p++)
                for (at.q = 0; at.q < b->ow; at.q++) {
                  if (!locate(b, g, at, &x, &w, &y)) continue;
                  sums[0][y] += (long double)get(b->in[0], x) * (long double)get(b->in[1], w);
                  sums[1][x] += (long double)get(b->in[2], y) * (long double)get(b->in[1], w);
                  sums[2][w] += (long double)get(b->in[2], y) * (long double)get(b->in[0], x);
                }
    double worst = 0;
    for (int i = 0; i < 3; i++) {
      for (int64_t e = 0; e < sizes[i]; e++) worst = fmax(worst, fabs(get(b->out[i], e) - (double)sums[i][e]));
      free(sums[i]);
    }
    CHECK_THAT(worst < 1e-12, "geometry %d: off by %.3g", (int)k, worst);
    bench_close(b);
  }
}

// ---- pooling -------------------------------------------------------------------------------------------------------

static void check_pooling(int64_t n, int64_t size, int64_t stride, int64_t pad) {
  bench *b = &the_bench;
  *b = (bench){.dtype = PG_F32, .n = n};
  CHECK_STATUS(pg_graph_new(&b->g), PG_OK);
  const int64_t c = 3, h = 7, w = 6, oh = extent(h, size, stride, pad, 1), ow = extent(w, size, stride, pad, 1);
  pg_value x = add_input(b, 0, (int64_t[]){n, c, h, w}), ct = add_input(b, 2, (int64_t[]){n, c, oh, ow}), outs[3];
  CHECK_STATUS(pg_tensor_new(PG_F32, 0, NULL, NULL, &b->in[1]), PG_OK);
  float *values = pg_tensor_data(b->in[0]);
  for (int64_t e = 0; e < n * c * h * w; e++) values[e] = roundf(values[e] * 3); // many ties
  values[5] = NAN;
  const pg_attrs attrs = {.n = 6, .a = {size, size, stride, stride, pad, pad}};
  outs[0] = pg_call(b->g, "max_pool2d", 1, &x, &attrs);
  outs[1] = pg_call(b->g, "avg_pool2d", 1, &x, &attrs);
  CHECK_STATUS(pg_vjp(b->g, 1, outs, &ct, 1, &x, &outs[2]), PG_OK);
  for (int i = 0; i < 3; i++)
    CHECK_STATUS(pg_tensor_new(PG_F32, 4, pg_value_shape(b->g, outs[i]), NULL, &b->out[i]), PG_OK);
  CHECK_STATUS(pg_compile(b->g, 3, outs, &(pg_compile_options){.executor = PG_EXEC_INTERPRET}, &b->plan), PG_OK);
  CHECK_STATUS(pg_run(b->plan, (pg_tensor *[]){b->in[0], b->in[2]}, NULL, b->out), PG_OK);
  float *routed = calloc((size_t)(n * c * h * w), sizeof *routed);
  for (int64_t e = 0; e < n * c * oh * ow; e++) {
    const int64_t q = e % ow, p = e / ow % oh, image = e / ow / oh * h * w;
    int64_t best = -1;
    float sum = 0;
    for (int64_t i = p * stride - pad; i < p * stride - pad + size; i++)
      for (int64_t j = q * stride - pad; j < q * stride - pad + size; j++) {
        if (i < 0 || j < 0 || i >= h || j >= w) continue;
        const float v = values[image + i * w + j];
        sum += v;
        if (best < 0 || v > values[best] || (isnan(v) && !isnan(values[best]))) best = image + i * w + j;
      }
    const float mean = sum / (float)(size * size), got = f32(b->out[1], e);
    CHECK_THAT(f32(b->out[0], e) == values[best] || isnan(values[best]), "max %d", (int)e);
    CHECK_THAT(isnan(values[best]) == (bool)isnan(f32(b->out[0], e)), "NaN %d", (int)e);
    CHECK_THAT(got == mean || (isnan(got) && isnan(mean)), "mean %d: %g, expected %g", (int)e, got, mean);
    routed[best] += f32(b->in[2], e);
  }
  CHECK(memcmp(routed, pg_tensor_data(b->out[2]), pg_tensor_bytes(b->out[2])) == 0);
  free(routed);
  bench_close(b);
}

static void pooling_agrees_with_loops(void) {
  static const int64_t batches[] = {1, 5, 64, 71};
  for (size_t n = 0; n < sizeof batches / sizeof *batches; n++) {
    check_pooling(batches[n], 2, 2, 0);
    check_pooling(batches[n], 3, 2, 1);
    check_pooling(batches[n], 3, 1, 1);
    check_pooling(batches[n], 2, 3, 0);
    check_pooling(batches[n], 6, 1, 0);
  }
}

// ---- layouts -------------------------------------------------------------------------------------------------------

// conv → tanh → pool → conv → relu → flatten → matmul and its gradients: nothing is copied but the images.
static void activations_stay_where_they_are(void) {
  pg_graph *g;
  pg_plan *plan;
  CHECK_STATUS(pg_graph_new(&g), PG_OK);
  pg_value x = pg_input(g, PG_F32, 4, (int64_t[]){32, 1, 12, 12}, NULL);
  pg_value w[3] = {pg_input(g, PG_F32, 4, (int64_t[]){4, 1, 3, 3}, NULL),
                   pg_input(g, PG_F32, 4, (int64_t[]){6, 4, 3, 3}, NULL),
                   pg_input(g, PG_F32, 2, (int64_t[]){6 * 9, 10}, NULL)};
  const pg_attrs conv = {.n = 7, .a = {1, 1, 0, 0, 1, 1, 1}}, pool = {.n = 6, .a = {2, 2, 2, 2, 0, 0}};
  pg_value y = pg_call1(g, "tanh", pg_call(g, "conv2d", 2, (pg_value[]){x, w[0]}, &conv));
  y = pg_call(g, "max_pool2d", 1, &y, &pool);
  y = pg_call1(g, "relu", pg_call(g, "conv2d", 2, (pg_value[]){y, w[1]}, &conv));
  y = pg_call(g, "reshape", 1, &y, &(pg_attrs){.n = 2, .a = {32, 54}});
  y = pg_call1(g, "sum", pg_call2(g, "matmul", y, w[2]));
  pg_value grads[3];
  CHECK_STATUS(pg_vjp(g, 1, &y, NULL, 3, w, grads), PG_OK);
  CHECK_STATUS(pg_compile(g, 3, grads, &(pg_compile_options){.executor = PG_EXEC_INTERPRET}, &plan), PG_OK);
  pg_plan_info info;
  pg_plan_describe(plan, &info);
  // conv ×2, pool, its route, conv_input, conv_weights ×2, and two products
  CHECK_THAT(info.library_calls == 9, "%d library calls", info.library_calls);
  // the images brought in, tanh, relu, a derivative of each, and matrices of ones for the two last products
  CHECK_THAT(info.kernels <= 7, "%d kernels", info.kernels);
  pg_plan_free(plan);
  pg_graph_free(g);
}

int main(void) {
  printf("# seed %llu\n", (unsigned long long)state);
  CHECK_RUN(bits_are_those_of_the_stated_order);
  CHECK_RUN(f64_is_as_exact_as_f64_can_be);
  CHECK_RUN(pooling_agrees_with_loops);
  CHECK_RUN(activations_stay_where_they_are);
  bench_close(&the_bench);
  return check_result();
}
