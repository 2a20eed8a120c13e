// batch.c: see batch.h. A row conversion is a row of a table, found by the two dtypes.
#include "engine/data/batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/memory.h"
#include "engine/core/parallel.h"

// A conversion is mostly loads and stores: it costs a fraction of what pg_parallel_for counts as an operation.
static const double WORK_PER_ELEMENT = 0.25;

typedef void (*row_fn)(const void *src, void *dst, int64_t n, double scale, double shift);

// The same loop for every pair of types; only a macro can name them.
#define SCALED_ROW(FROM, TO)                                                                                           \
  static void scale_##FROM##_##TO(const void *src, void *dst, int64_t n, double scale, double shift) {                 \
    const FROM *restrict s = src;                                                                                      \
    TO *restrict d = dst;                                                                                              \
    for (int64_t i = 0; i < n; i++) d[i] = (TO)((double)s[i] * scale + shift);                                         \
  }
#define WIDENED_ROW(FROM, TO)                                                                                          \
  static void widen_##FROM##_##TO(const void *src, void *dst, int64_t n, double scale, double shift) {                 \
    const FROM *restrict s = src;                                                                                      \
    TO *restrict d = dst;                                                                                              \
    (void)scale, (void)shift;                                                                                          \
    for (int64_t i = 0; i < n; i++) d[i] = (TO)s[i];                                                                   \
  }
SCALED_ROW(uint8_t, float)
SCALED_ROW(uint8_t, double)
SCALED_ROW(int32_t, float)
SCALED_ROW(int32_t, double)
SCALED_ROW(int64_t, float)
SCALED_ROW(int64_t, double)
SCALED_ROW(float, float)
SCALED_ROW(float, double)
SCALED_ROW(double, float)
SCALED_ROW(double, double)
WIDENED_ROW(uint8_t, int32_t)
WIDENED_ROW(uint8_t, int64_t)
WIDENED_ROW(int32_t, int64_t)
#undef SCALED_ROW
#undef WIDENED_ROW

// Bytes to f32 (images), three times faster than through f64: scale = hi + lo, and two fused operations round nearly as
// the f64 arithmetic does; used only where they give the same bits for all 256 values.
static void scale_bytes(const void *src, void *dst, int64_t n, double scale, double shift) {
  const uint8_t *restrict s = src;
  float *restrict d = dst;
  float hi = (float)scale, lo = (float)(scale - hi), rest = (float)shift;
  for (int64_t i = 0; i < n; i++) d[i] = fmaf((float)s[i], hi, fmaf((float)s[i], lo, rest));
}

static bool scales_bytes_exactly(double scale, double shift) {
#ifdef FP_FAST_FMAF
  uint8_t all[256];
  float fast[256], exact[256];
  for (int i = 0; i < 256; i++) all[i] = (uint8_t)i;
  scale_bytes(all, fast, 256, scale, shift);
  scale_uint8_t_float(all, exact, 256, scale, shift);
  return !memcmp(fast, exact, sizeof fast);
#else
  (void)scale, (void)shift;
  return false;
#endif
}

static const struct {
  pg_dtype from, to;
  bool scales;
  row_fn row;
} CONVERSIONS[] = {
    {PG_U8, PG_F32, true, scale_uint8_t_float},     {PG_U8, PG_F64, true, scale_uint8_t_double},
    {PG_BOOL, PG_F32, true, scale_uint8_t_float},   {PG_BOOL, PG_F64, true, scale_uint8_t_double},
    {PG_I32, PG_F32, true, scale_int32_t_float},    {PG_I32, PG_F64, true, scale_int32_t_double},
    {PG_I64, PG_F32, true, scale_int64_t_float},    {PG_I64, PG_F64, true, scale_int64_t_double},
    {PG_F32, PG_F32, true, scale_float_float},      {PG_F32, PG_F64, true, scale_float_double},
    {PG_F64, PG_F32, true, scale_double_float},     {PG_F64, PG_F64, true, scale_double_double},
    {PG_U8, PG_I32, false, widen_uint8_t_int32_t},  {PG_U8, PG_I64, false, widen_uint8_t_int64_t},
    {PG_I32, PG_I64, false, widen_int32_t_int64_t},
};

typedef struct gather {
  const char *src;
  char *dst;
  const int64_t *index;
  int64_t width;               // elements of a row
  size_t src_bytes, dst_bytes; // of a row
  row_fn row;                  // NULL: copy
  double scale, shift;
  const pg_sparse *sparse;
} gather;

