// test_matmul.c: matrix products against a long double oracle, the same bits for 1, 2 and 3 threads, and the same bits
// for a transposed view and its copy. Shapes stand around the edges of the tile grid.
#include "tests/c/check.h"

#include <stdlib.h>
#include <string.h>

static uint64_t state = 7;

static double next(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (double)(int64_t)state * 0x1p-63;
}

typedef struct product {
  pg_dtype dtype;
  int64_t m, n, k;
  bool ta, tb; // the operand is stored transposed and seen through a transpose
} product;

typedef struct bench {
  pg_graph *g;
  pg_plan *plan;
  pg_tensor *in[2], *out, *again;
} bench;

static void bench_close(bench *b) {
  pg_plan_free(b->plan);
  pg_graph_free(b->g);
  pg_tensor_release(b->in[0]);
  pg_tensor_release(b->in[1]);
  pg_tensor_release(b->out);
  pg_tensor_release(b->again);
  *b = (bench){0};
}

static bench the_bench;

static double get(const pg_tensor *t, int64_t i) {
  return pg_tensor_dtype(t) == PG_F32 ? (double)((float *)pg_tensor_data(t))[i] : ((double *)pg_tensor_data(t))[i];
}

static void set(pg_tensor *t, int64_t i, double x) {
  if (pg_tensor_dtype(t) == PG_F32)
    ((float *)pg_tensor_data(t))[i] = (float)x;
  else
    ((double *)pg_tensor_data(t))[i] = x;
}

static void build(bench *b, const product *p) {
  int64_t shapes[2][2] = {{p->ta ? p->k : p->m, p->ta ? p->m : p->k}, {p->tb ? p->n : p->k, p->tb ? p->k : p->n}};
  pg_value x[2];
  CHECK_STATUS(pg_graph_new(&b->g), PG_OK);
  for (int i = 0; i < 2; i++) {
    CHECK_STATUS(pg_tensor_new(p->dtype, 2, shapes[i], NULL, &b->in[i]), PG_OK);
    for (int64_t e = 0; e < pg_tensor_size(b->in[i]); e++) set(b->in[i], e, next());
    x[i] = pg_input(b->g, p->dtype, 2, shapes[i], NULL);
    if (i == 0 ? p->ta : p->tb) x[i] = pg_call1(b->g, "transpose", x[i]);
  }
  pg_value y = pg_call2(b->g, "matmul", x[0], x[1]);
  pg_compile_options options = {.executor = PG_EXEC_INTERPRET};
  CHECK_STATUS(pg_compile(b->g, 1, &y, &options, &b->plan), PG_OK);
  CHECK_STATUS(pg_tensor_new(p->dtype, 2, (int64_t[]){p->m, p->n}, NULL, &b->out), PG_OK);
  CHECK_STATUS(pg_tensor_new(p->dtype, 2, (int64_t[]){p->m, p->n}, NULL, &b->again), PG_OK);
}

// Every element where the product is small, else some.
static void compare_with_oracle(const bench *b, const product *p) {
  const double eps = p->dtype == PG_F32 ? 0x1p-23 : 0x1p-52;
  const int64_t size = p->m * p->n, step = size * p->k > 400000 ? 1 + size / (400000 / p->k) : 1;
  for (int64_t e = 0; e < size; e += step) {
    const int64_t i = e / p->n, j = e % p->n;
    long double sum = 0, scale = 0;
    for (int64_t k = 0; k < p->k; k++) {
      const long double term = (long double)get(b->in[0], p->ta ? k * p->m + i : i * p->k + k) *
                               (long double)get(b->in[1], p->tb ? j * p->k + k : k * p->n + j);
      sum += term;
      scale += fabsl(term);
    }
    CHECK_NEAR(get(b->out, e), (double)sum, (double)scale * eps * sqrt((double)p->k + 16));
  }
}

