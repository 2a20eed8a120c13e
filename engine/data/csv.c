// csv.c: tables of numbers with one character between fields (or runs of blanks), an optional header, and RFC 4180
// quotes: a field in quotes may hold delimiters, line feeds and doubled quotes.
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/memory.h"
#include "engine/data/dataset.h"
#include "engine/io/text.h"
#include "engine/io/stream.h"

typedef struct reader {
  const char *path, *at, *end, *line;
  int64_t number; // of the line, from 1
  char delimiter;
  char *field; // the current field, unquoted
  size_t field_size, field_cap;
  const char *field_at; // where it began
  int64_t field_line;
  const char *field_line_at;
  double *values;
  size_t count, values_cap;
  int64_t columns; // 0: not known yet
  char *names;     // the header's fields, each with its zero
  size_t names_size, names_cap;
  int64_t names_count;
} reader;

static pg_status fail_at_field(const reader *r, int64_t field, const char *expected) {
  char quoted[PG_QUOTE_SIZE];
  return pg_fail(PG_ERR_FORMAT, "%s: line %lld, column %lld, field %lld: expected %s, found '%s'", r->path,
                 (long long)r->field_line, (long long)(r->field_at - r->field_line_at + 1), (long long)field, expected,
                 pg_quote(r->field, r->field_size, quoted));
}

static pg_status append_to_field(reader *r, const char *text, size_t n) {
  PG_TRY(pg_grow(&r->field, &r->field_cap, r->field_size + n + 1, 1));
  memcpy(r->field + r->field_size, text, n);
  r->field_size += n;
  r->field[r->field_size] = 0;
  return PG_OK;
}

static bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\r';
}

static void skip_blanks(reader *r) {
  while (r->at < r->end && is_blank(*r->at) && (r->delimiter == ' ' || *r->at != r->delimiter)) r->at++;
}

// The rest of a quoted field: up to a quote that is not doubled.
static pg_status read_quoted(reader *r) {
  r->at++;
  while (true) {
    const char *quote = memchr(r->at, '"', (size_t)(r->end - r->at));
    if (!quote)
      return pg_fail(PG_ERR_FORMAT, "%s: line %lld, column %lld: a quoted field does not end", r->path,
                     (long long)r->field_line, (long long)(r->field_at - r->field_line_at + 1));
    for (const char *p = r->at; p < quote; p++) {
      if (*p != '\n') continue;
      r->number++;
      r->line = p + 1;
    }
    PG_TRY(append_to_field(r, r->at, (size_t)(quote - r->at)));
    r->at = quote + 1;
    if (r->at == r->end || *r->at != '"') return PG_OK;
    PG_TRY(append_to_field(r, "\"", 1));
    r->at++;
  }
}

static bool ends_field(const reader *r, const char *p) {
  return p == r->end || *p == '\n' || *p == r->delimiter || (r->delimiter == ' ' && is_blank(*p));
}

static pg_status read_plain(reader *r) {
  const char *begin = r->at;
  while (!ends_field(r, r->at)) r->at++;
  const char *last = r->at;
  while (last > begin && is_blank(last[-1])) last--;
  return append_to_field(r, begin, (size_t)(last - begin));
}

// Read the next field of the line and the delimiter behind it. *more: another field follows.
static pg_status read_field(reader *r, int64_t field, bool *more) {
  skip_blanks(r);
  r->field_size = 0;
  r->field_at = r->at;
  r->field_line = r->number;
  r->field_line_at = r->line;
  bool quoted = r->at < r->end && *r->at == '"';
  PG_TRY(quoted ? read_quoted(r) : read_plain(r));
  skip_blanks(r);
  if (r->delimiter == ' ') {
    *more = r->at < r->end && *r->at != '\n';
    return PG_OK;
  }
  *more = r->at < r->end && *r->at == r->delimiter;
  if (*more) r->at++;
  if (*more || r->at == r->end || *r->at == '\n') return PG_OK;
  return fail_at_field(r, field, "a delimiter after the quoted field");
}

static bool parse_field(const reader *r, double *x) {
  const char *end = r->field + r->field_size;
  return pg_parse_double(r->field, end, x) == end;
}

// Go to the next line; false at the end.
static bool next_line(reader *r) {
  if (r->at < r->end) r->at++;
  r->line = r->at;
  r->number++;
  return r->at < r->end;
}

static bool is_empty_line(reader *r) {
  const char *p = r->at;
  while (p < r->end && is_blank(*p)) p++;
  if (p < r->end && *p != '\n') return false;
  r->at = p;
  return true;
}

// ---- the header ----

static pg_status keep_name(reader *r) {
  PG_TRY(pg_grow(&r->names, &r->names_cap, r->names_size + r->field_size + 1, 1));
  memcpy(r->names + r->names_size, r->field, r->field_size + 1);
  r->names_size += r->field_size + 1;
  r->names_count++;
  return PG_OK;
}