static void gather_tiles(void *arg, int64_t t0, int64_t t1) {
  const gather *g = arg;
  for (int64_t k = t0; k < t1; k++) {
    const char *from = g->src + (size_t)g->index[k] * g->src_bytes;
    char *to = g->dst + (size_t)k * g->dst_bytes;
    if (g->row) {
      g->row(from, to, g->width, g->scale, g->shift);
    } else {
      memcpy(to, from, g->dst_bytes);
    }
  }
}

static void scatter_row_f32(const pg_sparse *s, int64_t row, float *dst, double scale, double shift) {
  for (int64_t i = 0; i < s->columns; i++) dst[i] = (float)shift;
  for (int64_t k = s->start[row]; k < s->start[row + 1]; k++) dst[s->column[k]] = (float)(s->value[k] * scale + shift);
}

static void scatter_row_f64(const pg_sparse *s, int64_t row, double *dst, double scale, double shift) {
  for (int64_t i = 0; i < s->columns; i++) dst[i] = shift;
  for (int64_t k = s->start[row]; k < s->start[row + 1]; k++) dst[s->column[k]] = s->value[k] * scale + shift;
}

static void scatter_tiles(void *arg, int64_t t0, int64_t t1) {
  const gather *g = arg;
  for (int64_t k = t0; k < t1; k++) {
    void *to = g->dst + (size_t)k * g->dst_bytes;
    if (g->dst_bytes == (size_t)g->width * sizeof(float)) {
      scatter_row_f32(g->sparse, g->index[k], to, g->scale, g->shift);
    } else {
      scatter_row_f64(g->sparse, g->index[k], to, g->scale, g->shift);
    }
  }
}

static pg_status check_indices(const char *what, const int64_t *index, int64_t n, int64_t rows) {
  for (int64_t k = 0; k < n; k++)
    if (index[k] < 0 || index[k] >= rows)
      return pg_fail(PG_ERR_ARGUMENT, "%s: index %lld at position %lld is outside 0 … %lld", what, (long long)index[k],
                     (long long)k, (long long)rows - 1);
  return PG_OK;
}