static void check_product(const product *p) {
  bench *b = &the_bench;
  build(b, p);
  for (int threads = 1; threads <= 3; threads++) {
    pg_tensor *out = threads == 1 ? b->out : b->again;
    pg_set_threads(threads);
    memset(pg_tensor_data(out), 0xff, pg_tensor_bytes(out));
    CHECK_STATUS(pg_run(b->plan, b->in, NULL, &out), PG_OK);
    if (threads > 1)
      CHECK_THAT(memcmp(pg_tensor_data(b->out), pg_tensor_data(out), pg_tensor_bytes(out)) == 0,
                 "%d threads: other bits (%dx%dx%d, ta %d, tb %d)", threads, (int)p->m, (int)p->n, (int)p->k, p->ta,
                 p->tb);
  }
  compare_with_oracle(b, p);
  bench_close(b);
}

static void check_all_variants(int64_t m, int64_t n, int64_t k) {
  for (int variant = 0; variant < 8; variant++)
    check_product(&(product){variant & 4 ? PG_F64 : PG_F32, m, n, k, variant & 1, variant & 2});
}

static void products_around_the_edges_of_tiles(void) {
  static const int64_t edges[] = {13, 14, 15, 31, 32, 33, 48, 49, 63, 65, 128, 139, 141, 255, 256, 257, 511, 513};
  for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
    check_all_variants(edges[i], 70, 33);
    check_all_variants(70, edges[i], 33);
    check_all_variants(40, 36, edges[i]);
    check_all_variants(edges[i], edges[(i * 5 + 3) % 18], 65);
  }
  check_all_variants(513, 515, 129);
}

static void products_of_tiny_matrices(void) {
  static const int64_t sizes[] = {1, 2, 3, 5, 8, 15, 16, 17, 31};
  for (size_t m = 0; m < 9; m += 2)
    for (size_t n = 0; n < 9; n++)
      for (size_t k = 0; k < 9; k++) check_all_variants(sizes[m], sizes[n], sizes[k]);
}

static void products_with_vectors(void) {
  static const int64_t sizes[] = {1, 63, 100, 127, 128, 129, 257, 1000};
  static const int64_t depths[] = {1, 15, 16, 17, 100, 784, 4095, 4096, 4097, 9000};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    for (size_t k = 0; k < sizeof depths / sizeof *depths; k++) {
      check_all_variants(sizes[i], 1, depths[k]);
      check_all_variants(1, sizes[i], depths[k]);
    }
}

static void products_over_nothing_are_zero(void) {
  check_all_variants(3, 4, 0);
  check_all_variants(0, 4, 3);
  check_all_variants(200, 1, 0);
}

// The rounding as engine/ops/gemm_kernel.h states it, element by element: what makes products the same on every
// machine.
static float chain_f32(const float *a, int64_t a_step, const float *b, int64_t b_step, int64_t k) {
  const int64_t blocks = (k + 255) / 256, length = (k + blocks - 1) / blocks;
  float total = 0;
  for (int64_t k0 = 0; k0 < k; k0 += length) {
    float sum = 0;
    for (int64_t i = k0; i < k0 + length && i < k; i++) sum = fmaf(a[i * a_step], b[i * b_step], sum);
    total = k0 ? total + sum : sum;
  }
  return total;
}

static void products_round_as_stated(void) {
  static const int64_t depths[] = {1, 40, 256, 257, 700};
  for (size_t d = 0; d < sizeof depths / sizeof *depths; d++)
    for (int variant = 0; variant < 4; variant++) {
      const product p = {PG_F32, 50 + (int64_t)d, 37, depths[d], variant & 1, variant & 2};
      build(&the_bench, &p);
      CHECK_STATUS(pg_run(the_bench.plan, the_bench.in, NULL, &the_bench.out), PG_OK);
      const float *a = pg_tensor_data(the_bench.in[0]), *b = pg_tensor_data(the_bench.in[1]);
      const float *c = pg_tensor_data(the_bench.out);
      for (int64_t i = 0; i < p.m; i++)
        for (int64_t j = 0; j < p.n; j++) {
          const float expected =
              chain_f32(p.ta ? a + i : a + i * p.k, p.ta ? p.m : 1, p.tb ? b + j * p.k : b + j, p.tb ? 1 : p.n, p.k);
          CHECK_THAT(c[i * p.n + j] == expected, "%dx%dx%d: %a, expected %a", (int)p.m, (int)p.n, (int)p.k,
                     c[i * p.n + j], expected);
        }
      bench_close(&the_bench);
    }
}

