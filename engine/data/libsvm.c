// libsvm.c: LIBSVM's text format. One pass collects labels and entries; then the matrix is laid out dense or sparse.
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/memory.h"
#include "engine/data/dataset.h"
#include "engine/io/text.h"
#include "engine/io/stream.h"

enum { DENSE_RATIO = 64, DENSE_FREE = 4 << 20 };
static const size_t DENSE_LIMIT = (size_t)1 << 30;

typedef struct entry {
  int64_t column; // from 0
  double value;
} entry;

typedef struct reader {
  const char *path;
  const char *at, *end, *line; // `line` begins the current one
  int64_t number;              // of the line, from 1
  int64_t dims, largest;       // columns asked for (0: any), largest index seen
  double *labels;
  int64_t *starts; // [rows]
  entry *entries;
  size_t rows, count, labels_cap, starts_cap, entries_cap;
} reader;

// "FILE: line L, column C: expected WHAT, found 'TEXT'"
static pg_status fail_here(const reader *r, const char *at, const char *expected) {
  size_t n = 0;
  char quoted[PG_QUOTE_SIZE];
  while (at + n < r->end && !strchr(" \t\r\n", at[n])) n++;
  return pg_fail(PG_ERR_FORMAT, "%s: line %lld, column %lld: expected %s, found '%s'", r->path, (long long)r->number,
                 (long long)(at - r->line + 1), expected, pg_quote(at, n, quoted));
}

static void skip_blanks(reader *r) {
  while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\r')) r->at++;
}

// At the end of the line's content: line feed, comment or end of file.
static bool at_line_end(const reader *r) {
  return r->at == r->end || *r->at == '\n' || *r->at == '#';
}

static bool at_token_end(const reader *r) {
  return at_line_end(r) || *r->at == ' ' || *r->at == '\t' || *r->at == '\r';
}

static pg_status read_label(reader *r) {
  PG_TRY(pg_grow(&r->labels, &r->labels_cap, r->rows + 1, sizeof *r->labels));
  PG_TRY(pg_grow(&r->starts, &r->starts_cap, r->rows + 1, sizeof *r->starts));
  const char *token = r->at, *next = pg_parse_double(r->at, r->end, &r->labels[r->rows]);
  if (next) r->at = next;
  if (!next || !at_token_end(r)) return fail_here(r, token, "a label (one number)");
  r->starts[r->rows++] = (int64_t)r->count;
  return PG_OK;
}

static pg_status read_index(reader *r, int64_t previous, int64_t *index) {
  static const char qid[] = "qid:";
  if ((size_t)(r->end - r->at) >= sizeof qid - 1 && !memcmp(r->at, qid, sizeof qid - 1))
    return fail_here(r, r->at, "index:value (ranking files with qid are not supported)");
  const char *next = pg_parse_index(r->at, r->end, INT32_MAX, index);
  if (!next || next == r->end || *next != ':') return fail_here(r, r->at, "index:value with an index below 2^31");
  if (*index < 1) return fail_here(r, r->at, "an index of at least 1 (indices count from 1)");
  if (*index <= previous) return fail_here(r, r->at, "an index larger than the one before it");
  if (r->dims && *index > r->dims) return fail_here(r, r->at, "an index within the dims given");
  r->at = next + 1;
  return PG_OK;
}

static pg_status read_entry(reader *r, int64_t *previous) {
  int64_t index;
  double value;
  PG_TRY(read_index(r, *previous, &index));
  const char *token = r->at, *next = pg_parse_double(r->at, r->end, &value);
  if (next) r->at = next;
  if (!next || !at_token_end(r)) return fail_here(r, token, "a finite number");
  PG_TRY(pg_grow(&r->entries, &r->entries_cap, r->count + 1, sizeof *r->entries));
  r->entries[r->count++] = (entry){index - 1, value};
  *previous = index;
  if (index > r->largest) r->largest = index;
  return PG_OK;
}

// One line, without its line feed. Blank lines and pure comments are no examples.
static pg_status read_line(reader *r) {
  int64_t previous = 0;
  skip_blanks(r);
  if (!at_line_end(r)) {
    PG_TRY(read_label(r));
    skip_blanks(r);
    while (!at_line_end(r)) {
      PG_TRY(read_entry(r, &previous));
      skip_blanks(r);
    }
  }
  const char *feed = memchr(r->at, '\n', (size_t)(r->end - r->at));
  r->at = feed ? feed + 1 : r->end;
  return PG_OK;
}

static pg_status read_lines(reader *r) {
  while (r->at < r->end) {
    r->line = r->at;
    r->number++;
    PG_TRY(read_line(r));
  }
  if (r->rows) return PG_OK;
  return pg_fail(PG_ERR_FORMAT, "%s: line %lld: expected at least one example, found none", r->path,
                 (long long)r->number);
}

