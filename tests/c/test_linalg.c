// test_linalg.c: Cholesky factors, triangular systems and eigenvectors against what defines them, in long double; the
// same bits for 1, 2 and 3 threads and from memory at any address. Sizes stand around the edges of the blocks (64).
#include "tests/c/check.h"

#include <stdlib.h>
#include <string.h>

static uint64_t state = 7;

static double next(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (double)(int64_t)state * 0x1p-63;
}

static double get(const pg_tensor *t, int64_t i) {
  return pg_tensor_dtype(t) == PG_F32 ? (double)((float *)pg_tensor_data(t))[i] : ((double *)pg_tensor_data(t))[i];
}

static void set(pg_tensor *t, int64_t i, double x) {
  if (pg_tensor_dtype(t) == PG_F32)
    ((float *)pg_tensor_data(t))[i] = (float)x;
  else
    ((double *)pg_tensor_data(t))[i] = x;
}

// y = name(first, second): operands [n, n] and [n, columns]; columns 0: there is no second one. Each operand is a part
// of a longer tensor, from its element `skip` on, so that it may begin at any address.
typedef struct bench {
  const char *name;
  pg_dtype dtype;
  int64_t n, columns;
  int flags;
  pg_tensor *in[2], *out;
} bench;

static bench the_bench;

static void bench_close(bench *b) {
  for (int i = 0; i < 2; i++) pg_tensor_release(b->in[i]);
  pg_tensor_release(b->out);
  *b = (bench){0};
}

enum { SPARE = 5 }; // elements by which an operand may be moved

static void fill(bench *b) {
  const int64_t n = b->n;
  CHECK_STATUS(pg_tensor_new(b->dtype, 1, (int64_t[]){n * n + SPARE}, NULL, &b->in[0]), PG_OK);
  CHECK_STATUS(pg_tensor_new(b->dtype, 1, (int64_t[]){n * b->columns + SPARE}, NULL, &b->in[1]), PG_OK);
  for (int64_t r = 0; r < n; r++)
    for (int64_t c = 0; c <= r; c++) {
      const double x = r == c ? 2 + 0.3 * (double)n : next();
      set(b->in[0], c * n + r, b->columns ? NAN : x); // a triangular matrix is read in its lower half only
      set(b->in[0], r * n + c, x);
    }
  for (int64_t i = 0; i < n * b->columns; i++) set(b->in[1], i, next());
}

// Move the operands' numbers to the elements from `to` on.
static void move(bench *b, int64_t from, int64_t to) {
  const int64_t count[2] = {b->n * b->n, b->n * b->columns};
  const size_t unit = pg_dtype_size(b->dtype);
  for (int i = 0; i < 2; i++) {
    char *data = pg_tensor_data(b->in[i]);
    memmove(data + (size_t)to * unit, data + (size_t)from * unit, (size_t)count[i] * unit);
  }
}

static pg_value part(const bench *b, pg_graph *g, int64_t skip, int64_t rows, int64_t columns) {
  const int64_t size = rows * columns + SPARE;
  pg_value x = pg_input(g, b->dtype, 1, &size, NULL);
  pg_attrs range = {.n = 1, .a = {skip}, .b = {rows * columns}, .c = {1}};
  pg_attrs shape = {.n = 2, .a = {rows, columns}};
  x = pg_call(g, "slice", 1, &x, &range);
  return pg_call(g, "reshape", 1, &x, &shape);
}

static void compute(bench *b, int64_t skip) {
  pg_graph *g;
  pg_plan *plan;
  pg_attrs attrs = {.flags = b->flags};
  CHECK_STATUS(pg_graph_new(&g), PG_OK);
  pg_value x[2] = {part(b, g, skip, b->n, b->n), b->columns ? part(b, g, skip, b->n, b->columns) : PG_NONE};
  pg_value y = pg_call(g, b->name, b->columns ? 2 : 1, x, &attrs);
  CHECK_THAT(y != PG_NONE, "%s", pg_last_error());
  pg_compile_options options = {.executor = PG_EXEC_INTERPRET};
  CHECK_STATUS(pg_compile(g, 1, &y, &options, &plan), PG_OK);
  pg_tensor_release(b->out);
  b->out = NULL;
  CHECK_STATUS(pg_tensor_new(b->dtype, 2, pg_value_shape(g, y), NULL, &b->out), PG_OK);
  CHECK_STATUS(pg_run(plan, b->in, NULL, &b->out), PG_OK);
  pg_plan_free(plan);
  pg_graph_free(g);
}