// ---- views against copies ------------------------------------------------------------------------------------------

// y = matmul(view(x), w) and y' = matmul(x', w) with x' a copy of the view made by an eager plan: same bits.
static void run_once(pg_graph *g, pg_value y, pg_tensor *const *in, pg_tensor **out) {
  pg_plan *plan;
  pg_compile_options options = {.executor = PG_EXEC_INTERPRET};
  CHECK_STATUS(pg_compile(g, 1, &y, &options, &plan), PG_OK);
  CHECK_STATUS(pg_tensor_new(pg_value_dtype(g, y), pg_value_ndim(g, y), pg_value_shape(g, y), NULL, out), PG_OK);
  CHECK_STATUS(pg_run(plan, in, NULL, out), PG_OK);
  pg_plan_free(plan);
}

static pg_value apply_view(pg_graph *g, int kind, pg_value x) {
  switch (kind) {
  case 0:
    return pg_call1(g, "transpose", x);
  case 1:
    return pg_call(g, "slice", 1, &x, &(pg_attrs){.n = 2, .a = {1, 0}, .b = {90, 45}, .c = {1, 2}});
  case 2:
    return pg_call(g, "slice", 1, &x, &(pg_attrs){.n = 2, .a = {3, 5}, .b = {88, 71}});
  case 3: {
    pg_value row = pg_call(g, "slice", 1, &x, &(pg_attrs){.n = 2, .b = {1, 96}});
    return pg_call(g, "broadcast_to", 1, &row, &(pg_attrs){.n = 2, .a = {70, 96}});
  }
  default: {
    pg_value column = pg_call(g, "slice", 1, &x, &(pg_attrs){.n = 2, .b = {96, 1}});
    return pg_call(g, "broadcast_to", 1, &column, &(pg_attrs){.n = 2, .a = {96, 70}});
  }
  }
}

static void check_view(int kind, int64_t columns, bool left) {
  pg_graph *g;
  pg_tensor *in[2], *copied, *direct, *second;
  CHECK_STATUS(pg_graph_new(&g), PG_OK);
  CHECK_STATUS(pg_tensor_new(PG_F32, 2, (int64_t[]){96, 96}, NULL, &in[0]), PG_OK);
  pg_value v = apply_view(g, kind, pg_input(g, PG_F32, 2, (int64_t[]){96, 96}, NULL));
  CHECK_THAT(v != PG_NONE, "%s", pg_last_error());
  const int64_t rows = pg_value_shape(g, v)[0], depth = pg_value_shape(g, v)[1];
  const int64_t other[2] = {left ? columns : depth, left ? rows : columns};
  CHECK_STATUS(pg_tensor_new(PG_F32, 2, other, NULL, &in[1]), PG_OK);
  pg_value w = pg_input(g, PG_F32, 2, other, NULL);
  for (int i = 0; i < 2; i++)
    for (int64_t e = 0; e < pg_tensor_size(in[i]); e++) set(in[i], e, next());
  run_once(g, left ? pg_call2(g, "matmul", w, v) : pg_call2(g, "matmul", v, w), in, &direct);
  run_once(g, v, in, &copied);
  pg_graph *h;
  CHECK_STATUS(pg_graph_new(&h), PG_OK);
  pg_value x = pg_input(h, PG_F32, 2, (int64_t[]){rows, depth}, NULL), z = pg_input(h, PG_F32, 2, other, NULL);
  run_once(h, left ? pg_call2(h, "matmul", z, x) : pg_call2(h, "matmul", x, z), (pg_tensor *[]){copied, in[1]},
           &second);
  CHECK_THAT(memcmp(pg_tensor_data(direct), pg_tensor_data(second), pg_tensor_bytes(second)) == 0,
             "view %d, %d columns, %s: other bits than its copy", kind, (int)columns,
             left ? "right operand" : "left operand");
  pg_graph_free(g), pg_graph_free(h);
  pg_tensor_release(in[0]), pg_tensor_release(in[1]);
  pg_tensor_release(copied), pg_tensor_release(direct), pg_tensor_release(second);
}