// ---- laying out ----

static size_t row_end(const reader *r, size_t row) {
  return row + 1 < r->rows ? (size_t)r->starts[row + 1] : r->count;
}

static void store(pg_tensor *t, int64_t i, double x) {
  if (pg_tensor_dtype(t) == PG_F32) {
    ((float *)pg_tensor_data(t))[i] = (float)x;
  } else {
    ((double *)pg_tensor_data(t))[i] = x;
  }
}

static pg_status add_dense(const reader *r, const pg_libsvm_options *o, int64_t columns, pg_dataset *d) {
  pg_tensor *x;
  int64_t width = columns + o->bias;
  PG_TRY(pg_tensor_new(o->dtype, 2, (int64_t[]){(int64_t)r->rows, width}, NULL, &x));
  for (size_t row = 0; row < r->rows; row++) {
    for (size_t k = (size_t)r->starts[row]; k < row_end(r, row); k++)
      store(x, (int64_t)row * width + r->entries[k].column, r->entries[k].value);
    if (o->bias) store(x, (int64_t)row * width + columns, 1);
  }
  pg_status status = pg_dataset_add(d, "x", x);
  pg_tensor_release(x);
  return status;
}

static pg_status add_sparse(const reader *r, const pg_libsvm_options *o, int64_t columns, pg_dataset *d) {
  pg_sparse *x;
  PG_TRY(pg_sparse_new((int64_t)r->rows, columns + o->bias, (int64_t)(r->count + (o->bias ? r->rows : 0)), &x));
  int64_t at = 0;
  for (size_t row = 0; row < r->rows; row++) {
    x->start[row] = at;
    for (size_t k = (size_t)r->starts[row]; k < row_end(r, row); k++, at++) {
      x->column[at] = (int32_t)r->entries[k].column;
      x->value[at] = r->entries[k].value;
    }
    if (!o->bias) continue;
    x->column[at] = (int32_t)columns;
    x->value[at++] = 1;
  }
  pg_status status = pg_dataset_add_sparse(d, "x", x);
  pg_sparse_release(x);
  return status;
}

static bool choose_dense(const reader *r, const pg_libsvm_options *o, int64_t columns, size_t content) {
  double bytes = (double)r->rows * (double)(columns + o->bias) * (double)pg_dtype_size(o->dtype);
  double limit = (double)(o->dense_limit ? o->dense_limit : DENSE_LIMIT);
  return o->dense || (bytes <= limit && bytes <= (double)DENSE_FREE + (double)DENSE_RATIO * (double)content);
}

static pg_status add_labels(const reader *r, pg_dataset *d) {
  pg_tensor *y;
  PG_TRY(pg_tensor_new(PG_F64, 1, (int64_t[]){(int64_t)r->rows}, NULL, &y));
  memcpy(pg_tensor_data(y), r->labels, r->rows * sizeof *r->labels);
  pg_status status = pg_dataset_add(d, "y", y);
  pg_tensor_release(y);
  return status;
}

static pg_status lay_out(const reader *r, const pg_libsvm_options *o, size_t content, pg_dataset *d) {
  int64_t columns = r->dims ? r->dims : r->largest;
  bool dense = choose_dense(r, o, columns, content);
  PG_TRY(dense ? add_dense(r, o, columns, d) : add_sparse(r, o, columns, d));
  return add_labels(r, d);
}

static pg_status read_text(const char *path, const char *text, size_t n, const pg_libsvm_options *o, pg_dataset *d) {
  reader r = {.path = path, .at = text, .end = text + n, .line = text, .dims = o->dims};
  pg_status status = read_lines(&r);
  if (status == PG_OK) {
    status = lay_out(&r, o, n, d);
    if (status != PG_OK) pg_fail_context(status, "%s: ", path);
  }
  pg_free(r.labels);
  pg_free(r.starts);
  pg_free(r.entries);
  return status;
}

pg_status pg_libsvm_read(const char *path, const pg_libsvm_options *options, pg_dataset **out) {
  *out = NULL;
  if (!pg_dtype_is_float(options->dtype) || options->dims < 0 || options->dims >= INT32_MAX)
    return pg_fail(PG_ERR_ARGUMENT, "%s: x has dtype f32 or f64 and dims from 0 below 2^31", path);
  uint8_t *text;
  size_t n;
  PG_TRY(pg_read_file(path, &text, &n));
  pg_dataset *d;
  pg_status status = pg_dataset_new(&d);
  if (status == PG_OK) status = read_text(path, (const char *)text, n, options, d);
  pg_free(text);
  if (status == PG_OK) {
    *out = d;
  } else {
    pg_dataset_free(d);
  }
  return status;
}