static int compare_indices(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

pg_status pg_check_distinct(const int64_t *index, int64_t n) {
  int64_t *sorted = pg_alloc((size_t)n, sizeof *sorted);
  if (!sorted) return PG_ERR_MEMORY;
  if (n) memcpy(sorted, index, (size_t)n * sizeof *sorted);
  qsort(sorted, (size_t)n, sizeof *sorted, compare_indices);
  pg_status status = PG_OK;
  for (int64_t k = 1; k < n && status == PG_OK; k++)
    if (sorted[k] == sorted[k - 1])
      status = pg_fail(PG_ERR_ARGUMENT, "index %lld occurs twice among those of different rows", (long long)sorted[k]);
  pg_free(sorted);
  return status;
}

static int64_t count_row(const pg_tensor *t) {
  int64_t n = 1;
  for (int i = 1; i < pg_tensor_ndim(t); i++) n *= pg_tensor_shape(t)[i];
  return n;
}

// dst must have room for n rows of `width` elements.
static pg_status check_destination(const pg_tensor *dst, int64_t n, int64_t width) {
  if (pg_tensor_ndim(dst) < 1 || n < 0 || pg_tensor_shape(dst)[0] < n)
    return pg_fail(PG_ERR_SHAPE, "gather: the destination has no room for %lld rows", (long long)n);
  if (count_row(dst) == width) return PG_OK;
  return pg_fail(PG_ERR_SHAPE, "gather: rows of %lld elements do not fit a destination with rows of %lld",
                 (long long)width, (long long)count_row(dst));
}

static void zero_rows(const gather *g, int64_t n, const pg_tensor *dst) {
  size_t used = (size_t)n * g->dst_bytes;
  memset(g->dst + used, 0, pg_tensor_bytes(dst) - used);
}

static pg_status find_conversion(pg_dtype from, pg_dtype to, double scale, double shift, row_fn *row) {
  bool plain = scale == 1 && shift == 0;
  *row = NULL;
  if (from == to && plain) return PG_OK;
  for (size_t i = 0; i < sizeof CONVERSIONS / sizeof *CONVERSIONS; i++)
    if (CONVERSIONS[i].from == from && CONVERSIONS[i].to == to && (plain || CONVERSIONS[i].scales))
      *row = CONVERSIONS[i].row;
  if (*row == scale_uint8_t_float && scales_bytes_exactly(scale, shift)) *row = scale_bytes;
  if (*row) return PG_OK;
  return pg_fail(PG_ERR_DTYPE, "gather: cannot go from %s to %s%s", pg_dtype_name(from), pg_dtype_name(to),
                 plain ? "" : " with a scale");
}

pg_status pg_gather_rows(const pg_tensor *src, const int64_t *index, int64_t n, double scale, double shift,
                         pg_tensor *dst) {
  if (pg_tensor_ndim(src) < 1) return pg_fail(PG_ERR_SHAPE, "gather: the source is a scalar: it has no rows");
  gather g = {.index = index, .width = count_row(src), .scale = scale, .shift = shift};
  PG_TRY(check_destination(dst, n, g.width));
  PG_TRY(find_conversion(pg_tensor_dtype(src), pg_tensor_dtype(dst), scale, shift, &g.row));
  PG_TRY(check_indices("gather", index, n, pg_tensor_shape(src)[0]));
  g.src = pg_tensor_data(src);
  g.dst = pg_tensor_data(dst);
  g.src_bytes = (size_t)g.width * pg_dtype_size(pg_tensor_dtype(src));
  if (g.src < g.dst + pg_tensor_bytes(dst) && g.dst < g.src + pg_tensor_bytes(src))
    return pg_fail(PG_ERR_ARGUMENT, "gather: source and destination share memory");
  g.dst_bytes = (size_t)g.width * pg_dtype_size(pg_tensor_dtype(dst));
  pg_parallel_for(n, WORK_PER_ELEMENT * (double)n * (double)g.width, gather_tiles, &g);
  zero_rows(&g, n, dst);
  return PG_OK;
}

pg_status pg_put_rows(const pg_tensor *src, const int64_t *index, int64_t n, pg_tensor *dst) {
  if (pg_tensor_ndim(src) < 1 || pg_tensor_ndim(dst) < 1) return pg_fail(PG_ERR_SHAPE, "put: a scalar has no rows");
  int64_t width = count_row(dst);
  if (n < 0 || n > pg_tensor_shape(src)[0] || count_row(src) != width)
    return pg_fail(PG_ERR_SHAPE, "put: %lld rows of %lld elements are wanted, the source has %lld of %lld",
                   (long long)n, (long long)width, (long long)pg_tensor_shape(src)[0], (long long)count_row(src));
  if (pg_tensor_dtype(src) != pg_tensor_dtype(dst))
    return pg_fail(PG_ERR_DTYPE, "put: rows of %s do not go into a table of %s", pg_dtype_name(pg_tensor_dtype(src)),
                   pg_dtype_name(pg_tensor_dtype(dst)));
  PG_TRY(check_indices("put", index, n, pg_tensor_shape(dst)[0]));
  PG_TRY(pg_check_distinct(index, n));
  size_t bytes = (size_t)width * pg_dtype_size(pg_tensor_dtype(dst));
  const char *from = pg_tensor_data(src);
  char *to = pg_tensor_data(dst);
  for (int64_t k = 0; k < n; k++) memmove(to + (size_t)index[k] * bytes, from + (size_t)k * bytes, bytes);
  return PG_OK;
}

pg_status pg_gather_sparse(const pg_sparse *src, const int64_t *index, int64_t n, double scale, double shift,
                           pg_tensor *dst) {
  gather g = {.index = index, .width = src->columns, .scale = scale, .shift = shift, .sparse = src};
  PG_TRY(check_destination(dst, n, g.width));
  if (!pg_dtype_is_float(pg_tensor_dtype(dst)))
    return pg_fail(PG_ERR_DTYPE, "gather: sparse rows go to f32 or f64, not %s", pg_dtype_name(pg_tensor_dtype(dst)));
  PG_TRY(check_indices("gather", index, n, src->rows));
  g.dst = pg_tensor_data(dst);
  g.dst_bytes = (size_t)g.width * pg_dtype_size(pg_tensor_dtype(dst));
  pg_parallel_for(n, WORK_PER_ELEMENT * (double)n * (double)g.width, scatter_tiles, &g);
  zero_rows(&g, n, dst);
  return PG_OK;
}

// ---- parts ----

static pg_status check_range(const char *what, int64_t from, int64_t to, int64_t n) {
  if (0 <= from && from <= to && to <= n) return PG_OK;
  return pg_fail(PG_ERR_ARGUMENT, "%s %lld … %lld are not within 0 … %lld", what, (long long)from, (long long)to - 1,
                 (long long)n - 1);
}

pg_status pg_take_columns(const pg_tensor *src, const int64_t *columns, int64_t n, pg_tensor **out) {
  *out = NULL;
  if (pg_tensor_ndim(src) != 2)
    return pg_fail(PG_ERR_SHAPE, "columns are taken from a matrix, not of %d axes", pg_tensor_ndim(src));
  const int64_t *shape = pg_tensor_shape(src);
  for (int64_t k = 0; k < n; k++) PG_TRY(check_range("columns", columns[k], columns[k] + 1, shape[1]));
  PG_TRY(pg_tensor_new(pg_tensor_dtype(src), 2, (int64_t[]){shape[0], n}, NULL, out));
  size_t item = pg_dtype_size(pg_tensor_dtype(src));
  const char *s = pg_tensor_data(src);
  char *d = pg_tensor_data(*out);
  for (int64_t i = 0; i < shape[0]; i++)
    for (int64_t k = 0; k < n; k++)
      memcpy(d + (size_t)(i * n + k) * item, s + (size_t)(i * shape[1] + columns[k]) * item, item);
  return PG_OK;
}

static bool same_rows(const pg_tensor *a, const pg_tensor *b) {
  int ndim = pg_tensor_ndim(a);
  return ndim >= 1 && ndim == pg_tensor_ndim(b) && pg_tensor_dtype(a) == pg_tensor_dtype(b) &&
         !memcmp(pg_tensor_shape(a) + 1, pg_tensor_shape(b) + 1, (size_t)(ndim - 1) * sizeof(int64_t));
}

pg_status pg_join_rows(int n, pg_tensor *const *parts, pg_tensor **out) {
  *out = NULL;
  int64_t shape[PG_MAX_NDIM], rows = 0;
  for (int i = 0; i < n; i++) {
    if (!same_rows(parts[0], parts[i])) return pg_fail(PG_ERR_SHAPE, "part %d has other rows than part 1", i + 1);
    rows += pg_tensor_shape(parts[i])[0];
  }
  memcpy(shape, pg_tensor_shape(parts[0]), (size_t)pg_tensor_ndim(parts[0]) * sizeof *shape);
  shape[0] = rows;
  PG_TRY(pg_tensor_new(pg_tensor_dtype(parts[0]), pg_tensor_ndim(parts[0]), shape, NULL, out));
  char *d = pg_tensor_data(*out);
  for (int i = 0; i < n; d += pg_tensor_bytes(parts[i++]))
    memcpy(d, pg_tensor_data(parts[i]), pg_tensor_bytes(parts[i]));
  return PG_OK;
}

pg_status pg_take_rows(pg_tensor *src, int64_t from, int64_t to, pg_tensor **out) {
  *out = NULL;
  if (pg_tensor_ndim(src) < 1) return pg_fail(PG_ERR_SHAPE, "a scalar has no rows");
  PG_TRY(check_range("rows", from, to, pg_tensor_shape(src)[0]));
  int64_t shape[PG_MAX_NDIM], offset = from * count_row(src);
  memcpy(shape, pg_tensor_shape(src), (size_t)pg_tensor_ndim(src) * sizeof *shape);
  shape[0] = to - from;
  size_t skipped = (size_t)offset * pg_dtype_size(pg_tensor_dtype(src));
  if (skipped % 64 == 0) return pg_tensor_view(src, offset, pg_tensor_ndim(src), shape, out);
  PG_TRY(pg_tensor_new(pg_tensor_dtype(src), pg_tensor_ndim(src), shape, NULL, out));
  memcpy(pg_tensor_data(*out), (const char *)pg_tensor_data(src) + skipped, pg_tensor_bytes(*out));
  return PG_OK;
}

pg_status pg_take_sparse_rows(const pg_sparse *src, int64_t from, int64_t to, pg_sparse **out) {
  *out = NULL;
  PG_TRY(check_range("rows", from, to, src->rows));
  int64_t first = src->start[from], entries = src->start[to] - first;
  PG_TRY(pg_sparse_new(to - from, src->columns, entries, out));
  for (int64_t i = from; i < to; i++) (*out)->start[i - from] = src->start[i] - first;
  memcpy((*out)->column, src->column + first, (size_t)entries * sizeof *src->column);
  memcpy((*out)->value, src->value + first, (size_t)entries * sizeof *src->value);
  return PG_OK;
}