static void views_give_the_bits_of_their_copies(void) {
  for (int kind = 0; kind < 5; kind++)
    for (int64_t columns = 1; columns <= 130; columns += columns == 1 ? 1 : 64) {
      check_view(kind, columns, false);
      check_view(kind, columns, true);
    }
}

// ---- batches and messages ------------------------------------------------------------------------------------------

static void batches_broadcast(void) {
  pg_graph *g;
  CHECK_STATUS(pg_graph_new(&g), PG_OK);
  const int64_t sa[] = {2, 1, 3, 40}, sb[] = {5, 40, 70};
  pg_tensor *in[2], *out;
  CHECK_STATUS(pg_tensor_new(PG_F64, 4, sa, NULL, &in[0]), PG_OK);
  CHECK_STATUS(pg_tensor_new(PG_F64, 3, sb, NULL, &in[1]), PG_OK);
  for (int i = 0; i < 2; i++)
    for (int64_t e = 0; e < pg_tensor_size(in[i]); e++) set(in[i], e, next());
  pg_value a = pg_input(g, PG_F64, 4, sa, NULL), b = pg_input(g, PG_F64, 3, sb, NULL);
  run_once(g, pg_call2(g, "matmul", a, b), in, &out);
  CHECK(pg_tensor_ndim(out) == 4 && pg_tensor_shape(out)[0] == 2 && pg_tensor_shape(out)[1] == 5);
  for (int64_t e = 0; e < pg_tensor_size(out); e++) {
    const int64_t c = e % 70, r = e / 70 % 3, j = e / 210 % 5, i = e / 1050;
    double sum = 0;
    for (int64_t k = 0; k < 40; k++) sum += get(in[0], (i * 3 + r) * 40 + k) * get(in[1], (j * 40 + k) * 70 + c);
    CHECK_NEAR(get(out, e), sum, 1e-13);
  }
  pg_tensor_release(in[0]), pg_tensor_release(in[1]), pg_tensor_release(out);
  pg_graph_free(g);
}

static void shapes_that_do_not_fit_are_named(void) {
  pg_graph *g;
  CHECK_STATUS(pg_graph_new(&g), PG_OK);
  pg_value a = pg_input(g, PG_F32, 2, (int64_t[]){64, 10}, NULL), b = pg_input(g, PG_F32, 2, (int64_t[]){20, 5}, NULL);
  pg_value c = pg_input(g, PG_F64, 2, (int64_t[]){10, 5}, NULL),
           d = pg_input(g, PG_F32, 3, (int64_t[]){3, 10, 5}, NULL);
  pg_value e = pg_input(g, PG_F32, 3, (int64_t[]){4, 5, 10}, NULL);
  CHECK(pg_call2(g, "matmul", a, b) == PG_NONE);
  CHECK_THAT(strcmp(pg_last_error(), "matmul: [64, 10] and [20, 5] do not fit: 10 columns against 20 rows") == 0, "%s",
             pg_last_error());
  CHECK(pg_call2(g, "matmul", a, c) == PG_NONE);
  CHECK_THAT(strstr(pg_last_error(), ":to"), "%s", pg_last_error());
  CHECK(pg_call2(g, "matmul", d, e) == PG_NONE);
  CHECK_THAT(strstr(pg_last_error(), "batch axes"), "%s", pg_last_error());
  pg_graph_free(g);
}

static void the_blas_is_the_openmp_flavour(void) {
  CHECK_THAT(strstr(pg_blas_description(), "OpenMP flavour"), "%s", pg_blas_description());
}

int main(void) {
  CHECK_RUN(the_blas_is_the_openmp_flavour);
  CHECK_RUN(products_of_tiny_matrices);
  CHECK_RUN(products_with_vectors);
  CHECK_RUN(products_around_the_edges_of_tiles);
  CHECK_RUN(products_over_nothing_are_zero);
  CHECK_RUN(products_round_as_stated);
  CHECK_RUN(views_give_the_bits_of_their_copies);
  CHECK_RUN(batches_broadcast);
  CHECK_RUN(shapes_that_do_not_fit_are_named);
  bench_close(&the_bench);
  return check_result();
}