static double eps_of(const bench *b) {
  return b->dtype == PG_F32 ? 0x1p-23 : 0x1p-52;
}

// L L^T = A in the lower triangle, and L is lower triangular.
static void check_cholesky(const bench *b) {
  const int64_t n = b->n;
  for (int64_t r = 0; r < n; r++)
    for (int64_t c = 0; c < n; c++) {
      long double sum = 0;
      for (int64_t k = 0; k <= c && c <= r; k++) sum += (long double)get(b->out, r * n + k) * get(b->out, c * n + k);
      const double wanted = c <= r ? get(b->in[0], r * n + c) : 0,
                   found = c <= r ? (double)sum : get(b->out, r * n + c);
      CHECK_NEAR(found, wanted, 8 * (2 + 0.3 * (double)n) * eps_of(b) * (c <= r));
    }
}

// L X = B or L^T X = B, with L the lower triangle.
static void check_solve(const bench *b) {
  const int64_t n = b->n;
  for (int64_t r = 0; r < n; r++)
    for (int64_t c = 0; c < b->columns; c++) {
      long double sum = 0;
      for (int64_t k = b->flags ? r : 0; k < (b->flags ? n : r + 1); k++)
        sum += (long double)get(b->in[0], b->flags ? k * n + r : r * n + k) * get(b->out, k * b->columns + c);
      CHECK_NEAR((double)sum, get(b->in[1], r * b->columns + c), 16 * eps_of(b));
    }
}

// A v = w v for each row v below the row of values w, which ascend; each |v| = 1.
static void check_eigh(const bench *b) {
  const int64_t n = b->n;
  for (int64_t i = 0; i < n; i++) {
    const double value = get(b->out, i);
    long double norm = 0;
    if (i) CHECK(get(b->out, i - 1) <= value);
    for (int64_t r = 0; r < n; r++) {
      long double sum = 0;
      for (int64_t k = 0; k < n; k++) sum += (long double)get(b->in[0], r * n + k) * get(b->out, (i + 1) * n + k);
      norm += (long double)get(b->out, (i + 1) * n + r) * get(b->out, (i + 1) * n + r);
      CHECK_NEAR((double)sum, value * get(b->out, (i + 1) * n + r), 40 * (2 + 0.6 * (double)n) * eps_of(b));
    }
    CHECK_NEAR((double)norm, 1, 40 * eps_of(b));
  }
}

static void check_bits(bench *b) {
  pg_tensor *first = b->out;
  int64_t at = 0;
  b->out = NULL;
  for (int threads = 1; threads <= 3; threads++)
    for (int64_t skip = 0; skip <= SPARE; skip += threads == 1 ? 1 : SPARE) {
      pg_set_threads(threads);
      move(b, at, skip);
      at = skip;
      compute(b, skip);
      CHECK_THAT(!memcmp(pg_tensor_data(b->out), pg_tensor_data(first), pg_tensor_bytes(first)),
                 "%s of %d, %d columns: other bits with %d threads, %d elements further", b->name, (int)b->n,
                 (int)b->columns, threads, (int)skip);
    }
  pg_set_threads(0);
  pg_tensor_release(first);
}

static void over_sizes(const char *name, int64_t columns, int flags, void (*check)(const bench *)) {
  static const int64_t sizes[] = {1, 2, 7, 63, 64, 65, 128, 130, 200};
  for (int i = 0; i < (int)(sizeof sizes / sizeof *sizes); i++)
    for (int k = 0; k < 2; k++) {
      the_bench =
          (bench){.name = name, .dtype = k ? PG_F32 : PG_F64, .n = sizes[i], .columns = columns, .flags = flags};
      fill(&the_bench);
      compute(&the_bench, 0);
      check(&the_bench);
      check_bits(&the_bench);
      bench_close(&the_bench);
    }
}

static void factors(void) {
  over_sizes("cholesky", 0, 0, check_cholesky);
}

static void solutions(void) {
  static const int64_t columns[] = {1, 3, 64, 129};
  for (int i = 0; i < 4; i++)
    for (int flags = 0; flags < 2; flags++) over_sizes("triangular_solve", columns[i], flags, check_solve);
}

static void eigenvectors(void) {
  over_sizes("eigh", 0, 0, check_eigh);
}