// Read the first line as names; in AUTO, go back if all its fields are numbers.
static pg_status read_header(reader *r, pg_csv_header mode) {
  if (mode == PG_CSV_NO_HEADER || r->at == r->end) return PG_OK;
  reader before = *r;
  bool more = true, numeric = true;
  double x;
  for (int64_t field = 1; more; field++) {
    PG_TRY(read_field(r, field, &more));
    numeric = numeric && parse_field(r, &x);
    PG_TRY(keep_name(r));
  }
  if (mode == PG_CSV_AUTO && numeric) {
    r->at = before.at;
    r->line = before.line;
    r->number = before.number;
    r->names_count = 0;
    r->names_size = 0;
    return PG_OK;
  }
  next_line(r);
  return PG_OK;
}

// ---- the table ----

static pg_status check_width(reader *r, int64_t fields, int64_t line) {
  if (!r->columns) {
    r->columns = fields;
    if (r->names_count && r->names_count != fields)
      return pg_fail(
          PG_ERR_FORMAT,
          "%s: line %lld: found %lld fields, expected %lld as in the header (skip = 1 ignores the first line)", r->path,
          (long long)line, (long long)fields, (long long)r->names_count);
  }
  if (fields == r->columns) return PG_OK;
  return pg_fail(PG_ERR_FORMAT, "%s: line %lld: found %lld fields, expected %lld as in the lines before", r->path,
                 (long long)line, (long long)fields, (long long)r->columns);
}

static pg_status read_row(reader *r) {
  bool more = true;
  int64_t fields = 0, line = r->number;
  while (more) {
    PG_TRY(read_field(r, ++fields, &more));
    PG_TRY(pg_grow(&r->values, &r->values_cap, r->count + 1, sizeof *r->values));
    if (!parse_field(r, &r->values[r->count++])) return fail_at_field(r, fields, "a finite number");
  }
  return check_width(r, fields, line);
}

static pg_status read_rows(reader *r) {
  while (r->at < r->end) {
    if (!is_empty_line(r)) PG_TRY(read_row(r));
    next_line(r);
  }
  if (r->columns) return PG_OK;
  return pg_fail(PG_ERR_FORMAT, "%s: line %lld: expected at least one row of numbers, found none", r->path,
                 (long long)r->number);
}

static void skip_lines(reader *r, int64_t n) {
  while (n-- > 0 && r->at < r->end) {
    const char *feed = memchr(r->at, '\n', (size_t)(r->end - r->at));
    r->at = feed ? feed : r->end;
    next_line(r);
  }
}

static pg_status make_table(const reader *r, pg_dtype dtype, pg_tensor **out) {
  int64_t shape[2] = {(int64_t)r->count / r->columns, r->columns};
  PG_TRY(pg_tensor_new(dtype, 2, shape, NULL, out));
  if (dtype == PG_F64) {
    memcpy(pg_tensor_data(*out), r->values, r->count * sizeof *r->values);
  } else {
    for (size_t i = 0; i < r->count; i++) ((float *)pg_tensor_data(*out))[i] = (float)r->values[i];
  }
  return PG_OK;
}

// One block: the pointers, then the text.
static pg_status make_names(const reader *r, char ***out) {
  *out = NULL;
  if (!r->names_count) return PG_OK;
  size_t pointers = (size_t)r->names_count * sizeof(char *);
  char **names = pg_alloc(pointers + r->names_size, 1);
  if (!names) return PG_ERR_MEMORY;
  char *text = (char *)names + pointers;
  memcpy(text, r->names, r->names_size);
  for (int64_t i = 0; i < r->names_count; i++, text += strlen(text) + 1) names[i] = text;
  *out = names;
  return PG_OK;
}

static pg_status read_table(reader *r, const pg_csv_options *o, pg_tensor **out, char ***names) {
  skip_lines(r, o->skip);
  PG_TRY(read_header(r, o->header));
  PG_TRY(read_rows(r));
  if (names) PG_TRY(make_names(r, names));
  pg_status status = make_table(r, o->dtype, out);
  if (status != PG_OK && names) {
    pg_free(*names);
    *names = NULL;
  }
  return status;
}

pg_status pg_csv_read(const char *path, const pg_csv_options *options, pg_tensor **out, char ***names) {
  *out = NULL;
  if (names) *names = NULL;
  char delimiter = options->delimiter ? options->delimiter : ',';
  if (!pg_dtype_is_float(options->dtype) || strchr("\"\n\r.+-0123456789eE", delimiter))
    return pg_fail(PG_ERR_ARGUMENT, "%s: a table has dtype f32 or f64 and a delimiter that is no part of a number",
                   path);
  uint8_t *text;
  size_t n;
  PG_TRY(pg_read_file(path, &text, &n));
  const char *begin = (const char *)text;
  reader r = {.path = path, .at = begin, .end = begin + n, .line = begin, .number = 1, .delimiter = delimiter};
  pg_status status = read_table(&r, options, out, names);
  pg_free(text);
  pg_free(r.field);
  pg_free(r.values);
  pg_free(r.names);
  return status;
}