// The rows before the pivot that is not positive are those of the factor; that pivot and what follows is NaN.
static void indefinite_matrices_give_nan(void) {
  for (int64_t bad = 0; bad < 130; bad += 43)
    for (int zero = 0; zero < 2; zero++) {
      bench *b = &the_bench;
      *b = (bench){.name = "cholesky", .dtype = PG_F64, .n = 130};
      fill(b);
      for (int64_t k = 0; zero && k < b->n; k++) set(b->in[0], bad * b->n + k, 0), set(b->in[0], k * b->n + bad, 0);
      set(b->in[0], bad * b->n + bad, zero ? 0 : -1);
      compute(b, 0);
      for (int64_t r = 0; r < b->n; r++) CHECK(isnan(get(b->out, r * b->n + r)) == (r >= bad));
      bench_close(b);
    }
}

static void eigenvectors_of_nan_are_nan(void) {
  bench *b = &the_bench;
  *b = (bench){.name = "eigh", .dtype = PG_F64, .n = 20};
  fill(b);
  set(b->in[0], 3, NAN);
  compute(b, 0);
  for (int64_t i = 0; i < pg_tensor_size(b->out); i++) CHECK(isnan(get(b->out, i)));
  bench_close(b);
}

static void operands_are_checked(void) {
  pg_graph *g;
  const int64_t square[2] = {3, 3}, flat[2] = {3, 4};
  CHECK_STATUS(pg_graph_new(&g), PG_OK);
  pg_value a = pg_input(g, PG_F64, 2, square, NULL), wide = pg_input(g, PG_F64, 2, flat, NULL);
  pg_value f32 = pg_input(g, PG_F32, 2, square, NULL), whole = pg_input(g, PG_I64, 2, square, NULL);
  pg_value four = pg_input(g, PG_F64, 1, &flat[1], NULL);
  static const char *const square_ones[] = {"cholesky", "eigh", "slogdet"};
  for (int i = 0; i < 3; i++) {
    CHECK(pg_call1(g, square_ones[i], wide) == PG_NONE);
    CHECK_THAT(strstr(pg_last_error(), "a square matrix was expected, got f64 [3, 4]"), "%s", pg_last_error());
    CHECK(pg_call1(g, square_ones[i], whole) == PG_NONE);
    CHECK_THAT(strstr(pg_last_error(), "f32 or f64, not i64 [3, 3]"), "%s", pg_last_error());
  }
  static const char *const tall_ones[] = {"qr", "svd"};
  for (int i = 0; i < 2; i++) {
    CHECK(pg_call1(g, tall_ones[i], wide) == PG_NONE);
    CHECK_THAT(strstr(pg_last_error(), "at least as many rows as columns were expected, got f64 [3, 4]"), "%s",
               pg_last_error());
    CHECK(pg_call1(g, tall_ones[i], four) == PG_NONE);
    CHECK_THAT(strstr(pg_last_error(), "a matrix was expected, got f64 [4]"), "%s", pg_last_error());
  }
  pg_value huge = pg_input(g, PG_F32, 2, (int64_t[]){20000, 20000}, NULL);
  CHECK(pg_call1(g, "qr", huge) == PG_NONE);
  CHECK_THAT(strstr(pg_last_error(), "qr: at most 16383 columns, got f32 [20000, 20000]"), "%s", pg_last_error());
  CHECK(pg_call2(g, "solve", huge, huge) == PG_NONE);
  CHECK_THAT(strstr(pg_last_error(), "solve: at most 16383 rows, got 20000"), "%s", pg_last_error());
  CHECK(pg_call2(g, "triangular_solve", a, f32) == PG_NONE);
  CHECK_THAT(strstr(pg_last_error(), "f64 [3, 3] and f32 [3, 3]"), "%s", pg_last_error());
  CHECK(pg_call2(g, "triangular_solve", a, four) == PG_NONE);
  CHECK_THAT(strstr(pg_last_error(), "[3] or [3, columns] was expected"), "%s", pg_last_error());
  pg_graph_free(g);
}

int main(void) {
  check_run("L L^T is the matrix", factors);
  check_run("triangular systems are solved", solutions);
  check_run("eigenvectors are eigenvectors", eigenvectors);
  check_run("a matrix that is not positive definite gives NaN", indefinite_matrices_give_nan);
  check_run("eigenvectors of NaN are NaN", eigenvectors_of_nan_are_nan);
  check_run("operands are checked", operands_are_checked);
  bench_close(&the_bench);
  return check_result();
}
